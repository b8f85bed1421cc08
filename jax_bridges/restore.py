"""Restore pictures: `python -m jax_bridges.restore MODEL IN... OUT`, for pictures of any size.

MODEL is the name of a model that ships with the package (--list shows them; photos:inpaint), the WORKDIR
of a run (its student; --model=teacher for its teacher, --model=ibmd for that student of a comparison), an
import of a released teacher, or a file of jax_bridges.export. IN is a picture, a folder or a pattern
("photos/**/*.jpg"), or several; OUT the .png to write, which keeps known pixels bit for bit, the .jpg,
which does not, or a folder. A model that fills holes is told where by --mask=FILE (white is missing; a
folder of masks of the same names for many pictures; alpha: what is transparent in IN is missing) or
--box=LEFT,TOP,WIDTH,HEIGHT; or paint it on a page: `python -m jax_bridges.paint MODEL`.

    from jax_bridges.restore import PriorRestorer, Restorer
    picture = Restorer("runs/inpaint", nfe=2)("photo.jpg", mask="mask.png", seed=0)
    picture.save("restored.png")                    # picture.pixels: uint8 or uint16 [H, W, C]

With --solver MODEL is a diffusion prior (a run of configs/zero_shot.py, or an imported ADM) and
--operator says what made the picture from the one that is wanted: inpaint, superres, colorize, blur,
denoise, or several with "+": --solver=ddnm --operator=colorize+superres:kind=pool,factor=2+inpaint.

    PriorRestorer("runs/zero_shot", "ddnm", "superres:factor=4")("small.png").save("large.png")
"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports, which take seconds
    from jax_bridges.starting import begin

    begin()

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from jax_bridges.command import Parser, keep_compiled, run_command
from jax_bridges.command_flags import given_flags, refuse_empty, refuse_given
from jax_bridges.data.errors import BadImage
from jax_bridges.io.bucket import place
from jax_bridges.packed import ListShipped
from jax_bridges.players import PLAYERS
from jax_bridges.restoring.files import Order, Task, find_orders
from jax_bridges.restoring.holes import parse_box
from jax_bridges.restoring.methods import OPERATORS
from jax_bridges.restoring.notes import Note, lines, lossy_notes, sample_notes
from jax_bridges.restoring.pictures import JPEGS, QUALITY
from jax_bridges.restoring.prior import TILINGS, PriorRestorer
from jax_bridges.restoring.restorer import Restorer
from jax_bridges.restoring.sheets import write_all
from jax_bridges.starting import draws_bars
from jax_bridges.zero_shot import SOLVERS


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m jax_bridges.restore", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("workdir", metavar="MODEL", help="a name of --list, a WORKDIR, or an exported file")
    add("--list", action=ListShipped, nargs=0, help="the models that ship with the package")
    add(
        "sources",
        metavar="IN",
        nargs="+",
        help="pictures, folders of pictures (and folders; not hidden ones), patterns",
    )
    add("out", metavar="OUT", help="a .png or .jpg for one picture; a folder otherwise")
    add("--model", choices=PLAYERS, help="whose weights (see above); the student's by default")
    add(
        "--mask",
        metavar="PATH",
        help="picture of what is missing (white), a folder of such, or alpha",
    )
    add("--box", metavar="L,T,W,H", action="append", default=[], help="a hole; may be repeated")
    add("--invert", action="store_true", help="black is missing in the mask, not white")
    add("--nfe", type=int, help="network calls a tile")
    add("--sampler", help="of a teacher; the run's own by default")
    add("--seed", type=int, default=0, help="another seed, another possible answer")
    add("--samples", type=int, default=1, help="answers a picture, and a grid of them")
    add("--compare", action="store_true", help="also write NAME-compare.png: before and after")
    add(
        "--quality",
        type=int,
        metavar="Q",
        help=f"of a .jpg ({QUALITY}), 1 to 100; of all in a folder",
    )
    add("--enlarge", type=int, help="super-resolution: how often; 1 if IN has its final size")
    add("--label", type=int, help="class, for networks that have classes")
    add("--tile", type=int, help="side of a tile; for imports, which do not record it")
    add(
        "--overlap", type=float, help="share of a tile in common with a neighbour (0.25; prior 0.5)"
    )
    add("--batch", type=int, default=16, help="tiles at once")
    add("--on-bad-file", choices=("refuse", "skip"), default="refuse", dest="on_bad_file")
    add("--force", action="store_true", help="overwrite what is in OUT already (never IN)")
    add("--quiet", action="store_true", help="say nothing but what went wrong")
    prior = parser.add_argument_group("diffusion priors").add_argument
    prior("--solver", metavar="NAME[:K=V,...]", help=f"{', '.join(SOLVERS)}, and its settings")
    prior("--operator", metavar="NAME[:K=V,...]", help=f"{', '.join(OPERATORS)}; several with +")
    prior("--sigma-y", type=float, help="noise of the picture, in units of [-1, 1] (white is 1)")
    prior(
        "--simulate", action="store_true", help="IN is clean: the operator is applied to it first"
    )
    prior("--classifier", metavar="FILE", help="OpenAI's, of noisy images: guides towards --label")
    prior("--guidance", type=float, help="its scale, 1 by default")
    prior(
        "--tiling", choices=TILINGS, help="tiles at once and blended, or one after the other (ddnm)"
    )
    prior(
        "--coarse", type=int, metavar="N", help="means of NxN pixels first: large holes and factors"
    )
    return parser


def run(argv: list[str]) -> list[Path]:
    """Parses, checks every file, restores, says how fast; the paths written.

    Raises ValueError or OSError, in one sentence, before anything is written wherever that can be
    known before.
    """
    flags = _parser().parse_intermixed_args(argv)  # flags may stand between names
    names = [("MODEL", flags.workdir), *(("IN", each) for each in flags.sources)]
    names += [("OUT", flags.out), ("--mask", flags.mask), ("--classifier", flags.classifier)]
    refuse_empty(names)
    if flags.samples < 1:
        raise ValueError(f"--samples={flags.samples}: it must be at least 1.")
    if not 0 <= flags.seed < 2**32:
        raise ValueError(f"--seed={flags.seed}: it must lie between 0 and 2**32 - 1.")
    if flags.mask is None:
        refuse_given(
            flags, ["invert"], "says what is missing in a --mask: give one, or leave it out."
        )
    boxes = [parse_box(text) for text in flags.box]
    extra = ["grid"] * (flags.samples > 1) + ["compare"] * flags.compare
    extra += [str(i) for i in range(2, flags.samples + 1)]

    def say(text: str, stream=None) -> None:
        if not flags.quiet:
            print(text, file=stream, flush=True)

    def note(text: str) -> None:
        say(text, sys.stderr)

    places = (flags.sources, flags.out, flags.mask)
    orders = find_orders(*places, extra, flags.force, flags.quality, note)
    restorer = _open(flags)
    say(f"{flags.workdir}: {restorer.model.text}")
    orders, notes = _check(restorer, orders, boxes, flags)
    if not restorer.model.varies:  # further ones would be the first again, as its notes say
        flags.samples = 1
    for line in lines(notes, argv):
        note(line)
    first = Task(orders[0].source, orders[0].mask, boxes, flags.invert)
    say(f"compiled in {restorer.warm_up(first):.1f} s")

    begin, written, done, pixels = time.perf_counter(), [], {}, 0
    tasks = [
        Task(order.source, order.mask, boxes, flags.invert, sample)
        for order in orders
        for sample in range(flags.samples)
    ]
    silent = flags.quiet or not draws_bars()
    with tqdm(desc="restore", unit=" tiles", disable=silent) as bar:
        for number, picture in restorer.many(tasks, flags.seed, bar.update):
            order = orders[number // flags.samples]
            samples = done.setdefault(order, {})
            samples[number % flags.samples] = picture
            pixels += picture.size[0] * picture.size[1]
            if len(samples) == flags.samples:
                samples = [samples[i] for i in range(flags.samples)]
                del done[order]
                task = Task(order.source, order.mask, boxes, flags.invert)
                given = restorer.before(task) if flags.compare or flags.samples > 1 else None
                how = (flags.compare, flags.force, flags.quality)
                written += write_all(order, samples, given, *how)
                say(f"{order.source} -> {order.out}")
    spent, megapixels = time.perf_counter() - begin, pixels / 1e6
    many = f"{len(tasks)} pictures" if len(tasks) > 1 else "1 picture"
    say(
        f"{many}, {megapixels:.2f} megapixels in {spent:.1f} s: {megapixels / spent:.3g} megapixels/s"
    )
    return written


def _open(flags: argparse.Namespace) -> Restorer | PriorRestorer:
    """The model with the flags that are its own; ValueError for those that are not."""
    given = given_flags(flags)

    def options(*names: str) -> dict[str, Any]:
        return {name: given[name] for name in names if name in given}

    own = ("nfe", "tile", "label", "batch", "overlap")
    bridge = ("sampler", "enlarge")
    prior = ("sigma_y", "simulate", "tiling", "coarse", "classifier", "guidance")
    if not (flags.solver or flags.operator):
        refuse_given(flags, prior, "goes with --solver and --operator.")
        return Restorer(flags.workdir, flags.model or "student", **options(*own, *bridge))
    if not (flags.solver and flags.operator):
        raise ValueError("--solver and --operator go together: say what and how, or neither.")
    refuse_given(flags, ("model", *bridge), "is for bridges: leave it out with --solver.")
    if "guidance" in given and "classifier" not in given:
        raise ValueError("--guidance is the scale of a classifier's: it goes with --classifier.")
    if not place(flags.workdir).is_dir():
        raise ValueError(
            f"--solver needs the WORKDIR of a diffusion prior, and {flags.workdir} is none."
        )
    return PriorRestorer(flags.workdir, flags.solver, flags.operator, **options(*own, *prior))


def _check(
    restorer: Restorer | PriorRestorer, orders: list[Order], boxes, flags
) -> tuple[list[Order], list[tuple[Note, str]]]:
    """The orders that can be done, and notes with the names of their pictures.

    Reads every picture once, so that a bad one shows before anything is compiled or written.
    """
    good, bad, notes = [], [], []
    for order in orders:
        try:
            if order.wrong:
                raise BadImage(order.wrong)
            picture, hole = restorer.read(Task(order.source, order.mask, boxes, flags.invert))
            lossy = order.out.suffix.lower() in JPEGS
            found = restorer.notes(picture, hole) + (lossy_notes(picture) if lossy else [])
            found += sample_notes(restorer.model, flags.seed, flags.samples - 1)
        except BadImage as error:
            bad.append(f"{order.source}: {error}.")
            continue
        good.append(order)
        notes += [(each, str(order.source)) for each in found]
    if bad and (flags.on_bad_file == "refuse" or not good):
        hint = (
            "" if len(orders) == 1 else "\nNothing was written; --on-bad-file=skip leaves such out."
        )
        raise ValueError(
            "\n".join(bad[:10] + [f"and {len(bad) - 10} more"] * (len(bad) > 10)) + hint
        )
    for line in bad:
        print(f"skipped: {line}", file=sys.stderr, flush=True)
    return good, notes


def main(argv: list[str] | None = None) -> int:
    """Exit code: 0, or 1 after one sentence on stderr."""
    keep_compiled()
    return run_command(lambda: run(sys.argv[1:] if argv is None else argv))


if __name__ == "__main__":
    sys.exit(main())
