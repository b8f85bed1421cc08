"""What an evaluation restores images with: one job a row of the results."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

from jax_bridges.metrics import PROTOCOLS
from jax_bridges.samplers import make_sampler
from jax_bridges.stages.run import Run
from jax_bridges.times import padded
from jax_bridges.training.methods import find_method, sample_student, student_times
from jax_bridges.typing import PyTree


@dataclasses.dataclass(frozen=True)
class Job:
    """One row of the results.

    Attributes:
      model, sampler, nfe: as the row says; nfe is the number of calls that are really made.
      make: gives `sample(params, batch, key) -> images [B, H, W, C]` as `evaluate.protocol` keeps them,
        or (images, gap [B]) where it knows by how much they miss what was measured.
      params: averaged parameters.
      label: of its column in the pictures; "": it is not shown.
      task: of rows that compete among themselves; "" where all rows do.
      unpaired: its images restore nothing, they are samples: measured as a set alone.
      training_calls: see `Row`.
    """

    model: str
    sampler: str
    nfe: int
    make: Callable[[], Callable]
    params: PyTree
    label: str
    task: str = ""
    unpaired: bool = False
    training_calls: float | None = None


def teacher_sampler(run: Run, nfe: int, name: str = "") -> Callable:
    """`sample(params, batch, key) -> [B, H, W, C]` of the teacher with at most `nfe` calls.

    Images are as `evaluate.protocol` keeps them: uint8, but for DDNM's floats.

    Args:
      name: of the sampler, with knobs if need be (`make_sampler`); that of `config.evaluate` by default.
    """
    sampler = make_sampler(name or run.config.evaluate.sampler)
    system, keep = run.system, PROTOCOLS[run.config.evaluate.protocol].keep

    def sample(given, batch, key):
        params, (times, length) = given
        pair = system.prepare(batch, key, augment=False)
        denoise, keys = system.denoiser(params, pair), pair.sampling_keys
        return keep(sampler.sample(denoise, system.bridge, pair.xT, times, keys, length=length))

    grid = padded(sampler.grid(system.bridge, nfe))
    return _on_grid(run, f"the sampler {sampler.name}", sample, grid)


def student_sampler(run: Run, nfe: int) -> Callable:
    """`sample(params, batch, key) -> [B, H, W, C]` of the student with `nfe` calls, kept likewise."""
    system, distill = run.system, run.config.distill
    keep = PROTOCOLS[run.config.evaluate.protocol].keep
    times = student_times(distill, system.bridge, nfe)

    def sample(given, batch, key):
        params, grid = given
        pair = system.prepare(batch, key, augment=False)
        keys = pair.sampling_keys
        return keep(sample_student(system, distill, params, pair, nfe, keys, grid=grid))

    # A program for those that leave as many calls out of their grid.
    name = "the student's sampler" + ", booted" * (nfe - len(times))
    return _on_grid(run, name, sample, padded(times))


def _on_grid(run: Run, name: str, sample: Callable, grid: tuple) -> Callable:
    """`sample((params, grid), batch, key)` on one grid: one program for all numbers of network calls."""
    program = run.program(name, lambda: run.parallel.map(sample))
    return lambda params, batch, key: program((params, grid), batch, key)


def source_images(run: Run) -> Callable:
    """`sample(params, batch, key)`: the corrupted images themselves, as `teacher_sampler` gives its."""
    keep = PROTOCOLS[run.config.evaluate.protocol].keep

    def sample(params, batch, key):
        del params
        return keep(run.system.prepare(batch, key, augment=False).xT)

    return run.program("the corruption", lambda: run.parallel.map(sample))


def source_job(run: Run) -> Job:
    """The row of the corrupted images themselves."""
    return Job("source", "-", 0, partial(source_images, run), None, "source")


def plain_jobs(run: Run, teacher: PyTree, student: PyTree) -> list[Job]:
    """The rows of a run with one student: `evaluate.sampler` and the student's own."""
    config, sampler = run.config.evaluate, make_sampler(run.config.evaluate.sampler)
    method, _ = find_method(run.config.distill)
    jobs, seen = [source_job(run)], set()
    for budget in config.teacher_nfe:
        calls = sampler.calls(sampler.grid(run.system.bridge, budget))
        if calls in seen:  # a smaller budget has spent as many
            continue
        seen.add(calls)
        make = partial(teacher_sampler, run, budget)
        jobs.append(Job("teacher", sampler.name, calls, make, teacher, f"teacher {calls}"))
    for n in config.student_nfe:
        make = partial(student_sampler, run, n)
        jobs.append(Job("student", method.sampler, n, make, student, f"student {n}"))
    return jobs
