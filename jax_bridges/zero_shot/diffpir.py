"""DiffPIR: each prediction is weighed against the measurement by a proximal step in closed form."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jax_bridges.bridges import Levels
from jax_bridges.corruptions import LinearOperator
from jax_bridges.keys import Keys, normal
from jax_bridges.schema import Positive, Share
from jax_bridges.typing import Array
from jax_bridges.zero_shot.steps import START, Steps, draws, predict, predicted_noise, walk

_DRAWS = draws("noise")


def proximal(operator: LinearOperator, x0: Array, y: Array, rho: Array) -> Array:
    """`argmin_x |A x - y|^2 + rho |x - x0|^2`, `[B, H, W, C]`; for rho -> 0 DDNM's projection of x0."""
    residual = operator.transpose(y - operator.forward(x0))
    return x0 + operator.spectral_map(
        residual, lambda s: jnp.where(s > 0, 1.0 / jnp.where(s > 0, s**2 + rho, 1.0), 0.0)
    )


def solve_diffpir(
    denoise,
    operator: LinearOperator,
    y: Array,
    sigma_y: float | Array,
    times: Levels,
    keys: Keys,
    *,
    weight: Positive = 1.0,
    zeta: Share = 1.0,
    least_noise: Positive = 1e-3,
    project_last: bool = False,
    clip: bool = False,
) -> Array:
    """Plug-and-play restoration (Zhu et al. 2023, arXiv 2305.08995, alg. 1).

    `x0' = argmin |A x - y|^2 + rho |x - x0_hat|^2` with `rho = weight sigma_y^2 alpha^2 / sigma^2`, then
    `x = alpha' x0' + sigma' (sqrt(1 - zeta) e' + sqrt(zeta) z)` with the noise e' that x0' leaves of x_t.
    It starts at alpha A^+ y + sigma z. The operator needs `spectral_map`.

    Args:
      sigma_y: standard deviation of the noise in y, in units of [-1, 1].
      weight: lambda, of the prior against the measurement; 1 for inpainting, up to 10 for blur.
      zeta: share of fresh noise, of its variance.
      least_noise: sigma_y where it is smaller, so that a measurement without noise has a rho.
      project_last: also the last prediction is weighed, which the official code returns as it is.
      clip: clamps x0_hat to [-1, 1].
      keys: draw 0 is x_T's noise, 1 + k that of step k.
      others: see `ddnm.solve_ddnm`. The paper visits 20 to 100 levels.

    Returns:
      x_0 `[B, H, W, C]`.
    """
    steps = walk(times, y)
    noise2 = jnp.maximum(jnp.asarray(sigma_y, steps.t.dtype), least_noise) ** 2

    def advance(x: Array, step: Steps):
        x0, _ = predict(denoise, x, step.t, clip)
        moved = proximal(operator, x0, y, weight * noise2 * (step.alpha / step.sigma) ** 2)
        if not project_last:
            moved = jnp.where(step.last, x0, moved)
        e, z = predicted_noise(x, moved, step), normal(keys, _DRAWS("noise", step.number), x)
        mix = jnp.sqrt(1.0 - zeta) * e + jnp.sqrt(zeta) * z
        return step.alpha_to * moved + step.sigma_to * mix, None

    image = operator.pinv(y)
    x = steps.alpha[0] * image + steps.sigma[0] * normal(keys, START, image)
    x, _ = jax.lax.scan(advance, x, steps)
    return x
