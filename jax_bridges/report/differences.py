"""Which differences between the rows of a run are more than chance, from the values of single images.

values.npz, beside results.json, holds of each row number ROW, in the order of results.json:

    ROW/METRIC            [N], one value an image
    ROW/METRIC/without    [G], a number of the whole set without each fold of images
    blocks, folds         [N], of each image: the block of neighbours, and what is left out together

All rows are of the same images, corrupted alike, so that differences are paired. Several seeds are
several such files with the same rows: their images are the same too, and what differs is the training.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import special

from jax_bridges.io.bucket import place
from jax_bridges.metrics import METRICS, Estimate, mean_estimate, paired_interval, sign_test
from jax_bridges.metrics.intervals import LEVEL
from jax_bridges.report.row import HOLE, Row, is_metric, is_number, need, split_metric

VALUES = "values.npz"
ROUND = "round "  # how the models of EM's rounds begin
MARGIN = 0.05  # of the other's value: by how much "no worse" may be worse
KEYS = tuple(
    name + suffix for name in METRICS for suffix in (HOLE, "")
)  # the one that counts first


@dataclasses.dataclass(frozen=True)
class Difference:
    """A paired difference of two rows, `row` minus `to` (their numbers), in the unit of the metric.

    low, high: its 95% interval; lower, upper: bounds that each alone hold with 95%; sign_p: of the sign
    test, None for numbers of whole sets.
    """

    row: int
    to: int
    metric: str
    value: float
    low: float
    high: float
    lower: float
    upper: float
    sign_p: float | None = None

    @classmethod
    def read(cls, item: Any, where: str) -> Difference:
        """From an object of results.json. Raises ValueError, a sentence that begins with `where`."""
        names = [each.name for each in dataclasses.fields(cls)]
        good = (
            isinstance(item, Mapping) and set(item) <= set(names) and set(item) >= set(names[:-1])
        )
        need(good and is_metric(item["metric"]), f"{where} must have {names}")
        numbers = [v for k, v in item.items() if k != "metric" and v is not None]
        need(all(is_number(v) and math.isfinite(v) for v in numbers), f"{where} must be of numbers")
        for low, high in (("low", "high"), ("lower", "upper")):
            ends = (item[low], item[high])
            need(
                None not in ends and ends[0] <= ends[1], f"{where}: {low} must not be above {high}"
            )
        return cls(**item)

    def plain(self) -> dict:
        """The object of results.json."""
        return {k: v for k, v in dataclasses.asdict(self).items() if v is not None}

    @property
    def worst(self) -> float:
        """By how much `row` is worse than `to` at most, with 95%; negative: it is better by so much."""
        metric, _ = split_metric(self.metric)
        return -self.lower if metric.higher_is_better else self.upper

    @property
    def is_worse(self) -> bool:
        """Whether the whole interval lies on the worse side."""
        metric, _ = split_metric(self.metric)
        return self.high < 0 if metric.higher_is_better else self.low > 0


def no_worse(difference: Difference, other: float, margin: float = MARGIN) -> bool:
    """Whether a row is no worse than another: the bound of their difference is below a share of its value.

    Args:
      difference: of the row to the other one.
      other: the value of the latter.
      margin: the share.
    """
    return difference.worst < margin * abs(other)


class Measured:
    """The rows of a run and what was measured of single images, of one seed or of several."""

    def __init__(self, seeds: Sequence[tuple[list[Row], Mapping[str, np.ndarray]]]):
        """Of each seed the rows, the same ones in the same order, and the arrays of its values.npz."""
        self.seeds = list(seeds)
        self.rows = self.seeds[0][0]
        values = self.seeds[0][1]
        self._blocks, folds = values.get("blocks"), values.get("folds")
        self._sizes = None if folds is None else np.bincount(folds)

    def estimate(self, row: int, key: str) -> Estimate | None:
        """A metric of a row, the mean over the seeds; None where there are no values of single images."""
        each = self._each(row, key)
        if each is not None:
            return mean_estimate(each, self._blocks)
        without = self._mean(f"{row}/{key}/without")
        if without is None or self._sizes is None:
            return None
        return Estimate(float(np.mean(self._values(row, key))), without, self._sizes)

    def difference(self, row: int, to: int, key: str) -> Difference | None:
        """The paired difference of two rows, over images and, where there are several, over seeds."""
        ours, theirs = self.estimate(row, key), self.estimate(to, key)
        if ours is None or theirs is None:
            return None
        a, b = self._each(row, key), self._each(to, key)
        if a is None:
            between, p = ours.minus(theirs), None
            low, high = between.interval()
        else:
            between = mean_estimate(a - b, self._blocks)
            low, high = paired_interval(a, b, self._blocks)
            p = sign_test(a, b, self._blocks)
        over_seeds = [x - y for x, y in zip(self._values(row, key), self._values(to, key))]
        low, high = with_seeds(between.value, (low, high), over_seeds, (1 + LEVEL) / 2)
        lower, upper = with_seeds(between.value, between.bounds(), over_seeds, LEVEL)
        found = Difference(row, to, key, between.value, low, high, lower, upper, p)
        return found if all(map(math.isfinite, (low, high, lower, upper))) else None

    def told(self) -> list[Row]:
        """The rows with means over seeds, 95% intervals, and how far each is behind the best of its task."""
        return [self._told(index) for index in range(len(self.rows))]

    def to_teacher(self) -> list[Difference]:
        """Each student's differences to the teacher at its most calls, and to the teacher's best row.

        In the metric that counts first, and in the first that has a value an image.
        """
        keys = [key for key in KEYS if any(self._has(i, key) for i in range(len(self.rows)))]
        single = [
            k for k in keys if any(self._each(i, k) is not None for i in range(len(self.rows)))
        ]
        found = []
        for key in dict.fromkeys((*keys[:1], *single[:1])):
            teachers = [
                i for i, row in enumerate(self.rows) if row.model == "teacher" and self._has(i, key)
            ]
            if not teachers:
                continue
            most = max(teachers, key=lambda i: self.rows[i].calls)
            for other in dict.fromkeys((most, self._best(teachers, key))):
                for i, row in enumerate(self.rows):
                    if row.model == "student" and self._has(i, key):
                        found.append(self.difference(i, other, key))
        return [each for each in found if each is not None]

    def compared(self) -> list[Difference]:
        """`to_teacher`, and each round of EM to what stands before it, in the metrics of single images."""
        found = []
        for i in range(1, len(self.rows)):
            row, before = self.rows[i], self.rows[i - 1]
            if row.model.startswith(ROUND) and row.task == before.task:
                found += [
                    self.difference(i, i - 1, key)
                    for key in KEYS
                    if self._each(i, key) is not None and self._each(i - 1, key) is not None
                ]
        return self.to_teacher() + [each for each in found if each is not None]

    def _told(self, index: int) -> Row:
        row, metrics, intervals, std, behind = self.rows[index], {}, {}, {}, {}
        for key in row.metrics:
            values = self._values(index, key)
            if not self._has(index, key):
                metrics[key] = row.metrics[key]
                continue
            metrics[key] = float(np.mean(values))
            if len(values) > 1:
                std[key] = float(np.std(values, ddof=1))
            estimate = self.estimate(index, key)
            if estimate is not None:
                quantile = (1 + LEVEL) / 2
                intervals[key] = with_seeds(metrics[key], estimate.interval(), values, quantile)
            best = self._rival(row, key)
            difference = None if best in (None, index) else self.difference(index, best, key)
            if difference is not None:
                behind[key] = (difference.low, difference.high)
        times: list[float | Any] = [rows[index].seconds_per_image for rows, _ in self.seeds]
        return dataclasses.replace(
            row, metrics=metrics, intervals=intervals, std=std, behind=behind,
            seeds=len(self.seeds) if len(self.seeds) > 1 else None,
            seconds_per_image=None if None in times else float(np.mean(times)),
        )  # fmt: skip

    def _rival(self, row: Row, key: str) -> int | None:
        """The best measured row of the task of `row`, but for the source."""
        rivals = [
            i
            for i, other in enumerate(self.rows)
            if other.task == row.task and other.model != "source" and not other.published
            if self._has(i, key)
        ]
        return self._best(rivals, key) if rivals and row.model != "source" else None

    def _best(self, indices: list[int], key: str) -> int:
        metric, _ = split_metric(key)
        best = max if metric.higher_is_better else min
        return best(indices, key=lambda i: np.mean(self._values(i, key)))

    def _has(self, index: int, key: str) -> bool:
        values = self._values(index, key)
        there = all(value is not None and math.isfinite(value) for value in values)
        return there and not self.rows[index].published

    def _values(self, index: int, key: str) -> list[float | Any]:
        return [rows[index].metrics.get(key) for rows, _ in self.seeds]

    def _each(self, row: int, key: str) -> np.ndarray | None:
        return self._mean(f"{row}/{key}")

    def _mean(self, name: str) -> np.ndarray | None:
        if not all(name in values for _, values in self.seeds):
            return None
        return np.mean([np.asarray(values[name], np.float64) for _, values in self.seeds], 0)


def with_seeds(
    value: float, ends: tuple[float, float], seeds: Sequence[float], probability: float
) -> tuple[float, float]:
    """Ends of an interval over images, moved out by what is not known for there being few seeds.

    The two are independent: their half widths, each by its own Student's t, add as squares.

    Args:
      value: the mean over the seeds.
      ends: (low, high) of its interval over images.
      seeds: the number of each seed; of one seed nothing is known of others, and the ends stay.
      probability: of t's quantile.
    """
    if len(seeds) < 2:
        return ends
    spread = np.std(seeds, ddof=1) / math.sqrt(len(seeds))
    half = float(special.stdtrit(len(seeds) - 1, probability)) * spread
    return value - math.hypot(value - ends[0], half), value + math.hypot(ends[1] - value, half)


def read_values(workdir: str | os.PathLike) -> dict[str, np.ndarray]:
    """The arrays of a run's values.npz; none where there is no file."""
    path = place(workdir) / VALUES
    if not path.is_file():
        return {}
    with path.open("rb") as file, np.load(file) as arrays:
        return {name: arrays[name] for name in arrays.files}
