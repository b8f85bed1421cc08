"""Prior guidance (GuidedBridge, arXiv 2606.03119): away from the answer to a weakened x_t.

    D = D_weak + w (D_sharp - D_weak)     D_sharp = denoise(x_t, t, x_T), D_weak = denoise(H x_t, t, x_T)

PG has one weight w, FMPG one for each band of frequencies of the difference. It makes a denoiser of a
denoiser, so that every sampler takes it, at two network calls for one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Annotated

import jax.numpy as jnp

from jax_bridges.keys import WEAKENED, normal
from jax_bridges.samplers.budget import Sampler
from jax_bridges.schema import Each, Either, number
from jax_bridges.typing import Array, Denoiser

WEIGHT = number(least=0)
WEIGHTS = Either((WEIGHT, Each(WEIGHT, least=2)))
NOT_NEGATIVE = number(least=0)


def _radius(like: Array) -> Array:
    """Frequencies of `rfft2`, `[H, W // 2 + 1, 1]` in cycles a pixel; 0.5 is Nyquist's along an axis."""
    height, width = like.shape[1:3]
    return jnp.hypot(jnp.fft.fftfreq(height)[:, None], jnp.fft.rfftfreq(width))[..., None]


def _filtered(x: Array, gain: Callable[[Array], Array]) -> Array:
    """x `[B, H, W, C]` with each frequency times `gain(radius)`, in float32 at least."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    spectrum = jnp.fft.rfft2(wide, axes=(1, 2)) * gain(_radius(x).astype(wide.dtype))
    return jnp.fft.irfft2(spectrum, s=x.shape[1:3], axes=(1, 2)).astype(x.dtype)


def blurred(x: Array, std: float) -> Array:
    """x `[B, H, W, C]` under a Gaussian of `std` pixels, periodic at the border."""
    return _filtered(x, lambda r: jnp.exp(-2.0 * (jnp.pi * std * r) ** 2))


def prior_guided(
    denoise: Denoiser,
    weight: float | Array | tuple[float, ...],
    weaken: Callable[[Array], Array],
) -> Denoiser:
    """The guided denoiser; with all weights 1 its answers are `denoise`'s, bit for bit.

    Args:
      denoise: `x0_hat = denoise(x_t, t, x_T)`, called twice.
      weight: w, above 1 to go away from the weak answer (PG); or a tuple of them, for bands of equal
        width in the radial frequency from 0 to Nyquist's, the last for the corners as well (FMPG).
      weaken: H, of x_t `[B, H, W, C]`.
    """

    def scaled(difference: Array) -> Array:
        if not isinstance(weight, (tuple, list)):
            return (weight - 1.0) * difference
        more = jnp.asarray(weight) - 1.0
        count = len(more)

        def gain(r: Array) -> Array:
            return more[jnp.minimum(jnp.floor(2.0 * count * r).astype(int), count - 1)]

        return _filtered(difference, gain)

    def guided(xt: Array, t: Array, xT: Array) -> Array:
        sharp, weak = denoise(xt, t, xT), denoise(weaken(xt), t, xT)
        return sharp + scaled(sharp - weak).astype(sharp.dtype)

    return guided


def guide_sampler(
    sampler: Sampler,
    *,
    pg: Annotated[float | tuple[float, ...], WEIGHTS],
    pg_blur: Annotated[float, NOT_NEGATIVE] = 1.0,
    pg_noise: Annotated[float, NOT_NEGATIVE] = 0.0,
) -> Sampler:
    """The sampler with its denoiser guided, whose budget counts both calls.

    Args:
      pg: weight w of the guidance, 1 being none; a tuple has one for each band of frequencies, the lowest
        first (FMPG).
      pg_blur: what weakens x_t: a blur of this standard deviation, in pixels; 0: none.
      pg_noise: noise of this standard deviation on x_t, in units of images in [-1, 1], one draw an image.

    Raises:
      ValueError: nothing weakens x_t.
    """
    if not pg_blur and not pg_noise:
        raise ValueError(
            "pg_blur and pg_noise are both 0, so nothing weakens x_t: set one above 0."
        )

    def sample(denoise, bridge, xT, times, keys, **knobs):
        def weaken(x: Array) -> Array:
            x = blurred(x, pg_blur) if pg_blur else x
            return x + pg_noise * normal(keys, WEAKENED, x) if pg_noise else x

        guided = prior_guided(denoise, pg, weaken)
        return sampler.sample(guided, bridge, xT, times, keys, **knobs)

    return dataclasses.replace(
        sampler,
        sample=sample,
        steps=lambda nfe, **knobs: sampler.steps(nfe // 2, **knobs),
        count=lambda times, **knobs: 2 * sampler.count(times, **knobs),
        least=lambda **knobs: 2 * sampler.least(**knobs),
    )
