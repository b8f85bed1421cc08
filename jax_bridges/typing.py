"""The few types that the whole house shares."""

from __future__ import annotations

from typing import Any, Protocol

import jax
import numpy as np

Array = jax.Array
AnyArray = Array | np.ndarray  # numpy's where a program takes it for a constant, such as times
PyTree = Any
Device = Any  # a jax.Device, which JAX declares as a variable: no type to a checker
# An array, or where the caller asked for more a pair with it: images and their path, x0_hat and its
# variance. As one type it would have to be taken apart where nobody asked.
ArrayOrPair = Array | Any


class Denoiser(Protocol):
    """An x0-predictor: the only thing that losses, samplers and distillers know of a network."""

    def __call__(self, xt: Array, t: Array, xT: Array) -> Array:
        """Predicts the clean image.

        Args:
          xt: `[B, H, W, C]` point on the bridge.
          t: `[B]` or scalar time in `[t_min, T]` of the bridge.
          xT: `[B, H, W, C]` corrupted source.

        Returns:
          x0_hat, `[B, H, W, C]`.
        """
        ...


class Predictor(Protocol):
    """Of either kind: a denoiser where z is left out, a generator where it is given."""

    def __call__(self, xt: Array, t: Array, xT: Array, z: Array | None = None) -> ArrayOrPair:
        """Predicts the clean image; of a network that learned its variance, with that."""
        ...


class Generator(Protocol):
    """A few-step student: a denoiser with a noise input, `x0_hat = generate(xt, t, xT, z)`."""

    def __call__(self, xt: Array, t: Array, xT: Array, z: Array) -> Array:
        """Predicts one possible clean image; z is `[B, H, W, C]` standard normal."""
        ...
