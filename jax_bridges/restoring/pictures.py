"""Pictures as a person has them, without loss: 8 or 16 bits, gray or colour, with alpha, upright.

A file ends as a `Picture` or as a `BadImage` whose text is the reason. What is written is PNG,
because a lossy format would change known pixels.
"""

from __future__ import annotations

import dataclasses
import io
import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from jax_bridges.data.images import BadImage
from jax_bridges.io.atomic import write_atomic

MAX_PIXELS = 100_000_000  # a float32 copy of three channels is then 1.2 GB
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # of gray from colour (ITU-R BT.601)
# EXIF orientation -> how the stored pixels become upright.
_UPRIGHT = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


@dataclasses.dataclass(frozen=True)
class Picture:
    """An upright picture as stored.

    Attributes:
      pixels: uint8 or uint16 `[H, W, C]`, C = 1 (gray) or 3 (RGB).
      alpha: `[H, W, 1]` of the same type, or None.
      icc: the file's colour profile, carried along and never applied; or None.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    icc: bytes | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.pixels.shape[:2]

    def to_float(self) -> np.ndarray:
        """float32 `[H, W, 3]` in [-1, 1]; gray is repeated."""
        top = np.float32(np.iinfo(self.pixels.dtype).max)
        image = self.pixels.astype(np.float32) / (top / 2) - 1
        return np.broadcast_to(image, (*self.size, 3))

    def enlarged(self, factor: int) -> Picture:
        """Every pixel, alpha too, repeated factor x factor times."""

        def repeat(a):
            return None if a is None else a.repeat(factor, axis=0).repeat(factor, axis=1)

        return Picture(repeat(self.pixels), repeat(self.alpha), self.icc)

    def compose(self, restored: np.ndarray, hole: np.ndarray | None, colours: bool) -> Picture:
        """This picture with `restored` in the hole, all other pixels as they are.

        Args:
          restored: float `[H, W, 3]` in [-1, 1].
          hole: bool `[H, W]`; None: everywhere.
          colours: a gray picture becomes RGB; otherwise it stays gray (the luma of `restored`).

        Raises:
          ValueError: `restored` holds NaN or infinity where it is needed.
        """
        if not np.isfinite(restored if hole is None else restored[hole]).all():
            raise ValueError(
                "The model's answer holds NaN or infinity, so nothing of it is kept: its weights, or the "
                "settings it was called with, are at fault."
            )
        old, icc = self.pixels, self.icc
        if old.shape[-1] == 1:
            if colours:
                old, icc = old.repeat(3, axis=-1), None  # a gray profile does not fit colours
            else:
                restored = (restored @ _LUMA)[..., None]
        top = np.iinfo(old.dtype).max
        new = np.clip(np.rint((restored + 1) * (top / 2)), 0, top).astype(old.dtype)
        return Picture(
            new if hole is None else np.where(hole[..., None], new, old), self.alpha, icc
        )

    def to_uint8(self) -> np.ndarray:
        """uint8 `[H, W, 3]` for showing, transparent parts on white."""
        wide = self.pixels.dtype == np.uint16
        pixels = (self.pixels >> 8).astype(np.uint8) if wide else self.pixels
        pixels = np.broadcast_to(pixels, (*self.size, 3))
        if self.alpha is None:
            return pixels
        share = self.alpha / np.float32(np.iinfo(self.alpha.dtype).max)
        return np.rint(pixels * share + 255 * (1 - share)).astype(np.uint8)

    def to_png(self) -> bytes:
        """The bytes of a PNG that holds exactly these pixels."""
        planes = self.pixels
        if self.alpha is not None:
            planes = np.concatenate([planes, self.alpha], axis=-1)
        kind = {1: 0, 2: 4, 3: 2, 4: 6}[planes.shape[-1]]  # PNG's colour types
        height, width = self.size
        bits = 8 * planes.dtype.itemsize
        chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))]
        if self.icc:
            chunks.append((b"iCCP", b"icc\0\0" + zlib.compress(self.icc)))
        # Filter 1 (Sub): each byte as its difference to that of the pixel on the left.
        rows = planes.astype(planes.dtype.newbyteorder(">")).view(np.uint8).reshape(height, -1)
        step = planes.shape[-1] * planes.dtype.itemsize
        lines = np.ones((height, rows.shape[1] + 1), np.uint8)
        lines[:, 1 : step + 1] = rows[:, :step]
        lines[:, step + 1 :] = rows[:, step:] - rows[:, :-step]
        chunks += [(b"IDAT", zlib.compress(lines.tobytes(), 6)), (b"IEND", b"")]
        out = b"\x89PNG\r\n\x1a\n"
        for name, data in chunks:
            out += struct.pack(">I", len(data)) + name + data
            out += struct.pack(">I", zlib.crc32(name + data))
        return out

    def save(self, path: str | os.PathLike, force: bool = False) -> Path:
        """Writes a PNG, whole or not at all.

        Raises:
          FileExistsError: the file is there, and `force` is not set.
          ValueError: the name does not end in .png.
        """
        path = Path(path)
        if path.suffix.lower() != ".png":
            raise ValueError(
                f"{path}: pictures are written as PNG, since a lossy file would change known "
                "pixels; give a name that ends in .png."
            )
        if path.exists() and not force:
            raise FileExistsError(f"{path} exists already: give another name, or force=True.")
        return write_atomic(path, self.to_png())


def read_picture(source: str | os.PathLike | bytes | Image.Image | np.ndarray | Picture) -> Picture:
    """A picture from a file, its bytes, a Pillow image, or pixels.

    Args:
      source: pixels are uint8 or uint16 `[H, W]`, `[H, W, 1]`, `[H, W, 3]` or, with alpha,
        `[H, W, 4]`.

    Raises:
      BadImage: the reason why it cannot be used, without the name of the file.
    """
    if isinstance(source, Picture):
        return source
    if isinstance(source, np.ndarray):
        return _from_pixels(source)
    if isinstance(source, Image.Image):
        return _decode(source)
    data = source if isinstance(source, bytes) else _contents(Path(source))
    if not data:
        raise BadImage("the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data))
        check_size(image.size[::-1])
        frames = getattr(image, "n_frames", 1)
        if frames > 1 and image.format != "MPO":  # an MPO is a photograph with a preview
            raise BadImage(f"has {frames} frames where one picture is expected")
        return _decode(image)
    except BadImage:
        raise
    except Image.DecompressionBombError as error:
        raise BadImage(f"has more than {MAX_PIXELS / 1e6:.0f} megapixels; cut it up") from error
    except Image.UnidentifiedImageError as error:
        raise BadImage("not a picture that Pillow can read") from error
    except Exception as error:  # Pillow's plugins raise a dozen types on damaged files
        raise BadImage(f"cannot be decoded ({error})") from error


def check_size(size: tuple[int, int]) -> None:
    """Raises BadImage for (H, W) without pixels or with more than MAX_PIXELS."""
    if 0 in size:
        raise BadImage(f"is {size[1]}x{size[0]}: it has no pixels")
    if size[0] * size[1] > MAX_PIXELS:
        raise BadImage(
            f"would be {size[1]}x{size[0]}, more than {MAX_PIXELS / 1e6:.0f} megapixels; cut it up"
        )


def _contents(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise BadImage("there is no such file") from error
    except IsADirectoryError as error:
        raise BadImage("is a folder where one picture is expected") from error
    except PermissionError as error:
        raise BadImage("may not be read (permission denied)") from error
    except OSError as error:
        raise BadImage(f"cannot be read ({error.strerror})") from error


def _from_pixels(pixels: np.ndarray) -> Picture:
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    if pixels.dtype not in (np.uint8, np.uint16) or pixels.ndim != 3 or pixels.shape[-1] == 2:
        raise BadImage(f"pixels must be uint8 or uint16 [H, W, 1, 3 or 4], not {pixels.dtype} "
                       f"{list(pixels.shape)}")  # fmt: skip
    if pixels.shape[-1] not in (1, 3, 4):
        raise BadImage(f"{pixels.shape[-1]} channels, where 1, 3 or 4 are expected")
    check_size(pixels.shape[:2])
    if pixels.shape[-1] == 4:
        return Picture(pixels[..., :3], pixels[..., 3:])
    return Picture(pixels)


def _decode(image: Image.Image) -> Picture:
    icc = image.info.get("icc_profile")
    planes, image = _deep(image)
    if planes is None:
        if image.mode == "I" and image.format in ("PNG", "PPM"):
            planes = np.asarray(image).astype(np.uint16)
        elif image.mode.startswith("I;16"):
            planes = np.asarray(image).astype(np.uint16)
        elif image.mode in ("I", "F"):
            raise BadImage("32-bit pixels have no known range; save it with 8 or 16 bits")
        elif image.mode == "LA" or (image.mode == "L" and image.has_transparency_data):
            planes = np.asarray(image.convert("LA"))
        elif image.has_transparency_data:
            planes = np.asarray(image.convert("RGBA"))
        elif image.mode in ("1", "L"):
            planes = np.asarray(image.convert("L"))
        else:  # palettes, CMYK, YCbCr and the like
            icc = None if image.mode in ("CMYK", "LAB") else icc
            planes = np.asarray(image.convert("RGB"))
    planes = planes[..., None] if planes.ndim == 2 else planes
    # After decoding: Pillow itself turns TIFFs upright then.
    planes = _UPRIGHT.get(image.getexif().get(0x0112), lambda a: a)(planes)
    colours = planes.shape[-1] - 1 + planes.shape[-1] % 2  # 1, 1, 3, 3 of 1, 2, 3, 4 planes
    pixels = np.ascontiguousarray(planes[..., :colours])
    alpha = None
    if planes.shape[-1] > colours:
        alpha = np.ascontiguousarray(planes[..., colours:])
    return Picture(pixels, alpha, icc)


def _deep(image: Image.Image) -> tuple[np.ndarray | None, Image.Image]:
    """uint16 `[H, W, 2, 3 or 4]` of a file with 16 bits a channel, of which Pillow keeps 8, or None.

    Pillow decodes such files by keeping one byte of each pair: which one, its raw mode says. So the
    file is decoded twice, once for the high bytes and once for the low ones. Also returns the image
    that was decoded, to which metadata belong.
    """
    tiles = getattr(image, "tile", None)
    if not tiles or image.mode.startswith("I"):
        return None, image
    args = tiles[0][3]
    raw = args if isinstance(args, str) else args[0] if args else ""
    if tiles[0][0] == "ppm" and image.mode == "RGB" and args[1] > 255:
        raise BadImage("16-bit colours of this format are not kept; save it as a 16-bit PNG")
    if ";16" not in str(raw):
        return None, image
    image.fp.seek(0)
    data, key = image.fp.read(), image.info.get("transparency")
    if raw == "LA;16B":  # four bytes a pixel, as 8-bit RGBA has
        image = _unpacked(data, "RGBA")
        wide = np.asarray(image).astype(np.uint16)
        return wide[..., ::2] * 256 + wide[..., 1::2], image
    mode, order = raw.split(";16")
    if mode not in ("RGB", "RGBA") or order not in ("B", "L", "N"):
        raise BadImage("16-bit colours of this layout are not kept; save it as a 16-bit PNG")
    high = ("L" if np.little_endian else "B") if order == "N" else order
    upper, lower = (_unpacked(data, f"{mode};16{o}") for o in (high, {"L": "B", "B": "L"}[high]))
    planes = np.asarray(upper).astype(np.uint16) * 256 + np.asarray(lower)
    if key is not None and mode == "RGB":  # a PNG may name one transparent colour
        alpha = np.where((planes == np.asarray(key)).all(-1, keepdims=True), 0, 65535)
        planes = np.concatenate([planes, alpha.astype(np.uint16)], axis=-1)
    return planes, upper


def _unpacked(data: bytes, raw: str) -> Image.Image:
    """The file, its bytes unpacked by another raw mode."""
    image = Image.open(io.BytesIO(data))
    args = [raw if isinstance(t[3], str) else (raw, *t[3][1:]) for t in image.tile]
    image.tile = [t._replace(args=a) for t, a in zip(image.tile, args, strict=True)]
    image.load()
    return image
