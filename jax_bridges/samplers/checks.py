"""What every sampler does with its arguments before the scan."""

from __future__ import annotations

import jax.numpy as jnp

from jax_bridges.bridges import Bridge
from jax_bridges.typing import Array


def precise_times(times: Array, xT: Array) -> Array:
    """Times in float32 at least, also for images of lower precision."""
    return jnp.asarray(times, jnp.promote_types(xT.dtype, jnp.float32))


def require_noise(bridge: Bridge, sampler: str) -> None:
    """ValueError if the bridge has no noise to integrate over."""
    if bridge.deterministic:
        raise ValueError(
            f"The sampler '{sampler}' divides by the noise of its bridge, of which a "
            "deterministic bridge has none: use 'ancestral', which is I2SB's OT-ODE sampler there."
        )
