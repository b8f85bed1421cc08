"""A teacher, trained or taken, one student of it, and both on held-out images."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial

import jax
from ml_collections import ConfigDict

from jax_bridges.keys import Purpose
from jax_bridges.planning.plan import plan_stages
from jax_bridges.players import DISTILL, TRAIN
from jax_bridges.report.published import published_rows
from jax_bridges.report.row import Row
from jax_bridges.stages.distill import distill
from jax_bridges.stages.evaluate import evaluate
from jax_bridges.stages.jobs import plain_jobs
from jax_bridges.stages.pictures import Previews
from jax_bridges.stages.run import Run, train_stage
from jax_bridges.stages.train import load_teacher, train
from jax_bridges.typing import PyTree


def distil(run: Run, begin: Callable[[], None]) -> None:
    """The rows of `config.evaluate`: `evaluate.sampler` and the student's own."""
    teacher, students = train_and_distil(run, begin, {DISTILL: run})
    jobs = plain_jobs(run, teacher, students[DISTILL])
    evaluate(run, jobs, settings(run.config), published=of_papers(run))


def settings(config: ConfigDict) -> str:
    """What the rows depend on."""
    return json.dumps(json.loads(config.evaluate.to_json_best_effort()))


def train_and_distil(
    run: Run, begin: Callable[[], None], student_runs: dict[str, Run]
) -> tuple[PyTree, dict[str, PyTree]]:
    """Plans, then trains what is not trained yet.

    Args:
      begin: makes the work directory; called when nothing is left that could refuse the run.
      student_runs: the run of each student, by the name of its stage.

    Returns:
      Averaged parameters of the teacher, and of the student of each stage.
    """
    # -- plan ------------------------------------------------------------------------------------------
    config, system, stages = run.config, run.system, []
    if config.teacher.checkpoint:
        teacher = load_teacher(run, config.teacher.checkpoint)
    else:
        teacher_stage = train(run)
        stages.append((run, teacher_stage))
        shapes = jax.eval_shape(lambda k: system.init(k, "teacher"), run.key(Purpose.INIT_TEACHER))
        # For the plan; laid out like the teacher that will take its place in the compiled step.
        teacher = run.parallel.init(
            lambda: jax.tree.map(lambda s: jax.numpy.zeros(s.shape, s.dtype), shapes)
        )
    student_stages = [(its, distill(its, teacher, name)) for name, its in student_runs.items()]
    plan_stages(run, stages + student_stages)
    begin()

    # -- teacher ---------------------------------------------------------------------------------------
    previews = Previews(run)
    if not config.teacher.checkpoint:
        show = partial(previews.teacher, TRAIN)
        teacher = train_stage(run, teacher_stage, show)

    # -- students ----------------------------------------------------------------------------------------
    students = {}
    for its, stage in student_stages:
        stage.frozen = teacher
        show = partial(previews.student, its, stage.name, teacher)
        students[stage.name] = train_stage(its, stage, show)
    return teacher, students


def of_papers(run: Run) -> Callable[[int], list[Row]] | None:
    """`published(images)` of `evaluate`: the rows of `evaluate.published`; None where it is not set."""
    config = run.config.evaluate

    def rows(images: int) -> list[Row]:
        place = (config.published, config.protocol, config.published_data, images)
        return published_rows(*place, metrics=config.metrics)

    return rows if config.published else None
