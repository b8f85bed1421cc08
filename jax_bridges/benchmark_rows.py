"""What the benchmark leaves: a table of its rows, and where and with what they were measured."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import shlex
import sys

import jax

COLUMNS = {
    "network": lambda row: row["name"],
    "dtype": lambda row: row["dtype"],
    "what": lambda row: row["what"],
    "images": lambda row: str(row["images"]),
    "ms": lambda row: f"{1e3 * row['seconds']:.4g}",
    "images/s": lambda row: f"{row['images_per_second']:.4g}",
    "TFLOP/s": lambda row: f"{row['tflops']:.3g}",
    "of matmul": lambda row: f"{100 * row['tflops'] / row['matmul_tflops']:.0f} %",
    "of peak": lambda row: f"{100 * row['tflops'] / row['peak_tflops']:.0f} %",
    "compile s": lambda row: f"{row['compile']:.0f}",
}


def format_rows(rows: list[dict]) -> str:
    """The rows as a Markdown table, aligned; without the share of a peak that is not given."""
    columns = {k: v for k, v in COLUMNS.items() if k != "of peak" or rows[0].get("peak_tflops")}
    table = [list(columns)] + [[show(row) for show in columns.values()] for row in rows]
    widths = [max(len(line[i]) for line in table) for i in range(len(columns))]
    texts = 3  # columns of words, aligned to the left
    pads = [str.ljust] * texts + [str.rjust] * (len(columns) - texts)
    lines = [
        [pad(cell, w) for pad, cell, w in zip(pads, line, widths, strict=True)] for line in table
    ]
    rule = ["-" * w if i < texts else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return "\n".join("| " + " | ".join(line) + " |" for line in [lines[0], rule, *lines[1:]])


def machine() -> dict:
    """Where, when and with what it was measured."""
    device = jax.devices()[0]
    packages = ("jax", "jaxlib", "flax", "optax", "numpy")
    return {
        "device": device.device_kind,
        "devices": jax.device_count(),
        "platform": device.platform,
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "versions": {name: importlib.metadata.version(name) for name in packages}
        | {"python": platform.python_version()},
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", "jax_bridges.benchmark", *sys.argv[1:]]),
    }
