"""The ADM UNet: the one network of guided-diffusion, I2SB, DDBM and DBIM checkpoints, in NHWC.

(Dhariwal & Nichol, "Diffusion models beat GANs on image synthesis", 2021.) Submodules carry the
names of the released files with "." before a number written "_": `input_blocks.3.0.qkv.weight` of
torch is `input_blocks_3_0/qkv/kernel` here, so the name map (`import_torch/names.py`) is one rule.

Precision: parameters, GroupNorm and SiLU, the time embedding and the first and last convolution
(0.1 % of the FLOPs) are float32; everything between runs in `dtype`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

import flax.linen as nn
import jax.numpy as jnp

from jax_bridges.models.attention import IMPLEMENTATIONS, attend
from jax_bridges.models.gather import promote_dtype
from jax_bridges.models.layers import GroupNorm, timestep_embedding
from jax_bridges.schema import COUNT, Choice, Count, Decay, Each, Natural, number
from jax_bridges.typing import Array

# Channel multipliers of each level, by image size.
CHANNEL_MULT = {64: (1, 2, 3, 4), 128: (1, 1, 2, 3, 4), 256: (1, 1, 2, 2, 4, 4)}
CHANNEL_MULT |= {512: (0.5, 1, 1, 2, 2, 4, 4)}


def adm_layout(image_size: int, attention_resolutions: Sequence[int] = (32, 16, 8)) -> dict:
    """`channel_mult` and `attention_ds` of the released networks; ValueError for other sizes."""
    if image_size not in CHANNEL_MULT:
        raise ValueError(
            f"ADM has no layout for image size {image_size}: choose one of {sorted(CHANNEL_MULT)}, "
            "or give channel_mult and attention_ds yourself."
        )
    ds = tuple(image_size // r for r in attention_resolutions)
    return {"channel_mult": CHANNEL_MULT[image_size], "attention_ds": ds}


_ADM256 = {"model_channels": 256, "num_res_blocks": 2, **adm_layout(256)}
_DDBM = {"conditional": True, "new_attention_order": True, "dropout": 0.1}
# Constructor arguments of the released checkpoints.
ADM_PRESETS = {
    "adm256_uncond": {**_ADM256, "out_channels": 6},
    "adm256_cond": {**_ADM256, "out_channels": 6, "num_classes": 1000},
    "i2sb256": {**_ADM256},
    "ddbm_e2h64": {"model_channels": 192, "num_res_blocks": 3, **adm_layout(64), **_DDBM},
    "ddbm_diode256": {**_ADM256, **_DDBM},
    "dbim_inpaint256": {**_ADM256, "conditional": True, "num_classes": 1000},
}


# U(-1/sqrt(fan_in), 1/sqrt(fan_in)): what the released networks were initialised with.
_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
_layer = {"kernel_init": _uniform, "promote_dtype": promote_dtype}
_conv = partial(nn.Conv, padding=1, **_layer)  # "SAME" pads stride 2 differently
_dense = partial(nn.Dense, **_layer)
_norm = partial(GroupNorm, 32, dtype=jnp.float32)
_zeros = nn.initializers.zeros


def upsample(x: Array) -> Array:
    """Nearest neighbour: `[B, H, W, C]` -> `[B, 2H, 2W, C]`."""
    b, h, w, c = x.shape
    return jnp.broadcast_to(x[:, :, None, :, None], (b, h, 2, w, 2, c)).reshape(b, 2 * h, 2 * w, c)


def downsample(x: Array) -> Array:
    """2x2 mean: `[B, H, W, C]` -> `[B, H/2, W/2, C]`."""
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))


class ResBlock(nn.Module):
    """skip(x) + conv2(dropout(SiLU(GN(conv1(SiLU(GN(x)))) modulated by the embedding)))."""

    channels: int
    resample: Any = None  # None, `upsample` or `downsample`; applied to both branches
    scale_shift_norm: bool = True
    dropout: float = 0.0
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, emb: Array, train: bool = False) -> Array:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv = partial(_conv, self.channels, **types)
        norm = partial(_norm, param_dtype=self.param_dtype)

        h = nn.silu(norm(name="in_layers_0")(x)).astype(self.dtype)
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = conv((3, 3), name="in_layers_2")(h)

        width = self.channels * (2 if self.scale_shift_norm else 1)
        e = _dense(width, param_dtype=self.param_dtype, name="emb_layers_1")(nn.silu(emb))
        if self.scale_shift_norm:
            h = norm(name="out_layers_0")(h, *jnp.split(e, 2, axis=-1))
        else:
            h = norm(name="out_layers_0")(h + e[:, None, None, :])
        h = nn.silu(h).astype(self.dtype)
        h = nn.Dropout(self.dropout)(h, deterministic=not train)
        h = conv((3, 3), kernel_init=_zeros, name="out_layers_3")(h)

        if x.shape[-1] != self.channels:
            x = conv((1, 1), padding=0, name="skip_connection")(x)
        return x + h


class AttentionBlock(nn.Module):
    """x + proj(attention(qkv(GN(x)))) over all pixels."""

    head_channels: int | None
    num_heads: int
    new_order: bool
    implementation: str = "auto"
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        b, height, width, c = x.shape
        heads = c // self.head_channels if self.head_channels else self.num_heads
        if not heads or c % heads or (self.head_channels and c % self.head_channels):
            found = f"heads of {self.head_channels}" if self.head_channels else f"{heads} heads"
            raise ValueError(
                f"{c} channels cannot be split into {found}: choose a head_channels (or num_heads) "
                "that divides the channels of every level with attention."
            )
        h = _norm(param_dtype=self.param_dtype, name="norm")(x).reshape(b, height * width, c)
        qkv = _dense(3 * c, **types, name="qkv")(h)
        # Channels of qkv: new [Q of all heads | K | V], legacy [q k v of head 0 | of head 1 | ...].
        if self.new_order:
            qkv = qkv.reshape(b, -1, 3, heads, c // heads)
        else:
            qkv = qkv.reshape(b, -1, heads, 3, c // heads).swapaxes(2, 3)
        h = attend(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], self.implementation)
        h = _dense(c, **types, kernel_init=_zeros, name="proj_out")(h.reshape(b, -1, c))
        return x + h.reshape(x.shape)


class Resample(nn.Module):
    """Double (nearest, then convolution) or half (strided convolution) the size: the plain way."""

    up: bool
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        conv = partial(_conv, x.shape[-1], (3, 3), dtype=self.dtype, param_dtype=self.param_dtype)
        return conv(name="conv")(upsample(x)) if self.up else conv(strides=2, name="op")(x)


class ADM(nn.Module):
    """The ADM UNet, `F = net(x, c_noise, xT, z, y, train)`.

    Attributes:
      in_channels: channels of x (and of xT).
      out_channels: channels of F; twice `in_channels` where the network also predicts a variance.
      model_channels: channels at `channel_mult` 1; multiples of 32, of 128 for speed on TPUs.
      num_res_blocks: residual blocks a level (one more on the way up).
      channel_mult: multiplier of each level, finest first.
      attention_ds: downsampling factors (1, 2, 4, ...) of the levels with attention.
      head_channels: channels of a head; None: `num_heads` heads at every level.
      num_heads: heads of attention where `head_channels` is None.
      new_attention_order: qkv channels are [Q | K | V] (DDBM), else [q k v] of each head (others).
      scale_shift_norm: the embedding scales and shifts the second norm, or is added before it.
      resblock_updown: resample inside residual blocks, or by plain convolutions.
      num_classes: class-conditional (needs y) where > 0.
      conditional: xT is concatenated to x on channels.
      z_channels: noise z enters through `z_in`, a first convolution of its own that starts at zero:
        a student's parameters = its teacher's + `z_in/kernel`. (IBMD, app. B)
      mark_channels: numbers that the network is told of an image besides its time and class.
      dropout: rate inside residual blocks, when `train`; needs the rng "dropout".
      remat: recompute each block in the backward pass: less memory, about a third more time.
      attention: implementation; "auto": cuDNN's where there is one, else XLA's.
      dtype, param_dtype: of the computation and of the parameters.
    """

    in_channels: Count = 3
    out_channels: Count = 3
    model_channels: Count = 256
    num_res_blocks: Count = 2
    channel_mult: Annotated[Sequence[float], Each(number(above=0), least=1)] = (1, 1, 2, 2, 4, 4)
    attention_ds: Annotated[Sequence[int], Each(COUNT)] = (8, 16, 32)
    head_channels: Count | None = 64
    num_heads: Count = 4
    new_attention_order: bool = False
    scale_shift_norm: bool = True
    resblock_updown: bool = True
    num_classes: Natural = 0
    conditional: bool = False
    z_channels: Natural = 0
    mark_channels: Natural = 0
    dropout: Decay = 0.0
    remat: bool = False
    attention: Annotated[str, Choice(IMPLEMENTATIONS)] = "auto"
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def __post_init__(self):
        # A JSON configuration has lists, which would make the module unhashable.
        for name in ("channel_mult", "attention_ds"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        super().__post_init__()

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
    ) -> Array:
        """Evaluates the network.

        Args:
          x: `[B, H, W, in_channels]`, already scaled by c_in; H and W multiples of 2^(levels - 1).
          c_noise: `[B]` or scalar network time.
          xT: `[B, H, W, in_channels]` corrupted source, unscaled; used iff `conditional`.
          z: `[B, H, W, z_channels]` standard normal; used iff `z_channels` > 0.
          y: `[B]` integer class labels; used iff `num_classes` > 0.
          train: dropout on.
          mark: `[B, mark_channels]`; used iff `mark_channels` > 0.

        Returns:
          F, `[B, H, W, out_channels]` float32.

        Raises:
          ValueError: an input that this network needs is missing or has a wrong shape.
        """
        self._check(x, xT, z, y)
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        full = {"param_dtype": self.param_dtype, "dtype": jnp.float32}
        res_class = nn.remat(ResBlock, static_argnums=(3,)) if self.remat else ResBlock
        attention_class = nn.remat(AttentionBlock) if self.remat else AttentionBlock

        def res(h, name, channels=None, resample=None):
            options = (channels or h.shape[-1], resample, self.scale_shift_norm, self.dropout)
            return res_class(*options, **types, name=name)(h, emb, train)

        def attention(h, name):
            options = (self.head_channels, self.num_heads, self.new_attention_order, self.attention)
            return attention_class(*options, **types, name=name)(h)

        def resize(h, name, up):
            if self.resblock_updown:
                return res(h, name, resample=upsample if up else downsample)
            return Resample(up, **types, name=name)(h)

        # Embedding of time and class.
        width = 4 * self.model_channels
        emb = timestep_embedding(jnp.broadcast_to(c_noise, x.shape[:1]), self.model_channels)
        emb = nn.silu(_dense(width, **full, name="time_embed_0")(emb))
        emb = _dense(width, **full, name="time_embed_2")(emb)
        if self.num_classes:
            embed = partial(nn.Embed, self.num_classes, width, **full)
            emb += embed(embedding_init=nn.initializers.normal(1.0), name="label_emb")(y)

        if self.mark_channels:
            emb += _dense(width, **full, use_bias=False, kernel_init=_zeros, name="mark_in")(mark)

        # Input.
        h = x
        if self.conditional:
            assert xT is not None  # _check
            h = jnp.concatenate([x, xT], axis=-1)
        first = partial(_conv, int(self.channel_mult[0] * self.model_channels), (3, 3), **full)
        h = first(name="input_blocks_0_0")(h)
        if self.z_channels:
            h += first(use_bias=False, kernel_init=_zeros, name="z_in")(z)
        h = h.astype(self.dtype)

        # Down: every block's output is kept for the way up.
        skips, ds, i = [h], 1, 1
        for level, mult in enumerate(self.channel_mult):
            if level > 0:
                h = resize(h, f"input_blocks_{i}_0", up=False)
                skips, ds, i = [*skips, h], 2 * ds, i + 1
            for _ in range(self.num_res_blocks):
                h = res(h, f"input_blocks_{i}_0", int(mult * self.model_channels))
                if ds in self.attention_ds:
                    h = attention(h, f"input_blocks_{i}_1")
                skips, i = [*skips, h], i + 1

        h = res(h, "middle_block_0")
        h = attention(h, "middle_block_1")
        h = res(h, "middle_block_2")

        # Up: each block sees [h, skip]; the last block of a level doubles the size.
        i = 0
        for level, mult in reversed(list(enumerate(self.channel_mult))):
            for k in range(self.num_res_blocks + 1):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = res(h, f"output_blocks_{i}_0", int(mult * self.model_channels))
                if ds in self.attention_ds:
                    h = attention(h, f"output_blocks_{i}_1")
                if level > 0 and k == self.num_res_blocks:
                    last = 2 if ds in self.attention_ds else 1
                    h = resize(h, f"output_blocks_{i}_{last}", up=True)
                    ds //= 2
                i += 1

        h = nn.silu(_norm(param_dtype=self.param_dtype, name="out_0")(h))
        return _conv(self.out_channels, (3, 3), **full, kernel_init=_zeros, name="out_2")(h)

    def _check(self, x: Array, xT: Array | None, z: Array | None, y: Array | None) -> None:
        """Raises a ValueError that names the first input that does not fit this network."""
        if x.ndim != 4 or x.shape[-1] != self.in_channels:
            raise ValueError(f"x has shape {x.shape}, but ADM wants [B, H, W, {self.in_channels}].")
        multiple = 2 ** (len(self.channel_mult) - 1)
        if x.shape[1] % multiple or x.shape[2] % multiple:
            raise ValueError(
                f"x is {x.shape[1]}x{x.shape[2]}, but with {len(self.channel_mult)} levels height "
                f"and width must be multiples of {multiple}: pad or crop the images."
            )
        for name, value, needed, shape in (
            ("xT", xT, self.conditional, x.shape),
            ("z", z, self.z_channels, (*x.shape[:-1], self.z_channels)),
            ("y", y, self.num_classes, x.shape[:1]),
        ):
            if needed and (value is None or value.shape != shape):
                found = "nothing" if value is None else f"shape {value.shape}"
                raise ValueError(f"ADM needs {name} of shape {shape}, but was given {found}.")
