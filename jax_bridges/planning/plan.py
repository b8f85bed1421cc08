"""What a run will cost, known before step 1: parameters, operations, memory and, where tried, time.

A stage is looked at in one of two ways: `foresee` has its shapes alone, and may compile its step for
devices that are not here; `try_stage` makes a few steps on the machine that is about to train.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import jax
from jax.sharding import AbstractMesh

from jax_bridges.choices import look_up
from jax_bridges.models import network_settings
from jax_bridges.planning.abstract import (
    abstract_params,
    abstract_run,
    call_flops,
    compile_step,
    random_batch,
    step_flops,
    trace,
)
from jax_bridges.planning.collectives import Marked, count_sent
from jax_bridges.planning.memory import (
    GIB,
    Held,
    held_compiled,
    held_refused,
    held_state,
    in_units,
    memory_errors,
    refusal,
    refuse_too_large,
)
from jax_bridges.planning.network import Network, Traffic
from jax_bridges.planning.topology import Topology
from jax_bridges.stages.distill import distill
from jax_bridges.stages.run import Run, Stage
from jax_bridges.stages.train import train
from jax_bridges.starting import compiling
from jax_bridges.training.parallel import Parallel

STAGES = ("train", "distill")


@dataclasses.dataclass(frozen=True)
class StagePlan:
    """One stage.

    Attributes:
      name, steps, images: of the stage; images that a step sees.
      done: steps that a checkpoint holds already.
      flops: of a step, over all devices (`step_flops`).
      held: bytes of one device.
      traffic: what a step sends between chips; None where the links between them are not known.
      compiled: seconds that compiling the step took; None: it was not compiled.
      seconds: of a step, as it runs here; None: it was not tried.
      problem: that it does not fit, and what to change; "" where it does.
    """

    name: str
    steps: int
    images: int
    done: int
    flops: float
    held: Held
    traffic: Traffic | None = None
    compiled: float | None = None
    seconds: float | None = None
    problem: str = ""


@dataclasses.dataclass(frozen=True)
class Plan:
    """A run: what is trained on what, and its stages.

    Attributes:
      task, data, network, devices: as text.
      parameters: of the teacher.
      call_flops: of one call of its network on one image.
      count: number of devices.
      stages: those that are still to train.
    """

    task: str
    data: str
    network: str
    devices: str
    parameters: int
    call_flops: float
    count: int
    stages: tuple[StagePlan, ...]


def make_plan(
    run: Run, stages: Iterable[tuple[Run, Stage]], look: Callable[[Run, Stage, float], StagePlan]
) -> Plan:
    """The plan of a run.

    Args:
      run: the whole.
      stages: each with the run that it trains in.
      look: `look(run, stage, flops)` plans one stage: `foresee`, or `try_stage`.

    Raises:
      ValueError: of `look`.
    """
    system, config, call = run.system, run.config, call_flops(run.system)
    data = config.data.name
    if run.train_data is not None:
        data = f"{run.train_data.name}, {len(run.train_data)} training and {len(run.test_data)} test images"
    teacher = jax.tree.leaves(abstract_params(system, "teacher"))
    return Plan(
        config.task,
        f"{data} of {system.size[0]}x{system.size[1]}",
        f"{config.network.name}, {network_settings(config.network)['dtype']}",
        _devices(run.parallel),
        sum(leaf.size for leaf in teacher),
        call,
        run.parallel.devices,
        tuple(look(its, s, step_flops(its.config, s.name, call)) for its, s in stages),
    )


def plan_stages(run: Run, stages: list[tuple[Run, Stage]]) -> None:
    """Tries the stages that are still to train, and prints what the run will cost.

    Args:
      run: the whole.
      stages: each with the run that it trains in.

    Raises:
      ValueError: see `try_stage`.
    """
    left = [(its, stage) for its, stage in stages if run.done(stage.name) < stage.steps]
    print(describe(make_plan(run, left, try_stage)), flush=True)


def plan_config(
    config: Any,
    parallel: Parallel,
    stages: Sequence[str] = STAGES,
    compiled: bool = False,
    topology: Topology | None = None,
    tell: Callable[[str], None] = print,
) -> Plan:
    """The plan of a configuration, from shapes alone: nothing is allocated and no data is opened.

    A network of half a billion parameters can be planned, and its steps compiled for a mesh, on a laptop.

    Args:
      config: validated.
      parallel: over the devices to plan for; pretended ones will do.
      stages: of STAGES, those to plan.
      compiled, topology, tell: see `foresee`.
    """
    for name in stages:
        look_up("stage", dict.fromkeys(STAGES), name)
    run = abstract_run(config, parallel)
    made = [(run, abstract_stage(run, name)) for name in stages]
    return make_plan(run, made, partial(foresee, compiled=compiled, topology=topology, tell=tell))


def abstract_stage(run: Run, name: str) -> Stage:
    """One of STAGES of a run of shapes."""
    return train(run) if name == "train" else distill(run, abstract_params(run.system, "teacher"))


# -- one stage -----------------------------------------------------------------------------------
def foresee(
    run: Run,
    stage: Stage,
    flops: float,
    compiled: bool = False,
    topology: Topology | None = None,
    tell: Callable[[str], None] = print,
) -> StagePlan:
    """Plans a stage from shapes.

    Args:
      compiled: lowers and compiles its step too, minutes for a large network. The numbers are those
        of the platform it is compiled for: XLA's CPU compiler computes bfloat16 in float32 and undoes
        remat, so there they bound an accelerator's from above.
      topology: the chips that it is for, where they are known: their memory, and the links between
        them. Else a device's memory is `parallel.device_gib`.
      tell: is told what is being compiled.
    """
    held, took, traffic = held_state(run, stage), None, None
    if topology is not None:
        held = dataclasses.replace(held, limit=int(topology.chip.gib * GIB))
        tell(f"tracing the step of {stage.name}")
        traffic = foresee_traffic(run, stage.name, topology)
    if compiled:
        tell(f"compiling the step of {stage.name}")
        start = time.perf_counter()
        try:
            held = held_compiled(held, compile_step(run, stage))
        except jax.errors.JaxRuntimeError as error:
            held = held_refused(held, error)
        took = time.perf_counter() - start
    about = stage.name, stage.steps, stage.images, run.done(stage.name), flops, held, traffic, took
    return StagePlan(*about, problem=refusal(run, stage, held))


def foresee_traffic(run: Run, stage: str, topology: Topology) -> Traffic:
    """What the step of one of STAGES sends between the chips of a topology, from its trace."""
    marked = abstract_run(run.config, Marked.of(run.parallel))
    sent = count_sent(trace(marked, abstract_stage(marked, stage)))
    mesh = run.parallel.mesh
    shape = mesh.shape["data"], mesh.shape["fsdp"]
    return Network.create(topology, list(mesh.devices.flat), shape).traffic(sent)


def try_stage(run: Run, stage: Stage, flops: float, trials: int = 2) -> StagePlan:
    """Compiles a stage's step and makes a few throw-away steps on random images.

    `stage.step` is the compiled step from here on, so nothing is compiled twice.

    Raises:
      ValueError: the state, or the step, cannot fit; the first is said before anything is
        allocated or compiled, the second before anything is run.
    """
    held = held_state(run, stage)
    refuse_too_large(run, stage, held)
    with compiling(f"the first weights of {stage.name}"):
        state = run.parallel.init(stage.make_state, run.key(stage.init), stage.frozen)
    batch = run.parallel.share(random_batch(run, stage.batch_shape), stage.batch_axis)
    batch = run.parallel.put(batch, stage.batch_axis)
    key, start = run.key(stage.draws), time.perf_counter()
    with compiling(f"the step of {stage.name}"), memory_errors(run, stage, held):
        step = stage.step.lower(state, stage.frozen, batch, key).compile()
    stage.step, took = step, time.perf_counter() - start
    held = held_compiled(held, step)
    refuse_too_large(run, stage, held)
    with memory_errors(run, stage, held):  # a GPU's compiler does not say
        state, metrics = step(state, stage.frozen, batch, key)
        jax.block_until_ready(metrics)
    start = time.perf_counter()
    for _ in range(trials):
        state, metrics = step(state, stage.frozen, batch, key)
        jax.block_until_ready(metrics)
    seconds = (time.perf_counter() - start) / trials
    about = stage.name, stage.steps, stage.images, run.done(stage.name), flops, held
    return StagePlan(*about, compiled=took, seconds=seconds)


# -- text ----------------------------------------------------------------------------------------
def describe(plan: Plan, topology: Topology | None = None) -> str:
    """The plan as a few lines of text; `topology` is that of the devices, where it is known."""
    lines = [
        f"task       {plan.task}: {plan.data}",
        f"network    {plan.network}, {plan.parameters / 1e6:.2f}M parameters, "
        f"{plan.call_flops / 1e9:.3g} GFLOP a call and image",
        f"devices    {plan.devices}",
    ]
    seconds = flops = chip_seconds = 0.0
    for stage in plan.stages:
        left = stage.steps - stage.done
        flops += left * stage.flops
        text = f"{left} of {stage.steps}" if stage.done else f"{left}"
        text += f" steps of {stage.images} images, {stage.flops / 1e12:.4g} TFLOP a step"
        if topology is not None:
            least = stage.flops / (plan.count * topology.chip.tflops * 1e12)
            text += f", which take no less than {least:.3g} s"
            slowest = max(least, stage.traffic.seconds if stage.traffic else 0.0)
            chip_seconds += left * slowest * plan.count
        if stage.seconds is not None:
            seconds += left * stage.seconds
            text += f", {1e3 * stage.seconds:.0f} ms: about {duration(left * stage.seconds)}"
        lines.append(f"{stage.name:10s} {text}")
        lines.append(f"{'':10s} {_held(stage)}")
        if stage.traffic is not None:
            lines.append(f"{'':10s} {_traffic(stage.traffic)}")
        if stage.problem:
            lines.append(f"{'':10s} It does NOT fit. {stage.problem}")
    if plan.stages:
        known = f"about {duration(seconds)} in all, then the evaluation; " if seconds else ""
        hours = f", no less than {chip_seconds / 3600:.3g} chip-hours" if topology else ""
        lines.append(f"training   {known}{flops:.3g} FLOP{hours}")
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """Seconds in the units a person would use."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"


