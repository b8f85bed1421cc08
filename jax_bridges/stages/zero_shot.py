"""A run of a diffusion prior: train it (or take one), then restore every task by every method.

There is no student: one unconditional model serves all tasks, whose operators it has never seen.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from jax_bridges.corruptions import make_corruption
from jax_bridges.data import first
from jax_bridges.keys import SampleStream, Stream, fold
from jax_bridges.metrics import PROTOCOLS, Measure
from jax_bridges.report.html import build_report
from jax_bridges.report.pictures import grid, save_png
from jax_bridges.report.published import published_rows
from jax_bridges.report.results import write_results
from jax_bridges.report.table import format_table
from jax_bridges.stages.evaluate import (
    comparisons,
    earlier_results,
    measured,
    restore_all,
)
from jax_bridges.stages.plan import describe, try_stage
from jax_bridges.stages.prior import guide, open_classifier
from jax_bridges.stages.run import Run, train_stage
from jax_bridges.stages.train import NAME as TRAIN
from jax_bridges.stages.train import load_teacher, train
from jax_bridges.training import hosts
from jax_bridges.typing import PyTree
from jax_bridges.zero_shot import Method, applicable, make_method, measure


@dataclasses.dataclass(frozen=True)
class Job:
    """One row of the table: a task (operator and noise) and a method."""

    task: str
    operator: Any
    sigma_y: float
    method: Method

    def restorer(self, run: Run, classifier: Any = None) -> Callable:
        """`sample(params, batch, key) -> (images [B, H, W, C], |A x0_hat - y| [B])`.

        params are the prior's, and the classifier's where `classifier`, its network, is given.
        Images are as `evaluate.protocol` keeps them. The misfit is the root mean square over all of y
        in units of [-1, 1], before x0_hat is rounded and clipped to pixels.
        """
        system, operator, method = run.system, self.operator, self.method
        keep = PROTOCOLS[run.config.evaluate.protocol].keep

        def sample(params, batch, key):
            pair = system.prepare(batch, key, augment=False)
            keys = fold(pair.keys, Stream.SAMPLE)
            of_y = fold(keys, SampleStream.MEASURE)
            y = measure(operator, pair.x0, self.sigma_y, of_y)
            predict = system.denoiser(params[0], pair)

            def denoise(x, t):
                return predict(x, t, x)

            if classifier is not None:
                scale = run.config.zero_shot.classifier_scale
                told = (classifier, params[1], pair.label, system.bridge, scale)
                denoise = guide(denoise, *told)
            x = method.solver.solve(
                denoise, operator, y, self.sigma_y, method.levels,
                fold(keys, SampleStream.SOLVE), **method.knobs,
            )  # fmt: skip
            misfit = jnp.square(operator.forward(x) - y)
            return keep(x), jnp.sqrt(misfit.mean(tuple(range(1, misfit.ndim))))

        return run.parallel.map(sample)


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


def zero_shot(run: Run, begin: Callable[[], None]) -> Path:
    """Trains the prior (or reads `teacher.checkpoint`), writes results.json and report.html.

    Args:
      begin: makes the work directory; called when nothing is left that could refuse the run.

    Raises:
      ValueError: a prior that cannot fit, or a classifier that cannot be read.
      Stopped, Diverged: see stages/run.py.
    """
    config = run.config
    classifier = None, None  # the network, its parameters
    if config.zero_shot.classifier:
        place = (config.zero_shot.classifier, run.system.bridge, run.system.size)
        classifier = open_classifier(*place)
    if config.teacher.checkpoint:
        prior = load_teacher(run, config.teacher.checkpoint)
        print(describe(run, []), flush=True)
        begin()
    else:
        stage, planned = train(run), []
        if run.done(TRAIN) < stage.steps:
            planned.append((stage, *try_stage(run, stage)))
        print(describe(run, planned), flush=True)
        begin()
        state = train_stage(run, stage, lambda state, step: None)
        prior = state.players["teacher"].ema
        del state
    restore_tasks(run, prior, *classifier)
    return build_report(run.workdir)


def restore_tasks(run: Run, prior: PyTree, classifier=None, weights: PyTree = None) -> dict:
    """Writes results.json, a picture of each task, and prints the table; done once a configuration.

    Args:
      prior: averaged parameters.
      classifier, weights: of `open_classifier`, or None.

    Returns:
      The results as written: rows whose model is the task and whose sampler is the method.
    """
    config, path = run.config.evaluate, run.workdir / "results.json"
    settings = json.dumps(
        [json.loads(c.to_json_best_effort()) for c in (config, run.config.zero_shot)]
    )
    results = earlier_results(path)
    if results and results["measured"].get("settings") == settings:
        print(f"zero_shot: already done\n{format_table(results['rows'])}", flush=True)
        return results
    images = min(config.images, len(run.test_data))
    data = first(run.test_data, images)
    target, measures = data["x0"], Measure(config, data["x0"], data.get("label"))
    pixels = PROTOCOLS[config.protocol].pixels

    rows, shown = [], {}
    planned = jobs(run)
    bar = tqdm(planned, desc="zero_shot", unit="row", disable=None if sys.stderr.isatty() else True)
    for job in bar:
        sample = job.restorer(run, classifier)
        (restored, misfit), seconds = restore_all(run, sample, (prior, weights), data, config.batch)
        name, nfe = job.method.solver.name, job.method.nfe
        row = {"model": job.task, "task": job.task, "sampler": name, "nfe": nfe, "images": images}
        if nfe:
            row["seconds_per_image"] = seconds
        row |= measures(restored, lambda misfit=misfit: misfit)
        rows.append(row)
        columns = shown.setdefault(job.task, {})
        columns[name] = np.asarray(pixels(restored[: config.pictures]))
        if bar.disable:
            numbers = "".join(
                f"  {k} {row[k]:.4g}" for k in config.metrics if row.get(k) is not None
            )
            print(f"zero_shot: {job.task} {name} {nfe or ''}".rstrip() + numbers, flush=True)
    rows += published(run, images)

    pictures, items = [], []
    for task, columns in shown.items():
        columns = {**columns, "target": target[: config.pictures]}
        pictures.append(f"samples/zero_shot-{task}.png")
        if hosts.is_chief():
            save_png(run.workdir / pictures[-1], grid(columns))
        # Two images a task keep the report small.
        few = {f"{task} {name}": images[:2] for name, images in columns.items()}
        few["target"] = few.pop(f"{task} target")
        items += [{**item, "label": f"{task}: {item['label']}"} for item in comparisons(run, few)]
    results = {
        "title": f"{run.config.task}: {run.system.size[0]}x{run.system.size[1]}, {run.config.data.name}",
        "task": run.config.task,
        "dataset": run.test_data.name,
        "measured": {
            **measured(run, images),
            "region": "whole image",
            **measures.how(),
            "settings": settings,
        },
        "rows": rows,
        "pictures": pictures,
        "comparisons": items,
    }
    if hosts.is_chief():
        write_results(path, results)
    print(format_table(rows), flush=True)
    return results


def published(run: Run, images: int) -> list[dict]:
    """Rows of published.csv for the tasks that name theirs (`published`), under our tasks' names."""
    config, rows = run.config.evaluate, []
    for name, task in run.config.zero_shot.tasks.items():
        if task.get("published"):
            place = (task.published, config.protocol, config.published_data, images)
            for row in published_rows(*place, metrics=config.metrics):
                rows.append({**row, "model": name, "task": name, "sampler": row["model"]})
    return rows
