"""DBIM (arXiv 2405.15885): fast samplers for conditional bridge models, any eta, orders 1, 2 and 3.

All are one recursion, linear in the state, the source and the last predictions; its weights depend
on the times alone and are computed before the scan:

    x <- A_k x + B_k x_T + sum_j W_kj x0_hat_{k-j} + omega_k noise

Row 0 is the booting step: it leaves x_T by one draw of `q(x_s | x0_hat(x_T, T), x_T)`, since every
later formula divides by c, which is 0 at T. Known pixels of a hole are kept by the denoiser,
not here.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

import chex
import jax
import jax.numpy as jnp

from jax_bridges.bridges import Bridge
from jax_bridges.keys import Keys, StepDraws, normal
from jax_bridges.samplers.checks import precise_times, require_noise
from jax_bridges.samplers.loop import scan_steps
from jax_bridges.schema import SHARE
from jax_bridges.typing import AnyArray, Array, ArrayOrPair, Denoiser

_DRAWS = StepDraws("noise")


class Rows(NamedTuple):
    """Weights of the recursion, one row a call: `[nfe]`, x0 `[nfe, order]`."""

    x: Array
    xT: Array
    x0: Array
    noise: Array


def booted(bridge: Bridge, start: Array, rest: Rows) -> Rows:
    """Puts the booting row, T -> start, before the others."""
    a, b, c = bridge.coefficients(start)
    x0 = jnp.zeros_like(rest.x0[0]).at[0].set(b)
    first = Rows(jnp.zeros_like(a), a, x0, c)
    return Rows(
        *(jnp.concatenate([one[None], many]) for one, many in zip(first, rest, strict=True))
    )


def _eta_rows(bridge: Bridge, times: Array, length: int | Array, eta: Array | float) -> Rows:
    """First order: `omega = eta std[q(x_s | x_0, x_t)]`, `m = sqrt(c_s^2 - omega^2) / c_t`."""
    t, s = times[:-1], times[1:]
    (a_t, b_t, c_t), (a_s, b_s, c_s) = bridge.coefficients(t), bridge.coefficients(s)
    omega = eta * bridge.posterior(t, s).std
    m = jnp.sqrt(jnp.maximum(c_s**2 - omega**2, 0.0)) / c_t
    last = jnp.arange(len(t)) == length - 2
    return Rows(m, a_s - m * a_t, (b_s - m * b_t)[:, None], jnp.where(last, 0.0, omega))


def _phi(h: Array) -> tuple[Array, Array]:
    """`e^-h + h - 1` and `h^2/2 - h + 1 - e^-h`, by their series where h is small."""
    tail = jnp.ones_like(h)
    for k in range(16, 3, -1):
        tail = 1.0 - h / k * tail
    small = h < 0.5
    second = jnp.where(small, h**3 / 6 * tail, h**2 / 2 - h - jnp.expm1(-h))
    return h**2 / 2 - second, second


def _high_order_rows(bridge: Bridge, times: Array, length: int | Array, order: int) -> Rows:
    """Orders 2 and 3 in `lambda = log(b / c)` (as a DPM-solver), first order at both ends.

    The integral of the Taylor series of x0_hat in lambda is exact; its derivatives are backward
    differences: D1 and D2 of the Newton polynomial through the last `order` predictions.
    """
    a, b, c = bridge.coefficients(times)
    lam = jnp.log(b / c)
    step = lam[1:] - lam[:-1]
    phi1, phi2 = _phi(step)
    k = jnp.arange(len(step))
    inner = (k > 0) & (k < length - 2)
    third = inner & (k > 1) & (order == 3)

    # h1, h2: the two steps before this one; 1 where there is none, with a zero weight.
    h1 = jnp.where(k > 0, jnp.roll(step, 1), 1.0)
    h2 = jnp.where(k > 1, jnp.roll(step, 2), 1.0)
    # Weights of the slopes e1 = (x0_0 - x0_1) / h1 and e2 = (x0_1 - x0_2) / h2.
    e1 = jnp.where(
        third, (phi1 * (2 * h1 + h2) + 2 * phi2) / (h1 + h2), jnp.where(inner, phi1, 0.0)
    )
    e2 = jnp.where(third, -(phi1 * h1 + 2 * phi2) / (h1 + h2), 0.0)
    x0 = [-jnp.expm1(-step) + e1 / h1, e2 / h2 - e1 / h1, -e2 / h2][:order]

    m = c[1:] / c[:-1]
    weights = b[1:, None] * jnp.stack(x0, axis=1)
    return Rows(m, a[1:] - m * a[:-1], weights, jnp.zeros_like(m))


def run_rows(
    denoise: Denoiser,
    bridge: Bridge,
    xT: Array,
    times: AnyArray,
    keys: Keys,
    rows: Rows,
    clip: bool,
    length: Array | None,
    return_path: bool,
) -> ArrayOrPair:
    """The recursion of the module docstring: row k leads to `times[k]` from the time before it, T first."""
    called_at = jnp.concatenate([jnp.full_like(times[:1], bridge.T), times[:-1]])
    nfe, order = rows.x0.shape
    rows = jax.tree.map(lambda v: v.astype(xT.dtype), rows)

    def call(carry, row):
        x, history = carry
        k, t, w = row
        x0_hat = denoise(x, t, xT)
        if clip:
            x0_hat = jnp.clip(x0_hat, -1.0, 1.0)
        history = (x0_hat, *history)
        x = w.x * x + w.xT * xT + sum(w.x0[j] * history[j] for j in range(order))
        x = x + w.noise * normal(keys, _DRAWS("noise", k), x)
        return (x, history[: order - 1]), x if return_path else None

    # Where paths end in a noisy x_T, the booting noise is that noise.
    first = xT if bridge.pinned else bridge.start(xT, normal(keys, _DRAWS("noise", 0), xT))
    start = (first, (jnp.zeros_like(xT),) * (order - 1))
    (x, _), path = scan_steps(call, start, (jnp.arange(nfe), called_at, rows), length)
    return (x, path) if return_path else x


def sample_dbim(
    denoise: Denoiser,
    bridge: Bridge,
    xT: Array,
    times: AnyArray,
    keys: Keys,
    *,
    eta: Annotated[float | Array, SHARE] = 0.0,
    clip: bool = False,
    length: Array | None = None,
    return_path: bool = False,
) -> ArrayOrPair:
    """First-order DBIM: eta = 0 is deterministic after booting, eta = 1 the Markov posterior.

    One call of `denoise` a time, the first of them at T. The last step is its mean, without noise.

    Args:
      denoise: `x0_hat = denoise(x_t, t, x_T)`.
      bridge: the bridge it was trained on; ValueError if it is deterministic.
      xT: `[B, H, W, C]` corrupted images.
      times: `[nfe]` descending, starting below T (`times.dbim_grid`); traced.
      keys: one key, `[B]` keys, or saved noise; draw 0 is the booting noise, draw k + 1 that of step k.
      eta: share of fresh noise, in [0, 1]; traced.
      clip: clamps x0_hat to [-1, 1].
      length: so many of the times are visited, traced; the others pad. None: all, as for a path.
      return_path: also returns the states after each call, `[nfe, B, H, W, C]`.

    Returns:
      x at the last time, `[B, H, W, C]`, and the path if asked for.
    """
    chex.assert_rank(times, 1)
    require_noise(bridge, "dbim")
    times = precise_times(times, xT)
    count = len(times) if length is None else length
    rows = booted(bridge, times[0], _eta_rows(bridge, times, count, eta))
    return run_rows(denoise, bridge, xT, times, keys, rows, clip, length, return_path)


def sample_dbim_high_order(
    denoise: Denoiser,
    bridge: Bridge,
    xT: Array,
    times: AnyArray,
    keys: Keys,
    *,
    order: int = 3,
    clip: bool = False,
    length: Array | None = None,
    return_path: bool = False,
) -> ArrayOrPair:
    """DBIM of order 2 or 3: a multistep exponential integrator, deterministic after booting.

    As `sample_dbim` at eta = 0, same calls and times (which must differ from each other), but the
    first and the last step alone are first order. Only draw 0 is used.

    Args:
      order: 2 or 3; static.
      Others as `sample_dbim`.
    """
    if order not in (2, 3):
        raise ValueError(f"High-order DBIM has order 2 or 3; order = {order} was asked for.")
    chex.assert_rank(times, 1)
    require_noise(bridge, f"dbim{order}")
    times = precise_times(times, xT)
    count = len(times) if length is None else length
    rows = booted(bridge, times[0], _high_order_rows(bridge, times, count, order))
    return run_rows(denoise, bridge, xT, times, keys, rows, clip, length, return_path)
