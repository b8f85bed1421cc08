"""OpenAI's classifiers of noisy images, `256x256_classifier.pt` and the like: network and parameters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jax_bridges.import_torch.names import check_names, flax_path, torch_name, unwrapped
from jax_bridges.io.torch_file import read_torch
from jax_bridges.models.classifier import ADMClassifier

_POINTWISE = ("qkv", "proj_out", "qkv_proj", "c_proj")  # convolutions over a sequence, in torch


def read_classifier(file: str | Path, **known: Any) -> tuple[ADMClassifier, dict, int]:
    """The network, its float32 parameters (numpy), and the side of its images. No code in the file is run.

    Args:
      file: as `read_torch` takes it: a flat state dict.
      known: arguments of `ADMClassifier` that no shape tells: `head_channels` (64), `num_res_blocks`
        (2; 4 in the classifier of 64x64 pixels), `new_attention_order`.

    Raises:
      FileNotFoundError, ValueError: one sentence that names the file.
    """
    contents = read_torch(file)
    try:
        if not isinstance(contents, Mapping):
            raise ValueError("it holds no named tensors.")
        state = {n: np.asarray(a) for n, a in unwrapped(contents).items()}
        network, size = infer_classifier({n: a.shape for n, a in state.items()}, **known)
        return network, _to_flax(state, network, size), size
    except ValueError as error:
        raise ValueError(f"{file}: {str(error).splitlines()[0]}") from error


def infer_classifier(
    shapes: Mapping[str, tuple[int, ...]], **known: Any
) -> tuple[ADMClassifier, int]:
    """The network of a state dict's shapes, and the side of the images it was trained on.

    Raises ValueError for the names of another network.
    """
    try:
        side = round((shapes["out.2.positional_embedding"][1] - 1) ** 0.5)
        channels = shapes["time_embed.0.weight"][1]
        first = shapes["input_blocks.1.0.in_layers.2.weight"][0]
        modulation = shapes["input_blocks.1.0.emb_layers.1.weight"][0]
        classes, inputs = shapes["out.2.c_proj.weight"][0], shapes["input_blocks.0.0.weight"][1]
    except KeyError as missing:
        raise ValueError(f"this is no classifier of ADM: it has no tensor {missing}.") from None
    blocks = 1 + max(int(n.split(".")[1]) for n in shapes if n.startswith("input_blocks."))
    repeats = known.get("num_res_blocks", 2)
    levels, rest = divmod(blocks, repeats + 1)  # the first convolution stands for a way down
    if rest:
        raise ValueError(f"{blocks} input blocks are no levels of {repeats} residual blocks each.")
    starts = [1 + level * (repeats + 1) for level in range(levels)]
    widths = [shapes.get(f"input_blocks.{i}.0.in_layers.2.weight", (channels,))[0] for i in starts]
    settings = {
        "classes": classes,
        "in_channels": inputs,
        "model_channels": channels,
        "num_res_blocks": repeats,
        "channel_mult": tuple(n / channels for n in widths),
        "attention_ds": tuple(
            2**level for level, i in enumerate(starts) if f"input_blocks.{i}.1.qkv.weight" in shapes
        ),
        "scale_shift_norm": modulation == 2 * first,
        "resblock_updown": not any(n.endswith("0.op.weight") for n in shapes),
    }
    return ADMClassifier(**{**settings, **known}), side * 2 ** (levels - 1)


def classifier_layout(network: ADMClassifier, size: int) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the official state dict, for images of `size` x `size`."""
    image = jnp.zeros((1, size, size, network.in_channels))
    shapes = jax.eval_shape(network.init, jax.random.key(0), image, jnp.zeros(1))["params"]
    leaves: dict[tuple[str, ...], Any] = flatten_dict(shapes)
    return {_name(path): _shape(path, leaf.shape) for path, leaf in leaves.items()}


def _name(path: tuple[str, ...]) -> str:
    if path[-1] == "positional_embedding":
        return "out.2.positional_embedding"
    return torch_name(path)


def _shape(path: tuple[str, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    if path[-1] != "kernel":
        return tuple(shape)
    if len(shape) == 2:
        return (*shape[::-1], *(1,) * (path[-2] in _POINTWISE))
    return (shape[3], shape[2], *shape[:2])


def _to_flax(state: Mapping[str, np.ndarray], network: ADMClassifier, size: int) -> dict:
    check_names(classifier_layout(network, size), {n: a.shape for n, a in state.items()})
    flat = {}
    for name, array in state.items():
        array = array.astype(np.float32, copy=False)
        if not np.isfinite(array).all():
            raise ValueError(f"the tensor '{name}' holds values that are NaN or infinite.")
        path = flax_path(name, array.ndim)
        if path[-1] == "kernel":
            if array.ndim == 3:
                array = array.reshape(array.shape[:2])
            array = array.T if array.ndim == 2 else array.transpose(2, 3, 1, 0)
        flat[path] = np.ascontiguousarray(array)
    return unflatten_dict(flat)
