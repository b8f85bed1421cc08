"""ResNet-50, the classifier behind CA: the top-1 accuracy of restored images (I2SB's table 2).

He et al. 2015 (arXiv 1512.03385) in torchvision's form (stride in the 3 x 3 convolution), with the
weights IMAGENET1K_V1.
"""

from __future__ import annotations

import functools
import os
import re
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from jax_bridges.metrics.batches import check_images, device_batch, in_batches
from jax_bridges.metrics.resize import bicubic_torch
from jax_bridges.metrics.weights import read_state, variables_of, weights_path

SIZE = 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, in [0, 1]


def _conv(x, name, features, kernel=1, stride=1):
    pad = kernel // 2
    return nn.Conv(
        features, (kernel, kernel), (stride, stride), [(pad, pad), (pad, pad)], name=name
    )(x)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1, plus the input (through a 1x1 where its shape differs)."""

    width: int
    stride: int

    @nn.compact
    def __call__(self, x):
        h = nn.relu(_conv(x, "conv1", self.width))
        h = nn.relu(_conv(h, "conv2", self.width, 3, self.stride))
        h = _conv(h, "conv3", 4 * self.width)
        if x.shape != h.shape:
            x = _conv(x, "downsample", 4 * self.width, 1, self.stride)
        return nn.relu(h + x)


class ResNet50(nn.Module):
    """[B, 224, 224, 3], as `resnet_input` makes it, to logits [B, 1000]."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(_conv(x, "conv1", 64, 7, 2))
        border: Any = [(1, 1), (1, 1)]  # which flax takes as well as the names that it declares
        x = nn.max_pool(x, (3, 3), (2, 2), border)
        for stage, blocks in enumerate((3, 4, 6, 3), start=1):
            for i in range(blocks):
                stride = 2 if stage > 1 and i == 0 else 1
                x = Bottleneck(32 * 2**stage, stride, name=f"layer{stage}_{i}")(x)
        return nn.Dense(1000, name="fc")(x.mean((1, 2)))


def resnet_input(images):
    """uint8 [B, H, W, 3] to [B, 224, 224, 3] as I2SB does it: scaled to [0, 1], resized by torch's
    bicubic filter (no antialiasing, no crop, no clipping), then ImageNet's mean and deviation."""
    x = bicubic_torch(images.astype(jnp.float32) / 255, SIZE)
    return (x - jnp.array(MEAN)) / jnp.array(STD)


@functools.lru_cache(maxsize=2)
def resnet_params(where: str | os.PathLike | None = None) -> dict:
    """Variables of `ResNet50` from torchvision's file; `where` as of `weights_path`."""

    def names(path):
        name = re.sub(r"(layer\d)_(\d)", r"\1.\2", ".".join(path))
        if name == "fc":
            return name, None
        if name.endswith("downsample"):
            return f"{name}.0", f"{name}.1"
        return name, name.replace("conv", "bn")

    path = weights_path("resnet50", where)
    return variables_of(ResNet50(), (1, SIZE, SIZE, 3), read_state(path), names, str(path))


def _prepared(variables, images):
    del variables
    return (resnet_input(images),)


def _logits(variables, x):
    """Apart from `_prepared`, so that a further image size does not compile the network again."""
    return (ResNet50().apply(variables, x),)


def resnet_logits(
    images, where: str | os.PathLike | None = None, batch_size: int | None = None
) -> np.ndarray:
    """Float32 logits [N, 1000] of uint8 images [N, H, W, 3], of any size.

    Raises ValueError for another kind of images, FileNotFoundError without the weights.
    """
    variables = resnet_params(where)
    images = check_images(images, "CA")
    batch_size = device_batch(batch_size, on_cpu=4)
    return in_batches((_prepared, _logits), variables, (images,), batch_size)[0]
