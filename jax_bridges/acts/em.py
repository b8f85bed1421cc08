"""A prior learnt from corrupted images alone: EMDiffusion (Bai et al. 2024, arXiv 2407.01014) and its peers.

Rounds of an E-step, one sample of the posterior for each observation by the prior so far
(stages/e_step.py), and of an M-step, the training of a prior on those samples (em_rounds.py). The best
round is the run's teacher, an ordinary prior: `restore --solver`, `zero_shot` and `compare.prior` take it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from functools import partial

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jax_bridges.acts.em_baselines import Baseline, baseline, baseline_steps
from jax_bridges.acts.em_rounds import (
    Parts,
    Rounds,
    e_step_method,
    make_stage,
    split,
    stage_name,
)
from jax_bridges.acts.zero_shot import restorer
from jax_bridges.bridges import Diffusion, Levels
from jax_bridges.corruptions import make_corruption
from jax_bridges.data import Estimates
from jax_bridges.keys import Stream, fold
from jax_bridges.metrics import PROTOCOLS
from jax_bridges.planning.plan import plan_stages
from jax_bridges.report.row import Row
from jax_bridges.stages.evaluate import evaluate
from jax_bridges.stages.jobs import Job
from jax_bridges.stages.run import Run, train_stage
from jax_bridges.typing import PyTree
from jax_bridges.zero_shot import make_method, sample_diffusion
from jax_bridges.zero_shot.diffusion import calls_of

RESTORED, SAMPLES = "restoration", "samples"  # tasks of the rows
LEVELS, NOISIEST = (
    25,
    80.0,
)  # of unconditional samples: noise levels, and sigma / alpha of the first


def em(run: Run, begin: Callable[[], None]) -> None:
    """Trains the rounds of `config.em` and its baselines, and evaluates `em_jobs`.

    Args:
      begin: makes the work directory; called when nothing is left that could refuse the run.

    Raises:
      ValueError: too few images, or a step that cannot fit.
      Stopped, Diverged: see stages/run.py.
    """
    parts, config = split(run), run.config.em
    stage = make_stage(run)
    others = [baseline(run, parts, name) for name in config.baselines]
    names = [stage_name(k) for k in range(config.init == "gaussian", config.rounds + 1)]
    left = [name for name in names if run.done(name) < stage.steps]
    like = dataclasses.replace(run, train_data=Estimates(parts.observed.name, images_like(run)))
    planned = [dataclasses.replace(stage, name=name) for name in left[:1]]
    print(description(run, parts, len(left)), flush=True)
    plan_stages(like, [(like, one) for one in planned] + [(o.run, o.stage) for o in others])
    if planned:
        stage.step = planned[0].step  # compiled
    begin()
    rounds = Rounds(run, parts, stage)
    rounds.run()
    rounds.keep_best()
    trained = [(o, train_stage(o.run, o.stage, lambda state, step: None)) for o in others]
    jobs = em_jobs(run, rounds.params, trained)
    results = evaluate(run, jobs, settings(run.config), name="em")
    log_rows(run, results["rows"])


def settings(config: ConfigDict) -> str:
    """What the rows depend on."""
    parts = config.evaluate, config.zero_shot
    return json.dumps([json.loads(part.to_json_best_effort()) for part in parts])


def description(run: Run, parts: Parts, left: int) -> str:
    """What will be done, in a line."""
    config = run.config.em
    some = min(config.observations, len(parts.observed))
    start = {
        "clean": f"{config.clean} clean images", "gaussian": "a Gaussian", "pinv": "A^+ y"
    }[config.init]  # fmt: skip
    return (
        f"em         from {start}, {config.rounds} rounds of {some} of {len(parts.observed)} observations "
        f"(the last {config.reset_rounds} of all, from fresh weights) by {config.method}, "
        f"{e_step_method(run).nfe} calls; {left} trainings as below are left"
        + f", then {', '.join(config.baselines)} of {baseline_steps(run.config)} steps"
        * bool(config.baselines)
    )


def images_like(run: Run) -> np.ndarray:
    """One image, of the shape and type that the M-step is fed."""
    return np.zeros((1, *run.system.size, run.system.channels), np.float16)


def em_jobs(
    run: Run, rounds: dict[int, PyTree], others: list[tuple[Baseline, PyTree]]
) -> list[Job]:
    """The rows: held-out images restored by the prior of each round and baseline, and its samples.

    Args:
      rounds: averaged parameters by round.
      others: each with its own.
    """
    config = run.config.em
    corruption, method = make_corruption(**config.operator), e_step_method(run)
    pinv = make_method("pinv", run.system.bridge, {}, 2)
    make = partial(restorer, run, corruption, config.sigma_y, pinv)
    jobs = [Job("source", "pinv", 0, make, (None, None), "observed", RESTORED)]
    named = {round_name(run, k): params for k, params in rounds.items()}
    for name, params in named.items():
        make = partial(restorer, run, corruption, config.sigma_y, method)
        jobs.append(Job(name, config.method, method.nfe, make, (params, None), name, RESTORED))
    for other, params in others:
        its, told, name = other.solver(method), other.told, other.name
        make = partial(restorer, other.run, corruption, config.sigma_y, its, tells_source=told)
        jobs.append(Job(name, its.solver.name, its.nfe, make, (params, None), name, RESTORED))
    for name, params in named.items():
        make = partial(prior_sampler, run)
        jobs.append(Job(name, "heun", calls_of(LEVELS), make, params, name, SAMPLES, unpaired=True))
    for other, params in others:
        make, name = partial(prior_sampler, other.run, other), other.name
        calls = calls_of(len(sampling_levels(run, other).t) - 1)
        jobs.append(Job(name, "heun", calls, make, params, name, SAMPLES, unpaired=True))
    return jobs


def round_name(run: Run, k: int) -> str:
    """Of a round's row."""
    if k:
        return f"round {k}"
    config = run.config.em
    return f"{config.clean} clean images" if config.init == "clean" else "A^+ y"


