"""Pictures of any size restored by a diffusion prior and an operator that the user names.

Every network call goes over all tiles of the picture, whose answers are blended, so that any solver
and operator see one picture (`zero_shot.tile_denoiser`); or tile follows tile (`tiling="mask_shift"`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_bridges.choices import look_up
from jax_bridges.corruptions import (
    Canvas,
    Identity,
    InpaintMask,
    LinearOperator,
    Rows,
    check_noise,
)
from jax_bridges.data.errors import BadImage
from jax_bridges.keys import SIMULATED
from jax_bridges.players import read_player
from jax_bridges.restoring.files import Task
from jax_bridges.restoring.holes import Box, find_hole, split_alpha
from jax_bridges.restoring.jobs import widest_part
from jax_bridges.restoring.methods import SENSING, parse_method, parse_operator
from jax_bridges.restoring.models import check_label, check_tile
from jax_bridges.restoring.notes import Note, lacks, restore_one, scale_notes
from jax_bridges.restoring.pictures import Picture, check_size, read_picture
from jax_bridges.stages.prior import complete_prior, guide, open_classifier
from jax_bridges.training.system import Pair, System
from jax_bridges.zero_shot import (
    SOLVERS,
    Loop,
    apart,
    loop_here,
    measure,
    solve_hierarchical,
    solve_mask_shift,
    tile_denoiser,
)

TILINGS = ("blend", "mask_shift")


class PriorRestorer:
    """A prior, a solver and an operator; `PriorRestorer(path, operator="superres")(picture)`.

    operator = "colorize+superres:kind=pool,factor=2"
    restorer = jb.PriorRestorer("runs/zero_shot", "ddnm", operator)
    restorer("small_and_gray.png").save("large.png")
    """

    enlarge, varies = 1, True

    def __init__(
        self,
        path: str | os.PathLike,
        solver: str = "ddnm",
        operator: str = "inpaint",
        *,
        sigma_y: float | None = None,
        nfe: int | None = None,
        simulate: bool = False,
        tiling: str = "blend",
        coarse: int = 1,
        tile: int | tuple[int, int] | None = None,
        label: int | None = None,
        classifier: str | os.PathLike | None = None,
        guidance: float = 1.0,
        batch: int = 16,
        overlap: float = 0.5,
    ):
        """Reads the prior; compiles nothing yet.

        Args:
          path: WORKDIR of a run of configs/zero_shot.py, or of an import with --as=adm.
          solver: a name of zero_shot.SOLVERS with its settings, see `parse_method`.
          operator: what made the picture from the one that is wanted, see `parse_operator`.
          sigma_y: standard deviation of the noise in the picture in units of [-1, 1], twice that of
            images in [0, 1]; 0 by default (of "denoise", its std).
          nfe: noise levels to visit; the run's own by default.
          simulate: the picture is the clean one: the operator and the noise are put on it first.
          tiling: "blend", or "mask_shift" (solver ddnm).
          coarse: more than 1: block means of so many pixels are restored first (`solve_hierarchical`).
          tile: side, or (h, w), for an import alone, which does not record it.
          label: class, for a network that has classes or a classifier that guides one.
          classifier: file of OpenAI's classifier of noisy images, which guides towards `label`.
          guidance: its scale; 1 is Bayes' rule.
          batch: tiles that go through the network at once.
          overlap: share of a tile that it has in common with each neighbour, in [0, 0.75].

        Raises:
          FileNotFoundError, ValueError: one sentence.
        """
        self.operator, self.inpaint = parse_operator(operator, simulate)
        recorded, params = read_player(path, "teacher")
        check_tile(path, recorded, tile, "256 (or 128, 512)")
        config = complete_prior(recorded, str(path), tile)
        self.system, self.recorded = System.create(config), recorded
        self.method = parse_method(solver, self.system.bridge, config.zero_shot, nfe)
        self.sigma_y = self.operator.noise if sigma_y is None else sigma_y
        self.simulate, self.tiling, self.coarse, self.batch = simulate, tiling, coarse, batch
        classes = getattr(self.system.teacher, "num_classes", 0) or 0
        self.classifier, self.guidance = None, guidance
        if classifier is not None:
            place = (str(classifier), self.system.bridge, self.system.size)
            self.classifier, weights = open_classifier(*place)
            classes = min(classes or self.classifier.classes, self.classifier.classes)
        check_label(label, classes)
        self.label = label
        self._check(operator, overlap)
        self.params = jax.device_put((params, None if self.classifier is None else weights))
        # Corners of tiles must not cut an operator's blocks.
        down, right = (
            max(self.factor, int(n * (1 - overlap)) // self.factor * self.factor)
            for n in self.system.size
        )
        self.stride = down, right
        self._compiled: dict[Any, Callable] = {}
        noise = f", noise {self.sigma_y:g}" if self.sigma_y else ""
        self.text = (
            f"{config.task} prior, {self.method.solver.name} for {operator}{noise}, "
            f"{self.method.nfe * (1 + (coarse > 1))} network calls a tile"
        )

    @property
    def model(self) -> PriorRestorer:
        """What says what it is (`text`)."""
        return self

    @property
    def colours(self) -> bool:
        """It makes colour pictures of gray ones."""
        return self.operator.greys

    @property
    def factor(self) -> int:
        """How many pixels of x, along an axis, are one of y."""
        return self.operator.enlarges

    def _check(self, text: str, overlap: float) -> None:
        """Refuses what does not go together, before any picture is read."""
        solver, exact = self.method.solver, self.operator == Identity()
        if not 0 <= overlap <= 0.75:
            raise ValueError(f"--overlap={overlap}: it is a share of a tile, from 0 to 0.75.")
        if self.batch < 1 or self.coarse < 1:
            raise ValueError(
                f"--batch={self.batch} and --coarse={self.coarse}: both must be at least 1."
            )
        look_up("tiling", dict.fromkeys(TILINGS), self.tiling)
        check_noise("--sigma-y", self.sigma_y)
        if self.sigma_y and not (solver.noise or self.simulate):
            able = ", ".join(name for name, each in SOLVERS.items() if each.noise)
            raise ValueError(
                f"--sigma-y={self.sigma_y:g}: the solver '{solver.name}' takes the picture for exact; "
                f"choose one of {able}."
            )
        if self.operator.noisy and not self.sigma_y:
            raise ValueError(
                "The operator 'denoise' without noise changes nothing: give --sigma-y."
            )
        if not self.simulate and any(name in text for name in SENSING):
            raise ValueError(
                f"--operator={text}: its measurements are no picture; give the clean picture and "
                "--simulate."
            )
        if solver.mask_only and (not self.inpaint or not exact or self.sigma_y):
            raise ValueError(
                f"The solver '{solver.name}' fills holes alone: give --operator=inpaint and no --sigma-y."
            )
        if self.tiling == "mask_shift" and (solver.name != "ddnm" or self.coarse > 1):
            raise ValueError("--tiling=mask_shift goes with --solver=ddnm, without --coarse.")
        if self.tiling == "mask_shift" and len(set(self.system.size)) > 1:
            raise ValueError("--tiling=mask_shift is for priors of square images.")
        if self.coarse > 1 and (solver.name not in ("ddnm", "ddrm") or self.sigma_y):
            raise ValueError("--coarse goes with --solver=ddnm or ddrm, and no --sigma-y.")

    # -- pictures ------------------------------------------------------------------------------------
    def read(self, task: Task) -> tuple[Picture, np.ndarray | None]:
        """The picture that is written over, at its final size, and the hole alone if the rest is exact.

        Raises BadImage for a picture or mask that cannot be used.
        """
        given, y, operator = self._open(task)
        picture = given if self.simulate else given.enlarged(self.factor)
        only_hole = operator.holes_alone and not self.sigma_y
        return picture, (_missing(operator)[0, ..., 0] > 0) if only_hole else None

    def before(self, task: Task) -> tuple[Picture, np.ndarray | None]:
        """What there is to go on, as a picture, and its hole."""
        given, y, operator = self._open(task)
        picture = given if self.simulate else given.enlarged(self.factor)
        hole = None
        if self.inpaint:
            hole = _missing(operator)[0, ..., 0] > 0
            hole = hole.repeat(self.factor, 0).repeat(self.factor, 1)
        if self.simulate:
            y = self._measured(operator, y)
            picture = picture.compose(np.asarray(operator.pinv(y))[0], None, False)
        return picture, hole

    def _open(self, task: Task) -> tuple[Picture, np.ndarray, LinearOperator]:
        """The given picture, y (the clean picture, if it is to be simulated), and the operator."""
        picture, mask = split_alpha(read_picture(task.picture), task.mask, task.invert)
        larger = 1 if self.simulate else self.factor
        check_size((picture.size[0] * larger, picture.size[1] * larger))
        masked = mask is not None or len(task.boxes) > 0
        if masked and not self.inpaint:
            raise BadImage("a mask goes with the operator 'inpaint': add +inpaint to --operator")
        if self.inpaint and not masked:
            raise BadImage("the operator 'inpaint' fills holes: say where with --mask or --box")
        y = picture.to_float()[None]
        try:
            shape = jax.eval_shape(self.operator.forward, y).shape if self.simulate else y.shape
            if not self.simulate:
                for part in self.operator.chain:
                    y = np.asarray(part.forward(y)) if part.greys else y
                jax.eval_shape(self.operator.pinv, y)
            operator = self.operator
            if self.inpaint:
                hole = find_hole(shape[1:3], mask, task.boxes, task.invert)
                mask = jnp.asarray(hole[None, ..., None], jnp.float32)
                whole = operator == Identity()
                operator = InpaintMask(mask=mask) if whole else Rows(operator=operator, mask=mask)
        except BadImage:
            raise
        except ValueError as error:
            raise BadImage(f"does not suit the operator ({str(error).rstrip('.')})") from error
        if self.coarse > 1 and any(n * self.factor % self.coarse for n in shape[1:3]):
            raise BadImage(
                f"would be {shape[2] * self.factor}x{shape[1] * self.factor}, and --coarse="
                f"{self.coarse} must divide both sides"
            )
        return picture, y, operator

    def _measured(self, operator: LinearOperator, y: Any) -> jax.Array:
        """y of what `_open` gave; the noise of a simulation is the same for all samples and seeds."""
        if not self.simulate:
            return jnp.where(_missing(operator) > 0, 0, y) if self.inpaint else jnp.asarray(y)
        key = jax.random.fold_in(jax.random.key(0), SIMULATED)
        return measure(operator, jnp.asarray(y), self.sigma_y, key[None])

    # -- solving -------------------------------------------------------------------------------------
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
        """One picture restored; arguments and errors as of `restore.Restorer`."""
        return restore_one(self, Task(picture, mask, boxes, invert, sample), seed)

    def many(
        self,
        tasks: Iterable[Task],
        seed: int = 0,
        progress: Callable[[int], Any] | None = None,
        tell: Callable[[Note], Any] | None = None,
    ) -> Iterator[tuple[int, Picture]]:
        """(number, picture) of each task, in order.

        `progress` is told the tiles of each picture, `tell` its notes.
        """
        for number, task in enumerate(tasks):
            picture, hole = self.read(task)
            if tell is not None:
                for note in self.notes(picture, hole):
                    tell(note)
            solve, arguments = self._prepared(task, seed)
            restored = np.asarray(solve(*arguments))[0]
            if progress is not None:
                spans = zip(restored.shape[:2], self.system.size, self.stride, strict=True)
                progress(int(np.prod([1 + max(0, -(-(n - t) // s)) for n, t, s in spans])))
            yield number, picture.compose(restored, hole, self.colours)

    def warm_up(self, task: Task) -> float:
        """Compiles for pictures of this one's size; the seconds it took."""
        begin = time.perf_counter()
        self._prepared(task, 0)
        return time.perf_counter() - begin

    def notes(self, picture: Picture, hole: np.ndarray | None) -> list[Note]:
        """What there is to know of the result, of what `read` gave."""
        found, tile = [], self.system.size
        if hole is not None and self.coarse == 1:
            height, width = widest_part(hole)
            if height > tile[0] // 2 or width > tile[1] // 2:
                text = (
                    f"its hole is up to {width}x{height} pixels, more than half of what the prior sees "
                    f"at once ({tile[1]}x{tile[0]}): it continues texture but no large shapes"
                )
                found.append(Note(text, "The large ones first", add="--coarse=4"))
        found += scale_notes(self.recorded, tile, picture.size)
        return found + lacks(picture, self.colours)

    def _prepared(self, task: Task, seed: int) -> tuple[Callable, tuple]:
        """The compiled solver for pictures of this size and its arguments."""
        _, y, operator = self._open(task)
        y = self._measured(operator, y)
        key = jax.random.fold_in(jax.random.key(seed), task.sample)
        arguments = (self.params, operator, y, key[None])
        leaves, structure = jax.tree.flatten(arguments[1:])
        place = (structure, tuple(a.shape for a in leaves))
        if place not in self._compiled:
            self._compiled[place] = self._compile(arguments)
        return self._compiled[place], arguments

    def _compile(self, arguments: tuple) -> Callable:
        """On a CPU what differentiates the network is a loop in Python over one step (zero_shot/loop.py)."""
        make = loop_here(self._posed(*arguments)[0])
        if make is None:
            return jax.jit(self._solve).lower(*arguments).compile()

        def loop(*given) -> Loop:
            _, problem, knobs, _ = self._posed(*given)
            return make(*problem, **knobs)

        def answer(state, *given):
            height, width = self._posed(*given)[-1]
            return parts.answer(state, *given)[:, :height, :width]

        parts = apart(loop)
        state = jax.eval_shape(parts.begin, *arguments)
        begin = jax.jit(parts.begin).lower(*arguments).compile()
        advance = jax.jit(parts.advance).lower(np.int32(0), state, *arguments).compile()
        end = jax.jit(answer).lower(state, *arguments).compile()

        def run(*given):
            state = begin(*given)
            for k in range(self.method.nfe):
                state = advance(np.int32(k), state, *given)
            return end(state, *given)

        return run

    def _solve(self, params, operator, y, keys):
        solve, problem, knobs, (height, width) = self._posed(params, operator, y, keys)
        return solve(*problem, **knobs)[:, :height, :width]

    def _posed(self, params, operator, y, keys):
        """A solver, what it takes, its knobs, and the picture's size of its answer."""
        method, tile = self.method, self.system.size

        def denoise_tiles(x, t):
            label = None if self.label is None else jnp.full(len(x), self.label, jnp.int32)
            predict = self.system.denoiser(params[0], Pair(x, x, None, keys, label))
            if self.classifier is None:
                return predict(x, t, x)
            told = (self.classifier, params[1], label, self.system.bridge, self.guidance)
            return guide(lambda x, t: predict(x, t, x), *told)(x, t)

        denoise = tile_denoiser(denoise_tiles, tile, self.stride, self.batch)
        _, height, width, _ = jax.eval_shape(operator.pinv, y).shape
        size = (height, width)
        canvas = (max(height, tile[0]), max(width, tile[1]))
        solve, knobs, sigma_y = method.solver.solve, dict(method.knobs), self.sigma_y
        if canvas != size:
            operator = Canvas(operator=operator, size=size, canvas=canvas)
        elif self.tiling == "mask_shift":
            solve, denoise = solve_mask_shift, denoise_tiles
            knobs |= {"tile": tile[0], "stride": self.stride[0]}
        elif self.coarse > 1:
            knobs |= {"solve": solve, "factor": self.coarse, "least": tile}
            solve, sigma_y = solve_hierarchical, 0.0
        return solve, (denoise, operator, y, sigma_y, method.levels, keys), knobs, size


def _missing(operator: LinearOperator) -> np.ndarray:
    """The mask `[1, h, w, 1]` of what y lacks, of an operator with "inpaint" at its end."""
    assert isinstance(operator, InpaintMask | Rows)  # see `PriorRestorer._open`
    return np.asarray(operator.mask)
