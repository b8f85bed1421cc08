"""Priors that stand beside the rounds of EM: trained as the teacher is, on other data or by another loss."""

from __future__ import annotations

import dataclasses

from jax_bridges.data import Inverted, Observations, Source
from jax_bridges.stages.run import Run, Stage
from jax_bridges.stages.train import train
from jax_bridges.training.methods import PRIOR_METHODS
from jax_bridges.training.methods.prior import PriorMethod, Task, make_prior_step
from jax_bridges.training.optimizers import make_optimizer
from jax_bridges.training.system import System


@dataclasses.dataclass(frozen=True)
class Baseline:
    """A prior to be trained, or trained.

    Attributes:
      name: one of `training.methods.BASELINES`.
      run: the run with the configuration and system that it needs.
      stage: that trains the player "teacher".
      method: the way, where it is not bridge matching.
    """

    name: str
    run: Run
    stage: Stage
    method: PriorMethod | None


@dataclasses.dataclass(frozen=True)
class Sources:
    """What priors can be trained on: observations, the few images that are clean, and all of them clean."""

    observed: Observations
    clean: Source
    upper: Source


def check_baselines(config, task: Task) -> None:
    """Refuses `em.baselines` that cannot be trained on what is observed.

    Raises:
      ValueError: names the baseline, what it needs and what to do.
    """
    for name in config.em.baselines:
        if name in PRIOR_METHODS:
            PRIOR_METHODS[name].check(config.em.get(name), task)


def baseline(run: Run, name: str, task: Task, sources: Sources) -> Baseline:
    """The stage `em_NAME`, of `em.baseline_steps` updates.

    Args:
      run: of a diffusion prior.
      name: one of `training.methods.BASELINES`.
      task: how `sources.observed` were made.
    """
    method = PRIOR_METHODS.get(name)
    config = run.config.copy_and_resolve_references()
    config.train.steps = config.em.baseline_steps
    if method is not None and method.told:
        config.network.conditional = True
        config.preconditioning = {"name": "none"}
    data = {
        "pinv": Inverted(sources.observed, task.corruption),
        "clean": sources.clean,
        "upper": sources.upper,
    }.get(name, sources.observed)
    system = System.create(config)
    its = dataclasses.replace(run, config=config, system=system, train_data=data, programs={})
    stage = dataclasses.replace(train(its), name=f"em_{name}", data=lambda run: data)
    if method is not None:
        optimizer = make_optimizer(config.train.optimizer, config.train.steps)
        settings = config.em.get(name)
        step = make_prior_step(method, system, config.train, settings, task, optimizer)
        stage = dataclasses.replace(stage, step=its.parallel.step(step))
    return Baseline(name, its, stage, method)
