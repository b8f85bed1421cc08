"""Numbers of the papers, to stand beside ours: published.csv, always marked as what they are."""

from __future__ import annotations

import csv
import functools
from collections.abc import Collection
from importlib import resources

from jax_bridges.choices import look_up
from jax_bridges.metrics import METRICS
from jax_bridges.report.row import Row

_METRICS = {theirs: ours for ours, metric in METRICS.items() for theirs in metric.published}
_LEFT_OUT = ("Cons",)  # see `published_rows`


@functools.cache
def load_published() -> tuple[dict, ...]:
    """All published values, one dict each:

    task, data, method   str, in the papers' words: "sr4x-bicubic", "ImageNet 256", "I2SB"
    nfe                  str: "1000", ">=40", or "" where a method has none or it is not stated
    metric               str: FID, FID-10k (of 10,000 images), CA, IS, PSNR, SSIM, Cons
    value                float, in the paper's unit
    protocol             str: the key of `metrics.PROTOCOLS` that measures likewise, or "none"
    images               int: how many were measured
    source               str: the paper and table it was read from
    """
    file = resources.files("jax_bridges.report").joinpath("published.csv")
    rows = csv.DictReader(file.read_text(encoding="utf-8-sig").splitlines())
    return tuple(
        {**row, "value": float(row["value"]), "images": int(row["images"])} for row in rows
    )


def published_tasks() -> dict[str, tuple[str, ...]]:
    """Task -> the data it was published on."""
    tasks: dict[str, tuple[str, ...]] = {}
    for row in load_published():
        known = tasks.get(row["task"], ())
        tasks[row["task"]] = known if row["data"] in known else (*known, row["data"])
    return tasks


def published_rows(
    task: str,
    protocol: str = "own",
    data: str = "",
    images: int | None = None,
    metrics: Collection[str] | None = None,
) -> list[Row]:
    """The rows of a task of published.csv.

    The file's "Cons" is left out: DDNM's is an L1 norm, |A x - y|_1, of a scale that is not published,
    and the metric "cons" a root mean square in units of [-1, 1], into which it cannot be converted. (By
    its authors, github.com/wyhuai/DDNM/issues/40, the 26.25 of CelebA-HQ is a slip, for 48.87.)

    Args:
      task: as in the file.
      protocol, data, images: of our own rows: a published row has `same_protocol` where it was
        measured by this protocol with as many images, and `same_data` where it was on this data.
      metrics: leave out rows that have none of these; None: keep all.

    Raises:
      ValueError: a task or data that the file does not know.
    """
    known = look_up("published task", published_tasks(), task)
    if data:
        look_up(f"data of the published task '{task}'", dict.fromkeys(known), data)
    rows: dict[tuple, Row] = {}
    for item in load_published():
        if item["task"] != task or item["metric"] in _LEFT_OUT:
            continue
        row = Row(
            model=item["method"],
            sampler="-",
            nfe=int(item["nfe"]) if item["nfe"].isdigit() else item["nfe"] or None,
            images=item["images"],
            published=True,
            reference=f"{item['source']}, {item['data']}",
            same_protocol=item["protocol"] == protocol and item["images"] == images,
            same_data=item["data"] == data,
        )
        place = tuple(item[k] for k in ("method", "nfe", "data", "source"))
        rows.setdefault(place, row).metrics[_METRICS[item["metric"]]] = item["value"]
    wanted = set(_METRICS.values() if metrics is None else metrics)
    return [row for row in rows.values() if wanted & set(row.metrics)]
