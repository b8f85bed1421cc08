"""Training losses of x0-predictors; one number an example, the mean is the caller's."""

from __future__ import annotations

import chex
import jax.numpy as jnp

from jax_bridges.bridges import Bridge
from jax_bridges.typing import Array, Denoiser


def squared_error(x0_hat: Array, x0: Array, weight: Array, mask: Array | None = None) -> Array:
    """Weighted mean square over all pixels, `[B]`.

    Args:
      x0_hat, x0: `[B, H, W, C]`.
      weight: `[B]`, or anything that broadcasts to it.
      mask: `[B, H, W, 1]` of pixels that count; the mean still divides by all pixels (I2SB).
    """
    chex.assert_equal_shape([x0_hat, x0])
    square = (x0_hat - x0) ** 2
    if mask is not None:
        square = square * mask
    return weight * jnp.mean(square, axis=tuple(range(1, square.ndim)))


def bridge_matching(
    denoise: Denoiser,
    bridge: Bridge,
    x0: Array,
    xT: Array,
    t: Array,
    noise: Array,
    weight: Array,
    mask: Array | None = None,
) -> Array:
    """Bridge matching in x0-form, `lambda(t) |x0_hat(x_t, t, x_T) - x_0|^2`, `[B]`.

    x_t is drawn from `q(x_t | x_0, x_T)` with the given standard normal noise. Its minimiser is
    `E[x_0 | x_t]` (unconditional network) or `E[x_0 | x_t, x_T]` (conditional): I2SB eq. 12, DDBM eq. 9,
    IBMD eq. 4 and 6.

    >>> import jax, jax.numpy as jnp
    >>> from jax_bridges.bridges import make_bridge
    >>> x0, xT = jnp.zeros((2, 4, 4, 3)), jnp.ones((2, 4, 4, 3))
    >>> t = jnp.array([0.1, 0.9])
    >>> def denoise(xt, t, xT):  # a network's prediction of x_0
    ...     return 0.5 * xT
    >>> noise = jax.random.normal(jax.random.key(0), x0.shape)
    >>> bridge_matching(denoise, make_bridge("brownian"), x0, xT, t, noise, weight=jnp.ones(2)).tolist()
    [0.25, 0.25]

    Args:
      x0, xT, noise: `[B, H, W, C]`; t, weight: `[B]`; mask: `[B, H, W, 1]` or None.
    """
    chex.assert_equal_shape([x0, xT, noise])
    xt = bridge.sample(x0, xT, t, noise)
    return squared_error(denoise(xt, t, xT), x0, weight, mask)
