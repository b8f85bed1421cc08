"""How straight the paths of a flow are: what reflow improves, and what few Euler steps cost."""

from __future__ import annotations

import jax.numpy as jnp

from jax_bridges.bridges import Bridge
from jax_bridges.samplers.ancestral import sample_ancestral
from jax_bridges.samplers.checks import precise_times
from jax_bridges.typing import AnyArray, Array, Denoiser


def straightness(denoise: Denoiser, bridge: Bridge, xT: Array, times: AnyArray) -> Array:
    """`int |(x_T - x_0) / T - dx_t / dt|^2 dt` along each path, mean over its pixels; `[B]`.

    S of rectified flow (arXiv 2209.03003, sec. 2.2): 0 where one Euler step is exact.

    Args:
      denoise: `x0_hat = denoise(x_t, t, x_T)`.
      bridge: a deterministic one; ValueError if not.
      xT: `[B, H, W, C]`.
      times: `[n + 1]` descending, T first.
    """
    if not bridge.deterministic:
        raise ValueError("Straightness is that of a flow: the bridge must be deterministic.")
    times = precise_times(times, xT)
    none = jnp.zeros_like(xT)  # noise, of which nothing is drawn
    end, path = sample_ancestral(denoise, bridge, xT, times, lambda draw: none, return_path=True)
    path = jnp.concatenate([xT[None], path])
    length = (times[:-1] - times[1:]).reshape((-1,) + (1,) * xT.ndim)
    chord = (xT - end) / (times[0] - times[-1])
    square = ((path[:-1] - path[1:]) / length - chord) ** 2 * length
    return jnp.mean(jnp.sum(square, axis=0), axis=tuple(range(1, xT.ndim)))
