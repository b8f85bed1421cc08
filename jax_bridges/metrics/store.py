"""Features of a set of images, kept in a file once they are many: memory does not grow with them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

import numpy as np

BLOCK = 1024  # rows that are in memory at once
IN_MEMORY = 4 * 2**20  # bytes, beyond which a store lives on the disk


class Store:
    """Rows [N, D] that come batch by batch; `take` and `blocks` read them as an array would give them."""

    def __init__(self):
        self._file = tempfile.SpooledTemporaryFile(IN_MEMORY)
        self._count, self._width, self._dtype = 0, 0, np.dtype(np.float32)

    def __len__(self) -> int:
        return self._count

    def add(self, rows) -> None:
        """Rows [n, D], of the type and width of the first ones. Raises ValueError for others."""
        rows = np.ascontiguousarray(rows)
        if not self._count:
            self._width, self._dtype = rows.shape[1], rows.dtype
        if rows.ndim != 2 or rows.shape[1] != self._width or rows.dtype != self._dtype:
            raise ValueError(
                f"This store holds rows of {self._width} {self._dtype}, not {rows.dtype} {rows.shape}."
            )
        self._file.seek(0, 2)
        self._file.write(rows.tobytes())
        self._count += len(rows)

    def take(self, rows, axis: int = 0) -> np.ndarray:
        """[len(rows), D], the rows of these numbers; as `numpy.ndarray.take`."""
        del axis
        rows = np.asarray(rows)
        if len(rows) and len(rows) == rows[-1] - rows[0] + 1 and (np.diff(rows) == 1).all():
            return self._read(int(rows[0]), len(rows))
        return np.concatenate([self._read(int(i), 1) for i in rows])

    def blocks(self, picks: np.ndarray | None = None) -> Iterator[np.ndarray]:
        """All rows, or those of the numbers `picks` [M], BLOCK rows of the store at a time.

        Picked rows come in the order of `picks` within a block.
        """
        for start in range(0, self._count, BLOCK):
            rows = self._read(start, min(BLOCK, self._count - start))
            if picks is None:
                yield rows
                continue
            here = picks[(picks >= start) & (picks < start + len(rows))]
            if len(here):
                yield rows[here - start]

    def _read(self, start: int, count: int) -> np.ndarray:
        size = self._width * self._dtype.itemsize
        self._file.seek(start * size)
        return np.frombuffer(self._file.read(count * size), self._dtype).reshape(count, self._width)


class Picked:
    """The rows of a store that `picks` [M] names, in that order; to be read as the store itself."""

    def __init__(self, store: Store, picks: np.ndarray):
        self._store, self._picks = store, picks

    def __len__(self) -> int:
        return len(self._picks)

    def take(self, rows, axis: int = 0) -> np.ndarray:
        """As `Store.take`."""
        return self._store.take(self._picks[np.asarray(rows)], axis)
