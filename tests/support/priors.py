"""Toy priors that learn from observations: systems of pointwise networks, and batches of what they see."""

from __future__ import annotations

import dataclasses
import functools

import jax
import numpy as np
from ml_collections import ConfigDict

from jax_bridges.corruptions import make_corruption
from jax_bridges.data import Observations
from jax_bridges.training.methods import PRIOR_METHODS
from jax_bridges.training.methods.prior import Task
from jax_bridges.training.system import System
from tests.support.toy import image_batch, optimizer_config, pointwise, small_config

KEY = jax.random.key(3)
NOISY = Task(make_corruption("identity"), 0.4, (8, 8))
TASKS = {
    "ambient": Task(make_corruption("inpaint_random", share=0.5), 0.1, (8, 8)),
    "sure": NOISY,
    "tweedie": NOISY,
}


def prior_config(name: str, **changes) -> ConfigDict:
    """A tiny run of a prior on EDM's levels, for the method `name`."""
    config = small_config(**changes)
    config.corruption = ConfigDict({"name": "identity"})
    config.keep_known = False
    config.bridge = ConfigDict({"name": "edm", "T": 10.0, "t_min": 0.01})
    config.preconditioning = ConfigDict({"name": "none" if name == "ambient" else "unit_variance"})
    config.network.conditional = PRIOR_METHODS[name].told
    config.train.times = "towards_clean"
    config.train.steps = 10
    config.train.optimizer = optimizer_config()
    return config


def prior_system(name: str, **changes) -> tuple[System, ConfigDict]:
    """Pointwise networks, that of a method whose network is told a mask too."""
    config = prior_config(name, **changes)
    system = pointwise(System.create(config), width=8)
    net = dataclasses.replace(system.teacher, conditional=config.network.conditional)
    return dataclasses.replace(system, networks=system.networks | {"teacher": net}), config


class _Images:
    """Random images of 8x8 pixels."""

    name = "images"

    def __len__(self):
        return 64

    def __getitem__(self, i):
        return {"x0": image_batch(1, i)["x0"][0]}


@functools.cache
def observed(name: str) -> Observations:
    """What the method `name` sees of them."""
    task = TASKS[name]
    return Observations(_Images(), task.corruption, task.sigma_y, jax.random.key(7))


def observations(name: str, count: int, start: int) -> dict[str, np.ndarray]:
    """A batch, as a `Loader` gives it."""
    each = [observed(name)[i % 64] for i in range(start, start + count)]
    batch = {k: np.stack([one[k] for one in each]) for k in each[0]}
    return batch | {"index": np.arange(start, start + count, dtype=np.uint32)}
