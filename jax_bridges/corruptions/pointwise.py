"""Corruptions of single pixels: colour, noise, nothing; and pairs whose x_T comes with the data."""

import math
from typing import ClassVar

import jax.numpy as jnp

from jax_bridges import keys as random
from jax_bridges.corruptions.base import (
    Corrupted,
    Corruption,
    LinearOperator,
    check_batch,
    check_noise,
    corruption,
)


@corruption
class Colorize(LinearOperator):
    """x_T is the grey image, repeated to every channel; `weights` of the channels as in DDRM, DDNM.

    noise_std > 0 adds Gaussian noise to x_T, of one value per pixel and channel: without any, the
    three channels of x_T are equal and an unconditional bridge has nothing to make colours from
    (I2SB's option add_x1_noise uses 1). No hole.

    Attributes:
      weights: of the channels in the grey image.
      noise_std: standard deviation of the noise in x_T, in units of [-1, 1].
    """

    weights: tuple[float, ...] = (0.3333, 0.3334, 0.3333)
    noise_std: float = 0.0
    greys: ClassVar[bool] = True
    block: ClassVar[int] = 1

    def __post_init__(self):
        object.__setattr__(self, "weights", tuple(float(w) for w in self.weights))
        if not math.hypot(*self.weights) > 0:
            raise ValueError(f"colorize: weights must not all be zero, but are {self.weights}.")
        check_noise("colorize: noise_std", self.noise_std)

    def __call__(self, x0, keys):
        check_batch(x0, keys)
        xT = jnp.broadcast_to(self.forward(x0), x0.shape)
        if self.noise_std:
            xT = xT + self.noise_std * random.normal(keys, random.CorruptDraw.NOISE, x0)
        return Corrupted(xT)

    def forward(self, x):
        """[B, H, W, C] -> [B, H, W, 1]; ValueError unless there is one weight per channel."""
        if x.shape[-1] != len(self.weights):
            raise ValueError(
                f"colorize: {len(self.weights)} weights do not fit {x.shape[-1]} channels."
            )
        return (x * self._weights(x)).sum(-1, keepdims=True)

    def transpose(self, y):
        """[B, H, W, 1] -> [B, H, W, C]."""
        return y * self._weights(y)

    def pinv(self, y):
        """[B, H, W, 1] -> [B, H, W, C]: w y / |w|^2."""
        return self.transpose(y) / sum(w * w for w in self.weights)

    def _weights(self, x):
        return jnp.asarray(self.weights, x.dtype)


@corruption
class Denoise(LinearOperator):
    """x_T = x_0 + std N(0, I); A = 1. No hole.

    Attributes:
      std: standard deviation of the noise, in units of [-1, 1].
    """

    std: float = 0.2
    noisy: ClassVar[bool] = True
    block: ClassVar[int] = 1

    @property
    def noise(self):
        return self.std

    def __post_init__(self):
        check_noise("denoise: std", self.std)

    def __call__(self, x0, keys):
        check_batch(x0, keys)
        return Corrupted(x0 + self.std * random.normal(keys, random.CorruptDraw.NOISE, x0))

    def forward(self, x):
        return x

    transpose = pinv = forward


@corruption
class Identity(LinearOperator):
    """x_T = x_0."""

    block: ClassVar[int] = 1

    def __call__(self, x0, keys=None):
        return Corrupted(x0)

    def forward(self, x):
        return x

    transpose = pinv = forward


@corruption
class Paired(Corruption):
    """x_T is the other half of a pair in the data (edges, depth normals, relief): pass it as `xT`.

    `paired` is True, which tells a training loop to take x_T from its batch.
    """

    paired: ClassVar[bool] = True

    def __call__(self, x0, keys=None, xT=None):
        """Raises: ValueError without xT, which cannot be computed from x0."""
        if xT is None:
            raise ValueError("paired: x_T cannot be made from x_0; pass the batch's own as xT.")
        return Corrupted(xT)
