"""The loop of every sampler: over all of its times, or over the first few of a longer array."""

from __future__ import annotations

from collections.abc import Callable

import jax

from jax_bridges.typing import Array, PyTree


def scan_steps(
    step: Callable[[PyTree, PyTree], tuple[PyTree, PyTree]],
    start: PyTree,
    rows: PyTree,
    count: int | Array | None = None,
) -> tuple[PyTree, PyTree]:
    """`jax.lax.scan(step, start, rows)`; with a `count`, over that many rows, and without a path.

    A count may be traced: one program then does for all numbers of network calls. There is no gradient
    through it, and what the rows behind it hold is not looked at (it may be NaN).

    Raises:
      ValueError: a count, and a step that gives a path.
    """
    if count is None:
        return jax.lax.scan(step, start, rows)

    def body(k: Array, carry: PyTree) -> PyTree:
        row = jax.tree.map(lambda a: jax.lax.dynamic_index_in_dim(a, k, keepdims=False), rows)
        carry, point = step(carry, row)
        if point is not None:
            raise ValueError("A path has a point a time: give return_path or length, not both.")
        return carry

    return jax.lax.fori_loop(0, count, body, start), None
