"""Batches as a pure function of the step, decoded ahead of time in threads.

Draw number d of a run (d = step * batch size + position) is example `perm[d % n]` of the source,
where `perm` is the shuffle of epoch `d // n`: every example comes once an epoch, nothing is
dropped, epochs run on into each other, and the position to resume from is the step alone. A source of
random crops is drawn at a place that is a function of d.
"""

from __future__ import annotations

import functools
import math
import os
import sys
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor

import numpy as np

from jax_bridges.data.crops import RandomCrops
from jax_bridges.data.source import Source, permutation

Batch = dict[str, np.ndarray]
_PREFETCH = 2  # batches decoded ahead of the consumer


class Loader:
    """Maps a step to a batch of this host.

    A batch is {"x0": uint8 [*shape, H, W, 3], "index": uint32 [*shape]}, and "xT" like "x0" for a
    paired source, "label" int32 [*shape] for one with classes (of observations what their examples have,
    instead of "x0"); `shape` is `batch_shape` with the last axis divided by the number of hosts.
    `index` is the draw number (modulo 2**32), the same for any number of hosts: noise keys are made
    of it. Decoded examples are kept in memory up to `cache_mb`, so that later epochs are copies.
    """

    def __init__(
        self,
        source: Source,
        batch_shape: tuple[int, ...],
        seed: int = 0,
        process_index: int = 0,
        process_count: int = 1,
        cache_mb: float = 512,
        threads: int = 0,
    ):
        """
        Args:
          source: where examples come from; its length must not change.
          batch_shape: the global shape, such as (B,) or (G, B).
          seed: of the shuffles; non-negative.
          process_index, process_count: this host takes the slice `process_index` of
            `process_count` equal ones along the last axis of `batch_shape`.
          cache_mb: memory for decoded examples, in 2**20 bytes; 0 = no cache.
          threads: that decode in `iterate`; 0 = one a core, at most 16.

        Raises:
          ValueError: an empty source or batch, or hosts that do not divide the last axis.
        """
        if not batch_shape or min(batch_shape) < 1:
            raise ValueError(f"The batch shape {batch_shape} must have positive sides.")
        if batch_shape[-1] % process_count or not 0 <= process_index < process_count:
            raise ValueError(
                f"The last axis of the batch shape {tuple(batch_shape)} must divide by the number "
                f"of hosts, {process_count}, and host {process_index} must be one of them."
            )
        if len(source) == 0:
            raise ValueError(f"{source.name} has no examples.")
        self.source, self.seed = source, seed
        self.batch_shape = tuple(batch_shape)
        self.threads = threads or min(16, os.cpu_count() or 1)
        share = batch_shape[-1] // process_count
        positions = np.arange(math.prod(batch_shape)).reshape(batch_shape)
        self._positions = positions[..., process_index * share : (process_index + 1) * share]

        # The cache holds the first examples, as many as fit: no eviction, so hits do not depend on
        # the history. `np.empty` takes memory only for the slots that are filled.
        self._like = {key: np.asarray(value) for key, value in source[0].items()}
        room = int(cache_mb * 2**20 / sum(value.nbytes for value in self._like.values()))
        self._cuts = source if isinstance(source, RandomCrops) else None
        if self._cuts:
            room = 0  # no crop comes twice; the source keeps the pictures
        order = self._cuts.order if self._cuts else functools.partial(permutation, len(source))
        self._order = functools.lru_cache(maxsize=4)(functools.partial(order, seed))
        self._room = min(room, len(source))
        self._cache = self._empty(self._room)
        self._filled = np.zeros(len(source), bool)

    def batch_at(self, step: int) -> Batch:
        """The batch of a step (from 0): a pure function of (seed, step, batch_shape, source)."""
        return self._batch(step, None)

    def iterate(self, start_step: int = 0) -> BatchIterator:
        """The batches of start_step, start_step + 1, ... without end, decoded ahead in threads.

        Close it, use it in a `with` statement or drop it to stop the threads.
        """
        return BatchIterator(self, start_step)

    def _empty(self, n: int) -> Batch:
        """Room for n examples."""
        return {k: np.empty((n, *like.shape), like.dtype) for k, like in self._like.items()}

    def _batch(self, step: int, pool: Executor | None) -> Batch:
        draws = step * math.prod(self.batch_shape) + self._positions
        flat = draws.ravel()
        epochs, within = np.divmod(flat, len(self.source))
        examples = np.empty_like(flat)
        for epoch in range(epochs.min(), epochs.max() + 1):
            here = epochs == epoch
            examples[here] = self._order(epoch)[within[here]]

        batch = self._empty(len(flat))
        cached = self._filled[examples]
        if cached.all():
            for key, values in batch.items():
                np.take(self._cache[key], examples, axis=0, out=values)
        else:
            rows = range(len(flat))
            parts = (
                [rows] if pool is None else [rows[i :: self.threads] for i in range(self.threads)]
            )
            fill = functools.partial(self._fill, batch, examples)
            if self._cuts:
                places = self._cuts.places(flat, self.seed)
                fill = functools.partial(self._cut, self._cuts, batch, examples, places)
            for _ in (map if pool is None else pool.map)(fill, parts):
                pass  # runs all of it, raises what it raised
        batch = {k: values.reshape(*draws.shape, *values.shape[1:]) for k, values in batch.items()}
        return {**batch, "index": draws.astype(np.uint32)}

    def _cut(
        self,
        source: RandomCrops,
        batch: Batch,
        examples: np.ndarray,
        places: np.ndarray,
        rows: range,
    ) -> None:
        """Writes the crops of some rows of a batch."""
        for row in rows:
            for key, value in source.cut(int(examples[row]), places[row]).items():
                batch[key][row] = value

    def _fill(self, batch: Batch, examples: np.ndarray, rows: range) -> None:
        """Writes the examples of some rows of a batch, from the cache or the source."""
        for row in rows:
            i = int(examples[row])
            if self._filled[i]:
                for key, values in batch.items():
                    values[row] = self._cache[key][i]
                continue
            for key, value in self.source[i].items():
                batch[key][row] = value
                if i < self._room:
                    self._cache[key][i] = value
            self._filled[i] = i < self._room


