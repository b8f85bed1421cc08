"""A run of a diffusion prior: train it (or take one), then restore every task by every method.

There is no student: one unconditional model serves all tasks, whose operators it has never seen.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from jax_bridges.bridges import Diffusion, Levels
from jax_bridges.choices import look_up
from jax_bridges.corruptions import InpaintCenter, InpaintMask, make_corruption
from jax_bridges.data import first
from jax_bridges.keys import fold
from jax_bridges.metrics import PAIR_METRICS, fd_lite0, lite0_outputs, to_uint8
from jax_bridges.report.html import build_report
from jax_bridges.report.pictures import grid, save_png
from jax_bridges.report.results import read_results, write_results
from jax_bridges.report.table import format_table
from jax_bridges.stages.evaluate import EVALUATE, SAMPLE, comparisons, measured, pad
from jax_bridges.stages.plan import describe, try_stage
from jax_bridges.stages.prior import guide, open_classifier
from jax_bridges.stages.run import Run, Stopped, train_stage
from jax_bridges.stages.train import NAME as TRAIN
from jax_bridges.stages.train import load_teacher, train
from jax_bridges.typing import PyTree
from jax_bridges.zero_shot import SOLVERS, Solver, count_calls, measure

# Settings of a method that are not knobs of its solver: levels it visits, and SDEdit's noise level.
OWN_SETTINGS = ("nfe", "start")


@dataclasses.dataclass(frozen=True)
class Method:
    """A solver with its settings.

    Attributes:
      solver: see zero_shot.SOLVERS.
      levels: that it visits.
      knobs: of `solver.solve`.
    """

    solver: Solver
    levels: Levels
    knobs: Mapping[str, Any]

    @property
    def nfe(self) -> int:
        """Network calls an image."""
        if self.solver.name == "pinv":
            return 0
        calls = count_calls(len(self.levels.t) - 1, self.knobs.get("travel", (1, 1)))
        return calls * self.knobs.get("repeats", 1)


def make_method(name: str, bridge: Diffusion, settings: Mapping[str, Any], nfe: int) -> Method:
    """The solver `name` at `nfe` levels of the prior, or at those that its settings ask for.

    Args:
      settings: knobs of the solver, `nfe`, and `start`: the share of the time, below which it begins.

    Raises:
      ValueError: an unknown solver, or levels that there are not.
    """
    solver = look_up("zero-shot solver", SOLVERS, name)
    knobs = {k: tuple(v) if isinstance(v, (list, tuple)) else v for k, v in settings.items()}
    nfe, start = knobs.pop("nfe", nfe), knobs.pop("start", None)
    if start is None:
        return Method(solver, bridge.levels(nfe), knobs)
    levels = bridge.levels(round(nfe / start))
    return Method(solver, type(levels)(*(v[-(nfe + 1) :] for v in levels)), knobs)


@dataclasses.dataclass(frozen=True)
class Job:
    """One row of the table: a task (operator and noise) and a method."""

    task: str
    operator: Any
    sigma_y: float
    method: Method

    def restorer(self, run: Run, classifier: Any = None) -> Callable:
        """`sample(params, batch, key) -> (uint8 [B, H, W, C], |A x0_hat - y| [B])`.

        params are the prior's, and the classifier's where `classifier`, its network, is given.
        The misfit is the root mean square over all of y in units of [-1, 1], before x0_hat is
        rounded and clipped to pixels.
        """
        system, operator, method = run.system, self.operator, self.method

        def sample(params, batch, key):
            pair = system.prepare(batch, key, augment=False)
            keys = fold(pair.keys, SAMPLE)
            y = measure(operator, pair.x0, self.sigma_y, fold(keys, 0))
            predict = system.denoiser(params[0], pair)

            def denoise(x, t):
                return predict(x, t, x)

            if classifier is not None:
                scale = run.config.zero_shot.classifier_scale
                told = (classifier, params[1], pair.label, system.bridge, scale)
                denoise = guide(denoise, *told)
            x = method.solver.solve(
                denoise, operator, y, self.sigma_y, method.levels,
                fold(keys, 1), **method.knobs,
            )  # fmt: skip
            misfit = jnp.square(operator.forward(x) - y)
            return to_uint8(x), jnp.sqrt(misfit.mean(tuple(range(1, misfit.ndim))))

        return run.parallel.map(sample)


def applicable(solver: Solver, operator: Any, sigma_y: float) -> bool:
    """Whether a row of this method makes sense: holes for RePaint; noise for DDNM+, else it is DDNM."""
    if solver.mask_only:
        return isinstance(operator, (InpaintCenter, InpaintMask)) and sigma_y == 0
    if solver.name in ("ddnm_plus", "ddnm_simple"):
        return sigma_y > 0
    return sigma_y == 0 or solver.name != "ilvr"


def jobs(run: Run) -> list[Job]:
    """All rows of the table, in the order of `zero_shot.tasks` and `zero_shot.methods`."""
    config, rows = run.config.zero_shot, []
    for name, task in config.tasks.items():
        operator = make_corruption(**task.operator)
        for name_of_method in config.methods:
            settings = config.settings.get(name_of_method, {})
            method = make_method(name_of_method, run.system.bridge, settings, config.nfe)
            if applicable(method.solver, operator, task.sigma_y):
                rows.append(Job(name, operator, task.sigma_y, method))
    return rows


def zero_shot(run: Run) -> Path:
    """Trains the prior (or reads `teacher.checkpoint`), writes results.json and report.html.

    Raises:
      Stopped, Diverged: see stages/run.py.
    """
    config = run.config
    if config.teacher.checkpoint:
        prior = load_teacher(run, config.teacher.checkpoint)
        print(describe(run, []), flush=True)
    else:
        stage, planned = train(run), []
        if (run.checkpoints(TRAIN).latest() or 0) < stage.steps:
            planned.append((stage, *try_stage(run, stage)))
        print(describe(run, planned), flush=True)
        state = train_stage(run, stage, lambda state, step: None)
        prior = state.players["teacher"].ema
        del state
    restore_tasks(run, prior)
    return build_report(run.workdir)


def restore_tasks(run: Run, prior: PyTree) -> dict:
    """Writes results.json, a picture of each task, and prints the table; done once a configuration.

    Args:
      prior: averaged parameters.

    Returns:
      The results as written: rows whose model is the task and whose sampler is the method.
    """
    config, path = run.config.evaluate, run.workdir / "results.json"
    settings = json.dumps(
        [json.loads(c.to_json_best_effort()) for c in (config, run.config.zero_shot)]
    )
    if path.exists():
        results = read_results(path)
        if results["measured"].get("settings") == settings:
            print(f"zero_shot: already done\n{format_table(results['rows'])}", flush=True)
            return results
    images = min(config.images, len(run.test_data))
    data = first(run.test_data, images)
    target = data["x0"]
    features = lite0_outputs(target).features

    classifier, weights = None, None
    if run.config.zero_shot.classifier:
        place = (run.config.zero_shot.classifier, run.system.bridge, run.system.size)
        classifier, weights = open_classifier(*place)
    params = (prior, weights)

    rows, shown = [], {}
    planned = jobs(run)
    bar = tqdm(planned, desc="zero_shot", unit="row", disable=None if sys.stderr.isatty() else True)
    for job in bar:
        restored, misfit, seconds = restore_all(
            run, job.restorer(run, classifier), params, data, config.batch
        )
        row = {
            "model": job.task, "sampler": job.method.solver.name, "nfe": job.method.nfe, "images": images,
            "cons": float(misfit.mean()), "fd_lite0": fd_lite0(lite0_outputs(restored).features, features),
        }  # fmt: skip
        if job.method.nfe:
            row["seconds_per_image"] = seconds
        for name, metric in PAIR_METRICS.items():
            row[name] = float(np.mean(metric(restored, target)))
        rows.append(row)
        shown.setdefault(job.task, {})[row["sampler"]] = restored[: config.pictures]
        if bar.disable:
            print(
                f"zero_shot: {job.task} {row['sampler']} {job.method.nfe or ''}".rstrip()
                + f"  PSNR {row['psnr']:.2f}  FD-Lite0 {row['fd_lite0']:.1f}",
                flush=True,
            )

    pictures, items = [], []
    for task, columns in shown.items():
        columns = {**columns, "target": target[: config.pictures]}
        pictures.append(f"samples/zero_shot-{task}.png")
        save_png(run.workdir / pictures[-1], grid(columns))
        # Two images a task keep the report small.
        few = {f"{task} {name}": pixels[:2] for name, pixels in columns.items()}
        few["target"] = few.pop(f"{task} target")
        items += [{**item, "label": f"{task}: {item['label']}"} for item in comparisons(run, few)]
    results = {
        "title": f"{run.config.task}: {run.system.size[0]}x{run.system.size[1]}, {run.config.data.name}",
        "task": run.config.task,
        "dataset": run.test_data.name,
        "measured": {**measured(run, images), "region": "whole image", "settings": settings},
        "rows": rows,
        "pictures": pictures,
        "comparisons": items,
    }
    write_results(path, results)
    print(format_table(rows), flush=True)
    return results


def restore_all(
    run: Run, sample: Callable, params: PyTree, data: dict[str, np.ndarray], size: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """All images restored, uint8 `[N, H, W, C]`, their misfits `[N]`, and seconds an image.

    The first batch, which compiles, is not timed; a lone batch is made twice.
    """
    images, key = len(data["index"]), run.key(EVALUATE)
    starts = list(range(0, images, size))
    parts, spent = [], []
    for start in starts if len(starts) > 1 else starts * 2:
        if run.stop.is_set():
            raise Stopped("zero_shot: stopped, nothing of the table is kept")
        part = pad({k: v[start : start + size] for k, v in data.items()}, size)
        begin = time.perf_counter()
        parts.append(jax.tree.map(np.asarray, sample(params, part, key)))
        spent.append(time.perf_counter() - begin)
    pixels, misfits = (np.concatenate(each)[:images] for each in zip(*parts, strict=True))
    return pixels, misfits, float(np.mean(spent[1:])) / size
