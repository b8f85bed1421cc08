"""RePaint: known pixels are put back, at the level's noise, before every network call."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jax_bridges.bridges import Levels
from jax_bridges.corruptions import LinearOperator
from jax_bridges.keys import Keys, normal
from jax_bridges.typing import Array
from jax_bridges.zero_shot.steps import (
    Steps,
    Travel,
    ancestral,
    draws,
    predict,
    start_noise,
    travel_back,
    walk,
)

_DRAWS = draws("noise", "known", "jump")


def repaint_step(
    denoise, operator: LinearOperator, known, x, noise, known_noise, step: Steps, clip=True
):
    """One step from x to the level below, both `[B, H, W, C]`; known is A^+ y."""
    noised = step.alpha * known + step.sigma * operator.project(known_noise)
    # The first state is pure noise, as in the official code, which has no prediction to mix yet.
    x = jnp.where(step.first, x, x - operator.project(x) + noised)
    x0, fraction = predict(denoise, x, step.t, clip)
    return ancestral(x0, x, step, noise, fraction)


def solve_repaint(
    denoise,
    operator: LinearOperator,
    y: Array,
    sigma_y: float | Array,
    times: Levels,
    keys: Keys,
    *,
    clip: bool = True,
    travel: Travel = (10, 10),
    paste: bool = True,
) -> Array:
    """Inpainting with an unconditional model (Lugmayr et al. 2022, arXiv 2201.09865, alg. 1).

    Before each call the known pixels (the range of A, for other operators) are replaced by a draw of
    q(x_t | x_0), then an ancestral step follows; jumps back draw from q(x_{t + l} | x_t).

    Args:
      sigma_y: taken for 0 whatever it is.
      travel: how far a jump goes back, and how often each stretch is walked in all; (10, 10) with 250
        levels is the paper's, 2410 network calls.
      paste: the result takes the known part from y; the official code returns the raw sample.
      keys: draw 0 is x_T, 1 + 3k the noise of step k, 2 + 3k the known part's, 3 + 3k the jump's.
      others: see `ddnm.solve_ddnm`.

    Returns:
      x_0 `[B, H, W, C]`.
    """
    del sigma_y
    steps, known = walk(times, y, travel), operator.pinv(y)

    def advance(x: Array, step: Steps):
        noise, known_noise, jump = (
            normal(keys, _DRAWS(name, step.number), x) for name in ("noise", "known", "jump")
        )
        x = repaint_step(denoise, operator, known, x, noise, known_noise, step, clip)
        return travel_back(x, step, jump) if travel[1] > 1 else x, None

    x, _ = jax.lax.scan(advance, start_noise(times, known, keys), steps)
    return x - operator.project(x) + known if paste else x
