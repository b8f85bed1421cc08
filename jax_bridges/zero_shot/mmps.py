"""Moment-matching posterior sampling: a denoiser of the posterior, from a prior's and its derivative."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jax_bridges.bridges import Bridge, Levels
from jax_bridges.corruptions import LinearOperator
from jax_bridges.keys import Keys
from jax_bridges.platforms import unroll_gradients
from jax_bridges.schema import Count, Positive, Share
from jax_bridges.typing import Array
from jax_bridges.zero_shot.diffusion import Level, Order, diffusion_loop
from jax_bridges.zero_shot.gaussian import posterior_shift
from jax_bridges.zero_shot.loop import Loop, Looped
from jax_bridges.zero_shot.steps import predict


def posterior_mean(
    denoise,
    operator: LinearOperator,
    y: Array,
    sigma_y: float | Array,
    x: Array,
    level: Level,
    iterations: int = 1,
    rtol: float = 1e-3,
) -> Array:
    """E[x_0 | x_t, y] `[B, H, W, C]` where p(x_0 | x_t) is taken for a Gaussian.

    Its mean is x0_hat and its covariance, by Tweedie's formula of second order,
    `V = (sigma^2 / alpha) J` with J = d x0_hat / d x_t (Rozet et al. 2024, arXiv 2405.13712, eq. 14-16):

        x0_hat + V^T A^T v,    (sigma_y^2 + A V^T A^T) v = y - A x0_hat.

    n iterations (`gaussian.posterior_shift`) cost one call and n pulls through the network. Exact for
    Gaussian priors once they have converged.

    Args:
      denoise: `x0_hat = denoise(x_t, t)` of the prior.
      sigma_y: standard deviation of the noise in y; above 0, or the system may be singular.
      iterations: at most; an image whose residual is below `rtol` of its first one makes no more.
    """
    x0, pull, _ = jax.vjp(lambda x: predict(denoise, x, level.t), x, has_aux=True)
    gain = level.sigma**2 / level.alpha
    residual = y - operator.forward(x0)

    def spread(p: Array) -> Array:
        return gain * pull(operator.transpose(p))[0]  # V^T A^T p

    unroll = unroll_gradients(iterations)
    return x0 + posterior_shift(spread, operator, residual, sigma_y, iterations, rtol, unroll)


def posterior_denoiser(
    denoise,
    bridge: Bridge,
    operator: LinearOperator,
    y: Array,
    sigma_y: float | Array,
    iterations: int = 1,
    rtol: float = 1e-3,
) -> Callable[[Array, Array], Array]:
    """The denoiser `E[x_0 | x_t, y]` of the images that y was measured from; any sampler takes it.

    Args:
      bridge: that t belongs to.
      others: see `posterior_mean`.
    """

    def posterior(x: Array, t: Array) -> Array:
        level = Level(t, bridge.alpha(t), bridge.sigma(t))
        return posterior_mean(denoise, operator, y, sigma_y, x, level, iterations, rtol)

    return posterior


@Looped
def solve_mmps(
    denoise,
    operator: LinearOperator,
    y: Array,
    sigma_y: float | Array,
    times: Levels,
    keys: Keys,
    *,
    iterations: Count = 1,
    rtol: Share = 1e-3,
    order: Order = 2,
    eta: Share = 0.0,
    least_noise: Positive = 0.01,
) -> Loop:
    """A sample of the posterior by moment matching (Rozet et al. 2024, arXiv 2405.13712): no scale to choose.

    `diffusion.sample_diffusion` of `posterior_mean`. Needs A and A^T only. The authors' code takes its
    inner products, and the length of a step, over the whole batch; here every image is by itself.

    Args:
      sigma_y: standard deviation of the noise in y, in units of [-1, 1].
      iterations: of conjugate gradients, each a pull through the network.
      rtol: residual at which an image has enough of them, relative to its first.
      order: of the sampler: 1, or 2 with twice as many calls.
      eta: share of fresh noise, of order 1.
      least_noise: sigma_y is taken for no less, or the system would be singular.
      keys: draw 0 is x_T's noise, 1 + k that of step k.
      others: see `ddnm.solve_ddnm`.

    Returns:
      x_0 `[B, H, W, C]`.
    """
    sigma = jnp.maximum(jnp.asarray(sigma_y, y.dtype), least_noise)

    def posterior(x: Array, level: Level) -> Array:
        return posterior_mean(denoise, operator, y, sigma, x, level, iterations, rtol)

    return diffusion_loop(posterior, operator.transpose(y), times, keys, order, eta)
