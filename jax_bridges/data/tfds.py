"""`tfds:NAME`: any image dataset that TensorFlow Datasets has prepared, read without TensorFlow.

Sets in array_record (or parquet) format can be read at random, which is what `tfds.data_source`
does (by `builder.as_data_source`, as here). The images are decoded here, by the rules of
`images.py`, not by TFDS, whose result depends on whether OpenCV is installed. Preparing a set does
need TensorFlow, once, on any machine:

    pip install 'jax_bridges[tfds]'
    python -c 'import tensorflow_datasets as t
    t.builder("NAME", data_dir="DIR", file_format="array_record").download_and_prepare()'

(The command `tfds build` would do the same, but wants Apache Beam too.)
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from jax_bridges.data.errors import BadImage
from jax_bridges.data.files import SkippingSource
from jax_bridges.data.images import read_images
from jax_bridges.data.source import split_order

TEST_SPLITS = ("test", "validation")


# The builders of this package (builders.py), and what they are given.
OWN = {
    "edges2handbags": "the unpacked edges2handbags.tar.gz of pix2pix (train/ and val/)",
    "diode_normals": "the unpacked train, val, train_normals and val_normals archives of DIODE",
}


class TfdsSource(SkippingSource):
    """Examples `order[i]` of one split of a prepared set."""

    def __init__(
        self, c: SimpleNamespace, split: str, records, order: np.ndarray, classes: int = 0
    ):
        keys = {"x0": c.image_key} | ({"xT": c.xT_key} if c.xT_key else {})
        labels = ("label",) if c.label_key else ()
        super().__init__(f"{c.name}-{c.split}", len(order), (*keys, *labels), c.on_bad_file)
        self.order, self.classes = order, classes
        self._split, self._records = split, records
        self._features, self._label_key = tuple(keys.values()), c.label_key
        self._settings = (c.size, c.max_upscale)

    def describe(self, i: int) -> str:
        return f"{self._split}[{self.order[i]}]"

    def _read(self, i: int) -> list[Any]:
        try:
            record = self._records[int(self.order[i])]
        except Exception as error:  # whatever the reader of the records raises
            raise BadImage(f"cannot be read ({error})") from error
        label = record[self._label_key] if self.classes else None
        if label is not None and not 0 <= label < self.classes:
            raise BadImage(
                f"its class is {label}, none of the {self.classes} of '{self._label_key}'"
            )
        images = read_images(tuple(record[name] for name in self._features), *self._settings)
        return images if label is None else [*images, np.int32(label)]


def open_tfds(c: SimpleNamespace) -> TfdsSource:
    """Images of the feature `c.image_key`: {"x0"}, and of `c.xT_key`, if given: {"xT"}.

    The feature `c.label_key`, if given, is the {"label"}. The splits are those of the set: train,
    and test or else validation; a set without these gives `c.test_fraction` of its train split, in
    a fixed random order. A test split whose labels are withheld (-1, as in ImageNet) is passed over
    where labels are wanted.

    Raises:
      ModuleNotFoundError: tensorflow-datasets is not installed.
      FileNotFoundError: the set is unknown or not prepared; the text says how to prepare it.
      ValueError: prepared in a format that has no random access, no train split, no such image
        feature, no such class feature.
    """
    try:
        import tensorflow_datasets
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"'{c.name}' needs {error.name}: pip install tensorflow-datasets importlib_resources"
        ) from error
    name = c.name.partition(":")[2]
    if not name:
        raise ValueError("Name the set of TFDS, as in data.name='tfds:cifar10'.")
    where = c.path or "the default folder of TFDS"
    folder = f"data_dir={c.path!r}, " if c.path else ""
    how = _own_builder(name, c) or (
        "once, with TensorFlow (pip install 'jax_bridges[tfds]'): python -c \"import "
        f"tensorflow_datasets as t; t.builder({name!r}, {folder}file_format='array_record')"
        '.download_and_prepare()"'
    )
    try:
        builder = tensorflow_datasets.builder(name, data_dir=c.path or None)
        prepared = builder.is_prepared()
    except tensorflow_datasets.core.DatasetNotFoundError:
        prepared = False
    if not prepared:
        raise FileNotFoundError(f"'{name}' is not prepared in {where}; prepare it {how}")

    features, splits = builder.info.features, builder.info.splits
    wanted = [key for key in (c.image_key, c.xT_key) if key]
    images = [k for k, f in features.items() if isinstance(f, tensorflow_datasets.features.Image)]
    for key in wanted:
        if key not in images:
            raise ValueError(
                f"'{name}' has no image feature '{key}': set data.image_key and data.xT_key to "
                f"some of: {', '.join(sorted(images)) or 'none here'}."
            )
    if c.label_key:
        kind = tensorflow_datasets.features.ClassLabel
        labels = sorted(key for key, feature in features.items() if isinstance(feature, kind))
        if c.label_key not in labels:
            raise ValueError(
                f"'{name}' has no class feature '{c.label_key}': set data.label_key to one of: "
                f"{', '.join(labels) or 'none here'}."
            )

    def read(split: str):
        if split not in splits:
            raise ValueError(f"'{name}' has no split '{split}', only {', '.join(splits)}.")
        try:
            return builder.as_data_source(
                split=split,
                decoders={key: tensorflow_datasets.decode.SkipDecoding() for key in images},
            )
        except NotImplementedError as error:
            raise ValueError(
                f"'{name}' in {where} is in a format without random access; prepare it again, in "
                f"another data_dir, {how}"
            ) from error

    def withheld(split: str) -> bool:
        return bool(c.label_key) and read(split)[0][c.label_key] < 0

    test = next((s for s in TEST_SPLITS if s in splits and not withheld(s)), None)
    split = test if c.split == "test" and test else "train"
    records = read(split)
    order = split_order(len(records), c, own=test is not None)
    if len(order) == 0:
        raise ValueError(f"'{name}' has no {c.split} examples; see data.test_fraction.")
    classes = features[c.label_key].num_classes if c.label_key else 0
    return TfdsSource(c, split, records, order, classes)


def _own_builder(name: str, c: SimpleNamespace) -> str:
    """How to prepare a set of builders.py, which reads files fetched by hand; "" for other sets."""
    own, _, size = name.partition("/")
    if own not in OWN:
        return ""
    size = size or ("64px" if max(c.size) <= 64 else "256px")
    return (
        "once, with TensorFlow (pip install 'jax_bridges[tfds]'): python -m jax_bridges.data.builders "
        f"{own}/{size} MANUAL_DIR {c.path or 'DATA_DIR'}, and read it as tfds:{own}/{size}; MANUAL_DIR "
        f"holds {OWN[own]}, which data.name={own} data.path=MANUAL_DIR reads as they are, unprepared"
    )