def _held(stage: StagePlan) -> str:
    held = stage.held
    of = f" of {held.limit / GIB:.4g} GiB" if held.limit else ""
    text = f"a device{of} holds {in_units(held.total)} ({held})"
    if stage.compiled is None:
        return f"{text} and what a step needs besides"
    text += f", compiled in {duration(stage.compiled)}"
    return text + "; its compiler does not say what a step needs besides" * (held.work is None)


def _traffic(traffic: Traffic) -> str:
    links = [link for link in ("ICI", "DCN") if traffic.gathered[link] or traffic.reduced[link]]
    if not links:
        return "a chip hears nothing of the others in a step"
    each = [
        f"{in_units(traffic.gathered[link])} of parameters and {in_units(traffic.reduced[link])} of "
        f"sums of gradients over {link}"
        for link in links
    ]
    of = f" ({traffic.bound})" if len(links) > 1 else ""
    return f"a chip hears {' and '.join(each)} a step, which takes no less than {traffic.seconds:.3g} s{of}"


def _devices(parallel: Parallel) -> str:
    mesh, shards = parallel.mesh, parallel.mesh.shape["fsdp"]
    kind = "" if isinstance(mesh, AbstractMesh) else f" x {mesh.devices.flat[0].device_kind}"
    why = f" ({parallel.reason})" if parallel.reason else ""
    split = f", large leaves in {shards} shards" if shards > 1 else ""
    return f"{parallel.devices}{kind}, {parallel.mode}{why}{split}"
