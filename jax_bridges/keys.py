"""Randomness with one key an example.

Every draw is `normal(fold_in(key_of_example, draw))`, and the key of an example is
`fold_in(base_key, global index)`. Results then do not depend on batch size, on the number of
devices or hosts, or on where a run was interrupted.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jax_bridges.typing import Array

# Either `[B]` typed PRNG keys, or a function `draw -> noise` that replays saved noise.
Keys = Array | Callable[[Array], Array]


def example_keys(key: Array, index: Array) -> Array:
    """Keys `[B]` of the examples with global numbers `index` `[B]`."""
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(index)


def fold(keys: Array, number: int | Array) -> Array:
    """Folds one number into each of the `[B]` keys: an independent stream a purpose."""
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)


def normal(keys: Keys, draw: int | Array, like: Array) -> Array:
    """Standard normal noise of the shape and dtype of `like` `[B, ...]`, draw number `draw`."""
    if callable(keys):
        return jnp.asarray(keys(draw), like.dtype)
    return jax.vmap(lambda key: jax.random.normal(key, like.shape[1:], like.dtype))(
        fold(keys, draw)
    )


def uniform(keys: Array, draw: int | Array) -> Array:
    """`[B]` float32 numbers, uniform in [0, 1)."""
    return jax.vmap(lambda key: jax.random.uniform(key, ()))(fold(keys, draw))


def randint(keys: Array, draw: int | Array, high: int) -> Array:
    """`[B]` int32 numbers, uniform in 0 .. high - 1."""
    return jax.vmap(lambda key: jax.random.randint(key, (), 0, high))(fold(keys, draw))