def sampling_levels(run: Run, other: Baseline | None = None) -> Levels:
    """Of samples of a prior, a baseline's perhaps."""
    assert isinstance(run.system.bridge, Diffusion)  # else `validate` refuses
    levels = run.system.bridge.narrow_levels(LEVELS, high=NOISIEST)
    return levels if other is None else other.levels(levels)


def prior_sampler(run: Run, other: Baseline | None = None) -> Callable:
    """`sample(params, batch, key) -> [B, H, W, C]`, of the prior alone; of the batch its size counts.

    Args:
      other: the baseline whose prior it is, and whose run.
    """
    system, keep = run.system, PROTOCOLS[run.config.evaluate.protocol].keep
    levels = sampling_levels(run, other)

    def sample(params, batch, key):
        pair = system.prepare(batch, key, augment=False)
        blank = jnp.zeros_like(pair.x0)
        predict = system.denoiser(params, dataclasses.replace(pair, x0=blank, xT=blank))
        keys = fold(pair.keys, Stream.SAMPLE)
        if other is not None and other.method is not None and other.method.sample is not None:
            own = other.method.sample
            return keep(own(predict, blank, levels, keys, other.settings, other.task))
        return keep(sample_diffusion(lambda x, t: predict(x, t, x), blank, levels, keys))

    return run.program("samples of a prior", lambda: run.parallel.map(sample))


def log_rows(run: Run, rows: list[Row]) -> None:
    """The rows of the rounds over their number, for the report's curves."""
    for k in range(run.config.em.rounds + 1):
        own = [row for row in rows if row.model == round_name(run, k)]
        numbers = {f"{name} of {row.task}": v for row in own for name, v in row.metrics.items()}
        if numbers:
            run.log.write("em_test", k, **numbers)
