"""DDNM and DDNM+: the denoiser fills the null space, the measurement fixes the range."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jax_bridges.bridges import Levels
from jax_bridges.corruptions import LinearOperator
from jax_bridges.keys import Keys, normal
from jax_bridges.schema import Share
from jax_bridges.typing import AnyArray, Array
from jax_bridges.zero_shot.steps import (
    Steps,
    Travel,
    draws,
    predict,
    predicted_noise,
    start_noise,
    travel_back,
    walk,
)

_DRAWS = draws("noise", "jump")


class ShippedBasis(NamedTuple):
    """The right singular basis in which the official code draws DDNM+'s noise, for parity with it.

    s: singular values `[1, H, W, C]` of coordinates laid out like an image; rotate: V, from such
    coordinates `[B, H, W, C]` to images.
    """

    s: AnyArray
    rotate: Callable[[Array], Array]


def solve_ddnm(
    denoise,
    operator: LinearOperator,
    y: Array,
    sigma_y: float | Array,
    times: Levels,
    keys: Keys,
    *,
    eta: Share = 0.85,
    clip: bool = False,
    travel: Travel = (1, 1),
    travel_as_shipped: bool = False,
) -> Array:
    """Null-space restoration of noise-free measurements (Wang et al. 2023, arXiv 2212.00490, alg. 1).

    Every prediction is rectified, `xh = x0_hat - A^+ (A x0_hat - y)`, and re-noised as in the official
    code: `x = alpha xh + sigma (eta z + sqrt(1 - eta^2) e)` with the noise e predicted at x_t. The
    last step is xh itself, so that A x = y for any y in the range of A.

    Args:
      denoise: `x0_hat = denoise(x_t, t)`.
      operator: linear; needs `forward` and `pinv`.
      y: what `operator.forward` gives.
      sigma_y: taken for 0 whatever it is; see `solve_ddnm_plus`.
      times: levels to visit; traced.
      keys: `[B]` keys, or saved noise: draw 0 is x_T, 1 + 2k the noise of step k, 2 + 2k its jump's.
      eta: share of fresh noise.
      clip: clamps x0_hat to [-1, 1].
      travel: time travel: how far a jump goes back, and how often each stretch is walked in all
        (`steps.jump_schedule`); static.
      travel_as_shipped: a jump noises the unrectified x0_hat anew, as in the official code, instead
        of drawing from q(x_{t + l} | x_t) (alg. 2).

    Returns:
      x_0 `[B, H, W, C]`.
    """
    del sigma_y

    def rectify(x0: Array, e: Array, z: Array, step: Steps) -> Array:
        xh = x0 - operator.pinv(operator.forward(x0) - y)
        return renoise(xh, e, z, step, eta)

    return iterate(denoise, operator.pinv(y), times, keys, rectify, clip, travel, travel_as_shipped)


def solve_ddnm_plus(
    denoise,
    operator: LinearOperator,
    y: Array,
    sigma_y: float | Array,
    times: Levels,
    keys: Keys,
    *,
    eta: Share = 0.85,
    clip: bool = False,
    travel: Travel = (1, 1),
    travel_as_shipped: bool = False,
    shipped: ShippedBasis | None = None,
) -> Array:
    """DDNM for noisy measurements (arXiv 2212.00490, sec. 3.3 and app. I), for any spectrum.

    With a = alpha', sigma' of the target level and s a singular value:
    `xh = x0_hat - V lambda(s) V^T A^+ (A x0_hat - y)`, `x = a xh + V d1(s) V^T z + V d2(s) V^T e`, and

        s = 0                   d1 = eta sigma'                          d2 = sqrt(1 - eta^2) sigma'
        sigma' >= a sigma_y / s d1 = sqrt(sigma'^2 - (a sigma_y / s)^2)  d2 = 0, lambda = 1
        else                    d1 = eta sigma'     d2 = 0, lambda = s sigma' sqrt(1 - eta^2) / (a sigma_y)

    so that the variance is sigma'^2 in each. The operator needs `spectral_map`.

    Args:
      sigma_y: standard deviation of the noise in y, in units of [-1, 1].
      shipped: parity with the official code, which leaves V^T away before the noise: z and e are
        taken for coordinates in its basis. Harmless for z; e is scrambled in the null space.
      others: see `solve_ddnm`.

    Returns:
      x_0 `[B, H, W, C]`: at the last step plain x0_hat where s > 0 and sigma_y > 0.
    """
    sigma_y = jnp.asarray(sigma_y, jnp.promote_types(y.dtype, jnp.float32))

    def rectify(x0: Array, e: Array, z: Array, step: Steps) -> Array:
        a, sigma = step.alpha_to, step.sigma_to
        rest = jnp.sqrt(1.0 - eta**2)

        def cases(s, null, above, below):
            noise = a * sigma_y / jnp.where(s > 0, s, 1.0)  # of A^+ y, at the scale of the level
            out = jnp.where(sigma >= noise, above(noise), below(noise))
            return jnp.where(s > 0, out, null)

        def gain(s):
            def less(noise):
                return sigma * rest / jnp.where(noise > 0, noise, 1.0)

            return cases(s, 1.0, jnp.ones_like, less)

        def fresh(s):
            return cases(
                s,
                eta * sigma,
                lambda noise: jnp.sqrt(jnp.maximum(sigma**2 - noise**2, 0.0)),
                lambda noise: eta * sigma * jnp.ones_like(noise),
            )

        def kept(s):
            return jnp.where(s > 0, 0.0, rest * sigma)

        residual = operator.pinv(operator.forward(x0) - y)
        xh = x0 - operator.spectral_map(residual, gain)
        if shipped is not None:
            s = jnp.asarray(shipped.s, x0.dtype)
            return a * xh + shipped.rotate(fresh(s) * z + kept(s) * e)
        return a * xh + operator.spectral_map(z, fresh) + operator.spectral_map(e, kept)

    return iterate(denoise, operator.pinv(y), times, keys, rectify, clip, travel, travel_as_shipped)


def renoise(xh: Array, e: Array, z: Array, step: Steps, eta: float) -> Array:
    """DDNM's step down: the rectified xh with a mix of predicted and fresh noise."""
    return step.alpha_to * xh + step.sigma_to * (eta * z + jnp.sqrt(1.0 - eta**2) * e)


def iterate(denoise, like, times, keys, rectify, clip=False, travel=(1, 1), as_shipped=False):
    """The loop of DDNM, from pure noise to an image shaped like `like` `[B, H, W, C]`.

    Args:
      rectify: `rectify(x0_hat, e, z, step)`, the state after a step.
      others: see `solve_ddnm`.
    """
    steps = walk(times, like, travel)

    def advance(x: Array, step: Steps):
        x0, _ = predict(denoise, x, step.t, clip)
        e = predicted_noise(x, x0, step)
        x = rectify(x0, e, normal(keys, _DRAWS("noise", step.number), x), step)
        if travel[1] > 1:
            noise = normal(keys, _DRAWS("jump", step.number), x)
            if as_shipped:
                jumped = step.alpha_up * x0 + step.sigma_up * noise
            else:
                jumped = travel_back(x, step, noise)
            x = jnp.where(step.sigma_up > step.sigma_to, jumped, x)
        return x, None

    x, _ = jax.lax.scan(advance, start_noise(times, like, keys), steps)
    return x
