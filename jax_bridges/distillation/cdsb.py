"""Conditional Schroedinger bridges by mean matching (arXiv 2202.13460): paths, and what is learnt on them.

A path goes from one end to the other in N steps of sizes gamma: `u = step(x)`, `x' = u + sqrt(2 gamma) z`.
Steps that lead back are learnt on it: at x' the answer is `x' + u - step(x')`, of which the mean given x'
reverses the step up to O(gamma). One end is x_0, the other a reference law that x_T may shift but whose
draws know nothing of x_0. In contrast to `couplings.py`, x_T is no end of the path: it is told.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jax_bridges.keys import Keys, normal
from jax_bridges.samplers.cdsb import DRAWS
from jax_bridges.typing import Array

# `step(x, k, gamma) -> u`: the mean of step k from x.
Mean = Callable[[Array, Array, Array], Array]


def reference_step(mean: Array | float, std: float) -> Mean:
    """Langevin steps of N(mean, std^2), the path of the first round: `x + gamma (mean - x) / std^2`."""
    return lambda x, k, gamma: x + gamma * (mean - x) / std**2


def walk_path(step: Mean, start: Array, gammas: Array, keys: Keys) -> tuple[Array, Array]:
    """A path of N steps, and what a step back from each of its points is trained to give.

    Args:
      step: of the path.
      start: `[B, H, W, C]`, draws of the end that it leaves.
      gammas: `[N]`, sizes of its steps, in their order.
      keys: draws are those of `DRAWS`.

    Returns:
      (points, targets), `[N, B, H, W, C]` each: x' of step k, and `x' + u - step(x')`. The network that
      leads back meets them in the other order: point k is where its step N - 1 - k begins.
    """

    def walk(x: Array, row: tuple[Array, Array]) -> tuple[Array, tuple[Array, Array]]:
        k, gamma = row
        u = step(x, k, gamma)
        x = u + jnp.sqrt(2.0 * gamma) * normal(keys, DRAWS("noise", k), x)
        return x, (x, x + u - step(x, k, gamma))

    rows = jnp.arange(len(gammas)), jnp.asarray(gammas, start.dtype)
    return jax.lax.scan(walk, start, rows)[1]
