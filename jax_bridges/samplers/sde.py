"""Plain integrators of any bridge's reverse SDE and probability-flow ODE.

Score and h-transform are both infinite at T, and the paths of x end in square roots of t at both
ends, so an integrator in t loses its order. Both equations are regular in the bridge's own
variables:

    SDE  y = x / alpha_t            dy = (y - x0_hat) d(rho^2) / rho^2 + dw, w of clock rho^2
    ODE  u = (x - a_t x_T) / c_t    du = x0_hat d(b_t / c_t), u(T) ~ N(0, I)

They are DDBM's eq. 7 and 8 (arXiv 2309.16948; `Bridge.reverse_sde`, `Bridge.ode_drift`) rewritten
without approximation, and start at T itself.
"""

from __future__ import annotations

import chex
import jax.numpy as jnp
import numpy as np

from jax_bridges.bridges import Bridge, expand
from jax_bridges.keys import ONLY, Keys, StepDraws, normal
from jax_bridges.samplers.checks import precise_times, require_noise
from jax_bridges.samplers.loop import scan_steps
from jax_bridges.typing import AnyArray, Array, ArrayOrPair, Denoiser

_DRAWS = StepDraws("noise")  # after them the start's


def sample_sde_euler(
    denoise: Denoiser,
    bridge: Bridge,
    xT: Array,
    times: AnyArray,
    keys: Keys,
    *,
    clip: bool = False,
    length: Array | None = None,
    return_path: bool = False,
) -> ArrayOrPair:
    """Euler-Maruyama on the reverse SDE of DDBM (arXiv 2309.16948, eq. 7).

    Score and h-transform are each infinite at T, but `score - h = -(x - alpha x0_hat) / sigma^2`
    is not: `dy = (y - x0_hat) d(rho^2) / rho^2 + dw`, run from T itself. It is the ancestral
    sampler with the noise of the step's length instead of the posterior's. The last step is
    without noise.

    Args:
      denoise: `x0_hat = denoise(x_t, t, x_T)`.
      bridge: the bridge it was trained on; ValueError if it is deterministic.
      xT: `[B, H, W, C]` corrupted images.
      times: `[nfe + 1]` descending, T first (`times.uniform_grid`); traced.
      keys: one key, `[B]` keys, or saved noise; draw k is that of step k, draw nfe that of the start where
        the bridge is not pinned at x_T.
      clip: clamps x0_hat to [-1, 1].
      length: so many of the times are visited, traced; the others pad. None: all, as for a path.
      return_path: also returns the states after each step, `[nfe, B, H, W, C]`.

    Returns:
      x at the last time, `[B, H, W, C]`, and the path if asked for.
    """
    chex.assert_rank(times, 1)
    require_noise(bridge, "sde_euler")
    times = precise_times(times, xT)
    nfe = (len(times) if length is None else length) - 1

    def step(x: Array, k: Array):
        t, s = times[k], times[k + 1]
        x0_hat = denoise(x, t, xT)
        if clip:
            x0_hat = jnp.clip(x0_hat, -1.0, 1.0)
        spread = bridge.increment_std(t, s)
        mean = bridge.step(x0_hat, x, t, s, 0.0, xT)
        noise = normal(keys, _DRAWS("noise", k), x)
        x = mean + expand(jnp.where(k < nfe - 1, spread, 0.0), x) * noise
        return x, x if return_path else None

    start = xT if bridge.pinned else bridge.start(xT, normal(keys, _DRAWS.after(nfe), xT))
    calls = None if length is None else nfe
    x, path = scan_steps(step, start, jnp.arange(len(times) - 1), calls)
    return (x, path) if return_path else x


def ode_heun_calls(times: AnyArray, booted: bool = False) -> int:
    """Network calls of `sample_ode_heun`: 2n - 1 for n steps; booted 2n - 2, and 1 for one step."""
    n = len(times) - 1
    return max(2 * n - 2, 1) if booted else 2 * n - 1


