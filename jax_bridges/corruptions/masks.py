"""Irregular (freeform) masks: a generator by area band, and Palette's packed file format.

Everything here runs on the host in numpy; masks are uint8 with 1 where pixels are missing.
"""

import functools
import os
import tempfile
from typing import Any

import numpy as np

Area = tuple[int, int]


def band_name(area: Area) -> str:
    """The name of an area band in Palette's file, e.g. (10, 20) -> "10-20% freeform"."""
    return f"{area[0]}-{area[1]}% freeform"


def strokes_field(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Distance [H, W] of each pixel to a few random brush strokes, in units of the brush.

    A stroke is a polyline that turns by up to 126 degrees at each of its vertices; distances to it
    are divided by a brush width of its own, so a level set is a union of strokes of unequal width.
    """
    edges = np.array([height, width])
    y, x = np.mgrid[:height, :width].astype(np.float32) + np.float32(0.5)
    field = np.full((height, width), np.inf, np.float32)
    for _ in range(rng.integers(2, 6)):
        brush = rng.uniform(0.5, 1.5)
        point = rng.uniform(0, 1, 2) * edges
        angle = rng.uniform(0, 2 * np.pi)
        for _ in range(rng.integers(2, 6)):
            angle += rng.uniform(-0.7, 0.7) * np.pi
            length = rng.uniform(0.1, 0.4) * min(height, width)
            step = length * np.array([np.sin(angle), np.cos(angle)])
            end = edges - np.abs(edges - np.abs(point + step))  # reflected at the borders
            dy, dx = (end - point).astype(np.float32)
            py, px = y - np.float32(point[0]), x - np.float32(point[1])
            along = np.clip((py * dy + px * dx) / max(dy * dy + dx * dx, 1e-6), 0, 1)
            squared = (py - along * dy) ** 2 + (px - along * dx) ** 2
            np.minimum(field, squared / np.float32(brush**2), out=field)
            point = end
    return np.sqrt(field)


def freeform_masks(
    count: int, height: int, width: int, area: Area = (10, 20), seed: int = 0
) -> np.ndarray:
    """Irregular masks [count, H, W] uint8 whose holes cover `area` percent of the image.

    The strokes are drawn thinner or thicker until the hole has exactly the number of pixels that
    was drawn uniformly from the band, so no mask ever leaves it. Mask i depends on (seed, i), the
    size and the band alone, not on count. Images over 128 pixels take their strokes from a grid
    of half or a quarter of the resolution, interpolated, which is what keeps a bank cheap.

    Raises: ValueError for a band that is not 0 <= low <= high <= 100.
    """
    low, high = area
    if not 0 <= low <= high <= 100:
        raise ValueError(f"area must be percents 0 <= low <= high <= 100, but is {area}.")
    pixels = height * width
    least, most = int(np.ceil(low / 100 * pixels)), int(np.floor(high / 100 * pixels))
    shrink = 2 ** max(0, int(np.ceil(np.log2(max(height, width) / 128))))
    coarse = -(-height // shrink), -(-width // shrink)
    rows, columns = (_linear_weights(n, m) for n, m in zip(coarse, (height, width), strict=True))
    masks = np.zeros((count, pixels), np.uint8)
    for i in range(count):
        rng = np.random.default_rng([seed, i, low, high, height, width])
        field = rows @ strokes_field(rng, *coarse) @ columns.T
        hole = rng.integers(least, max(least, most), endpoint=True)
        nearest = np.argpartition(field.ravel(), min(hole, pixels - 1))[:hole]
        masks[i, nearest] = 1
    return masks.reshape(count, height, width)


def _linear_weights(n: int, m: int) -> np.ndarray:
    """Matrix [m, n] of linear interpolation from n to m pixels (pixel centres aligned)."""
    at = np.clip((np.arange(m) + 0.5) * n / m - 0.5, 0, n - 1)
    return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(n))).astype(np.float32)


def write_masks(path, bands: dict[Area, np.ndarray]) -> None:
    """Writes {(low, high): masks [N, H, W]} as an npz in the layout of Palette's mask file.

    Each entry, named like "10-20% freeform", holds the bits of all its masks in one run
    (`np.packbits`). The file appears whole or not at all.
    """
    folder = os.path.dirname(os.path.abspath(path))
    handle, temporary = tempfile.mkstemp(dir=folder, suffix=".npz")
    try:
        with os.fdopen(handle, "wb") as file:
            packed: dict[str, Any] = {band_name(a): np.packbits(m > 0) for a, m in bands.items()}
            np.savez(file, **packed)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def read_masks(path, area: Area, height: int = 256, width: int = 256) -> np.ndarray:
    """Reads one band of Palette's file (imagenet_freeform_masks.npz) as masks [N, H, W] uint8.

    The file does not say how large its masks are: Palette's own are 256 x 256, 10000 to a band.

    Raises: FileNotFoundError; ValueError for a band the file lacks or a size it cannot have.
    """
    if not os.path.exists(path):
        raise FileNotFoundError(
            f"No mask file {path}: give the path of Palette's imagenet_freeform_masks.npz, or no "
            "path for generated masks."
        )
    with np.load(path) as file:
        if band_name(area) not in file.files:
            raise ValueError(
                f"{path} has no masks {band_name(area)!r}; it has {', '.join(file.files)}."
            )
        packed = file[band_name(area)]
    return unpack_masks(packed, height, width)


def unpack_masks(packed: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bits of all masks in one run, uint8 [bytes] -> masks [N, H, W] uint8.

    Raises: ValueError when the bits are not a whole number of masks of this size.
    """
    bits, pixels = 8 * packed.size, height * width
    count = bits // pixels
    # np.packbits fills its last byte up with zeros, so up to 7 bits may remain.
    if count == 0 or bits - count * pixels > 7:
        raise ValueError(f"{bits} mask bits are not a whole number of {height} x {width} masks.")
    return np.unpackbits(packed.ravel(), count=count * pixels).reshape(count, height, width)


@functools.lru_cache(maxsize=8)
def mask_bank(
    path: str | None, count: int, area: Area, seed: int, height: int, width: int
) -> np.ndarray:
    """Masks packed one per row, uint8 [N, ceil(H W / 8)], read from path or else generated."""
    if path is None:
        masks = freeform_masks(count, height, width, area, seed)
    else:
        masks = read_masks(path, area, height, width)
    bank = np.packbits(masks.reshape(len(masks), -1), axis=1)
    bank.flags.writeable = False
    return bank
