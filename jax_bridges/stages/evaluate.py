"""The evaluation: held-out images, restored and measured as a stream, one row of the results a job.

Memory does not grow with the number of images: they are restored and measured part by part. What
stays are one number an image and metric (values.npz), and features on the disk (metrics/store.py).
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm.auto import tqdm

from jax_bridges import hosts
from jax_bridges.data import Source, blocks_of, first, pad
from jax_bridges.io.atomic import write_atomic
from jax_bridges.keys import Purpose
from jax_bridges.measured import measured_here
from jax_bridges.metrics import METRICS, Measure, folds_of, hole_crop, psnr
from jax_bridges.report.differences import VALUES, Measured
from jax_bridges.report.results import read_results, write_results
from jax_bridges.report.row import HOLE, Row
from jax_bridges.report.table import format_table
from jax_bridges.stages.jobs import Job
from jax_bridges.stages.pictures import pixels, save_pictures
from jax_bridges.stages.run import Run, Stopped
from jax_bridges.starting import draws_bars
from jax_bridges.typing import PyTree

_STEP = 128  # parts are multiples of it: DDBM's protocol measures batches of so many
_KEPT = 64 * 2**20  # bytes of images that stay in memory rather than being read again for each row


class HeldOut:
    """The first `count` examples of a source, part by part: the same parts at every pass."""

    def __init__(self, source: Source, count: int, batch: int):
        self.count, self._source = count, source
        self._size = _STEP * max(2, -(-batch // _STEP))
        example = sum(a.nbytes for a in first(source, 1).values())
        self._kept: dict[int, dict] | None = {} if count * example <= _KEPT else None

    def parts(self) -> Iterator[dict[str, np.ndarray]]:
        """Batches as of `data.first`; the next one is read while one is used."""
        starts = range(0, self.count, self._size)
        with ThreadPoolExecutor(1) as ahead:
            coming = ahead.submit(self._part, starts[0])
            for start in starts:
                part = coming.result()
                if start + self._size < self.count:
                    coming = ahead.submit(self._part, start + self._size)
                yield part

    def _part(self, start: int) -> dict[str, np.ndarray]:
        if self._kept is not None and start in self._kept:
            return self._kept[start]
        part = first(self._source, min(self._size, self.count - start), start)
        if self._kept is not None:
            self._kept[start] = part
        return part


class Restoring:
    """Applies `sample` to all held-out images, batch by batch, and takes the time."""

    def __init__(self, run: Run, sample: Callable, params: PyTree, size: int):
        self._run, self._sample, self._params, self._size = run, sample, params, size
        self._spent: list[float] = []

    def __call__(self, part: dict[str, np.ndarray]) -> PyTree:
        """What `sample` gives of a part's images: arrays `[N, ...]`."""
        key, count, found = self._run.key(Purpose.EVALUATE), len(part["index"]), []
        for start in range(0, count, self._size):
            if self._run.stop.is_set():
                raise Stopped("evaluate: stopped, nothing of the table is kept")
            batch = pad({k: v[start : start + self._size] for k, v in part.items()}, self._size)
            begin = time.perf_counter()
            found.append(self._sample(self._params, batch, key))
            self._spent.append(time.perf_counter() - begin)
        return jax.tree.map(lambda *each: np.concatenate(each)[:count], *found)

    def seconds_per_image(self, part: dict[str, np.ndarray]) -> float:
        """Mean over the batches but for the first, which compiles; a lone one, of `part`, is made again."""
        if len(self._spent) == 1:
            self(part)
        return float(np.mean(self._spent[1:])) / self._size


