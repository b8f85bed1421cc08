"""Pictures of images: labelled grids, and PNG files written atomically."""

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from jax_bridges.io.atomic import write_atomic

PAPER = (255, 255, 255)
INK = (32, 36, 42)
HAIRLINE = (208, 212, 217)
OUTLINE = (255, 64, 32)
GAP = 8  # pixels of paper between two images
MARGIN = 12
COLUMN_WIDTH = 128  # the width aimed at where no scale is given


def show(images: Mapping[str, Any] | Any, scale: int | None = None) -> Image.Image:
    """Arrays of images as one picture, which shows itself in a notebook.

    >>> import jax_bridges as jb, numpy as np
    >>> noise = np.random.default_rng(0).normal(size=(2, 16, 16, 3))
    >>> jb.show({"noise": noise, "half of it": noise / 2}).size[0]
    288

    Args:
      images: label -> `[N, H, W, 3]`, a column each, or such an array alone; float in [-1, 1], which is
        clipped, or uint8. An image alone is `[H, W, 3]`.
      scale: see `grid`.

    Raises:
      ValueError: see `grid`.
    """
    columns = images if isinstance(images, Mapping) else {"": images}
    return grid({label: _to_uint8(array) for label, array in columns.items()}, scale)


def _to_uint8(images: Any) -> np.ndarray:
    images = np.asarray(images)
    images = images[None] if images.ndim == 3 else images
    if np.issubdtype(images.dtype, np.floating):
        images = np.rint((np.clip(images, -1, 1) + 1) * 127.5).astype(np.uint8)
    return images


def grid(
    columns: Mapping[str, np.ndarray],
    scale: int | None = None,
    box: tuple[int, int, int, int] | None = None,
    box_column: str = "source",
) -> Image.Image:
    """Images side by side: one labelled column an entry, one row an example.

    Args:
      columns: label -> uint8 [N, H, W, 3], all of one shape, in the order shown.
      scale: every pixel becomes a scale x scale square, exactly (nearest neighbour). None: the
        scale that makes a column about 128 pixels wide.
      box: (top, left, height, width) in image pixels, outlined on the images of `box_column`:
        the hole. The line lies outside the box and covers no pixel of it.
      box_column: label of the column that gets the outline.

    Returns an RGB PIL image. Raises ValueError for no columns, a wrong dtype or shape, columns
    that differ in shape, or a scale below 1.
    """
    shape = _check_columns(columns)
    count, height, width, _ = shape
    scale = max(1, round(COLUMN_WIDTH / width)) if scale is None else scale
    if not isinstance(scale, int) or scale < 1:
        raise ValueError(f"scale must be a whole number of at least 1, not {scale!r}.")
    high, wide = height * scale, width * scale
    labels, font = _fit_labels(list(columns), wide)
    header = max(label.count("\n") + 1 for label in labels) * _line_height(font)
    top = MARGIN + header + GAP
    size = (
        2 * MARGIN + len(columns) * (wide + GAP) - GAP,
        top + count * (high + GAP) - GAP + MARGIN,
    )
    picture = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(picture)
    for column, (name, label) in enumerate(zip(columns, labels, strict=True)):
        left = MARGIN + column * (wide + GAP)
        # Labels stand on the images, so that one-line and two-line labels share a baseline.
        draw.multiline_text(
            (left + wide / 2, MARGIN + header), label, INK, font, "md", align="center", spacing=2
        )
        for row, image in enumerate(columns[name]):
            y = top + row * (high + GAP)
            # A hairline in the gap keeps white images apart from the paper.
            draw.rectangle((left - 1, y - 1, left + wide, y + high), outline=HAIRLINE)
            pixels = image.repeat(scale, axis=0).repeat(scale, axis=1)
            picture.paste(Image.fromarray(pixels), (left, y))
            if box is not None and name == box_column:
                _outline(picture, box, (left, y), scale)
    return picture


def to_png_bytes(image: Image.Image | np.ndarray) -> bytes:
    """PNG bytes of a PIL image or of uint8 [H, W, 3] (or [H, W]) pixels."""
    if not isinstance(image, Image.Image):
        image = np.asarray(image)
        if image.dtype != np.uint8 or not (
            image.ndim == 2 or (image.ndim == 3 and image.shape[-1] == 3)
        ):
            raise ValueError(
                "an image must be uint8 [H, W, 3] or [H, W], not "
                f"{image.dtype} {list(image.shape)}."
            )
        image = Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def save_png(path: str | os.PathLike, image: Image.Image | np.ndarray) -> Path:
    """Write an image (see `to_png_bytes`) to `path` atomically, making its folder; the path."""
    return write_atomic(path, to_png_bytes(image))


def _check_columns(columns: Mapping[str, np.ndarray]) -> tuple[int, int, int, int]:
    if not columns:
        raise ValueError("a grid needs at least one column of images.")
    first = np.shape(next(iter(columns.values())))
    for name, images in columns.items():
        shape = np.shape(images)
        if getattr(images, "dtype", None) != np.uint8 or len(shape) != 4 or shape[-1] != 3:
            raise ValueError(
                f"column {name!r} must be uint8 [N, H, W, 3], not "
                f"{getattr(images, 'dtype', type(images).__name__)} {list(shape)}."
            )
        if 0 in shape:
            raise ValueError(f"column {name!r} holds no pixels: its shape is {list(shape)}.")
        if shape != first:
            raise ValueError(
                f"column {name!r} has shape {list(shape)}, the first one {list(first)}: "
                "all columns must agree."
            )
    count, height, width, channels = first
    return count, height, width, channels


def _fit_labels(
    names: list[str], width: int
) -> tuple[list[str], ImageFont.ImageFont | ImageFont.FreeTypeFont]:
    """Labels broken at spaces, in the largest font in which all fit; cut where none does."""
    for size in (15, 14, 13, 12, 11, 10):
        font = ImageFont.load_default(size)
        labels = [_wrap(name, font, width + GAP - 2) for name in names]
        lines = [line for label in labels for line in label.split("\n")]
        if all(_width(line, font) <= width + GAP - 2 for line in lines):
            break
    else:
        labels = [
            "\n".join(_cut(line, font, width + GAP - 2) for line in label.split("\n"))
            for label in labels
        ]
    return labels, font


def _wrap(name: str, font, width: float) -> str:
    lines = []
    for word in name.split():
        if lines and _width(f"{lines[-1]} {word}", font) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return "\n".join(lines)


def _cut(line: str, font, width: float) -> str:
    if _width(line, font) <= width:
        return line
    while len(line) > 1 and _width(line + "…", font) > width:
        line = line[:-1]
    return line + "…"


def _width(text: str, font) -> float:
    return font.getlength(text)


def _line_height(font) -> int:
    return sum(font.getmetrics()) + 2


def _outline(picture: Image.Image, box, corner: tuple[int, int], scale: int) -> None:
    top, left, height, width = (int(value) * scale for value in box)
    x, y = corner
    # It stays in the gap where the box touches an edge.
    line = min(max(1, round(scale / 2.5)), GAP // 2)
    right, bottom = left + width + line - 1, top + height + line - 1
    edges = (x + left - line, y + top - line, x + right, y + bottom)
    ImageDraw.Draw(picture).rectangle(edges, outline=OUTLINE, width=line)
