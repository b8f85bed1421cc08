"""Picture files as they are stored: 8 or 16 bits, gray or colour, with alpha, upright.

Pillow reads most of them. Where it would keep 8 of 16 bits, or leave out what a file says about its
numbers, they are read here (PNG, PPM) and in `tiff.py`. For training `images.py` makes 8-bit RGB of
them; `restoring.pictures` keeps them as they are.
"""

from __future__ import annotations

import io
import re
import stat
import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from jax_bridges.data.errors import BadImage
from jax_bridges.data.tiff import ORIENTATION, WideTiff, check_numbers, read_tags

Encoded = Path | bytes  # a picture's file, by name or by content

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
_TRANSPOSED = (5, 6, 7, 8)
_BACK = {6: 8, 8: 6}  # the others undo themselves
_WHITE = {"L;2": 85, "L;4": 17}  # what Pillow multiplies gray of so few bits with, but not its key
_J2K_SIZE = b"\xff\x4f\xff\x51"  # start of a JPEG 2000 codestream, and the marker of its size


class PictureFile:
    """An open picture whose header has been read; `with open_picture(file) as picture: ...`.

    Attributes:
      size: (H, W) of the upright picture, as far as its header tells.
      frames: how many pictures are in it.
      format: "PNG", "TIFF", ...
      info: what else it says, by Pillow's names: "icc_profile", "dpi", ...
      transposed: the stored picture lies on its side.
      damaged: its EXIF cannot be read.
    """

    damaged = False

    def __init__(self, source: Image.Image | WideTiff, stream: BinaryIO | None):
        self._source, self._stream = source, stream
        self.format, self.info = source.format, source.info
        if isinstance(source, WideTiff):
            self.frames = source.frames
            height, width = source.size
            self.transposed = source.orientation in _TRANSPOSED
            self.size = (width, height) if self.transposed else (height, width)
            return
        (width, height), self.frames = source.size, getattr(source, "n_frames", 1)
        if source.format == "MPO":  # a photograph with a preview
            self.frames = 1
        late = source.format == "PNG" and "exif" not in source.info
        # Of a PNG without EXIF in front, `getexif` would decode the pixels to look behind them.
        orientation = 1 if late else self.orientation
        self.transposed = orientation in _TRANSPOSED
        turned = self.transposed and source.format != "TIFF"  # whose size Pillow gives upright
        self.size = (width, height) if turned else (height, width)

    @property
    def steps(self) -> list[tuple[np.ndarray, int, int]] | None:
        """Of the planes of a JPEG, gray or YCbCr: `[8, 8]` steps, rows and columns of pixels to a value.

        None of other pictures, and of what Pillow has decoded, which may have changed since.
        """
        layers: list[Any] = getattr(self._source, "layer", [])
        tables = getattr(self._source, "quantization", {})
        own_colours = self.info.get("adobe_transform") == 0 or [n for n, *_ in layers] == [*b"RGB"]
        if self._stream is None or len(layers) not in (1, 3) or own_colours:
            return None
        wide, high = (max(layer[i] for layer in layers) for i in (1, 2))
        if any(wide % layer[1] or high % layer[2] or layer[3] not in tables for layer in layers):
            return None
        steps = [np.array(tables[layer[3]], float).reshape(8, 8) for layer in layers]
        if len(layers) == 1:
            return [(steps[0], 1, 1)]
        return [(q, high // v, wide // h) for q, (_, h, v, _) in zip(steps, layers, strict=True)]

    def planes(self) -> np.ndarray:
        """uint8 or uint16 `[H, W, C]`, upright: gray, gray and alpha, RGB, or RGB and alpha (C = 1 to 4).

        Palettes, CMYK and the like become RGB; no colour profile or gamma is applied.

        Raises:
          BadImage: pixels of unknown range, or in a layout that cannot be read whole. Damaged files
            raise what Pillow raises.
        """
        if isinstance(self._source, WideTiff):
            planes, orientation = self._source.stored(), self._source.orientation
        else:
            planes = _stored(self._source, self._stream)
            # After decoding: Pillow itself turns TIFFs upright then.
            orientation = self.orientation
        planes = planes[..., None] if planes.ndim == 2 else planes
        return np.ascontiguousarray(_UPRIGHT.get(orientation, lambda a: a)(planes))

    @property
    def orientation(self) -> int:
        """That of its EXIF; 1, upright, where it has none or a damaged one, as viewers show it."""
        try:
            return self.exif().get(ORIENTATION, 1)
        except Exception:  # Pillow's reader raises many types
            self.damaged = True
            return 1

    def exif(self) -> Image.Exif:
        """Its EXIF; of a TIFF all its tags."""
        source = self._source
        return source.exif() if isinstance(source, WideTiff) else source.getexif()

    def bits(self) -> int:
        """Bits a channel, if there are more than `planes` keeps; else 0."""
        source = self._source
        deep = self.format in ("AVIF", "JPEG2000")
        if isinstance(source, WideTiff) or not deep or source.mode.startswith("I"):
            return 0
        found = _bits(self.contents())
        return found if found > 8 else 0

    def contents(self) -> bytes:
        """The whole file; b"" of a Pillow image that was never one."""
        if self._stream is None:
            return b""
        self._stream.seek(0)
        return self._stream.read()

    def close(self) -> None:
        """Closes the file."""
        if self._stream is not None:
            self._stream.close()

    def __enter__(self) -> PictureFile:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def as_stored(upright: np.ndarray, orientation: int) -> np.ndarray:
    """A view of upright pixels `[H, W, ...]` as they lie in a file of an EXIF orientation, 1 to 8."""
    return _UPRIGHT.get(_BACK.get(orientation, orientation), lambda a: a)(upright)


def open_picture(file: Encoded | Image.Image) -> PictureFile:
    """Opens a picture without decoding it (about 0.1 ms).

    Args:
      file: a path, the content of a file, or an image of Pillow's.

    Raises:
      BadImage: the reason why it cannot be opened, or has no known range.
    """
    if isinstance(file, Image.Image):
        source, waiting = getattr(file, "fp", None), getattr(file, "tile", None)
        if source is None or source.closed or not waiting:  # decoded already, or never a file
            return PictureFile(file, None)
        source.seek(0)
        file = bytes(source.read())
    stream = io.BytesIO(file) if isinstance(file, bytes) else _open(file)
    try:
        start = stream.read(1)
        if not start:
            raise BadImage("the file is empty")
        stream.seek(0)
        tags = read_tags(stream)
        if tags is not None and check_numbers(tags) == 16:
            picture = PictureFile(WideTiff(stream, tags), stream)
        else:
            picture = PictureFile(Image.open(stream), stream)
        if 0 in picture.size:
            raise BadImage(f"is {picture.size[1]}x{picture.size[0]}: it has no pixels")
        return picture
    except BaseException as error:
        stream.close()
        if isinstance(error, Image.DecompressionBombError):
            raise BadImage("has more than 100 megapixels; cut it up") from error
        if isinstance(error, Image.UnidentifiedImageError):
            raise BadImage("not a picture that Pillow can read") from error
        if isinstance(error, BadImage) or not isinstance(error, Exception):
            raise
        # Pillow's plugins raise a dozen types on damaged files.
        raise BadImage(f"cannot be opened ({error})") from error


def _open(path: Path) -> BinaryIO:
    try:
        if not stat.S_ISREG(mode := path.stat().st_mode) and not stat.S_ISDIR(mode):
            # To open a pipe would wait for who writes to it, and what was read is gone.
            raise BadImage("is no regular file but a pipe or a device; save the picture to a file")
        return open(path, "rb")
    except FileNotFoundError as error:
        raise BadImage("there is no such file") from error
    except IsADirectoryError as error:
        raise BadImage("is a folder where one picture is expected") from error
    except PermissionError as error:
        raise BadImage("may not be read (permission denied)") from error
    except OSError as error:
        raise BadImage(f"cannot be read ({error.strerror})") from error


def _stored(image: Image.Image, stream: BinaryIO | None) -> np.ndarray:
    """The pixels of a Pillow image that is no wide TIFF, as stored: `[H, W]` or `[H, W, 2, 3 or 4]`."""
    tile: Any = (getattr(image, "tile", None) or [("", None, 0, "")])[0]
    codec, _, _, arguments = tile
    raw = arguments if isinstance(arguments, str) else str(arguments[0]) if arguments else ""
    key = image.info.get("transparency")
    if codec == "SGI16" or (codec == "sgi_rle" and ";16" in raw):
        raise BadImage("16-bit pixels of this format are not kept; save it as a 16-bit PNG")
    if stream is not None and codec in ("ppm", "ppm_plain") and int(arguments[-1]) > 255:
        return _wide_ppm(image, tile, stream)
    if stream is not None and ";16" in raw and not image.mode.startswith("I"):
        return _with_key(_wide_png(image, stream, raw), key)
    if image.format == "JPEG2000" and stream is not None:
        stream.seek(0)
        bits = _bits(stream.read())
        if image.mode == "I;16":  # Pillow moves its 9 to 15 bits to the top
            planes = np.asarray(image) >> 16 - bits
            return np.rint(planes * (65535 / (2**bits - 1))).astype(np.uint16)
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return _with_key(np.asarray(image).astype(np.uint16), key)
    if image.mode in ("I", "F"):
        raise BadImage("32-bit pixels have no known range; save it with 8 or 16 bits")
    if image.mode in ("1", "L"):
        if isinstance(key, int):
            key *= _WHITE.get(raw, 1)
        return _with_key(np.asarray(image.convert("L")), key)
    if image.mode in ("LA", "La"):
        return np.asarray(image.convert("LA"))
    return np.asarray(image.convert("RGBA" if image.has_transparency_data else "RGB"))


def _with_key(planes: np.ndarray, key: int | tuple[int, ...] | None) -> np.ndarray:
    """Planes with an alpha that is 0 where they have the one colour that is transparent."""
    if key is None or planes.shape[2:] in ((2,), (4,)):
        return planes
    planes = planes[..., None] if planes.ndim == 2 else planes
    top = np.iinfo(planes.dtype).max
    alpha = np.where((planes == np.asarray(key)).all(-1, keepdims=True), 0, top)
    return np.concatenate([planes, alpha.astype(planes.dtype)], axis=-1)


def _wide_png(image: Image.Image, stream: BinaryIO, raw: str) -> np.ndarray:
    """uint16 `[H, W, 2, 3 or 4]` of a PNG with 16 bits a channel.

    Pillow decodes such a file by keeping one byte of each pair: which one, its raw mode says. So it
    is decoded twice, once for the high bytes and once for the low ones.
    """
    if image.format != "PNG" or raw not in ("LA;16B", "RGB;16B", "RGBA;16B"):
        raise BadImage("16-bit pixels of this layout are not kept; save it as a 16-bit PNG")
    stream.seek(0)
    data = stream.read()

    def decoded(raw: str) -> np.ndarray:
        image = Image.open(io.BytesIO(data))
        image.tile = [tile._replace(args=raw) for tile in image.tile]
        return np.asarray(image).astype(np.uint16)

    if raw == "LA;16B":  # four bytes a pixel, as 8-bit RGBA has
        wide = decoded("RGBA")
        return wide[..., ::2] * 256 + wide[..., 1::2]
    return decoded(raw) * 256 + decoded(raw[:-1] + "L")


def _wide_ppm(image: Image.Image, tile: tuple, stream: BinaryIO) -> np.ndarray:
    """uint16 `[H, W]` or `[H, W, 3]` of a PGM or PPM whose white is more than 255."""
    codec, _, offset, (mode, white) = tile
    shape = (image.height, image.width, 3) if mode == "RGB" else (image.height, image.width)
    stream.seek(offset)
    count = int(np.prod(shape))
    if codec == "ppm":
        planes = np.frombuffer(stream.read(2 * count), ">u2")
    else:  # decimal numbers, and comments
        planes = np.array(re.sub(rb"#[^\r\n]*", b"", stream.read()).split()[:count], np.int64)
    if len(planes) < count or planes.max() > white:
        raise BadImage(f"cannot be decoded (its numbers are not {count} of at most {white})")
    return np.rint(planes * (65535 / white)).astype(np.uint16).reshape(shape)


def _bits(data: bytes) -> int:
    """Most bits a channel, from the header of a JPEG 2000 codestream or an AVIF; BadImage if signed."""
    at = data.find(_J2K_SIZE)
    if at >= 0:
        (count,) = struct.unpack_from(">H", data, at + 40)
        each = data[at + 42 : at + 42 + 3 * count : 3]
        if any(byte & 0x80 for byte in each):
            raise BadImage("signed pixels have no known range; save it with 8 or 16 unsigned bits")
        return max(byte + 1 for byte in each)
    at = data.find(b"av1C")
    if at < 0:
        return 8
    return {0: 8, 2: 10, 3: 12}.get(data[at + 6] >> 5 & 3, 8)
