"""The noise of DDNM+ as the official code has it, for parity: see `solve_ddnm_plus`."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jax_bridges.corruptions import Colorize, SuperResolution, WalshHadamard
from jax_bridges.typing import Array
from jax_bridges.zero_shot import ShippedBasis


def shipped_basis(
    operator, height: int, width: int, channels: int = 3, small: np.ndarray | None = None
) -> ShippedBasis:
    """The official V of average pooling, colour and Walsh-Hadamard (DDNM, functions/svd_operators.py).

    Holes need none: there the official code is the clean one.

    Args:
      small: orthogonal matrix whose first column is the measured direction of a block or pixel; by
        default numpy's SVD, whose null space is as arbitrary as torch's, but another one.

    Raises:
      ValueError: an operator for which the official code has no noise of its own.
    """
    if isinstance(operator, WalshHadamard):
        return ShippedBasis(operator.measured(height, width, channels), operator.transform)
    if isinstance(operator, SuperResolution) and operator.kind == "pool":
        r = operator.factor
        row = np.full((1, r * r), 1 / (r * r))
        v = np.linalg.svd(row)[2].T if small is None else small
        s = np.zeros((1, height, width, 1))
        s[:, ::r, ::r] = 1 / r

        def rotate(x):
            b, h, w, c = x.shape
            x = x.reshape(b, h // r, r, w // r, r, c).transpose(0, 1, 3, 5, 2, 4)
            x = _turned(x.reshape(*x.shape[:4], r * r), v)
            x = x.reshape(b, h // r, w // r, c, r, r).transpose(0, 1, 4, 2, 5, 3)
            return x.reshape(b, h, w, c)

        return ShippedBasis(s, rotate)
    if isinstance(operator, Colorize):
        row = np.asarray([operator.weights])
        v = np.linalg.svd(row)[2].T if small is None else small
        s = np.zeros((1, 1, 1, channels))
        s[..., 0] = np.linalg.norm(row)
        return ShippedBasis(s, lambda x: _turned(x, v))
    raise ValueError(
        f"{type(operator).__name__} has no noise of its own in the official DDNM+: leave shipped out."
    )


def _turned(x: Array, v: np.ndarray) -> Array:
    """V applied to the last axis, in full precision also where that is not the default."""
    return jnp.matmul(x, jnp.asarray(v.T, x.dtype), precision=jax.lax.Precision.HIGHEST)
