"""ADM's classifier of noisy images: the way down of its UNet, then attention over all pixels.

(Dhariwal & Nichol, arXiv 2105.05233, sec. 4 and app. K.) Names of submodules as in `models/adm.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp

from jax_bridges.models.adm import (
    AttentionBlock,
    Resample,
    ResBlock,
    downsample,
)
from jax_bridges.models.attention import attend
from jax_bridges.models.layers import GroupNorm, timestep_embedding
from jax_bridges.typing import Array


class AttentionPool(nn.Module):
    """What the mean of all pixels gathers by attention from them: `[B, H, W, C]` -> `[B, classes]`."""

    classes: int
    head_channels: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        b, height, width, c = x.shape
        x = x.reshape(b, height * width, c)
        x = jnp.concatenate([x.mean(1, keepdims=True), x], axis=1)
        shape = (c, height * width + 1)  # as the released files have it
        place = self.param("positional_embedding", nn.initializers.normal(c**-0.5), shape)
        qkv = nn.Dense(3 * c, name="qkv_proj")(x + place.T)
        q, k, v = jnp.moveaxis(
            qkv.reshape(b, -1, 3, c // self.head_channels, self.head_channels), 2, 0
        )
        h = attend(q[:, :1], k, v, "xla").reshape(b, c)
        return nn.Dense(self.classes, name="c_proj")(h)


class ADMClassifier(nn.Module):
    """log-odds of classes `[B, classes]` of noisy images, `net(x_t, c_noise)`.

    Attributes:
      classes: their number.
      others: as of `ADM`; heads of attention have `head_channels` channels everywhere.
    """

    classes: int = 1000
    in_channels: int = 3
    model_channels: int = 128
    num_res_blocks: int = 2
    channel_mult: Sequence[float] = (1, 1, 2, 2, 4, 4)
    attention_ds: Sequence[int] = (8, 16, 32)
    head_channels: int = 64
    new_attention_order: bool = False
    scale_shift_norm: bool = True
    resblock_updown: bool = True

    @nn.compact
    def __call__(self, x: Array, c_noise: Array) -> Array:
        """Evaluates the network.

        Args:
          x: `[B, H, W, in_channels]` as it is at its noise level, unscaled; of the trained size.
          c_noise: `[B]` or scalar index of the level, 0 .. 999.
        """
        width = 4 * self.model_channels
        emb = timestep_embedding(jnp.broadcast_to(c_noise, x.shape[:1]), self.model_channels)
        emb = nn.silu(nn.Dense(width, name="time_embed_0")(emb))
        emb = nn.Dense(width, name="time_embed_2")(emb)

        def res(h, name, channels=None, resample=None):
            block = ResBlock(channels or h.shape[-1], resample, self.scale_shift_norm, name=name)
            return block(h, emb)

        def attention(h, name):
            return AttentionBlock(self.head_channels, 1, self.new_attention_order, name=name)(h)

        channels = int(self.channel_mult[0] * self.model_channels)
        h = nn.Conv(channels, (3, 3), padding=1, name="input_blocks_0_0")(x)
        ds, i = 1, 1
        for level, mult in enumerate(self.channel_mult):
            if level > 0:
                name = f"input_blocks_{i}_0"
                if self.resblock_updown:
                    h = res(h, name, resample=downsample)
                else:
                    h = Resample(False, name=name)(h)
                ds, i = 2 * ds, i + 1
            for _ in range(self.num_res_blocks):
                h = res(h, f"input_blocks_{i}_0", int(mult * self.model_channels))
                h = attention(h, f"input_blocks_{i}_1") if ds in self.attention_ds else h
                i += 1
        h = res(h, "middle_block_0")
        h = attention(h, "middle_block_1")
        h = res(h, "middle_block_2")
        h = nn.silu(GroupNorm(32, name="out_0")(h))
        return AttentionPool(self.classes, self.head_channels, name="out_2")(h)
