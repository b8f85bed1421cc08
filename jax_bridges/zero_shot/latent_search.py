"""Latent search: the noise from which DDIM's few steps make an image of the measurement."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from jax_bridges.bridges import Levels
from jax_bridges.corruptions import LinearOperator
from jax_bridges.keys import Keys, normal
from jax_bridges.schema import Count, Positive
from jax_bridges.typing import Array
from jax_bridges.zero_shot.steps import START, predict, walk


def decode(denoise, z: Array, times: Levels, clip: bool = False) -> Array:
    """x_0(z) `[B, H, W, C]` by DDIM without fresh noise (arXiv 2010.02502), z being the first x_T's noise."""
    steps = walk(times, z)
    x = jnp.sqrt(steps.alpha[0] ** 2 + steps.sigma[0] ** 2) * z
    for k in range(steps.t.shape[0]):  # a few, and each is differentiated
        step = jax.tree.map(lambda rows, k=k: rows[k], steps)
        x0, _ = predict(denoise, x, step.t, clip)
        x = step.alpha_to * x0 + step.sigma_to * (x - step.alpha * x0) / step.sigma
    return x


def on_sphere(z: Array) -> Array:
    """z `[B, H, W, C]` with the norm sqrt(H W C) that white noise has, each image by itself."""
    axes = tuple(range(1, z.ndim))
    return z * jnp.sqrt(math.prod(z.shape[1:]) / jnp.sum(z**2, axes, keepdims=True))


def solve_latent_search(
    denoise,
    operator: LinearOperator,
    y: Array,
    sigma_y: float | Array,
    times: Levels,
    keys: Keys,
    *,
    iterations: Count = 50,
    rate: Positive = 0.1,
    clip: bool = False,
) -> Array:
    """Minimises `|A x_0(z) - y|^2` over z of the norm of white noise, x_0(z) by the prior's DDIM.

    What PULSE (arXiv 2003.03808) does with a GAN and DMPlug (arXiv 2405.16749) and D-Flow (arXiv 2402.14017)
    with a diffusion: no step of the sampler is guided, its start is looked for. Adam along the sphere,
    whose rate falls as a half cosine; every step goes through all levels and back. Needs A and A^T only.

    Args:
      sigma_y: not used: a smooth generator does not fit noise.
      times: the few levels of x_0(z), 3 to 5.
      iterations: of Adam.
      rate: its first step, in units of one coordinate of z.
      clip: clamps x0_hat to [-1, 1]; no gradient flows where it does.
      keys: draw 0 is the first z.
      others: see `ddnm.solve_ddnm`.

    Returns:
      x_0 `[B, H, W, C]`.
    """
    del sigma_y
    image = operator.transpose(y)  # of the right shape
    z = on_sphere(normal(keys, START, image))
    axes = tuple(range(1, z.ndim))

    def along(z: Array, g: Array) -> Array:
        """The part of g that is tangent to the sphere at z."""
        inner = jnp.sum(g * z, axes, keepdims=True) / jnp.sum(z**2, axes, keepdims=True)
        return g - inner * z

    def search(carry, k: Array):
        z, mean, square = carry
        x0, pull = jax.vjp(lambda z: decode(denoise, z, times, clip), z)
        (g,) = pull(operator.transpose(operator.forward(x0) - y))
        g = along(z, g)
        # One second moment an image: of each coordinate it would turn the step off the tangent.
        mean = 0.9 * mean + 0.1 * g
        square = 0.99 * square + 0.01 * jnp.mean(g**2, axes, keepdims=True)
        size = rate * 0.5 * (1.0 + jnp.cos(jnp.pi * k / iterations))
        tiny = jnp.finfo(z.dtype).tiny ** 0.5
        step = mean / (1.0 - 0.9 ** (k + 1)) / (jnp.sqrt(square / (1.0 - 0.99 ** (k + 1))) + tiny)
        z = on_sphere(z - size * step)
        return (z, along(z, mean), square), None

    start = (z, jnp.zeros_like(z), jnp.zeros_like(jnp.sum(z, axes, keepdims=True)))
    (z, _, _), _ = jax.lax.scan(search, start, jnp.arange(iterations))
    return decode(denoise, z, times, clip)
