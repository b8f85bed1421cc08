"""Zero-shot solvers as programs: whole ones, or on a CPU one program a step where gradients are in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from jax_bridges.corruptions import LinearOperator
from jax_bridges.keys import Keys
from jax_bridges.training.parallel import Parallel
from jax_bridges.typing import Array, PyTree
from jax_bridges.zero_shot import Loop, Method, apart, loop_here


class Problem(NamedTuple):
    """What a solver is asked.

    Attributes:
      denoise: `x0_hat = denoise(x_t, t)`.
      operator, y, sigma_y: y = A x_0 + noise.
      keys: `[B]`, of the solver's noise.
      knobs: settings of the solver that are traced, besides the method's.
      told: what is needed of the images once they are restored.
    """

    denoise: Callable[[Array, Array], Any]
    operator: LinearOperator
    y: Array
    sigma_y: float
    keys: Keys
    knobs: Mapping[str, Any] = {}
    told: Any = None


def map_solver(
    parallel: Parallel,
    method: Method,
    pose: Callable[[PyTree, PyTree, Array], Problem],
    finish: Callable[[Array, Problem], PyTree],
) -> Callable[[PyTree, PyTree, Array], PyTree]:
    """`sample(params, batch, key)`, over all devices, as of `Parallel.map`.

    Args:
      pose: `pose(params, batch, key)`.
      finish: `finish(x, problem)`, what is made of the solver's x `[B, H, W, C]`.
    """

    def call(solve: Callable[..., Any], problem: Problem) -> Any:
        denoise, operator, y, sigma_y, keys, knobs, _ = problem
        knobs = {**method.knobs, **knobs}
        return solve(denoise, operator, y, sigma_y, method.levels, keys, **knobs)

    def whole(params: PyTree, batch: PyTree, key: Array) -> PyTree:
        problem = pose(params, batch, key)
        return finish(call(method.solver.solve, problem), problem)

    make = loop_here(method.solver.solve)
    if make is None:
        return parallel.map(whole)

    def loop(params: PyTree, batch: PyTree, key: Array) -> Loop:
        return call(make, pose(params, batch, key))

    parts = apart(loop)

    def advance(given: PyTree, batch: PyTree, key: Array) -> PyTree:
        params, k = given
        return parts.advance(k, batch["state"], params, batch["given"], key)

    def answer(params: PyTree, batch: PyTree, key: Array) -> PyTree:
        given = params, batch["given"], key
        return finish(parts.answer(batch["state"], *given), pose(*given))

    begin, step, end = (parallel.map(part) for part in (parts.begin, advance, answer))

    def sample(params: PyTree, batch: PyTree, key: Array) -> PyTree:
        state = begin(params, batch, key)
        for k in range(method.nfe):
            state = step((params, np.int32(k)), {"given": batch, "state": state}, key)
        return end(params, {"given": batch, "state": state}, key)

    return sample
