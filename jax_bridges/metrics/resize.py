"""Resizing as PyTorch and TensorFlow 1 do it: one small matrix a direction, exact in float32.

These are the conventions behind published numbers, aliasing included; none of them blurs before it
shrinks.
"""

from __future__ import annotations

import functools

import jax.numpy as jnp
import numpy as np


@functools.cache
def _bilinear(old: int, new: int, half_pixel: bool) -> np.ndarray:
    """[new, old]. Pixel i of the new line lies at (i + 1/2) old / new - 1/2, or at i old / new."""
    at = np.arange(new) * (old / new)
    if half_pixel:
        at = np.maximum((np.arange(new) + 0.5) * (old / new) - 0.5, 0)
    low = np.minimum(np.floor(at).astype(int), old - 1)
    high = np.minimum(low + 1, old - 1)
    matrix = np.zeros((new, old))
    rows = np.arange(new)
    np.add.at(matrix, (rows, low), 1 - (at - low))
    np.add.at(matrix, (rows, high), at - low)
    return matrix.astype(np.float32)


@functools.cache
def _bicubic(old: int, new: int) -> np.ndarray:
    """[new, old]: Keys' kernel with a = -3/4 at half-pixel places, the border repeated."""
    a = -0.75
    at = (np.arange(new) + 0.5) * (old / new) - 0.5
    low = np.floor(at).astype(int)
    matrix = np.zeros((new, old))
    rows = np.arange(new)
    for k in range(-1, 3):
        x = np.abs(at - low - k)
        near = ((a + 2) * x - (a + 3)) * x * x + 1
        far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
        np.add.at(matrix, (rows, np.clip(low + k, 0, old - 1)), np.where(x <= 1, near, far))
    return matrix.astype(np.float32)


def _apply(x, rows, columns):
    x = jnp.einsum("ph,bhwc->bpwc", rows, x, precision="highest")
    return jnp.einsum("qw,bpwc->bpqc", columns, x, precision="highest")


def bilinear_torch(x, size: int):
    """[B, H, W, C] to [B, size, size, C] as torch's `interpolate(mode="bilinear")` does (aligned at
    half pixels; what clean-fid calls legacy_pytorch)."""
    return _apply(x, _bilinear(x.shape[1], size, True), _bilinear(x.shape[2], size, True))


def bilinear_tf1(x, size: int):
    """[B, H, W, C] to [B, size, size, C] as TensorFlow 1's `resize_bilinear` does (aligned at the
    top left; what clean-fid calls legacy_tensorflow)."""
    return _apply(x, _bilinear(x.shape[1], size, False), _bilinear(x.shape[2], size, False))


def bicubic_torch(x, size: int):
    """[B, H, W, C] to [B, size, size, C] as torch's `interpolate(mode="bicubic")` does."""
    return _apply(x, _bicubic(x.shape[1], size), _bicubic(x.shape[2], size))
