"""What held-out images say of a stage while it trains, and the weights that they like best.

Nothing of it changes what is trained: it has keys of its own, reads averages, and leaves the loader alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from tqdm.auto import tqdm

from jax_bridges import hosts
from jax_bridges.checkpoints import Checkpoints
from jax_bridges.config import record
from jax_bridges.data import pad
from jax_bridges.io.bucket import remove_folder
from jax_bridges.keys import Purpose
from jax_bridges.metrics import METRICS, Measure
from jax_bridges.players import BEST
from jax_bridges.report.pictures import grid, to_png_bytes
from jax_bridges.stages.evaluate import HeldOut
from jax_bridges.stages.jobs import source_images
from jax_bridges.stages.pictures import outline, pixels
from jax_bridges.stages.run import Run, Stage
from jax_bridges.training.state import State
from jax_bridges.typing import PyTree


class HeldOutWatch:
    """Measures a stage's average on the same images, corruptions and noise every time.

    Attributes:
      every: steps between two times.
    """

    def __init__(self, run: Run, stage: Stage, label: str, make: Callable[[], Callable] | None):
        """Of `stage`.

        Args:
          label: of its images in the picture.
          make: gives `sample(params, batch, key) -> images`, as a job's; None: it has its loss alone.
        """
        config = run.config.evaluate.copy_and_resolve_references()
        config.folds, config.reference = 0, ""  # values alone, against the targets
        self.every, self._run, self._stage, self._label = config.every, run, stage, label
        self._make, self._source = make, run.watched or run.test_data
        self._split = "validation" if run.watched else "test"
        self._count = min(config.every_images, len(self._source))
        self._images = HeldOut(self._source, self._count, config.batch)
        self._measure, self._config = Measure(config), config
        self._times, self._seconds, self._began = 0, 0.0, time.perf_counter()
        self._best = kept_best(run, stage.name) if config.best != "none" else None

    def __call__(self, state: State, step: int) -> dict[str, float]:
        """SPLIT_METRIC -> number, of the stage's player; saves a picture, and the best weights if asked."""
        begin = time.perf_counter()
        params = state.players[self._stage.player].ema
        found = self._numbers(params, step)
        self._keep(params, found, step)
        seconds = time.perf_counter() - begin
        self._times, self._seconds = self._times + 1, self._seconds + seconds
        numbers = "  ".join(f"{name} {value:.4g}" for name, value in found.items())
        of = f"{self._count} {self._split} images"
        tqdm.write(
            f"{self._stage.name} {step}/{self._stage.steps}  {of}: {numbers}  {seconds:.1f} s"
        )
        return {f"{self._split}_{k}": v for k, v in {**found, "seconds": seconds}.items()}

    def close(self) -> None:
        """Says what it has cost."""
        if self._times:
            share = self._seconds / (time.perf_counter() - self._began)
            tqdm.write(
                f"{self._stage.name}: {self._count} {self._split} images, {self._times} times, took "
                f"{self._seconds:.1f} s, {share:.0%} of the time; evaluate.every = {self.every}"
            )

    def _numbers(self, params: PyTree, step: int) -> dict[str, float]:
        run, stage, losses, shown = self._run, self._stage, [], []
        row, sample = self._measure.begin(), self._make and self._make()
        for part in self._images.parts():
            if stage.loss is not None:
                make = partial(run.parallel.map, stage.loss)
                program = run.program(f"the loss of {stage.name}", make)
                losses.append(self._over(program, params, part))
            if sample is not None:
                images = self._over(sample, params, part)
                row.add(images, part["x0"], part.get("label"))
                missing = min(self._config.pictures, self._count) - sum(len(s[1]) for s in shown)
                if missing > 0:
                    sources = self._over(source_images(run), None, part)
                    shown.append([pixels(run, a[:missing]) for a in (sources, images)])
                    shown[-1].append(part["x0"][:missing])
        found = {"loss": float(np.concatenate(losses).mean())} if losses else {}
        if shown:
            found |= row.values()
            columns = map(np.concatenate, zip(*shown, strict=True))
            columns = dict(zip(("source", self._label, "target"), columns, strict=True))
            if hosts.is_chief():
                picture = to_png_bytes(grid(columns, box=outline(run)))
                run.log.picture(stage.name, step, self._split, picture)
        return found

    def _over(self, program: Callable, params: PyTree, part: dict[str, np.ndarray]) -> np.ndarray:
        """What a program gives of a part's images, batch by batch, as the evaluation has them."""
        size, count, key = self._config.batch, len(part["index"]), self._run.key(Purpose.WATCH)
        found = []
        for start in range(0, count, size):
            batch = {k: v[start : start + size] for k, v in part.items()}
            found.append(program(params, pad(batch, size), key))
        return np.concatenate(found)[:count]

    # -- the best so far ---------------------------------------------------------------------------
    def _keep(self, params: PyTree, found: dict[str, float], step: int) -> None:
        """Keeps the weights if no earlier ones were as good."""
        metric = self._config.best
        value = found.get(metric, math.nan)
        if not math.isfinite(value):  # none is asked for, or it is not of this stage
            return
        what = {"metric": metric, "images": self._count, "seed": int(self._config.seed)}
        best = self._best if self._best and what.items() <= self._best.items() else None
        up = metric in METRICS and METRICS[metric].higher_is_better
        if best and (value <= best["value"] if up else value >= best["value"]):
            return
        folder = best_folder(self._run, self._stage.name)
        if self._best and self._best["step"] >= step:  # of another measure, or a later start
            hosts.barrier(f"best of {self._stage.name}, {step}")
            if hosts.is_chief():
                remove_folder(folder)
            hosts.barrier(f"none of {self._stage.name}, {step}")
        self._best = {**what, "value": value, "step": step}
        meta = {"stage": self._stage.name, "config": record(self._run.config), "best": self._best}
        with Checkpoints(folder, keep=1) as kept:
            kept.save_weights({self._stage.player: params}, meta, step)


