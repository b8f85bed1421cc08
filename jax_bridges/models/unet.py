"""A compact UNet for small images, which two CPU cores can train."""

from __future__ import annotations

from typing import Annotated, Any

import flax.linen as nn
import jax.numpy as jnp

from jax_bridges.models.attention import attend
from jax_bridges.models.layers import (
    GroupNorm,
    conv,
    dense,
    depth_to_space,
    space_to_depth,
    timestep_embedding,
)
from jax_bridges.schema import COUNT, Count, Decay, Each, Natural, whole
from jax_bridges.typing import Array


class ResBlock(nn.Module):
    """GN, SiLU, conv, GN with the time's scale and shift, SiLU, zero-initialised conv, plus a shortcut."""

    width: int
    groups: int
    dropout: float
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, emb: Array, train: bool) -> Array:
        h = nn.silu(GroupNorm(self.groups, name="norm1")(x))
        h = conv(self.width, 3, self.dtype, "conv1")(h)
        scale, shift = jnp.split(dense(2 * self.width, "emb")(emb), 2, axis=-1)
        h = nn.silu(GroupNorm(self.groups, name="norm2")(h, scale, shift))
        if self.dropout:
            h = nn.Dropout(self.dropout, deterministic=not train)(h)
        h = conv(self.width, 3, self.dtype, "conv2", zero=True)(h)
        if x.shape[-1] != self.width:
            x = conv(self.width, 1, self.dtype, "shortcut", use_bias=False)(x)
        return x + h


class Attention(nn.Module):
    """Self-attention over all positions, zero at the start."""

    heads: int
    groups: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        b, height, width, c = x.shape
        qkv = conv(3 * c, 1, self.dtype, "qkv")(GroupNorm(self.groups, name="norm")(x))
        q, k, v = jnp.split(
            qkv.reshape(b, height * width, 3 * self.heads, c // self.heads), 3, axis=2
        )
        h = attend(q, k, v).reshape(b, height, width, c)
        return x + conv(c, 1, self.dtype, "out", zero=True)(h)


class UNet(nn.Module):
    """`F(x, c_noise, xT, z)` on small images.

    Attributes:
      channels: channels of an image.
      widths: width of each level; every level halves height and width.
      blocks: residual blocks a level on the way down; as many on the way up, each with a skip.
      patch: pixel-unshuffle of the stem: 2 makes the network 4 times cheaper.
      attention: levels (0 = finest) that end with self-attention.
      conditional: the network also sees x_T, concatenated to the input.
      sees_mask: it also sees which pixels are missing, as one more channel of the input.
      z_channels: channels of the generator's noise input; 0 for a teacher.
      mark_channels: numbers that the network is told of an image besides its time.
      heads: of self-attention.
      groups: of GroupNorm.
      dropout: inside the residual blocks, of the teacher in training only.
      dtype: of the computation; parameters and norm statistics are float32.
    """

    channels: Count = 3
    widths: Annotated[tuple[int, ...], Each(COUNT, least=1)] = (32, 64, 64)
    blocks: Count = 1
    patch: Count = 2
    attention: Annotated[tuple[int, ...], Each(whole(least=0))] = ()
    conditional: bool = False
    sees_mask: bool = False
    z_channels: Natural = 0
    mark_channels: Natural = 0
    heads: Count = 4
    groups: Count = 8
    dropout: Decay = 0.0
    dtype: Any = jnp.float32

    @property
    def multiple(self) -> int:
        """Height and width must be divisible by this."""
        return self.patch * 2 ** (len(self.widths) - 1)

    @nn.compact
    def __call__(
        self,
        x: Array,
        c_noise: Array,
        xT: Array | None = None,
        z: Array | None = None,
        y: Array | None = None,
        train: bool = False,
        mark: Array | None = None,
        mask: Array | None = None,
    ) -> Array:
        """Network output `[B, H, W, C]` float32.

        Args:
          x: `[B, H, W, C]` scaled point on the bridge.
          c_noise: `[B]` network time.
          xT: `[B, H, W, C]` source, looked at by a conditional network only.
          z: `[B, H, W, z_channels]` noise of a generator.
          y: class labels, which this network has no use for.
          train: dropout on.
          mark: `[B, mark_channels]`.
          mask: `[B, H, W, 1]`, 1 in the hole, looked at where `sees_mask`.
        """
        del y
        if x.shape[1] % self.multiple or x.shape[2] % self.multiple:
            raise ValueError(
                f"This UNet takes heights and widths that are multiples of {self.multiple} "
                f"(patch {self.patch}, {len(self.widths)} levels); the image is {x.shape[1]}x{x.shape[2]}."
            )
        emb = timestep_embedding(c_noise, self.widths[0])
        emb = dense(4 * self.widths[0], "time1")(emb)
        emb = dense(4 * self.widths[0], "time2")(nn.silu(emb))
        if self.mark_channels:
            emb += dense(
                4 * self.widths[0], "mark_in", use_bias=False, kernel_init=nn.initializers.zeros
            )(mark)
        emb = nn.silu(emb)

        inputs = x
        if self.conditional:
            assert xT is not None, "a conditional network looks at x_T"
            inputs = jnp.concatenate([x, xT], axis=-1)
        if self.sees_mask:
            assert mask is not None, "a network that sees the mask is given one"
            inputs = jnp.concatenate([inputs, mask.astype(inputs.dtype)], axis=-1)
        inputs = space_to_depth(inputs.astype(self.dtype), self.patch)
        h = conv(self.widths[0], 3, self.dtype, "stem")(inputs)
        if self.z_channels:
            # Extra input channels that start at zero: at step 0 the student is the teacher (IBMD app. B).
            assert z is not None, "a generator's network takes noise"
            extra = space_to_depth(z.astype(self.dtype), self.patch)
            h = h + conv(self.widths[0], 3, self.dtype, "z_in", zero=True, use_bias=False)(extra)

        def block(h: Array, width: int, name: str) -> Array:
            return ResBlock(width, self.groups, self.dropout, self.dtype, name=name)(h, emb, train)

        def attention(h: Array, level: int, name: str) -> Array:
            if level not in self.attention:
                return h
            return Attention(self.heads, self.groups, self.dtype, name=name)(h)

        skips = []
        for level, width in enumerate(self.widths):
            if level:
                h = conv(width, 2, self.dtype, f"down{level}", strides=2)(h)
            for i in range(self.blocks):
                h = block(h, width, f"down{level}_block{i}")
                skips.append(h)
            h = attention(h, level, f"down{level}_attention")
        h = block(h, self.widths[-1], "middle")
        for level, width in reversed(list(enumerate(self.widths))):
            for i in range(self.blocks):
                h = block(jnp.concatenate([h, skips.pop()], axis=-1), width, f"up{level}_block{i}")
            h = attention(h, level, f"up{level}_attention")
            if level:
                above = self.widths[level - 1]
                h = depth_to_space(conv(4 * above, 1, self.dtype, f"up{level}")(h), 2)
        h = nn.silu(GroupNorm(self.groups, name="norm_out")(h))
        # The last layer sees the input too: near t = 0 the answer is x_t itself, to the pixel.
        h = jnp.concatenate([h, inputs], axis=-1)
        h = conv(self.channels * self.patch**2, 3, self.dtype, "out", zero=True)(h)
        return depth_to_space(h, self.patch).astype(jnp.float32)
