"""Which times a network is trained at, and which a sampler visits."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jax_bridges.bridges import Bridge
from jax_bridges.choices import look_up
from jax_bridges.typing import Array

# -- training-time distributions: uniform number u in [0, 1) -> time --------------------------


def uniform(bridge: Bridge, u: Array, below: Array | None = None) -> Array:
    """Uniform on [t_min, T] (DDBM's `real-uniform`); on a table, over its entries (I2SB, DDPM)."""
    if bridge.table is not None:
        entries = bridge.table if below is None else bridge.index(below)
        return jnp.floor(u * entries) / (bridge.table - 1)
    return bridge.t_min + u * ((bridge.T if below is None else below) - bridge.t_min)


def towards_source(bridge: Bridge, u: Array, below: Array | None = None) -> Array:
    """Denser towards T, where most of the image is undecided: the law of `max` of two uniforms."""
    return uniform(bridge, jnp.sqrt(u), below)


def towards_clean(bridge: Bridge, u: Array, below: Array | None = None) -> Array:
    """Denser towards t_min, where details are decided: the law of a uniform's square."""
    return uniform(bridge, u**2, below)


def half_at_source(bridge: Bridge, u: Array, below: Array | None = None) -> Array:
    """As `uniform` for half of the examples; T for the others, from which a single call answers."""
    return uniform(bridge, jnp.where(u < 0.5, 2 * u, 1 - 2.0**-24), below)


def edm_lognormal(bridge: Bridge, u: Array, below: Array | None = None) -> Array:
    """EDM's noise levels for training, `ln t ~ N(-1.2, 1.2^2)` (arXiv 2206.00364, table 1)."""
    t = jnp.exp(-1.2 + 1.2 * jax.scipy.special.ndtri(u))
    return bridge.snap(jnp.clip(t, bridge.t_min, bridge.T if below is None else below))


_LEVELS = (0.01, 5.0)  # from less than 8 bits show, to more than an image holds


def even_levels(bridge: Bridge, u: Array, below: Array | None = None) -> Array:
    """Uniform in the logarithm of x_t's noise, in units of x_0: of `c_t / b_t` from 0.01 to 5.

    Where a bridge has little noise x_t tells nearly all times what an image is as a whole, and what of it is
    right only those near T, of which a uniform law has few.

    Raises:
      ValueError: the bridge has no such noise.
    """
    with jax.ensure_compile_time_eval():  # also from within a traced function
        share = 1.0 / (1.0 + np.exp(-np.linspace(-14.0, 14.0, 4097)))  # denser at both ends
        t = float(bridge.t_min) + share * (float(bridge.T) - float(bridge.t_min))
        _, b, c = (np.asarray(v, np.float64) for v in bridge.coefficients(jnp.asarray(t)))
    log_level = np.maximum.accumulate(np.log(np.maximum(c, 1e-12) / np.maximum(b, 1e-12)))
    low, high = np.clip(np.log(_LEVELS), log_level[0], log_level[-1])
    if not low < high:
        raise ValueError(
            "train.times or distill.times is 'even_levels', but the bridge has no noise: take 'uniform'."
        )
    if below is not None:
        high = jnp.minimum(high, jnp.interp(below, t, log_level))
    drawn = jnp.interp(low + u * (high - low), log_level, t)
    drawn = bridge.snap(jnp.clip(drawn, bridge.t_min, bridge.T))
    return drawn if below is None else jnp.where(drawn < below, drawn, uniform(bridge, u, below))


TRAINING_TIMES = {
    "uniform": uniform,
    "towards_source": towards_source,
    "towards_clean": towards_clean,
    "half_at_source": half_at_source,
    "even_levels": even_levels,
    "edm_lognormal": edm_lognormal,  # for bridges whose time is a noise level
}


def training_times(name: str, bridge: Bridge, u: Array, below: Array | None = None) -> Array:
    """Times `[B]` in [t_min, T] from uniform numbers u `[B]` by the distribution called `name`.

    With `below`, `[B]`, they lie in [t_min, below); on a table at entries before that one.
    """
    law = look_up("distribution of training times", TRAINING_TIMES, name)
    return law(bridge, u, below)


def level_time(bridge: Bridge, level: float) -> float:
    """The first time whose noise is at least `level` in units of x_0, `sigma_t / alpha_t >= level`.

    On a table that of an entry.

    Raises:
      ValueError: the bridge has no such noise.
    """
    with jax.ensure_compile_time_eval():  # also from within a traced function
        low, high = float(bridge.t_min), float(bridge.T)
        t = np.linspace(low, high, bridge.table or 4097)
        for _ in range(1 if bridge.table else 4):  # each narrows it down
            enough = np.sqrt(np.asarray(bridge.rho2(jnp.asarray(t)), np.float64)) >= level * (
                1 - 1e-6
            )
            if not enough[-1]:
                raise ValueError(
                    f"Noise of {level:g} is more than the bridge ends with: take one with more noise."
                )
            first = int(np.argmax(enough))
            low, high = t[max(first - 1, 0)], t[first]
            t = np.linspace(low, high, 4097)
    return float(high)


# -- sampling grids: number of network calls -> descending times [nfe + 1] --------------------


def i2sb_steps(nfe: int, steps: int = 1000) -> np.ndarray:
    """I2SB's ascending table entries `[nfe + 1]`, 0 .. steps - 1.

    Every stride is the same float, added up and rounded half to even, as in the official spacing.
    """
    if not 1 <= nfe < steps:
        raise ValueError(
            f"I2SB visits 1 to {steps - 1} of its {steps} steps; nfe = {nfe} was asked for."
        )
    stride = (steps - 1) / nfe
    position, entries = 0.0, []
    for _ in range(nfe + 1):
        entries.append(round(position))
        position += stride
    return np.asarray(entries)


def padded(times: np.ndarray, room: int = 1024) -> tuple[np.ndarray, np.int32]:
    """A grid as the samplers' `times` and `length`: its last time or row repeated up to a multiple of `room`.

    All grids that fit into the same room have one shape, so that one program samples with any of them.
    """
    filler = np.repeat(times[-1:], -len(times) % room, axis=0)
    return np.concatenate([times, filler]), np.int32(len(times))


def uniform_grid(bridge: Bridge, nfe: int) -> np.ndarray:
    """Evenly spaced times T = t_0 > ... > t_nfe = t_min, float64 `[nfe + 1]`; I2SB's on a table."""
    if bridge.table is not None:
        return i2sb_steps(nfe, bridge.table)[::-1] / (bridge.table - 1)
    if nfe < 1:
        raise ValueError(f"A sampler needs at least one network call; nfe = {nfe} was asked for.")
    return np.linspace(float(bridge.T), float(bridge.t_min), nfe + 1)


def dbim_grid(bridge: Bridge, nfe: int, gap: float = 1e-3) -> np.ndarray:
    """DBIM's grid, T - gap to t_min, float64 `[nfe]`; with the booting call at T, nfe calls."""
    if nfe < 2:
        raise ValueError(f"DBIM needs a booting call and one step: nfe >= 2; {nfe} was asked for.")
    if bridge.table is not None and nfe >= bridge.table:
        raise ValueError(
            f"DBIM visits each of the {bridge.table} steps once; nfe = {nfe} was asked for."
        )
    return np.linspace(float(bridge.T) - gap, float(bridge.t_min), nfe)


def karras_grid(bridge: Bridge, n: int, rho: float = 7.0, gap: float = 1e-4) -> np.ndarray:
    """DDBM's grid from T - gap to t_min, warped by the power rho, then 0; float64 `[n + 1]`.

    `t_i = (t_max^{1/rho} + i/(n-1) (t_min^{1/rho} - t_max^{1/rho}))^rho` (EDM, arXiv 2206.00364,
    eq. 5). On I2SB's table, where t_min is 0 itself, the last but one time is the second entry, and times
    are entries, no two the same: several of the warped times are nearest to the first few.
    """
    if n < 2:
        raise ValueError(f"The Karras grid has at least 2 times; n = {n} was asked for.")
    # DBIM's form of the table has a t_min, and this grid as published.
    table = None if bridge.t_min else bridge.table
    t_min = float(bridge.t_min) if table is None else 1.0 / (table - 1)
    high, low = (float(bridge.T) - gap) ** (1 / rho), t_min ** (1 / rho)
    grid = np.append((high + np.arange(n) / (n - 1) * (low - high)) ** rho, 0.0)
    if table is None:
        return grid
    if n >= table:
        raise ValueError(f"The table has {table} entries, too few for {n} steps down to 0.")
    up = np.arange(n + 1)  # counted from the end
    entries = np.rint(grid * (table - 1))[::-1]
    entries = np.minimum(np.maximum.accumulate(entries - up) + up, table - 1 - up[::-1])
    return entries[::-1] / (table - 1)


def solver_grid(bridge: Bridge, n: int) -> np.ndarray:
    """DBMSolver's grid, T - 1e-3 to t_min, warped as `karras_grid`; float64 `[n]`.

    The gap is DBIM's: on a table of 1000 entries a smaller one is T itself.
    """
    if n < 3:
        return dbim_grid(bridge, n)
    if bridge.t_min:
        return karras_grid(bridge, n, gap=1e-3)[:-1]
    return karras_grid(bridge, n - 1, gap=1e-3)


def angle_grid(bridge: Bridge, n: int, rho: float = 3.0) -> np.ndarray:
    """Times T = t_0 > ... > t_n = t_min by `bridge.angle`, warped by rho; float64 `[n + 1]`.

    As `karras_grid`, but in the variable in which all bridges are alike: it suits an ODE on any of
    them.
    """
    if n < 1:
        raise ValueError(f"A sampler needs at least one step; n = {n} was asked for.")
    T, t_min = float(bridge.T), float(bridge.t_min)
    if bridge.table is not None:
        dense = np.linspace(1.0, 0.0, bridge.table)
    else:
        # Dense towards both ends, where the angle can turn as a square root of time.
        s = np.linspace(1.0, 0.0, 4097)
        dense = t_min + (T - t_min) * s**4 * (5.0 - 4.0 * s)
    with jax.ensure_compile_time_eval():  # also from within a traced function
        angle = np.asarray(bridge.angle(dense), np.float64)
    high, low = angle[0] ** (1 / rho), angle[-1] ** (1 / rho)
    warped = (high + np.arange(n + 1) / n * (low - high)) ** rho
    times = np.interp(-warped, -angle, dense)
    times[0], times[-1] = dense[0], dense[-1]
    return times


def student_grid(
    bridge: Bridge, nfe: int, trained: int | None = None, first: float = 1.0
) -> np.ndarray:
    """Times at which a few-step student is called, T = t_N > ... > t_1 > t_min, float64 `[nfe]`.

    With `trained` given, the nfe times are picked evenly among the `trained` ones the student was
    trained at (IBMD sec. 3.5; the grid's values are not published: evenly spaced here). `first` below 1
    puts the first of them at `first * T` (`samplers.few_step.first_input`); a deterministic bridge has no
    noise to be seen under, and starts at T.
    """
    trained = nfe if trained is None else trained
    if not 1 <= nfe <= trained:
        raise ValueError(
            f"This student is trained for 1 to {trained} calls; nfe = {nfe} was asked for: choose one "
            "of those, or train it with a larger distill.student_steps."
        )
    grid = uniform_grid(bridge, trained)[:-1]
    grid[0] *= 1.0 if bridge.deterministic else first
    return grid[[int(k * trained / nfe) for k in range(nfe)]]


def consistency_grid(bridge: Bridge, calls: int, gamma: float) -> np.ndarray:
    """Times at which a consistency student is called, T - gamma first, evenly spaced; `[calls]`.

    A deterministic bridge has one path from x_T, so its first time is T itself.
    """
    if calls < 1:
        raise ValueError(f"A student needs at least one network call; nfe = {calls} was asked for.")
    first = float(bridge.T) - (0.0 if bridge.deterministic else gamma)
    return np.linspace(first, float(bridge.t_min), calls + 1)[:-1]
