"""Inception-V3 as the FID uses it: TensorFlow's network of 2015-12-05, with its own pools.

Szegedy et al. 2015 (arXiv 1512.00567) in the form of Heusel et al. 2017 (arXiv 1706.08500). Against
the usual Inception-V3, average pools leave the padding out of the mean, and the pool of the last
block takes the maximum. There are 1008 classes, 1000 of them used. Weights: `weights.FILES`.
"""

from __future__ import annotations

import functools
import os
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from jax_bridges.choices import look_up
from jax_bridges.metrics.batches import check_images, device_batch, in_batches
from jax_bridges.metrics.resize import bilinear_tf1, bilinear_torch
from jax_bridges.metrics.weights import read_state, variables_of, weights_path

SIZE = 299
FEATURES = 2048
_EPSILON = 1e-3  # of its batch normalisation

# How an image gets into the network; the names are clean-fid's (Parmar et al. 2022).
# legacy_pytorch: pytorch-fid's. legacy_tensorflow: the original code's, and StyleGAN2-ADA's.
RESIZES = {
    "legacy_pytorch": lambda x: bilinear_torch(x, SIZE) / 127.5 - 1,
    "legacy_tensorflow": lambda x: (bilinear_tf1(x, SIZE) - 128) / 128,
}


def _average(x):
    """Mean of 3 x 3 neighbours, of those inside the image."""
    return nn.avg_pool(x, (3, 3), (1, 1), "SAME", count_include_pad=False)


def _maximum(x, stride=2, padding="VALID"):
    return nn.max_pool(x, (3, 3), (stride, stride), padding)


def _conv(x, name, features, kernel=(1, 1), stride=1, padding="VALID"):
    """Convolution, with its batch normalisation folded in, and ReLU."""
    return nn.relu(nn.Conv(features, kernel, (stride, stride), padding, name=name)(x))


class BlockA(nn.Module):
    """35 x 35: branches 1x1, 5x5, double 3x3 and pool."""

    pool: int

    @nn.compact
    def __call__(self, x):
        one = _conv(x, "branch1x1", 64)
        five = _conv(x, "branch5x5_1", 48)
        five = _conv(five, "branch5x5_2", 64, (5, 5), padding="SAME")
        double = _conv(x, "branch3x3dbl_1", 64)
        double = _conv(double, "branch3x3dbl_2", 96, (3, 3), padding="SAME")
        double = _conv(double, "branch3x3dbl_3", 96, (3, 3), padding="SAME")
        pool = _conv(_average(x), "branch_pool", self.pool)
        return jnp.concatenate([one, five, double, pool], -1)


class BlockB(nn.Module):
    """35 x 35 to 17 x 17."""

    @nn.compact
    def __call__(self, x):
        three = _conv(x, "branch3x3", 384, (3, 3), 2)
        double = _conv(x, "branch3x3dbl_1", 64)
        double = _conv(double, "branch3x3dbl_2", 96, (3, 3), padding="SAME")
        double = _conv(double, "branch3x3dbl_3", 96, (3, 3), 2)
        return jnp.concatenate([three, double, _maximum(x)], -1)


class BlockC(nn.Module):
    """17 x 17: branches 1x1, 7x7 and double 7x7, each 7x7 as 1x7 and 7x1, and pool."""

    width: int

    @nn.compact
    def __call__(self, x):
        def chain(x, branch, kernels):
            last = len(kernels)
            for i, kernel in enumerate(kernels, start=1):
                x = _conv(
                    x, f"{branch}_{i}", 192 if i == last else self.width, kernel, padding="SAME"
                )
            return x

        flat, tall = (1, 7), (7, 1)
        one = _conv(x, "branch1x1", 192)
        seven = chain(x, "branch7x7", [(1, 1), flat, tall])
        double = chain(x, "branch7x7dbl", [(1, 1), tall, flat, tall, flat])
        pool = _conv(_average(x), "branch_pool", 192)
        return jnp.concatenate([one, seven, double, pool], -1)


class BlockD(nn.Module):
    """17 x 17 to 8 x 8."""

    @nn.compact
    def __call__(self, x):
        three = _conv(_conv(x, "branch3x3_1", 192), "branch3x3_2", 320, (3, 3), 2)
        seven = _conv(x, "branch7x7x3_1", 192)
        seven = _conv(seven, "branch7x7x3_2", 192, (1, 7), padding="SAME")
        seven = _conv(seven, "branch7x7x3_3", 192, (7, 1), padding="SAME")
        seven = _conv(seven, "branch7x7x3_4", 192, (3, 3), 2)
        return jnp.concatenate([three, seven, _maximum(x)], -1)


