"""What a run will cost, measured before step 1: parameters, operations, memory, time."""

from __future__ import annotations

import time

import jax
import numpy as np

from jax_bridges.models import network_settings
from jax_bridges.planning.abstract import abstract_params, call_flops
from jax_bridges.planning.memory import (
    Held,
    held_compiled,
    held_state,
    memory_errors,
    refuse_too_large,
)
from jax_bridges.stages.run import Run, Stage
from jax_bridges.starting import compiling


def try_stage(run: Run, stage: Stage, trials: int = 2) -> tuple[float, Held]:
    """Compiles a stage's step and makes a few throw-away steps on random images.

    `stage.step` is the compiled step from here on, so nothing is compiled twice.

    Returns:
      (seconds a step, what a device holds for state and step).

    Raises:
      ValueError: the state, or the step, cannot fit; the first is said before anything is
        allocated or compiled, the second before anything is run.
    """
    held = held_state(run, stage)
    refuse_too_large(run, stage, held)
    with compiling(f"the first weights of {stage.name}"):
        state = run.parallel.init(stage.make_state, run.key(stage.init), stage.frozen)
    shape = (*stage.batch_shape, *run.system.size, run.system.channels)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    batch = {
        "x0": images,
        "index": np.arange(stage.images, dtype=np.uint32).reshape(stage.batch_shape),
    }
    example = run.train_data[0]
    if "xT" in example:
        batch["xT"] = images
    if "label" in example:
        batch["label"] = np.zeros(stage.batch_shape, np.int32)
    batch = run.parallel.put(run.parallel.share(batch, stage.batch_axis), stage.batch_axis)
    key = run.key(stage.draws)
    with compiling(f"the step of {stage.name}"), memory_errors(run, stage, held):
        compiled = stage.step.lower(state, stage.frozen, batch, key).compile()
    stage.step = compiled
    held = held_compiled(held, compiled)
    refuse_too_large(run, stage, held)
    with memory_errors(run, stage, held):  # a GPU's compiler does not say
        state, metrics = compiled(state, stage.frozen, batch, key)
        jax.block_until_ready(metrics)
    start = time.perf_counter()
    for _ in range(trials):
        state, metrics = compiled(state, stage.frozen, batch, key)
        jax.block_until_ready(metrics)
    return (time.perf_counter() - start) / trials, held


def plan_stages(run: Run, stages: list[tuple[Run, Stage]]) -> None:
    """Tries the stages that are still to train, and prints what the run will cost.

    Args:
      run: the whole.
      stages: each with the run that it trains in.

    Raises:
      ValueError: see `try_stage`.
    """
    left = [(its, stage) for its, stage in stages if run.done(stage.name) < stage.steps]
    print(describe(run, [(stage, *try_stage(its, stage)) for its, stage in left]), flush=True)


def describe(run: Run, stages: list[tuple[Stage, float, Held]]) -> str:
    """The plan as text.

    Args:
      stages: (stage, seconds a step, what a device holds) of each stage that is still to train.
    """
    system, config = run.system, run.config
    teacher = jax.tree.leaves(abstract_params(system, "teacher"))
    device = jax.devices()[0]
    lines = [
        f"task       {config.task}: {run.train_data.name}, {len(run.train_data)} training and "
        f"{len(run.test_data)} test images of {system.size[0]}x{system.size[1]}",
        f"network    {config.network.name}, {sum(leaf.size for leaf in teacher) / 1e6:.2f}M parameters, "
        f"{call_flops(system) / 1e9:.3g} GFLOP a call and image, {network_settings(config.network)['dtype']}",
        f"devices    {run.parallel.devices} x {device.device_kind}, {run.parallel.mode} "
        f"({run.parallel.reason})",
    ]
    total = 0.0
    for stage, seconds, held in stages:
        done = run.done(stage.name)
        left = seconds * (stage.steps - done)
        total += left
        steps = f"{stage.steps - done} of {stage.steps}" if done else f"{stage.steps}"
        lines.append(
            f"{stage.name:10s} {steps} steps of {stage.images} images, {1e3 * seconds:.0f} ms a step, "
            f"{held.total / 2**20:.0f} MiB a device: about {duration(left)}"
        )
        known = f" of {held.limit / 2**30:.3g} GiB" if held.limit else ""
        known += "; what a step needs besides, its compiler does not say" * (held.work is None)
        lines.append(f"{'':10s} a device holds {held}{known}")
    if stages:
        lines.append(f"training   about {duration(total)} in all, then the evaluation")
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """Seconds in the units a person would use."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"
