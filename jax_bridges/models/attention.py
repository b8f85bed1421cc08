"""Softmax attention with the implementation that the platform offers."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jax_bridges.choices import look_up
from jax_bridges.platforms import compute_capability, target
from jax_bridges.typing import Array

IMPLEMENTATIONS: dict[str, None] = dict.fromkeys(("auto", "xla", "cudnn"))


def why_not_cudnn(dtype: Any, channels: int | None = None) -> str:
    """Why cuDNN's flash attention cannot be had on the platform aimed at; "" where it can.

    Args:
      dtype: of the computation.
      channels: of a head, where they are known.
    """
    if target() != "cuda":
        return f"this program is made for {target().upper()}, and cuDNN is for NVIDIA's GPUs"
    if compute_capability() < (8, 0):
        found = "{}.{}".format(*compute_capability())
        return f"it needs an NVIDIA GPU from Ampere (compute capability 8.0) on, not {found}"
    if jnp.dtype(dtype) not in (jnp.bfloat16, jnp.float16):
        return f"it computes in bfloat16 or float16, not in {jnp.dtype(dtype).name}"
    if channels is not None and (channels > 128 or channels % 8):
        return f"its heads have 8, 16, ... or 128 channels, not {channels}"
    return ""


def check_attention(
    implementation: str, dtype: Any, channels: int | None = None, key: str = "attention"
) -> None:
    """Refuses what cannot be computed here, before anything is compiled.

    Args:
      implementation: see `attend`.
      dtype, channels: see `why_not_cudnn`.
      key: what the setting is called.

    Raises:
      ValueError: an unknown implementation, or cuDNN's where it cannot be had.
    """
    look_up("attention implementation", IMPLEMENTATIONS, implementation)
    reason = why_not_cudnn(dtype, channels) if implementation == "cudnn" else ""
    if reason:
        raise ValueError(f"{key} is 'cudnn', but {reason}: set it to 'auto'.")


def attend(q: Array, k: Array, v: Array, implementation: str = "auto") -> Array:
    """softmax(q k^T / sqrt(D)) v for each head, softmax in float32.

    Args:
      q, k, v: `[B, N, heads, D]`, any floating dtype.
      implementation: "auto" (cuDNN flash attention where the platform and dtype allow it, else XLA),
        "xla" or "cudnn" (bfloat16/float16 on NVIDIA GPUs from Ampere on).

    Returns:
      `[B, N, heads, D]` in the dtype of q.

    Raises:
      ValueError: see `check_attention`.
    """
    check_attention(implementation, q.dtype, q.shape[-1])
    auto = implementation == "auto" and not why_not_cudnn(q.dtype, q.shape[-1])
    chosen = "cudnn" if auto or implementation == "cudnn" else "xla"
    return jax.nn.dot_product_attention(q, k, v, implementation=chosen)
