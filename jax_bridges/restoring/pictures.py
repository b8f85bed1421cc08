"""Pictures as a person has them, without loss: 8 or 16 bits, gray or colour, with alpha, upright.

A file ends as a `Picture` or as a `BadImage` whose text is the reason. What is written is PNG,
because a lossy format changes known pixels, or JPEG for whoever asks for it.
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

from jax_bridges.corruptions.superres import cubic
from jax_bridges.data.decode import PictureFile, open_picture
from jax_bridges.data.errors import BadImage
from jax_bridges.io.atomic import write_atomic
from jax_bridges.restoring.jpeg_steps import JPEGSteps
from jax_bridges.restoring.statements import Chunk, densified, jpeg_density, statements

_ALL = (slice(None), slice(None))
JPEGS = (".jpg", ".jpeg")
QUALITY = 95
_LOSSY = ("JPEG", "MPO", "WEBP", "AVIF", "JPEG2000")  # mostly, at least
_JPEG_SIDE = 65_500  # pixels; of the usual library
_JPEG_EXIF = 65_533 - len(b"Exif\0\0")  # bytes in one segment
_NO_JPEG = {b"gAMA": "its gamma", b"cHRM": "its primaries", b"cICP": "its colours by number"}
_NO_JPEG |= {b"mDCV": "its mastering display", b"cLLI": "its light level"}
MAX_PIXELS = 100_000_000  # a float32 copy of three channels is then 1.2 GB
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # of gray from colour (ITU-R BT.601)


@dataclasses.dataclass(frozen=True)
class Picture:
    """An upright picture as stored.

    Attributes:
      pixels: uint8 or uint16 `[H, W, C]`, C = 1 (gray) or 3 (RGB).
      alpha: `[H, W, 1]` of the same type, or None.
      chunks: what its file says about how to show them (profile, gamma, print size, EXIF), as chunks
        of a PNG: carried along and never applied.
      left_out: what of that cannot be carried along, each in a few words.
      jpeg: the steps of the JPEG file whose pixels these are; None: they are of none.
      lossy: they are of a file in a format that may have changed them.
      small: the picture that it was enlarged from, if it was.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    chunks: tuple[Chunk, ...] = ()
    left_out: tuple[str, ...] = ()
    jpeg: JPEGSteps | None = None
    lossy: bool = False
    small: Picture | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.pixels.shape[:2]

    def to_float(self, where: tuple[slice, slice] = _ALL) -> np.ndarray:
        """float32 `[H, W, 3]` in [-1, 1], of these rows and columns; gray is repeated."""
        pixels = self.pixels[where]
        top = np.float32(np.iinfo(pixels.dtype).max)
        image = pixels.astype(np.float32) / (top / 2) - 1
        return np.broadcast_to(image, (*pixels.shape[:2], 3))

    def enlarged(self, factor: int, interpolated: bool = False) -> Picture:
        """Every pixel, alpha too, repeated factor x factor times, on as much paper as before.

        Args:
          interpolated: by bicubic interpolation (Keys' kernel, a = -1/2, mirrored at the borders) instead.
        """

        def repeat(a: np.ndarray) -> np.ndarray:
            return a.repeat(factor, axis=0).repeat(factor, axis=1)

        def interpolate(a: np.ndarray) -> np.ndarray:
            fine = _interpolated(_interpolated(a.astype(np.float32), factor, 0), factor, 1)
            return np.clip(np.rint(fine), 0, np.iinfo(a.dtype).max).astype(a.dtype)

        grow = interpolate if interpolated else repeat
        chunks, lost = densified(self.chunks, factor)
        alpha = None if self.alpha is None else grow(self.alpha)
        return Picture(grow(self.pixels), alpha, chunks, self.left_out + lost, small=self)

    def compose(
        self,
        restored: np.ndarray,
        hole: np.ndarray | None,
        colours: bool,
        where: tuple[slice, slice] | None = None,
    ) -> Picture:
        """This picture with `restored` in the hole, all other pixels as they are.

        Args:
          restored: float `[H, W, 3]` in [-1, 1].
          hole: bool `[H, W]`; None: everywhere.
          colours: a gray picture becomes RGB; otherwise it stays gray (the luma of `restored`).
          where: the rows and columns that `restored` is of, with all of the hole; None: all.

        Raises:
          ValueError: `restored` holds NaN or infinity where it is needed.
        """
        where = where or _ALL
        hole = None if hole is None else hole[where]
        if not np.isfinite(restored if hole is None else restored[hole]).all():
            raise ValueError(
                "The model's answer holds NaN or infinity, so nothing of it is kept: its weights, or the "
                "settings it was called with, are at fault."
            )
        picture = self.coloured() if colours else self
        old = picture.pixels[where]
        if old.shape[-1] == 1:
            restored = (restored @ _LUMA)[..., None]
        top = np.iinfo(old.dtype).max
        new = np.clip(np.rint((restored + 1) * (top / 2)), 0, top).astype(old.dtype)
        new = new if hole is None else np.where(hole[..., None], new, old)
        pixels = picture.pixels.copy()
        pixels[where] = new
        return dataclasses.replace(picture, pixels=pixels, jpeg=None, lossy=False, small=None)

    def coloured(self) -> Picture:
        """As RGB: a gray picture repeated, without its profile, which would not fit."""
        if self.pixels.shape[-1] == 3:
            return self
        chunks = tuple(c for c in self.chunks if c[0] != b"iCCP")
        lost = ("its profile of grays, since it becomes a picture in colours",)
        lost = self.left_out + lost * (len(chunks) < len(self.chunks))
        return Picture(self.pixels.repeat(3, axis=-1), self.alpha, chunks, lost)

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
        chunks += self.chunks
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

    def _repr_png_(self) -> bytes:
        """A notebook shows it."""
        return self.to_png()

    def to_jpeg(self, quality: int = QUALITY) -> bytes:
        """A JPEG of 8 bits and full colour resolution, with profile, print size and EXIF.

        Known pixels change slightly; `jpeg_lacks` names what else is lost.

        Raises:
          BadImage: a side is too long for a JPEG.
        """
        check_jpeg(self.size)
        gray = self.pixels.shape[-1] == 1
        shown = self.to_uint8()
        options, said = {}, dict(self.chunks)
        if b"iCCP" in said:
            options["icc_profile"] = zlib.decompress(said[b"iCCP"].partition(b"\0")[2][1:])
        if len(said.get(b"eXIf", b"")) in range(1, _JPEG_EXIF + 1):
            options["exif"] = b"Exif\0\0" + said[b"eXIf"]
        if (dpi := jpeg_density(self.chunks)[0]) is not None:
            options["dpi"] = dpi
        out = io.BytesIO()
        image = Image.fromarray(shown[..., 0] if gray else shown)
        image.save(out, "JPEG", quality=quality, subsampling=0, optimize=True, **options)
        return out.getvalue()

    @property
    def jpeg_lacks(self) -> tuple[str, ...]:
        """What a JPEG of it lacks, each in a few words, beside what `left_out` says."""
        lost = ["the lower half of its 16 bits"] * (self.pixels.dtype == np.uint16)
        if self.alpha is not None and (self.alpha < np.iinfo(self.alpha.dtype).max).any():
            lost.append("its transparency")
        lost += [_NO_JPEG[name] for name, _ in self.chunks if name in _NO_JPEG]
        if len(dict(self.chunks).get(b"eXIf", b"")) > _JPEG_EXIF:
            lost.append("its EXIF")
        return (*lost, *jpeg_density(self.chunks)[1])

    def save(
        self, path: str | os.PathLike, force: bool = False, quality: int | None = None
    ) -> Path:
        """Writes a PNG, or a JPEG where the name ends in .jpg, whole or not at all.

        Warns of what a JPEG of it lacks beside exact pixels (`jpeg_lacks`).

        Args:
          force: an existing file is overwritten.
          quality: of a JPEG, 1 to 100; 95 by default.

        Raises:
          FileExistsError: the file is there, and `force` is not set.
          ValueError: the name ends otherwise, or a quality that there is not.
        """
        path = Path(path)
        check_suffix(path, quality)
        if path.exists() and not force:
            raise FileExistsError(f"{path} exists already: give another name, or force=True.")
        if path.suffix.lower() not in JPEGS:
            return write_atomic(path, self.to_png())
        written = write_atomic(path, self.to_jpeg(quality or QUALITY))
        if lost := self.jpeg_lacks:
            warnings.warn(f"{path} lacks {' and '.join(lost)}: a .png keeps that.", stacklevel=2)
        return written


