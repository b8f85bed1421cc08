"""Restore pictures: `python -m jax_bridges.restore MODEL IN OUT`, for pictures of any size.

MODEL is the name of a model that ships with the package (--list shows them; photos:inpaint), the WORKDIR
of a run (its student; --model=teacher for its teacher, --model=ibmd for that student of a comparison), an
import of a released teacher, or a file of jax_bridges.export. IN is a
picture or a folder; OUT the PNG or the folder to write. A model that fills holes is told where by
--mask=FILE (white is missing; for a folder of pictures also a folder of masks of the same names) or
--box=LEFT,TOP,WIDTH,HEIGHT.

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
import dataclasses
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from jax_bridges.command import Parser, keep_compiled, run_command
from jax_bridges.command_flags import given_flags, refuse_given
from jax_bridges.data.errors import BadImage
from jax_bridges.packed import ListShipped
from jax_bridges.players import PLAYERS
from jax_bridges.restoring.files import Order, Task, find_orders
from jax_bridges.restoring.holes import Box, find_hole, parse_box
from jax_bridges.restoring.jobs import fill_box, fill_free, restore_whole, run_jobs, widest_part
from jax_bridges.restoring.methods import OPERATORS
from jax_bridges.restoring.models import open_model
from jax_bridges.restoring.pictures import Picture, check_size, read_picture
from jax_bridges.restoring.prior import TILINGS, PriorRestorer
from jax_bridges.restoring.sheets import write_all
from jax_bridges.zero_shot import SOLVERS


class Restorer:
    """A model that restores pictures of any size; `Restorer(path)(picture)`."""

    def __init__(
        self,
        path: str | os.PathLike,
        player: str = "student",
        *,
        nfe: int | None = None,
        sampler: str | None = None,
        tile: int | tuple[int, int] | None = None,
        label: int | None = None,
        batch: int = 16,
        overlap: float = 0.25,
        enlarge: int | None = None,
    ):
        """Reads the model; compiles nothing yet.

        Args:
          path, player, nfe, sampler, tile, label, batch: see `restoring.models.open_model`.
          overlap: share of a tile (of the box, for models of one fixed hole) that it has in common
            with each neighbour, in [0, 0.75].
          enlarge: super-resolution makes so many pixels, along an axis, of one of a small picture first, by
            repeating or interpolating it, as it has learned; 1 for a picture that has been enlarged like
            that already. The model's largest factor by default.

        Raises:
          FileNotFoundError, ValueError: one sentence.
        """
        if not 0 <= overlap <= 0.75:
            raise ValueError(f"--overlap={overlap}: it is a share of a tile, from 0 to 0.75.")
        if batch < 1:
            raise ValueError(f"--batch={batch}: it must be at least 1.")
        tile = (tile, tile) if isinstance(tile, int) else tile
        self.model = open_model(
            path, player, nfe=nfe, sampler=sampler, tile=tile, label=label, batch=batch
        )
        known = self.model.enlargements
        self.enlarge = known[-1] if enlarge is None else enlarge
        if self.enlarge not in known:
            raise ValueError(
                f"--enlarge={enlarge}: this model takes {' or '.join(map(str, known))}."
            )
        self.batch, self.overlap = batch, overlap

    def __call__(
        self,
        picture: Any,
        mask: Any = None,
        boxes: Sequence[Box] = (),
        *,
        invert: bool = False,
        seed: int = 0,
        sample: int = 0,
    ) -> Picture:
        """One picture restored.

        Args:
          picture: a path, bytes, a Pillow image or pixels, as `read_picture` takes them.
          mask: where pixels are missing, likewise, or bool `[H, W]`; see `find_hole`.
          boxes: further holes, (left, top, width, height) each.
          invert: the mask's dark half is what is missing.
          seed, sample: of the noise; another number, another possible answer.

        Returns:
          A `Picture` of the same size (times `enlarge`), type and alpha; pixels outside the hole are
          those that were given, bit for bit.

        Raises:
          BadImage: the picture or its mask cannot be used.
        """
        task = Task(picture, mask, boxes, invert, sample)
        return next(self.many([task], seed))[1]

    def many(
        self, tasks: Iterable[Task], seed: int = 0, progress: Callable[[int], Any] | None = None
    ) -> Iterator[tuple[int, Picture]]:
        """(number, picture) of each task as it is done; tiles of several pictures share a batch.

        What a picture becomes depends on neither the others nor the batch. `progress` is told the
        number of tiles that each round answered.
        """
        opened = {}

        def jobs():
            for number, task in enumerate(tasks):
                picture, hole = self.read(task)
                opened[number] = picture, hole, task.sample
                yield number, self._job(picture.to_float(), hole)

        def answer(questions):
            names, tiles = zip(*questions, strict=True)
            lengths = [len(t) for t in tiles]
            samples = np.repeat([opened[name][2] for name in names], lengths)
            together = type(tiles[0])(
                *(
                    None if parts[0] is None else np.concatenate(parts)
                    for parts in zip(*(dataclasses.astuple(t) for t in tiles), strict=True)
                )
            )
            answers = self.model.answer(together, samples, seed)
            if progress is not None:
                progress(len(together))
            return np.split(answers, np.cumsum(lengths)[:-1])

        for number, restored in run_jobs(jobs(), answer, self.batch):
            picture, hole, _ = opened.pop(number)
            yield number, picture.compose(restored, hole, self.model.colours)

    def read(self, task: Task) -> tuple[Picture, np.ndarray | None]:
        """The task's picture, enlarged if the model does that, and its hole, bool `[H, W]` or None.

        Raises BadImage for a picture or mask that cannot be used, or a mask too many or too few.
        """
        picture = read_picture(task.picture)
        check_size((picture.size[0] * self.enlarge, picture.size[1] * self.enlarge))
        if self.enlarge > 1:
            picture = picture.enlarged(self.enlarge, self.model.interpolates)
        given = task.mask is not None or bool(task.boxes)
        if self.model.masks == "none" and given:
            raise BadImage("this model restores whole pictures: give it no --mask and no --box")
        if self.model.masks == "needed" and not given:
            raise BadImage("this model fills holes: say where with --mask or --box")
        if not given:
            return picture, None
        return picture, find_hole(picture.size, task.mask, task.boxes, task.invert)

    def before(self, task: Task) -> tuple[Picture, np.ndarray | None]:
        """What there is to go on, as a picture, and its hole."""
        return self.read(task)

    def warm_up(self, task: Task | None = None) -> float:
        """Compiles, on a small picture, as a tile's size is all that counts; the seconds it took."""
        del task
        begin = time.perf_counter()
        picture = np.zeros((*self.model.size, 3), np.uint8)
        height, width = picture.shape[:2]
        boxes = () if self.model.masks == "none" else [(width // 2, height // 2, 1, 1)]
        self(picture, boxes=boxes) if self.enlarge == 1 else self(picture[:1, :1])
        return time.perf_counter() - begin

    def limits(self, hole: np.ndarray) -> str:
        """What the model can do with this hole, in a sentence; "" where it is like those of training."""
        if self.model.box is None:
            return ""
        y0, x0, y1, x1 = self.model.box
        height, width = widest_part(hole)
        if height <= y1 - y0 and width <= x1 - x0:
            return ""
        tile = f"{self.model.size[1]}x{self.model.size[0]}"
        return (
            f"this model has only ever seen a hole of {x1 - x0}x{y1 - y0} pixels in the middle of "
            f"{tile}, and this one is up to {width}x{height}: it is filled piece by piece from its "
            "border inward, each piece from what is known or was filled before, which continues "
            "texture but no large shapes (a model trained with inpaint_freeform takes any mask)"
        )

    def _job(self, image: np.ndarray, hole: np.ndarray | None):
        model, chunk = self.model, 4 * self.batch
        if hole is None:
            return restore_whole(image, model.size, self._overlap(model.size), model.align, chunk)
        if model.box is None:
            return fill_free(image, hole, model.size, self._overlap(model.size), chunk)
        inner = model.box[2] - model.box[0], model.box[3] - model.box[1]
        return fill_box(image, hole, model.size, model.box, self._overlap(inner), chunk)

    def _overlap(self, size: tuple[int, int]) -> tuple[int, int]:
        return int(size[0] * self.overlap), int(size[1] * self.overlap)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m jax_bridges.restore", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("workdir", metavar="MODEL", help="a name of --list, a WORKDIR, or an exported file")
    add("--list", action=ListShipped, nargs=0, help="the models that ship with the package")
    add(
        "source",
        metavar="IN",
        help="a picture, or a folder of pictures (and folders; not hidden ones)",
    )
    add("out", metavar="OUT", help="a .png for a picture; a folder otherwise")
    add("--model", choices=PLAYERS, help="whose weights (see above); the student's by default")
    add("--mask", metavar="PATH", help="picture of what is missing (white), or a folder of such")
    add("--box", metavar="L,T,W,H", action="append", default=[], help="a hole; may be repeated")
    add("--invert", action="store_true", help="black is missing in the mask, not white")
    add("--nfe", type=int, help="network calls a tile")
    add("--sampler", help="of a teacher; the run's own by default")
    add("--seed", type=int, default=0, help="another seed, another possible answer")
    add("--samples", type=int, default=1, help="answers a picture, and a grid of them")
    add("--compare", action="store_true", help="also write NAME-compare.png: before and after")
    add(
        "--enlarge",
        type=int,
        help="super-resolution: how often; 1 if IN has its final size already",
    )
    add("--label", type=int, help="class, for networks that have classes")
    add("--tile", type=int, help="side of a tile; for imports, which do not record it")
    add(
        "--overlap", type=float, help="share of a tile in common with a neighbour (0.25; prior 0.5)"
    )
    add("--batch", type=int, default=16, help="tiles at once")
    add("--on-bad-file", choices=("refuse", "skip"), default="refuse", dest="on_bad_file")
    add("--force", action="store_true", help="overwrite what is in OUT already (never IN)")
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
    flags = _parser().parse_args(argv)
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
    orders = find_orders(flags.source, flags.out, flags.mask, extra, flags.force)
    restorer = _open(flags)
    print(f"{flags.workdir}: {restorer.model.text}", flush=True)
    orders = _check(restorer, orders, boxes, flags)
    first = Task(orders[0].source, orders[0].mask, boxes, flags.invert)
    print(f"compiled in {restorer.warm_up(first):.1f} s", flush=True)

    begin, written, done, pixels = time.perf_counter(), [], {}, 0
    tasks = [
        Task(order.source, order.mask, boxes, flags.invert, sample)
        for order in orders
        for sample in range(flags.samples)
    ]
    silent = None if sys.stderr.isatty() else True
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
                written += write_all(order, samples, given, flags.compare, flags.force)
                print(f"{order.source} -> {order.out}", flush=True)
    spent, megapixels = time.perf_counter() - begin, pixels / 1e6
    many = f"{len(tasks)} pictures" if len(tasks) > 1 else "1 picture"
    print(
        f"{many}, {megapixels:.2f} megapixels in {spent:.1f} s: {megapixels / spent:.3g} "
        "megapixels/s",
        flush=True,
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
    if not Path(flags.workdir).is_dir():
        raise ValueError(
            f"--solver needs the WORKDIR of a diffusion prior, and {flags.workdir} is none."
        )
    return PriorRestorer(flags.workdir, flags.solver, flags.operator, **options(*own, *prior))


def _check(restorer: Restorer | PriorRestorer, orders: list[Order], boxes, flags) -> list[Order]:
    """Reads every picture once, so that a bad one shows before anything is compiled or written."""
    good, bad, notes = [], [], {}
    for order in orders:
        try:
            if order.wrong:
                raise BadImage(order.wrong)
            picture, hole = restorer.read(Task(order.source, order.mask, boxes, flags.invert))
        except BadImage as error:
            bad.append(f"{order.source}: {error}.")
            continue
        good.append(order)
        lost = (picture.coloured() if restorer.model.colours else picture).left_out
        lacks = lost and f"what is written lacks {', and '.join(lost)}"
        scale = restorer.model.scale(picture.size)
        for note in filter(None, (hole is not None and restorer.limits(hole), scale, lacks)):
            notes.setdefault(note, []).append(order.source)
    if bad and (flags.on_bad_file == "refuse" or not good):
        hint = (
            "" if len(orders) == 1 else "\nNothing was written; --on-bad-file=skip leaves such out."
        )
        raise ValueError(
            "\n".join(bad[:10] + [f"and {len(bad) - 10} more"] * (len(bad) > 10)) + hint
        )
    for line in bad:
        print(f"skipped: {line}", file=sys.stderr, flush=True)
    for note, names in notes.items():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        print(f"note: {names[0]}{more}: {note}.", file=sys.stderr, flush=True)
    return good


def main(argv: list[str] | None = None) -> int:
    """Exit code: 0, or 1 after one sentence on stderr."""
    keep_compiled()
    return run_command(lambda: run(sys.argv[1:] if argv is None else argv))


if __name__ == "__main__":
    sys.exit(main())
