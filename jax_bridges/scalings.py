"""What all preconditionings have: how a network's answer becomes x_0."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from jax_bridges.bridges import Bridge, expand
from jax_bridges.typing import Array


class Scalings(NamedTuple):
    """Each shaped like t."""

    c_in: Array
    c_skip: Array
    c_out: Array
    c_noise: Array


class Preconditioning:
    """What every kind has: `scalings` and `weight` at times t `[B]`, and what stands beside c_out F."""

    def seen(self, xt: Array, xT: Array, scalings: Scalings) -> tuple[Array, Array]:
        """What the network is given of x_t and of x_T, `[B, H, W, C]` each: `c_in x_t`, and x_T as it is."""
        return expand(scalings.c_in, xt) * xt, xT

    def skip(self, bridge: Bridge, xt: Array, t: Array, c_skip: Array) -> Array:
        """What is known of x_0 without the network, `[B, H, W, C]`: `c_skip x_t`."""
        del bridge, t
        return expand(c_skip, xt) * xt

    def answer(
        self, bridge: Bridge, xt: Array, t: Array, xT: Array, scalings: Scalings, raw: Array
    ) -> Array:
        """x0_hat `[B, H, W, C]` of the network's answer `raw`."""
        del xT
        return self.skip(bridge, xt, t, scalings.c_skip) + expand(scalings.c_out, xt) * raw


def share(bridge: Bridge, t: Array, scale: float) -> Array:
    """`scale t / T`, of the table's entry where there is one: an entry of `scale + 1` is a whole number."""
    t = jnp.asarray(t)
    if bridge.table is None:
        return scale * t / bridge.T
    return scale * bridge.index(t).astype(t.dtype) / (bridge.table - 1)
