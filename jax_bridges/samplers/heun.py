"""DDBM's hybrid sampler: an Euler step of the reverse SDE, then a Heun step of the ODE."""

from __future__ import annotations

from typing import Annotated

import chex
import jax.numpy as jnp
import numpy as np

from jax_bridges.bridges import Bridge, expand
from jax_bridges.keys import Keys, StepDraws, normal
from jax_bridges.samplers.checks import precise_times, require_noise
from jax_bridges.samplers.loop import scan_steps
from jax_bridges.schema import DECAY, Either, Only, number
from jax_bridges.typing import AnyArray, Array, ArrayOrPair, Denoiser

SDE, PREDICT, CORRECT = 0, 1, 2
_DRAWS = StepDraws("noise")  # after them the start's
CHURN = Either((DECAY, Only(None)))


def heun_calls(times: AnyArray, churn: float | Array | None = 0.33) -> int:
    """Network calls of `sample_heun`: 3N - 1 for N steps, 2N - 1 without churn."""
    return (2 if churn is None else 3) * (len(times) - 1) - 1


def sample_heun(
    denoise: Denoiser,
    bridge: Bridge,
    xT: Array,
    times: AnyArray,
    keys: Keys,
    *,
    churn: Annotated[float | Array | None, CHURN] = 0.33,
    guidance: Annotated[float | Array, number()] = 1.0,
    clip: bool = False,
    length: Array | None = None,
    return_path: bool = False,
) -> ArrayOrPair:
    """DDBM's sampler (arXiv 2309.16948, alg. 1): a part `churn` of each step goes by the SDE.

    Starts at x_T itself, at the first time, a gap below T where the drifts are still finite. The
    last step is Euler's, so that nothing is evaluated at the last time.

    Args:
      denoise: `x0_hat = denoise(x_t, t, x_T)`.
      bridge: the bridge it was trained on; ValueError if it is deterministic.
      xT: `[B, H, W, C]` corrupted images.
      times: `[N + 1]` descending, from just below T to 0 (`times.karras_grid`); traced.
      keys: one key, `[B]` keys, or saved noise; draw i is that of step i, draw N that of the start
        where the bridge is not pinned at x_T.
      churn: part of the step taken by the SDE, in [0, 1), traced; None leaves it and its call out.
      guidance: DDBM's w, the weight of the h-transform; 1 is the exact bridge; traced.
      clip: clamps x0_hat to [-1, 1].
      length: so many of the times are visited, traced; the others pad. None: all, as for a path.
      return_path: also returns the states after each call (predictions of Heun included),
        `[nfe, B, H, W, C]`; `heun_calls` says how many.

    Returns:
      x at the last time, `[B, H, W, C]`, and the path if asked for.
    """
    chex.assert_rank(times, 1)
    require_noise(bridge, "heun")
    times = precise_times(times, xT)
    # One row a call: when, how far, and what kind. Nothing corrects the last step.
    t, s = times[:-1], times[1:]
    middle = t if churn is None else t + churn * (s - t)
    called_at = jnp.stack([t, middle, s], axis=1)
    span = jnp.stack([middle - t, s - middle, s - middle], axis=1)
    kinds = np.tile([SDE, PREDICT, CORRECT], (len(t), 1))
    step = np.tile(np.arange(len(t))[:, None], (1, 3))
    first = 1 if churn is None else 0
    rows = tuple(v[:, first:].reshape(-1)[:-1] for v in (called_at, span, kinds, step))

    sde_guidance, ode_guidance = bridge.guidances(guidance)

    def call(carry, row):
        x, base, slope = carry
        t, dt, kind, i = row
        x0_hat = denoise(x, t, xT)
        if clip:
            x0_hat = jnp.clip(x0_hat, -1.0, 1.0)
        drift = bridge.ode_drift(x0_hat, x, xT, t, ode_guidance)
        noise = 0.0
        if churn is not None:
            sde_drift, g = bridge.reverse_sde(x0_hat, x, xT, t, sde_guidance)
            drift = jnp.where(kind == SDE, sde_drift, drift)
            noise = expand(g * jnp.sqrt(-dt), x) * normal(keys, _DRAWS("noise", i), x)
            noise = jnp.where(kind == SDE, noise, 0.0)
        # A correction goes again from where the prediction started, with the mean of both slopes.
        base = jnp.where(kind == CORRECT, base, x)
        slope = jnp.where(kind == CORRECT, 0.5 * (slope + drift), drift)
        x = base + expand(dt, x) * slope + noise
        return (x, base, slope), x if return_path else None

    steps = (len(times) if length is None else length) - 1
    calls = None if length is None else (3 - first) * steps - 1
    start = xT if bridge.pinned else bridge.start(xT, normal(keys, _DRAWS.after(steps), xT))
    (x, _, _), path = scan_steps(call, (start, start, jnp.zeros_like(xT)), rows, calls)
    return (x, path) if return_path else x
