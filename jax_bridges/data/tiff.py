"""TIFF files of 16 bits a sample, of which Pillow keeps 8, misses planes or forgets that white is zero.

The tags are read, and strips and tiles decompressed, by Pillow (libtiff) and zlib; where samples
lie, and what their numbers mean, is decided here (TIFF 6.0, 1992).
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import PREFIXES, ImageFileDirectory_v2

from jax_bridges.data.errors import BadImage

ORIENTATION = 274
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER = 256, 257, 258, 259, 262, 266
_STRIPS, _SAMPLES, _STRIP_ROWS, _STRIP_BYTES, _PLANAR, _PREDICTOR = 273, 277, 278, 279, 284, 317
_TILE_WIDTH, _TILE_ROWS, _TILES, _TILE_BYTES, _EXTRA, _FORMAT = 322, 323, 324, 325, 338, 339
_ICC = 34675
_PLAIN, _DEFLATE = (1,), (8, 32946)
_LIBTIFF = (5, 32773, 34925, 50000)  # LZW, PackBits, LZMA, Zstandard: any bytes, whatever they mean
_COLOURS = {0: 1, 1: 1, 2: 3, 5: 4}  # photometric interpretation -> samples that are colours
_CMYK = 5
_REVERSED = bytes(int(f"{i:08b}"[::-1], 2) for i in range(256))


def read_tags(stream: BinaryIO) -> ImageFileDirectory_v2 | None:
    """The tags of the first picture; None if it is no TIFF. The stream's place is kept."""
    place = stream.tell()
    head = stream.read(16)
    tags = None
    if head.startswith(tuple(PREFIXES)):
        tags = ImageFileDirectory_v2(head[: 16 if head[2] == 43 else 8])
        stream.seek(tags.next)
        tags.load(stream)
    stream.seek(place)
    return tags


def check_numbers(tags: Mapping[int, Any]) -> int:
    """Bits a sample: 1, 2, 4, 8 or 16.

    Raises BadImage for samples whose range is not known: signed, floating, of other or mixed bits.
    """
    kinds, bits = set(_tuple(tags, _FORMAT, 1)), set(_tuple(tags, _BITS, 1))
    if kinds - {1, 4}:
        what = "signed" if 2 in kinds else "floating" if 3 in kinds else "complex"
        raise BadImage(
            f"{max(bits)}-bit {what} pixels have no known range; save it with 8 or 16 unsigned bits"
        )
    if len(bits) > 1 or max(bits) not in (1, 2, 4, 8, 16):
        said = " and ".join(str(n) for n in sorted(bits))
        raise BadImage(f"{said}-bit pixels have no known range; save it with 8 or 16 bits")
    return bits.pop()


