"""One row of the results: what was measured of one model, and how it stands in results.json."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jax_bridges.metrics import METRICS, Metric

ABOUT = "results.json: "  # how a sentence begins on what breaks its schema
HOLE = "_hole"  # suffix of a metric taken inside the missing region only

_OWN = ("model", "sampler", "task", "nfe", "images", "seconds_per_image", "training_calls")
_TAKEN = ("seconds_per_image", "training_calls")  # numbers, or null
_SPREAD = ("intervals", "behind")  # (low, high) by key of a metric
_PUBLISHED = ("source", "reference", "same_protocol", "same_data")


@dataclass(frozen=True)
class Row:
    """A row of the results, measured here or published by others.

    Attributes:
      model: "source", "teacher", "student", or another name.
      sampler: "-" where there is none.
      nfe: network calls an image; of published rows also text (">=40") or None.
      images: how many were measured; None where a paper does not say.
      task: rows of different tasks do not compete (zero-shot: it is the model's name, too); "": all do.
      seconds_per_image: None where it was not taken.
      training_calls: network calls in training, of one image each, forward and backward; None: not told.
      metrics: value by key: that of METRICS, or with HOLE behind it inside the missing region. None:
        not measured, or not finite.
      intervals: (low, high) by key of a metric, of 95%: over images, and over seeds where there are several.
      behind: likewise of the paired difference to the best row of its task; none of that row itself.
      seeds: how many trainings a value is the mean of; None: one.
      std: standard deviation over seeds by key of a metric.
      published: whether the numbers come from a paper and not from this run.
      reference: where a published number comes from.
      same_protocol, same_data: of published rows: measured as ours were, with as many images; on the
        data that ours were measured on. None: not said.
    """

    model: str
    sampler: str
    nfe: int | str | None
    images: int | None
    task: str = ""
    seconds_per_image: float | None = None
    metrics: dict[str, float | Any] = field(default_factory=dict)
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    behind: dict[str, tuple[float, float]] = field(default_factory=dict)
    seeds: int | None = None
    std: dict[str, float] = field(default_factory=dict)
    published: bool = False
    reference: str = ""
    same_protocol: bool | None = None
    same_data: bool | None = None
    training_calls: float | None = None

    @classmethod
    def read(cls, item: Any, where: str = "a row") -> Row:
        """The row that an object of results.json stands for; the inverse of `plain`.

        Raises:
          ValueError: in one sentence, which begins with `where`, unless the object is one.
        """
        need(isinstance(item, Mapping), f"{where} must be an object")
        _check(where, item)
        metrics = {k: v for k, v in item.items() if is_metric(k)}
        given = {k: item[k] for k in (*_OWN, *_PUBLISHED[1:], "seeds") if k in item}
        spread: dict[str, Any] = {
            n: {k: (a, b) for k, (a, b) in item.get(n, {}).items()} for n in _SPREAD
        }
        return cls(
            **{"nfe": None, "images": None, **given},
            metrics=metrics,
            **spread,
            std=dict(item.get("std", {})),
            published=item.get("source") == "published",
        )

    def plain(self) -> dict:
        """The object of results.json: plain numbers, null for those not finite, no key that says nothing."""
        taken = {"seconds_per_image": self.seconds_per_image, "training_calls": self.training_calls}
        numbers = {**taken, **self.metrics}
        own = {"model": self.model, "sampler": self.sampler, "task": self.task or None}
        own |= {"nfe": self.nfe, "images": self.images}
        if self.published:
            own |= {"source": "published", "reference": self.reference or None}
        own |= {"same_protocol": self.same_protocol, "same_data": self.same_data}
        told = {key: value for key, value in own.items() if value is not None}
        told |= {k: _finite(v) for k, v in numbers.items() if k in self.metrics or v is not None}
        told |= {"seeds": self.seeds} if self.seeds else {}
        for name in _SPREAD:
            ends = {
                k: [_finite(low), _finite(high)] for k, (low, high) in getattr(self, name).items()
            }
            ends = {key: pair for key, pair in ends.items() if None not in pair}
            told |= {name: ends} if ends else {}
        std = {key: _finite(value) for key, value in self.std.items()}
        return told | ({"std": std} if std else {})

    @property
    def calls(self) -> int:
        """Network calls as a number; published text such as ">=40" counts as 40, none as 0."""
        if isinstance(self.nfe, str):
            return int("".join(filter(str.isdigit, self.nfe)) or 0)
        return self.nfe or 0


def is_metric(key: str) -> bool:
    """Whether it is the key of a metric, of whole images or of the hole."""
    return key.removesuffix(HOLE) in METRICS


def split_metric(key: str) -> tuple[Metric, bool]:
    """`"psnr_hole"` -> (the PSNR metric, True); KeyError where the key is no metric."""
    name = key.removesuffix(HOLE)
    return METRICS[name], name != key


def need(condition: bool, message: str) -> None:
    """Raises ValueError, a sentence about results.json, unless the condition holds."""
    if not condition:
        raise ValueError(f"{ABOUT}{message}.")


def is_number(value: object) -> bool:
    """Whether it is a number of JSON."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_count(value: object) -> bool:
    """Whether it is a whole number above 0."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _check(where: str, row: Mapping) -> None:
    source = row.get("source", "measured")
    need(
        source in ("measured", "published"),
        f'{where}["source"] must be "measured" or "published", not {source!r}',
    )
    for key in ("model", "sampler"):
        value = row.get(key)
        need(isinstance(value, str) and value != "", f'{where}["{key}"] must be text')
    for key in ("task", "reference"):
        need(isinstance(row.get(key, ""), str), f'{where}["{key}"] must be text')
    if source == "measured":
        nfe = row.get("nfe")
        need(is_count(nfe) or nfe == 0, f'{where}["nfe"] must be a whole number of network calls')
        need(is_count(row.get("images")), f'{where}["images"] must be a number of images')
    for key in ("same_protocol", "same_data"):
        need(isinstance(row.get(key, False), bool), f'{where}["{key}"] must be true or false')
    need(
        row.get("seeds") is None or is_count(row["seeds"]),
        f'{where}["seeds"] must be a number of seeds',
    )
    std = row.get("std", {})
    need(
        isinstance(std, dict)
        and all(is_metric(key) and is_number(value) for key, value in std.items()),
        f'{where}["std"] must be {{metric: number}}',
    )
    for name in _SPREAD:
        _check_ends(f'{where}["{name}"]', row.get(name, {}))
    for key, value in row.items():
        if key in (*_OWN, *_PUBLISHED, *_SPREAD, "seeds", "std") and key not in _TAKEN:
            continue
        need(
            key in _TAKEN or is_metric(key),
            f'{where} has an unknown key "{key}"; known metrics: {", ".join(METRICS)} '
            f"(each also with {HOLE}); a new one is a record of METRICS in metrics/metric.py",
        )
        need(
            value is None or (is_number(value) and math.isfinite(value)),
            f'{where}["{key}"] must be a finite number or null, not {value!r}',
        )


def _check_ends(where: str, intervals: Any) -> None:
    need(isinstance(intervals, dict), f"{where} must be {{metric: [low, high]}}")
    for key, pair in intervals.items():
        need(
            is_metric(key)
            and isinstance(pair, (list, tuple))
            and len(pair) == 2
            and all(is_number(end) and math.isfinite(end) for end in pair)
            and pair[0] <= pair[1],
            f'{where}["{key}"] must be [low, high] of a metric, the lower end first, not {pair!r}',
        )


def _finite(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