def sample_ode_heun(
    denoise: Denoiser,
    bridge: Bridge,
    xT: Array,
    times: AnyArray,
    keys: Keys,
    *,
    booted: bool = False,
    clip: bool = False,
    length: Array | None = None,
    return_path: bool = False,
) -> ArrayOrPair:
    """Heun's second-order method on the probability-flow ODE, in u over b / c (module docstring).

    All paths meet at T, so which one to follow is drawn there: u(T) is the only noise. The last
    step is Euler's, which is of second order there as x0_hat no longer moves.

    Args:
      denoise: `x0_hat = denoise(x_t, t, x_T)`, conditional on x_T.
      bridge: the bridge it was trained on; ValueError if it is deterministic.
      xT: `[B, H, W, C]` corrupted images.
      times: `[n + 1]` descending, T first (`times.angle_grid`); traced.
      keys: one key, `[B]` keys, or saved noise; draw 0 alone is used.
      booted: the first step is a draw of `q(x_s | x0_hat(x_T, T), x_T)` that nothing corrects, as DBIM's
        and ODES3's (arXiv 2412.19992); one call instead of two. That draw is Euler's step from T; static.
      clip: clamps x0_hat to [-1, 1].
      length: so many of the times are visited, traced; the others pad. None: all, as for a path.
      return_path: also returns the states after each call, predictions of Heun included.

    Returns:
      x at the last time, `[B, H, W, C]`, and the path if asked for.
    """
    n = len(times) - 1
    # One row a call: the step it belongs to and whether it corrects that step's prediction.
    step = np.repeat(np.arange(n), 2)[:-1]
    correct = np.tile([False, True], n)[:-1]
    calls = None if length is None else 2 * (length - 1) - 1
    if booted:
        step, correct = (np.concatenate([rows[:1], rows[2:]]) for rows in (step, correct))
        calls = None if calls is None else jnp.maximum(calls - 1, 1)
    return _sample_ode(
        "ode_heun", denoise, bridge, xT, times, keys, step, correct, clip, calls, return_path
    )


def sample_ode_euler(
    denoise: Denoiser,
    bridge: Bridge,
    xT: Array,
    times: AnyArray,
    keys: Keys,
    *,
    clip: bool = False,
    length: Array | None = None,
    return_path: bool = False,
) -> ArrayOrPair:
    """Euler's method on the same ODE, one call a step; all else as `sample_ode_heun`.

    On the same times this is DBIM at eta = 0 (arXiv 2405.15885).
    """
    step = np.arange(len(times) - 1)
    correct = np.zeros(len(step), bool)
    calls = None if length is None else length - 1
    return _sample_ode(
        "ode_euler", denoise, bridge, xT, times, keys, step, correct, clip, calls, return_path
    )


def _sample_ode(name, denoise, bridge, xT, times, keys, step, correct, clip, calls, return_path):
    chex.assert_rank(times, 1)
    require_noise(bridge, name)
    times = precise_times(times, xT)
    a, b, c = bridge.coefficients(times[1:])
    noise = normal(keys, ONLY, xT)
    start, u, at_T = xT, noise, jnp.zeros_like(times[:1])  # b / c, zero at T, also in I2SB's table
    if not bridge.pinned:
        a_T, b_T, c_T = bridge.coefficients(times[0])
        start, at_T = bridge.start(xT, noise), (b_T / c_T)[None]
        u = (start - a_T * xT) / c_T
    ratio = jnp.concatenate([at_T, b / c])
    rows = (correct, times[step + correct], a[step], c[step], (ratio[1:] - ratio[:-1])[step])

    def call(carry, row):
        x, u, start, slope = carry
        corrects, t, a, c, length = row
        x0_hat = denoise(x, t, xT)
        if clip:
            x0_hat = jnp.clip(x0_hat, -1.0, 1.0)
        # A correction goes again from where the prediction started, with the mean of both slopes.
        start = jnp.where(corrects, start, u)
        slope = jnp.where(corrects, 0.5 * (slope + x0_hat), x0_hat)
        u = start + expand(length, x) * slope
        x = expand(a, x) * xT + expand(c, x) * u
        return (x, u, start, slope), x if return_path else None

    (x, *_), path = scan_steps(call, (start, u, u, jnp.zeros_like(xT)), rows, calls)
    return (x, path) if return_path else x
