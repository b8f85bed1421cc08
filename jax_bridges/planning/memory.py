"""What a device will hold, known before anything is allocated; and what to change if it cannot fit."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterator
from typing import Any

import jax
from jax.sharding import AbstractMesh

from jax_bridges.models import network_settings
from jax_bridges.planning.abstract import abstract_state, bytes_per_device
from jax_bridges.players import is_baseline
from jax_bridges.stages.run import Run, Stage
from jax_bridges.training.parallel import Parallel
from jax_bridges.training.settings import distill_part, distill_settings
from jax_bridges.training.state import State
from jax_bridges.typing import PyTree

GIB = 2**30


def in_units(size: float) -> str:
    """Bytes in the unit that a person would use."""
    unit, name = _unit(size)
    return f"{size / unit:.3g} {name}"


def _unit(size: float) -> tuple[int, str]:
    return (GIB, "GiB") if size > GIB else (2**20, "MiB")


@dataclasses.dataclass(frozen=True)
class Held:
    """Bytes of one device.

    Attributes:
      parameters, averages, optimiser: of all players.
      frozen: what the step reads but does not train.
      work: activations, gradients and buffers of the compiled step; None before it is compiled.
      limit: what the device has; None where it is not known (a CPU).
    """

    parameters: int
    averages: int
    optimiser: int
    frozen: int
    work: int | None = None
    limit: int | None = None

    @property
    def state(self) -> int:
        """What stays from step to step."""
        return self.parameters + self.averages + self.optimiser + self.frozen

    @property
    def total(self) -> int:
        """All that is known."""
        return self.state + (self.work or 0)

    def __str__(self) -> str:
        """The parts, in MiB, or in GiB where they are large."""
        unit, name = _unit(self.total)
        parts = {
            "parameters": self.parameters, "averages": self.averages,
            "optimiser": self.optimiser, "frozen": self.frozen, "activations": self.work,
        }  # fmt: skip
        text = ", ".join(f"{name} {size / unit:.3g}" for name, size in parts.items() if size)
        return f"{text} {name}"


def held_state(run: Run, stage: Stage) -> Held:
    """What a stage's state takes of each device, from shapes and shardings alone."""
    held = held_by(run.parallel, *abstract_state(run, stage))
    return dataclasses.replace(held, limit=device_bytes(run.config.parallel.device_gib))


def held_by(parallel: Parallel, state: State, frozen: PyTree) -> Held:
    """What the shapes of a state and of frozen parameters take of each device of `parallel`."""

    def size(tree: PyTree) -> int:
        return bytes_per_device(parallel.placed(tree))

    players = state.players.values()
    fields = ("params", "ema", "opt")
    params, averages, optimiser = (size([getattr(p, f) for p in players]) for f in fields)
    return Held(params, averages, optimiser, size(frozen))


def held_compiled(held: Held, compiled: jax.stages.Compiled) -> Held:
    """`held` with what the compiled step needs besides."""
    memory = compiled.memory_analysis()
    if memory is None:
        return held
    work = memory.temp_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return dataclasses.replace(held, work=int(work))


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


def held_refused(held: Held, error: Exception) -> Held:
    """`held` with what a step needs besides whose compiler has refused it; raises any other error."""
    needed = bytes_refused(str(error))
    if needed is None:
        raise error
    return dataclasses.replace(held, work=max(needed - held.state, 0))


@contextlib.contextmanager
def memory_errors(run: Run, stage: Stage, held: Held) -> Iterator[None]:
    """Within, an accelerator's error that its memory is not enough becomes a ValueError with advice."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if bytes_refused(str(error)) is not None:  # a TPU's compiler counts them itself
            refuse_too_large(run, stage, held_refused(held, error))
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        held = dataclasses.replace(held, work=held.work or 0)
        raise ValueError(
            f"{stage.name}: a device ran out of memory at a first step (of which {held} were known before). "
            f"{advice(run, stage, held)}"
        ) from None


def device_bytes(gib: float) -> int | None:
    """Bytes that a device has for arrays: `gib`, or what it says itself; None if it does not."""
    if gib:
        return int(gib * GIB)
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats.get("bytes_limit")


def refuse_too_large(run: Run, stage: Stage, held: Held) -> None:
    """Refuses a stage whose state, or whose compiled step, is more than a device has.

    Raises:
      ValueError: `refusal`.
    """
    said = refusal(run, stage, held)
    if said:
        raise ValueError(said)


def refusal(run: Run, stage: Stage, held: Held) -> str:
    """That a stage is more than a device has: the parts, and the settings that would make them smaller.

    Returns:
      "" where it is not, or where what a device has is not known.
    """
    if held.limit is None or held.total <= held.limit:
        return ""
    said = "would hold" if held.work is None else "would need"
    return (
        f"{stage.name}: a device {said} {held.total / GIB:.3g} GiB ({held}) and has "
        f"{held.limit / GIB:.3g} GiB. {advice(run, stage, held)}"
    )


def advice(run: Run, stage: Stage, held: Held) -> str:
    """The settings of a stage that are still to be had to make it smaller, the mightiest first."""
    config = run.config
    part, owner, settings = "train", "train", config.train
    if stage.name != "train":
        method = config.distill.method
        part, owner = "distill", distill_part(method)
        settings = distill_settings(config.distill)
        if is_baseline(method):
            part, owner = "baselines", f"baselines.{method}"
    found = []
    devices, shards = run.parallel.devices, run.parallel.mesh.shape["fsdp"]
    if devices > shards:
        more = [n for n in range(shards + 1, devices + 1) if devices % n == 0]
        shapes = abstract_state(run, stage)
        sizes = {n: held_by(_sharded(run.parallel, n), *shapes).state for n in more}
        fitting = [n for n in more if held.limit and sizes[n] < 0.5 * held.limit]
        best = fitting[0] if fitting else more[-1]
        found.append(
            f"parallel.fsdp={best} with parallel.mode=fsdp "
            f"({sizes[best] / GIB:.3g} GiB of state instead of {held.state / GIB:.3g})"
        )
    names = ["optimizer"] + (["bridge_optimizer"] if part == owner == "distill" else [])
    half = [
        f"{owner}.{name}.moment_dtype=bfloat16"
        for name in names
        if settings[name].name != "radam"
        and settings[name].get("moment_dtype", "float32") == "float32"
    ]
    if half:
        found.append(f"{' and '.join(half)} (half of the mean gradients' memory)")
    if held.work is not None:
        if config.network.name == "adm" and not config.network.get("remat", False):
            found.append("network.remat=True (activations are computed twice)")
        if network_settings(config.network)["dtype"] == "float32":
            found.append("network.dtype=bfloat16 (half of the activations)")
        images = settings.batch // (devices * settings.microbatches)
        if images > 1:
            finer = next(n for n in range(2, images + 1) if images % n == 0)
            found.append(
                f"{part}.microbatches={settings.microbatches * finer} "
                f"({images // finer} images at a time instead of {images})"
            )
    found.append("more devices to shard over, or larger ones")
    return "Set " + "; ".join(found) + "." if len(found) > 1 else f"Take {found[0]}."


def _sharded(parallel: Parallel, shards: int) -> Parallel:
    """The same devices, the state in so many shards; only to be asked for shardings."""
    mesh: Any = AbstractMesh((parallel.devices // shards, shards), ("data", "fsdp"))
    return Parallel("fsdp", mesh, parallel.min_shard)
