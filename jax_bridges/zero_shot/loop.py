"""A solver taken apart: the steps of its loop, each of which can be a program of its own.

XLA's CPU backend runs the convolution gradients of a loop's body on a slow path, ten times slower
(`platforms.unroll_gradients`). A solver that differentiates the network is therefore, on a CPU, a Python
loop over one compiled step (`loop_here`, `apart`); everywhere else, and for whoever just calls it, a scan.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Generic, NamedTuple, ParamSpec

import jax

from jax_bridges.platforms import target
from jax_bridges.typing import Array, PyTree

_P = ParamSpec("_P")


class Loop(NamedTuple):
    """What a solver does.

    Attributes:
      start: arrays `[B, ...]` before the first step.
      rows: what the steps differ in, leaves `[n, ...]`.
      advance: `advance(state, row) -> state`, one network call.
      answer: `answer(state)`, x_0 `[B, H, W, C]`.
    """

    start: PyTree
    rows: PyTree
    advance: Callable[[PyTree, PyTree], PyTree]
    answer: Callable[[PyTree], Array]

    @property
    def length(self) -> int:
        """How many steps."""
        return len(jax.tree.leaves(self.rows)[0])

    def row(self, k: int | Array) -> PyTree:
        """What step k, which may be traced, is told."""
        return jax.tree.map(lambda a: jax.lax.dynamic_index_in_dim(a, k, keepdims=False), self.rows)

    def run(self) -> Array:
        """All steps, as a scan."""
        state, _ = jax.lax.scan(
            lambda state, row: (self.advance(state, row), None), self.start, self.rows
        )
        return self.answer(state)


class Looped(Generic[_P]):
    """A solver from the function that takes it apart, which it is a decorator of.

    Attributes:
      loop: that function.
    """

    def __init__(self, loop: Callable[_P, Loop]):
        functools.update_wrapper(self, loop)
        self.loop = loop

    def __call__(self, *args: _P.args, **kwargs: _P.kwargs) -> Array:
        return self.loop(*args, **kwargs).run()


def loop_here(solve: Callable) -> Callable[..., Loop] | None:
    """What takes a solver apart, where one program a step is the faster way: on a CPU; else None."""
    return solve.loop if isinstance(solve, Looped) and target() == "cpu" else None


class Apart(NamedTuple):
    """The three programs of a solver in steps, each to be compiled by itself; `given` is the loop's.

    Attributes:
      begin: `begin(*given)`, the state before the first step.
      advance: `advance(k, state, *given)`, that after step k.
      answer: `answer(state, *given)`, of the last state.
    """

    begin: Callable[..., PyTree]
    advance: Callable[..., PyTree]
    answer: Callable[..., Array]


def apart(loop: Callable[..., Loop]) -> Apart:
    """The programs of `loop(*given)`; what one of them does not need of it is not computed."""

    def advance(k, state, *given):
        its = loop(*given)
        return its.advance(state, its.row(k))

    return Apart(
        lambda *given: loop(*given).start,
        advance,
        lambda state, *given: loop(*given).answer(state),
    )
