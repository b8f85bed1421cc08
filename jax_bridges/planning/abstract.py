"""A run of shapes alone: nothing is allocated and no data is opened; its steps can be compiled."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Jaxpr
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

from jax_bridges.models import mask_input
from jax_bridges.planning.cost import count_flops
from jax_bridges.platforms import aim_at, platform_of, target
from jax_bridges.stages.run import Run, Stage
from jax_bridges.training.methods import find_method
from jax_bridges.training.parallel import Parallel
from jax_bridges.training.steps import step_calls
from jax_bridges.training.system import System
from jax_bridges.typing import PyTree

# XLA's CPU compiler takes hours to join the all-reduces of half a billion parameters, one by one.
_LIGHT = {
    "xla_disable_hlo_passes": "cpu-all-reduce-combiner",
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}


class AbstractRun(Run):
    """A run without folder, data or log, from fresh weights: enough to make its stages."""

    def done(self, stage: str) -> int:
        """None there."""
        return 0


def abstract_run(config, parallel: Parallel) -> Run:
    """A run to plan or to time, of `config`, over the devices of `parallel`."""
    config = config.copy_and_resolve_references()
    config.teacher.init = ""  # where weights come from changes no cost
    no: Any = None  # folder, data, log or signals: nothing is read, and nothing written
    return AbstractRun(config, no, System.create(config), parallel, no, no, no, no)


def abstract_params(system: System, player: str) -> PyTree:
    """Shapes of the parameters of a player's network."""
    return jax.eval_shape(lambda key: system.init(key, player), jax.random.key(0))


def abstract_state(run: Run, stage: Stage) -> tuple[PyTree, PyTree]:
    """Shapes of a stage's state and frozen parameters, with the shardings they will have."""
    state = jax.eval_shape(stage.make_state, jax.random.key(0), stage.frozen)
    return run.parallel.placed((state, stage.frozen))


def abstract_batch(run: Run, batch_shape: tuple[int, ...]) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of a batch as the loader makes it on the host, not yet split over devices.

    What it has besides images is what the data give; where there are none, what the network asks for.
    """
    system = run.system
    batch = {"index": jax.ShapeDtypeStruct(batch_shape, jnp.uint32)}
    if run.train_data is not None:
        for name, value in run.train_data[0].items():
            dtype = jnp.int32 if name == "label" else np.asarray(value).dtype
            batch[name] = jax.ShapeDtypeStruct((*batch_shape, *np.shape(value)), dtype)
        return batch
    images = jax.ShapeDtypeStruct((*batch_shape, *system.size, system.channels), jnp.uint8)
    batch["x0"] = images
    if system.corruption.paired:
        batch["xT"] = images
    if getattr(system.teacher, "num_classes", 0):
        batch["label"] = jax.ShapeDtypeStruct(batch_shape, jnp.int32)
    return batch


def random_batch(run: Run, batch_shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """A host batch of noise as images, of the shapes of `abstract_batch`."""
    draw, classes = np.random.default_rng(0), max(getattr(run.system.teacher, "num_classes", 0), 1)

    def fill(name: str, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        if leaf.dtype == np.uint8:
            return draw.integers(0, 256, leaf.shape, np.uint8)
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            return draw.uniform(-1, 1, leaf.shape).astype(leaf.dtype)
        numbers = np.arange(leaf.size, dtype=leaf.dtype).reshape(leaf.shape)
        return numbers % classes if name == "label" else numbers

    return {k: fill(k, leaf) for k, leaf in abstract_batch(run, batch_shape).items()}


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


def trace(run: Run, stage: Stage) -> Jaxpr:
    """What JAX traces of the stage's step on shapes, with loops, for the devices of `run.parallel`."""
    platform = platform_of(run.parallel.mesh)
    with aim_at("any" if platform == "cpu" else platform):
        return jax.make_jaxpr(stage.step)(*abstract_arguments(run, stage)).jaxpr


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
        told = mask_input(system.teacher, x[..., :1])
        return system.teacher.apply({"params": params}, x, t, x, None, label, **told)

    params = abstract_params(system, "teacher")
    return count_flops(call, params, x, t, label)


def step_flops(config, stage: str, call: float) -> float:
    """Operations of a step of "train" or "distill" over all devices, if a call takes `call`.

    A backward pass takes as much as a call for the inputs and as much again for the parameters. What
    remat repeats is not counted.
    """
    if stage == "train":
        return step_calls(config.train) * call * config.train.batch
    method, settings = find_method(config.distill)
    return method.calls(settings) * call * settings.batch
