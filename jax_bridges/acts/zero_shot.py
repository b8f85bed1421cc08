"""A run of a diffusion prior: train it (or take one), then restore every task by every method.

There is no student: one unconditional model serves all tasks, whose operators it has never seen.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jax_bridges.corruptions import Corruption, LinearOperator, make_corruption
from jax_bridges.keys import SampleStream, Stream, fold
from jax_bridges.metrics import PROTOCOLS
from jax_bridges.planning.plan import plan_stages
from jax_bridges.report.published import published_rows
from jax_bridges.report.row import Row
from jax_bridges.stages.evaluate import evaluate, row_settings
from jax_bridges.stages.held_out import chosen, watch
from jax_bridges.stages.jobs import Job
from jax_bridges.stages.prior import guide, open_classifier
from jax_bridges.stages.run import Run, train_stage
from jax_bridges.stages.solving import Problem, map_solver
from jax_bridges.stages.teacher import load_teacher
from jax_bridges.stages.train import train
from jax_bridges.training.system import Pair
from jax_bridges.typing import Array, PyTree
from jax_bridges.zero_shot import Method, applicable, make_method, measure


def zero_shot(run: Run, begin: Callable[[], None]) -> None:
    """Trains the prior (or reads `teacher.checkpoint`) and evaluates `zero_shot_jobs`.

    Args:
      begin: makes the work directory; called when nothing is left that could refuse the run.

    Raises:
      ValueError: several hosts, a prior that cannot fit, or a classifier that cannot be read.
      Stopped, Diverged: see stages/run.py.
    """
    config = run.config
    if run.parallel.hosts > 1:
        raise ValueError("zero_shot.tasks run on one host: start them without the others.")
    classifier, weights = None, None  # the network, its parameters
    which = ""
    if config.zero_shot.classifier:
        place = (config.zero_shot.classifier, run.system.bridge, run.system.size)
        classifier, weights = open_classifier(*place)
    if config.teacher.checkpoint:
        prior = load_teacher(run, config.teacher.checkpoint)
        plan_stages(run, [])
        begin()
    else:
        stage = train(run)
        plan_stages(run, [(run, stage)])
        begin()
        last = train_stage(run, stage, lambda state, step: None, watch(run, stage))
        prior, which = chosen(run, stage, last)
    jobs = zero_shot_jobs(run, (prior, weights), classifier)
    told = settings(config)
    papers = partial(of_papers, run)
    evaluate(run, jobs, told, name="zero_shot", published=papers, weights_of=which)


def settings(config: ConfigDict) -> str:
    """What the rows depend on."""
    return json.dumps([row_settings(config), json.loads(config.zero_shot.to_json_best_effort())])


def zero_shot_jobs(run: Run, params: PyTree, classifier: Any = None) -> list[Job]:
    """All rows of the table, in the order of `zero_shot.tasks` and `zero_shot.methods`.

    Args:
      params: (averaged parameters of the prior, those of the classifier or None).
      classifier: its network.

    Returns:
      Jobs whose model is the task and whose sampler is the method.
    """
    config, jobs = run.config.zero_shot, []
    for task, its in config.tasks.items():
        corruption = make_corruption(**its.operator)
        operator = corruption.operator(np.zeros((1, *run.system.size, 1)))  # of any mask
        for name in config.methods:
            method = make_method(name, run.system.bridge, config.settings.get(name, {}), config.nfe)
            if applicable(method.solver, operator, its.sigma_y):
                make = partial(restorer, run, corruption, its.sigma_y, method, classifier)
                solver = method.solver.name
                jobs.append(Job(task, solver, method.nfe, make, params, solver, task))
    return jobs


def restorer(
    run: Run,
    corruption: Corruption,
    sigma_y: float,
    method: Method,
    classifier: Any = None,
    *,
    tells_source: bool = False,
) -> Callable:
    """`sample(params, batch, key) -> (images [B, H, W, C], |A x0_hat - y| [B])`.

    params are the prior's, and the classifier's where `classifier`, its network, is given.
    Images are as `evaluate.protocol` keeps them. The misfit is the root mean square over all of y
    in units of [-1, 1], before x0_hat is rounded and clipped to pixels.

    Args:
      corruption: linear, or linear once its mask is known, which is then each image's own.
      tells_source: the solver itself says what the network is told as x_T.
    """
    system, keep = run.system, PROTOCOLS[run.config.evaluate.protocol].keep

    def pose(params, batch, key) -> Problem:
        pair, operator, y = measured(run, corruption, sigma_y, batch, key)
        predict = system.denoiser(params[0], pair)

        def unconditional(x, t):
            return predict(x, t, x)

        denoise: Any = predict if tells_source else unconditional

        if classifier is not None:
            scale = run.config.zero_shot.classifier_scale
            told = (classifier, params[1], pair.label, system.bridge, scale)
            denoise = guide(denoise, *told)
        keys = fold(pair.sampling_keys, SampleStream.SOLVE)
        return Problem(denoise, operator, y, sigma_y, keys)

    def finish(x, problem):
        misfit = jnp.square(problem.operator.forward(x) - problem.y)
        return keep(x), jnp.sqrt(misfit.mean(tuple(range(1, misfit.ndim))))

    return map_solver(run.parallel, method, pose, finish)


def measured(
    run: Run, corruption: Corruption, sigma_y: float, batch: PyTree, key: Array
) -> tuple[Pair, LinearOperator, Array]:
    """(clean images, A, y) of a batch of held-out images: the same for all methods."""
    pair = run.system.prepare(batch, key, augment=False)
    mask = None  # a linear operator knows its own
    if not corruption.linear:
        mask = corruption(pair.x0, fold(pair.keys, Stream.CORRUPT)).mask
    operator = corruption.operator(mask)
    keys = fold(fold(pair.keys, Stream.SAMPLE), SampleStream.MEASURE)
    return pair, operator, measure(operator, pair.x0, sigma_y, keys)


def of_papers(run: Run, images: int) -> list[Row]:
    """Rows of published.csv for the tasks that name theirs (`published`), under our tasks' names."""
    config, rows = run.config.evaluate, []
    for name, task in run.config.zero_shot.tasks.items():
        if task.get("published"):
            place = (task.published, config.protocol, config.published_data, images)
            for row in published_rows(*place, metrics=config.metrics):
                rows.append(dataclasses.replace(row, model=name, task=name, sampler=row.model))
    return rows
