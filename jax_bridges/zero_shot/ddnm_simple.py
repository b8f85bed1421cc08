"""DDNM+ without singular values, for operators with A A^+ noise about as strong as sigma_y."""

from __future__ import annotations

from typing import Annotated

import jax.numpy as jnp

from jax_bridges.bridges import Levels
from jax_bridges.corruptions import LinearOperator
from jax_bridges.keys import Keys
from jax_bridges.schema import Choice, Share
from jax_bridges.typing import Array
from jax_bridges.zero_shot.ddnm import iterate
from jax_bridges.zero_shot.steps import Steps, Travel, kernel, predicted_noise

FORMS = ("paper", "simplified", "hq_demo")


def ddnm_simple_step(x, x0, residual, sigma_y, z, step: Steps, form: str, eta: float):
    """One step from x to the level below, `[B, H, W, C]`.

    Args:
      residual: A^+ (A x0_hat - y).
      z: the fresh noise.
      form, eta: see `solve_ddnm_simple`.
    """
    if form == "simplified":
        # As shipped: alpha_bar where its root is meant, and the noise scaled twice.
        alpha_bar = step.alpha_to**2
        std = jnp.sqrt(jnp.maximum(1.0 - alpha_bar**2, 0.0))
        noise = alpha_bar * sigma_y
    else:
        k = kernel(step)
        std, noise = jnp.sqrt(k.variance), k.x0 * sigma_y
    below = std / jnp.where(noise > 0, noise, 1.0)
    if form == "hq_demo":  # missing parentheses: sigma / a * sigma_y
        below = std / k.x0 * sigma_y
    gain = jnp.where(std >= noise, 1.0, below)
    shipped = form != "paper"
    left = std**2 - (noise if shipped else noise * gain) ** 2
    # As shipped no noise is left below the threshold; by eq. 19 what is left is 0 there, too.
    spread = jnp.where(std >= noise, jnp.sqrt(jnp.maximum(left, 0.0)), 0.0)
    xh = x0 - gain * residual
    if form == "simplified":
        e = predicted_noise(x, x0, step)
        mix = eta * z + jnp.sqrt(1.0 - eta**2) * e
        return step.alpha_to * xh + spread * step.sigma_to * mix
    return k.x0 * xh + k.xt * x + spread * z


def solve_ddnm_simple(
    denoise,
    operator: LinearOperator,
    y: Array,
    sigma_y: float | Array,
    times: Levels,
    keys: Keys,
    *,
    form: Annotated[str, Choice(FORMS)] = "paper",
    eta: Share = 0.85,
    clip: bool = False,
    travel: Travel = (1, 1),
    travel_as_shipped: bool = False,
) -> Array:
    """DDNM+ with one lambda and one gamma a level (arXiv 2212.00490, eq. 17-19).

    `x_to ~ N(c_0 xh + c_t x_t, gamma)`, c_0 and c_t of DDPM's posterior with variance v:
    `lambda = min(1, sqrt(v) / (c_0 sigma_y))`, `xh = x0_hat - lambda A^+ (A x0_hat - y)` and
    `gamma = v - (c_0 lambda sigma_y)^2`.

    Args:
      form: "paper", eq. 17-19; "simplified" and "hq_demo" reproduce the two official programs, defects
        included: the former scales its noise twice and takes alpha_bar for its root, the latter's
        lambda lacks a pair of parentheses (and it clips: pass clip=True).
      eta: share of fresh noise, "simplified" only.
      others: see `ddnm.solve_ddnm`; draw 1 + 2k is the noise of step k, 2 + 2k its jump's.

    Returns:
      x_0 `[B, H, W, C]`.
    """
    if form not in FORMS:
        raise ValueError(f"form is {form!r}: choose one of {', '.join(FORMS)}.")
    sigma_y = jnp.asarray(sigma_y, jnp.promote_types(y.dtype, jnp.float32))

    def rectify(x0: Array, e: Array, z: Array, step: Steps) -> Array:
        x = step.alpha * x0 + step.sigma * e
        residual = operator.pinv(operator.forward(x0) - y)
        return ddnm_simple_step(x, x0, residual, sigma_y, z, step, form, eta)

    return iterate(denoise, operator.pinv(y), times, keys, rectify, clip, travel, travel_as_shipped)
