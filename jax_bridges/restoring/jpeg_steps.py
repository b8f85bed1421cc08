"""How far from what a JPEG file says its original can be: answers are kept as near.

Of each 8 x 8 pixels of brightness, and of colours, JPEG stores cosine coefficients as multiples of steps q.
The original's are within q / 2 of what is read (the quantisation constraint set), and mostly much nearer:
where q is more than a coefficient's own spread, rounding leaves zero. So coefficients of an answer are
clipped to `reach(q)` around those read (a narrow set as of Park and Kim, IEEE Trans. Image Processing 8(10),
1999, here narrower where q is small). Projected onto a convex set an answer comes nearer to whatever lies
inside.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import fft

from jax_bridges.corruptions.jpeg import quantisation_tables
from jax_bridges.data.decode import PictureFile, as_stored

NARROW, EVEN = 0.35, 12.0  # of a step, levels of 255; results/files_narrow.md
_BAND = 256  # rows at once
# RGB to Y, Cb, Cr (JFIF; the constants 128 of colours cancel).
_YCBCR = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])


@dataclasses.dataclass(frozen=True, eq=False)
class JPEGSteps:
    """In which steps a JPEG file holds a picture.

    Attributes:
      steps: float `[8, 8]` of each plane, in levels of 255: Y, or Y, Cb and Cr.
      coarse: (rows, columns) of pixels that share a value of colour.
      orientation: EXIF's, 1 to 8, by which what is stored was turned upright.
    """

    steps: tuple[np.ndarray, ...]
    coarse: tuple[int, int] = (1, 1)
    orientation: int = 1

    @classmethod
    def of_file(cls, file: PictureFile) -> JPEGSteps | None:
        """Those of a file; None of one that is no JPEG, or whose brightness is not of every pixel."""
        planes = file.steps
        if planes is None or planes[0][1:] != (1, 1) or len({each[1:] for each in planes[1:]}) > 1:
            return None
        return cls(tuple(q for q, *_ in planes), planes[-1][1:], file.orientation)

    @property
    def quality(self) -> int:
        """1 to 100, of which libjpeg's steps of brightness are nearest, in all."""
        luma = quantisation_tables(np.arange(1, 101)[:, None, None])[0]
        return 1 + int(np.argmin(np.abs(luma.sum((1, 2)) - self.steps[0].sum())))

    def narrow(self, answer: np.ndarray, read: np.ndarray) -> np.ndarray:
        """An answer to what was read of the file, with each coefficient within `reach` of the file's.

        Args:
          answer: float `[H, W, 3]` in [-1, 1], upright.
          read: uint8 `[H, W, 1 or 3]`, upright, the file's pixels.
        """
        result = np.array(answer, np.float32)
        stored, known = (as_stored(a, self.orientation) for a in (result, read))
        unit = 8 * self.coarse[0], 8 * self.coarse[1]
        rows = unit[0] * max(1, _BAND // unit[0])
        for top in range(0, len(stored), rows):
            band = stored[top : top + rows]
            band += self._correction(band, known[top : top + rows] / np.float32(127.5) - 1, unit)
        return result

    def _correction(
        self, answer: np.ndarray, read: np.ndarray, unit: tuple[int, int]
    ) -> np.ndarray:
        height, width = answer.shape[:2]
        # Encoders repeat the border's pixels where a block goes beyond it.
        more = [(0, -length % n) for length, n in zip((height, width), unit, strict=True)]
        off = np.pad((answer - read) @ (127.5 * _YCBCR.T), (*more, (0, 0)), mode="edge")
        change = np.zeros_like(off)
        for plane, steps in enumerate(self.steps):
            coarse = self.coarse if plane else (1, 1)
            change[..., plane] = _repeated(_excess(_means(off[..., plane], coarse), steps), coarse)
        return -(change[:height, :width] @ np.linalg.inv(127.5 * _YCBCR.T))


def reach(steps: np.ndarray) -> np.ndarray:
    """By how much coefficients of an answer may differ from those read, r(q) = `NARROW` q^2 / (q + `EVEN`).

    What a network says is off by some levels however small q is, so the smaller q, the less it is heard.

    Args:
      steps: q, in levels of 255.
    """
    return NARROW * steps**2 / (steps + EVEN)


def _excess(off: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """What is too much of a plane `[H, W]`, by blocks of 8 x 8."""
    height, width = off.shape
    blocks = off.reshape(height // 8, 8, width // 8, 8)
    waves = fft.dctn(blocks, axes=(1, 3), norm="ortho")
    most = reach(steps)[None, :, None, :]
    beyond = waves - np.clip(waves, -most, most)
    return fft.idctn(beyond, axes=(1, 3), norm="ortho").reshape(height, width)


def _means(plane: np.ndarray, coarse: tuple[int, int]) -> np.ndarray:
    (height, width), (down, right) = plane.shape, coarse
    return plane.reshape(height // down, down, width // right, right).mean((1, 3))


def _repeated(plane: np.ndarray, coarse: tuple[int, int]) -> np.ndarray:
    return plane.repeat(coarse[0], axis=0).repeat(coarse[1], axis=1)
