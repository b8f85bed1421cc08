"""Sampling from a distilled student: a handful of calls, the last of which is the answer."""

from __future__ import annotations

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from jax_bridges.bridges import Bridge
from jax_bridges.keys import Keys, StepDraws, normal
from jax_bridges.samplers.checks import precise_times
from jax_bridges.samplers.loop import scan_steps
from jax_bridges.typing import AnyArray, Array, ArrayOrPair, Generator

# Of each call: its z, and the noise of the point after it. No point is after the last call: the noise of
# that is for a first input that is not x_T itself.
DRAWS = StepDraws("z", "noise")


def first_input(bridge: Bridge, xT: Array, t: Array, noise: Array) -> Array:
    """What a student sees at its first call: `bridge.start`, or at a `t < T` the point `a_t x_T + c_t noise`.

    That is `q(x_t | x_0, x_T)` without x_0's share, which is small near T and not known yet. To the
    teacher all possible x_0 lie under x_T itself, and it answers with their average; under noise it finds
    one of them. A student that is its copy then starts with texture where it would start with a blur.

    Args:
      xT, noise: `[B, H, W, C]`.
      t: scalar.
    """
    below = bridge.sample(jnp.zeros_like(xT), xT, t, noise)
    return jnp.where(t < bridge.T, below, bridge.start(xT, noise))


def next_input(
    bridge: Bridge,
    x0_hat: Array,
    x: Array,
    xT: Array,
    times: Array,
    keys: Keys,
    k: int | Array,
    ancestral: bool = False,
) -> Array:
    """What call k > 0 sees after the answer `x0_hat` that the call before it gave at `x`, `[B, H, W, C]`.

    The posterior's draw. But the first input was not drawn as a state of the bridge (x_0's share or, where
    it is not pinned, the noise of x_T is missing), so that the second draws all of its noise anew: the
    same law from x_T itself, as DDBM's students draw it. With `ancestral` it is the posterior's there too,
    as in I2SB's sampler, whose table is no exact bridge: both laws differ by a thousandth.
    """
    noise = normal(keys, DRAWS("noise", k - 1), x)
    moved = bridge.step(x0_hat, x, times[jnp.maximum(k - 1, 0)], times[k], noise, xT)
    if ancestral:
        return moved
    return jnp.where(k > 1, moved, bridge.sample(x0_hat, xT, times[k], noise))


def z_noise(keys: Keys, call: int | Array, like: Array, one_z: bool = False) -> Array:
    """z of a call (one, or `[B]`), of the shape of `like`; with `one_z` that of the first call for all."""
    return normal(keys, DRAWS("z", 0) if one_z else DRAWS("z", call), like)


def _inputs(
    generate: Generator,
    bridge: Bridge,
    xT: Array,
    times: Array,
    keys: Keys,
    one_z: bool,
    ancestral: bool,
) -> tuple[Array, Callable[[Array, Array], Array]]:
    """What the first call sees, and `following(x, k)`: what call k > 0 does if the one before it saw x."""
    last = times.shape[0] - 1
    first = first_input(bridge, xT, times[0], normal(keys, DRAWS("noise", last), xT))

    def following(x: Array, k: Array) -> Array:
        x0_hat = generate(x, times[k - 1], xT, z_noise(keys, k - 1, x, one_z))
        return next_input(bridge, x0_hat, x, xT, times, keys, k, ancestral)

    return first, following


def call_inputs(
    generate: Generator,
    bridge: Bridge,
    xT: Array,
    times: Array,
    keys: Keys,
    *,
    one_z: bool = False,
    ancestral: bool = False,
) -> Array:
    """What the student sees at each of its calls, `[nfe, B, H, W, C]`; it takes nfe - 1 of them.

    Args are those of `sample_few_step`.
    """
    first, following = _inputs(generate, bridge, xT, times, keys, one_z, ancestral)
    if times.shape[0] == 1:
        return first[None]

    def call(x: Array, k: Array) -> tuple[Array, Array]:
        x = following(x, k)
        return x, x

    _, later = jax.lax.scan(call, first, jnp.arange(1, times.shape[0]))
    return jnp.concatenate([first[None], later])


def call_input(
    generate: Generator,
    bridge: Bridge,
    xT: Array,
    times: Array,
    keys: Keys,
    which: Array,
    *,
    one_z: bool = False,
    ancestral: bool = False,
) -> Array:
    """What the student sees at call `which`, a traced scalar, `[B, H, W, C]`; it takes that many calls.

    There is no gradient through it. Args are those of `sample_few_step`.
    """
    first, following = _inputs(generate, bridge, xT, times, keys, one_z, ancestral)
    if times.shape[0] == 1:
        return first
    return jax.lax.fori_loop(1, which + 1, lambda k, x: following(x, k), first)


def sample_few_step(
    generate: Generator,
    bridge: Bridge,
    xT: Array,
    times: AnyArray,
    keys: Keys,
    *,
    clip: bool = False,
    one_z: bool = False,
    ancestral: bool = False,
    length: Array | None = None,
    return_path: bool = False,
) -> ArrayOrPair:
    """Alternates x0_hat = G(x_t, t, x_T, z) with posterior draws of x_s (IBMD sec. 3.5).

    Args:
      generate: the student, `x0_hat = generate(x_t, t, x_T, z)`.
      bridge: the bridge it was distilled on.
      xT: `[B, H, W, C]` corrupted images.
      times: `[nfe]` descending, from T or a little below (`times.student_grid`); traced.
      keys: `[B]` keys, or saved noise; draw 2k is the student's z, 2k + 1 the posterior's noise; the last
        of these, 2 nfe - 1, is the noise of a first input that is not x_T itself.
      clip: clamps the answer to [-1, 1].
      one_z: all calls see the first one's z.
      ancestral: moves as `sample_ancestral` does, by the posterior from x_T itself on, and the answer is not
        the last prediction but where that leads at t_min (I2SB's table keeps a little of x_t there).
      length: so many of the times are visited, traced; the others pad. None: all, as for a path.
      return_path: also returns the nfe predictions, `[nfe, B, H, W, C]`.

    Returns:
      x_0 `[B, H, W, C]`, the prediction of the last call, or with `ancestral` the state at t_min.
    """
    chex.assert_rank(times, 1)
    times = precise_times(times, xT)
    nfe = times.shape[0] if length is None else length

    def call(carry: tuple[Array, Array], k: Array):
        x, x0_hat = carry
        x = jnp.where(k > 0, next_input(bridge, x0_hat, x, xT, times, keys, k, ancestral), x)
        x0_hat = generate(x, times[k], xT, z_noise(keys, k, x, one_z))
        return (x, x0_hat), x0_hat if return_path else None

    x = first_input(bridge, xT, times[0], normal(keys, DRAWS("noise", nfe - 1), xT))
    rows = jnp.arange(times.shape[0])
    (x, x0_hat), path = scan_steps(call, (x, jnp.zeros_like(xT)), rows, length)
    if ancestral:
        x0_hat = bridge.step(
            x0_hat, x, times[nfe - 1], jnp.full_like(times[0], bridge.t_min), 0.0, xT
        )
    if clip:
        x0_hat = jnp.clip(x0_hat, -1.0, 1.0)
    return (x0_hat, path) if return_path else x0_hat
