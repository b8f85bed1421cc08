"""Softmax attention with the implementation that the platform offers."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jax_bridges.choices import look_up
from jax_bridges.typing import Array

# name -> what `jax.nn.dot_product_attention` is told; "auto" is settled by `_best`.
IMPLEMENTATIONS = {"auto": None, "xla": "xla", "cudnn": "cudnn"}


def attend(q: Array, k: Array, v: Array, implementation: str = "auto") -> Array:
    """softmax(q k^T / sqrt(D)) v for each head, softmax in float32.

    Args:
      q, k, v: `[B, N, heads, D]`, any floating dtype.
      implementation: "auto" (cuDNN flash attention where the device and dtype allow it, else XLA),
        "xla" or "cudnn" (bfloat16/float16 on NVIDIA GPUs from Ampere on).

    Returns:
      `[B, N, heads, D]` in the dtype of q.

    Raises:
      ValueError: unknown implementation.
    """
    chosen = look_up("attention implementation", IMPLEMENTATIONS, implementation)
    return jax.nn.dot_product_attention(q, k, v, implementation=chosen or _best(q))


def _best(q: Array) -> str:
    device = jax.devices()[0]
    cuda = device.platform == "gpu" and "cuda" in device.client.platform_version.lower()
    ampere = cuda and int(device.compute_capability.split(".")[0]) >= 8
    fits = q.dtype in (jnp.bfloat16, jnp.float16) and q.shape[-1] <= 128 and q.shape[-1] % 8 == 0
    return "cudnn" if ampere and fits else "xla"
