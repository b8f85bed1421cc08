"""Released checkpoints, one importer for each family: contents of a file -> (config, params).

`config` holds the constructor arguments of `ADM`, `params` its float32 parameters. The importers
take what `io.torch_file.read_torch` returns: dicts and lists of numpy arrays. What a file does not say
(channel order of attention, head width, dropout) comes from the family (of OpenAI's networks from
their levels) and can be overridden.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from typing import Any

import numpy as np

from jax_bridges.import_torch.names import (
    Config,
    infer_adm_config,
    torch_layout,
    torch_to_flax,
    unwrapped,
)
from jax_bridges.models.adm import CHANNEL_MULT

_I2SB_PREFIX = "diffusion_model."
_HEADS = {"head_channels", "num_heads"}
# The flags that OpenAI's networks were trained with (README of guided-diffusion), by their levels.
_OPENAI = {
    CHANNEL_MULT[64]: {"head_channels": 64, "new_attention_order": True, "dropout": 0.1},
    CHANNEL_MULT[128]: {"head_channels": None, "num_heads": 4},
    CHANNEL_MULT[256]: {"head_channels": 64},
    CHANNEL_MULT[512]: {"head_channels": 64},
}


def import_i2sb(checkpoint: Mapping[str, Any], weights: str = "ema", **known: Any):
    """I2SB's `latest.pt`: `{"net": ..., "ema": {"shadow_params": [...]}, ...}`.

    Args:
      checkpoint: contents of the file. Names of "net" begin with `diffusion_model.`; the EMA
        weights have no names and are matched by their position in torch's parameter order.
      weights: "ema" (what I2SB samples with) or "net".
      known: constructor arguments of `ADM` that differ from what was inferred.

    Returns:
      `(config, params)`.

    Raises:
      ValueError: not such a file, an EMA list that does not fit, or see `torch_to_flax`.
    """
    if weights not in ("ema", "net"):
        raise ValueError(f"Unknown weights '{weights}': choose 'ema' or 'net'.")
    for key in ("net", weights):
        if key not in checkpoint:
            raise ValueError(f"This is no I2SB file: it has no '{key}', only {_some(checkpoint)}.")
    net = unwrapped(checkpoint["net"], _I2SB_PREFIX)
    config = infer_adm_config(net, **known)
    if weights == "net":
        return config, torch_to_flax(net, config)

    layout = torch_layout(config)
    if "shadow_params" not in checkpoint["ema"]:
        raise ValueError(
            f"The EMA of this file has no 'shadow_params', only {_some(checkpoint['ema'])}: "
            "take weights='net'."
        )
    shadows = checkpoint["ema"]["shadow_params"]
    shapes = [tuple(np.shape(array)) for array in shadows]
    if len(shadows) != len(layout):
        raise ValueError(
            f"The EMA list holds {len(shadows)} tensors, but the network has {len(layout)}, and "
            "they can only be matched by position: take weights='net' or another file."
        )
    for position, (name, shape) in enumerate(layout.items()):
        if shapes[position] != shape:
            raise ValueError(
                f"EMA tensor {position} has shape {shapes[position]}, but '{name}' {shape} belongs "
                "there: the list is not in the network's order, take weights='net'."
            )
    return config, torch_to_flax(dict(zip(layout, shadows, strict=True)), config)


def import_ddbm(state_dict: Mapping[str, np.ndarray], **known: Any):
    """DDBM's `*_ema_*.pt`: a flat state dict of EMA weights, 1x1 convolutions with 4 dimensions.

    Attention is in the new channel order with heads of 64, dropout 0.1 (edges2handbags, DIODE).
    `known`, returns and raises: as `import_i2sb`.
    """
    family = {"new_attention_order": True, "dropout": 0.1}
    return _import_flat(state_dict, {**family, **known})


def import_dbim(state_dict: Mapping[str, np.ndarray], **known: Any):
    """DBIM's `*_ema_*.pt`: a flat state dict of EMA weights, legacy attention order, heads of 64.

    For DDBM's two networks in DBIM's format use `import_ddbm`.
    `known`, returns and raises: as `import_i2sb`.
    """
    return _import_flat(state_dict, known)


def import_adm(
    state_dict: Mapping[str, np.ndarray],
    out_channels: int = 3,
    condition: str = "none",
    seed: int = 0,
    **known: Any,
):
    """OpenAI's `256x256_diffusion{,_uncond}.pt` and the like, as the start of a bridge model.

    Args:
      state_dict: contents of the file. How its heads of attention lie, which no tensor shows, its
        levels tell: of 64, 128, 256 or 512 pixels; of other networks it must be `known`.
      out_channels: the output convolution is cut to its first channels (3 drops the variance).
      condition: how the input convolution takes x_T. "none": it does not; "duplicate": the same
        weights once more (DBIM); "extend": fresh random weights (I2SB's `cond_x1`).
      seed: of the fresh weights.
      known: constructor arguments of `ADM` that differ from what was inferred.

    Returns:
      `(config, params)`.

    Raises:
      ValueError: unknown condition, more output channels than the file has, heads that nobody tells,
        or see `torch_to_flax`.
    """
    if condition not in ("none", "duplicate", "extend"):
        raise ValueError(
            f"Unknown condition '{condition}': choose one of 'none', 'duplicate', 'extend'."
        )
    state_dict = unwrapped(state_dict)
    config = infer_adm_config(state_dict, **known)
    config |= _published_facts(config, known)
    if config["conditional"] and condition != "none":
        raise ValueError(
            f"This network already takes x_T: import it with condition='none', not '{condition}'."
        )
    if out_channels > config["out_channels"]:
        raise ValueError(
            f"out_channels is {out_channels}, but the file has only {config['out_channels']}."
        )
    for name in ("out.2.weight", "out.2.bias"):
        state_dict[name] = state_dict[name][:out_channels]
    if condition != "none":
        first = state_dict["input_blocks.0.0.weight"]
        added = first
        if condition == "extend":  # torch's own initialisation of the widened convolution
            bound = 1 / sqrt(2 * first[0].size)
            added = np.random.default_rng(seed).uniform(-bound, bound, first.shape)
        widened = np.concatenate([first, added.astype(first.dtype)], axis=1)
        state_dict["input_blocks.0.0.weight"] = widened
    config |= {
        "out_channels": out_channels,
        "conditional": config["conditional"] or condition != "none",
    }
    return config, torch_to_flax(state_dict, config)


def _published_facts(config: Config, known: Mapping[str, Any]) -> Config:
    """What no tensor of OpenAI's networks shows, by their levels, without what is known better.

    Raises:
      ValueError: levels of none of them, and nobody says how wide the heads of attention are.
    """
    facts = _OPENAI.get(tuple(config["channel_mult"]))
    if facts is None and not known.keys() & _HEADS:
        raise ValueError(
            f"Its levels, {config['channel_mult']}, are those of none of OpenAI's networks, and no tensor "
            "shows how many heads its attention has: give head_channels or num_heads (on the command "
            "line --set=head_channels=64), and new_attention_order if it was trained with it."
        )
    given = known.keys() | (_HEADS if known.keys() & _HEADS else set())
    return {key: value for key, value in (facts or {}).items() if key not in given}


def _import_flat(state_dict: Mapping[str, np.ndarray], known: Mapping[str, Any]):
    state_dict = unwrapped(state_dict)
    config = infer_adm_config(state_dict, **known)
    return config, torch_to_flax(state_dict, config)


def _some(mapping: Mapping) -> str:
    names = [f"'{name}'" for name in mapping]
    return (
        ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        or "nothing"
    )


# Family name -> importer of the contents of a file.
FAMILIES = {"i2sb": import_i2sb, "ddbm": import_ddbm, "dbim": import_dbim, "adm": import_adm}
