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
    NETWORK,
    MStep,
    Parts,
    Rounds,
    e_step_method,
    network_levels,
    split,
    stage_name,
    told_run,
    whole,
)
from jax_bridges.acts.zero_shot import measured, restorer
from jax_bridges.bridges import Diffusion, Levels
from jax_bridges.corruptions import make_corruption
from jax_bridges.data import Estimates
from jax_bridges.keys import SampleStream, fold
from jax_bridges.metrics import PROTOCOLS
from jax_bridges.planning.plan import plan_stages
from jax_bridges.report.differences import ROUND
from jax_bridges.report.published import published_rows
from jax_bridges.report.row import Row
from jax_bridges.stages.e_step import sample_told
from jax_bridges.stages.evaluate import evaluate
from jax_bridges.stages.jobs import Job
from jax_bridges.stages.run import Run, train_stage
from jax_bridges.training.system import System
from jax_bridges.typing import PyTree
from jax_bridges.zero_shot import make_method, sample_diffusion
from jax_bridges.zero_shot.diffusion import calls_of

TASKS = RESTORED, SAMPLES = "restoration", "samples"  # of the rows
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
    steps = {False: MStep.of(run)}
    if config.method == NETWORK:
        steps[True] = MStep.of(told_run(run))
    names = [stage_name(k) for k in range(config.init == "gaussian", config.rounds + 1)]
    left = [name for name in names if run.done(name) < run.config.train.steps]
    print(description(run, parts, len(left)), flush=True)
    others = [baseline(run, parts, name) for name in config.baselines]
    plan(run, steps, left, others)
    begin()
    rounds = Rounds(run, parts, steps)
    rounds.run()
    jobs = em_jobs(run, rounds, steps, rounds.keep_best())
    trained = [(o, train_stage(o.run, o.stage, lambda state, step: None)) for o in others]
    jobs = sorted(jobs + baseline_jobs(run, trained), key=lambda job: TASKS.index(job.task))
    results = evaluate(
        run, jobs, settings(run.config), name="em", published=partial(of_papers, run)
    )
    log_rows(run, results["rows"])


def plan(run: Run, steps: dict[bool, MStep], left: list[str], others: list[Baseline]) -> None:
    """Tries one round of each network that is left: it is as any other, and its compiled step serves for all.

    Args:
      left: names of the stages that are not done.
      others: that stand beside the rounds, each with a step of its own.
    """
    like = whole(Estimates("samples of the posterior", images_like(run)), run.config.em.learn_from)
    planned = []
    for told, its in steps.items():
        names = [name for name in left if told in (False, name != stage_name(0))]
        if names:
            its.stage.name = names[0] if not told else names[-1]
            planned.append((dataclasses.replace(its.run, train_data=like), its.stage))
    plan_stages(run, planned + [(other.run, other.stage) for other in others])


def settings(config: ConfigDict) -> str:
    """What the rows depend on."""
    parts = [json.loads(p.to_json_best_effort()) for p in (config.evaluate, config.zero_shot)]
    scale = [config.em.ambient.scale] * ("ambient" in config.em.baselines)
    return json.dumps([*parts, list(config.em.baselines), *scale])


def description(run: Run, parts: Parts, left: int) -> str:
    """What will be done, in a line."""
    config = run.config.em
    calls = e_step_method(run).nfe
    if config.method == NETWORK:
        calls = calls_of(len(network_levels(run).t) - 1)
    some = min(config.observations, len(parts.observed))
    start = {
        "clean": f"{config.clean} clean images", "gaussian": "a Gaussian", "pinv": "A^+ y"
    }[config.init]  # fmt: skip
    return (
        f"em         from {start}, {config.rounds} rounds of {some} of {len(parts.observed)} observations "
        f"(the last {config.reset_rounds} of all, from fresh weights) by {config.method}, "
        f"{calls} calls; {left} trainings as below are left"
        + f", then {', '.join(config.baselines)} of {baseline_steps(run.config)} steps"
        * bool(config.baselines)
    )


