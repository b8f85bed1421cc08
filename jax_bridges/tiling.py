"""Tiles: where they lie, how their answers blend into one picture, and how visible seams are."""

from __future__ import annotations

import numpy as np


def positions(length: int, tile: int, overlap: int, align: int = 1) -> np.ndarray:
    """First pixels of tiles that cover 0 .. length - 1, int64, evenly spread and ascending.

    Args:
      length: at least `tile`, and like `tile` a multiple of `align`.
      overlap: pixels that neighbours share at least, below `tile`.
      align: positions are multiples of it, so that blocks of that size stay whole.
    """
    stride = max(align, (tile - overlap) // align * align)
    count = -(-(length - tile) // stride) + 1
    return np.round(np.linspace(0, (length - tile) // align, count)).astype(int) * align


def tile_starts(size: int, tile: int, stride: int) -> list[int]:
    """Where tiles begin along one axis: every `stride` pixels, the last one flush with the border.

    Raises ValueError for a tile that is larger than the picture, or gaps between tiles.
    """
    if not 1 <= stride <= tile <= size:
        raise ValueError(
            f"Tiles of {tile} pixels every {stride} do not cover {size}: stride must be at most tile, "
            "and tile at most the size."
        )
    return [*range(0, size - tile, stride), size - tile]


def window(tile: int, overlap: int) -> np.ndarray:
    """Weights of a tile's pixels along one axis, float32 `[tile]` in (0, 1].

    Half a cosine over `overlap` pixels at each end, so that neighbours fade into each other; never
    zero, so that a lone tile keeps its edge.
    """
    ramp = np.arange(1, overlap + 1) / (overlap + 1)
    ramp = (0.5 - 0.5 * np.cos(np.pi * ramp)).astype(np.float32)
    weights = np.ones(tile, np.float32)
    weights[:overlap] *= ramp
    weights[tile - overlap :] *= ramp[::-1]
    return weights


class Blend:
    """A weighted mean of tiles: `total / weight`, where weight is not zero."""

    def __init__(self, size: tuple[int, int]):
        self.total = np.zeros((*size, 3), np.float32)
        self.weight = np.zeros((*size, 1), np.float32)

    def add(self, y: int, x: int, answer: np.ndarray, weight: np.ndarray) -> None:
        """Adds one answer `[h, w, 3]` with weights `[h, w, 1]` at its place."""
        height, width = answer.shape[:2]
        self.total[y : y + height, x : x + width] += weight * answer
        self.weight[y : y + height, x : x + width] += weight

    def covered(self) -> np.ndarray:
        """Where something was added, bool `[H, W]`."""
        return self.weight[..., 0] > 0

    def over(self, image: np.ndarray) -> np.ndarray:
        """The mean where something was added, `image` elsewhere; float32 `[H, W, 3]`."""
        return np.where(self.weight > 0, self.total / np.maximum(self.weight, 1e-12), image)


def smooth_fill(image: np.ndarray, known: np.ndarray) -> np.ndarray:
    """`image` `[H, W, 3]` with unknown pixels made up smoothly from the known ones around them.

    Means over known pixels on ever coarser grids, and back: a pixel takes the finest grid's mean
    that exists.
    """
    if known.all() or max(image.shape[:2]) < 2:
        mean = image[known].mean(0) if known.any() else 0.0
        return np.where(known[..., None], image, mean).astype(np.float32)
    height, width = image.shape[:2]
    pad = ((0, height % 2), (0, width % 2))
    weight = np.pad(known.astype(np.float32), pad)
    total = np.pad(image * known[..., None], (*pad, (0, 0)))

    def halve(a):
        return a.reshape(a.shape[0] // 2, 2, a.shape[1] // 2, 2, -1).sum((1, 3))

    weight, total = halve(weight[..., None]), halve(total)
    coarse = smooth_fill(total / np.maximum(weight, 1), weight[..., 0] > 0)
    fine = _double(coarse)[:height, :width]
    return np.where(known[..., None], image, fine).astype(np.float32)


def coarsest_cell(known: np.ndarray) -> int:
    """Side of the cells of the coarsest grid that `smooth_fill` looks at, a power of two.

    Args:
      known: bool `[H, W]`.
    """
    cell = 1
    while not known.all() and max(known.shape) > 1:
        known = np.pad(known, [(0, n % 2) for n in known.shape])
        known = known[::2] | known[1::2]
        known = known[:, ::2] | known[:, 1::2]
        cell *= 2
    return cell


def _double(image: np.ndarray) -> np.ndarray:
    """Twice the size, linear between the centres of pixels."""
    for axis in (0, 1):
        n = image.shape[axis]
        before = image.take(np.maximum(np.arange(n) - 1, 0), axis)
        after = image.take(np.minimum(np.arange(n) + 1, n - 1), axis)
        pair = np.stack([0.75 * image + 0.25 * before, 0.75 * image + 0.25 * after], axis + 1)
        shape = list(image.shape)
        shape[axis] *= 2
        image = pair.reshape(shape)
    return image


def seam_jump(image: np.ndarray, rows, columns, where: np.ndarray | None = None) -> float:
    """How much larger steps between neighbours are across tile borders than elsewhere.

    Args:
      image: `[H, W, C]`.
      rows, columns: first pixels of tiles along each axis (or any borders); 0 and the picture's
        end are no borders.
      where: bool `[H, W]`; only steps between two such pixels count.

    Returns:
      Mean |step| across borders over mean |step| across all other lines: 1 means no visible seam.
    """
    image = np.asarray(image, np.float64)
    where = np.ones(image.shape[:2], bool) if where is None else where
    at_border, elsewhere = [], []
    for axis, borders in ((0, rows), (1, columns)):
        steps = np.abs(np.diff(image, axis=axis)).mean(-1)
        along = np.moveaxis(where, axis, 0)
        valid = along[1:] & along[:-1]
        steps = np.moveaxis(steps, axis, 0)
        border = np.isin(np.arange(1, image.shape[axis]), np.asarray(borders))
        at_border.append(steps[border][valid[border]])
        elsewhere.append(steps[~border][valid[~border]])
    return float(np.concatenate(at_border).mean() / np.concatenate(elsewhere).mean())
