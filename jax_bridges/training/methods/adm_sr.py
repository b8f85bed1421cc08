"""ADM as an upsampler: a diffusion that is told the small image, smoothly enlarged (arXiv 2105.05233)."""

from __future__ import annotations

import dataclasses
from functools import partial

import numpy as np
from ml_collections import ConfigDict

from jax_bridges.bridges import DDPM, Bridge
from jax_bridges.corruptions import bilinear
from jax_bridges.keys import Keys
from jax_bridges.samplers.levels import level_steps
from jax_bridges.training.methods.base import Grid
from jax_bridges.training.methods.pairs import PairMethod
from jax_bridges.training.methods.palette import (
    CONDITIONAL,
    check_levels,
    conditional_network,
    make_conditional,
    sample_conditional,
)
from jax_bridges.training.system import Pair, System
from jax_bridges.typing import Array, Denoiser, PyTree


def enlarged(pair: Pair, factor: int) -> Pair:
    """The pair with x_T interpolated: its small image is every `factor`-th pixel of what repeats pixels."""
    return dataclasses.replace(pair, xT=bilinear(pair.xT[:, ::factor, ::factor], factor))


def _view(
    system: System, params: PyTree, pair: Pair, dropout: Array | None = None
) -> tuple[Denoiser, Pair]:
    pair = enlarged(pair, system.corruption.enlarges)
    return system.denoiser(params, pair, "generator", dropout=dropout), pair


def _exchange(config: ConfigDict, settings) -> None:
    config.bridge = ConfigDict({"name": "ddpm"})
    conditional_network(config, settings)


def _why_not(config: ConfigDict, settings) -> str:
    del settings
    if config.corruption.name != "superres":
        return f"it enlarges small images, and '{config.corruption.name}' makes none"
    return ""


def _grid(bridge: Bridge, nfe: int, settings) -> np.ndarray:
    del settings
    assert isinstance(bridge, DDPM)
    return level_steps(bridge.levels(nfe, "respaced"))


def _sample(
    system: System,
    params: PyTree,
    pair: Pair,
    nfe: int,
    keys: Keys,
    settings,
    clip: bool = False,
    grid: Grid | None = None,
) -> Array:
    del clip
    denoise, pair = _view(system, params, pair)
    steps = (_grid(system.bridge, nfe, settings), None) if grid is None else grid
    return sample_conditional(denoise, pair, keys, settings, steps)


ADM_SR = PairMethod(
    name="adm_sr",
    networks=lambda settings: {"generator": {}},
    make=lambda system, settings: make_conditional(system, settings, partial(_view, system)),
    batch_shape=lambda settings: (settings.batch,),
    sample=_sample,
    grid=_grid,
    check=partial(check_levels, "adm_sr", 1000),
    calls=lambda settings: 3,
    sampler="adm_sr",
    settings=CONDITIONAL,
    exchange=_exchange,
    why_not=_why_not,
    budgets=lambda settings: tuple(settings.nfe),
)
