"""Dual diffusion implicit bridges: x_T is encoded by one prior and decoded by another (arXiv 2203.08382)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jax_bridges.bridges import Levels
from jax_bridges.samplers.checks import precise_times
from jax_bridges.samplers.levels import as_step, level_steps
from jax_bridges.samplers.loop import scan_steps
from jax_bridges.typing import AnyArray, Array, Denoiser
from jax_bridges.zero_shot.steps import predicted_noise


def ddib_steps(levels: Levels) -> np.ndarray:
    """`[2 n, 6]` of n levels: rows as of `level_steps`, first up and then down, and whether down.

    On the way up a step keeps the noise of the level it leaves; x_T is taken to be at the least noisy level,
    and the last step ends in noise alone.
    """
    down = level_steps(levels)
    up = down[::-1].copy()
    up[:-1, 3:] = up[1:, 1:3]
    up[-1, 3:] = 0.0, 1.0
    ways = np.repeat([[0.0], [1.0]], len(down), axis=0)
    return np.concatenate([np.concatenate([up, down]), ways], axis=1)


def sample_ddib(
    encode: Denoiser,
    decode: Denoiser,
    xT: Array,
    steps: AnyArray,
    *,
    clip: bool = True,
    length: Array | None = None,
) -> Array:
    """x_0 of the noise that x_T is made of: probability flows by DDIM without fresh noise, there and back.

    A deterministic map, monotone for numbers; nothing is drawn. Explicit steps both ways are not each
    other's inverse, with an error that falls as 1 / n.

    Args:
      encode: denoiser of the images x_T, `x0_hat = encode(x_t, t, x_T)`; its answers are not clipped,
        which would lose what they are made of.
      decode: denoiser of the images x_0.
      xT: `[B, H, W, C]`.
      steps: `[2 n, 6]` (`ddib_steps`); traced.
      clip: clamps the predictions of `decode` to [-1, 1].
      length: so many of the steps are made, traced; the others pad. None: all.

    Returns:
      x_0 `[B, H, W, C]`.
    """
    steps = precise_times(steps, xT)

    def walk(x: Array, k: Array) -> tuple[Array, None]:
        step, down = as_step(steps[k], k, False), steps[k, 5] > 0.5
        x0 = jax.lax.cond(down, decode, encode, x, step.t, xT)
        x0 = jnp.where(down, jnp.clip(x0, -1.0, 1.0), x0) if clip else x0
        return step.alpha_to * x0 + step.sigma_to * predicted_noise(x, x0, step), None

    return scan_steps(walk, xT, jnp.arange(steps.shape[0]), length)[0]
