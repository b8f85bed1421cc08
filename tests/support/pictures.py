"""Random images and their keys, for the tests of corruptions."""

import jax


def make_keys(n, seed=0):
    return jax.random.split(jax.random.key(seed), n)


def images(n, height=32, width=32, seed=1):
    return jax.random.uniform(jax.random.key(seed), (n, height, width, 3), minval=-1.0)