def check_jpeg(size: tuple[int, int]) -> None:
    """Raises BadImage for (H, W) that no JPEG can have."""
    if max(size) > _JPEG_SIDE:
        raise BadImage(
            f"would be {size[1]}x{size[0]}, and a JPEG has at most {_JPEG_SIDE} pixels a side: write a "
            ".png"
        )


def check_suffix(path: Path, quality: int | None) -> None:
    """ValueError unless the name is one of a PNG or a JPEG, and the quality one of such."""
    if path.suffix.lower() not in (".png", *JPEGS):
        raise ValueError(
            f"{path}: pictures are written as PNG, which keeps known pixels bit for bit, or as JPEG, "
            "which does not; give a name that ends in .png or .jpg."
        )
    if quality is None:
        return
    if not 1 <= quality <= 100:
        raise ValueError(
            f"quality = {quality}: of a JPEG it is 1 to 100, and {QUALITY} by default."
        )
    if path.suffix.lower() == ".png":
        raise ValueError(
            f"{path}: a PNG loses nothing and has no quality; leave that out, or write .jpg."
        )


def read_picture(source: str | os.PathLike | bytes | Image.Image | np.ndarray | Picture) -> Picture:
    """A picture from a file, its bytes, a Pillow image, or pixels.

    >>> import numpy as np
    >>> picture = read_picture(np.full((40, 60, 3), 128, np.uint8))
    >>> picture.size, picture.pixels.dtype, picture.alpha is None
    ((40, 60), dtype('uint8'), True)

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
    if isinstance(source, str | os.PathLike):
        if not os.fspath(source):
            raise BadImage("its name is empty")
        source = Path(source)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with open_picture(source) as file:
            return _decode(file)


def check_size(size: tuple[int, int]) -> None:
    """Raises BadImage for (H, W) without pixels or with more than MAX_PIXELS."""
    if 0 in size:
        raise BadImage(f"is {size[1]}x{size[0]}: it has no pixels")
    if size[0] * size[1] > MAX_PIXELS:
        raise BadImage(
            f"would be {size[1]}x{size[0]}, more than {MAX_PIXELS / 1e6:.0f} megapixels; cut it up"
        )


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


def _decode(file: PictureFile) -> Picture:
    check_size(file.size)
    if file.frames > 1:
        raise BadImage(f"has {file.frames} frames where one picture is expected")
    try:
        bits = file.bits()
        if bits:
            raise BadImage(
                f"has {bits} bits a channel, of which 8 are read; save it as a 16-bit PNG"
            )
        planes = file.planes()
        said = statements(file, gray=planes.shape[-1] < 3)
    except BadImage:
        raise
    except Exception as error:  # Pillow's plugins raise a dozen types on damaged files
        raise BadImage(f"cannot be decoded ({error})") from error
    colours = planes.shape[-1] - 1 + planes.shape[-1] % 2  # 1, 1, 3, 3 of 1, 2, 3, 4 planes
    alpha = planes[..., colours:] if planes.shape[-1] > colours else None
    lossy = file.format in _LOSSY
    return Picture(planes[..., :colours], alpha, *said, JPEGSteps.of_file(file), lossy)


def _interpolated(a: np.ndarray, factor: int, axis: int) -> np.ndarray:
    """`a` with `factor` times as many values along an axis: as `superres.bicubic_enlarge`."""
    count = a.shape[axis]
    places = np.pad(np.arange(count), 2, mode="symmetric")
    out = []
    for phase in range(factor):
        centre = (phase + 0.5) / factor - 0.5
        first = int(np.floor(centre)) - 1
        taps = cubic(centre - (first + np.arange(4)))
        near = (np.take(a, places[2 + first + k : 2 + first + k + count], axis) for k in range(4))
        out.append(sum(np.float32(t) * part for t, part in zip(taps, near, strict=True)))
    return np.stack(out, axis + 1).reshape(*a.shape[:axis], count * factor, *a.shape[axis + 1 :])
