"""Native crops: examples that are parts of photographs, in the photographs' own pixels.

`data.crop=center` shrinks every picture whole, which teaches what pictures of `data.size` look like.
A model that restores photographs works on pieces of them, and learns from pieces: `RandomCrops` in
training, the tiles of `GridCrops` where it is measured. Pairs are cut alike.

Whole pictures are kept decoded, as many as `data.cache_mb` holds, so that a crop is a copy of a few
rows. Where there are more, an epoch goes through them in groups of `GROUP` pictures: each is decoded
once an epoch if a group fits, however many crops are taken of it.
"""

from __future__ import annotations

import math
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

from jax_bridges.data.files import FileSource
from jax_bridges.data.source import permutation

GROUP = 64  # pictures whose crops are mixed with each other, where an epoch has more
SCALES = (
    5  # at which a picture is kept, from data.crop_scale to 1: each is shrunk once, not each crop
)
_GRID_SEED = 2  # of the order of the tiles
_PLACE = 3  # of the numbers that say where crops lie, beside the seed of the run
_WORDS = 4  # 64-bit numbers that one step of Philox gives

Example = dict[str, Any]  # views [H, W, 3] uint8, and a label


class PictureCache:
    """Decoded pictures by number, up to `megabytes` of them: those that were used last.

    Several threads may ask at once: a picture is read by one of them, while the others wait for it.
    """

    def __init__(self, read: Callable[[int], Example], megabytes: float):
        self._read, self._room = read, int(megabytes * 2**20)
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, Example] = OrderedDict()
        self._used = 0
        self._reading: dict[int, threading.Lock] = {}

    def __getitem__(self, number: int) -> Example:
        """The picture: views of shared memory. Raises what reading it raises."""
        with self._lock:
            if (kept := self._look_up(number)) is not None:
                return kept
            reading = self._reading.setdefault(number, threading.Lock())
        with reading:
            with self._lock:
                if (kept := self._look_up(number)) is not None:
                    return kept
            picture = self._read(number)
            with self._lock:
                self._reading.pop(number, None)
                self._keep(number, picture)
            return picture

    def _look_up(self, number: int) -> Example | None:
        kept = self._kept.get(number)
        if kept is not None:
            self._kept.move_to_end(number)
        return kept

    def _keep(self, number: int, picture: Example) -> None:
        size = _bytes(picture)
        if size > self._room or number in self._kept:
            return
        self._kept[number] = picture
        self._used += size
        while self._used > self._room:
            self._used -= _bytes(self._kept.popitem(last=False)[1])


def _bytes(picture: Example) -> int:
    return sum(np.asarray(view).nbytes for view in picture.values())


class _Crops:
    """What both kinds share: `pictures` gives whole ones, and `size` is (H, W) of what is cut out.

    Each picture is there at `scales` of its size, of which the first is 1.
    """

    def __init__(
        self,
        pictures: FileSource,
        size: tuple[int, int],
        cache_mb: float,
        scales: tuple[float, ...] = (1.0,),
    ):
        self.name, self.classes = pictures.name, pictures.classes
        self.pictures, self.size, self.scales = pictures, size, scales
        self._cache = PictureCache(self._read, cache_mb)

    def _read(self, number: int) -> Example:
        """Picture `number // len(scales)` at the scale `number % len(scales)`."""
        picture, scale = divmod(number, len(self.scales))
        if scale == 0:
            return self.pictures[picture]
        whole = self._cache[number - scale]
        return {key: self._shrink(view, self.scales[scale]) for key, view in whole.items()}

    def _shrink(self, view: np.ndarray, scale: float) -> np.ndarray:
        """A view `[H, W, 3]` at a scale, at least as large as a crop; a label as it is."""
        if view.ndim == 0:
            return view
        height, width = (
            max(least, round(n * scale)) for n, least in zip(view.shape, self.size, strict=False)
        )
        image = Image.fromarray(view).resize((width, height), Image.Resampling.BICUBIC)
        return np.asarray(image)

    def _cut(self, picture: Example, top: int, left: int) -> Example:
        """The views of the part of a picture that begins at (top, left)."""
        height, width = self.size
        return {
            key: view[top : top + height, left : left + width] if view.ndim else view
            for key, view in picture.items()
        }


