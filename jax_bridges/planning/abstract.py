"""What a run would cost, from shapes alone: nothing is allocated and no data is opened.

`planning/plan.py` measures the same on the machine that is about to train. Here a network of half a
billion parameters can be planned, and its steps compiled for a mesh, on a laptop.
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

from jax_bridges.choices import look_up
from jax_bridges.models import network_settings
from jax_bridges.planning.cost import count_flops
from jax_bridges.planning.topology import Chip
from jax_bridges.platforms import aim_at, platform_of, target
from jax_bridges.stages.distill import distill
from jax_bridges.stages.run import Run, Stage
from jax_bridges.stages.train import train
from jax_bridges.training.methods import find_method
from jax_bridges.training.parallel import Parallel
from jax_bridges.training.system import System
from jax_bridges.typing import PyTree

STAGES = ("train", "distill")
# XLA's CPU compiler takes hours to join the all-reduces of half a billion parameters, one by one.
_LIGHT = {
    "xla_disable_hlo_passes": "cpu-all-reduce-combiner",
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}


@dataclasses.dataclass(frozen=True)
class StagePlan:
    """One stage. Bytes are those of one device, FLOPs those of a step over all of them.

    Attributes:
      name, steps, images: of the stage; images that a step sees.
      state: parameters, averages, optimiser and, in the second stage, the frozen teacher.
      flops: by `step_flops`.
      compiled: what the compiled step needs in all, state included; None where it is not known.
      seconds: that compiling took.
      advice: what to change where that is more than a device has; "" where it is not.
    """

    name: str
    steps: int
    images: int
    state: int
    flops: float
    compiled: int | None = None
    seconds: float = 0.0
    advice: str = ""


@dataclasses.dataclass(frozen=True)
class Plan:
    """A run: `parameters` of the teacher, `call_flops` of a call on one image, and its stages."""

    parameters: int
    call_flops: float
    stages: tuple[StagePlan, ...]


def make_plan(
    config,
    parallel: Parallel,
    compiled: bool = False,
    tell: Callable = print,
    stages: Sequence[str] = STAGES,
    limit: int = 0,
    advise: Callable[[Run, Stage, int], str] | None = None,
) -> Plan:
    """Plans the stages of a configuration.

    Args:
      config: validated.
      parallel: over the devices to plan for; pretended ones will do.
      compiled: lowers and compiles their steps too, minutes for a large network. The numbers are
        those of the platform it is compiled for: XLA's CPU compiler computes bfloat16 in float32
        and undoes remat, so there they bound an accelerator's from above.
      tell: is told what is being compiled.
      stages: of STAGES, those to plan.
      limit: bytes that a device has; 0 where that is not known.
      advise: `advise(run, stage, bytes)` says what to change where a compiled step needs more.
    """
    for name in stages:
        look_up("stage", dict.fromkeys(STAGES), name)
    run = abstract_run(config, parallel)
    teacher = abstract_params(run.system, "teacher")
    call = call_flops(run.system)
    plans = []
    makers = {"train": lambda: train(run), "distill": lambda: distill(run, teacher)}
    for name in stages:
        stage = makers[name]()
        state, frozen = abstract_state(run, stage)
        held = bytes_per_device((state, frozen))
        flops = step_flops(config, stage.name, call)
        plan = StagePlan(stage.name, stage.steps, stage.images, held, flops)
        if compiled:
            tell(f"compiling the step of {stage.name}")
            start = time.perf_counter()
            total = compiled_bytes(run, stage)
            seconds = time.perf_counter() - start
            much = advise is not None and total is not None and 0 < limit < total
            advice = advise(run, stage, total) if much else ""
            plan = dataclasses.replace(plan, compiled=total, seconds=seconds, advice=advice)
        plans.append(plan)
    return Plan(sum(leaf.size for leaf in jax.tree.leaves(teacher)), call, tuple(plans))


# -- shapes --------------------------------------------------------------------------------------
class AbstractRun(Run):
    """A run without folder, data or log, from fresh weights: enough to make its stages."""

    def done(self, stage: str) -> int:
        """None there."""
        return 0


def abstract_run(config, parallel: Parallel) -> Run:
    """A run to plan or to time, of `config`, over the devices of `parallel`."""
    config = config.copy_and_resolve_references()
    config.teacher.init = ""  # where weights come from changes no cost
    return AbstractRun(config, None, System.create(config), parallel, None, None, None, None)


def abstract_params(system: System, player: str) -> PyTree:
    """Shapes of the parameters of a player's network."""
    return jax.eval_shape(lambda key: system.init(key, player), jax.random.key(0))


