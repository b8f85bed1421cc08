"""A run that is to be longer than it was: which stages may go on, and which would not be what they seem.

A stage may go on where the steps that it has made are those that a run of the new length would have made.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jax_bridges.acts.compare import of_method
from jax_bridges.acts.seeds import folder_of
from jax_bridges.checkpoints import whole_steps
from jax_bridges.players import BASELINE, DISTILL, TRAIN
from jax_bridges.training.methods import PAIR_METHODS, method_of_length
from jax_bridges.training.optimizers import of_length
from jax_bridges.training.settings import distill_part


def is_longer(key: str, before: Any, after: Any) -> bool:
    """Whether the change of a key is that a stage has more steps than before."""
    numbers = isinstance(before, int) and isinstance(after, int)
    lengths = ("train", "distill", "baselines")
    return numbers and key.split(".")[0] in lengths and key.endswith(".steps") and after > before


def check_longer(
    resolved: dict[str, Any], workdir: Path, grown: dict[str, tuple[int, int]]
) -> None:
    """Refuses stages that cannot go on as if they had been so long from the start.

    Args:
      resolved: the configuration, with the new lengths.
      workdir: what it left behind when it was shorter.
      grown: key -> (before, after) of those for which `is_longer`.

    Raises:
      ValueError: names the key that depends on the length; or the students of a teacher that would go on.
    """
    parts = ("seeds", "teacher", "train", "distill", "compare", "baselines")
    config = ConfigDict({part: resolved[part] for part in parts})
    folders = [workdir / folder_of(seed) for seed in config.seeds] or [workdir]
    for key, stage, reasons in _stages(config):
        begun = [folder for folder in folders if _begun(folder, stage)]
        if key not in grown or not begun:
            continue
        before, after = grown[key]
        said = f"{workdir} holds a run with {key} {before}, and it is {after} now, but "
        if reasons:
            elsewhere = " (--config.teacher.init of the new one starts from this one's teacher)"
            raise ValueError(
                f"{said}{reasons[0]}: its first steps would have been others. Give another --workdir"
                f"{elsewhere if stage == TRAIN else ''}, or the old number."
            )
        if stage == TRAIN:
            students = [str(its) for folder in folders for its in _students(folder)]
            if students:
                raise ValueError(
                    f"{said}students were distilled from the teacher as it was: delete "
                    f"{' and '.join(students)}, to have them distilled anew, or give another --workdir."
                )


def _stages(config: ConfigDict) -> Iterator[tuple[str, str, list[str]]]:
    """(key of its length, name, what in it depends on that) of each stage that the run trains."""
    train = config.train
    if not config.teacher.checkpoint:
        reasons = of_length(train.optimizer, "train.optimizer")
        if train.mode == "dsbm" and train.rounds > 1:
            reasons.append(f"train.rounds is {train.rounds}, equal parts of the steps")
        yield "train.steps", TRAIN, reasons
    by_time = []
    if config.compare.equal == "seconds":
        by_time = ["compare.equal is 'seconds', by which the lengths were chosen once"]
    for method in config.compare.students or (config.distill.method,):
        stage = f"{DISTILL}_{method}" if config.compare.students else DISTILL
        reasons = by_time + method_of_length(of_method(config, method).distill)
        yield f"{distill_part(method)}.steps", stage, reasons
    for name in config.compare.baselines:
        settings, part = config.baselines[name], f"baselines.{name}"
        clauses = (
            clause
            for key in PAIR_METHODS[name].optimizers(settings)
            for clause in of_length(settings[key], f"{part}.{key}")
        )
        reasons = [*by_time, *clauses, *PAIR_METHODS[name].of_length(settings)]
        # One that is to cost as much as the teacher has its length.
        yield f"{part}.steps" if settings.steps else "train.steps", f"{BASELINE}_{name}", reasons


def _begun(folder: Path, stage: str) -> bool:
    """Whether there is a checkpoint of a stage."""
    return bool(whole_steps(folder / "checkpoints" / stage))


def _students(folder: Path) -> list[Path]:
    """The checkpoints of a folder's students."""
    found = sorted(folder.glob(f"checkpoints/{DISTILL}*"))
    return [each for each in found if _begun(folder, each.name)]
