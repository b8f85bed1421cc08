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
from jax_bridges.stages.run import Run, Stopped, train_stage
from jax_bridges.stages.train import NAME as TRAIN
from jax_bridges.stages.train import load_teacher, train
from jax_bridges.typing import PyTree
from jax_bridges.zero_shot import SOLVERS, Solver, count_calls, measure

# Settings of a method that are not knobs of its solver: levels it visits, and SDEdit's noise level.
OWN_SETTINGS = ("nfe", "start")


@dataclasses.dataclass(frozen=True)
class Job:
    """One row of the table: a task (operator and noise) and a method with its settings."""

    task: str
    operator: Any
    sigma_y: float
    solver: Solver
    levels: Any
    knobs: Mapping[str, Any]

    @property
    def nfe(self) -> int:
        """Network calls an image."""
        if self.solver.name == "pinv":
            return 0
        visited = len(self.levels.t) - 1
        travel = self.knobs.get("travel", (1, 1))
        return count_calls(visited, travel) * self.knobs.get("repeats", 1)

    def restorer(self, run: Run) -> Callable:
        """`sample(params, batch, key) -> (uint8 [B, H, W, C], |A x0_hat - y| [B])`.

        The misfit is the root mean square over all of y in units of [-1, 1], before x0_hat is
        rounded and clipped to pixels.
        """
        system, operator = run.system, self.operator

        def sample(params, batch, key):
            pair = system.prepare(batch, key, augment=False)
            keys = fold(pair.keys, SAMPLE)
            y = measure(operator, pair.x0, self.sigma_y, fold(keys, 0))
            predict = system.denoiser(params, pair)
            x = self.solver.solve(
                lambda x, t: predict(x, t, x), operator, y, self.sigma_y, self.levels,
                fold(keys, 1), **self.knobs,
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
        for method in config.methods:
            solver = look_up("zero-shot solver", SOLVERS, method)
            if not applicable(solver, operator, task.sigma_y):
                continue
            knobs = config.settings.get(method, {})
            knobs = {k: tuple(v) if isinstance(v, (list, tuple)) else v for k, v in knobs.items()}
            levels = _levels(run.system.bridge, knobs.get("nfe", config.nfe), knobs.get("start"))
            knobs = {k: v for k, v in knobs.items() if k not in OWN_SETTINGS}
            rows.append(Job(name, operator, task.sigma_y, solver, levels, knobs))
    return rows


def _levels(bridge, nfe: int, start: float | None):
    """`nfe` levels, all of them below the share `start` of the time where one is given (SDEdit)."""
    if start is None:
        return bridge.levels(nfe)
    levels = bridge.levels(round(nfe / start))
    return type(levels)(*(v[-(nfe + 1) :] for v in levels))


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

    rows, shown = [], {}
    planned = jobs(run)
    bar = tqdm(planned, desc="zero_shot", unit="row", disable=None if sys.stderr.isatty() else True)
    for job in bar:
        restored, misfit, seconds = restore_all(run, job, prior, data, config.batch)
        row = {
            "model": job.task, "sampler": job.solver.name, "nfe": job.nfe, "images": images,
            "cons": float(misfit.mean()), "fd_lite0": fd_lite0(lite0_outputs(restored).features, features),
        }  # fmt: skip
        if job.nfe:
            row["seconds_per_image"] = seconds
        for name, metric in PAIR_METRICS.items():
            row[name] = float(np.mean(metric(restored, target)))
        rows.append(row)
        shown.setdefault(job.task, {})[job.solver.name] = restored[: config.pictures]
        if bar.disable:
            print(
                f"zero_shot: {job.task} {job.solver.name} {job.nfe or ''}".rstrip()
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
    run: Run, job: Job, params: PyTree, data: dict[str, np.ndarray], size: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """All images restored, uint8 `[N, H, W, C]`, their misfits `[N]`, and seconds an image.

    The first batch, which compiles, is not timed; a lone batch is made twice.
    """
    sample, images, key = job.restorer(run), len(data["index"]), run.key(EVALUATE)
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
