"""Stage 1: the teacher, by bridge matching on pairs; or a teacher that is there already."""

from __future__ import annotations

from pathlib import Path

import jax

from jax_bridges.checkpoints import Checkpoints
from jax_bridges.config import model_differences
from jax_bridges.stages.run import Run, Stage
from jax_bridges.training.optimizers import make_optimizer
from jax_bridges.training.state import Player, State, graft
from jax_bridges.training.steps import make_teacher_step
from jax_bridges.typing import PyTree

NAME = "train"


def train(run: Run) -> Stage:
    """The stage that trains the player "teacher", from the weights in `teacher.init` if set."""
    system, config, init = run.system, run.config.train, run.config.teacher.init
    optimizer = make_optimizer(config.optimizer, config.steps)

    begun = run.checkpoints(NAME).latest() is not None

    def make_state(key, start) -> State:
        params = system.init(key, system.teacher)
        params = params if start is None else graft(start, params)
        return State.create(teacher=Player.create(params, optimizer))

    return Stage(
        name=NAME,
        number=0,
        make_state=make_state,
        step=run.parallel.step(make_teacher_step(system, config, optimizer)),
        batch_shape=(config.batch,),
        steps=config.steps,
        max_skipped=config.max_skipped,
        frozen=load_teacher(run, init) if init and not begun else None,
    )


def check_teacher(config: dict) -> None:
    """Refuses a teacher.checkpoint or teacher.init whose weights are not for this configuration.

    Args:
      config: the resolved configuration; its `teacher` names a folder that an import or a run left.

    Raises:
      FileNotFoundError: there is no teacher in that folder.
      ValueError: it has another network; or, for teacher.checkpoint, another bridge, scaling
        (and so another convention of time), keep_known or fill of the hole: the keys that differ.
    """
    used, start = config["teacher"]["checkpoint"], config["teacher"]["init"]
    path = used or start
    if not path:
        return
    with _checkpoints(path) as checkpoints:
        meta = checkpoints.meta()
    recorded = meta["config"]
    if used and "bridge" not in recorded:
        raise ValueError(
            f"{path} was imported as '{recorded['source']['family']}', which is no bridge yet: "
            "train it with --config.teacher.init instead of --config.teacher.checkpoint."
        )
    changed = model_differences(recorded, config, () if used else ("network",))
    if changed:
        raise ValueError(
            f"The teacher in {path} is another model than this configuration's: change that or "
            "take another teacher. These keys differ (teacher -> configuration):\n  "
            + "\n  ".join(changed)
        )
    if "source" in recorded:
        origin = recorded["source"]["file"]
    else:
        origin = f"step {meta['step']} of {recorded['train']['steps']}"
    print(f"teacher    {path}: {origin}", flush=True)


def load_teacher(run: Run, path: str) -> PyTree:
    """The averaged parameters of the teacher in folder `path`, each leaf born where it belongs."""
    shapes = jax.eval_shape(lambda k: run.system.init(k, run.system.teacher), run.key(0))
    like = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        run.parallel.shardings(shapes),
    )
    with _checkpoints(path) as checkpoints:
        return checkpoints.restore_ema({"teacher": like})["teacher"]


def _checkpoints(path: str) -> Checkpoints:
    checkpoints = Checkpoints(Path(path) / "checkpoints" / NAME, read_only=True)
    if checkpoints.latest() is None:
        raise FileNotFoundError(
            f"There is no teacher in {path}: name the folder that `python -m "
            "jax_bridges.import_torch` or a run left behind (it holds checkpoints/train)."
        )
    return checkpoints
