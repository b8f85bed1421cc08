"""SDEdit: noise a guide image half-way and denoise it again."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jax_bridges.bridges import Levels
from jax_bridges.corruptions import LinearOperator
from jax_bridges.keys import Keys, normal
from jax_bridges.schema import Count
from jax_bridges.typing import Array
from jax_bridges.zero_shot.steps import START, Steps, ancestral, draws, predict, walk

_DRAWS = draws("noise")  # of each repeat


def solve_sdedit(
    denoise,
    operator: LinearOperator,
    y: Array,
    sigma_y: float | Array,
    times: Levels,
    keys: Keys,
    *,
    repeats: Count = 1,
    known: bool = False,
    clip: bool = False,
) -> Array:
    """Meng et al. 2022, arXiv 2108.01073, alg. 1 and, with `known`, alg. 2: the guide is A^+ y.

    Args:
      sigma_y: not used.
      times: levels from the guide's noise (half-way, t_0 = 0.5, in the paper) down.
      repeats: how often the whole is done, each time from the last result (3 in the official code).
      known: after each step the range of A (the unedited pixels of a mask) is put back at the level
        just left, with the same noise, and at the end without, as in the official code.
      keys: draw r (n + 1) is the noise of repeat r for n levels, the next n those of its steps.
      others: see `ddnm.solve_ddnm`.

    Returns:
      x_0 `[B, H, W, C]`.
    """
    del sigma_y
    if repeats < 1:
        raise ValueError(f"repeats is {repeats}: it must be at least 1.")
    steps, guide = walk(times, y), operator.pinv(y)
    count = steps.t.shape[0]

    def once(x0: Array, repeat: Array):
        before = repeat * _DRAWS.after(count)
        noise = normal(keys, before + START, x0)

        def advance(x: Array, step: Steps):
            prediction, fraction = predict(denoise, x, step.t, clip)
            fresh = normal(keys, before + _DRAWS("noise", step.number), x)
            x = ancestral(prediction, x, step, fresh, fraction)
            if known:
                x = x + operator.project(step.alpha * x0 + step.sigma * noise - x)
            return x, None

        start = steps.alpha[0] * x0 + steps.sigma[0] * noise
        x, _ = jax.lax.scan(advance, start, steps)
        return (x + operator.project(guide - x) if known else x), None

    x, _ = jax.lax.scan(once, guide, jnp.arange(repeats))
    return x
