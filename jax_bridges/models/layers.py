"""Small layers that the networks share: norm, time embedding, pixel (un)shuffle."""

from __future__ import annotations

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jax_bridges.models.gather import promote_dtype
from jax_bridges.typing import Array


class GroupNorm(nn.Module):
    """Group normalisation with statistics of float32 or better, and an optional scale and shift.

    The normalisation is folded into one multiply-add a pixel, `x * s + o` with s and o `[B, 1, 1, C]`,
    which the compiler fuses with the activation that follows. Moments are taken in one pass, about a
    pixel of each channel: about zero, a mean far larger than the spread would cancel.

    Attributes:
      groups: number of groups; must divide the channels.
      epsilon: added to the variance.
      dtype: of the result; None: that of x.
      param_dtype: of the parameters.
    """

    groups: int
    epsilon: float = 1e-5
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, scale: Array | None = None, shift: Array | None = None) -> Array:
        """`GN(x) * (1 + scale) + shift`; x `[B, H, W, C]`, scale and shift `[B, C]`."""
        channels = x.shape[-1]
        gain = self.param("scale", nn.initializers.ones, (channels,), self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (channels,), self.param_dtype)
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        gain, bias = gain.astype(wide.dtype), bias.astype(wide.dtype)
        normal = _normalise(wide, gain, bias, scale, shift, self.groups, self.epsilon)
        return normal.astype(self.dtype or x.dtype)


@functools.partial(jax.jit, static_argnums=(5, 6))
def _normalise(
    x: Array,
    gain: Array,
    bias: Array,
    scale: Array | None,
    shift: Array | None,
    groups: int,
    eps: float,
) -> Array:
    """What `GroupNorm` computes: a function of the program, traced and lowered once a shape.

    A step calls it over a hundred times, and as often for the gradient.
    """
    # Moments a channel first, then a group: the sums over H and W run along memory.
    pivot = jax.lax.stop_gradient(x[:, :1, :1])
    near = x - pivot
    first = jnp.mean(near, axis=(1, 2))
    spread = jnp.mean(jnp.square(near), axis=(1, 2)) - first**2
    batch, channels = first.shape
    by_group = (batch, groups, channels // groups)
    mean_c = (first + pivot[:, 0, 0]).reshape(by_group)
    mean = jnp.mean(mean_c, axis=2, keepdims=True)
    variance = jnp.mean(spread.reshape(by_group) + jnp.square(mean_c - mean), axis=2, keepdims=True)
    inv = jax.lax.rsqrt(jnp.maximum(variance, 0.0) + eps)
    inv, mean = (jnp.broadcast_to(v, by_group).reshape(-1, channels) for v in (inv, mean))
    if scale is not None and shift is not None:
        gain, bias = gain * (1.0 + scale), bias * (1.0 + scale) + shift
    s = inv * gain
    o = bias - mean * s
    # Of x, which is there, and not of `near`, which would have to be made again.
    return x * s[:, None, None, :] + o[:, None, None, :]


def timestep_embedding(t: Array, width: int, max_period: float = 10_000.0) -> Array:
    """Sinusoidal features `[cos(t f_k), sin(t f_k)]`, `f_k = max_period^{-k / (width / 2)}`; `[B, width]`."""
    half = width // 2
    frequencies = jnp.exp(-math.log(max_period) * jnp.arange(half, dtype=jnp.float32) / half)
    phase = t.astype(jnp.float32)[:, None] * frequencies
    return jnp.concatenate([jnp.cos(phase), jnp.sin(phase)], axis=-1)


def space_to_depth(x: Array, patch: int) -> Array:
    """Pixel unshuffle: `[B, H, W, C]` -> `[B, H / p, W / p, p p C]`."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // patch, patch, w // patch, patch, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h // patch, w // patch, patch * patch * c)


def depth_to_space(x: Array, patch: int) -> Array:
    """Inverse of `space_to_depth`."""
    b, h, w, c = x.shape
    x = x.reshape(b, h, w, patch, patch, c // (patch * patch)).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h * patch, w * patch, c // (patch * patch))


def conv(features: int, size: int, dtype: Any, name: str, zero: bool = False, **kw) -> nn.Conv:
    """A convolution with padding 1 for 3x3, float32 parameters, zeros at the start if `zero`."""
    init = nn.initializers.zeros if zero else nn.initializers.lecun_normal()
    kw = {"promote_dtype": promote_dtype, **kw}
    if size == kw.get("strides", 1):
        kw["conv_general_dilated"] = _patch_by_patch
    return nn.Conv(features, (size, size), dtype=dtype, kernel_init=init, name=name, **kw)


def _patch_by_patch(x: Array, kernel: Array, *args: Any, precision: Any = None, **kw: Any) -> Array:
    """A convolution whose patches do not overlap as the matrix product that it is.

    A GPU tries kernels for every different convolution when it compiles.

    Args:
      x: `[B, H, W, C]`; kernel: `[P, P, C, C']`, with strides P.
    """
    del args, kw  # strides, padding, dilation, layout: known here
    patch, _, channels, features = kernel.shape
    matrix = kernel.reshape(patch * patch * channels, features)
    return jnp.dot(space_to_depth(x, patch), matrix, precision=precision)


def dense(features: int, name: str, **kw) -> nn.Dense:
    """A dense layer in float32."""
    # flax declares one tuple of arguments, and calls it with each by itself.
    promote: Any = promote_dtype
    return nn.Dense(features, promote_dtype=promote, name=name, **kw)
