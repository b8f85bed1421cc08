"""Sampling of diffusions that are told x_T: a walk over noise levels, from noise to x_0."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from jax_bridges.bridges import Levels
from jax_bridges.choices import look_up
from jax_bridges.keys import Keys, normal
from jax_bridges.samplers.checks import precise_times
from jax_bridges.samplers.loop import scan_steps
from jax_bridges.typing import AnyArray, Array, Denoiser
from jax_bridges.zero_shot.steps import START, Steps, draws, kernel, predicted_noise

_DRAWS = draws("noise")
# Of the noise that a step adds, relative to that of the Markov posterior: as DDPM's two choices.
VARIANCES = {
    "small": lambda k: k.variance,  # the posterior's, beta-tilde
    "large": lambda k: k.beta,
}


def level_steps(levels: Levels) -> np.ndarray:
    """`[nfe, 5]`: a step's time, alpha and sigma, and those of the level that it goes to."""
    t, alpha, sigma = (np.asarray(v, np.float64) for v in levels)
    return np.stack([t[:-1], alpha[:-1], sigma[:-1], alpha[1:], sigma[1:]], axis=1)


def as_step(row: Array, number: Array | int, last: Array | bool) -> Steps:
    """One row of `level_steps`, as the steps of zero_shot have it."""
    t, alpha, sigma, alpha_to, sigma_to = row[:5]
    first, number = jnp.asarray(number == 0), jnp.asarray(number)
    to, last = (alpha_to, sigma_to), jnp.asarray(last)
    return Steps(t, alpha, sigma, *to, *to, first, last, number)


def sample_levels(
    denoise: Denoiser,
    xT: Array,
    steps: AnyArray,
    keys: Keys,
    *,
    eta: float = 1.0,
    variance: str = "small",
    clip: bool = True,
    length: Array | None = None,
) -> Array:
    """Draws x_0 of a diffusion whose denoiser sees x_T, starting from noise alone.

    With eta = 1 DDPM's ancestral sampling (arXiv 2006.11239, alg. 2), with 0 DDIM (arXiv 2010.02502,
    eq. 12). The last step gives its prediction, without noise. One call of `denoise` a step.

    Args:
      denoise: `x0_hat = denoise(x_t, t, x_T)`.
      xT: `[B, H, W, C]`, what the denoiser is told.
      steps: `[nfe, 5]` (`level_steps`); traced.
      keys: one key, `[B]` keys, or saved noise; draw 0 is the start's, 1 + k that of step k.
      eta: share of the standard deviation of fresh noise.
      variance: of a step's noise: small, the posterior's, or large, beta.
      clip: clamps x0_hat to [-1, 1], without which noisier levels than any that was trained explode.
      length: so many of the steps are made, traced; the others pad. None: all.

    Returns:
      x_0 `[B, H, W, C]`.
    """
    fresh = look_up("variance of a step", VARIANCES, variance)
    steps = precise_times(steps, xT)
    count = steps.shape[0] if length is None else length

    def walk(x: Array, k: Array) -> tuple[Array, None]:
        step = as_step(steps[k], k, k == count - 1)
        x0 = denoise(x, step.t, xT)
        x0 = jnp.clip(x0, -1.0, 1.0) if clip else x0
        q = kernel(step)
        # DDIM keeps the level's noise: what is not fresh is the predicted one. What `large` adds is more.
        std = eta * jnp.sqrt(q.variance)
        kept = jnp.sqrt(jnp.maximum(step.sigma_to**2 - std**2, 0.0))
        noise = jnp.where(step.last, 0.0, eta * jnp.sqrt(fresh(q))) * normal(
            keys, _DRAWS("noise", k), x
        )
        return step.alpha_to * x0 + kept * predicted_noise(x, x0, step) + noise, None

    return scan_steps(walk, normal(keys, START, xT), jnp.arange(steps.shape[0]), length)[0]
