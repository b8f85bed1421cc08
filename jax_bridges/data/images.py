"""From an image file of any kind to uint8 RGB of the wanted size, or a reason why not.

Every file ends in one of two ways: an array, or a `BadImage` whose text says what is wrong.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from jax_bridges.data.decode import Encoded, PictureFile, open_picture
from jax_bridges.data.errors import BadImage

# Two frames are taken for the same scene if their aspect ratios differ by at most this factor.
MAX_ASPECT_RATIO = 1.1


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
            with _open(file, size, max_upscale) as picture:
                images.append(to_rgb(picture))
        except BadImage as bad:
            raise BadImage(f"{view}: {bad}" if len(files) > 1 else str(bad)) from bad
    return resize(images, size)


def check_header(files: tuple[Encoded, ...], size: tuple[int, int], max_upscale: float) -> None:
    """Raises BadImage for whatever shows without decoding the pixels (about 0.1 ms a file)."""
    for file in files:
        with _open(file, size, max_upscale):
            pass


def read_whole(files: tuple[Encoded, ...], size: tuple[int, int], _: float = 1) -> list[np.ndarray]:
    """Decodes the views of one example whole, for crops of `size` out of them.

    Args, returns and raises: as `read_images`, but that the arrays have the size of the files, which
    must be the same for all views and at least `size`.
    """
    check_whole(files, size)
    return [np.asarray(read_rgb(file)) for file in files]


def check_whole(files: tuple[Encoded, ...], size: tuple[int, int], _: float = 1) -> None:
    """As `check_header`, for what `read_whole` takes."""
    sizes = []
    for file in files:
        with _open(file, None) as picture:
            sizes.append(picture.size)
    height, width = sizes[0]
    if len(set(sizes)) > 1:
        raise BadImage(
            f"x0 is {height}x{width} and xT {sizes[1][0]}x{sizes[1][1]}: native crops need the same size "
            "(data.crop=center fits them to each other)"
        )
    if height < size[0] or width < size[1]:
        raise BadImage(
            f"{height}x{width} pixels are less than a crop of {size[0]}x{size[1]} (data.crop=center "
            "enlarges small images)"
        )


def _open(file: Encoded, size: tuple[int, int] | None, max_upscale: float = 1) -> PictureFile:
    """Opens an image, without decoding it, and checks what its header says."""
    picture = open_picture(file)
    try:
        if size is not None:
            check_upscale(picture.size, size, max_upscale)
        if picture.frames > 1:
            raise BadImage(f"has {picture.frames} frames where one image is expected")
    except BadImage:
        picture.close()
        raise
    return picture


def check_upscale(found: tuple[int, int], size: tuple[int, int], max_upscale: float) -> None:
    """Raises BadImage if an image of (height, width) `found` has to grow too much."""
    growth = max(size[0] / found[0], size[1] / found[1])
    if growth > max_upscale:
        raise BadImage(
            f"{found[0]}x{found[1]} pixels would have to grow {growth:.1f} times to "
            f"{size[0]}x{size[1]} (data.max_upscale = {max_upscale:g})"
        )


def read_rgb(file: Encoded) -> Image.Image:
    """A whole image as upright 8-bit RGB; see `to_rgb`.

    Raises:
      BadImage: the reason why it cannot be used.
    """
    with open_picture(file) as picture:
        return to_rgb(picture)


def to_rgb(picture: PictureFile) -> Image.Image:
    """Decodes an open picture to upright 8-bit RGB.

    EXIF orientation is applied; gray is repeated; transparent parts become white; 16 bits become 8
    by x / 257, rounded; palettes and CMYK are converted. Colour profiles and gamma are not applied.
    """
    try:
        planes = picture.planes()
    except BadImage:
        raise
    except Exception as error:  # Pillow's plugins raise a dozen types on damaged files
        raise BadImage(f"cannot be decoded ({error})") from error
    if planes.dtype == np.uint16:
        planes = ((planes.astype(np.uint32) + 128) // 257).astype(np.uint8)
    image = Image.fromarray(planes[..., 0] if planes.shape[-1] == 1 else planes)
    if planes.shape[-1] in (2, 4):
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
