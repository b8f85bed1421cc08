"""`array_record`: images packed into few large files, read one by one at random.

    python -m jax_bridges.pack FOLDER OUT --shards=128
    data.name=array_record data.path=OUT            # a folder of a disk, or gs://BUCKET/OUT

Nothing is listed or checked at the start, so that it takes as long for a million images as for one. OUT
holds SPLIT-00000-of-00128.array_record, ..., and index.json, written last, with the number of records of
each shard. Shards of other programs are named by a pattern, as gs://BUCKET/train-*.array_record: each is
then opened once at the start. A record is an encoded image, or a line of JSON that says what follows:

    {"image": 10312, "xT": 9120, "label": 7, "name": "a/7.png"}\\n  and so many bytes of each view
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from jax_bridges.data.errors import BadImage
from jax_bridges.data.files import SkippingSource
from jax_bridges.data.images import read_images
from jax_bridges.data.source import split_order
from jax_bridges.io.bucket import place

INDEX, FORMAT = "index.json", 1
VIEWS, LABEL = ("image", "xT"), "label"  # what a record can hold, and its class
SUFFIX = ".array_record"


def encode(views: Mapping[str, bytes], name: str, label: int | None = None) -> bytes:
    """A record of some of VIEWS, each the contents of an image file, in their order."""
    head: dict[str, Any] = {view: len(data) for view, data in views.items()}
    if label is not None:
        head[LABEL] = int(label)
    return json.dumps({**head, "name": name}).encode() + b"\n" + b"".join(views.values())


def decode(record: bytes) -> tuple[dict[str, bytes], int | None, str]:
    """(views, label, name) of a record of `encode`; of any other record, itself as "image".

    Raises BadImage: a record that is cut short.
    """
    if not record.startswith(b'{"image": '):
        return {"image": record}, None, ""
    line, _, rest = record.partition(b"\n")
    try:
        head = json.loads(line)
        sizes = {view: head[view] for view in VIEWS if view in head}
        name, label = head["name"], head.get(LABEL)
    except (ValueError, KeyError) as error:
        raise BadImage(f"its record is damaged ({error})") from None
    if sum(sizes.values()) != len(rest):
        raise BadImage(f"its record has {len(rest)} bytes, and tells of {sum(sizes.values())}")
    views, start = {}, 0
    for view, size in sizes.items():
        views[view], start = rest[start : start + size], start + size
    return views, label, name


def shard_name(split: str, number: int, count: int) -> str:
    """The file's name of a shard, counted from 0."""
    return f"{split}-{number:05d}-of-{count:05d}{SUFFIX}"


@dataclasses.dataclass(frozen=True)
class Shard:
    """A whole file, of which the reader need not ask how many records it has; attributes as it wants them."""

    filename: str
    take: int
    skip: int = 0

    @property
    def examples_in_shard(self) -> int:
        """`take`, as array_record's reader asks for it."""
        return self.take


class RecordSource(SkippingSource):
    """Examples `order[i]` of the records of some shards; of all records in their order without `order`."""

    def __init__(
        self,
        c: SimpleNamespace,
        shards: Sequence[Shard | str],
        classes: int = 0,
        order: np.ndarray | None = None,
        length: int | None = None,
    ):
        """`length`: only the first so many examples."""
        self._records = _reader()(list(shards))
        self.order, self.classes = order, classes
        self._views = {"x0": c.image_key} | ({"xT": c.xT_key} if c.xT_key else {})
        self._settings = (c.size, c.max_upscale)
        keys = (*self._views, *(("label",) if classes else ()))
        length = len(self._records) if length is None else length
        super().__init__(f"{c.name}-{c.split} ({c.path})", length, keys, c.on_bad_file)

    def describe(self, i: int) -> str:
        return f"{self.name}[{self._at(i)}]"

    def _at(self, i: int) -> int:
        return i if self.order is None else int(self.order[i])

    def _read(self, i: int) -> list[Any]:
        try:
            record = self._records[self._at(i)]
        except Exception as error:  # of the reader in C++: RuntimeError, IndexError
            raise BadImage(f"cannot be read ({error})") from error
        views, label, name = decode(record)
        try:
            for view in self._views.values():
                if view not in views:
                    raise BadImage(f"has no '{view}'")
            if self.classes and not (label is not None and 0 <= label < self.classes):
                raise BadImage(f"its class is {label}, none of {self.classes}")
            images = read_images(tuple(views[v] for v in self._views.values()), *self._settings)
        except BadImage as bad:
            raise BadImage(f"{name}: {bad}" if name else str(bad)) from bad
        return images if label is None or not self.classes else [*images, np.int32(label)]


