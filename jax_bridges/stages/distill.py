"""Stage 2: the student, distilled from the teacher by `config.distill.method`; or what learns without one."""

from __future__ import annotations

from functools import partial

from jax_bridges.keys import Purpose
from jax_bridges.players import DISTILL
from jax_bridges.stages.run import Run, Stage
from jax_bridges.stages.teacher import raw_teacher
from jax_bridges.training.methods import PAIR_METHODS, find_method
from jax_bridges.typing import PyTree


def distill(run: Run, teacher: PyTree, name: str = DISTILL) -> Stage:
    """The stage that trains the player "generator" (IBMD: and "bridge_net"), started from the teacher.

    One of PAIR_METHODS starts from nothing and reads no teacher.

    Args:
      teacher: its averaged parameters, or their shapes (for the plan).
      name: of the stage, where a run distils several students.
    """
    method, settings = find_method(run.config.distill)
    make_state, step = method.make(run.system, settings)
    batch_shape, alone = method.batch_shape(settings), method.name in PAIR_METHODS
    return Stage(
        name=name,
        init=Purpose.INIT_STUDENT,
        draws=Purpose.TRAIN_STUDENT,
        make_state=make_state,
        step=run.parallel.step(step, batch_axis=len(batch_shape) - 1),
        batch_shape=batch_shape,
        steps=settings.steps,
        max_skipped=settings.max_skipped,
        player="generator",
        frozen=None if alone else teacher,
        raw=partial(raw_teacher, run) if method.raw(settings) else None,
    )