def evaluate(
    run: Run,
    jobs: list[Job],
    settings: str,
    *,
    name: str = "evaluate",
    published: Callable[[int], list[Row]] | None = None,
    **said: str,
) -> dict:
    """Writes results.json, values.npz and pictures, and prints the table; done once a configuration.

    All jobs see the same images, corruptions and keys. Of several hosts each restores its share of a
    batch and has all results; the first writes.

    Args:
      settings: what the rows depend on: with other settings, they are measured again.
      name: of the lines that are printed, and of the picture.
      published: `published(images)`, rows of papers to stand beside ours.
      said: what else is to be said of how it was measured: `left_out`, what is not among the rows, and why;
        `weights_of`, which step's they are.

    Returns:
      The results as written.
    """
    config, path = run.config.evaluate, run.workdir / "results.json"
    results = earlier_results(path)
    if results and results["measured"].get("settings") == settings:
        print(f"{name}: already done\n{format_table(results['rows'])}", flush=True)
        return results

    count = min(config.images, len(run.test_data))
    if count < config.images:
        print(f"{name}: all {count} held-out images ({config.images} were asked for)", flush=True)
    table = _Table(run, HeldOut(run.test_data, count, config.batch))
    values: dict[str, Any] = table.images
    rows, shown = [], {}
    bar = tqdm(jobs, desc=name, unit="row", disable=not (draws_bars() and hosts.is_chief()))
    for job in bar:
        row, each, images = table.row(job)
        values |= {f"{len(rows)}/{metric}": of_each for metric, of_each in each.items()}
        rows.append(row)
        if job.label:
            shown.setdefault(job.task, {})[job.label] = images
        if bar.disable:
            print(f"{name}: {_line(job, row, config.metrics)}", flush=True)

    if published is not None:
        rows += published(count)
    measured = Measured([(rows, values)])
    rows = measured.told() if config.folds else rows
    target = first(run.test_data, min(config.pictures, count))["x0"]
    pictures, comparisons = save_pictures(run, shown, target, name)
    results = {
        "title": f"{run.config.task}: {run.system.size[0]}x{run.system.size[1]}, {run.config.data.name}",
        "task": run.config.task,
        "dataset": run.test_data.name,
        "measured": {
            "images": count,
            "size": list(run.system.size),
            **measured_here("jax_bridges.main"),
            "region": table.region,
            **table.measures[""].how(),
            "settings": settings,
            **{key: text for key, text in said.items() if text},
        },
        "rows": rows,
        "differences": measured.compared() if config.folds else [],
        "values": VALUES,
        "pictures": pictures,
        "comparisons": comparisons,
    }
    if hosts.is_chief():
        file = io.BytesIO()
        np.savez_compressed(file, **values)
        write_atomic(run.workdir / VALUES, file.getvalue())
        write_results(path, results)
    print(format_table(rows), flush=True)
    return results


class _Table:
    """Makes rows that are measured alike."""

    def __init__(self, run: Run, held_out: HeldOut):
        self._run, self._held_out = run, held_out
        config, box = run.config.evaluate, run.system.corruption.hole_box(*run.system.size)
        self._regions = {"": lambda a: a}
        self.region = "whole image"
        if box:
            self._regions[HOLE] = lambda a: hole_crop(a, box, config.margin)
            self.region = f"hole {box[2] - box[0]}x{box[3] - box[1]} + margin {config.margin}"
        blocks = blocks_of(run.test_data, held_out.count)
        self.measures = {r: Measure(config, bool(r), blocks) for r in self._regions}
        # Of the images: what the values of all rows have in common.
        self.images = {"blocks": blocks.astype(np.int32)}
        if config.folds:
            self.images["folds"] = folds_of(blocks, config.folds).astype(np.int32)
        self._masks = None
        if "psnr" in config.metrics and holes_differ(run, first(run.test_data, 1)):
            self._masks = Restoring(run, hole_masks(run), None, config.batch)
            self.region = "each image's own hole, without margin"
        self._gap = corruption_gap(run) if "cons" in config.metrics else None

    def row(self, job: Job) -> tuple[Row, dict[str, np.ndarray], np.ndarray | None]:
        """(row, its numbers in values.npz by what follows "ROW/", uint8 images for the picture)."""
        run, config = self._run, self._run.config.evaluate
        sample = job.make()
        restore = Restoring(run, sample, job.params, config.batch)
        other = Restoring(run, sample, job.params, config.batch)
        twice = bool(job.nfe) and "diversity" in config.metrics
        sets = {region: measure.begin() for region, measure in self.measures.items()}
        shown, in_hole = [], []
        for part in self._held_out.parts():
            found = restore(part)
            images, gap = found if isinstance(found, tuple) else (found, None)
            again = None
            if twice:
                again = other({**part, "answer": np.ones(len(images), np.int32)})
                again = again[0] if isinstance(again, tuple) else again
            for region, crop in self._regions.items():
                if region:
                    gaps = None
                elif gap is not None:
                    gaps = lambda gap=gap: gap  # noqa: E731
                else:
                    gaps = self._gap and partial(self._gap, images, part)
                second = None if again is None else crop(again)
                sets[region].add(crop(images), crop(part["x0"]), part.get("label"), gaps, second)
            if self._masks is not None:
                whole = pixels(run, images)
                in_hole.append(np.asarray(psnr(whole, part["x0"], self._masks(part))))
            missing = config.pictures - sum(map(len, shown))
            if job.label and missing > 0:
                shown.append(pixels(run, images[:missing]))
        values, metrics = {}, {}
        for region, one in sets.items():
            each = {} if job.unpaired else one.each()
            values |= {name + region: value.astype(np.float32) for name, value in each.items()}
            for name, estimate in one.estimates().items():
                if job.unpaired and METRICS[name].of_set is None:
                    continue
                metrics[name + region] = estimate.value
                if name not in each and len(estimate.sizes) > 1:
                    values[f"{name}{region}/without"] = estimate.without
        if in_hole and not job.unpaired:
            values["psnr" + HOLE] = np.concatenate(in_hole).astype(np.float32)
            metrics["psnr" + HOLE] = float(np.nanmean(values["psnr" + HOLE]))
        row = Row(
            job.model, job.sampler, job.nfe, self._held_out.count, job.task,
            restore.seconds_per_image(part) if job.nfe else None, metrics,
            training_calls=job.training_calls,
        )  # fmt: skip
        return row, values, np.concatenate(shown) if shown else None


