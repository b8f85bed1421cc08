"""Stage 3: teacher and student on held-out images, each at several numbers of network calls."""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import json
import os
import platform
import re
import shlex
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from jax_bridges.data import first
from jax_bridges.keys import Purpose, Stream, fold
from jax_bridges.metrics import PROTOCOLS, Measure, hole_crop, psnr
from jax_bridges.report.pictures import grid, save_png
from jax_bridges.report.published import published_rows
from jax_bridges.report.results import read_results, write_results
from jax_bridges.report.table import format_table
from jax_bridges.samplers import make_sampler
from jax_bridges.stages.run import Run, Stopped
from jax_bridges.training import hosts
from jax_bridges.training.distillers import check_calls, make_distiller, sample_student
from jax_bridges.training.state import State
from jax_bridges.typing import PyTree


def teacher_sampler(run: Run, nfe: int, name: str = "") -> Callable:
    """`sample(params, batch, key) -> [B, H, W, C]` of the teacher with at most `nfe` calls.

    Images are as `evaluate.protocol` keeps them: uint8, but for DDNM's floats.

    Args:
      name: of the sampler, with knobs if need be (`make_sampler`); that of `config.evaluate` by default.
    """
    sampler = make_sampler(name or run.config.evaluate.sampler)
    system, keep = run.system, PROTOCOLS[run.config.evaluate.protocol].keep
    times = sampler.grid(system.bridge, nfe)

    def sample(params, batch, key):
        pair = system.prepare(batch, key, augment=False)
        denoise = system.denoiser(params, pair)
        keys = fold(pair.keys, Stream.SAMPLE)
        return keep(sampler.sample(denoise, system.bridge, pair.xT, times, keys))

    return run.parallel.map(sample)


def student_sampler(run: Run, nfe: int) -> Callable:
    """`sample(params, batch, key) -> [B, H, W, C]` of the student with `nfe` calls, kept likewise."""
    system, distill = run.system, run.config.distill
    keep = PROTOCOLS[run.config.evaluate.protocol].keep
    check_calls(distill, system.bridge, nfe)

    def sample(params, batch, key):
        pair = system.prepare(batch, key, augment=False)
        keys = fold(pair.keys, Stream.SAMPLE)
        return keep(sample_student(system, distill, params, pair, nfe, keys))

    return run.parallel.map(sample)


def source_images(run: Run) -> Callable:
    """`sample(params, batch, key)`: the corrupted images themselves, as `teacher_sampler` gives its."""
    keep = PROTOCOLS[run.config.evaluate.protocol].keep

    def sample(params, batch, key):
        del params
        return keep(run.system.prepare(batch, key, augment=False).xT)

    return run.parallel.map(sample)


