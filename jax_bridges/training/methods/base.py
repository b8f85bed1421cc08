"""What a way to train a student is: one `Method`, made in a file of its own beside its pure losses.

All work on the same `State`: the student is the player "generator", a copy of the teacher's network at
the start, and is sampled from its average. What else plays is the method's own matter.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from jax_bridges.bridges import Bridge
from jax_bridges.corruptions import Corruption
from jax_bridges.schema import Setting
from jax_bridges.training.state import State
from jax_bridges.training.steps import Step
from jax_bridges.training.system import System
from jax_bridges.typing import AnyArray, Array

MakeState = Callable[..., State]
Grid = tuple[AnyArray, Array | None]  # times, or steps, and length, as the samplers take them


@dataclasses.dataclass(frozen=True)
class Method:
    """One method. `settings` of its functions is what `distill_settings` gives for it.

    Attributes:
      name: its key in METHODS.
      networks: `networks(settings)`, player -> what its network has besides the teacher's settings, or a
        network of another kind; those alone are built. "generator" is the student.
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
      raw: `raw(settings)`, whether its players start from the teacher's raw weights: `make_state` then takes
        them too, `make_state(key, teacher, raw)`.
      settings: the rows it reads, those that all methods share (`training.settings.SHARED`) among them.
      optimizers: `optimizers(settings)`, names of its optimisers' settings.
      of_length: `of_length(settings)`, what besides their schedules makes a step depend on how many there
        will be: clauses that start with "KEY is VALUE".
    """

    name: str
    networks: Callable[[Any], dict[str, Any]]
    make: Callable[[System, Any], tuple[MakeState, Step]]
    batch_shape: Callable[[Any], tuple[int, ...]]
    sample: Callable[..., Array]
    grid: Callable[[Bridge, int, Any], np.ndarray]
    check: Callable[[Any, Bridge, Corruption], None]
    calls: Callable[[Any], float]
    sampler: str
    settings: tuple[Setting, ...]
    raw: Callable[[Any], bool] = lambda settings: False
    optimizers: Callable[[Any], tuple[str, ...]] = lambda settings: ("optimizer",)
    of_length: Callable[[Any], list[str]] = lambda settings: []
