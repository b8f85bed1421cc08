"""The few types that the whole house shares."""

from __future__ import annotations

from typing import Any, Protocol

import jax

Array = jax.Array
PyTree = Any


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


class Generator(Protocol):
    """A few-step student: a denoiser with a noise input, `x0_hat = generate(xt, t, xT, z)`."""

    def __call__(self, xt: Array, t: Array, xT: Array, z: Array) -> Array:
        """Predicts one possible clean image; z is `[B, H, W, C]` standard normal."""
