"""Rows of a comparison that a diffusion prior makes: zero-shot solvers on the bridges' own task."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jax_bridges.corruptions import Corruption, LinearOperator, keep_known
from jax_bridges.metrics import PROTOCOLS
from jax_bridges.stages.jobs import Job
from jax_bridges.stages.prior import complete_prior
from jax_bridges.stages.run import Run
from jax_bridges.stages.solving import Problem, map_solver
from jax_bridges.stages.teacher import load_teacher, teacher_record
from jax_bridges.training.system import Pair, System, image_size
from jax_bridges.typing import Array
from jax_bridges.zero_shot import Method, applicable, make_method

NAME = "prior"


def measurement(corruption: Corruption, pair: Pair) -> tuple[LinearOperator, Array, float]:
    """(operator, y, sigma_y) that say what x_T says of x_0, without what fills its hole."""
    operator = corruption.operator(pair.mask)
    y = pair.xT if operator.noisy else operator.forward(pair.x0)
    return operator, y, operator.noise


def check_prior(config: ConfigDict, labels: bool) -> ConfigDict | None:
    """The configuration of the prior in `compare.prior`; None where there is none.

    Args:
      config: of the comparison.
      labels: whether its images have classes.

    Raises:
      FileNotFoundError: the folder has no weights.
      ValueError: it holds no prior, or one that does not fit the images.
    """
    path = config.compare.prior
    if not path:
        return None
    prior = complete_prior(teacher_record(path)[0], path, config.data.size)
    ours, its = image_size(config.data.size), image_size(prior.data.size)
    if ours != its:
        raise ValueError(
            f"compare.prior={path} was trained on {its[0]}x{its[1]} pixels, and data.size is "
            f"{ours[0]}x{ours[1]}: they must be the same."
        )
    if prior.network.get("num_classes", 0) and not labels:
        raise ValueError(
            f"compare.prior={path} is told the class of an image, and the data have no labels: set "
            "data.classes or data.label_key, or take an unconditional prior."
        )
    return prior


def prior_jobs(run: Run, labels: bool) -> list[Job]:
    """A row for each of `compare.prior_methods` that suits the task; none without `compare.prior`."""
    config, path = run.config.compare, run.config.compare.prior
    prior = check_prior(run.config, labels)
    if prior is None:
        return []
    system = System.create(prior)
    params = load_teacher(dataclasses.replace(run, system=system), path)
    corruption, jobs = run.system.corruption, []
    operator = corruption.operator(np.zeros((1, *run.system.size, 1)))
    for name in config.prior_methods:
        settings = prior.zero_shot.settings.get(name, {})
        method = make_method(name, system.bridge, settings, config.prior_nfe)
        if applicable(method.solver, operator, operator.noise):
            shown = method.nfe and not any(
                job.label for job in jobs
            )  # one of them, for the pictures
            label = f"{NAME} {name} {method.nfe}" if shown else ""
            make = partial(prior_sampler, run, system, method)
            jobs.append(Job(NAME, name, method.nfe, make, params, label))
    return jobs


def prior_sampler(run: Run, system: System, method: Method) -> Callable[..., Any]:
    """`sample(params, batch, key) -> [B, H, W, C]` of a prior, kept as the protocol has it.

    Images, corruption and its keys are the run's; known pixels are the given ones where
    `keep_known` says so.

    Args:
      system: of the prior.
    """
    keep = PROTOCOLS[run.config.evaluate.protocol].keep

    def pose(params, batch, key) -> Problem:
        pair = run.system.prepare(batch, key, augment=False)
        operator, y, sigma_y = measurement(run.system.corruption, pair)
        predict = system.denoiser(params, Pair(pair.x0, pair.x0, None, pair.keys, pair.label))
        keys = pair.sampling_keys
        return Problem(lambda x, t: predict(x, t, x), operator, y, sigma_y, keys, told=pair)

    def finish(x, problem):
        pair = problem.told
        x = jnp.asarray(x, jnp.float32)
        return keep(keep_known(x, pair.x0, pair.mask) if run.system.keep_known else x)

    return map_solver(run.parallel, method, pose, finish)