def abstract_state(run: Run, stage: Stage) -> tuple[PyTree, PyTree]:
    """Shapes of a stage's state and frozen parameters, with the shardings they will have."""
    state = jax.eval_shape(stage.make_state, jax.random.key(0), stage.frozen)
    return run.parallel.placed((state, stage.frozen))


def abstract_batch(run: Run, batch_shape: tuple[int, ...]) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of a batch as the loader makes it on the host, not yet split over devices."""
    system = run.system
    images = jax.ShapeDtypeStruct((*batch_shape, *system.size, system.channels), jnp.uint8)
    batch = {"x0": images, "index": jax.ShapeDtypeStruct(batch_shape, jnp.uint32)}
    if system.corruption.paired:
        batch["xT"] = images
    if getattr(system.teacher, "num_classes", 0):
        batch["label"] = jax.ShapeDtypeStruct(batch_shape, jnp.int32)
    return batch


def abstract_arguments(run: Run, stage: Stage) -> tuple[PyTree, PyTree, PyTree, PyTree]:
    """Shapes of what the stage's step takes, `(state, frozen, batch, key)`, as `run.parallel` lays it out."""
    state, frozen = abstract_state(run, stage)
    axis, devices = stage.batch_axis, run.parallel.devices

    def split(leaf):
        if run.parallel.mode == "pmap" and run.parallel.hosts == 1:  # as `Parallel.put` makes it
            per_device = leaf.shape[axis] // devices
            shape = (devices, *leaf.shape[:axis], per_device, *leaf.shape[axis + 1 :])
            return jax.ShapeDtypeStruct(shape, leaf.dtype)
        spec = PartitionSpec(*(None,) * axis, ("data", "fsdp"))
        sharding = NamedSharding(run.parallel.mesh, spec)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    batch = jax.tree.map(split, abstract_batch(run, stage.batch_shape))
    # The key's shape alone: a real key would bring its own device into the computation.
    return state, frozen, batch, jax.eval_shape(lambda: jax.random.key(0))


def lower(run: Run, stage: Stage) -> jax.stages.Lowered:
    """The stage's step, traced on shapes for the devices of `run.parallel`, to be looked at.

    For a CPU it is lowered as an accelerator would have it, with loops: unrolled, as it runs faster
    there, the step of a paper's row is 80 networks long.
    """
    arguments, mesh = abstract_arguments(run, stage), run.parallel.mesh
    if isinstance(mesh, AbstractMesh):  # no devices, so nothing that asks them
        with aim_at("any"):
            traced = stage.step.trace(*arguments)
        return traced.lower(lowering_platforms=(platform_of(mesh),))
    platform = platform_of(mesh)
    if platform == target() != "cpu":
        return stage.step.lower(*arguments)
    with aim_at("any" if platform == "cpu" else platform):  # or chips that are not here
        return stage.step.lower(*arguments)


def compile_step(run: Run, stage: Stage) -> jax.stages.Compiled:
    """The stage's step, compiled to be looked at; on a CPU without what only makes it fast."""
    on_cpu = platform_of(run.parallel.mesh) == "cpu"
    return lower(run, stage).compile(compiler_options=_LIGHT if on_cpu else None)


def compiled_bytes(run: Run, stage: Stage) -> int | None:
    """Bytes of a device that the compiled step needs in all; None where its compiler does not say.

    A TPU's compiler says it if they are too many, by an error.
    """
    try:
        memory = compile_step(run, stage).memory_analysis()
    except jax.errors.JaxRuntimeError as error:
        needed = bytes_refused(str(error))
        if needed is None:
            raise
        return needed
    if memory is None:
        return None
    total = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    return total + memory.output_size_in_bytes - memory.alias_size_in_bytes