class BatchIterator(Iterator[Batch]):
    """Iterator over the batches of a `Loader`; raises in the consumer what a worker raised.

    Attributes:
      step: the step of the batch that `next` will return: what to resume from.
    """

    def __init__(self, loader: Loader, start_step: int):
        self.step = start_step
        self._loader = loader
        self._lock = threading.Lock()
        self._decoders = ThreadPoolExecutor(loader.threads, "decode")
        self._assembler = ThreadPoolExecutor(1, "batch")  # one thread keeps batches in order
        self._ahead: deque = deque()
        self._next_submit = start_step
        for _ in range(_PREFETCH):
            self._submit()

    def _submit(self) -> None:
        make, step = self._loader._batch, self._next_submit
        self._ahead.append(self._assembler.submit(make, step, self._decoders))
        self._next_submit += 1

    def __next__(self) -> Batch:
        with self._lock:
            if not self._ahead:
                raise StopIteration
            future = self._ahead.popleft()
            self._submit()
            try:
                batch = future.result()
            except BaseException:
                self.close()
                raise
            self.step += 1
            return batch

    def close(self) -> None:
        """Stops and joins the threads; `next` then ends. Harmless when closed already."""
        self._ahead.clear()
        self._assembler.shutdown(wait=True, cancel_futures=True)
        self._decoders.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> BatchIterator:
        return self

    def __exit__(self, *error) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_ahead") and not sys.is_finalizing():  # then nothing is left to stop
            self.close()


def first(source: Source, n: int, start: int = 0) -> Batch:
    """The first n examples of a source, or n from number `start` on, for evaluation.

    Returns:
      {"x0": uint8 [n, H, W, 3], "index": uint32 [n] = start .. start + n - 1}, "xT" if paired, and "label"
      int32 [n] if there are classes.

    Raises:
      ValueError: the source has fewer than n examples, or n < 1.
    """
    if not 1 <= n <= len(source) - start:
        raise ValueError(f"{source.name} has {len(source)} examples, {start + n} are asked for.")
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        examples = list(pool.map(source.__getitem__, range(start, start + n)))
    batch = {key: np.stack([example[key] for example in examples]) for key in examples[0]}
    return {**batch, "index": np.arange(start, start + n, dtype=np.uint32)}


def pad(batch: Batch, size: int) -> Batch:
    """The batch with its last example repeated up to `size` examples."""
    return {
        k: np.concatenate([v, np.repeat(v[-1:], size - len(v), axis=0)]) for k, v in batch.items()
    }
