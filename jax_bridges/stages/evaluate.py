"""Stage 3: teacher and student on held-out images, each at several numbers of network calls."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable

import jax
import numpy as np
from tqdm import tqdm

from jax_bridges.data import first
from jax_bridges.keys import fold
from jax_bridges.metrics import PAIR_METRICS, fd_lite0, hole_crop, lite0_outputs, to_uint8
from jax_bridges.report.pictures import grid, save_png
from jax_bridges.report.results import read_results, write_results
from jax_bridges.report.table import format_table
from jax_bridges.samplers import SAMPLERS, sample_few_step
from jax_bridges.stages.run import Run, Stopped
from jax_bridges.times import student_grid
from jax_bridges.training.state import State
from jax_bridges.typing import PyTree

EVALUATE = 2  # stream of randomness
SAMPLE = 10  # of an example, beside those of training/system.py


def teacher_sampler(run: Run, nfe: int) -> Callable:
    """`sample(params, batch, key) -> uint8 [B, H, W, C]` of the teacher with at most `nfe` calls."""
    sampler = SAMPLERS[run.config.evaluate.sampler]
    system = run.system
    times = sampler.grid(system.bridge, nfe)

    def sample(params, batch, key):
        pair = system.prepare(batch, key, augment=False)
        denoise = system.denoiser(params, pair)
        return to_uint8(
            sampler.sample(denoise, system.bridge, pair.xT, times, fold(pair.keys, SAMPLE))
        )

    return run.parallel.map(sample)


def student_sampler(run: Run, nfe: int) -> Callable:
    """`sample(params, batch, key) -> uint8 [B, H, W, C]` of the student with `nfe` calls."""
    system = run.system
    times = student_grid(system.bridge, nfe, run.config.distill.student_steps)

    def sample(params, batch, key):
        pair = system.prepare(batch, key, augment=False)
        generate = system.generator(params, pair)
        return to_uint8(
            sample_few_step(generate, system.bridge, pair.xT, times, fold(pair.keys, SAMPLE))
        )

    return run.parallel.map(sample)


def source_images(run: Run) -> Callable:
    """`sample(params, batch, key) -> uint8`: the corrupted images themselves."""

    def sample(params, batch, key):
        del params
        return to_uint8(run.system.prepare(batch, key, augment=False).xT)

    return run.parallel.map(sample)


class Picture:
    """Saves samples/STAGE-STEP.png: source, predictions and target of the first held-out images."""

    def __init__(self, run: Run):
        self.run = run
        self._functions: dict = {}

    def _images(self, name: str, make: Callable, params: PyTree) -> np.ndarray:
        if name not in self._functions:
            self._functions[name] = make()
        return self._functions[name](params, self._batch(), self.run.key(EVALUATE))[: self._count]

    @property
    def _count(self) -> int:
        return min(self.run.config.evaluate.pictures, len(self.run.test_data))

    def _batch(self) -> dict[str, np.ndarray]:
        devices = self.run.parallel.devices
        return pad(first(self.run.test_data, self._count), -(-self._count // devices) * devices)

    def _save(self, stage: str, step: int, columns: dict[str, np.ndarray]) -> None:
        target = first(self.run.test_data, self._count)["x0"]
        columns = {
            "source": self._images("source", lambda: source_images(self.run), None)
        } | columns
        save_png(
            self.run.workdir / "samples" / f"{stage}-{step}.png",
            grid({**columns, "target": target}),
        )

    def teacher(self, stage: str, state: State, step: int) -> None:
        """The teacher at its smallest number of calls."""
        nfe = min(self.run.config.evaluate.teacher_nfe)
        images = self._images(
            "teacher", lambda: teacher_sampler(self.run, nfe), state.players["teacher"].ema
        )
        self._save(stage, step, {f"teacher {nfe}": images})

    def student(self, stage: str, teacher: PyTree, state: State, step: int) -> None:
        """The teacher and the student, both at their smallest number of calls."""
        nfe, few = (
            min(n)
            for n in (self.run.config.evaluate.teacher_nfe, self.run.config.evaluate.student_nfe)
        )
        by_teacher = self._images("teacher", lambda: teacher_sampler(self.run, nfe), teacher)
        params = state.players["generator"].ema
        by_student = self._images("student", lambda: student_sampler(self.run, few), params)
        self._save(stage, step, {f"teacher {nfe}": by_teacher, f"student {few}": by_student})


def pad(batch: dict[str, np.ndarray], size: int) -> dict[str, np.ndarray]:
    """The batch with its last example repeated up to `size` examples."""
    return {
        k: np.concatenate([v, np.repeat(v[-1:], size - len(v), axis=0)]) for k, v in batch.items()
    }


def evaluate(run: Run, teacher: PyTree, student: PyTree) -> dict:
    """Writes results.json and samples/evaluate.png, and prints the table; done once a configuration.

    Args:
      teacher, student: averaged parameters.

    Returns:
      The results as written.
    """
    config, path = run.config.evaluate, run.workdir / "results.json"
    settings = json.loads(config.to_json_best_effort())
    if path.exists():
        results = read_results(path)
        if results["measured"].get("settings") == json.dumps(settings):
            print(f"evaluate: already done\n{format_table(results['rows'])}", flush=True)
            return results

    jobs = [("source", "-", 0, lambda: source_images(run), None)]
    jobs += [
        ("teacher", config.sampler, n, lambda n=n: teacher_sampler(run, n), teacher)
        for n in config.teacher_nfe
    ]
    jobs += [
        ("student", "few_step", n, lambda n=n: student_sampler(run, n), student)
        for n in config.student_nfe
    ]

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
    target = {r: crop(data["x0"]) for r, crop in regions.items()}
    features = {r: lite0_outputs(crop).features for r, crop in target.items()}

    rows, shown = [], {}
    bar = tqdm(jobs, desc="evaluate", unit="row", disable=None if sys.stderr.isatty() else True)
    for model, sampler, nfe, make, params in bar:
        restored, seconds = restore_all(run, make(), params, data, config.batch)
        row = {"model": model, "sampler": sampler, "nfe": nfe, "images": images}
        if nfe:
            row["seconds_per_image"] = seconds
        for region, crop in regions.items():
            mine = crop(restored)
            for name, metric in PAIR_METRICS.items():
                row[name + region] = float(np.mean(metric(mine, target[region])))
            row["fd_lite0" + region] = fd_lite0(lite0_outputs(mine).features, features[region])
        rows.append(row)
        shown[f"{model} {nfe}" if nfe else model] = restored[: config.pictures]
        if bar.disable:
            print(f"evaluate: {model} {nfe or ''}".rstrip(), flush=True)

    shown["target"] = data["x0"][: config.pictures]
    outline = (box[0], box[1], box[2] - box[0], box[3] - box[1]) if box else None
    save_png(run.workdir / "samples" / "evaluate.png", grid(shown, box=outline))
    results = {
        "title": f"{run.config.task}: {run.system.size[0]}x{run.system.size[1]}, {run.config.data.name}",
        "task": run.config.task,
        "dataset": run.test_data.name,
        "measured": {
            **measured(run, images),
            "region": f"hole {box[2] - box[0]}x{box[3] - box[1]} + margin {config.margin}"
            if box
            else "whole image",
            "settings": json.dumps(settings),
        },
        "rows": rows,
        "pictures": ["samples/evaluate.png"],
        "comparisons": comparisons(run, shown),
    }
    write_results(path, results)
    print(format_table(rows), flush=True)
    return results


def restore_all(
    run: Run, sample: Callable, params: PyTree, data: dict[str, np.ndarray], size: int
) -> tuple[np.ndarray, float]:
    """All images restored, uint8 `[N, H, W, C]`, and seconds an image.

    The first batch, which compiles, is not timed; a lone batch is made twice.
    """
    images, key = len(data["index"]), run.key(EVALUATE)
    starts = list(range(0, images, size))
    parts, spent = [], []
    for start in starts if len(starts) > 1 else starts * 2:
        if run.stop.is_set():
            raise Stopped("evaluate: stopped, nothing of it is kept")
        part = pad({k: v[start : start + size] for k, v in data.items()}, size)
        begin = time.perf_counter()
        parts.append(sample(params, part, key))
        spent.append(time.perf_counter() - begin)
    return np.concatenate(parts)[:images], float(np.mean(spent[1:])) / size


def comparisons(run: Run, shown: dict[str, np.ndarray]) -> list[dict]:
    """Single pictures for the report's slider: what is compared, image by image."""
    items = []
    for i in range(len(shown["target"])):
        names = {}
        for name, images in shown.items():
            names[name] = f"samples/compare/{i}-{name.replace(' ', '-')}.png"
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
