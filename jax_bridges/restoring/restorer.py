"""A bridge's student or teacher on pictures of any size: the way from a file to its answer."""

from __future__ import annotations

import dataclasses
import os
import shlex
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from jax_bridges.data.errors import BadImage
from jax_bridges.restoring.files import Task
from jax_bridges.restoring.holes import Box, find_hole, split_alpha
from jax_bridges.restoring.jobs import (
    fill_box,
    fill_free,
    restore_whole,
    run_jobs,
    surroundings,
    widest_part,
)
from jax_bridges.restoring.models import open_model
from jax_bridges.restoring.notes import (
    Note,
    lacks,
    quality_notes,
    restore_one,
    sample_notes,
    scale_notes,
    training_command,
    wide_hole_notes,
)
from jax_bridges.restoring.pictures import Picture, check_size, read_picture
from jax_bridges.restoring.shrunk import agree


class Restorer:
    """A model that restores pictures of any size; `Restorer(path)(picture)`.

    >>> import jax_bridges as jb, numpy as np
    >>> restorer = jb.Restorer("photos:inpaint", batch=1)  # comes with the package; a run's folder as well
    >>> pixels = np.full((40, 60, 3), 128, np.uint8)  # or a path, a Pillow image, bytes
    >>> picture = restorer(pixels, boxes=[(10, 12, 20, 8)], seed=0)  # left, top, width, height
    >>> picture.size, bool((picture.pixels[:12] == 128).all())
    ((40, 60), True)
    >>> picture.save("restored.png")
    PosixPath('restored.png')
    """

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
          enlarge: super-resolution makes so many pixels, along an axis, of one of a small picture first,
            by repeating or interpolating it, as it has learned, and what it then answers shrinks to that
            picture (`restoring.shrunk`); 1 for one that has been enlarged like that already. The model's
            largest factor by default.

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
        self.path = str(path)
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
          mask: where pixels are missing, likewise, or bool `[H, W]`; see `find_hole`. "alpha": what is
            not opaque in the picture is missing; the result is opaque.
          boxes: further holes, (left, top, width, height) each.
          invert: the mask's dark half is what is missing.
          seed, sample: of the noise; another number, another possible answer, where `model.varies`.

        Returns:
          A `Picture` of the same size (times `enlarge`), type and alpha; pixels outside the hole are
          those that were given, bit for bit.

        Raises:
          BadImage: the picture or its mask cannot be used.

        Warns:
          RestoreNote: what there is to know of the result, see `notes`.
        """
        return restore_one(self, Task(picture, mask, boxes, invert, sample), seed)

    def many(
        self,
        tasks: Iterable[Task],
        seed: int = 0,
        progress: Callable[[int], Any] | None = None,
        tell: Callable[[Note], Any] | None = None,
    ) -> Iterator[tuple[int, Picture]]:
        """(number, picture) of each task as it is done; tiles of several pictures share a batch.

        What a picture becomes depends on neither the others nor the batch. `progress` is told the
        number of tiles that each round answered, `tell` the notes of each picture.
        """
        opened = {}

        def jobs():
            for number, task in enumerate(tasks):
                picture, hole = self.read(task)
                if tell is not None:
                    more = sample_notes(self.model, seed, task.sample)
                    for note in self.notes(picture, hole) + more:
                        tell(note)
                where = None if hole is None else surroundings(hole, self.model.size)
                opened[number] = picture, hole, where, task.sample
                yield number, self._job(picture, hole, where)

        def answer(questions):
            names, tiles = zip(*questions, strict=True)
            lengths = [len(t) for t in tiles]
            samples = np.repeat([opened[name][3] for name in names], lengths)
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
            picture, hole, where, _ = opened.pop(number)
            if self.model.qualities is not None and picture.jpeg is not None:
                restored = picture.jpeg.narrow(restored, picture.pixels)
            if self.model.shrinks is not None and picture.small is not None:
                restored = agree(restored, picture.small, self.model.shrinks)
            yield number, picture.compose(restored, hole, self.model.colours, where)

    def read(self, task: Task) -> tuple[Picture, np.ndarray | None]:
        """The task's picture, enlarged if the model does that, and its hole, bool `[H, W]` or None.

        Raises BadImage for a picture or mask that cannot be used, or a mask too many or too few.
        """
        picture, mask = split_alpha(read_picture(task.picture), task.mask, task.invert)
        check_size((picture.size[0] * self.enlarge, picture.size[1] * self.enlarge))
        if self.enlarge > 1:
            picture = picture.enlarged(self.enlarge, self.model.interpolates)
        given = mask is not None or len(task.boxes) > 0
        if self.model.masks == "none" and given:
            raise BadImage("this model restores whole pictures: give it no --mask and no --box")
        if self.model.masks == "needed" and not given:
            raise BadImage(
                "this model fills holes: say where with --mask or --box, or paint them: "
                f"python -m jax_bridges.paint {shlex.quote(self.path)}"
            )
        if not given:
            return picture, None
        return picture, find_hole(picture.size, mask, task.boxes, task.invert)

    def before(self, task: Task) -> tuple[Picture, np.ndarray | None]:
        """What there is to go on, as a picture, and its hole."""
        return self.read(task)

    def warm_up(self, task: Task | None = None) -> float:
        """Compiles, on a small picture, as a tile's size is all that counts; the seconds it took."""
        begin = time.perf_counter()
        picture = np.zeros((*self.model.size, 3), np.uint8)
        height, width = picture.shape[:2]
        boxes = () if self.model.masks == "none" else [(width // 2, height // 2, 1, 1)]
        task = Task(picture if self.enlarge == 1 else picture[:1, :1], boxes=boxes)
        next(self.many([task]))
        return time.perf_counter() - begin

    def notes(self, picture: Picture, hole: np.ndarray | None) -> list[Note]:
        """What there is to know of the result, of what `read` gave."""
        model, found = self.model, []
        command = training_command(model.recorded, "inpaint_freeform" if model.box else None)
        found += scale_notes(model.recorded, model.size, picture.size, command)
        found += quality_notes(model.qualities, picture.jpeg)
        found += wide_hole_notes(model, self.path, hole)
        if model.box is not None and hole is not None:
            y0, x0, y1, x1 = model.box
            height, width = widest_part(hole)
            if height > y1 - y0 or width > x1 - x0:
                text = (
                    f"this model has only ever seen a hole of {x1 - x0}x{y1 - y0} pixels in the "
                    f"middle of {model.size[1]}x{model.size[0]}, and this one is up to "
                    f"{width}x{height}: it is filled piece by piece from its border inward, each "
                    "piece from what is known or was filled before, which continues texture but no "
                    "large shapes"
                )
                found.append(Note(text, "One that takes any mask", command))
        return found + lacks(picture, model.colours)

    def _job(self, picture: Picture, hole: np.ndarray | None, where: tuple[slice, slice] | None):
        model, chunk = self.model, 4 * self.batch
        if hole is None or where is None:
            known = picture.to_float()
            return restore_whole(known, model.size, self._overlap(model.size), model.align, chunk)
        known, part = picture.to_float(where), hole[where]
        corner = (where[0].start, where[1].start)
        if model.box is None:
            sides = (model.size, self._overlap(model.size))
            return fill_free(known, part, *sides, chunk, corner, picture.size)
        inner = model.box[2] - model.box[0], model.box[3] - model.box[1]
        sides = (model.size, model.box, self._overlap(inner))
        return fill_box(known, part, *sides, chunk, corner)

    def _overlap(self, size: tuple[int, int]) -> tuple[int, int]:
        return int(size[0] * self.overlap), int(size[1] * self.overlap)
