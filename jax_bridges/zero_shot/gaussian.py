"""A Gaussian prior of low rank: exact samples of its posterior, and its fit to observations by EM."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_bridges.corruptions import LinearOperator
from jax_bridges.keys import Keys, StepDraws, normal
from jax_bridges.typing import AnyArray, Array

_DRAWS = StepDraws(first=("pixels", "factors", "measured"))


class LowRank(NamedTuple):
    """N(mean, variance + sum_r factor_r factor_r^T).

    mean `[H, W, C]`; variance `[]`, of every pixel; factors `[R, H, W, C]`.
    """

    mean: AnyArray
    variance: AnyArray
    factors: AnyArray


def posterior_shift(
    spread: Callable[[Array], Array],
    operator: LinearOperator,
    residual: Array,
    sigma_y: float | Array,
    iterations: int,
    rtol: float,
    unroll: int = 1,
) -> Array:
    """`C A^T v` with `(sigma_y^2 + A C A^T) v = residual`, `[B, H, W, C]`: how y moves a Gaussian's mean.

    By conjugate gradients of each image by itself. The shift is gathered from the products that the
    iterations make, so that n of them cost n products with C.

    Args:
      spread: `spread(p)`, C A^T p.
      iterations: at most; an image whose residual is below `rtol` of its first one makes no more.
      unroll: of the iterations, as of `jax.lax.scan`.
    """

    def iterate(state, _):
        shift, r, p, rr = state
        spread_p = spread(p)
        image = sigma_y**2 * p + operator.forward(spread_p)
        curvature = _dot(p, image)
        # The Jacobian of a network, as which C may come, need not be symmetric and positive.
        goes = (rr > limit) & (curvature > 0)
        length = jnp.where(goes, rr / jnp.where(goes, curvature, 1.0), 0.0)
        shift = shift + _like(length, shift) * spread_p
        r = r - _like(length, r) * image
        after = _dot(r, r)
        turn = _like(after / jnp.where(rr > 0, rr, 1.0), p)
        p = jnp.where(_like(goes, p), r + turn * p, p)
        return (shift, r, p, jnp.where(goes, after, rr)), None

    rr = _dot(residual, residual)
    limit = rtol**2 * rr
    start = (jnp.zeros_like(operator.transpose(residual)), residual, residual, rr)
    (shift, *_), _ = jax.lax.scan(iterate, start, None, iterations, unroll=unroll)
    return shift


def sample_posterior(
    prior: LowRank,
    operator: LinearOperator,
    y: Array,
    sigma_y: float | Array,
    keys: Keys,
    iterations: int = 100,
    rtol: float = 1e-4,
) -> Array:
    """Exact samples `[B, H, W, C]` of the posterior of a Gaussian prior, without a diffusion.

    A sample of the prior and a measurement of it are moved by what they miss (Matheron's rule):
    `x + C A^T (A C A^T + sigma_y^2)^-1 (y - A x - sigma_y n)`.

    Args:
      sigma_y: of y's noise; above 0, or the system may be singular.
      keys: one, `[B]` keys, or saved noise.
      iterations, rtol: of the conjugate gradients.
    """
    like = operator.transpose(y)

    def spread(p: Array) -> Array:
        x = operator.transpose(p)
        along = jnp.einsum("rhwc,bhwc->br", prior.factors, x)
        return prior.variance * x + jnp.einsum("br,rhwc->bhwc", along, prior.factors)

    pixels = jnp.sqrt(prior.variance) * normal(keys, _DRAWS("pixels"), like)
    some = jnp.zeros((len(y), len(prior.factors)), like.dtype)
    numbers = normal(keys, _DRAWS("factors"), some)
    x = prior.mean + pixels + jnp.einsum("br,rhwc->bhwc", numbers, prior.factors)
    noise = operator.forward(operator.pinv(normal(keys, _DRAWS("measured"), y)))
    residual = y - operator.forward(x) - sigma_y * noise
    return jnp.asarray(x) + posterior_shift(spread, operator, residual, sigma_y, iterations, rtol)


def fit(samples: np.ndarray, rank: int) -> LowRank:
    """The most likely Gaussian of this form (Tipping and Bishop 1999, probabilistic PCA).

    Args:
      samples: `[N, H, W, C]`.
      rank: of the factors; at most N - 1 and H W C - 1 of them.
    """
    count, shape = len(samples), samples.shape[1:]
    flat = samples.reshape(count, -1).astype(np.float64)
    mean = flat.mean(0)
    _, spread, rows = np.linalg.svd((flat - mean) / np.sqrt(count), full_matrices=False)
    rank = min(rank, count - 1, flat.shape[1] - 1)
    values = spread**2
    variance = values[rank:].sum() / (flat.shape[1] - rank)
    factors = np.sqrt(np.maximum(values[:rank] - variance, 0))[:, None] * rows[:rank]
    found = mean.reshape(shape), variance, factors.reshape(-1, *shape)
    return LowRank(*(np.asarray(a, np.float32) for a in found))


def standard(shape: tuple[int, ...], rank: int) -> LowRank:
    """N(0, 1) of images of a shape, where the fit begins."""
    return LowRank(
        np.zeros(shape, np.float32), np.ones((), np.float32), np.zeros((rank, *shape), np.float32)
    )


def _dot(a: Array, b: Array) -> Array:
    """Inner products `[B]`."""
    return jnp.sum(a * b, tuple(range(1, a.ndim)))


def _like(per_image: Array, x: Array) -> Array:
    return per_image.reshape(-1, *[1] * (x.ndim - 1))
