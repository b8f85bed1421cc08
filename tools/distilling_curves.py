"""How students became what they are: looks at held-out images, or a loss, over their training.

    python -m tools.distilling_curves OUT.svg "few updates=runs/a" "many=runs/b" [--over=seconds]

Each run was made with `--config.evaluate.every=N` and has a student; its line begins with its first look.
"""

from __future__ import annotations

import argparse
from itertools import accumulate, cycle
from pathlib import Path

from jax_bridges.command import Parser, run_command
from jax_bridges.players import DISTILL
from jax_bridges.report.curves import COLOURS, OTHER_COLOURS, Series, chart, save_svg
from jax_bridges.report.results import read_metrics

INKS = (COLOURS["teacher"], COLOURS["student"], *OTHER_COLOURS)
OVER = {"updates": "updates of the generator", "seconds": "seconds of training"}


def line_of(label: str, folder: Path, metric: str, over: str, colour: str) -> Series:
    """A run's values of `metric`, a key of the lines in its metrics.jsonl."""
    records = read_metrics(folder / "metrics.jsonl")[0].get(DISTILL, [])
    steps = [record["step"] for record in records]
    pace = [record.get("seconds_per_step", 0.0) for record in records]
    ran = accumulate((b - a) * s for a, b, s in zip([0, *steps], steps, pace, strict=False))
    at = steps if over == "updates" else list(ran)
    points = [
        (x, record[metric]) for x, record in zip(at, records, strict=True) if metric in record
    ]
    if not points:
        raise ValueError(
            f"{folder} has no {metric} of its student: make it with --config.evaluate.every=N."
        )
    x, y = zip(*points, strict=True)
    return Series(label, x, y, colour)


def main(args: argparse.Namespace) -> None:
    """Writes the chart."""
    lines = []
    for given, colour in zip(args.runs, cycle(INKS)):
        label, _, folder = given.rpartition("=")
        lines.append(line_of(label or folder, Path(folder), args.metric, args.over, colour))
    svg = chart(lines, args.title or args.metric, OVER[args.over], y_log=args.log)
    save_svg(args.out, svg)
    print(f"{args.out}: {len(lines)} runs", flush=True)


if __name__ == "__main__":
    parser = Parser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, help="the .svg to write")
    parser.add_argument("runs", nargs="+", help="LABEL=WORKDIR, or WORKDIR alone")
    parser.add_argument(
        "--metric", default="validation_fd_lite0", help="a key of metrics.jsonl's lines"
    )
    parser.add_argument("--over", choices=OVER, default="updates", help="what is below the lines")
    parser.add_argument("--title", help="what is above them; the metric by default")
    parser.add_argument("--log", action="store_true", help="a logarithmic scale of the values")
    raise SystemExit(run_command(lambda: main(parser.parse_args())))
