"""What a data source is, the configuration keys it reads, and a shuffle without state.

A source is a random-access, deterministic, thread-safe list of uint8 examples. It knows nothing of
batches, corruptions or devices: `loader.py` makes batches, the jitted step makes the corruption.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np

from jax_bridges.choices import look_up

SPLITS = {"train": None, "test": None}
ON_BAD_FILE = {"refuse": None, "skip": None}
CROPS = {"center": None}

# Every key of `config.data` that a source reads, with its default.
DEFAULTS = {
    "name": "earth",  # a key of DATASETS; sets of TFDS are named "tfds:NAME"
    "size": 32,  # side of a square image, or (height, width); pixels
    "path": "",  # folder: the images; pairs: the clean x0; tfds: its data_dir (or ""); arrays: .npz
    "path_xT": "",  # pairs: the folder of the corrupted sources xT
    "unpaired": False,  # training x0 and xT come from different examples
    "test_fraction": 0.1,  # share of examples kept for test where the data has no test split
    "on_bad_file": "refuse",  # "refuse": an error that names the file; "skip": a warning instead
    "crop": "center",  # the largest centred part of the right shape, resized with antialiasing
    "max_images": 0,  # use at most so many examples of the split; 0 = all
    "max_upscale": 4.0,  # an image that would have to grow by more than this is a bad file
    "downscale": 1,  # earth: average the map over d x d pixels first (a pixel is then d/15 degrees)
    "edge_sigma": 1.0,  # edges: pixels of smoothing first; 1 suits 64 pixels, 2 suits 256
    "image_key": "image",  # tfds, arrays: the feature that holds x0
    "xT_key": "",  # tfds, arrays: the feature that holds xT; "" = not paired
    "label_key": "",  # tfds, arrays: the feature that holds the class; "" = no labels
    "classes": "",  # folder, pairs, edges: "subfolders", or a file that lists them; "" = no labels
}


class Source(Protocol):
    """A list of examples: `source[i]` is always the same, from any thread and in any order.

    `source[i]` is {"x0": uint8 [H, W, 3]} and, for a paired source, {"x0": ..., "xT": ...} with
    "xT" uint8 [H, W, 3] too. A source with labels adds "label", an int32 from 0 to `classes` - 1,
    the attribute that says of how many classes they are. The arrays may be views of shared memory:
    copy before writing. The order is shuffled once and for all, so the first n examples stand for
    the whole.
    """

    name: str

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> dict[str, np.ndarray]: ...


def resolve(config: Any, split: str) -> SimpleNamespace:
    """The configuration of one source: `DEFAULTS` filled in, values checked.

    Args:
      config: has attributes named as in `DEFAULTS` (ConfigDict, namespace); any may be absent.
      split: "train" or "test".

    Returns:
      A namespace with every key of `DEFAULTS` (`size` as (H, W)) and `split`.

    Raises:
      ValueError: a value outside its range or its known names.
    """
    c = SimpleNamespace(**{key: getattr(config, key, value) for key, value in DEFAULTS.items()})
    c.split = split
    look_up("split", SPLITS, split)
    look_up("data.on_bad_file", ON_BAD_FILE, c.on_bad_file)
    look_up("data.crop", CROPS, c.crop)
    size = (c.size, c.size) if np.ndim(c.size) == 0 else tuple(c.size)
    if len(size) != 2 or not all(isinstance(s, (int, np.integer)) and s > 0 for s in size):
        raise ValueError(f"data.size = {c.size} must be a positive int or (height, width).")
    c.size = (int(size[0]), int(size[1]))
    if not 0 < c.test_fraction < 1:
        raise ValueError(f"data.test_fraction = {c.test_fraction} must lie between 0 and 1.")
    least_values = {"max_images": 0, "max_upscale": 1, "downscale": 1, "edge_sigma": 0}
    for key, least in least_values.items():
        if getattr(c, key) < least:
            raise ValueError(f"data.{key} = {getattr(c, key)} must be at least {least}.")
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
    key = np.array([*key, 0][:2], np.uint64)
    return np.argsort(np.random.Philox(key=key).random_raw(n), kind="stable")
