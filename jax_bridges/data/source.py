"""What a data source is, the configuration keys it reads, and a shuffle without state.

A source is a random-access, deterministic, thread-safe list of uint8 examples. It knows nothing of
batches, corruptions or devices: `loader.py` makes batches, the jitted step makes the corruption.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np

from jax_bridges.choices import look_up
from jax_bridges.schema import (
    COUNT,
    FLAG,
    TEXT,
    Choice,
    Each,
    Either,
    Setting,
    check,
    number,
    whole,
)

SPLITS = {"train": None, "validation": None, "test": None}
HELD_OUT = ("test", "validation")  # what a run can be evaluated on

# Name -> `open(c) -> Source` of a resolved configuration; filled in by `jax_bridges.data`.
DATASETS: dict[str, Callable[[SimpleNamespace], Source]] = {}

# fmt: off
# What a source reads, the keys of `config.data`.
SETTINGS = (
    Setting("name", "earth", Choice(DATASETS, named=True), "Where images come from; of TFDS tfds:NAME."),
    Setting("size", 32, Either((COUNT, Each(COUNT, count=2))), "Pixels: one number, or (height, width)."),
    Setting("downscale", 1, COUNT, "earth: the map is averaged over so many pixels each way first; 2 shows "
            "twice the area a tile."),
    Setting("path", "", TEXT, "folder: of images; pairs: of clean images x_0; arrays: .npz file; "
            "array_record: folder of jax_bridges.pack, or a pattern of shards; tfds: its data_dir."),
    Setting("path_xT", "", TEXT, "pairs: folder of corrupted images x_T, matched by name."),
    Setting("image_key", "image", TEXT, "tfds, arrays, array_record: feature that holds x_0."),
    Setting("xT_key", "", TEXT, "tfds, arrays, array_record: feature that holds x_T, for paired sets."),
    Setting("edge_sigma", 1.0, number(least=0), "edges: pixels of smoothing before the detector; 1 suits "
            "images of 64 pixels, 2 of 256."),
    Setting("label_key", "", TEXT, "tfds, arrays, array_record: feature that holds the class, for "
            "network.num_classes."),
    Setting("classes", "", TEXT, "folder, pairs, edges: \"subfolders\" (the sub-folder is the class, "
            "numbered in sorted order), or a text file that lists the sub-folders in the order of their "
            "numbers; \"\": no labels."),
    Setting("unpaired", False, FLAG, "Training x_0 and x_T are of different examples (train.mode dsbm)."),
    Setting("test_fraction", 0.1, number(above=0, below=1),
            "Share of examples held out where there are no train/ and test/ folders."),
    Setting("on_bad_file", "refuse", Choice(("refuse", "skip")), "A file that is no image: stop and name it, "
            "or leave it out and name it."),
    Setting("crop", "center", Choice(("center", "random", "grid")), "center: the shorter side is resized to "
            "size, and the centre cut out. Of folder and pairs also native crops, of the pictures' own "
            "pixels: random (of test pictures the grid's), or grid, all tiles."),
    Setting("crops", 64, COUNT, "crop=random: crops of each picture in an epoch."),
    Setting("crop_scale", 1.0, number(above=0, most=1), "crop=random: a picture is shrunk to a random share "
            "of its size between this and 1 before it is cut."),
    Setting("max_upscale", 4.0, number(least=1), "An image that would have to grow by more is a bad file."),
    Setting("max_images", 0, whole(least=0), "Use only the first so many of a split; 0: all. Where crops are "
            "cut out of pictures, so many pictures."),
    Setting("cache_mb", 512, whole(least=0), "Megabytes of decoded images that are kept in memory; of native "
            "crops the whole pictures, of each split."),
)
# fmt: on


class Source(Protocol):
    """A list of examples: `source[i]` is always the same, from any thread and in any order.

    `source[i]` is {"x0": uint8 [H, W, 3]} and, for a paired source, {"x0": ..., "xT": ...} with
    "xT" uint8 [H, W, 3] too. A source with labels adds "label", an int32 from 0 to `classes` - 1,
    the attribute that says of how many classes they are. One whose examples are alike where they are
    neighbours has `blocks`, int [n]: the number of the block of neighbours each lies in. The arrays may be
    views of shared memory: copy before writing. The order is shuffled once and for all, so the first n
    examples stand for the whole.

    In training `crops.RandomCrops` is more: the loader draws an example of it anew each time.
    """

    name: str

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> dict[str, np.ndarray]: ...


def blocks_of(source: Source, count: int) -> np.ndarray:
    """Numbers of the blocks of neighbours that the first `count` examples lie in, int `[count]`.

    Examples of a source that knows no neighbours are each a block of their own.
    """
    blocks = getattr(source, "blocks", None)
    return np.arange(count) if blocks is None else np.asarray(blocks[:count])


def resolve(config: Any, split: str) -> SimpleNamespace:
    """The configuration of one source: the defaults of SETTINGS filled in, values checked.

    Args:
      config: has attributes named as the keys of SETTINGS (ConfigDict, namespace); any may be absent.
      split: a name of SPLITS.

    Returns:
      A namespace with every key of SETTINGS (`size` as (H, W)) and `split`.

    Raises:
      ValueError: a value outside its range or its known names.
    """
    c = SimpleNamespace(**{r.key: getattr(config, r.key, r.default) for r in SETTINGS}, split=split)
    look_up("split", SPLITS, split)
    check(SETTINGS, "data", c)
    height, width = (c.size, c.size) if np.ndim(c.size) == 0 else c.size
    c.size = (int(height), int(width))
    return c


def split_order(n: int, c: SimpleNamespace, own: bool) -> np.ndarray:
    """Numbers of the examples of the split `c.split` among n, in a fixed random order.

    Args:
      n: how many there are.
      c: from `resolve`; reads `split`, `test_fraction` and `max_images`.
      own: all n are of this split; else `test_fraction` of them is for test and the rest for training.
    """
    order = permutation(n, 0)
    if not own:
        count = max(1, round(n * c.test_fraction))
        order = order[:count] if c.split == "test" else order[count:]
    return order[: c.max_images or None]


def permutation(n: int, *key: int) -> np.ndarray:
    """A shuffle of 0 .. n - 1 that is a function of (n, key) alone: int64 `[n]`.

    The raw words of Philox (a counter-based generator) are sorted, because numpy promises these,
    unlike `Generator.permutation`, to stay the same in every version.

    Args:
      n: how many.
      *key: one or two non-negative ints below 2**64, such as (seed, epoch).
    """
    words = np.array([*key, 0][:2], np.uint64)
    return np.argsort(np.random.Philox(key=words).random_raw(n), kind="stable")
