"""A critic of overlapping patches, which says of each whether it looks real (PatchGAN, arXiv 1611.07004)."""

from __future__ import annotations

import math

import flax.linen as nn
import jax.numpy as jnp

from jax_bridges.models.layers import GroupNorm, conv, dense, timestep_embedding
from jax_bridges.typing import Array


class PatchCritic(nn.Module):
    """Convolutions of 4x4, `layers` of stride 2 and two of stride 1; float32, whatever the others have.

    With three layers of stride 2 a logit sees 70 x 70 pixels. Norms are of one image (groups of channels),
    so that an image's logits depend on no other of the batch.

    Attributes:
      channels: of the first layer; each of stride 2 has twice as many as the one before, 8 times at most.
      layers: of stride 2.
    """

    channels: int = 64
    layers: int = 3

    @nn.compact
    def __call__(self, x: Array, t: Array, xT: Array) -> Array:
        """Logits `[B, h, w, 1]`, high for what looks real; h is about H / 2^layers.

        Args:
          x: `[B, H, W, C]`, what is judged.
          t: `[B]` in [0, 1], its time, as a share of T.
          xT: `[B, H, W, C]`, the source that it is said to belong to.
        """
        h = jnp.concatenate([x, xT], axis=-1).astype(jnp.float32)
        time = nn.silu(dense(self.channels, "time")(timestep_embedding(1000.0 * t, self.channels)))
        for k in range(self.layers + 1):
            width = self.channels * min(2**k, 8)
            stride = 2 if k < self.layers else 1
            h = conv(width, 4, jnp.float32, f"conv_{k}", strides=stride, padding="SAME")(h)
            if k:
                h = GroupNorm(math.gcd(width, 32), name=f"norm_{k}")(h)
            h = nn.leaky_relu(h + dense(width, f"time_{k}")(time)[:, None, None], 0.2)
        return conv(1, 4, jnp.float32, "last", padding="SAME")(h)
