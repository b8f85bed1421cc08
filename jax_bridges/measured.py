"""How figures are recorded: with what, where and when they were measured, and as a table."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Collection, Iterable, Sequence

import jax

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def measured_here(module: str) -> dict:
    """Command, machine, date and versions, for a file of results.

    Args:
      module: whose command it is, as after `python -m`; its arguments are those of this process.
    """
    device = jax.devices()[0]
    return {
        "command": shlex.join(["python", "-m", module, *sys.argv[1:]]),
        "machine": f"{jax.device_count()} x {device.device_kind}, {os.cpu_count()} cores, "
        f"{platform.machine()}",
        "device": device.device_kind,
        "devices": jax.device_count(),
        "platform": device.platform,
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES}
        | {"python": platform.python_version()},
    }


def median_seconds(call: Callable, repeats: int) -> float:
    """Median time of `call()` until its result is there, after one that is not counted."""
    jax.block_until_ready(call())
    spent = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(call())
        spent.append(time.perf_counter() - start)
    return statistics.median(spent)


def markdown_table(
    head: Sequence[str], rows: Iterable[Sequence], words: Collection[str] = (), aligned: bool = True
) -> str:
    """A Markdown table.

    Args:
      head: names of the columns.
      rows: as many cells each; shown as text.
      words: names of the columns that are aligned to the left, as text is; others to the right.
      aligned: its columns line up in the source, too.
    """
    table = [[str(cell).replace("|", "\\|") for cell in row] for row in (head, *rows)]
    widths = [max(3, *(len(row[i]) * aligned for row in table)) for i in range(len(head))]
    pads = [str.ljust if name in words else str.rjust for name in head]
    lines = [
        [pad(cell, w) for pad, cell, w in zip(pads, row, widths, strict=True)] for row in table
    ]
    rule = [
        "-" * w if name in words else "-" * (w - 1) + ":"
        for name, w in zip(head, widths, strict=True)
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in [lines[0], rule, *lines[1:]])
