"""Equal time for the students and baselines of a comparison, by what a step of each takes here."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jax_bridges import hosts
from jax_bridges.acts.compare_baselines import baseline_config, taught
from jax_bridges.checkpoints import Checkpoints
from jax_bridges.keys import Purpose
from jax_bridges.planning.abstract import step_flops
from jax_bridges.planning.plan import try_stage
from jax_bridges.players import is_baseline
from jax_bridges.stages.distill import distill
from jax_bridges.stages.run import Run, Stage
from jax_bridges.stages.train import train
from jax_bridges.training.methods import find_method


def equal_time(run: Run, runs: dict[str, Run]) -> dict[str, Run]:
    """The same runs, each with as many updates as fill its time.

    A baseline has the time of the teacher's training, a student that of the first of
    `compare.students` for its `distill.steps`; seconds a step are those of a few steps that are tried
    here, of the teacher as well, so that it may have been trained elsewhere. What has begun keeps the
    number of updates that it began with.

    Args:
      runs: of each student and baseline, by the name of its stage.

    Raises:
      ValueError: an imported teacher does not say how long it was trained; or see `try_stage`.
    """
    begun = {name: _begun(its, name) for name, its in runs.items()}
    if all(begun.values()):
        return {name: _with_steps(run, its, begun[name]) for name, its in runs.items()}
    teacher = _blank_teacher(run)
    paces = {name: _pace(its, distill(its, teacher, name)) for name, its in runs.items()}
    whole: dict[bool, float] = {}  # seconds of a student, and of a baseline
    for name, its in runs.items():
        method = its.config.distill.method
        if is_baseline(method) not in whole:
            steps = find_method(its.config.distill)[1].steps
            whole[is_baseline(method)] = (
                _teacher_seconds(run) if is_baseline(method) else paces[name] * steps
            )
    timed = {}
    for name, its in runs.items():
        seconds = whole[is_baseline(its.config.distill.method)]
        steps = begun[name] or max(1, round(seconds / paces[name]))
        pace = f"{1000 * paces[name]:.3g} ms each"
        print(f"{name}: {steps} steps, {pace}, for {seconds:.3g} s", flush=True)
        timed[name] = _with_steps(run, its, steps)
    return timed


def _blank_teacher(run: Run):
    """Parameters of zeros in the teacher's place."""
    key = run.key(Purpose.INIT_TEACHER)
    shapes = jax.eval_shape(lambda k: run.system.init(k, "teacher"), key)
    return run.parallel.init(
        lambda: jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    )


def _pace(run: Run, stage: Stage) -> float:
    """Seconds that a step of a stage takes here; on all hosts those of the first."""
    seconds = try_stage(run, stage, step_flops(run.config, stage.name, 1.0), trials=8).seconds
    return float(hosts.gather(np.array([seconds]))[0])


def _teacher_seconds(run: Run) -> float:
    """What the teacher's training takes here, or would take."""
    config = run.config.copy_and_resolve_references()
    its = taught(config)
    if its is None:
        raise ValueError(
            f"compare.equal is 'seconds', but {config.teacher.checkpoint} was imported and does not say how "
            "long it was trained: set it to 'updates', and give each of compare.baselines its steps."
        )
    config.train, config.teacher.checkpoint = its, ""
    alone = dataclasses.replace(run, config=config, programs={})
    return its.steps * _pace(alone, train(alone))


def _begun(run: Run, name: str) -> int:
    """The number of updates that a stage began with; 0: it has not begun."""
    if not run.done(name):
        return 0
    with Checkpoints(run.workdir / "checkpoints" / name, read_only=True) as checkpoints:
        return find_method(ConfigDict(checkpoints.meta()["config"]["distill"]))[1].steps


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
