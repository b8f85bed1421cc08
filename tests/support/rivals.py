"""Baselines of a comparison at toy size: their configurations and systems, and exact laws of their samplers."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jax_bridges.training.methods import PAIR_METHODS, find_method
from jax_bridges.training.methods.pairs import of_pair_method
from jax_bridges.training.system import System
from tests.support.toy import Pointwise, pointwise, small_config

# x_T ~ N(0, 1), x_0 | x_T ~ N(R x_T, S2): the pair of Gaussians of all their closed forms.
R, S2 = 0.8, 0.36


def rival_config(name: str, **changes) -> ConfigDict:
    """`of_pair_method` of a tiny run whose task suits the method."""
    part, method = f"baselines.{name}", PAIR_METHODS[name]
    config = small_config(**{"baselines.batch": 4, f"{part}.steps": 4})
    for key in method.optimizers(config.baselines[name]):  # so that a first step moves
        config.baselines[name][key].update(dict(warmup=0, learning_rate=1e-3))
    if (
        name == "ddib"
    ):  # a pointwise network takes the root of its time, which is no logarithm's then
        config.baselines.ddib.preconditioning = "unit_variance"
    for key in [key for key in changes if isinstance(changes[key], dict)]:  # a part as a whole
        config[key] = ConfigDict(changes.pop(key))
    config.update_from_flattened_dict(changes)
    return of_pair_method(method, config)


def rival(name: str, width: int = 8, **changes):
    """(method, its settings, a system with pointwise networks, which see x_T where its own do)."""
    config = rival_config(name, **changes)
    method, settings = find_method(config.distill)
    system = System.create(config)
    networks = pointwise(system, width).networks
    for player, network in networks.items():
        if isinstance(network, Pointwise):
            conditional = system.networks[player].conditional
            networks[player] = network.clone(conditional=conditional)
    return method, settings, dataclasses.replace(system, networks=networks)


def law_of(sample, draws: int) -> tuple[float, float]:
    """(slope in x_T, variance) of a sampler that is linear in x_T and its noise, exactly.

    Args:
      sample: `sample(xT, keys) -> x0`; example k gets a noise of 1 at draw k alone.
    """

    def keys(draw):
        return (jnp.arange(draws + 1) == draw).astype(float)[:, None, None, None]

    xT = jnp.zeros((draws + 1, 1, 1, 1)).at[draws].set(1.0)
    answer = np.asarray(jax.jit(lambda x: sample(x, keys))(xT)).reshape(-1)
    return float(answer[draws]), float((answer[:draws] ** 2).sum())
