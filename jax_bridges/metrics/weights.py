"""Weights of the feature networks: files the user has, found by name, checked by checksum.

Nothing is downloaded. A network's file is looked for in the folder that is given, in the folder of
the environment variable JAX_BRIDGES_WEIGHTS, in ~/.cache/jax_bridges/weights and in PyTorch's own
cache; the error for a missing one says where it can be had. Files are read by the restricted reader
of import_torch: no torch, and no code of theirs is run.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jax_bridges.import_torch import read_torch
from jax_bridges.import_torch.names import check_names

ENVIRONMENT = "JAX_BRIDGES_WEIGHTS"


class File(NamedTuple):
    """A published file: `name` as it is downloaded, the start of its SHA-256, and what it is."""

    name: str
    sha256: str
    address: str
    what: str
    package: str = ""  # an installed package that holds the file
    inside: str = ""  # and where


_TORCH = "https://download.pytorch.org/models/"
_LPIPS = (
    "https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/master/lpips/weights/v0.1/"
)
# torch writes the first 8 digits of a file's SHA-256 into its name; those of LPIPS's are whole.
FILES = {
    "inception": File(
        "pt_inception-2015-12-05-6726825d.pth",
        "6726825d",
        "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
        "pt_inception-2015-12-05-6726825d.pth",
        "Inception-V3 of the FID (TensorFlow's of 2015-12-05)",
    ),
    "resnet50": File(
        "resnet50-0676ba61.pth",
        "0676ba61",
        _TORCH + "resnet50-0676ba61.pth",
        "ResNet-50 of the classifier accuracy CA (torchvision's IMAGENET1K_V1)",
    ),
    "vgg16": File(
        "vgg16-397923af.pth",
        "397923af",
        _TORCH + "vgg16-397923af.pth",
        "VGG-16, the trunk of LPIPS (torchvision's)",
    ),
    "alexnet": File(
        "alexnet-owt-7be5be79.pth",
        "7be5be79",
        _TORCH + "alexnet-owt-7be5be79.pth",
        "AlexNet, the trunk of LPIPS (torchvision's)",
    ),
    "lpips_vgg": File(
        "vgg.pth",
        "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
        _LPIPS + "vgg.pth",
        "the linear heads of LPIPS v0.1 on VGG-16",
        "lpips",
        "weights/v0.1/vgg.pth",
    ),
    "lpips_alex": File(
        "alex.pth",
        "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
        _LPIPS + "alex.pth",
        "the linear heads of LPIPS v0.1 on AlexNet",
        "lpips",
        "weights/v0.1/alex.pth",
    ),
}


def weights_path(name: str, where: str | os.PathLike | None = None) -> Path:
    """The file of a key of FILES.

    Args:
      where: a folder to look in first, or the file itself, which is then taken without a check.

    Raises:
      FileNotFoundError: it is in none of the folders; the text has its address and checksum.
      ValueError: the file that was found has another checksum.
    """
    file = FILES[name]
    if where and Path(where).is_file():
        return Path(where)
    folders = [where] if where else []
    folders += [os.environ[ENVIRONMENT]] if os.environ.get(ENVIRONMENT) else []
    folders += [Path.home() / ".cache/jax_bridges/weights"]
    folders += [
        Path(os.environ.get("TORCH_HOME", Path.home() / ".cache/torch")) / "hub/checkpoints"
    ]
    candidates = [Path(folder).expanduser() / file.name for folder in folders]
    spec = importlib.util.find_spec(file.package) if file.package else None
    for folder in (spec and spec.submodule_search_locations) or ():
        candidates.append(Path(folder, file.inside))
    for path in candidates:
        if path.is_file():
            found = file_sha256(path)
            if not found.startswith(file.sha256):
                raise ValueError(
                    f"{path}: its SHA-256 starts with {found[: len(file.sha256)]} and not with "
                    f"{file.sha256}, so it is not {file.what}: fetch it again from {file.address}."
                )
            return path
    raise FileNotFoundError(
        f"{file.what}: no file {file.name}. Download {file.address} (SHA-256 {file.sha256}"
        f"{'...' if len(file.sha256) < 64 else ''}) into {candidates[0].parent}, or name the folder "
        f"that has it in config.evaluate.weights or in the environment variable {ENVIRONMENT}."
    )


@functools.lru_cache(maxsize=32)
def _sha256(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, computed once for each state of it."""
    stat = path.stat()
    return _sha256(path, stat.st_size, stat.st_mtime_ns)


def variables_of(
    module: nn.Module,
    example: tuple[int, ...],
    state: Mapping[str, Any],
    names: Callable[[tuple[str, ...]], tuple[str, str | None]],
    source: str,
    epsilon: float = 1e-5,
) -> dict:
    """Variables of a flax module from a torch state dict, batch normalisation folded in.

    y = gamma (x - mean) / sqrt(var + epsilon) + beta is folded in float64 into the kernel before
    it and a bias. What the state dict has beyond the module's needs is left alone.

    Args:
      module: made of `nn.Conv` and `nn.Dense` with biases.
      example: shape of an input.
      state: torch name -> array.
      names: flax path of a layer -> torch's prefix of the layer, and of its norm or None.
      source: what to call the state dict in an error.
      epsilon: of the norms.

    Raises:
      ValueError: a table of the names that are missing or have another shape.
    """
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros(example))["params"]
    leaves: dict[tuple[str, ...], Any] = flatten_dict(shapes)
    layers = dict.fromkeys(path[:-1] for path in leaves)
    expected, flat = {}, {}
    kernels = {path[:-1]: leaf.shape for path, leaf in leaves.items() if "kernel" in path}
    for path in layers:
        layer, norm = names(path)
        shape = kernels[path]
        dims = (shape[1], shape[0]) if len(shape) == 2 else (shape[3], shape[2], *shape[:2])
        expected[layer + ".weight"] = dims
        parts = ("weight", "bias", "running_mean", "running_var") if norm else ("bias",)
        for part in parts:
            expected[f"{norm or layer}.{part}"] = (shape[-1],)
    if not isinstance(state, Mapping):
        raise ValueError(f"{source}: holds no named tensors, so it is no state dict.")
    try:
        check_names(expected, {name: np.shape(state[name]) for name in expected if name in state})
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    for path in layers:
        layer, norm = names(path)
        kernel = np.asarray(state[layer + ".weight"], np.float64)
        kernel = kernel.T if kernel.ndim == 2 else kernel.transpose(2, 3, 1, 0)
        if norm:
            gamma, beta, mean, var = (
                np.asarray(state[f"{norm}.{part}"], np.float64)
                for part in ("weight", "bias", "running_mean", "running_var")
            )
            scale = gamma / np.sqrt(var + epsilon)
            kernel, bias = kernel * scale, beta - mean * scale
        else:
            bias = np.asarray(state[layer + ".bias"], np.float64)
        flat[(*path, "kernel")], flat[(*path, "bias")] = kernel, bias
    # In numpy: a device would compile a program for each of the shapes.
    return {"params": jax.tree.map(lambda x: np.asarray(x, np.float32), unflatten_dict(flat))}


def read_state(path: Path) -> Mapping[str, Any]:
    """The state dict in a file of weights; ValueError in one sentence for anything else."""
    state = read_torch(path)
    if not isinstance(state, Mapping):
        raise ValueError(f"{path}: holds no named tensors, so it is no state dict.")
    return state
