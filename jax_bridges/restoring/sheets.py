"""Pictures of results: before and after side by side, and several samples as a grid."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from jax_bridges.report.pictures import OUTLINE, grid, save_png
from jax_bridges.restoring.files import Order
from jax_bridges.restoring.pictures import Picture

WIDEST = 1024  # pixels of one picture in a sheet; larger ones are shrunk
SMALLEST = 128  # narrower ones are enlarged, every pixel a square, as far as WIDEST allows
PAPER = (255, 255, 255)


def write_all(
    order: Order,
    samples: list[Picture],
    given: tuple[Picture, np.ndarray | None] | None,
    compare: bool,
    force: bool,
    quality: int | None = None,
) -> list[Path]:
    """Writes the samples of one picture, and its sheets.

    Args:
      given: the picture before, and its hole; None: there is one sample, and no sheet is wanted.
      compare: before and after, of the first sample; several samples have a grid in any case.
      force: existing files are overwritten.
      quality: of JPEGs, see `Picture.save`.

    Raises:
      OSError: it names the file.
    """
    outs = [order.out, *(order.beside(str(i)) for i in range(2, len(samples) + 1))]
    with warnings.catch_warnings(action="ignore"):  # `notes.lossy_notes` said so before
        pairs = zip(samples, outs, strict=True)
        written = [picture.save(out, force, quality) for picture, out in pairs]
    if given is not None:
        before, hole, images = given[0].to_uint8(), given[1], [p.to_uint8() for p in samples]
        if compare:
            sheet = before_and_after(before, images[0], hole)
            written.append(save_png(order.beside("compare"), sheet))
        if len(samples) > 1:
            written.append(save_png(order.beside("grid"), sample_sheet(before, images, hole)))
    return written


def before_and_after(
    before: np.ndarray, after: np.ndarray, hole: np.ndarray | None = None
) -> Image.Image:
    """Two uint8 pictures `[H, W, 3]` side by side; the hole is gray and outlined in the first."""
    return _sheet({"before": show_hole(before, hole), "after": after}, 2)


def sample_sheet(
    before: np.ndarray, samples: list[np.ndarray], hole: np.ndarray | None = None
) -> Image.Image:
    """The picture and its samples, uint8 `[H, W, 3]`, in a grid that is about as wide as high."""
    pictures = {"before": show_hole(before, hole)}
    pictures |= {f"sample {i}": each for i, each in enumerate(samples, start=1)}
    height, width = before.shape[:2]
    return _sheet(pictures, max(2, round((len(pictures) * height / width) ** 0.5)))


def show_hole(image: np.ndarray, hole: np.ndarray | None) -> np.ndarray:
    """`image` uint8 `[H, W, 3]` with its hole gray and a line around it."""
    if hole is None:
        return image
    line = max(1, round(max(image.shape) / WIDEST))
    around = ndimage.binary_dilation(hole, np.ones((3, 3)), iterations=line) & ~hole
    image = np.where(hole[..., None], np.uint8(128), image)
    return np.where(around[..., None], np.array(OUTLINE, np.uint8), image)


def _sheet(pictures: dict[str, np.ndarray], columns: int) -> Image.Image:
    names = list(pictures)
    size = pictures[names[0]].shape[:2]
    shown = {name: _fit(image, size)[None] for name, image in pictures.items()}
    high, wide = shown[names[0]].shape[1:3]
    scale = max(1, min(-(-SMALLEST // wide), WIDEST // max(high, wide)))
    lines = []
    for start in range(0, len(names), columns):
        lines.append(grid({name: shown[name] for name in names[start : start + columns]}, scale))
    sheet = Image.new("RGB", (max(p.width for p in lines), sum(p.height for p in lines)), PAPER)
    top = 0
    for line in lines:
        sheet.paste(line, (0, top))
        top += line.height
    return sheet


def _fit(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The picture at `size` (an enlarged one shows its pixels), at most WIDEST pixels wide or high."""
    shrink = min(1.0, WIDEST / max(size))
    height, width = (max(1, round(n * shrink)) for n in size)
    if image.shape[:2] == (height, width):
        return image
    bigger = image.shape[0] < height
    how = Image.Resampling.NEAREST if bigger else Image.Resampling.LANCZOS
    return np.asarray(Image.fromarray(image).resize((width, height), how))
