"""Losses of priors that are learned from observations alone, y = A x_0 + sigma_y n with known masks A.

    x_t = alpha_t y + sqrt(sigma_t^2 - alpha_t^2 sigma_y^2) n'      (`noisier`)

has the law of `alpha_t x_0 + sigma_t n` on the pixels that are seen: noise is added to what has some
already. x_0 itself is nowhere asked for; y holds zeros where nothing was measured. One number an example,
the mean is the caller's; images `[B, H, W, C]` in [-1, 1], sigma_y in their units, masks `[B, H, W, 1]`
or `[B, H, W, C]` with 1 where a pixel is known.
"""

from __future__ import annotations

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from jax_bridges.bridges import Bridge, expand
from jax_bridges.losses import squared_error
from jax_bridges.typing import Array, Denoiser


def noisier(bridge: Bridge, y: Array, t: Array, noise: Array, sigma_y: float | Array) -> Array:
    """x_t `[B, H, W, C]` of y, whose noise counts towards sigma_t.

    Args:
      y, noise: `[B, H, W, C]`; noise is standard normal.
      t: `[B]`, not below `times.level_time(bridge, sigma_y)`.
      sigma_y: standard deviation of y's noise, one or `[B]`.
    """
    chex.assert_equal_shape([y, noise])
    alpha, sigma = bridge.alpha(t), bridge.sigma(t)
    added = jnp.sqrt(jnp.maximum(sigma**2 - (alpha * sigma_y) ** 2, 0.0))
    return expand(alpha, y) * y + expand(added, y) * noise


def ambient_loss(
    denoise: Denoiser,
    bridge: Bridge,
    y: Array,
    kept: Array,
    seen: Array,
    t: Array,
    noise: Array,
    weight: Array,
    sigma_y: float | Array = 0.0,
) -> Array:
    """Ambient Diffusion's loss, `lambda(t) |A (x0_hat(A' x_t, t, A') - y)|^2`, `[B]`.

    Daras et al. 2023, arXiv 2305.19256, eq. 3.2. The network sees less than was measured, A' = B A, and
    is told A'; what counts is all that was. Its minimiser is `E[x_0 | A' x_t, A']` if every pixel that A'
    hides was measured with a positive probability. With A' for A in the loss nothing would teach what is
    hidden.

    With noise in y the answer is compared where the noise of y and of x_t has a common part:
    `(1 - q) x0_hat + q x_t / alpha_t` on the pixels in A', `q = (alpha_t sigma_y / sigma_t)^2`; the noise
    of the others is independent of what is seen, and of mean 0.

    Args:
      denoise: told A' as x_T, with an image's channels.
      y: zeros where A is.
      kept: A; seen: A', nowhere larger.
      noise: standard normal.
      t, weight: `[B]`; t not below `times.level_time(bridge, sigma_y)`.
    """
    x = noisier(bridge, y, t, noise, sigma_y)
    told = jnp.broadcast_to(seen, y.shape)
    x0_hat = denoise(told * x, t, told)
    common = expand(jnp.minimum(bridge.alpha(t) * sigma_y / bridge.sigma(t), 1.0) ** 2, y) * told
    answer = x0_hat + common * (x / expand(bridge.alpha(t), y) - x0_hat)
    return squared_error(answer, y, weight, kept)


def tweedie_loss(
    denoise: Denoiser,
    bridge: Bridge,
    y: Array,
    t: Array,
    noise: Array,
    weight: Array,
    sigma_y: float | Array,
) -> Array:
    """Denoising with noisy images for targets, `lambda(t) |(1 - q) x0_hat + q x_t / alpha_t - y|^2`, `[B]`.

    Daras et al. 2024, arXiv 2404.10177: `E[y | x_t] = (1 - q) E[x_0 | x_t] + q x_t / alpha_t` by Tweedie's
    formula, so that the minimiser is the denoiser of clean images, at all t whose noise is at least y's.
    The second half of the paper, which reaches below that by consistency, is not here. `ambient_loss` of
    whole images.
    """
    whole = jnp.ones_like(y)
    return ambient_loss(denoise, bridge, y, whole, whole, t, noise, weight, sigma_y)


def sure(
    estimate: Callable[[Array], Array], y: Array, sigma_y: float, probe: Array
) -> tuple[Array, Array]:
    """Stein's unbiased estimate of `|h(y) - x_0|^2`, the mean over all pixels, without x_0.

    `|h - y|^2 + 2 sigma_y^2 div h - sigma_y^2` (Stein 1981), the divergence by one random probe,
    `r . (dh / dy) r` (Ramani et al. 2008), of which the derivative is exact. Its mean over y and r is the
    mean of the true error, for any h; SURE-Score (Aali et al. 2023, arXiv 2305.01166) leaves out the
    constant.

    Args:
      estimate: h, of images to images, each by itself.
      probe: r, `[B, H, W, C]` standard normal.

    Returns:
      h(y) `[B, H, W, C]` and the estimate `[B]`.
    """
    chex.assert_equal_shape([y, probe])
    h, along = jax.jvp(estimate, (y,), (probe,))
    each = (h - y) ** 2 + sigma_y**2 * (2.0 * probe * along - 1.0)
    return h, jnp.mean(each, axis=tuple(range(1, y.ndim)))
