"""The methods of distillation behind one interface. `DISTILLERS` maps `config.distill.method` to one.

All work on the same `State`: the student is the player "generator", a copy of the teacher's network at
the start, and is sampled from its average.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from jax_bridges.bridges import Bridge
from jax_bridges.choices import look_up
from jax_bridges.corruptions import Corruption
from jax_bridges.distillation import consistency
from jax_bridges.keys import SECOND_PLAYER, Keys
from jax_bridges.samplers import sample_consistency, sample_few_step
from jax_bridges.schema import Setting
from jax_bridges.times import consistency_grid, student_grid
from jax_bridges.training.consistency_step import (
    consistency_settings,
    make_consistency_step,
    student_denoiser,
    student_function,
)
from jax_bridges.training.optimizers import check_optimizer, make_optimizer
from jax_bridges.training.settings import distill_part, distill_settings
from jax_bridges.training.state import Player, State, graft
from jax_bridges.training.steps import IBMD_SETTINGS, Step, make_ibmd_step
from jax_bridges.training.system import Pair, System
from jax_bridges.typing import Array, PyTree

MakeState = Callable[[Array, PyTree], State]
Grid = tuple[Array, Array]  # times and length, as the samplers take them


@dataclasses.dataclass(frozen=True)
class Distiller:
    """One method. `settings` is what `distill_settings` gives for it everywhere.

    Attributes:
      name: its key in DISTILLERS.
      make: `make(system, settings) -> (make_state, step)`, a `make_state(key, teacher) -> State` and the
        step of training/parallel.py.
      batch_shape: `batch_shape(settings)`, of what the step takes: (B,), or (G, B).
      sample: `sample(system, params, pair, nfe, keys, settings, clip, grid) -> x0 [B, H, W, C]`, the
        student's answer with exactly nfe network calls. `grid`, if not None, is (times, length), traced
        and padded, of as many calls or of any other number that leaves as many out of its grid.
      grid: `grid(bridge, nfe, settings)`, the times of its calls; ValueError for an nfe it cannot do.
      check: `check(settings, bridge, corruption)`, a ValueError for settings of its own that cannot run,
        with their keys; `check_method` has seen to those that all methods share.
      calls: `calls(settings)`, what a step costs an example, in network calls; a backward pass
        counts as one call for the inputs and one for the parameters.
      sampler: what the rows of results.json call the student's sampler.
      settings: the rows it reads, those that all methods share (`training.settings.SHARED`) among them.
    """

    name: str
    make: Callable[[System, Any], tuple[MakeState, Step]]
    batch_shape: Callable[[Any], tuple[int, ...]]
    sample: Callable[..., Array]
    grid: Callable[[Bridge, int, Any], np.ndarray]
    check: Callable[[Any, Bridge, Corruption], None]
    calls: Callable[[Any], int]
    sampler: str
    settings: tuple[Setting, ...]


# -- IBMD ----------------------------------------------------------------------------------------
def _ibmd(system: System, settings) -> tuple[MakeState, Step]:
    generator_optimizer = make_optimizer(settings.optimizer, settings.steps)
    updates = settings.steps * settings.bridge_updates
    bridge_optimizer = make_optimizer(settings.bridge_optimizer, updates)

    def make_state(key: Array, teacher: PyTree) -> State:
        generator = graft(teacher, system.init(key, system.student))
        second = jax.random.fold_in(key, SECOND_PLAYER)
        bridge_net = graft(teacher, system.init(second, system.bridge_net))
        return State.create(
            generator=Player.create(generator, generator_optimizer),
            bridge_net=Player.create(bridge_net, bridge_optimizer),
        )

    return make_state, make_ibmd_step(system, settings, generator_optimizer, bridge_optimizer)


def _ibmd_grid(bridge: Bridge, nfe: int, settings) -> np.ndarray:
    return student_grid(bridge, nfe, settings.student_steps, settings.first_time)


def _sample_ibmd(
    system: System,
    params: PyTree,
    pair: Pair,
    nfe: int,
    keys: Keys,
    settings,
    clip: bool = False,
    grid: Grid | None = None,
) -> Array:
    times, length = (_ibmd_grid(system.bridge, nfe, settings), None) if grid is None else grid
    generate = system.generator(params, pair)
    return sample_few_step(generate, system.bridge, pair.xT, times, keys, clip=clip, length=length)


def _ibmd_calls(settings) -> int:
    n = settings.student_steps
    trained = n if settings.roll_out == "chain_through" else 1  # calls of x_0 with a gradient
    bridge_net = n + 3
    generator = n + 2 * trained + 2 + 2  # teacher and bridge net, there and back to x_t
    return settings.bridge_updates * bridge_net + generator


def _ibmd_check(settings, bridge: Bridge, corruption: Corruption) -> None:
    check_optimizer(settings.bridge_optimizer, "distill.bridge_optimizer")
    grid = student_grid(bridge, settings.student_steps)
    later = float(grid[1] if len(grid) > 1 else bridge.t_min) / float(bridge.T)
    if not later < settings.first_time:
        raise ValueError(
            f"distill.first_time is {settings.first_time}: it must be above {later:.3g}, the time of the "
            "next call, in units of T."
        )
    noisy = not bridge.deterministic and (settings.first_time < 1 or not bridge.pinned)
    if not (settings.z_channels or noisy or getattr(corruption, "fill", None) == "noise"):
        raise ValueError(
            "A student without z has no randomness at its first call: set distill.z_channels to 3, "
            "distill.first_time to 0.97, or corruption.fill to 'noise' for inpainting."
        )


# -- consistency ---------------------------------------------------------------------------------
def _consistency(system: System, settings, *, from_teacher: bool) -> tuple[MakeState, Step]:
    optimizer = make_optimizer(settings.optimizer, settings.steps)

    def make_state(key: Array, teacher: PyTree) -> State:
        generator = graft(teacher, system.init(key, system.student))
        return State.create(generator=Player.create(generator, optimizer))

    step = make_consistency_step(system, settings, optimizer, from_teacher=from_teacher)
    return make_state, step


def _boots(bridge: Bridge, nfe: int, settings) -> bool:
    return settings.boot and nfe > 1 and not bridge.deterministic


def _consistency_grid(bridge: Bridge, nfe: int, settings) -> np.ndarray:
    gamma = settings.gamma * float(bridge.T)
    return consistency_grid(bridge, nfe - _boots(bridge, nfe, settings), gamma)


def _sample_consistency(
    system: System,
    params: PyTree,
    pair: Pair,
    nfe: int,
    keys: Keys,
    settings,
    clip: bool = False,
    grid: Grid | None = None,
) -> Array:
    times, length = (
        (_consistency_grid(system.bridge, nfe, settings), None) if grid is None else grid
    )
    boot = _boots(system.bridge, nfe, settings)
    return sample_consistency(
        student_function(system, params, pair),
        system.bridge,
        pair.xT,
        times,
        keys,
        boot=student_denoiser(system, params, pair) if boot else None,
        clip=clip,
        length=length,
    )


def _consistency_check(settings, bridge: Bridge, corruption: Corruption) -> None:
    del corruption
    part = distill_part(settings.method)
    grain = consistency.grain(bridge) / float(bridge.T)
    for key in ("gamma", "dt"):
        if settings[key] < grain:
            raise ValueError(
                f"{part}.{key} is {settings[key]}: it must be at least {grain:.2g}, for times closer than "
                "that are one to this bridge."
            )
    if settings.distance == "pseudo_huber" and settings.distance_scale <= 0:
        raise ValueError(
            f"{part}.distance_scale is {settings.distance_scale}: pseudo_huber's gradient needs one "
            "above 0; give distance 'l2' for none."
        )


def _consistency_entry(name: str, *, from_teacher: bool, **defaults) -> Distiller:
    return Distiller(
        name,
        make=partial(_consistency, from_teacher=from_teacher),
        batch_shape=lambda settings: (settings.batch,),
        sample=_sample_consistency,
        grid=_consistency_grid,
        check=_consistency_check,
        # The student there and back, its target, and CBD's teacher.
        calls=lambda settings: 3 + 1 + from_teacher,
        sampler=name,
        settings=consistency_settings(**defaults),
    )


_ENTRIES = [
    Distiller(
        "ibmd",
        make=_ibmd,
        batch_shape=lambda settings: (settings.bridge_updates + 1, settings.batch),
        sample=_sample_ibmd,
        grid=_ibmd_grid,
        check=_ibmd_check,
        calls=_ibmd_calls,
        sampler="few_step",
        settings=IBMD_SETTINGS,
    ),
    _consistency_entry("cbd", from_teacher=True),
    _consistency_entry("cbt", from_teacher=False, gap="shrinking", gap_weight="inverse_gap"),
]
DISTILLERS = {entry.name: entry for entry in _ENTRIES}


def make_distiller(distill) -> tuple[Distiller, Any]:
    """The method that `config.distill` names, and its settings; an unknown name is a ValueError."""
    distiller = look_up("method of distillation", DISTILLERS, distill.get("method", "ibmd"))
    return distiller, distill_settings(distill)


def check_method(
    distill, method: str, bridge: Bridge, corruption: Corruption, asked: tuple[int, ...]
) -> None:
    """Refuses keys of `config.distill` with which `method` cannot run, whatever `distill.method` says.

    Args:
      distill: `config.distill`.
      method: a key of DISTILLERS.
      bridge, corruption: what the student will be trained on.
      asked: `config.evaluate.student_nfe`, the numbers of calls that it must be able to answer in.

    Raises:
      ValueError: one sentence that names the key.
    """
    distill = distill.copy_and_resolve_references()
    distill.method = method
    distiller, settings = make_distiller(distill)
    check_optimizer(settings.optimizer, f"{distill_part(method)}.optimizer")
    distiller.check(settings, bridge, corruption)
    for nfe in asked:
        try:
            distiller.grid(bridge, nfe, settings)
        except ValueError as error:
            raise ValueError(f"evaluate.student_nfe is {asked}. {error}") from None


def check_calls(distill, bridge: Bridge, nfe: int) -> None:
    """ValueError if a student that was trained with `config.distill` cannot answer in `nfe` calls."""
    student_times(distill, bridge, nfe)


def student_times(distill, bridge: Bridge, nfe: int) -> np.ndarray:
    """The times of its `nfe` calls, less those that its sampler makes elsewhere; raises as `check_calls`."""
    distiller, settings = make_distiller(distill)
    return distiller.grid(bridge, nfe, settings)


def sample_student(
    system: System,
    distill,
    params: PyTree,
    pair: Pair,
    nfe: int,
    keys: Keys,
    clip: bool = False,
    grid: Grid | None = None,
) -> Array:
    """The student's answer with exactly `nfe` network calls, `[B, H, W, C]`, by its method's sampler.

    Args:
      distill: `config.distill` of its training.
      params: averaged parameters of the player "generator".
      pair: what to restore.
      keys: `[B]`.
      clip: clamps the answer to [-1, 1].
      grid: see `Distiller.sample`.
    """
    distiller, settings = make_distiller(distill)
    return distiller.sample(system, params, pair, nfe, keys, settings, clip, grid)