def open_records(c: SimpleNamespace) -> RecordSource:
    """Images of packed records: {"x0"}, of `c.xT_key` = xT also {"xT"}, of `c.label_key` = label {"label"}.

    The splits and their order are those in which `jax_bridges.pack` found the folder. Of a pattern all
    shards are one list, `c.test_fraction` of which is for test, in a fixed random order.

    Raises:
      ModuleNotFoundError: array_record is not installed.
      FileNotFoundError: no such folder, or shards of it are missing.
      ValueError: no index in it, views that its records have not, a split without images.
    """
    if not c.path:
        raise ValueError(f"data.path is empty: set it to what jax_bridges.pack wrote ({INDEX}).")
    if "*" in c.path or c.path.endswith(SUFFIX):
        return _open_pattern(c)
    folder = place(os.path.expanduser(c.path))
    index = read_index(folder)
    for setting, key in (("image_key", c.image_key), ("xT_key", c.xT_key)):
        if key and key not in index["views"]:
            raise ValueError(
                f"data.{setting} is '{key}', but the records of {folder} have {_names(index['views'])}."
            )
    if c.label_key and (c.label_key != LABEL or not index["classes"]):
        found = f"'{LABEL}'" if index["classes"] else "none; pack with --classes=subfolders"
        raise ValueError(
            f"data.label_key is '{c.label_key}', but the labels of {folder} are {found}."
        )
    counts = index["records"].get(c.split, [])
    length = sum(counts)
    if not length:
        raise ValueError(f"{folder} has no records for {c.split}: pack a folder that has.")
    names = [shard_name(c.split, number, len(counts)) for number in range(len(counts))]
    missing = sorted(set(names) - {each.name for each in folder.iterdir()})
    if missing:
        raise FileNotFoundError(f"{folder} lacks {_names(missing[:3])}: copy or pack it again.")
    shards = [Shard(str(folder / name), count) for name, count in zip(names, counts, strict=True)]
    classes = index["classes"] if c.label_key else 0
    return RecordSource(c, shards, classes, length=min(length, c.max_images or length))


def read_index(folder: Path) -> dict[str, Any]:
    """What `jax_bridges.pack` has written in a folder. Raises FileNotFoundError, ValueError."""
    path = folder / INDEX
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no {path}: data.path is a folder that python -m jax_bridges.pack has finished, or a "
            f"pattern of shards, as {folder}/train-*{SUFFIX}."
        )
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        written = index["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} cannot be read ({error}): pack the folder again.") from None
    if written > FORMAT:
        raise ValueError(
            f"{path} has the format {written}, this version reads up to {FORMAT}: update it."
        )
    return index


def _open_pattern(c: SimpleNamespace) -> RecordSource:
    where = Path(c.path)
    folder = place(c.path.rpartition("/")[0] or ".")
    shards = sorted(str(each) for each in folder.glob(where.name))
    if not shards:
        raise FileNotFoundError(f"data.path = {c.path} fits no file.")
    if c.label_key:
        raise ValueError(
            f"data.label_key is '{c.label_key}', but only a packed folder tells how many classes it "
            "has: name the folder instead of a pattern."
        )
    order = split_order(len(_reader()(shards)), c, own=False)
    if len(order) == 0:
        raise ValueError(f"{c.path} leaves no records for {c.split}: see data.test_fraction.")
    return RecordSource(c, shards, order=order, length=len(order))


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def _reader() -> Any:
    try:
        from array_record.python.array_record_data_source import ArrayRecordDataSource
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "data.name=array_record needs pip install array_record, of which there is one for Linux."
        ) from None
    return ArrayRecordDataSource
