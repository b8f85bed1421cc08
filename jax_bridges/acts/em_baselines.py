"""Priors that stand beside the rounds of EM in its table: of other images, or by losses of their own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from ml_collections import ConfigDict

from jax_bridges.acts.em_rounds import Parts, make_stage, pseudo_inverses, stage_name, stage_of
from jax_bridges.bridges import Levels
from jax_bridges.corruptions import make_corruption
from jax_bridges.data import Estimates
from jax_bridges.data.source import Source
from jax_bridges.stages.run import Run, Stage
from jax_bridges.training.methods import PRIOR_METHODS
from jax_bridges.training.methods.prior import PriorMethod, Task, make_prior_step
from jax_bridges.training.optimizers import make_optimizer
from jax_bridges.training.system import System
from jax_bridges.zero_shot import Method


@dataclasses.dataclass(frozen=True)
class Baseline:
    """One of `config.em.baselines`.

    Attributes:
      name: in the table, and of its stage.
      run: the run, with the configuration and the system that it needs, and what its step is planned for
        as the training data.
      stage: that trains the player "teacher".
      method: how it learns; None: by bridge matching, as a round does.
      task: what it sees of every image.
    """

    name: str
    run: Run
    stage: Stage
    method: PriorMethod | None
    task: Task

    @property
    def settings(self):
        """Of its method."""
        return self.run.config.em.get(self.name)

    @property
    def told(self) -> bool:
        """Its network is told which pixels it sees."""
        return self.method is not None and self.method.told

    def levels(self, levels: Levels) -> Levels:
        """Those among a sampler's levels at which it was trained."""
        if self.method is None:
            return levels
        return self.method.levels(self.run.system.bridge, levels, self.task.sigma_y)

    def solver(self, usual: Method) -> Method:
        """What restores with it: as with the rounds, or by a solver of its own, on as many levels."""
        its = dataclasses.replace(usual, levels=self.levels(usual.levels))
        if self.method is None or self.method.solver is None:
            return its
        knobs = {"settings": self.settings, "task": self.task}
        return dataclasses.replace(its, solver=self.method.solver, knobs=knobs)


def baseline_steps(config: ConfigDict) -> int:
    """Updates of a baseline: `em.baseline_steps`, or those of the first prior and of all rounds that inherit
    its weights."""
    inherited = config.em.rounds - config.em.reset_rounds + (config.em.init != "gaussian")
    return config.em.baseline_steps or config.train.steps * max(inherited, 1)


def baseline(run: Run, parts: Parts, name: str) -> Baseline:
    """The baseline `name` and how it is trained."""
    config = run.config.copy_and_resolve_references()
    task = Task(make_corruption(**config.em.operator), config.em.sigma_y, run.system.size)
    method = PRIOR_METHODS.get(name)
    config.train.steps = baseline_steps(config)
    if method is not None and method.told:
        config.network.conditional = True
        # A skip would hand on holes, and what is added to it is small where there is little noise.
        config.preconditioning = {"name": "scaled_input"}
    images: dict[str, Callable[[], Source]] = {
        "upper": parts.truth,  # the bound that no method can pass
        "pinv": lambda: pseudo_inverses(task.corruption, parts.observed),
    }
    data = images.get(name, lambda: parts.observed)
    blank = np.zeros((1, *run.system.size, run.system.channels), np.float16)
    like = parts.observed if method is not None else Estimates(parts.observed.name, blank)
    its = dataclasses.replace(
        run, config=config, system=System.create(config), train_data=like, programs={}
    )
    stage = stage_of(make_stage(its), stage_name(name), 0, data)
    if method is not None:
        optimizer = make_optimizer(config.train.optimizer, config.train.steps)
        settings = config.em.get(name)
        step = make_prior_step(method, its.system, config.train, settings, task, optimizer)
        stage = dataclasses.replace(stage, step=its.parallel.step(step))
    return Baseline(name, its, stage, method, task)
