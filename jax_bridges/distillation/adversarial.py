"""A critic's losses (Goodfellow et al. 2014, arXiv 1406.2661; as a term of distillation DMD2's, 2405.14867).

Where the critic is the best one, `log p / q` of real and generated images, the gradient of what the
generator pays is, by an image x, `-sigmoid(-log p / q) (grad log p - grad log q)(x)`: 0 where q = p.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jax_bridges.typing import Array


def critic_loss(of_real: Array, of_made: Array) -> Array:
    """`-log sigmoid(D(x_real)) - log sigmoid(-D(x_made))`, the mean over patches, `[B]`.

    Args:
      of_real, of_made: `[B, ...]` logits, high for what is taken for real.
    """
    return _mean(jax.nn.softplus(-of_real)) + _mean(jax.nn.softplus(of_made))


def fooling_loss(of_made: Array) -> Array:
    """What the generator pays, `-log sigmoid(D(x_made))`, the mean over patches, `[B]`."""
    return _mean(jax.nn.softplus(-of_made))


def _mean(values: Array) -> Array:
    return jnp.mean(values, axis=tuple(range(1, values.ndim)))
