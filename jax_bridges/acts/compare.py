"""Several students of one teacher, compared with each other, its samplers, baselines and a prior."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable
from functools import partial

from ml_collections import ConfigDict

from jax_bridges.acts.compare_baselines import (
    MODEL,
    baseline_runs,
    seconds_of,
    taught,
)
from jax_bridges.acts.compare_prior import check_prior, prior_jobs
from jax_bridges.acts.compare_time import equal_time
from jax_bridges.acts.distil import of_papers, train_and_distil
from jax_bridges.bridges import Bridge
from jax_bridges.data import has_labels
from jax_bridges.players import DISTILL, is_baseline
from jax_bridges.samplers import make_sampler
from jax_bridges.stages.evaluate import evaluate, row_settings
from jax_bridges.stages.jobs import Job, source_job, student_sampler, teacher_sampler
from jax_bridges.stages.run import Run
from jax_bridges.training.methods import find_method
from jax_bridges.training.methods.pairs import teacher_calls
from jax_bridges.training.system import System
from jax_bridges.typing import PyTree


def compare(run: Run, begin: Callable[[], None]) -> None:
    """Trains `compare.students` and `compare.baselines`, and evaluates `compare_jobs`."""
    others, reasons = baseline_runs(run)
    runs = student_runs(run) | others
    if run.config.compare.equal == "seconds":
        runs = equal_time(run, runs)
    teacher, trained, weights = train_and_distil(run, begin, runs)
    jobs, left_out = compare_jobs(run, teacher, {n: (runs[n], p) for n, p in trained.items()})
    said = {"left_out": " ".join(filter(None, (left_out, *reasons))), "weights_of": weights}
    if run.config.compare.baselines:
        said["trained_in"] = seconds_of(run.workdir)
    evaluate(run, jobs, settings(run.config), published=of_papers(run), **said)


def is_comparison(config: ConfigDict) -> bool:
    """Whether there is something to compare a teacher with."""
    return bool(config.compare.students or config.compare.baselines)


def settings(config: ConfigDict) -> str:
    """What the rows depend on."""
    compared = json.loads(config.compare.to_json_best_effort())
    return json.dumps({"evaluate": row_settings(config), "compare": compared})


def student_runs(run: Run) -> dict[str, Run]:
    """The run of each student by the name of its stage, `distill_METHOD`.

    A student's run is the run itself with `distill.method` and the networks that the method needs.
    """
    check_prior(run.config, has_labels(run.config.data))  # before any training
    runs = {}
    for method in run.config.compare.students:
        config = of_method(run.config, method)
        system = System.create(config)
        runs[f"{DISTILL}_{method}"] = dataclasses.replace(
            run, config=config, system=system, programs={}
        )
    return runs


def of_method(config, method: str):
    """A copy of the configuration whose `distill.method` is `method`."""
    config = config.copy_and_resolve_references()
    config.distill.method = method
    return config


def teacher_rows(bridge: Bridge, compare) -> tuple[list[tuple[str, int, int]], list[str]]:
    """(sampler, budget, network calls) of the teacher's rows, and a sentence for each left out.

    A sampler that spends less than a budget counts with what it spends, once.
    """
    rows, reasons = [], {}
    for sampler in compare.samplers:
        entry = make_sampler(sampler)
        seen: dict[int, int] = {}
        for budget in compare.teacher_nfe:
            reason = entry.why_not(bridge, budget)
            if not reason:
                calls = entry.calls(entry.grid(bridge, budget))
                if calls in seen:
                    reason = f"It spends {calls} calls, as with a budget of {seen[calls]}."
            if reason:
                reason = reason.split("; nfe =")[0].removesuffix(".")
                reasons.setdefault((sampler, reason), []).append(str(budget))
                continue
            seen[calls] = budget
            rows.append((sampler, budget, calls))
    return rows, [
        f"{sampler} at {', '.join(budgets)}: {reason}."
        for (sampler, reason), budgets in reasons.items()
    ]


def told_cost(config: ConfigDict, jobs: list[Job], runs: Iterable[Run]) -> list[Job]:
    """Rows with what their training has cost; a student's with its teacher's, where that is known."""
    train, methods = taught(config), {}
    for its in runs:
        methods[its.config.distill.method] = find_method(its.config.distill)
    by_teacher = None if train is None else teacher_calls(train)

    def cost(job: Job) -> float | None:
        if job.model == "teacher" or (job.model == "student" and by_teacher is None):
            return by_teacher
        if job.sampler not in methods:
            return None
        method, settings = methods[job.sampler]
        own = method.calls(settings) * settings.batch * settings.steps
        return own if job.model == MODEL else by_teacher + own

    return [dataclasses.replace(job, training_calls=cost(job)) for job in jobs]


def compare_jobs(
    run: Run, teacher: PyTree, trained: dict[str, tuple[Run, PyTree]]
) -> tuple[list[Job], str]:
    """The rows of a comparison, and what was left out and why.

    Args:
      teacher: averaged parameters.
      trained: name of a student's or baseline's stage -> its run and averaged parameters.
    """
    rows, left_out = teacher_rows(run.system.bridge, run.config.compare)
    # Pictures of all rows would be a wall: the teacher's first sampler, fewest and most calls of it.
    first = [calls for sampler, _, calls in rows if sampler == rows[0][0]]
    shown = {(rows[0][0], calls) for calls in (min(first), max(first))} if rows else set()
    jobs = [source_job(run)]
    for sampler, budget, calls in rows:
        label = f"teacher {sampler} {calls}" if (sampler, calls) in shown else ""
        make = partial(teacher_sampler, run, budget, sampler)
        jobs.append(Job("teacher", sampler, calls, make, teacher, label))
    for its, params in trained.values():
        method, budgets = its.config.distill.method, its.config.evaluate.student_nfe
        model = MODEL if is_baseline(method) else "student"
        for n in budgets:
            make = partial(student_sampler, its, n)
            shown = model == "student" or n == max(budgets)
            label = f"{model} {method} {n}" if shown else ""
            jobs.append(Job(model, method, n, make, params, label))
    if run.config.compare.baselines:
        jobs = told_cost(run.config, jobs, [its for its, _ in trained.values()])
    jobs += prior_jobs(run, has_labels(run.config.data))
    return jobs, " ".join(left_out)
