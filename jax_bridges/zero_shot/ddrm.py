"""DDRM: variational restoration in the spectral space of the operator."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jax_bridges.bridges import Levels
from jax_bridges.corruptions import LinearOperator
from jax_bridges.keys import Keys, normal
from jax_bridges.schema import Share
from jax_bridges.typing import Array
from jax_bridges.zero_shot.steps import START, Steps, draws, predict, predicted_noise, walk

_DRAWS = draws("noise")


def solve_ddrm(
    denoise,
    operator: LinearOperator,
    y: Array,
    sigma_y: float | Array,
    times: Levels,
    keys: Keys,
    *,
    eta: Share = 0.85,
    eta_b: Share = 1.0,
    clip: bool = False,
) -> Array:
    """Kawar et al. 2022, arXiv 2201.11793, eq. 7-8, without U or V: each case is a function of s.

    With `rho = sigma / alpha` of the target level, u = V^T A^+ y, v0 = V^T x0_hat, e = V^T noise:

        s = 0              v = v0 + rho (sqrt(1 - eta^2) e + eta z)
        s rho < sigma_y    v = v0 + rho (sqrt(1 - eta^2) s (u - v0) / sigma_y + eta z)
        s rho >= sigma_y   v = eta_b u + (1 - eta_b) v0 + sqrt(rho^2 - (eta_b sigma_y / s)^2) z

    and x = alpha V v. The operator needs `spectral_map`. Different from the official code for
    sigma_y = 0 alone: its last step, rho = 0, falls between the cases there and returns x0_hat;
    here it is the third case, so that A x = y.

    Args:
      sigma_y: standard deviation of the noise in y, in units of [-1, 1].
      eta: share of fresh noise in the first two cases (the paper's eta and eta_A).
      eta_b: share of the measurement in the third.
      keys: draw 0 is x_T's noise, 1 + k that of step k, as images (V z).
      others: see `ddnm.solve_ddnm`. The paper visits 20 levels.

    Returns:
      x_0 `[B, H, W, C]`.
    """
    steps = walk(times, y)
    dtype = steps.t.dtype
    sigma_y, rest = jnp.asarray(sigma_y, dtype), jnp.sqrt(jnp.asarray(1.0 - eta**2, dtype))
    known = operator.pinv(y)  # V u

    def spread(s, rho, share):
        noise = share * sigma_y / jnp.where(s > 0, s, 1.0)
        return jnp.sqrt(jnp.maximum(rho**2 - noise**2, 0.0))

    def inserted(s, rho):
        return (s > 0) & (s * rho >= sigma_y)

    # The start is scaled as x is for images of unit variance: sqrt(alpha^2 + sigma^2) / rho.
    alpha, sigma = steps.alpha[0], steps.sigma[0]
    rho = sigma / alpha
    z = normal(keys, START, known)
    x = operator.spectral_map(known, lambda s: jnp.where(inserted(s, rho), 1.0, 0.0))
    x += operator.spectral_map(z, lambda s: jnp.where(inserted(s, rho), spread(s, rho, 1.0), rho))
    x *= jnp.sqrt(alpha**2 + sigma**2) / rho

    def advance(x: Array, step: Steps):
        x0, _ = predict(denoise, x, step.t, clip)
        e = predicted_noise(x, x0, step)
        rho = step.sigma_to / step.alpha_to
        safe = jnp.where(sigma_y > 0, sigma_y, 1.0)

        def pull(s):
            return jnp.where(inserted(s, rho), eta_b, rho * rest * s / safe)

        def fresh(s):
            return jnp.where(inserted(s, rho), spread(s, rho, eta_b), eta * rho)

        v = x0 + operator.spectral_map(known - x0, pull)
        v += operator.spectral_map(e, lambda s: jnp.where(s > 0, 0.0, rest * rho))
        v += operator.spectral_map(normal(keys, _DRAWS("noise", step.number), x), fresh)
        return step.alpha_to * v, None

    x, _ = jax.lax.scan(advance, x, steps)
    return x
