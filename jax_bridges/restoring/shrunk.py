"""An enlarged picture that is shrunk again is the small one: answers are made so.

Of x the file says y = A x, A the shrinking that the model has learned to undo. An answer x becomes
x + A^+ (v - A x), the nearest x whose A x is v (the range-space term of DDNM, arXiv 2212.00490, eq. 13),
where v is what the file may stand for that is nearest to A x: within half a level of what is read, or, of a
JPEG, within its steps (`jpeg_steps`). What another lossy format has changed is not known: answers stay.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import linalg, sparse

from jax_bridges.corruptions.superres import bicubic_taps
from jax_bridges.restoring.pictures import Picture

_BAND = 256  # rows at once
_REACH = 4  # rows of A A^T have no more entries than that to a side


class Line:
    """The shrinking A of one axis, from n to n / factor pixels; a picture's is that of rows and of columns.

    Attributes:
      matrix: A, sparse, float32 `[n / factor, n]`.
    """

    def __init__(self, kind: str, n: int, factor: int):
        if kind == "bicubic":
            pixels, taps = bicubic_taps(n, factor)
        else:
            pixels, taps = np.arange(n).reshape(-1, factor), np.full(factor, 1 / factor)
        rows = np.broadcast_to(np.arange(len(pixels))[:, None], pixels.shape)
        values = np.broadcast_to(taps, pixels.shape)
        whole = sparse.coo_array((values.ravel(), (rows.ravel(), pixels.ravel()))).tocsr()
        self.matrix = whole.astype(np.float32)
        square = whole @ whole.T
        self._bands = np.zeros((min(_REACH, len(pixels) - 1) + 1, len(pixels)))
        for k, band in enumerate(self._bands):
            band[: len(band) - k] = square.diagonal(-k)

    def solve(self, right: np.ndarray) -> np.ndarray:
        """(A A^T)^-1 of columns `[n / factor, N]`."""
        # An answer of NaN is refused by `Picture.compose`.
        found = linalg.solveh_banded(self._bands, right, lower=True, check_finite=False)
        return found.astype(np.float32)


def agree(answer: np.ndarray, small: Picture, kind: str) -> np.ndarray:
    """An answer to an enlarged picture, changed so that it shrinks to the small one.

    Args:
      answer: float `[H, W, 3]` in [-1, 1], H and W that of `small` times a factor.
      small: a picture `[h, w]`.
      kind: bicubic (antialiased) or pool (means of blocks): how the picture was shrunk.

    Returns:
      float32 `[H, W, 3]`, which may leave [-1, 1].
    """
    if small.lossy and small.jpeg is None:
        return answer
    (height, width), factor = small.size, answer.shape[0] // small.size[0]
    down, across = Line(kind, height * factor, factor), Line(kind, width * factor, factor)
    result = np.array(answer, np.float32)
    narrow = np.empty((len(result), width, 3), np.float32)
    for rows in _bands(len(result)):
        narrow[rows] = _along(result[rows], across.matrix.T)
    low = (down.matrix @ narrow.reshape(len(result), -1)).reshape(height, width, 3)
    off = _nearest(low, small) - low
    off = down.solve(off.reshape(height, -1)).reshape(height, width, 3)
    off = across.solve(off.swapaxes(0, 1).reshape(width, -1)).reshape(width, height, 3)
    narrow = down.matrix.T @ off.swapaxes(0, 1).reshape(height, -1)
    for rows in _bands(len(result)):
        result[rows] += _along(narrow[rows].reshape(-1, width, 3), across.matrix)
    return result


def _nearest(low: np.ndarray, small: Picture) -> np.ndarray:
    """What the small picture may stand for, nearest to `low` `[h, w, 3]`."""
    if small.jpeg is not None:
        return small.jpeg.narrow(low, small.pixels)
    read, half = small.to_float(), 1 / np.float32(np.iinfo(small.pixels.dtype).max)
    return np.clip(low, read - half, read + half)


def _along(image: np.ndarray, matrix: sparse.csr_array) -> np.ndarray:
    """`[H, N, 3]` of `[H, M, 3]`, each row times a matrix `[M, N]`."""
    columns = image.swapaxes(0, 1).reshape(image.shape[1], -1)
    return (matrix.T @ columns).reshape(-1, len(image), 3).swapaxes(0, 1)


def _bands(count: int) -> Iterator[slice]:
    return (slice(start, start + _BAND) for start in range(0, count, _BAND))
