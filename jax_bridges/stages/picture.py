"""The pictures that a stage saves while it trains."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from jax_bridges.data import first
from jax_bridges.report.pictures import grid, save_png
from jax_bridges.stages.evaluate import (
    EVALUATE,
    outline,
    pad,
    pixels,
    source_images,
    student_sampler,
    teacher_sampler,
)
from jax_bridges.stages.run import Run
from jax_bridges.training import hosts
from jax_bridges.training.state import State
from jax_bridges.typing import PyTree


class Picture:
    """Saves samples/STAGE-STEP.png: source, predictions and target of the first held-out images."""

    def __init__(self, run: Run):
        self.run = run

    def _images(self, sample: Callable, params: PyTree) -> np.ndarray:
        images = sample(params, self._batch(), self.run.key(EVALUATE))
        return pixels(self.run, images[: self._count])

    @property
    def _count(self) -> int:
        return min(self.run.config.evaluate.pictures, len(self.run.test_data))

    def _batch(self) -> dict[str, np.ndarray]:
        """As large as the evaluation's, so that what is compiled here need not be compiled there."""
        parts = -(-self._count // self.run.config.evaluate.batch)
        return pad(first(self.run.test_data, self._count), parts * self.run.config.evaluate.batch)

    def _save(self, stage: str, step: int, columns: dict[str, np.ndarray]) -> None:
        target = first(self.run.test_data, self._count)["x0"]
        columns = {"source": self._images(source_images(self.run), None)} | columns
        if hosts.is_chief():
            save_png(
                self.run.workdir / "samples" / f"{stage}-{step}.png",
                grid({**columns, "target": target}, box=outline(self.run)),
            )

    def teacher(self, stage: str, state: State, step: int) -> None:
        """The teacher at its smallest number of calls."""
        nfe = min(self.run.config.evaluate.teacher_nfe)
        images = self._images(teacher_sampler(self.run, nfe), state.players["teacher"].ema)
        self._save(stage, step, {f"teacher {nfe}": images})

    def student(self, run: Run, stage: str, teacher: PyTree, state: State, step: int) -> None:
        """The teacher and the student of `run`, both at their smallest number of calls."""
        nfe, few = (
            min(n)
            for n in (self.run.config.evaluate.teacher_nfe, self.run.config.evaluate.student_nfe)
        )
        by_teacher = self._images(teacher_sampler(self.run, nfe), teacher)
        by_student = self._images(student_sampler(run, few), state.players["generator"].ema)
        self._save(stage, step, {f"teacher {nfe}": by_teacher, f"student {few}": by_student})
