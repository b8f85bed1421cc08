"""A jointly Gaussian pair (x_0, x_T), every quantity of which is known in closed form."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_bridges.bridges import Bridge, expand


class Moments(NamedTuple):
    """Means, variances and covariance of one pixel of (x_0, x_T)."""

    mean: float
    variance: float
    source_mean: float
    source_variance: float
    covariance: float


@dataclasses.dataclass(frozen=True)
class GaussianPair:
    """x_T ~ N(source_mean, source_std^2), x_0 = slope x_T + std noise; pixels independent."""

    slope: float = 0.8
    std: float = 0.3
    source_mean: float = 0.0
    source_std: float = 1.0

    def moments(self) -> Moments:
        """All moments of the pair, a pixel."""
        source = self.source_std**2
        return Moments(
            self.slope * self.source_mean,
            self.slope**2 * source + self.std**2,
            self.source_mean,
            source,
            self.slope * source,
        )

    def x0_moments(self) -> tuple[float, float]:
        """Mean and variance of x_0."""
        return self.moments()[:2]

    def sample(
        self, key: jax.Array, shape: tuple[int, ...], dtype=None
    ) -> tuple[jax.Array, jax.Array]:
        """Draws (x_0, x_T), each of the given shape."""
        one, two = jax.random.split(key)
        xT = self.source_mean + self.source_std * jax.random.normal(one, shape, dtype)
        return self.slope * xT + self.std * jax.random.normal(two, shape, dtype), xT

    def denoiser(self, bridge: Bridge, conditional: bool) -> Callable[..., jax.Array]:
        """The exact `E[x_0 | x_t, x_T]` (conditional) or `E[x_0 | x_t]`; t scalar or `[B]`."""
        m = self.moments()

        def denoise(xt, t, xT, z=None):
            t = jnp.asarray(t, jnp.result_type(xt.dtype, jnp.float32))
            a, b, c = bridge.coefficients(t)
            if conditional:
                # Regression of x_0 on x_t - a x_T; where b = c = 0 (t = T) x_t says nothing more.
                variance = b**2 * self.std**2 + c**2
                gain = jnp.where(
                    variance > 0, b * self.std**2 / jnp.where(variance > 0, variance, 1.0), 0.0
                )
                prior = self.slope * xT
                return prior + expand(gain, xt) * (xt - expand(a, xt) * xT - expand(b, xt) * prior)
            variance = (
                a**2 * m.source_variance + b**2 * m.variance + 2 * a * b * m.covariance + c**2
            )
            gain = (a * m.covariance + b * m.variance) / variance
            mean = a * m.source_mean + b * m.mean
            return m.mean + expand(gain, xt) * (xt - expand(mean, xt))

        return denoise

    def conditional_moments(self, bridge: Bridge, xT, t) -> tuple[jax.Array, jax.Array]:
        """Mean (shaped like xT) and standard deviation (like t) of `q(x_t | x_T)`."""
        a, b, c = bridge.coefficients(t)
        return (a + b * self.slope) * xT, jnp.sqrt(c**2 + b**2 * self.std**2)

    def ode_solution(self, bridge: Bridge, xt, xT, t, s) -> jax.Array:
        """Where the exact probability-flow ODE of `q(. | x_T)` takes x_t from time t to s."""
        mean_t, std_t = self.conditional_moments(bridge, xT, t)
        mean_s, std_s = self.conditional_moments(bridge, xT, s)
        return mean_s + std_s / std_t * (xt - mean_t)


def law(sample: Callable, pair: GaussianPair, draws: int) -> tuple[float, float, float]:
    """Mean, variance and covariance with x_T of `sample(xT, keys)`, exactly, for float64.

    With the exact denoiser a sampler is affine in the source and in each of its noises.

    Example 0 gets zeros, example 1 a unit source, example 2 + j a unit of noise number j.
    """
    size = draws + 2
    xT = jnp.zeros((size, 1, 1, 1)).at[1].set(1.0)

    def keys(draw):
        return (jnp.arange(size) == draw + 2).astype(jnp.float64).reshape(-1, 1, 1, 1)

    out = np.asarray(jax.jit(lambda x: sample(x, keys))(xT)).ravel()
    gains = out[1:] - out[0]
    source = pair.source_std**2
    return (
        out[0] + gains[0] * pair.source_mean,
        gains[0] ** 2 * source + np.sum(gains[1:] ** 2),
        gains[0] * source,
    )


def law_error(sample: Callable, pair: GaussianPair, draws: int, conditional: bool = True) -> float:
    """Largest error of mean, variance and, for a conditional model, covariance with x_T."""
    mean, variance, covariance = law(sample, pair, draws)
    m = pair.moments()
    errors = [abs(mean - m.mean), abs(variance - m.variance)]
    if conditional:
        errors.append(abs(covariance - m.covariance))
    return max(errors)


def slope(calls, errors) -> float:
    """Order of convergence: minus the slope of log error over log calls."""
    return -float(np.polyfit(np.log(np.asarray(calls, float)), np.log(np.asarray(errors)), 1)[0])
