"""How a student's x_0 is generated in training (IBMD, arXiv 2502.01362, sec. 3.5, app. B): its roll-outs.

All draw as `sample_few_step` does. `generate` is the student that is trained; `walk`, where a roll-out has
one, the student whose calls lead to where `generate` is called: the same one, or its average.
"""

from __future__ import annotations

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jax_bridges.bridges import Bridge
from jax_bridges.keys import Keys, normal
from jax_bridges.platforms import unroll_gradients
from jax_bridges.samplers.few_step import (
    DRAWS,
    call_input,
    call_inputs,
    first_input,
    next_input,
    z_noise,
)
from jax_bridges.typing import Array, Generator


class Answer(NamedTuple):
    """x_0 `[B, H, W, C]`, and the call that made it: at x `[B, H, W, C]`, at times t `[B]`."""

    x0: Array
    x: Array
    t: Array


def roll_out_random(
    generate: Generator,
    bridge: Bridge,
    xT: Array,
    times: Array,
    keys: Keys,
    which: Array,
    *,
    walk: Generator | None = None,
    one_z: bool = False,
    ancestral: bool = False,
) -> Answer:
    """x_0 by one of the student's N calls, as with DDBM teachers (IBMD app. B.2).

    Its input is what the calls before it lead to in inference, without gradient. A call so learns to
    mend what those before it got wrong.

    Args:
      times: `[N]` descending, from T or a little below.
      keys: `[B]`.
      which: int in 0 .. N - 1, the call: `[B]`, of each example, and all N calls but the last are made; or a
        scalar, of all, and only those before it are made.
      walk: makes the calls before it; None: `generate`.
      one_z, ancestral: as of `sample_few_step`.
    """
    how = {"one_z": one_z, "ancestral": ancestral}
    walk = generate if walk is None else walk
    which = jnp.asarray(which)
    if which.ndim:
        chex.assert_equal_shape_prefix([xT, which], 1)
        inputs = jax.lax.stop_gradient(call_inputs(walk, bridge, xT, times, keys, **how))
        # Not by indexing, for which the compiler might gather a batch that is split over devices.
        own = which == jnp.arange(len(inputs))[:, None]
        x = jnp.sum(inputs, axis=0, where=own.reshape(own.shape + (1,) * (xT.ndim - 1)))
    else:
        x = jax.lax.stop_gradient(call_input(walk, bridge, xT, times, keys, which, **how))
    x0 = generate(x, times[which], xT, z_noise(keys, which, xT, one_z))
    return Answer(x0, x, jnp.broadcast_to(times[which], xT.shape[:1]))


def roll_out_chain(
    generate: Generator,
    bridge: Bridge,
    xT: Array,
    times: Array,
    keys: Keys,
    *,
    one_z: bool = False,
    ancestral: bool = False,
) -> Answer:
    """x_0 by all N calls (IBMD app. B.1), the gradient through each.

    (With a gradient through the last one alone it would be `roll_out_random` of that call.)

    Args:
      times: `[N]` descending, from T or a little below.
      keys: `[B]`.
      one_z, ancestral: as of `sample_few_step`.
    """
    nfe = times.shape[0]
    x = first_input(bridge, xT, times[0], normal(keys, DRAWS("noise", nfe - 1), xT))
    x0 = generate(x, times[0], xT, z_noise(keys, 0, x, one_z))

    def call(carry: tuple[Array, Array], k: Array):
        x, x0 = carry
        x = next_input(bridge, x0, x, xT, times, keys, k, ancestral)
        return (x, generate(x, times[k], xT, z_noise(keys, k, x, one_z))), None

    if nfe > 1:
        unroll = unroll_gradients(nfe - 1)
        (x, x0), _ = jax.lax.scan(call, (x, x0), jnp.arange(1, nfe), unroll=unroll)
    return Answer(x0, x, jnp.broadcast_to(times[-1], xT.shape[:1]))


def roll_out_renoised(
    generate: Generator,
    bridge: Bridge,
    xT: Array,
    times: Array,
    keys: Keys,
    which: Array,
    whole: Array,
    noise: Array,
    *,
    one_z: bool = False,
) -> Answer:
    """x_0 by one call at a point of `q(x_n | x_0', x_T)`, as the released I2SB inpainting runs make it.

    The first call's point is x_T itself (or what `first_input` makes of it).

    Args:
      times, keys, which, one_z: see `roll_out_random`.
      whole: `[B, H, W, C]` x_0', what all N calls lead to; without gradient.
      noise: the same shape, of x_n.
    """
    t = jnp.broadcast_to(times[which], xT.shape[:1])
    nfe = times.shape[0]
    first = first_input(bridge, xT, times[0], normal(keys, DRAWS("noise", nfe - 1), xT))
    later = bridge.sample(jax.lax.stop_gradient(whole), xT, t, noise)
    at_first = jnp.broadcast_to(which == 0, xT.shape[:1]).reshape(-1, *(1,) * (xT.ndim - 1))
    x = jnp.where(at_first, first, later)
    return Answer(generate(x, t, xT, z_noise(keys, which, xT, one_z)), x, t)
