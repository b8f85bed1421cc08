"""What every sampler does with its arguments before the scan."""

from __future__ import annotations

import jax.numpy as jnp

from jax_bridges.bridges import Bridge
from jax_bridges.typing import AnyArray, Array


def precise_times(times: AnyArray, xT: Array) -> Array:
    """Times in float32 at least, also for images of lower precision.

    Raises:
      ValueError: images of whole numbers.
    """
    if not jnp.issubdtype(xT.dtype, jnp.floating):
        raise ValueError(
            f"xT is {xT.dtype}, but images are floats in [-1, 1]: of uint8 take x / 127.5 - 1."
        )
    return jnp.asarray(times, jnp.promote_types(xT.dtype, jnp.float32))


def require_noise(bridge: Bridge, sampler: str) -> None:
    """ValueError if the bridge has no noise to integrate over."""
    if bridge.deterministic:
        raise ValueError(
            f"The sampler '{sampler}' divides by the noise of its bridge, of which a "
            "deterministic bridge has none: use 'ancestral', which is I2SB's OT-ODE sampler there."
        )
