"""Sampling from a consistency student: the end of a path in one call, or improved by further calls."""

from __future__ import annotations

import chex
import jax.numpy as jnp

from jax_bridges.bridges import Bridge
from jax_bridges.keys import Keys, StepDraws, normal
from jax_bridges.samplers.checks import precise_times
from jax_bridges.samplers.loop import scan_steps
from jax_bridges.typing import AnyArray, Array, ArrayOrPair, Denoiser

_DRAWS = StepDraws("noise")


def sample_consistency(
    h: Denoiser,
    bridge: Bridge,
    xT: Array,
    times: AnyArray,
    keys: Keys,
    *,
    boot: Denoiser | None = None,
    clip: bool = False,
    length: Array | None = None,
    return_path: bool = False,
) -> ArrayOrPair:
    """Starts a path a gap below T, jumps to its end, draws a later x_t from there, jumps again (CDBM).

    All paths meet at T, so the first point is drawn from `q(x_t | x0_hat(x_T, T), x_T)`: one call of
    `boot`. Without it x_0's small share of that point is left out, and the call is saved.

    Args:
      h: consistency function, `x_end = h(x_t, t, x_T)`.
      bridge: the bridge it was trained on; a deterministic one starts at x_T itself.
      xT: `[B, H, W, C]` corrupted images.
      times: `[calls of h]` descending, below T (`times.consistency_grid`); traced.
      keys: one key, `[B]` keys, or saved noise; draw k is that of the point before call k of h.
      boot: `x0_hat = boot(x_t, t, x_T)`, called once, at T; None: not at all.
      clip: clamps the answer to [-1, 1].
      length: so many of the times are visited, traced; the others pad. None: all, as for a path.
      return_path: also returns the answer of every call of h, `[len(times), B, H, W, C]`.

    Returns:
      x_0 `[B, H, W, C]`, the answer of the last call.
    """
    chex.assert_rank(times, 1)
    times = precise_times(times, xT)
    x0_hat = jnp.zeros_like(xT) if boot is None else boot(xT, jnp.full_like(times[0], bridge.T), xT)

    def call(x0_hat: Array, k: Array):
        noise = jnp.zeros_like(xT) if bridge.deterministic else normal(keys, _DRAWS("noise", k), xT)
        x = bridge.sample(x0_hat, xT, times[k], noise)
        x0_hat = h(x, times[k], xT)
        return x0_hat, x0_hat if return_path else None

    x0_hat, path = scan_steps(call, x0_hat, jnp.arange(times.shape[0]), length)
    if clip:
        x0_hat = jnp.clip(x0_hat, -1.0, 1.0)
    return (x0_hat, path) if return_path else x0_hat
