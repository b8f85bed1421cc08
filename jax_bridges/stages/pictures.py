"""Pictures of a run: while it trains, and of its evaluation."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from jax_bridges import hosts
from jax_bridges.data import first, pad
from jax_bridges.keys import Purpose
from jax_bridges.metrics import PROTOCOLS
from jax_bridges.players import BASELINE
from jax_bridges.report.pictures import grid, save_png
from jax_bridges.stages.jobs import source_images, student_sampler, teacher_sampler
from jax_bridges.stages.run import Run
from jax_bridges.training.state import State
from jax_bridges.typing import PyTree


class Previews:
    """Saves samples/STAGE-STEP.png: source, predictions and target of the first held-out images."""

    def __init__(self, run: Run):
        self.run = run

    def _images(self, sample: Callable, params: PyTree) -> np.ndarray:
        images = sample(params, self._batch(), self.run.key(Purpose.EVALUATE))
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
        """The teacher and the student, or baseline, of `run`, both at their smallest number of calls."""
        nfe, few = (
            min(n) for n in (self.run.config.evaluate.teacher_nfe, run.config.evaluate.student_nfe)
        )
        name = run.config.distill.method if stage.startswith(BASELINE) else "student"
        by_teacher = self._images(teacher_sampler(self.run, nfe), teacher)
        by_student = self._images(student_sampler(run, few), state.players["generator"].ema)
        self._save(stage, step, {f"teacher {nfe}": by_teacher, f"{name} {few}": by_student})


def outline(run: Run) -> tuple[int, int, int, int] | None:
    """The hole as (top, left, height, width), where it is one fixed rectangle."""
    box = run.system.corruption.hole_box(*run.system.size)
    return (box[0], box[1], box[2] - box[0], box[3] - box[1]) if box else None


def pixels(run: Run, images: np.ndarray) -> np.ndarray:
    """Images as a protocol keeps them, in uint8."""
    return np.asarray(PROTOCOLS[run.config.evaluate.protocol].pixels(images))


def save_pictures(
    run: Run, shown: dict[str, dict[str, np.ndarray]], target: np.ndarray, prefix: str
) -> tuple[list[str], list[dict]]:
    """One picture a task, and single images for the report's slider.

    Args:
      shown: task -> column -> uint8 images.
      target: of the same images.
      prefix: of the files' names.

    Returns:
      ("pictures", "comparisons") of results.json.
    """
    pictures, comparisons = [], []
    for task, columns in shown.items():
        columns = {**columns, "target": target}
        pictures.append(f"samples/{prefix}-{task}.png" if task else f"samples/{prefix}.png")
        if hosts.is_chief():
            save_png(run.workdir / pictures[-1], grid(columns, box=outline(run)))
        few = 2 if task else len(target)  # of many tasks two images each keep the report small
        for i in range(min(few, len(target))):
            names = {}
            for name, images in columns.items():
                whole = f"{task} {name}" if task and name != "target" else name
                plain = re.sub(r"[^\w.]+", "-", whole)
                names[whole] = f"samples/compare/{i}-{plain}.png"
                if hosts.is_chief():
                    save_png(run.workdir / names[whole], images[i])
            label = f"test image {i}"
            comparisons.append({"label": f"{task}: {label}" if task else label, "images": names})
    return pictures, comparisons