# What libtpu 0.0.42 says where temporaries alone are too many, and what is reported from real TPUs.
_REFUSALS = (
    r"memory required for .*?\(([\d.]+)([KMGT])\) exceeds available HBM",
    r"in memory space hbm\. Used ([\d.]+)([KMGT]) of",
)


def bytes_refused(error: str) -> int | None:
    """Bytes that a program needs which a TPU's compiler has refused for that; None: another error."""
    for pattern in _REFUSALS:
        found = re.search(pattern, error)
        if found:
            return int(float(found[1]) * 1024 ** (1 + "KMGT".index(found[2])))
    return None


def bytes_per_device(tree: PyTree) -> int:
    """Bytes that one device holds of a tree of shapes with shardings."""
    leaves = jax.tree.leaves(tree)
    local = [leaf.update(shape=leaf.sharding.shard_shape(leaf.shape)) for leaf in leaves]
    return sum(leaf.size * leaf.dtype.itemsize for leaf in local)


# -- operations ----------------------------------------------------------------------------------
def call_flops(system: System) -> float:
    """Floating-point operations of one network call on one image, by XLA's rules; no backend is asked."""
    x = jax.ShapeDtypeStruct((1, *system.size, system.channels), jnp.float32)
    t, label = jax.ShapeDtypeStruct((1,), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.int32)

    def call(params, x, t, label):
        return system.teacher.apply({"params": params}, x, t, x, None, label)

    params = abstract_params(system, "teacher")
    return count_flops(call, params, x, t, label)


def step_flops(config, stage: str, call: float) -> float:
    """Operations of a step of "train" or "distill" over all devices, if a call takes `call`.

    A backward pass takes as much as a call for the inputs and as much again for the parameters. What
    remat repeats is not counted.
    """
    if stage == "train":
        train = config.train
        made = (
            0 if train.mode == "bridge" else train.simulation_steps
        )  # DSBM's first round has none
        return (3 + made) * call * train.batch
    method, settings = find_method(config.distill)
    return method.calls(settings) * call * settings.batch


# -- text ----------------------------------------------------------------------------------------
def on_chip(stage: StagePlan, chip: Chip, devices: int) -> str:
    """How the stage's step goes with what a chip has: its memory, and its operations a second."""
    fast = stage.flops / (devices * chip.tflops * 1e12)
    text = f"of {chip.gib:g} GiB a chip; a step cannot take less than {fast:.3g} s"
    return text + (f". It does NOT fit. {stage.advice}" if stage.advice else "")


def describe_plan(config, parallel: Parallel, plan: Plan, chip: Chip | None = None) -> str:
    """The plan as a few lines of text; `chip` is that of the devices, where it is known."""
    system = System.create(config)
    height, width = system.size
    lines = [
        f"task       {config.task}: {config.data.name}, {height}x{width}",
        f"network    {config.network.name}, {plan.parameters / 1e6:.2f}M parameters, "
        f"{plan.call_flops / 1e9:.3g} GFLOP a call and image, {network_settings(config.network)['dtype']}",
        f"devices    {parallel.devices}, {parallel.mode}, large leaves in "
        f"{parallel.mesh.shape['fsdp']} shards",
    ]
    for stage in plan.stages:
        text = (
            f"{stage.name:10s} {stage.steps} steps of {stage.images} images, "
            f"{stage.flops / 1e12:.4g} TFLOP a step; a device holds {stage.state / 2**30:.3g} GiB"
        )
        if stage.seconds:
            device = parallel.mesh.devices.flat[0].device_kind
            known = stage.compiled is not None
            text += f", and {stage.compiled / 2**30:.3g} GiB while it steps" if known else ""
            text += f" (compiled for {device} in {stage.seconds:.0f} s"
            text += ")" if known else ", whose compiler does not say what it needs while it steps)"
        lines.append(text)
        if chip is not None:
            lines.append(f"{'':10s} {on_chip(stage, chip, parallel.devices)}")
    total = sum(stage.flops * stage.steps for stage in plan.stages)
    lines.append(f"training   {total:.3g} FLOP in all")
    return "\n".join(lines)
