"""LPIPS, a learned distance of an image from its target (Zhang et al. 2018, arXiv 1801.03924).

Version 0.1: VGG-16 or AlexNet, five layers, each normalised to unit length a pixel; squared
differences are weighted by a learned linear head and averaged over the image.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from pathlib import Path

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from jax_bridges.choices import look_up
from jax_bridges.metrics.batches import device_batch, in_batches
from jax_bridges.metrics.weights import read_state, variables_of, weights_path

# The scaling layer: [-1, 1] to units of ImageNet's mean and deviation, as the authors rounded them.
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


class VGG16(nn.Module):
    """[B, H, W, 3] to the five maps before each pool, after ReLU; H, W >= 16."""

    @nn.compact
    def __call__(self, x):
        maps, number = [], 0
        for width, repeats in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
            if maps:
                x = nn.max_pool(x, (2, 2), (2, 2))
                number += 1
            for _ in range(repeats):
                x = nn.relu(nn.Conv(width, (3, 3), padding=1, name=f"features_{number}")(x))
                number += 2
            maps.append(x)
        return tuple(maps)


class AlexNet(nn.Module):
    """[B, H, W, 3] to the five maps after each ReLU; H, W >= 31."""

    @nn.compact
    def __call__(self, x):
        maps = []
        for number, width, kernel, stride, pad, pool in (
            (0, 64, 11, 4, 2, False),
            (3, 192, 5, 1, 2, True),
            (6, 384, 3, 1, 1, True),
            (8, 256, 3, 1, 1, False),
            (10, 256, 3, 1, 1, False),
        ):
            if pool:
                x = nn.max_pool(x, (3, 3), (2, 2))
            size, step = (kernel, kernel), (stride, stride)
            x = nn.relu(nn.Conv(width, size, step, pad, name=f"features_{number}")(x))
            maps.append(x)
        return tuple(maps)


TRUNKS = {"vgg": (VGG16, "vgg16", 16), "alex": (AlexNet, "alexnet", 31)}


@functools.lru_cache(maxsize=4)
def lpips_params(
    net: str = "vgg",
    where: str | os.PathLike | None = None,
    heads: str | os.PathLike | None = None,
) -> dict:
    """{"trunk": variables, "heads": five arrays [C]} of a network of TRUNKS.

    `where` is the folder of both files or the trunk's file, `heads` the heads' file; see
    `weights_path`.
    """
    trunk, file, _ = look_up("network of LPIPS", TRUNKS, net)
    path = weights_path(file, where)
    folder = where if where and Path(where).is_dir() else None
    head_path = weights_path(f"lpips_{net}", heads or folder)

    def names(path):
        return path[0].replace("_", "."), None

    state = read_state(path)
    variables = variables_of(trunk(), (1, 64, 64, 3), state, names, str(path))
    return {"trunk": variables, "heads": _heads(head_path, read_state(head_path))}


def _heads(path: Path, state: Mapping) -> list:
    try:
        weights = [np.asarray(state[f"lin{k}.model.1.weight"], np.float32) for k in range(5)]
        return [jnp.asarray(weight.reshape(-1)) for weight in weights]
    except (KeyError, ValueError, TypeError) as error:
        raise ValueError(f"{path}: not the linear heads of LPIPS v0.1 ({error}).") from None


@functools.cache
def _distance(net):
    def maps(params, images):
        if images.dtype == jnp.uint8:
            images = images / 127.5 - 1
        scaled = (images.astype(jnp.float32) - jnp.array(_SHIFT)) / jnp.array(_SCALE)
        found = TRUNKS[net][0]().apply(params["trunk"], scaled)
        # The authors' unit length: x / (|x| + 1e-10).
        return [m / (jnp.linalg.norm(m, axis=-1, keepdims=True) + 1e-10) for m in found]

    def step(params, x, y):
        layers = zip(maps(params, x), maps(params, y), params["heads"], strict=True)
        return (sum(((a - b) ** 2 @ head).mean((1, 2)) for a, b, head in layers),)

    return step


def lpips(
    x,
    y,
    net: str = "vgg",
    where: str | os.PathLike | None = None,
    heads: str | os.PathLike | None = None,
    batch_size: int | None = None,
) -> np.ndarray:
    """Distance [N] of images x from y, both [N, H, W, 3], float in [-1, 1] or uint8.

    Raises ValueError for other or too small images (VGG-16 needs 16 pixels a side, AlexNet 31) and
    unknown networks, FileNotFoundError without the weights.
    """
    params = lpips_params(net, where, heads)
    x, y = np.asarray(x), np.asarray(y)
    least = TRUNKS[net][2]
    if x.shape != y.shape or x.ndim != 4 or x.shape[-1] != 3 or min(x.shape[1:3]) < least:
        raise ValueError(
            f"LPIPS on {net} needs two sets of RGB images [N, H, W, 3] of {least} pixels a side or "
            f"more, not {x.shape} and {y.shape}."
        )
    batch_size = device_batch(batch_size, on_cpu=4, elsewhere=32)
    return in_batches((_distance(net),), params, (x, y), batch_size)[0]
