"""DBMSolver (arXiv 2605.05889): the bridge's ODE in `-log rho`, two calls a step of second order.

In `U = (x - a_t x_T) / c_t` the probability-flow ODE is `dU = x0_hat d(b_t / c_t)`. With
`u = rho_T b / c`, which is `rhobar / rho`, and `lambda = log sqrt(1 + u^2)`, which is `-log rho` up to a
constant, the integral of an x0_hat that is linear in lambda is exact:

    c_t / rho_T int (lambda - lambda_t) du = c_t / rho_T [u (lambda - lambda_t) - u + arctan u]

It is a single-step method: a first step to a time half-way, a call there, and the step from the same
start with the slope between both calls. Written in the half-way state it is a recursion of
`dbim.run_rows` with two predictions.
"""

from __future__ import annotations

from typing import Annotated

import chex
import jax
import jax.numpy as jnp

from jax_bridges.bridges import Bridge
from jax_bridges.keys import Keys
from jax_bridges.samplers.checks import precise_times, require_noise
from jax_bridges.samplers.dbim import Rows, booted, run_rows
from jax_bridges.schema import Choice
from jax_bridges.typing import AnyArray, Array, ArrayOrPair, Denoiser

MIDDLES = ("lambda", "time")


def dbmsolver_calls(times: AnyArray) -> int:
    """Network calls of `sample_dbmsolver`: 2N - 2 for N times."""
    return 2 * len(times) - 2


def _u(bridge: Bridge, t: Array) -> Array:
    """`rhobar_t / rho_t`, rising from 0 at T."""
    _, b, c = bridge.coefficients(t)
    return jnp.sqrt(bridge.total2(t)) * b / c


def _lambda(bridge: Bridge, t: Array) -> Array:
    """`-log rho_t + log rho_T`."""
    return 0.5 * jnp.log1p(_u(bridge, t) ** 2)


def _half_way(bridge: Bridge, t: Array, s: Array, middle: str) -> Array:
    """Times between t and s, entries of the table where there is one."""
    if middle == "time":
        return bridge.snap(0.5 * (t + s))
    wanted = 0.5 * (_lambda(bridge, t) + _lambda(bridge, s))

    def halve(_, ends):
        high, low = ends  # lambda grows as time falls
        m = 0.5 * (high + low)
        below = _lambda(bridge, m) < wanted
        return jnp.where(below, m, high), jnp.where(below, low, m)

    high, low = jax.lax.fori_loop(0, 30, halve, (t, s))
    return bridge.snap(0.5 * (high + low))


def _rows(bridge: Bridge, times: Array, length: int | Array, middle: str) -> tuple[Array, Rows]:
    """Times that the rows lead to, and the rows: to the half-way time of each step and to its end.

    The last step goes to its end at once.
    """
    t, s = times[:-1], times[1:]
    last = jnp.arange(len(t)) == length - 2
    mid = jnp.where(last, s, _half_way(bridge, t, s, middle))
    (a_t, b_t, c_t), (a_m, b_m, c_m) = bridge.coefficients(t), bridge.coefficients(mid)
    a_s, b_s, c_s = bridge.coefficients(s)
    u_t, u_s = _u(bridge, t), _u(bridge, s)
    rise, part = (_lambda(bridge, to) - _lambda(bridge, t) for to in (s, mid))
    bend = u_s * rise - (u_s - u_t) + (jnp.arctan(u_s) - jnp.arctan(u_t))
    slope = c_s / jnp.sqrt(bridge.total2(s)) * bend
    # On a table the half-way time may be t itself: the step is of first order then.
    slope = jnp.where(part > 0, slope / jnp.where(part > 0, part, 1.0), 0.0)

    to_mid, to_end = c_m / c_t, c_s / c_m
    first = b_m - to_mid * b_t
    # The end by the first order, from the state half-way and the same prediction.
    rest = b_s - to_end * b_m
    none = jnp.zeros_like(first)
    pairs = [
        (to_mid, to_end),
        (a_m - to_mid * a_t, a_s - to_end * a_m),
        (none, none),
    ]
    x, xT, noise = (jnp.stack(pair, axis=1).reshape(-1)[:-1] for pair in pairs)
    x0 = jnp.stack(
        [jnp.stack([first, none], axis=1), jnp.stack([slope, rest - slope], axis=1)], axis=1
    )
    visited = jnp.stack([mid, s], axis=1).reshape(-1)[:-1]
    return visited, Rows(x, xT, x0.reshape(-1, 2)[:-1], noise)


def sample_dbmsolver(
    denoise: Denoiser,
    bridge: Bridge,
    xT: Array,
    times: AnyArray,
    keys: Keys,
    *,
    middle: Annotated[str, Choice(MIDDLES)] = "lambda",
    clip: bool = False,
    length: Array | None = None,
    return_path: bool = False,
) -> ArrayOrPair:
    """DBMSolver of second order; at first order it is DBIM at eta = 0.

    One call at T, a draw of `q(x_s | x0_hat, x_T)` at the first time, two calls a step, and one for the
    last step, which is of first order. Deterministic after the draw.

    Args:
      denoise: `x0_hat = denoise(x_t, t, x_T)`.
      bridge: the bridge it was trained on; ValueError if it is deterministic.
      xT: `[B, H, W, C]` corrupted images.
      times: `[N]` descending, starting below T (`times.solver_grid`); traced.
      keys: one key, `[B]` keys, or saved noise; draw 0 alone is used.
      middle: where the call within a step is, half-way in lambda = -log rho (the paper's choice for DIODE)
        or in time (for edges2handbags); static.
      clip: clamps x0_hat to [-1, 1].
      length: so many of the times are visited, traced; the others pad. None: all, as for a path.
      return_path: also returns the states after each call, those half-way included,
        `[2N - 2, B, H, W, C]`.

    Returns:
      x at the last time, `[B, H, W, C]`, and the path if asked for.
    """
    chex.assert_rank(times, 1)
    require_noise(bridge, "dbmsolver")
    times = precise_times(times, xT)
    visited, rest = _rows(bridge, times, len(times) if length is None else length, middle)
    visited = jnp.concatenate([times[:1], visited])
    rows = booted(bridge, times[0], rest)
    calls = None if length is None else 2 * length - 2
    return run_rows(denoise, bridge, xT, visited, keys, rows, clip, calls, return_path)
