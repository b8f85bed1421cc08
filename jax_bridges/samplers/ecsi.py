"""ECSI's sampler (arXiv 2410.21553): a reverse SDE whose noise is a knob."""

from __future__ import annotations

from typing import Annotated

import chex
import jax.numpy as jnp
import numpy as np

from jax_bridges.bridges import Bridge, expand
from jax_bridges.keys import Keys, StepDraws, normal
from jax_bridges.samplers.checks import precise_times, require_noise
from jax_bridges.samplers.loop import scan_steps
from jax_bridges.schema import Choice, number
from jax_bridges.times import karras_grid
from jax_bridges.typing import AnyArray, Array, ArrayOrPair, Denoiser

_DRAWS = StepDraws("noise")
STEPS = ("euler", "exact")


def ecsi_grid(bridge: Bridge, n: int) -> np.ndarray:
    """The paper's grid: T, then Karras' times with rho = 0.6, 0 at last; float64 `[n + 1]`."""
    return np.append(float(bridge.T), karras_grid(bridge, n, rho=0.6)[1:])


def sample_ecsi(
    denoise: Denoiser,
    bridge: Bridge,
    xT: Array,
    times: AnyArray,
    keys: Keys,
    *,
    eta: Annotated[float | Array, number(least=0)] = 0.3,
    steps: Annotated[str, Choice(STEPS)] = "euler",
    clip: bool = False,
    length: Array | None = None,
    return_path: bool = False,
) -> ArrayOrPair:
    """The SDE `dx = (v - e score) dt + sqrt(2 e) dw`, run backwards, with `e = eta (c c' - b' / b c^2)`.

    v is the velocity of the probability-flow ODE; any e leaves the marginals as they are. (The paper's
    alpha, beta and gamma are b, a and c here.) On every bridge with a prior, and on the paper's linear
    path, e is `eta g^2 / 2`. The first step is a draw of `q(x_s | x0_hat, x_T)`, as score and velocity are
    infinite at T, and the last two are DBIM's at eta = 0, as in the official code.

    Steps are Euler's, as published: below eta = 1 the noise that is left of the first step then grows too
    fast near T, on any grid. Those that are "exact" solve the SDE for a prediction that stays:

        x_s = a_s x_T + b_s x0_hat + c_s (q z_hat + sqrt(1 - q^2) noise),  q = (b_t c_s / (b_s c_t))^eta

    with `z_hat = (x_t - a_t x_T - b_t x0_hat) / c_t`: at eta = 0 and 1 they are DBIM's of the same eta.

    Its trained path is the bridge `interpolant`, linear, with gamma "sqrt" of gamma_scale
    `sqrt(2) gamma_max`: 0.177 for edges2handbags, 0.354 for DIODE; noise on x_T is `source_std`.

    Args:
      denoise: `x0_hat = denoise(x_t, t, x_T)`.
      bridge: the bridge it was trained on; ValueError if it is deterministic.
      xT: `[B, H, W, C]` corrupted images.
      times: `[nfe + 1]` descending, T first (`ecsi_grid`); traced.
      keys: one key, `[B]` keys, or saved noise; draw k is that of step k. Where the bridge is not pinned at
        x_T, draw 0 is the noise of x_T, which the first step keeps.
      eta: noise in units of the prior's own, 1; 0 is the ODE; traced.
      steps: "euler", as published, or "exact" for a prediction that stays; static.
      clip: clamps x0_hat to [-1, 1].
      length: so many of the times are visited, traced; the others pad. None: all, as for a path.
      return_path: also returns the states after each step, `[nfe, B, H, W, C]`.

    Returns:
      x at the last time, `[B, H, W, C]`, and the path if asked for.
    """
    chex.assert_rank(times, 1)
    require_noise(bridge, "ecsi")
    times = precise_times(times, xT)
    nfe = (len(times) if length is None else length) - 1

    def step(x: Array, k: Array):
        t, s = times[k], times[k + 1]
        x0_hat = denoise(x, t, xT)
        if clip:
            x0_hat = jnp.clip(x0_hat, -1.0, 1.0)
        noise = normal(keys, _DRAWS("noise", k), x)
        (a_t, b_t, c_t), (a_s, b_s, c_s) = (
            tuple(expand(v, x) for v in bridge.coefficients(time)) for time in (t, s)
        )
        mean, z_hat = a_s * xT + b_s * x0_hat, (x - a_t * xT - b_t * x0_hat) / c_t
        if steps == "exact":
            # Where there is nothing of x_0 yet (encoder_decoder), all noise is fresh.
            q = (b_t * c_s / (jnp.where(b_s > 0, b_s, 1.0) * c_t)) ** eta
            inner = mean + c_s * (q * z_hat + jnp.sqrt(jnp.maximum(1.0 - q**2, 0.0)) * noise)
        else:
            half = 0.5 * eta * bridge.g2(t)
            drift = bridge.ode_drift(x0_hat, x, xT, t)
            drift -= expand(half, x) * bridge.score(x0_hat, x, xT, t)
            inner = x + expand(s - t, x) * drift + expand(jnp.sqrt(2.0 * half * (t - s)), x) * noise
        last_two = mean + c_s * z_hat
        x = jnp.where(k == 0, mean + c_s * noise, jnp.where(k < nfe - 2, inner, last_two))
        return x, x if return_path else None

    start = xT if bridge.pinned else bridge.start(xT, normal(keys, _DRAWS("noise", 0), xT))
    calls = None if length is None else nfe
    x, path = scan_steps(step, start, jnp.arange(len(times) - 1), calls)
    return (x, path) if return_path else x
