"""From an image file of any kind to uint8 RGB of the wanted size, or a reason why not.

Every file ends in one of two ways: an array, or a `BadImage` whose text says what is wrong.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

# What is looked for in folders. Pillow knows more suffixes, but not all of those are photographs.
SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .jp2 .png .webp .avif .bmp .gif .tif .tiff .tga".split()
    + ".ppm .pgm .pbm .pnm".split()
)

# Two frames are taken for the same scene if their aspect ratios differ by at most this factor.
MAX_ASPECT_RATIO = 1.1

# Horizontal and vertical size change places under these EXIF orientations.
_EXIF_ORIENTATION, _TRANSPOSED = 274, (5, 6, 7, 8)


Encoded = Path | bytes  # an image file, by name or by content


class BadImage(ValueError):
    """An image that cannot be used; the text is the reason, without the name of the file."""


def read_images(
    files: tuple[Encoded, ...], size: tuple[int, int], max_upscale: float
) -> list[np.ndarray]:
    """Decodes the views of one example: the same centred part of each frame, resized.

    The largest centred part of the first image with the shape of `size` is resized (bicubic,
    antialiased). Further images give the same fraction of their own frame, so that images of the
    same scene at different sizes stay aligned.

    Args:
      files: one image (x0) or two (x0, xT), each the path of a file or its content.
      size: (H, W).
      max_upscale: largest factor by which an image may grow.

    Returns:
      One uint8 `[H, W, 3]` array a file.

    Raises:
      BadImage: a file is unreadable, truncated, too small, animated, or of unknown range, or the
        frames of two files differ in shape by more than `MAX_ASPECT_RATIO`.
    """
    images = []
    for file, view in zip(files, ("x0", "xT"), strict=False):
        try:
            with _open(file, size, max_upscale) as image:
                images.append(to_rgb(image))
        except Exception as error:  # Pillow's plugins raise a dozen types on damaged files
            reason = str(error) if isinstance(error, BadImage) else f"cannot be decoded ({error})"
            raise BadImage(f"{view}: {reason}" if len(files) > 1 else reason) from error
    return resize(images, size)


def check_header(files: tuple[Encoded, ...], size: tuple[int, int], max_upscale: float) -> None:
    """Raises BadImage for whatever shows without decoding the pixels (about 0.1 ms a file)."""
    for file in files:
        with _open(file, size, max_upscale):
            pass


def _open(file: Encoded, size: tuple[int, int], max_upscale: float) -> Image.Image:
    """Opens an image, without decoding it, and checks what its header says."""
    try:
        if (len(file) if isinstance(file, bytes) else file.stat().st_size) == 0:
            raise BadImage("the file is empty")
        image = Image.open(io.BytesIO(file) if isinstance(file, bytes) else file)
        if image.format == "PNG" and "exif" not in image.info:
            orientation = None  # `getexif` would decode the pixels to look behind them
        else:
            orientation = image.getexif().get(_EXIF_ORIENTATION)
        frames = getattr(image, "n_frames", 1)
    except BadImage:
        raise
    except Image.UnidentifiedImageError as error:
        raise BadImage("not an image that Pillow can read") from error
    except Exception as error:
        raise BadImage(f"cannot be opened ({error})") from error
    width, height = image.size[::-1] if orientation in _TRANSPOSED else image.size
    try:
        check_upscale((height, width), size, max_upscale)
        if frames > 1 and image.format != "MPO":  # an MPO is a photograph with a preview
            raise BadImage(f"has {frames} frames where one image is expected")
    except BadImage:
        image.close()
        raise
    return image


def check_upscale(found: tuple[int, int], size: tuple[int, int], max_upscale: float) -> None:
    """Raises BadImage if an image of (height, width) `found` has to grow too much."""
    growth = max(size[0] / found[0], size[1] / found[1])
    if growth > max_upscale:
        raise BadImage(
            f"{found[0]}x{found[1]} pixels would have to grow {growth:.1f} times to "
            f"{size[0]}x{size[1]} (data.max_upscale = {max_upscale:g})"
        )


def to_rgb(image: Image.Image) -> Image.Image:
    """Decodes an open image to upright 8-bit RGB.

    EXIF orientation is applied; gray is repeated; transparent parts become white; 16 bits become 8
    by x / 257, rounded; palettes and CMYK are converted. Colour profiles are not applied.
    """
    layout = image.format
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16") or (image.mode == "I" and layout in ("PNG", "PPM")):
        wide = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((wide + 128) // 257).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise BadImage("32-bit pixels have no known range; save it with 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def resize(images: list[Image.Image], size: tuple[int, int]) -> list[np.ndarray]:
    """Cuts the same centred part out of RGB images and resizes it: uint8 `[H, W, 3]` each."""
    width, height = images[0].size
    part = min(width / size[1], height / size[0])
    x, y = (1 - part * size[1] / width) / 2, (1 - part * size[0] / height) / 2  # margins, in frames
    out = []
    for image in images:
        w, h = image.size
        ratio = (width * h) / (height * w)
        if max(ratio, 1 / ratio) > MAX_ASPECT_RATIO:
            raise BadImage(
                f"x0 is {height}x{width} and xT {h}x{w}: frames of different shape cannot match"
            )
        if (w, h) != (size[1], size[0]):
            box = (x * w, y * h, w - x * w, h - y * h)
            image = image.resize((size[1], size[0]), Image.Resampling.BICUBIC, box=box)
        out.append(np.asarray(image))
    return out
