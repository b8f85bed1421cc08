"""Ancestral sampling: I2SB's sampler, SDE and OT-ODE, for any bridge."""

from __future__ import annotations

import chex
import jax.numpy as jnp

from jax_bridges.bridges import Bridge, expand
from jax_bridges.keys import Keys, StepDraws, normal
from jax_bridges.samplers.checks import precise_times
from jax_bridges.samplers.loop import scan_steps
from jax_bridges.typing import AnyArray, Array, ArrayOrPair, Denoiser

_DRAWS = StepDraws("noise", "known")  # after them the start's


def sample_ancestral(
    denoise: Denoiser,
    bridge: Bridge,
    xT: Array,
    times: AnyArray,
    keys: Keys,
    *,
    clip: bool = False,
    redraw_mask: Array | None = None,
    length: Array | None = None,
    return_path: bool = False,
) -> ArrayOrPair:
    """Draws x_s from the Markov posterior `q(x_s | x0_hat, x_t)`, T to t_min (I2SB alg. 2).

    Starts at x_T itself (`Bridge.start`). The last step is its mean, without noise. On a
    `deterministic` bridge this is I2SB's OT-ODE sampler. One call of `denoise` a step.

    Args:
      denoise: `x0_hat = denoise(x_t, t, x_T)`.
      bridge: the bridge the denoiser was trained on.
      xT: `[B, H, W, C]` corrupted images.
      times: `[nfe + 1]` descending, T first (`times.uniform_grid`); traced.
      keys: one key, `[B]` keys, or saved noise; draw 2k is the step's noise, 2k + 1 the known pixels',
        2 nfe the start's, where the bridge is not pinned at x_T.
      clip: clamps x0_hat to [-1, 1].
      redraw_mask: `[B, H, W, 1]`, 1 in the hole: known pixels are drawn anew after each step from
        `q(x_s | x_0 = x_T, x_T)`, as the official code does. A denoiser that returns known pixels
        unchanged gives the same law without it.
      length: so many of the times are visited, traced; the others pad. None: all, as for a path.
      return_path: also returns the states after each step, `[nfe, B, H, W, C]`.

    Returns:
      x_0 `[B, H, W, C]`, and the path if asked for.
    """
    chex.assert_rank(times, 1)
    times = precise_times(times, xT)
    nfe = (times.shape[0] if length is None else length) - 1

    def step(x: Array, k: Array) -> tuple[Array, Array | None]:
        t, s = times[k], times[k + 1]
        x0_hat = denoise(x, t, xT)
        if clip:
            x0_hat = jnp.clip(x0_hat, -1.0, 1.0)
        if bridge.deterministic:
            noise = jnp.zeros_like(x)
        else:
            noise = jnp.where(k < nfe - 1, normal(keys, _DRAWS("noise", k), x), 0.0)
        x = bridge.step(x0_hat, x, t, s, noise, xT)
        if redraw_mask is not None:
            known = xT
            if not bridge.deterministic:
                noise = normal(keys, _DRAWS("known", k), x)
                known = xT + expand(bridge.coefficients(s).c, x) * noise
            x = redraw_mask * x + (1.0 - redraw_mask) * known
        return x, x if return_path else None

    start = xT if bridge.pinned else bridge.start(xT, normal(keys, _DRAWS.after(nfe), xT))
    calls = None if length is None else nfe
    x, path = scan_steps(step, start, jnp.arange(times.shape[0] - 1), calls)
    return (x, path) if return_path else x
