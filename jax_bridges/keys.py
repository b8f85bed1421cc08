"""Randomness with one key an example.

Every draw is `normal(fold_in(key_of_example, draw))`, and the key of an example is
`fold_in(base_key, global index)`. Results then do not depend on batch size, on the number of
devices or hosts, or on where a run was interrupted. The exception is dropout in a teacher's training,
which flax draws for the batch that a device sees.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jax_bridges.typing import Array

# `[B]` typed PRNG keys, one key for them all (then example i has `fold_in(key, i)`), or a function
# `draw -> noise` that replays saved noise.
Keys = Array | Callable[[Array], Array]


def example_keys(key: Array, index: Array) -> Array:
    """Keys `[B]` of the examples with global numbers `index` `[B]`."""
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(index)


def fold(keys: Array, number: int | Array) -> Array:
    """Folds one number, or `[B]`, into each of the `[B]` keys: an independent stream a purpose."""
    return jax.vmap(jax.random.fold_in, in_axes=(0, 0 if jnp.ndim(number) else None))(keys, number)


def normal(keys: Keys, draw: int | Array, like: Array) -> Array:
    """Standard normal noise of the shape and dtype of `like` `[B, ...]`, draw number `draw` (one, or `[B]`).

    Raises:
      ValueError: keys that are none, or not one for each of the B examples.
    """
    if callable(keys):
        return jnp.asarray(keys(draw), like.dtype)
    keys = _one_each(keys, like.shape[0])
    return jax.vmap(lambda key: jax.random.normal(key, like.shape[1:], like.dtype))(
        fold(keys, draw)
    )


def _one_each(keys: Array, count: int) -> Array:
    """`[count]` keys from as many or from one."""
    if not jnp.issubdtype(getattr(keys, "dtype", None), jax.dtypes.prng_key):
        raise ValueError(
            "keys must be made by jax.random.key (not PRNGKey): one key, or one for each of the "
            f"{count} images; got {getattr(keys, 'dtype', type(keys).__name__)}."
        )
    if keys.ndim == 0:
        return example_keys(keys, jnp.arange(count))
    if keys.shape != (count,):
        raise ValueError(
            f"keys has the shape {keys.shape} for {count} images: give one key, or one for each."
        )
    return keys


def uniform(keys: Array, draw: int | Array) -> Array:
    """`[B]` float32 numbers, uniform in [0, 1)."""
    return jax.vmap(lambda key: jax.random.uniform(key, ()))(fold(keys, draw))


def randint(keys: Array, draw: int | Array, high: int) -> Array:
    """`[B]` int32 numbers, uniform in 0 .. high - 1."""
    return jax.vmap(lambda key: jax.random.randint(key, (), 0, high))(fold(keys, draw))
