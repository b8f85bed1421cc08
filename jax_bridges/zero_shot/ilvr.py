"""ILVR: the low frequencies of a reference replace those of every sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import jax
import jax.numpy as jnp

from jax_bridges.bridges import Levels
from jax_bridges.corruptions import LinearOperator
from jax_bridges.keys import Keys, normal
from jax_bridges.schema import Either, Natural, Only, whole
from jax_bridges.typing import Array
from jax_bridges.zero_shot.steps import Steps, ancestral, draws, predict, start_noise, walk

_DRAWS = draws("noise", "reference")

# As a text holds it: the factor of `corruptions.superres.low_pass`.
LOW_PASS = Either((whole(least=2), Only(None)))


def solve_ilvr(
    denoise,
    operator: LinearOperator,
    y: Array,
    sigma_y: float | Array,
    times: Levels,
    keys: Keys,
    *,
    clip: bool = True,
    low_pass: Annotated[Callable[[Array], Array] | None, LOW_PASS] = None,
    free_steps: Natural = 0,
    as_shipped: bool = False,
) -> Array:
    """Iterative latent variable refinement (Choi et al. 2021, arXiv 2108.02938, alg. 1).

    After each ancestral step `x' <- x' - phi(x') + phi(q(x' | x_0 = A^+ y))`.

    Args:
      sigma_y: taken for 0 whatever it is.
      low_pass: phi; by default A^+ A, which keeps the measurement exactly. The paper's is shrinking
        and enlarging by bicubic interpolation, `corruptions.superres.low_pass(factor)`.
      free_steps: so many last steps are not refined (the official range_t).
      as_shipped: the reference has the noise of the level before the step, as in the official code.
      keys: draw 0 is x_T, 1 + 2k the noise of step k, 2 + 2k the reference's.
      others: see `ddnm.solve_ddnm`.

    Returns:
      x_0 `[B, H, W, C]`.
    """
    del sigma_y
    steps, reference = walk(times, y), operator.pinv(y)
    phi = operator.project if low_pass is None else low_pass
    count = steps.t.shape[0]

    def advance(x: Array, step: Steps):
        x0, fraction = predict(denoise, x, step.t, clip)
        noise = normal(keys, _DRAWS("noise", step.number), x)
        x = ancestral(x0, x, step, noise, fraction)
        alpha, sigma = (step.alpha, step.sigma) if as_shipped else (step.alpha_to, step.sigma_to)
        noised = alpha * reference + sigma * normal(keys, _DRAWS("reference", step.number), x)
        refined = x + phi(noised - x)
        return jnp.where(step.number < count - free_steps, refined, x), None

    x, _ = jax.lax.scan(advance, start_noise(times, reference, keys), steps)
    return x
