"""A picture's way through a model, as generators that ask for tiles and are sent the answers.

A job yields `Tiles` and receives float32 `[N, h, w, 3]` in [-1, 1]; what it returns is the whole
picture. So tiles of many pictures can share a batch (`run_jobs`), and no job knows the network.

Holes come in two kinds, after what the model was trained on:
- any mask (`fill_free`): the model sees a tile with its hole as it is;
- one fixed box (`fill_box`): the model has only ever seen that box missing, and its answer elsewhere
  was never trained. So tiles are laid with their box over the hole, the box is always blanked
  whole, as in training, and the rest of the tile is what is known or was filled before.
Where a hole is larger than a tile can take, it is filled from its border inward: in each pass the
tiles that know the most around them. Either is given the part of the picture around the hole alone
(`surroundings`), for a scratch is a small part of a photograph, and answers as if it had the whole.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import TypeVar

import numpy as np
from scipy import ndimage

from jax_bridges.tiling import Blend, coarsest_cell, positions, smooth_fill, window

Size = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Tiles:
    """A question to a model, N tiles of one picture.

    Attributes:
      image: float32 `[N, h, w, 3]` in [-1, 1], the best known picture.
      mask: bool `[N, h, w]`, where an answer is wanted; elsewhere the image is right. None: a task
        without holes, or none given.
      blank: bool `[N, h, w]`, what the model must not see; None as for mask.
      origin: int32 `[N, 2]`, (y, x) of the tiles in the picture; places share their noise by it.
    """

    image: np.ndarray
    mask: np.ndarray | None
    blank: np.ndarray | None
    origin: np.ndarray

    def __len__(self) -> int:
        return len(self.image)


Job = Generator[Tiles, np.ndarray, np.ndarray]


def cut(image: np.ndarray, corners: np.ndarray, tile: Size) -> np.ndarray:
    """The tiles `[N, h, w, ...]` of an image at (y, x) `[N, 2]`."""
    return np.stack([image[y : y + tile[0], x : x + tile[1]] for y, x in corners])


def lattice(size: Size, tile: Size, overlap: Size, align: int = 1) -> np.ndarray:
    """Corners (y, x) `[N, 2]` of the tiles that cover a picture."""
    axes = [positions(n, t, o, align) for n, t, o in zip(size, tile, overlap, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)


def surroundings(hole: np.ndarray, tile: Size) -> tuple[slice, slice]:
    """The rows and columns of a picture on which the answer in its hole depends.

    Wider than all tiles that touch the hole and what these know around it, and on the grid of
    `smooth_fill`: so that the part gives what the whole gives, bit for bit.

    Args:
      hole: bool `[H, W]`, not empty.
    """
    cell = coarsest_cell(~hole)
    rows, columns = (
        _around(np.flatnonzero(hole.any(axis)), 2 * max(side, 2 * cell), cell, length)
        for axis, side, length in zip((1, 0), tile, hole.shape, strict=True)
    )
    return rows, columns


def _around(found: np.ndarray, margin: int, cell: int, length: int) -> slice:
    """From the first to the last of some places on an axis, with a margin, in whole cells."""
    first, last = int(found[0]) - margin, int(found[-1]) + 1 + margin
    return slice(max(0, first) // cell * cell, min(length, -(-last // cell) * cell))


def restore_whole(
    image: np.ndarray, tile: Size, overlap: Size, align: int = 1, chunk: int = 128
) -> Job:
    """Every pixel anew: superresolution, JPEG, pairs and whatever else has no hole.

    Args:
      image: float32 `[H, W, 3]`; one that is smaller than a tile is mirrored at its ends.
      chunk: tiles asked for at once.
    """
    size = image.shape[:2]
    ends = [max(t, -(-n // align) * align) - n for n, t in zip(size, tile, strict=True)]
    image = np.pad(image, ((0, ends[0]), (0, ends[1]), (0, 0)), mode="symmetric")
    weight = _weights(tile, overlap)
    blend = Blend(image.shape[:2])
    corners = lattice(image.shape[:2], tile, overlap, align)
    for part in _chunks(corners, chunk):
        answers = yield Tiles(cut(image, part, tile), None, None, part.astype(np.int32))
        for (y, x), answer in zip(part, answers, strict=True):
            blend.add(y, x, answer, weight)
    return blend.over(image)[: size[0], : size[1]]


def fill_free(
    image: np.ndarray,
    hole: np.ndarray,
    tile: Size,
    overlap: Size,
    chunk: int = 128,
    corner: Size = (0, 0),
    whole: Size | None = None,
) -> Job:
    """A hole of any shape, by a model trained on such; known pixels are returned as they are.

    Args:
      image, hole: float32 `[H, W, 3]`, bool `[H, W]`: of the picture, or of its `surroundings`.
      corner, whole: where these lie in the picture, and its size; `[H, W]` by default.
    """
    size = image.shape[:2]
    ends = [max(t, n) - n for n, t in zip(size, tile, strict=True)]
    image = np.pad(smooth_fill(image, ~hole), (*((0, e) for e in ends), (0, 0)), mode="symmetric")
    missing = np.pad(hole, tuple((0, e) for e in ends), mode="symmetric")
    weight = _weights(tile, overlap)
    spread = [max(t, n) for n, t in zip(whole or size, tile, strict=True)]
    corners = lattice((spread[0], spread[1]), tile, overlap) - corner
    room = np.subtract(image.shape[:2], tile)
    corners = corners[((corners >= 0) & (corners <= room)).all(1)]
    corners = corners[cut(missing, corners, tile).any((1, 2))]
    while len(corners):
        share = cut(missing, corners, tile).mean((1, 2))
        # Half a tile is more than these models were trained to fill: the fuller ones wait.
        now = share <= max(0.5, share.min() + 0.1)
        blend = Blend(image.shape[:2])
        for part in _chunks(corners[now], chunk):
            mask = cut(missing, part, tile)
            origin = (part + corner).astype(np.int32)
            answers = yield Tiles(cut(image, part, tile), mask, mask, origin)
            for (y, x), answer, here in zip(part, answers, mask, strict=True):
                blend.add(y, x, answer, weight * here[..., None])
        image = blend.over(image)
        missing = missing & ~blend.covered()
        corners = corners[~now]
        corners = corners[cut(missing, corners, tile).any((1, 2))] if len(corners) else corners
    return image[: size[0], : size[1]]


def fill_box(
    image: np.ndarray,
    hole: np.ndarray,
    tile: Size,
    box: tuple[int, int, int, int],
    overlap: Size,
    chunk: int = 128,
    corner: Size = (0, 0),
) -> Job:
    """A hole of any shape, by a model that can fill one fixed box (see the module).

    Args:
      box: (y0, x0, y1, x1) in the tile, ends excluded.
      overlap: pixels that neighbouring boxes share at least.
      corner: where `image` lies in the picture.
    """
    size, inner = image.shape[:2], (box[2] - box[0], box[3] - box[1])
    grown = [max(n, i) - n for n, i in zip(size, inner, strict=True)]
    pad = tuple((b, t - e + g) for b, e, t, g in zip(box[:2], box[2:], tile, grown, strict=True))
    image = np.pad(smooth_fill(image, ~hole), (*pad, (0, 0)), mode="symmetric")
    wanted = np.pad(hole, pad)
    # A tile's corner is its box's corner in the picture before padding, and so here as well.
    corners = _box_corners(hole, inner, overlap)
    inside = np.zeros(tile, bool)
    inside[box[0] : box[2], box[1] : box[3]] = True
    weight = np.zeros((*tile, 1), np.float32)
    weight[inside] = _weights(inner, overlap).reshape(-1, 1)
    blend, missing, guess = Blend(image.shape[:2]), wanted.copy(), image
    while len(corners):
        unknown = (cut(missing, corners, tile) & ~inside).mean((1, 2))
        now = unknown <= unknown.min() + 0.05
        for part in _chunks(corners[now], chunk):
            mask = cut(wanted, part, tile) & inside
            blank = np.broadcast_to(inside, mask.shape)
            origin = (part - box[:2] + corner).astype(np.int32)
            answers = yield Tiles(cut(image, part, tile), mask, blank, origin)
            for (y, x), answer, here in zip(part, answers, mask, strict=True):
                blend.add(y, x, answer, weight * here[..., None])
        image = blend.over(guess)
        missing = wanted & ~blend.covered()
        corners = corners[~now]
    return image[pad[0][0] :, pad[1][0] :][: size[0], : size[1]]


def _box_corners(hole: np.ndarray, inner: Size, overlap: Size) -> np.ndarray:
    """Corners (y, x) `[N, 2]` of boxes that cover a hole: one centred on each part that fits in it.

    Boxes may stick out of the picture at its lower and right end only where it is smaller than one.
    """
    labels, _ = ndimage.label(hole, np.ones((3, 3)))
    most = [max(0, n - i) for n, i in zip(hole.shape, inner, strict=True)]
    corners = []
    for number, where in enumerate(ndimage.find_objects(labels), start=1):
        axes = []
        for span, i, o, last in zip(where, inner, overlap, most, strict=True):
            length = span.stop - span.start
            first = span.start if length > i else span.start - (i - length) // 2
            spread = positions(max(length, i), i, o)
            axes.append(np.unique(np.clip(first + spread, 0, last)))
        for y in axes[0]:
            for x in axes[1]:
                if (labels[y : y + inner[0], x : x + inner[1]] == number).any():
                    corners.append((y, x))
    return np.unique(np.array(corners, int), axis=0)


def widest_part(hole: np.ndarray) -> Size:
    """The largest height and the largest width of the connected parts of a hole, in pixels."""
    parts = ndimage.find_objects(ndimage.label(hole, np.ones((3, 3)))[0])
    return tuple(max(part[axis].stop - part[axis].start for part in parts) for axis in (0, 1))


_Name = TypeVar("_Name")


def run_jobs(
    jobs: Iterable[tuple[_Name, Job]],
    answer: Callable[[list[tuple[_Name, Tiles]]], list[np.ndarray]],
    batch: int,
) -> Iterator[tuple[_Name, np.ndarray]]:
    """Runs jobs side by side, as many as fill a few batches, and yields (name, picture) as each ends.

    Args:
      jobs: (name, job) in order; taken when there is room.
      answer: answers named questions, all at once.
      batch: tiles that the model takes at once.
    """
    waiting, jobs = [], iter(jobs)
    open_ends = True
    while open_ends or waiting:
        while open_ends and sum(len(tiles) for _, _, tiles in waiting) < 4 * batch:
            name, job = next(jobs, (None, None))
            if job is None:
                open_ends = False
                break
            waiting.append((name, job, next(job)))
        if not waiting:
            return
        answers = answer([(name, tiles) for name, _, tiles in waiting])
        still = []
        for (name, job, _), images in zip(waiting, answers, strict=True):
            try:
                still.append((name, job, job.send(images)))
            except StopIteration as done:
                yield name, done.value
        waiting = still


def _weights(tile: Size, overlap: Size) -> np.ndarray:
    rows, columns = (window(t, o) for t, o in zip(tile, overlap, strict=True))
    return (rows[:, None] * columns)[..., None]


def _chunks(corners: np.ndarray, chunk: int) -> Iterator[np.ndarray]:
    for start in range(0, len(corners), chunk):
        yield corners[start : start + chunk]
