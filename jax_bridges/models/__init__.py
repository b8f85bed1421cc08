"""Networks. `MODELS` maps a name to a flax module; add one in a file and a line here."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from jax_bridges.choices import choose, look_up
from jax_bridges.models.adm import ADM
from jax_bridges.models.patch import PatchCritic
from jax_bridges.models.unet import UNet

MODELS = {"unet": UNet, "adm": ADM}
# Settings that are no configuration's but a player's: what it sees beside x_t, the time and x_T.
INPUTS = ("z_channels", "mark_channels")
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def make_network(name: str, *, dtype: str = "float32", **settings) -> Any:
    """Builds a network by name; `dtype` is that of the computation, "float32" or "bfloat16"."""
    frozen = {k: tuple(v) if isinstance(v, (list, tuple)) else v for k, v in settings.items()}
    return choose("network", MODELS, name, {**frozen, "dtype": look_up("dtype", DTYPES, dtype)})


def mask_input(network: Any, mask: Any) -> dict[str, Any]:
    """What `network.apply` is told of the hole: `mask` `[B, H, W, 1]`, where it sees it."""
    return {"mask": mask} if getattr(network, "sees_mask", False) else {}


def network_settings(network: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of `config.network`, with `make_network`'s defaults for those that it leaves out.

    Raises ValueError for a network that has no name, or an unknown one.
    """
    if "name" not in network:
        raise ValueError(f"network.name is missing: it is one of {', '.join(MODELS)}.")
    known = inspect.signature(look_up("network", MODELS, network["name"])).parameters
    defaults = {k: p.default for k, p in known.items() if k not in ("name", "parent")}
    return {**defaults, "dtype": "float32", **network}


def portable(network: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a network that was trained elsewhere, without what one kind of device alone has."""
    own = {"attention": "auto"} if network["name"] == "adm" else {}
    return {**network, **own}


__all__ = [
    "ADM",
    "DTYPES",
    "INPUTS",
    "MODELS",
    "PatchCritic",
    "UNet",
    "make_network",
    "mask_input",
    "network_settings",
    "portable",
]