class WideTiff:
    """A TIFF of 16 bits a sample whose tags have been read and found to be of a known kind.

    Attributes:
      size: (H, W) as stored, before `orientation`.
      orientation: as in EXIF.
      frames: 1, or 2 for any larger number.
      info: "icc_profile", where the file has one.
    """

    format = "TIFF"

    def __init__(self, stream: BinaryIO, tags: ImageFileDirectory_v2):
        """Raises BadImage for what cannot be read as it is meant."""
        self._stream, self.tags = stream, tags
        if _WIDTH not in tags or _HEIGHT not in tags:
            raise BadImage("cannot be decoded (the file does not say how large it is)")
        self.size = tags[_HEIGHT], tags[_WIDTH]
        self.orientation = tags.get(ORIENTATION, 1)
        self.frames = 2 if tags.next else 1
        self.info = {"icc_profile": tags[_ICC]} if _ICC in tags else {}
        self._photometric = tags.get(_PHOTOMETRIC, 0)
        if self._photometric not in _COLOURS:
            raise BadImage("16-bit pixels that are neither gray, RGB nor CMYK; save it as RGB")
        if tags.get(_COMPRESSION, 1) not in (*_PLAIN, *_DEFLATE, *_LIBTIFF):
            raise BadImage("16-bit pixels compressed with loss; save it as a 16-bit PNG")
        if tags.get(_PREDICTOR, 1) not in (1, 2):
            raise BadImage("16-bit pixels with a predictor that is not known; save it as a PNG")
        colours = _COLOURS[self._photometric]
        self._samples = tags.get(_SAMPLES, colours)
        if self._samples < colours:
            raise BadImage(f"{self._samples} samples a pixel, where {colours} are expected")
        # What kind of number a further sample is; those of RGB that does not say are alpha.
        said = _tuple(tags, _EXTRA, 2 if colours == 3 else 0)
        further = (*said, *(0,) * self._samples)[: self._samples - colours]
        if colours == 1 and any(kind not in (1, 2) for kind in further):
            raise BadImage(
                f"has {self._samples} channels, where gray, RGB or one of them with alpha is expected"
            )
        self._alpha = next((i for i, kind in enumerate(further, colours) if kind in (1, 2)), None)
        self._multiplied = self._alpha is not None and further[self._alpha - colours] == 1

    def exif(self) -> Image.Exif:
        """Its EXIF and the tags that TIFF and EXIF have in common."""
        exif = Image.Exif()
        exif.endian, exif.bigtiff = self.tags._endian, self.tags._bigtiff
        exif.load_from_fp(self._stream, self.tags.offset)
        return exif

    def stored(self) -> np.ndarray:
        """uint16 `[H, W, C]`, C = 1 (gray), 2 (and alpha), 3 (RGB) or 4 (and alpha): white is 65535."""
        planes = self._samples_as_stored()
        colours = _COLOURS[self._photometric]
        alpha = None if self._alpha is None else planes[..., self._alpha, None]
        planes = planes[..., :colours]
        if self._photometric == 0:
            planes = 65535 - planes
        if self._photometric == _CMYK:
            inks = 65535 - planes.astype(np.uint32)
            planes = ((inks[..., :3] * inks[..., 3:] + 32767) // 65535).astype(np.uint16)
        if alpha is not None and self._multiplied:
            whole = np.rint(planes * (65535 / np.maximum(alpha, 1)))
            planes = np.minimum(whole, 65535).astype(np.uint16)
        return planes if alpha is None else np.concatenate([planes, alpha], axis=-1)

    def _samples_as_stored(self) -> np.ndarray:
        """uint16 `[H, W, samples]`: the numbers in the file, their strips or tiles side by side."""
        tags, (height, width), tiled = self.tags, self.size, _TILES in self.tags
        rows, columns = (
            (tags[_TILE_ROWS], tags[_TILE_WIDTH])
            if tiled
            else (min(tags.get(_STRIP_ROWS, height), height), width)
        )
        offsets = _tuple(tags, _TILES if tiled else _STRIPS)
        counts = _tuple(tags, _TILE_BYTES if tiled else _STRIP_BYTES)
        separate = tags.get(_PLANAR, 1) == 2
        layers, each = (self._samples, 1) if separate else (1, self._samples)
        places = [
            (layer, y, x)
            for layer in range(layers)
            for y in range(0, height, rows)
            for x in range(0, width, columns)
        ]
        if not (len(places) == len(offsets) == len(counts)):
            raise BadImage("cannot be decoded (it does not say where all its strips are)")
        order = ">u2" if tags.prefix == b"MM" else "<u2"
        out = np.empty((height, width, self._samples), np.uint16)
        for (layer, y, x), offset, count in zip(places, offsets, counts, strict=True):
            high = rows if tiled else min(rows, height - y)
            shape = high, columns, each
            self._stream.seek(offset)
            data = self._unpacked(self._stream.read(count), high, columns * each * 2)
            part = np.frombuffer(data, order, int(np.prod(shape))).reshape(shape)
            if tags.get(_PREDICTOR, 1) == 2:
                part = np.cumsum(part, axis=1, dtype=np.uint16)
            y1, x1 = min(y + high, height), min(x + columns, width)
            out[y:y1, x:x1, layer : layer + each] = part[: y1 - y, : x1 - x]
        return out

    def _unpacked(self, data: bytes, rows: int, row: int) -> bytes:
        """The bytes of a strip or tile of so many rows of so many bytes."""
        compression = self.tags.get(_COMPRESSION, 1)
        if self.tags.get(_FILL_ORDER, 1) == 2:
            data = data.translate(_REVERSED)
        if compression in _PLAIN:
            return data
        if compression in _DEFLATE:
            return zlib.decompress(data)
        # Each strip as a gray TIFF of its own, for libtiff.
        tags = {_WIDTH: row, _HEIGHT: rows, _BITS: 8, _COMPRESSION: compression, _PHOTOMETRIC: 1}
        tags |= {_SAMPLES: 1, _STRIP_ROWS: rows, _STRIP_BYTES: len(data)}
        tags |= {_STRIPS: 0}  # counted from behind the tags, by `tobytes`
        ifd = ImageFileDirectory_v2()
        for tag, value in tags.items():
            ifd[tag] = value
        head = b"II*\0\x08\0\0\0" + ifd.tobytes(8)
        with Image.open(io.BytesIO(head + data)) as image:
            return np.asarray(image).tobytes()


def _tuple(tags: Mapping[int, Any], tag: int, default: int | None = None) -> tuple[int, ...]:
    value = tags.get(tag, () if default is None else default)
    return value if isinstance(value, tuple) else (value,)