class RandomCrops(_Crops):
    """`crops` random parts of each picture an epoch, every epoch others.

    Where a crop lies is a function of the seed and the number of the draw alone; see `Loader`.
    """

    def __init__(
        self,
        pictures: FileSource,
        size: tuple[int, int],
        cache_mb: float,
        crops: int,
        least_scale: float,
    ):
        """
        Args:
          pictures: gives whole ones, none smaller than `size`.
          size: (H, W) of a crop.
          cache_mb: memory for decoded pictures, in 2**20 bytes.
          crops: of each picture, an epoch.
          least_scale: a picture is shrunk to a share of its size between this and 1 before it is cut,
            one of `SCALES`; 1: crops are of its own pixels.
        """
        scales = tuple(least_scale ** (i / (SCALES - 1)) for i in range(SCALES))
        super().__init__(pictures, size, cache_mb, (1.0,) if least_scale == 1 else scales)
        self.crops = crops

    def __len__(self) -> int:
        return len(self.pictures) * self.crops

    def __getitem__(self, i: int) -> Example:
        """A crop of the picture of example i, always the same."""
        if not -len(self) <= i < len(self):
            raise IndexError(f"{self.name} has {len(self)} examples, there is no number {i}")
        return self.cut(i % len(self), self.places(np.array([i % len(self)]), 0)[0])

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """Examples of an epoch in their order, int64 `[n]`: groups of pictures, mixed in each."""
        count = len(self.pictures)
        mixed = permutation(len(self), seed, epoch)
        if count <= GROUP:
            return mixed
        rank = np.empty(count, np.int64)
        rank[permutation(count, seed, epoch + 2**63)] = np.arange(count)
        return mixed[np.argsort(rank[mixed // self.crops] // GROUP, kind="stable")]

    def places(self, draws: np.ndarray, seed: int) -> np.ndarray:
        """Where the crops of these draws lie, float64 `[B, 3]` uniform in [0, 1): down, across, scale."""
        first, last = int(draws.min()), int(draws.max())
        words = np.random.Philox(key=[seed, _PLACE], counter=[first, 0, 0, 0])
        numbers = words.random_raw(_WORDS * (last - first + 1)).reshape(-1, _WORDS)
        return (numbers[draws - first, :3] >> np.uint64(11)) / 2.0**53

    def cut(self, i: int, place: np.ndarray) -> Example:
        """The crop at a place of `places` of the picture of example i: views of the cache."""
        scales = len(self.scales)
        picture = self._cache[i // self.crops * scales + int(place[2] * scales)]
        height, width = picture["x0"].shape[:2]
        rows, columns = height - self.size[0] + 1, width - self.size[1] + 1
        return self._cut(picture, int(place[0] * rows), int(place[1] * columns))


class GridCrops(_Crops):
    """All whole tiles of every picture, in a fixed random order; what is left over lies around them.

    Attributes:
      blocks: int `[n]`, the number of the picture that each tile is of.
    """

    def __init__(self, pictures: FileSource, size: tuple[int, int], cache_mb: float):
        """As of `RandomCrops`."""
        super().__init__(pictures, size, cache_mb)
        tiles = []
        for number, (height, width) in enumerate(pictures.sizes()):
            rows, columns = height // size[0], width // size[1]
            top, left = (height - rows * size[0]) // 2, (width - columns * size[1]) // 2
            y, x = np.mgrid[:rows, :columns].reshape(2, -1)
            tiles.append(np.stack([np.full_like(y, number), top + y * size[0], left + x * size[1]]))
        every = np.concatenate(tiles, axis=1)
        self.blocks, self._tops, self._lefts = every[:, permutation(every.shape[1], _GRID_SEED)]

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, i: int) -> Example:
        picture = self._cache[int(self.blocks[i])]
        # Where another picture stands for one that turned bad, its own border is the limit.
        limits = (n - s for n, s in zip(picture["x0"].shape, self.size, strict=False))
        top, left = (min(int(p), m) for p, m in zip((self._tops[i], self._lefts[i]), limits))
        return self._cut(picture, top, left)


def crops_of(pictures: FileSource, c: SimpleNamespace) -> RandomCrops | GridCrops:
    """Native crops of whole pictures, as a resolved configuration with `crop` "random" or "grid" has them."""
    if c.crop != "random" or c.split != "train":
        return GridCrops(pictures, c.size, c.cache_mb)
    source = RandomCrops(pictures, c.size, c.cache_mb, c.crops, c.crop_scale)
    areas = [height * width for height, width in pictures.sizes()]
    views = sum(key != "label" for key in pictures.keys)
    each = 3 * views * sum(areas) / len(areas) * sum(scale**2 for scale in source.scales) / 2**20
    together = min(GROUP, len(areas))
    if each * together > c.cache_mb:
        warnings.warn(
            f"{source.name}: crops are taken of {together} pictures at a time, {each:.0f} MB each decoded, "
            f"and data.cache_mb={c.cache_mb} holds {int(c.cache_mb / each)}: the others are decoded for "
            f"every crop, which is slow. Set data.cache_mb={math.ceil(1.1 * each * together)}, or store "
            "smaller pictures.",
            stacklevel=4,
        )
    return source
