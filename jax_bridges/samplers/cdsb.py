"""Sampling of a conditional Schroedinger bridge: from its reference law to x_0 (arXiv 2202.13460)."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from jax_bridges.keys import Keys, StepDraws, normal
from jax_bridges.samplers.checks import precise_times
from jax_bridges.samplers.loop import scan_steps
from jax_bridges.typing import AnyArray, Array

DRAWS = StepDraws("noise", first=("start",))


def sample_cdsb(
    step: Callable[[Array, Array], Array],
    start: Array,
    gammas: AnyArray,
    keys: Keys,
    *,
    length: Array | None = None,
) -> Array:
    """N steps `x <- step(x, k) + sqrt(2 gamma_k) z`, the last without noise. One call of `step` each.

    Args:
      step: `step(x, k) -> x`, the mean of step k, counted from the reference law.
      start: `[B, H, W, C]`, draws of that law.
      gammas: `[N]`, sizes of the steps in this order: those of the way from x_0 reversed; traced.
      keys: one key, `[B]` keys, or saved noise; draw 1 + k is that of step k.
      length: so many of the steps are made, traced; the others pad. None: all.

    Returns:
      x_0 `[B, H, W, C]`.
    """
    gammas = precise_times(gammas, start)
    count = gammas.shape[0] if length is None else length

    def walk(x: Array, k: Array) -> tuple[Array, None]:
        spread = jnp.where(k == count - 1, 0.0, jnp.sqrt(2.0 * gammas[k]))
        return step(x, k) + spread * normal(keys, DRAWS("noise", k), x), None

    return scan_steps(walk, start, jnp.arange(gammas.shape[0]), length)[0]