def watch(
    run: Run, stage: Stage, label: str = "", make: Callable[[], Callable] | None = None
) -> HeldOutWatch | None:
    """The watch of a stage; None where `evaluate.every` is 0. Arguments are those of `HeldOutWatch`."""
    return HeldOutWatch(run, stage, label, make) if run.config.evaluate.every else None


def best_folder(run: Run, stage: str) -> Any:
    """Where the best weights of a stage lie."""
    return run.workdir / "checkpoints" / f"{stage}{BEST}"


def kept_best(run: Run, stage: str) -> dict[str, Any] | None:
    """What is known of a stage's best weights: metric, images, seed, value, step; None: there are none."""
    folder = best_folder(run, stage)
    if not folder.is_dir():
        return None
    with Checkpoints(folder, read_only=True) as kept:
        return kept.meta()["best"] if kept.latest() is not None else None


def chosen(run: Run, stage: Stage, params: PyTree) -> tuple[PyTree, str]:
    """The weights that are evaluated, the best by `evaluate.best` or the last, and which those are.

    Args:
      params: averages after the last step.

    Returns:
      (averages, what results.json says of them; "" where they are the last because nothing else was asked).
    """
    metric = run.config.evaluate.best
    if metric == "none":
        return params, ""
    best = kept_best(run, stage.name)
    if best is None or best["metric"] != metric:
        return params, f"{stage.name}: step {stage.steps}, the last, for none was kept by {metric}"
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), params)
    with Checkpoints(best_folder(run, stage.name), read_only=True) as kept:
        weights = kept.restore_ema({stage.player: run.parallel.placed(shapes)})[stage.player]
    told = f"{metric} {best['value']:.4g} of {best['images']} validation images"
    return weights, f"{stage.name}: step {best['step']} of {stage.steps}, the best by {told}"
