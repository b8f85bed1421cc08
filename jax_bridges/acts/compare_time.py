"""Equal time for the students and baselines of a comparison, by what a step of each takes here."""

from __future__ import annotations

import dataclasses

import numpy as np
from ml_collections import ConfigDict

from jax_bridges import hosts
from jax_bridges.acts.compare_baselines import baseline_config, taught
from jax_bridges.checkpoints import Checkpoints
from jax_bridges.planning.abstract import step_flops
from jax_bridges.planning.plan import try_stage
from jax_bridges.players import is_baseline
from jax_bridges.stages.distill import distill
from jax_bridges.stages.run import Run, Stage
from jax_bridges.stages.teacher import blank_teacher
from jax_bridges.stages.train import train
from jax_bridges.training.methods import find_method


def equal_time(run: Run, runs: dict[str, Run]) -> dict[str, Run]:
    """The same runs, each with as many updates as fill its time.

    A baseline has the time of the teacher's training, a student that of the first of
    `compare.students` for its `distill.steps`; seconds a step are those of a few steps that are tried
    here, of the teacher as well, so that it may have been trained elsewhere. What has begun keeps the
    number of updates that it began with, and a baseline that was given its `steps` has those.

    Args:
      runs: of each student and baseline, by the name of its stage.

    Raises:
      ValueError: see `try_stage`.
    """

    def pace(name: str) -> float:
        return _pace(runs[name], distill(runs[name], blank_teacher(run), name))

    timed = {}
    for baselines in (False, True):
        names = [n for n, r in runs.items() if is_baseline(r.config.distill.method) == baselines]
        steps = {name: _begun(runs[name], name) for name in names}
        if baselines:
            own = {
                name: run.config.baselines[runs[name].config.distill.method].steps for name in names
            }
            steps = {name: steps[name] or own[name] for name in names}
        left = [name for name in names if not steps[name]]
        paces = {name: pace(name) for name in left}
        if left and baselines:
            seconds = _teacher_seconds(run)
        elif left:
            first = names[0]
            seconds = _steps(runs[first].config) * (paces.get(first) or pace(first))
        for name in left:
            steps[name] = max(1, round(seconds / paces[name]))
            each = f"{1000 * paces[name]:.3g} ms each"
            print(f"{name}: {steps[name]} steps, {each}, for {seconds:.3g} s", flush=True)
        timed |= {name: _with_steps(run, runs[name], steps[name]) for name in names}
    return timed


def _pace(run: Run, stage: Stage) -> float:
    """Seconds that a step of a stage takes here; on all hosts those of the first."""
    seconds = try_stage(run, stage, step_flops(run.config, stage.name, 1.0), trials=8).seconds
    return float(hosts.gather(np.array([seconds]))[0])


def _teacher_seconds(run: Run) -> float:
    """What the teacher's training takes here, or would take."""
    config = run.config.copy_and_resolve_references()
    its = taught(config)
    assert its is not None, (
        "`baseline_runs` refuses a baseline without steps of an imported teacher"
    )
    config.train, config.teacher.checkpoint = its, ""
    alone = dataclasses.replace(run, config=config, programs={})
    return its.steps * _pace(alone, train(alone))


def _steps(config) -> int:
    """Updates of the method that a configuration's `distill` names."""
    return find_method(config.distill)[1].steps


def _begun(run: Run, name: str) -> int:
    """The number of updates that a stage began with; 0: it has not begun."""
    if not run.done(name):
        return 0
    with Checkpoints(run.workdir / "checkpoints" / name, read_only=True) as checkpoints:
        return _steps(ConfigDict({"distill": checkpoints.meta()["config"]["distill"]}))


def _with_steps(run: Run, its: Run, steps: int) -> Run:
    """The run of a student or baseline with another number of updates."""
    config = run.config.copy_and_resolve_references()
    method = its.config.distill.method
    if is_baseline(method):
        config.baselines[method].steps = steps
        config = baseline_config(config, method)
    else:
        config = its.config.copy_and_resolve_references()
        config.distill.steps = steps
        if "steps" in config.distill.get(method, {}):
            config.distill[method].steps = steps
    return dataclasses.replace(its, config=config)
