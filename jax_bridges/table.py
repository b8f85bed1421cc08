"""Rows of runs as a table to paste: `python -m jax_bridges.table RUN [RUN ...] --format=md|csv|latex|json`.

    python -m jax_bridges.table runs/inpaint --format=latex --metrics=fd_lite0_hole,psnr_hole
    python -m jax_bridges.table runs/inpaint runs/inpaint_long --rows=teacher/*/100,student
    python -m jax_bridges.table runs/inpaint --plots=plots   # needs pip install 'jax_bridges[paper]'

RUN is what a run left behind, or its results.json. Rows have 95% intervals where they were measured with
them; the best of a run's column is marked, with what is not worse by more than chance. What others have
published stands apart and is ranked with nothing.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports, which take seconds
    from jax_bridges.starting import begin

    begin()

import argparse
import sys

from jax_bridges.command import Parser, run_command
from jax_bridges.io.bucket import place
from jax_bridges.report.listing import FORMATS, Listing
from jax_bridges.report.plots import save_plots
from jax_bridges.report.results import read_results
from jax_bridges.report.row import Row


def read_runs(paths: list[str]) -> dict[str, list[Row]]:
    """The rows of each run by a name of its own: its folder's, with as much before it as tells runs apart.

    Raises:
      FileNotFoundError, ValueError: there are no results, or they cannot be read, or a run is named twice.
    """
    given = [place(path) for path in paths]
    files = [path if path.suffix == ".json" else path / "results.json" for path in given]
    whole = [
        file.resolve().parent if file.name == "results.json" else file.resolve().with_suffix("")
        for file in files
    ]
    if len(set(whole)) < len(whole):
        raise ValueError(f"{' '.join(paths)}: a run is named twice.")
    depth = 1
    while len({place.parts[-depth:] for place in whole}) < len(whole):
        depth += 1
    names = ["/".join(place.parts[-depth:]) for place in whole]
    return {name: read_results(file)["rows"] for name, file in zip(names, files, strict=True)}


def arguments() -> argparse.Namespace:
    """The flags."""
    parser = Parser(
        prog="python -m jax_bridges.table",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("runs", nargs="+", metavar="RUN", help="a run's folder, or its results.json")
    add("--format", choices=list(FORMATS), default="md", help="md, csv, latex or json (md)")
    add("--metrics", default="", help="keys of the columns, a_hole for the hole's; by default all")
    add(
        "--rows",
        default="",
        help="MODEL, MODEL/SAMPLER or MODEL/SAMPLER/NFE, with * and ?; by default all",
    )
    add(
        "--plots",
        default="",
        help="folder for quality over network calls and over time: pdf, svg, png",
    )
    return parser.parse_args()


def main() -> int:
    """The command; its exit code."""

    def work() -> None:
        flags = arguments()
        runs = read_runs(flags.runs)
        metrics, rows = (
            [each.strip() for each in text.split(",") if each.strip()]
            for text in (flags.metrics, flags.rows)
        )
        listing = Listing.of(runs, metrics, rows)
        if flags.plots:
            for path in save_plots(flags.plots, listing):
                print(path, file=sys.stderr)
        print(FORMATS[flags.format](listing))

    return run_command(work, (ValueError, OSError, ModuleNotFoundError))


if __name__ == "__main__":
    sys.exit(main())