def images_like(run: Run) -> np.ndarray:
    """One image, of the shape and type that the M-step is fed."""
    return np.zeros((1, *run.system.size, run.system.channels), np.float16)


def em_jobs(
    run: Run, rounds: Rounds, steps: dict[bool, MStep], others: dict[str, PyTree]
) -> list[Job]:
    """The rows: held-out images restored by each round and baseline, and samples of those that are priors.

    Args:
      steps: as `Rounds` takes them.
      others: averaged parameters of other priors of the rounds by name.
    """
    config = run.config.em
    corruption, method = make_corruption(**config.operator), e_step_method(run)
    pinv = make_method("pinv", run.system.bridge, {}, 2)
    make = partial(restorer, run, corruption, config.sigma_y, pinv)
    jobs = [Job("source", "pinv", 0, make, (None, None), "observed", RESTORED)]
    told_calls = calls_of(len(network_levels(run).t) - 1)
    named = {round_name(run, k): (params, rounds.told(k)) for k, params in rounds.params.items()}
    named |= {name: (params, False) for name, params in others.items()}
    for name, (params, told) in named.items():
        if told:
            make = partial(told_restorer, run, steps[True].run.system)
            jobs.append(Job(name, NETWORK, told_calls, make, params, name, RESTORED))
        else:
            make = partial(restorer, run, corruption, config.sigma_y, method)
            its = name, method.solver.name, method.nfe, make, (params, None), name, RESTORED
            jobs.append(Job(*its))
    priors = {name: params for name, (params, told) in named.items() if not told}
    for name, params in priors.items():
        make = partial(prior_sampler, run)
        its = name, "heun", calls_of(LEVELS), make, params, name, SAMPLES
        jobs.append(Job(*its, unpaired=True))
    return jobs


def baseline_jobs(run: Run, trained: list[tuple[Baseline, PyTree]]) -> list[Job]:
    """The rows of baselines with their averaged parameters: held-out images restored, and samples."""
    config, jobs = run.config.em, []
    corruption, usual = make_corruption(**config.operator), e_step_method(run)
    for other, params in trained:
        name, method, told = other.name, other.solver(usual), other.told
        make = partial(restorer, other.run, corruption, config.sigma_y, method, tells_source=told)
        its = name, method.solver.name, method.nfe, make, (params, None), name, RESTORED
        jobs.append(Job(*its))
        calls = calls_of(len(sampling_levels(run, other).t) - 1)
        its = name, "heun", calls, partial(prior_sampler, other.run, other), params, name, SAMPLES
        jobs.append(Job(*its, unpaired=True))
    return jobs


def of_papers(run: Run, images: int) -> list[Row]:
    """Rows of the task `evaluate.published` of published.csv, restorations and samples of the priors."""
    config, rows = run.config.evaluate, []
    for task, ending in ((RESTORED, ""), (SAMPLES, "-samples")) if config.published else ():
        place = (config.published + ending, config.protocol, config.published_data, images)
        for row in published_rows(*place, metrics=config.metrics):
            rows.append(dataclasses.replace(row, task=task))
    return rows


def round_name(run: Run, k: int) -> str:
    """Of a round's row."""
    if k:
        return f"{ROUND}{k}"
    config = run.config.em
    return f"{config.clean} clean images" if config.init == "clean" else "A^+ y"


def told_restorer(run: Run, system: System) -> Callable:
    """`sample(params, batch, key)`, as of `zero_shot.restorer`, of a network that is told A^+ y."""
    config, keep = run.config.em, PROTOCOLS[run.config.evaluate.protocol].keep
    corruption, levels = make_corruption(**config.operator), network_levels(run)

    def sample(params, batch, key):
        pair, operator, y = measured(run, corruption, config.sigma_y, batch, key)
        keys = fold(pair.sampling_keys, SampleStream.SOLVE)
        x = sample_told(system, params, operator.pinv(y), levels, keys)
        misfit = jnp.square(operator.forward(x) - y)
        return keep(x), jnp.sqrt(misfit.mean(tuple(range(1, misfit.ndim))))

    return run.program("a network that is told", lambda: run.parallel.map(sample))


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
        keys = pair.sampling_keys
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
