"""Names and shapes of ADM checkpoints: torch state dict <-> flax parameters, both ways.

Everything here works on plain dicts of numpy arrays (`reader.py` makes them from files); nothing
needs torch. One rule maps every name: `input_blocks.3.0.in_layers.2.weight` of torch is
`input_blocks_3_0/in_layers_2/kernel` of flax ("." before a number is "_", any other "." is a level
of the tree; `weight` is `scale` of a norm and `embedding` of the class table). Convolutions go
OIHW -> HWIO, linear layers and the 1x1 convolutions of attention [O, I, ...] -> [I, O].
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jax_bridges.models.adm import ADM

Config = dict[str, Any]
StateDict = dict[str, np.ndarray]

# The order of torch parameters, by which `torch_ema` lists its shadows: that of registration.
_ORDER = (
    *("time_embed", "label_emb", "z_in", "input_blocks", "middle_block", "output_blocks", "out"),
    *("in_layers", "emb_layers", "out_layers", "skip_connection", "norm", "qkv", "proj_out"),
    *("op", "conv", "weight", "bias"),
)


# Modules that torch wraps others in (DDP, torch.compile, FSDP, activation checkpoints), and whose
# names stand between those of a saved network.
_WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")


def unwrapped(state_dict: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A copy whose names have lost those of wrappers, and then `prefix`, where they had them.

    Raises:
      ValueError: two names become one.
    """
    plain = {}
    for name, value in state_dict.items():
        *modules, leaf = str(name).split(".")
        short = ".".join([*(m for m in modules if m not in _WRAPPERS), leaf]).removeprefix(prefix)
        if short in plain:
            raise ValueError(f"'{short}' is there twice, as '{name}' and under another name.")
        plain[short] = value
    return plain


def torch_name(path: tuple[str, ...]) -> str:
    """`("input_blocks_3_0", "qkv", "kernel")` -> `"input_blocks.3.0.qkv.weight"`."""
    leaf = "bias" if path[-1] == "bias" else "weight"
    return ".".join((*(re.sub(r"_(\d+)", r".\1", part) for part in path[:-1]), leaf))


def flax_path(name: str, ndim: int) -> tuple[str, ...]:
    """`("input_blocks.3.0.qkv.weight", 3)` -> `("input_blocks_3_0", "qkv", "kernel")`."""
    *modules, leaf = re.sub(r"\.(\d+)", r"_\1", name).split(".")
    if leaf == "weight":
        leaf = "scale" if ndim == 1 else "embedding" if modules == ["label_emb"] else "kernel"
    return (*modules, leaf)


