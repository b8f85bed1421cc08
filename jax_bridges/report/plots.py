"""Plots for a paper, by matplotlib: quality over network calls and over time, with 95% intervals."""

from __future__ import annotations

import os
from pathlib import Path

from jax_bridges.report.listing import Listing
from jax_bridges.report.row import Row, is_metric, split_metric

SUFFIXES = ("pdf", "svg", "png")
AXES = {"nfe": "network calls per image", "seconds_per_image": "seconds per image"}
MARKERS = "osD^vP*X<>"


def save_plots(folder: str | os.PathLike, listing: Listing) -> list[Path]:
    """Writes folder/METRIC-nfe and METRIC-time as pdf, svg and png; the paths.

    A line is a model and sampler of a run; published rows and the source are left out.

    Raises:
      ModuleNotFoundError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure  # pyright: ignore[reportMissingImports]  # optional
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "Plots need matplotlib: pip install 'jax_bridges[paper]'."
        ) from None
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lines: dict[str, list[Row]] = {}
    for run, row in zip(listing.runs, listing.rows):
        if row.model != "source":
            name = ", ".join(part for part in (run, row.model, row.sampler) if part and part != "-")
            lines.setdefault(name, []).append(row)
    written = []
    for key in (c.key for c in listing.columns if is_metric(c.key)):
        for axis, label in AXES.items():
            figure = Figure(figsize=(4.2, 3.0), layout="constrained")
            if _draw(figure.subplots(), lines, key, axis, label):
                name = f"{key}-{'nfe' if axis == 'nfe' else 'time'}"
                for suffix in SUFFIXES:
                    written.append(folder / f"{name}.{suffix}")
                    figure.savefig(written[-1], dpi=200)
    return written


def _draw(axes, lines: dict[str, list[Row]], key: str, axis: str, label: str) -> bool:
    """Whether there was anything to draw."""
    metric, in_hole = split_metric(key)
    drawn = False
    for number, (name, rows) in enumerate(lines.items()):
        points = sorted(
            (getattr(row, axis), row.metrics[key], *row.intervals.get(key, (None, None)))
            for row in rows
            if getattr(row, axis) and row.metrics.get(key) is not None
        )
        if not points:
            continue
        drawn = True
        x, y, low, high = zip(*points, strict=True)
        bars = None
        if None not in low:
            bars = [[b - a for a, b in zip(low, y)], [b - a for a, b in zip(y, high)]]
        axes.errorbar(
            x, y, bars, label=name, marker=MARKERS[number % len(MARKERS)], markersize=4, capsize=2,
            linewidth=1.2,
        )  # fmt: skip
    axes.set_xscale("log")
    seen = [row.metrics[key] for rows in lines.values() for row in rows if row.metrics.get(key)]
    if seen and not metric.higher_is_better and max(seen) > 4 * min(seen) > 0:
        axes.set_yscale("log")
    axes.set_xlabel(label)
    title = metric.name + " (hole)" * in_hole + (f", {metric.unit}" if metric.unit else "")
    axes.set_ylabel(f"{title}, {'higher' if metric.higher_is_better else 'lower'} is better")
    axes.grid(alpha=0.3)
    if drawn:
        axes.legend(fontsize=7)
    return drawn
