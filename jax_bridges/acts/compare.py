"""Several students of one teacher, compared with each other, with its samplers and with a prior."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from functools import partial

from ml_collections import ConfigDict

from jax_bridges.acts.compare_prior import check_prior, prior_jobs
from jax_bridges.acts.distil import of_papers, train_and_distil
from jax_bridges.bridges import Bridge
from jax_bridges.data import has_labels
from jax_bridges.players import DISTILL
from jax_bridges.samplers import make_sampler
from jax_bridges.stages.evaluate import evaluate, row_settings
from jax_bridges.stages.jobs import Job, source_job, student_sampler, teacher_sampler
from jax_bridges.stages.run import Run
from jax_bridges.training.system import System
from jax_bridges.typing import PyTree


def compare(run: Run, begin: Callable[[], None]) -> None:
    """Trains `compare.students` and evaluates `compare_jobs`."""
    runs = student_runs(run)
    teacher, students, weights = train_and_distil(run, begin, runs)
    jobs, left_out = compare_jobs(run, teacher, {n: (runs[n], p) for n, p in students.items()})
    said = {"left_out": left_out, "weights_of": weights}
    evaluate(run, jobs, settings(run.config), published=of_papers(run), **said)


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


def compare_jobs(
    run: Run, teacher: PyTree, students: dict[str, tuple[Run, PyTree]]
) -> tuple[list[Job], str]:
    """The rows of a comparison, and what was left out and why.

    Args:
      teacher: averaged parameters.
      students: name of the stage -> its run and averaged parameters.
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
    for student_run, params in students.values():
        method = student_run.config.distill.method
        for n in run.config.evaluate.student_nfe:
            make = partial(student_sampler, student_run, n)
            jobs.append(Job("student", method, n, make, params, f"student {method} {n}"))
    jobs += prior_jobs(run, has_labels(run.config.data))
    return jobs, " ".join(left_out)