class BlockE(nn.Module):
    """8 x 8: branches 1x1, split 3x3, double split 3x3, and pool (of the maximum in the last)."""

    maximum: bool

    @nn.compact
    def __call__(self, x):
        def split(x, name):
            flat = _conv(x, name + "a", 384, (1, 3), padding="SAME")
            return [flat, _conv(x, name + "b", 384, (3, 1), padding="SAME")]

        one = _conv(x, "branch1x1", 320)
        three = split(_conv(x, "branch3x3_1", 384), "branch3x3_2")
        double = _conv(x, "branch3x3dbl_1", 448)
        double = _conv(double, "branch3x3dbl_2", 384, (3, 3), padding="SAME")
        double = split(double, "branch3x3dbl_3")
        pooled = _maximum(x, 1, "SAME") if self.maximum else _average(x)
        pool = _conv(pooled, "branch_pool", 192)
        return jnp.concatenate([one, *three, *double, pool], -1)


class Inception(nn.Module):
    """[B, 299, 299, 3], as a function of RESIZES makes it, to features [B, 2048] (`pool_3`) and
    logits [B, 1008]."""

    @nn.compact
    def __call__(self, x):
        x = _conv(x, "Conv2d_1a_3x3", 32, (3, 3), 2)
        x = _conv(x, "Conv2d_2a_3x3", 32, (3, 3))
        x = _maximum(_conv(x, "Conv2d_2b_3x3", 64, (3, 3), padding="SAME"))
        x = _conv(x, "Conv2d_3b_1x1", 80)
        x = _maximum(_conv(x, "Conv2d_4a_3x3", 192, (3, 3)))
        for name, pool in (("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)):
            x = BlockA(pool, name=name)(x)
        x = BlockB(name="Mixed_6a")(x)
        widths = {"Mixed_6b": 128, "Mixed_6c": 160, "Mixed_6d": 160, "Mixed_6e": 192}
        for name, width in widths.items():
            x = BlockC(width, name=name)(x)
        x = BlockD(name="Mixed_7a")(x)
        x = BlockE(False, name="Mixed_7b")(x)
        x = BlockE(True, name="Mixed_7c")(x)
        features = x.mean((1, 2))
        return features, nn.Dense(1008, name="fc")(features)


@functools.lru_cache(maxsize=2)
def inception_params(where: str | os.PathLike | None = None) -> dict:
    """Variables of `Inception` from pytorch-fid's file; `where` as of `weights_path`."""

    def names(path):
        name = ".".join(path)
        return (name, None) if name == "fc" else (f"{name}.conv", f"{name}.bn")

    path = weights_path("inception", where)
    example = (1, SIZE, SIZE, 3)
    return variables_of(Inception(), example, read_state(path), names, str(path), _EPSILON)


class InceptionOutput(NamedTuple):
    """Float32 on the host: features [N, 2048], logits [N, 1008]."""

    features: np.ndarray
    logits: np.ndarray


@functools.cache
def _resized(resize):
    def step(variables, images):
        del variables
        return (RESIZES[resize](images.astype(jnp.float32)),)

    return step


def _outputs(variables, x):
    """Apart from `_resized`, so that a further image size does not compile the network again."""
    return Inception().apply(variables, x)


def inception_outputs(
    images,
    resize: str = "legacy_pytorch",
    where: str | os.PathLike | None = None,
    batch_size: int | None = None,
    shared: bool = True,
) -> InceptionOutput:
    """Features and logits of uint8 images [N, H, W, 3] under a convention of RESIZES.

    A device takes `batch_size` images at once (4 on a CPU, else 64); `shared` as of `in_batches`.

    Raises ValueError for another kind of images, or an unknown convention; FileNotFoundError
    without the weights.
    """
    look_up("resizing of the FID", RESIZES, resize)
    variables = inception_params(where)
    images = check_images(images, "The FID")
    batch_size = device_batch(batch_size, on_cpu=4)
    steps = (_resized(resize), _outputs)
    return InceptionOutput(*in_batches(steps, variables, (images,), batch_size, shared))
