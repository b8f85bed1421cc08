"""What a picture's file says about how to show its pixels, as chunks of the PNG that is written.

The model sees numbers alone; whoever looks at the result should see the known pixels as before: in
the colours of the same profile or gamma, at the same size on paper, with the camera's notes. PNG
(third edition, W3C 2025) has a chunk for each; what has none is named.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from typing import Any

from PIL import ExifTags, Image

from jax_bridges.data.decode import PictureFile

Chunk = tuple[bytes, bytes]  # name, content

# Copied from PNG to PNG as they are; profile, print size and EXIF are made anew for all formats.
_COPIED = (b"cICP", b"gAMA", b"cHRM", b"sRGB", b"mDCV", b"cLLI")
_METRE = 1 / 0.0254  # inches
_MOST = 2**31 - 1  # of PNG's numbers
_NO_SIZE = "its print size"
# TIFF tags that say what colours the numbers are, and which no PNG can say.
_TIFF_COLOURS = {301: "TransferFunction", 318: "WhitePoint", 319: "PrimaryChromaticities"}
_TIFF_COLOURS |= {532: "ReferenceBlackWhite"}
_EXTRA_SAMPLES = 338
# Of a TIFF's tags those that EXIF has too and that are about the photograph, not about the file.
_PHOTOGRAPH = {ExifTags.Base[name].value for name in (
    *("ImageDescription", "Make", "Model", "Software", "DateTime", "Artist", "HostComputer"),
    "Copyright",
)}  # fmt: skip
_SUBFOLDERS = (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)
# Made wrong by turning and enlarging; print size is in pHYs.
_STALE = {ExifTags.Base[name].value for name in (
    *("Orientation", "XResolution", "YResolution", "ResolutionUnit", "ImageWidth", "ImageLength"),
    *("ExifImageWidth", "ExifImageHeight"),
)}  # fmt: skip


def statements(file: PictureFile, gray: bool) -> tuple[tuple[Chunk, ...], tuple[str, ...]]:
    """The chunks of an open picture, and what cannot be kept, each in a few words.

    Args:
      gray: its pixels became gray, not RGB.
    """
    chunks, lost = [], []
    data = file.contents() if file.format in ("PNG", "AVIF", "JPEG2000") else b""
    if file.format == "PNG":
        chunks += [(name, content) for name, content in _png_chunks(data) if name in _COPIED]
    if file.format == "AVIF":
        chunks += _cicp(data)
    profile = file.info.get("icc_profile") or _jp2_profile(data)
    if profile:
        if profile[16:20] == (b"GRAY" if gray else b"RGB "):
            chunks.append((b"iCCP", b"icc\0\0" + zlib.compress(profile)))
        else:  # of pixels that were converted, CMYK above all
            kind = profile[16:20].decode("ascii", "replace").strip()
            lost.append(f"its profile, which is for {kind} and not for {'gray' if gray else 'RGB'}")
    try:
        exif = file.exif()
        if file.damaged:
            raise ValueError("damaged")
        density, unsaid = _density(file, exif)
        chunks += density
        lost += unsaid
        if kept := _exif(exif, file.format):
            chunks.append((b"eXIf", kept))
        if file.format == "TIFF":
            lost += [f"its {name}" for tag, name in _TIFF_COLOURS.items() if tag in exif]
            further = exif.get(_EXTRA_SAMPLES, ())
            if len(further if isinstance(further, tuple) else (further,)) > 1 or further == 0:
                lost.append("its further channels")
    except Exception:  # Pillow's reader raises many types on damaged ones
        lost.append("its EXIF, which is damaged")
    return tuple(chunks), tuple(lost)


def densified(chunks: tuple[Chunk, ...], factor: int) -> tuple[tuple[Chunk, ...], tuple[str, ...]]:
    """The chunks of a picture with `factor` times as many pixels an inch, and what cannot be kept."""
    kept, lost = [], []
    for name, content in chunks:
        if name == b"pHYs":
            x, y, unit = struct.unpack(">IIB", content)
            if unit and max(x, y) * factor > _MOST:
                lost.append(_NO_SIZE)
                continue
            content = struct.pack(">IIB", x * factor, y * factor, unit) if unit else content
        kept.append((name, content))
    return tuple(kept), tuple(lost)


def jpeg_density(chunks: tuple[Chunk, ...]) -> tuple[tuple[int, int] | None, tuple[str, ...]]:
    """Pixels an inch as a JPEG states them, whole and of 16 bits, or None; and what it cannot state."""
    content = dict(chunks).get(b"pHYs")
    if content is None:
        return None, ()
    x, y, metres = struct.unpack(">IIB", content)
    exact = x / _METRE, y / _METRE
    dpi = round(exact[0]), round(exact[1])
    # Of few pixels an inch rounding would change the size itself, as of 2.54 to 3.
    near = all(abs(r - e) <= 0.01 * e for r, e in zip(dpi, exact, strict=True))
    if not (metres and near and 1 <= min(dpi) and max(dpi) < 2**16):
        return None, (_NO_SIZE,)
    return dpi, ()


def _png_chunks(data: bytes) -> Iterator[Chunk]:
    place = 8
    while place + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, place)
        yield name, data[place + 8 : place + 8 + length]
        place += 12 + length


def _density(file: PictureFile, exif: Image.Exif) -> tuple[list[Chunk], list[str]]:
    """Pixels a metre, or the shape of a pixel where the file gives no unit; and what no PNG can say."""
    info, unit, scale = file.info, 0, 1.0
    pair: Any
    if "dpi" in info and file.format != "TIFF":  # where Pillow makes one up
        pair, unit, scale = info["dpi"], 1, _METRE
    elif not (pair := info.get("aspect") or info.get("jfif_density")):
        pair = exif.get(ExifTags.Base.XResolution), exif.get(ExifTags.Base.YResolution)
        inches = {2: 1.0, 3: 2.54}.get(exif.get(ExifTags.Base.ResolutionUnit, 2))
        unit, scale = (1, _METRE * inches) if inches else (0, 1.0)
    try:
        x, y = (float(n) * scale for n in pair)
    except (TypeError, ValueError, ArithmeticError):  # none, or no numbers
        return [], []
    if not (math.isfinite(x) and math.isfinite(y) and min(x, y) > 0):  # nothing is said by these
        return [], []
    if file.transposed:
        x, y = y, x
    if not unit and x == y:  # square pixels need not be said
        return [], []
    if not unit and max(x, y) < 1000:
        x, y = x * 1000, y * 1000
    x, y = round(x), round(y)
    if not (1 <= min(x, y) and max(x, y) <= _MOST):
        return [], [_NO_SIZE]
    return [(b"pHYs", struct.pack(">IIB", x, y, unit))], []


def _exif(exif: Image.Exif, kind: str | None) -> bytes:
    """What EXIF says about the photograph, without its orientation and preview; b"" if nothing."""
    kept = Image.Exif()
    kept.endian = exif.endian
    for tag, value in exif.items():
        if tag in _SUBFOLDERS or tag in _STALE or (kind == "TIFF" and tag not in _PHOTOGRAPH):
            continue
        kept[tag] = value
    for folder in _SUBFOLDERS:
        below = {k: v for k, v in exif.get_ifd(folder).items() if k not in _STALE}
        if ExifTags.IFD.Interop in below:
            below[ExifTags.IFD.Interop] = exif.get_ifd(ExifTags.IFD.Interop)
        if below:
            kept[folder] = below
    return kept.tobytes().removeprefix(b"Exif\0\0") if len(kept) else b""


def _cicp(data: bytes) -> list[Chunk]:
    """The colours of an AVIF by their numbers (ITU-T H.273), unless they are unknown or sRGB's."""
    at = data.find(b"colrnclx")
    if at < 0:
        return []
    primaries, transfer = struct.unpack_from(">HH", data, at + 8)
    if primaries in (0, 2) or (primaries, transfer) in ((1, 13), (1, 2)):
        return []
    return [(b"cICP", bytes((primaries, transfer, 0, 1)))]  # the pixels are RGB, in full range


def _jp2_profile(data: bytes) -> bytes:
    """The profile in a JPEG 2000, which Pillow does not look for; b"" if there is none."""
    at = data.find(b"colr\x02")
    if at < 4 or not data.startswith(b"\0\0\0\x0cjP  "):
        return b""
    (length,) = struct.unpack_from(">I", data, at - 4)
    return data[at + 7 : at - 4 + length]
