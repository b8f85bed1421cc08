"""A teacher, trained or taken, one student of it, and both on held-out images."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial

from ml_collections import ConfigDict

from jax_bridges.planning.plan import plan_stages
from jax_bridges.players import DISTILL, TRAIN
from jax_bridges.report.published import published_rows
from jax_bridges.report.row import Row
from jax_bridges.stages.distill import distill
from jax_bridges.stages.evaluate import evaluate, row_settings
from jax_bridges.stages.held_out import chosen, watch
from jax_bridges.stages.jobs import plain_jobs, student_sampler, teacher_sampler
from jax_bridges.stages.pictures import Previews
from jax_bridges.stages.run import Run, train_stage
from jax_bridges.stages.teacher import blank_teacher, load_teacher
from jax_bridges.stages.train import train
from jax_bridges.typing import PyTree


def distil(run: Run, begin: Callable[[], None]) -> None:
    """The rows of `config.evaluate`: `evaluate.sampler` and the student's own."""
    teacher, students, weights = train_and_distil(run, begin, {DISTILL: run})
    jobs = plain_jobs(run, teacher, students[DISTILL])
    evaluate(run, jobs, settings(run.config), published=of_papers(run), weights_of=weights)


def settings(config: ConfigDict) -> str:
    """What the rows depend on."""
    return json.dumps(row_settings(config))


def train_and_distil(
    run: Run, begin: Callable[[], None], student_runs: dict[str, Run]
) -> tuple[PyTree, dict[str, PyTree], str]:
    """Plans, then trains what is not trained yet.

    Args:
      begin: makes the work directory; called when nothing is left that could refuse the run.
      student_runs: the run of each student or baseline, by the name of its stage.

    Returns:
      Averaged parameters of the teacher, and of what each of these stages trained, that are to be evaluated;
      and which step's they are, where `evaluate.best` asks for others than the last's.
    """
    # -- plan ------------------------------------------------------------------------------------------
    config, stages = run.config, []
    if config.teacher.checkpoint:
        teacher = load_teacher(run, config.teacher.checkpoint)
    else:
        teacher_stage = train(run)
        stages.append((run, teacher_stage))
        teacher = blank_teacher(run)  # for the plan; the trained one takes its place in the step
    student_stages = [(its, distill(its, teacher, name)) for name, its in student_runs.items()]
    plan_stages(run, stages + student_stages)
    begin()

    # -- teacher ---------------------------------------------------------------------------------------
    previews, told = Previews(run), []
    calls = min(config.evaluate.teacher_nfe)
    evaluated = teacher
    if not config.teacher.checkpoint:
        show = partial(previews.teacher, TRAIN)
        sample = partial(teacher_sampler, run, calls)
        looks = watch(run, teacher_stage, f"teacher {calls}", sample)
        teacher = train_stage(run, teacher_stage, show, looks)
        evaluated, of = chosen(run, teacher_stage, teacher)
        told.append(of)

    # -- students ----------------------------------------------------------------------------------------
    students = {}
    for its, stage in student_stages:
        if stage.frozen is not None:
            stage.frozen = teacher
        show = partial(previews.student, its, stage.name, teacher)
        few = min(its.config.evaluate.student_nfe)
        looks = watch(its, stage, f"student {few}", partial(student_sampler, its, few))
        last = train_stage(its, stage, show, looks)
        students[stage.name], of = chosen(its, stage, last)
        told.append(of)
    return evaluated, students, "; ".join(filter(None, told))


def of_papers(run: Run) -> Callable[[int], list[Row]] | None:
    """`published(images)` of `evaluate`: the rows of `evaluate.published`; None where it is not set."""
    config = run.config.evaluate

    def rows(images: int) -> list[Row]:
        place = (config.published, config.protocol, config.published_data, images)
        return published_rows(*place, metrics=config.metrics)

    return rows if config.published else None
