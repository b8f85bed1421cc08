"""A diffusion prior that is there already, a run's or an imported ADM, and its classifier guidance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from jax_bridges.bridges import BRIDGES, Bridge, make_bridge
from jax_bridges.config import base_config
from jax_bridges.import_torch.classifier import read_classifier
from jax_bridges.models import portable
from jax_bridges.models.adm import CHANNEL_MULT
from jax_bridges.models.classifier import ADMClassifier
from jax_bridges.typing import Array, PyTree
from jax_bridges.zero_shot import guided_denoiser

# What OpenAI's networks were trained with: 1000 linear betas, the noise predicted.
_ADM = {"bridge": {"name": "ddpm"}, "preconditioning": {"name": "epsilon"}, "keep_known": False}


def is_prior(recorded: Mapping[str, Any]) -> bool:
    """Whether a recorded configuration is that of a diffusion prior."""
    if "bridge" not in recorded:
        return recorded.get("source", {}).get("family") == "adm"
    name = recorded["bridge"].get("name")
    return name in BRIDGES and make_bridge(**recorded["bridge"]).prior


def as_prior(recorded: Mapping[str, Any], path: str) -> dict[str, Any]:
    """The recorded configuration of a prior, with the bridge and scaling of an imported ADM filled in.

    Raises:
      ValueError: it is a bridge between images, or a network that these noise levels do not fit.
    """
    if not is_prior(recorded):
        name = recorded.get("bridge", {}).get("name", "?")
        raise ValueError(
            f"{path} holds a bridge between images (bridge.name is '{name}'), no diffusion prior: give "
            "the WORKDIR of a run of configs/zero_shot.py, or of an import with --as=adm."
        )
    if "bridge" in recorded:
        return dict(recorded)
    network = recorded["network"]
    if network.get("conditional"):
        raise ValueError(
            f"{path} was imported with --condition, to see x_T: for a prior import it without."
        )
    if tuple(network["channel_mult"]) == CHANNEL_MULT[64]:
        raise ValueError(
            f"{path} is ADM's network of 64x64 pixels, which was trained with a cosine schedule of noise "
            "that there is not here: take one of 128, 256 or 512 pixels."
        )
    return {**recorded, **_ADM}


def complete_prior(recorded: Mapping[str, Any], path: str, size=None) -> ConfigDict:
    """A configuration from which `System.create` makes the prior.

    Args:
      recorded: beside its weights.
      path: for messages.
      size: of its images, for imports, which do not record it.

    Raises:
      ValueError: see `as_prior`; or no size, or one that differs from what is recorded.
    """
    recorded = as_prior(recorded, path)
    full = base_config().to_dict()
    for part in ("network", "bridge", "preconditioning"):
        full[part] = dict(recorded[part])
    full["network"] = portable(full["network"])
    full["zero_shot"] |= recorded.get("zero_shot", {})
    full["corruption"], full["keep_known"] = {"name": "identity"}, False
    full["task"] = recorded.get("task", "adm")
    full["data"]["size"] = recorded["data"]["size"] if "data" in recorded else size
    return ConfigDict(full)


def open_classifier(file: str, bridge: Bridge, size: tuple[int, int]) -> tuple[Any, PyTree]:
    """OpenAI's classifier of noisy images in `file`: network and parameters, for a prior of this size.

    Raises:
      FileNotFoundError, ValueError: one sentence.
    """
    if bridge.table != 1000:
        raise ValueError(
            "A classifier's noise levels are DDPM's 1000: it cannot guide a prior of another bridge."
        )
    network, params, side = read_classifier(file)
    if (side, side) != tuple(size):
        raise ValueError(
            f"{file} is for images of {side}x{side}, the prior's are {size[1]}x{size[0]}."
        )
    return network, params


def guide(
    denoise,
    network: ADMClassifier,
    params: PyTree,
    label: Array | None,
    bridge: Bridge,
    scale: float,
):
    """`denoise(x_t, t)` guided towards classes `label` `[B]` by a classifier (zero_shot/guidance.py).

    Raises:
      ValueError: there are no labels.
    """
    if label is None:
        raise ValueError(
            "A classifier guides towards the images' classes, and they have no labels."
        )

    def log_prob(x: Array, t: Array) -> Array:
        odds: Any = network.apply({"params": params}, x, bridge.index(t).astype(x.dtype))
        return jnp.take_along_axis(jax.nn.log_softmax(odds), label[:, None], -1)[:, 0]

    return guided_denoiser(denoise, log_prob, bridge, scale)