class Picture:
    """Saves samples/STAGE-STEP.png: source, predictions and target of the first held-out images."""

    def __init__(self, run: Run):
        self.run = run
        self._functions: dict = {}

    def _images(self, name: str, make: Callable, params: PyTree) -> np.ndarray:
        if name not in self._functions:
            self._functions[name] = make()
        images = self._functions[name](params, self._batch(), self.run.key(Purpose.EVALUATE))
        return _pixels(self.run, images[: self._count])

    @property
    def _count(self) -> int:
        return min(self.run.config.evaluate.pictures, len(self.run.test_data))

    def _batch(self) -> dict[str, np.ndarray]:
        """As large as the evaluation's, so that what is compiled here need not be compiled there."""
        parts = -(-self._count // self.run.config.evaluate.batch)
        return pad(first(self.run.test_data, self._count), parts * self.run.config.evaluate.batch)

    def _save(self, stage: str, step: int, columns: dict[str, np.ndarray]) -> None:
        target = first(self.run.test_data, self._count)["x0"]
        columns = {
            "source": self._images("source", lambda: source_images(self.run), None)
        } | columns
        if hosts.is_chief():
            save_png(
                self.run.workdir / "samples" / f"{stage}-{step}.png",
                grid({**columns, "target": target}, box=outline(self.run)),
            )

    def teacher(self, stage: str, state: State, step: int) -> None:
        """The teacher at its smallest number of calls."""
        nfe = min(self.run.config.evaluate.teacher_nfe)
        images = self._images(
            "teacher", lambda: teacher_sampler(self.run, nfe), state.players["teacher"].ema
        )
        self._save(stage, step, {f"teacher {nfe}": images})

    def student(self, run: Run, stage: str, teacher: PyTree, state: State, step: int) -> None:
        """The teacher and the student of `run`, both at their smallest number of calls."""
        nfe, few = (
            min(n)
            for n in (self.run.config.evaluate.teacher_nfe, self.run.config.evaluate.student_nfe)
        )
        by_teacher = self._images("teacher", lambda: teacher_sampler(self.run, nfe), teacher)
        params = state.players["generator"].ema
        by_student = self._images(stage, lambda: student_sampler(run, few), params)
        self._save(stage, step, {f"teacher {nfe}": by_teacher, f"student {few}": by_student})


def outline(run: Run) -> tuple[int, int, int, int] | None:
    """The hole as (top, left, height, width), where it is one fixed rectangle."""
    box = run.system.corruption.hole_box(*run.system.size)
    return (box[0], box[1], box[2] - box[0], box[3] - box[1]) if box else None


def pad(batch: dict[str, np.ndarray], size: int) -> dict[str, np.ndarray]:
    """The batch with its last example repeated up to `size` examples."""
    return {
        k: np.concatenate([v, np.repeat(v[-1:], size - len(v), axis=0)]) for k, v in batch.items()
    }


@dataclasses.dataclass(frozen=True)
class Job:
    """One row of the results.

    Attributes:
      model, sampler, nfe: as the row says; nfe is the number of calls that are really made.
      make: gives `sample(params, batch, key) -> uint8`.
      params: averaged parameters.
      label: of its column in the pictures; "": it is not shown.
    """

    model: str
    sampler: str
    nfe: int
    make: Callable[[], Callable]
    params: PyTree
    label: str


def plain_jobs(run: Run, teacher: PyTree, student: PyTree) -> list[Job]:
    """The rows of a run with one student: `evaluate.sampler` and the student's own."""
    config, sampler = run.config.evaluate, make_sampler(run.config.evaluate.sampler)
    distiller, _ = make_distiller(run.config.distill)
    jobs, seen = [], set()
    for budget in config.teacher_nfe:
        calls = sampler.calls(sampler.grid(run.system.bridge, budget))
        if calls in seen:  # a smaller budget has spent as many
            continue
        seen.add(calls)
        make = partial(teacher_sampler, run, budget)
        jobs.append(Job("teacher", sampler.name, calls, make, teacher, f"teacher {calls}"))
    for n in config.student_nfe:
        make = partial(student_sampler, run, n)
        jobs.append(Job("student", distiller.sampler, n, make, student, f"student {n}"))
    return jobs


def evaluate(run: Run, teacher: PyTree, student: PyTree) -> dict:
    """Teacher and student: `evaluate_jobs` with the rows of `config.evaluate`.

    Args:
      teacher, student: averaged parameters.
    """
    settings = json.loads(run.config.evaluate.to_json_best_effort())
    return evaluate_jobs(run, plain_jobs(run, teacher, student), settings)


def evaluate_jobs(run: Run, jobs: list[Job], settings: dict, left_out: str = "") -> dict:
    """Writes results.json and samples/evaluate.png, and prints the table; done once a configuration.

    All jobs see the same images, corruptions and keys. A first row, of the corrupted images
    themselves, is added. Of several hosts each restores its share of a batch and has all results;
    the first writes.

    Args:
      settings: what the rows depend on: with other settings, they are measured again.
      left_out: what is not among the rows, and why.

    Returns:
      The results as written.
    """
    config, path = run.config.evaluate, run.workdir / "results.json"
    results = earlier_results(path)
    if results and results["measured"].get("settings") == json.dumps(settings):
        print(f"evaluate: already done\n{format_table(results['rows'])}", flush=True)
        return results

    jobs = [Job("source", "-", 0, partial(source_images, run), None, "source"), *jobs]
    images = min(config.images, len(run.test_data))
    if images < config.images:
        print(
            f"evaluate: all {images} held-out images ({config.images} were asked for)", flush=True
        )
    data = first(run.test_data, images)
    regions = {"": lambda a: a}
    box = run.system.corruption.hole_box(*run.system.size)
    if box:
        regions["_hole"] = lambda a: hole_crop(a, box, config.margin)
    measures = {
        region: Measure(config, crop(data["x0"]), data.get("label"), hole=bool(region))
        for region, crop in regions.items()
    }

    holes = hole_masks(run, data, config.batch) if "psnr" in config.metrics else None
    region = (
        f"hole {box[2] - box[0]}x{box[3] - box[1]} + margin {config.margin}"
        if box
        else "whole image"
    )
    if holes is not None:
        region = "each image's own hole, without margin"

    rows, shown = [], {}
    silent = None if sys.stderr.isatty() and hosts.is_chief() else True
    bar = tqdm(jobs, desc="evaluate", unit="row", disable=silent)
    for job in bar:
        restored, seconds = restore_all(run, job.make(), job.params, data, config.batch)
        row = {"model": job.model, "sampler": job.sampler, "nfe": job.nfe, "images": images}
        if job.nfe:
            row["seconds_per_image"] = seconds
        for part, crop in regions.items():
            again = None if part else partial(consistency, run, restored, data, config.batch)
            values = measures[part](crop(restored), again)
            for name, interval in values.pop("intervals", {}).items():
                row.setdefault("intervals", {})[name + part] = interval
            row.update({name + part: value for name, value in values.items()})
        if holes is not None:
            in_hole = psnr(_pixels(run, restored), data["x0"], holes)
            row["psnr_hole"] = float(np.nanmean(in_hole))
        rows.append(row)
        if job.label:
            shown[job.label] = _pixels(run, restored[: config.pictures])
        if bar.disable:
            print(f"evaluate: {job.label or f'{job.sampler} {job.nfe}'}", flush=True)

    if config.published:
        place = (config.published, config.protocol, config.published_data, images)
        rows += published_rows(*place, metrics=config.metrics)
    shown["target"] = data["x0"][: config.pictures]
    if hosts.is_chief():
        save_png(run.workdir / "samples" / "evaluate.png", grid(shown, box=outline(run)))
    results = {
        "title": f"{run.config.task}: {run.system.size[0]}x{run.system.size[1]}, {run.config.data.name}",
        "task": run.config.task,
        "dataset": run.test_data.name,
        "measured": {
            **measured(run, images),
            "region": region,
            **measures[""].how(),
            "settings": json.dumps(settings),
            **({"left_out": left_out} if left_out else {}),
        },
        "rows": rows,
        "pictures": ["samples/evaluate.png"],
        "comparisons": comparisons(run, shown),
    }
    if hosts.is_chief():
        write_results(path, results)
    print(format_table(rows), flush=True)
    return results


def earlier_results(path: Path) -> dict | None:
    """What results.json holds; None where it is not there, or where it is said to be unreadable."""
    try:
        return read_results(path)
    except FileNotFoundError:
        return None
    except ValueError:  # cut short, or written by something else
        print(f"evaluate: {path} cannot be used and is measured anew", flush=True)
        return None


def restore_all(
    run: Run, sample: Callable, params: PyTree, data: dict[str, np.ndarray], size: int
) -> tuple[PyTree, float]:
    """What `sample` gives, of all images: arrays `[N, ...]`; and seconds an image.

    The first batch, which compiles, is not timed; a lone batch is made twice.
    """
    images, key = len(data["index"]), run.key(Purpose.EVALUATE)
    starts = list(range(0, images, size))
    parts, spent = [], []
    for start in starts if len(starts) > 1 else starts * 2:
        if run.stop.is_set():
            raise Stopped("evaluate: stopped, nothing of the table is kept")
        part = pad({k: v[start : start + size] for k, v in data.items()}, size)
        begin = time.perf_counter()
        parts.append(sample(params, part, key))
        spent.append(time.perf_counter() - begin)
    whole = jax.tree.map(lambda *each: np.concatenate(each)[:images], *parts)
    return whole, float(np.mean(spent[1:])) / size


def hole_masks(run: Run, data: dict[str, np.ndarray], size: int) -> np.ndarray | None:
    """Holes that differ from image to image, `[N, H, W, 1]`, 1 where pixels are missing; else None."""

    def sample(params, batch, key):
        del params
        return run.system.prepare(batch, key, augment=False).mask

    one = {k: v[:1] for k, v in data.items()}
    fixed = run.system.corruption.hole_box(*run.system.size)
    if fixed or jax.eval_shape(sample, None, one, run.key(Purpose.EVALUATE)) is None:
        return None
    return restore_all(run, run.parallel.map(sample), None, data, size)[0]


def consistency(
    run: Run, restored: np.ndarray, data: dict[str, np.ndarray], size: int
) -> np.ndarray | None:
    """||A x0_hat - y||, `[N]`: root mean square of what the corruption makes of the restored images
    minus x_T, both with the example's own noise and mask, in units of [-1, 1].

    The whole of x_T counts, and A is the corruption itself, so that it need not be linear. None for
    paired data, whose corruption is not known.
    """
    if "xT" in data:
        return None

    def gap(params, batch, key):
        del params
        mine = run.system.prepare({**batch, "x0": batch["restored"]}, key, augment=False)
        gap = mine.xT - run.system.prepare(batch, key, augment=False).xT
        return jax.numpy.sqrt(jax.numpy.square(gap).mean((1, 2, 3)))

    if restored.dtype != np.uint8:  # as `prepare` takes it
        restored = (restored + 1) * 127.5
    measure, values = run.parallel.map(gap), []
    for start in range(0, len(restored), size):
        part = {k: v[start : start + size] for k, v in {**data, "restored": restored}.items()}
        count = len(part["restored"])
        values.append(np.asarray(measure(None, pad(part, size), run.key(Purpose.EVALUATE)))[:count])
    return np.concatenate(values)


def _pixels(run: Run, images: np.ndarray) -> np.ndarray:
    """Images as a protocol keeps them, in uint8."""
    return np.asarray(PROTOCOLS[run.config.evaluate.protocol].pixels(images))


def comparisons(run: Run, shown: dict[str, np.ndarray]) -> list[dict]:
    """Single pictures for the report's slider: what is compared, image by image."""
    items = []
    for i in range(len(shown["target"])):
        names = {}
        for name, images in shown.items():
            plain = re.sub(r"[^\w.]+", "-", name)
            names[name] = f"samples/compare/{i}-{plain}.png"
            if hosts.is_chief():
                save_png(run.workdir / names[name], images[i])
        items.append({"label": f"test image {i}", "images": names})
    return items


def measured(run: Run, images: int) -> dict:
    """How, where and when the rows were measured."""
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    device = jax.devices()[0]
    return {
        "images": images,
        "size": list(run.system.size),
        "command": shlex.join(["python", "-m", "jax_bridges.main", *sys.argv[1:]]),
        "machine": f"{jax.device_count()} x {device.device_kind}, {os.cpu_count()} cores, "
        f"{platform.machine()}",
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "versions": {p: importlib.metadata.version(p) for p in packages}
        | {"python": platform.python_version()},
    }
