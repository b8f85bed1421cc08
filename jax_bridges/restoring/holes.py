"""Where a picture is to be filled: a mask file, drawn boxes, or both."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from jax_bridges.data.errors import BadImage
from jax_bridges.restoring.pictures import Picture, read_picture

Box = tuple[int, int, int, int]  # left, top, width, height in pixels
ALPHA = "alpha"  # as a mask: what is transparent in the picture itself


def parse_box(text: str) -> Box:
    """A box from "LEFT,TOP,WIDTH,HEIGHT"; ValueError in one sentence."""
    parts = text.split(",")
    try:
        left, top, width, height = (int(part) for part in parts)
    except ValueError:
        raise ValueError(
            f"--box={text}: it must be LEFT,TOP,WIDTH,HEIGHT in whole pixels, such as 10,20,64,48."
        ) from None
    if min(left, top) < 0 or min(width, height) < 1:
        raise ValueError(
            f"--box={text}: left and top must be at least 0, width and height at least 1."
        )
    return left, top, width, height


def split_alpha(picture: Picture, mask: Any, invert: bool = False) -> tuple[Picture, Any]:
    """For the mask "alpha" the picture without its alpha, and the mask that this is; else both as given.

    A pixel is missing unless it is opaque, for a soft eraser leaves a rim of half the old colour; so
    nothing transparent remains.

    Raises:
      BadImage: nothing is transparent, or `invert` is asked for.
    """
    if not (isinstance(mask, str) and mask == ALPHA):
        return picture, mask
    if invert:
        raise BadImage("with --mask=alpha what is transparent is missing: leave --invert out")
    alpha = picture.alpha
    if alpha is None or (clear := alpha[..., 0] < np.iinfo(alpha.dtype).max).sum() == 0:
        raise BadImage(
            "nothing in it is transparent, so --mask=alpha marks no pixel: erase what is missing, and "
            "save it as PNG, TIFF or WebP"
        )
    return dataclasses.replace(picture, alpha=None), clear


def find_hole(
    size: tuple[int, int], mask=None, boxes: Sequence[Box] = (), invert: bool = False
) -> np.ndarray:
    """Where pixels are missing, bool `[H, W]`: the mask's bright half and the boxes together.

    Args:
      size: (H, W) of the upright picture.
      mask: whatever `read_picture` takes, or bool `[H, W]`; a pixel is missing where its brightest
        channel is at least half of white. Alpha does not count.
      boxes: (left, top, width, height) each, whole numbers, inside the picture.
      invert: the mask's dark half is missing instead; boxes stay what they are.

    Raises:
      BadImage: the mask is unreadable or of another size, a box is none or leaves the picture,
        nothing is missing, or everything is.
    """
    hole = np.zeros(size, bool)
    if mask is not None:
        hole |= _read(mask, size) ^ invert
    for box in boxes:
        left, top, width, height = check_box(box, size)
        hole[top : top + height, left : left + width] = True
    if not hole.any():
        raise BadImage("the mask marks no pixel: white is what is missing (see --invert)")
    if hole.all():
        raise BadImage("the mask marks every pixel, so nothing is known to go on (see --invert)")
    return hole


def check_box(box: Any, size: tuple[int, int]) -> Box:
    """A box in a picture of (H, W); BadImage for others, which mean pixels elsewhere, or none."""
    try:
        numbers = list(map(operator.index, box))
    except TypeError:
        numbers = []
    if len(numbers) != 4 or min(numbers) < 0 or min(numbers[2:]) < 1:
        raise BadImage(
            "a box is (left, top, width, height) in whole pixels, the first two at least 0 and the "
            f"others at least 1, not {box}"
        )
    left, top, width, height = numbers
    if left + width > size[1] or top + height > size[0]:
        raise BadImage(
            f"the box {left},{top},{width},{height} leaves the picture, which is {size[1]}x{size[0]}"
        )
    return left, top, width, height


def _read(mask, size: tuple[int, int]) -> np.ndarray:
    if isinstance(mask, np.ndarray) and mask.dtype == bool and mask.ndim == 2:
        found = mask
    else:
        try:
            pixels = read_picture(mask).pixels
        except BadImage as bad:
            raise BadImage(f"its mask {_name(mask)}: {bad}") from bad
        found = pixels.max(-1) > np.iinfo(pixels.dtype).max // 2
    if found.shape != size:
        raise BadImage(
            f"its mask {_name(mask)} is {found.shape[1]}x{found.shape[0]}, and the upright picture "
            f"{size[1]}x{size[0]}: they must be of one size"
        )
    return found


def _name(mask) -> str:
    return "" if isinstance(mask, (np.ndarray, bytes)) else str(mask)