def torch_layout(config: Config, qkv_ndim: int = 3) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the state dict of `ADM(**config)`, in torch's parameter order.

    Args:
      config: constructor arguments of `ADM`.
      qkv_ndim: dimensions of the 1x1 convolutions of attention: 3 (ADM, I2SB, DBIM) or 4 (DDBM).
    """
    layout = {}
    leaves: dict[tuple[str, ...], Any] = flatten_dict(abstract_params(config))
    for path, leaf in leaves.items():
        layout[torch_name(path)] = _torch_shape(path, leaf.shape, qkv_ndim)
    return {name: layout[name] for name in sorted(layout, key=_rank)}


def torch_to_flax(state_dict: Mapping[str, np.ndarray], config: Config) -> dict:
    """Parameters of `ADM(**config)` from a torch state dict.

    Args:
      state_dict: torch name -> array in torch layout, any floating dtype (float16 is upcast); the
        1x1 convolutions of attention may have 3 or 4 dimensions.
      config: constructor arguments of `ADM`.

    Returns:
      A nested dict of float32 numpy arrays, for `ADM(**config).apply({"params": ...}, ...)`.

    Raises:
      ValueError: names or shapes differ (with a table), or a tensor is not finite.
    """
    qkv_ndim = max(
        (np.ndim(a) for n, a in state_dict.items() if n.endswith("qkv.weight")), default=3
    )
    check_names(
        torch_layout(config, qkv_ndim), {name: np.shape(a) for name, a in state_dict.items()}
    )
    flat = {}
    for name, array in state_dict.items():
        array = np.asarray(array).astype(np.float32, copy=False)
        if not np.isfinite(array).all():
            bad = array.size - int(np.isfinite(array).sum())
            raise ValueError(
                f"The tensor '{name}' holds {bad} values of {array.size} that are NaN or infinite: "
                "the file is damaged or comes from a diverged run, take an earlier checkpoint."
            )
        path = flax_path(name, array.ndim)
        if path[-1] == "kernel":
            if path[-2] in ("qkv", "proj_out"):
                array = array.reshape(array.shape[:2])
            array = array.T if array.ndim == 2 else array.transpose(2, 3, 1, 0)
        flat[path] = np.ascontiguousarray(array)
    return unflatten_dict(flat)


def flax_to_torch(params: Mapping, config: Config, qkv_ndim: int = 3) -> StateDict:
    """The inverse of `torch_to_flax`: a state dict in torch's parameter order, float32.

    Args:
      params: parameters of `ADM(**config)`.
      config: constructor arguments of `ADM`.
      qkv_ndim: 3 for readers of ADM, I2SB and DBIM files, 4 for DDBM's own code.

    Raises:
      ValueError: names or shapes differ from those of `ADM(**config)` (with a table).
    """
    flat: dict[tuple[str, ...], Any] = flatten_dict(dict(params))
    layout = torch_layout(config, qkv_ndim)
    found = {
        torch_name(path): _torch_shape(path, np.shape(a), qkv_ndim) for path, a in flat.items()
    }
    check_names(layout, found)
    arrays = {}
    for path, array in flat.items():
        array = np.asarray(array, np.float32)
        if path[-1] == "kernel":
            array = array.T if array.ndim == 2 else array.transpose(3, 2, 0, 1)
        name = torch_name(path)
        arrays[name] = np.ascontiguousarray(array).reshape(layout[name])
    return {name: arrays[name] for name in layout}


def check_names(
    expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], rows: int = 20
) -> None:
    """Compares names and shapes.

    Args:
      expected, found: name -> shape.
      rows: rows of the table at most, for each kind of difference.

    Raises:
      ValueError: a table of the missing, unexpected and misshapen names.
    """
    kinds = {
        "missing": [(n, expected[n], "-") for n in expected if n not in found],
        "unexpected": [(n, "-", found[n]) for n in found if n not in expected],
        "misshapen": [
            (n, expected[n], found[n])
            for n in expected
            if n in found and tuple(expected[n]) != tuple(found[n])
        ],
    }
    if not any(kinds.values()):
        return
    lines = [("", "name", "expected", "found")]
    for kind, entries in kinds.items():
        lines += [(kind, *map(str, entry)) for entry in entries[:rows]]
        if len(entries) > rows:
            lines.append((kind, f"... and {len(entries) - rows} more", "", ""))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    table = "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)
    counts = ", ".join(f"{len(entries)} {kind}" for kind, entries in kinds.items() if entries)
    raise ValueError(
        f"The weights do not fit this network: {counts} of {len(expected)} names; give the "
        f"configuration that the file was trained with.\n{table}"
    )


def infer_adm_config(
    state_dict: Mapping[str, np.ndarray], image_channels: int = 3, **known: Any
) -> Config:
    """Constructor arguments of `ADM`, read off the names and shapes of a state dict.

    Not in the shapes, hence taken from `known` or left at ADM's defaults: `head_channels` (or
    `num_heads`), `new_attention_order`, `dropout`.

    Args:
      state_dict: torch name -> array (only shapes are looked at).
      image_channels: channels of an image; an input of twice as many is x and xT.
      known: constructor arguments that are known better.

    Raises:
      ValueError: the names are not those of an ADM UNet.
    """
    shape = {name: np.shape(array) for name, array in state_dict.items()}
    try:
        channels = shape["time_embed.0.weight"][1]
        inputs = shape["input_blocks.0.0.weight"][1]
        outputs = shape["out.2.weight"][0]
        first = shape["input_blocks.1.0.in_layers.2.weight"][0]
        modulation = shape["input_blocks.1.0.emb_layers.1.weight"][0]
    except KeyError as missing:
        raise ValueError(
            f"This is no ADM UNet: the tensor {missing} is missing among {len(shape)} names "
            f"such as {', '.join(repr(n) for n in list(shape)[:3])}."
        ) from None
    if inputs not in (image_channels, 2 * image_channels):
        raise ValueError(
            f"The input convolution takes {inputs} channels, neither {image_channels} (x) nor "
            f"{2 * image_channels} (x and xT): give image_channels."
        )
    # There is one up block a level but one: a plain convolution, or a second residual block.
    blocks = 1 + max(int(n.split(".")[1]) for n in shape if n.startswith("input_blocks."))
    plain = any(re.fullmatch(r"input_blocks\.\d+\.0\.op\.weight", n) for n in shape)
    up = r"output_blocks\.\d+\.[12]\." + (r"conv\.weight" if plain else r"in_layers\.0\.weight")
    levels = 1 + sum(re.fullmatch(up, n) is not None for n in shape)
    num_res_blocks, rest = divmod(blocks - levels, levels)
    if rest or num_res_blocks < 1:
        raise ValueError(
            f"This is no ADM UNet: {blocks} input blocks cannot be {levels} levels of equal length."
        )
    mult, attention_ds = [], []
    for level in range(levels):
        i = 1 + level * (num_res_blocks + 1)
        width = shape.get(f"input_blocks.{i}.0.in_layers.2.weight", (channels,))[0]
        mult.append(width // channels if width % channels == 0 else width / channels)
        if f"input_blocks.{i}.1.qkv.weight" in shape:
            attention_ds.append(2**level)
    config = {
        "in_channels": image_channels,
        "out_channels": outputs,
        "model_channels": channels,
        "num_res_blocks": num_res_blocks,
        "channel_mult": tuple(mult),
        "attention_ds": tuple(attention_ds),
        "scale_shift_norm": modulation == 2 * first,
        "resblock_updown": not plain,
        "num_classes": shape.get("label_emb.weight", (0,))[0],
        "conditional": inputs == 2 * image_channels,
        "z_channels": shape.get("z_in.weight", (0, 0))[1],
    }
    if "num_heads" in known:  # else their width, which has a default, would go first
        config["head_channels"] = None
    return {**config, **known}


def abstract_params(config: Config) -> dict:
    """The parameters of `ADM(**config)` as shapes; not to be changed."""
    net: Any = ADM(**config)  # hashable, as flax makes it, which its declarations do not say
    return _traced_params(net)


@functools.lru_cache(maxsize=4)
def _traced_params(net: ADM) -> dict:
    """By tracing alone, which takes seconds for a large network; an import asks several times."""
    size = 2 ** (len(net.channel_mult) - 1)
    image = jnp.zeros((1, size, size, net.in_channels))
    z = jnp.zeros((1, size, size, net.z_channels))
    label = jnp.zeros((1,), jnp.int32)
    key = jax.random.key(0)
    return jax.eval_shape(net.init, key, image, jnp.zeros(1), image, z, label)["params"]


def _torch_shape(path: tuple[str, ...], shape: tuple[int, ...], qkv_ndim: int) -> tuple[int, ...]:
    if path[-1] != "kernel":
        return tuple(shape)
    if len(shape) == 2:
        pointwise = qkv_ndim - 2 if path[-2] in ("qkv", "proj_out") else 0
        return (*shape[::-1], *(1,) * pointwise)
    return (shape[3], shape[2], *shape[:2])


def _rank(name: str) -> list[int]:
    return [int(p) if p.isdigit() else _ORDER.index(p) for p in name.split(".")]