def _line(job: Job, row: Row, metrics) -> str:
    calls = f" {job.nfe}" if job.nfe else ""
    name = f"{job.task or job.model} {job.sampler}{calls}" if calls or job.task else job.model
    values = {k: row.metrics.get(k) for k in metrics}
    return name + "".join(f"  {k} {v:.4g}" for k, v in values.items() if v is not None)


def row_settings(config: Any) -> dict:
    """What rows depend on that may change after the training."""
    its = json.loads(config.evaluate.to_json_best_effort())
    its["temperature"] = config.distill.get("temperature", 1.0)
    looks = () if its["best"] != "none" else ("every", "every_images", "best")
    return {key: value for key, value in its.items() if key not in looks}


def earlier_results(path: Path) -> dict | None:
    """What results.json holds; None where it is not there, or where it is said to be unreadable."""
    try:
        return read_results(path)
    except FileNotFoundError:
        return None
    except ValueError:  # cut short, or written by something else
        print(f"evaluate: {path} cannot be used and is measured anew", flush=True)
        return None


def hole_masks(run: Run) -> Callable:
    """`sample(params, batch, key) -> [B, H, W, 1]`, 1 where pixels are missing."""

    def sample(params, batch, key):
        del params
        return run.system.prepare(batch, key, augment=False).mask

    return run.program("the masks of holes", lambda: run.parallel.map(sample))


def holes_differ(run: Run, one: dict[str, np.ndarray]) -> bool:
    """Whether there are holes that differ from image to image; `one` is a batch of one."""
    if run.system.corruption.hole_box(*run.system.size):
        return False

    def mask(batch, key):
        return run.system.prepare(batch, key, augment=False).mask

    return jax.eval_shape(mask, one, run.key(Purpose.EVALUATE)) is not None


def corruption_gap(run: Run) -> Callable:
    """`gap(restored, part) -> [N]`: ||A x0_hat - y||, the root mean square of what the corruption makes
    of the restored images minus x_T, both with the example's own noise and mask, in units of [-1, 1].

    The whole of x_T counts, and A is the corruption itself, so that it need not be linear. None for
    paired data, whose corruption is not known.
    """

    def difference(params, batch, key):
        del params
        mine = run.system.prepare({**batch, "x0": batch["restored"]}, key, augment=False)
        gap = mine.xT - run.system.prepare(batch, key, augment=False).xT
        return jax.numpy.sqrt(jax.numpy.square(gap).mean((1, 2, 3)))

    program = run.program("the consistency", lambda: run.parallel.map(difference))
    measure = Restoring(run, program, None, run.config.evaluate.batch)

    def gap(restored: np.ndarray, part: dict[str, np.ndarray]) -> np.ndarray | None:
        if "xT" in part:
            return None
        return measure({**part, "restored": restored})

    return gap
