"""Stage 1: the teacher, by bridge matching in one of its modes; or a teacher that is there already."""

from __future__ import annotations

import json
from collections.abc import Collection

import jax
from ml_collections import ConfigDict

from jax_bridges.config import FREE_SETTINGS, model_differences
from jax_bridges.keys import SECOND_PLAYER, Purpose
from jax_bridges.players import TRAIN, open_player, recorded_config
from jax_bridges.settings import flatten
from jax_bridges.stages.prior import as_prior, is_prior
from jax_bridges.stages.run import Run, Stage
from jax_bridges.training.couplings import make_dsbm_step, make_reflow_step
from jax_bridges.training.methods import METHODS
from jax_bridges.training.optimizers import make_optimizer
from jax_bridges.training.settings import distill_settings
from jax_bridges.training.state import Player, State, graft
from jax_bridges.training.steps import make_held_out_loss, make_teacher_step
from jax_bridges.typing import PyTree

STEPS = {"bridge": make_teacher_step, "reflow": make_reflow_step, "dsbm": make_dsbm_step}


def train(run: Run) -> Stage:
    """The stage that trains the player "teacher", from the weights in `teacher.init` if set.

    With `train.mode` "dsbm" there is a player "forward" too, which takes turns with it; with "reflow"
    the weights in `teacher.init` also make the pairs.
    """
    system, config, init = run.system, run.config.train, run.config.teacher.init
    turns = config.rounds // 2 + 1 if config.mode == "dsbm" else 1  # of the teacher
    updates = turns * config.steps // config.rounds if config.mode == "dsbm" else config.steps
    optimizer = make_optimizer(config.optimizer, updates)

    begun = run.done(TRAIN) > 0

    def make_state(key, start) -> State:
        params = system.init(key, "teacher")
        params = params if start is None else graft(start, params)
        players = {"teacher": Player.create(params, optimizer)}
        if config.mode == "dsbm":
            back = system.init(jax.random.fold_in(key, SECOND_PLAYER), "teacher")
            players["forward"] = Player.create(back, optimizer)
        return State.create(**players)

    if config.mode == "reflow" and not init:  # only its cost is asked for
        key = run.key(Purpose.INIT_TEACHER)
        frozen = jax.eval_shape(lambda k: system.init(k, "teacher"), key)
    else:
        needed = init and (config.mode == "reflow" or not begun)
        frozen = load_teacher(run, init) if needed else None
    return Stage(
        name=TRAIN,
        init=Purpose.INIT_TEACHER,
        draws=Purpose.TRAIN_TEACHER,
        make_state=make_state,
        step=run.parallel.step(STEPS[config.mode](system, config, optimizer)),
        batch_shape=(config.batch,),
        steps=config.steps,
        max_skipped=config.max_skipped,
        player="teacher",
        frozen=frozen,
        # The other modes make their pairs: another task at every step.
        loss=make_held_out_loss(system, config) if config.mode == "bridge" else None,
    )


def take_teacher(config: ConfigDict, given: Collection[str]) -> None:
    """Lets a teacher bring what its weights are for: network, bridge, preconditioning, fill, keep_known.

    Nothing of it need be typed. A part that means the same already stays as it is, and of the network
    what leaves the meaning of the weights alone (dtype, dropout). Where a teacher is but the start of a
    training (`teacher.init`), a bridge, preconditioning or fill that was given by hand is what is trained.

    Args:
      config: changed in place; its `teacher` names a folder that an import or a run left.
      given: keys that were given by hand.

    Raises:
      FileNotFoundError: there is no teacher in that folder.
      ValueError: keys given by hand that contradict the teacher; they are named.
    """
    path = config.teacher.checkpoint or config.teacher.init
    if not path:
        return
    recorded = recorded_config(path, "teacher")
    if "fill" not in recorded.get("corruption", {}):
        recorded = {k: v for k, v in recorded.items() if k != "corruption"}
    refused = []
    for part in ("network", "bridge", "preconditioning", "corruption", "keep_known"):
        mine = json.loads(config.to_json_best_effort())
        free = FREE_SETTINGS.get(recorded.get("network", {}).get("name"), ())
        if part not in recorded or not model_differences(recorded, mine, (part,)):
            continue
        key = "corruption.fill" if part == "corruption" else part
        by_hand = [k for k in given if k == key or k.startswith(f"{key}.")]
        if by_hand and part != "network" and not config.teacher.checkpoint:
            continue
        old, new = (dict(flatten({part: tree[part]})) for tree in (recorded, mine))
        wrong = [k for k in by_hand if k.split(".")[-1] not in free and old.get(k) != new.get(k)]
        refused += [
            f"{k}: {new.get(k)} (the teacher's is {old.get(k, 'its default')})" for k in wrong
        ]
        if part == "keep_known":
            config.keep_known = recorded[part]
        elif part == "corruption":
            settings = {**mine[part], "fill": recorded[part]["fill"]}
            config.corruption = ConfigDict(settings, allow_dotted_keys=True)
        else:
            kept = {k: v for k, v in mine[part].items() if part == "network" and k in free}
            config[part] = ConfigDict({**recorded[part], **kept})
    if refused:
        raise ValueError(
            f"The teacher in {path} brings its own network, bridge, preconditioning and fill, and these keys "
            "contradict it; leave them out, or take another teacher:\n  " + "\n  ".join(refused)
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
    with open_player(path, "teacher")[0] as checkpoints:
        meta = checkpoints.meta()
    recorded = meta["config"]
    prior = config["bridge"]["name"] == "ddpm" and is_prior(recorded)
    if used and prior:
        recorded = as_prior(recorded, path)  # what an imported ADM does not say
    if used and "bridge" not in recorded:
        raise ValueError(
            f"{path} was imported as '{recorded['source']['family']}', which is no bridge yet: "
            "train it with --config.teacher.init instead of --config.teacher.checkpoint."
        )
    distilled = distill_settings(ConfigDict(config["distill"]))
    if used and "source" in recorded and METHODS[distilled.method].raw(distilled):
        raise ValueError(
            f"{path} was imported with one set of weights, but distill.start or distill.bridge_start is "
            "'raw': set both to 'average'."
        )
    whole = used or config["train"]["mode"] == "reflow"
    changed = model_differences(recorded, config, () if whole else ("network",))
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
    key = run.key(Purpose.INIT_TEACHER)
    shapes = jax.eval_shape(lambda k: run.system.init(k, "teacher"), key)
    like = run.parallel.placed(shapes)
    checkpoints, name = open_player(path, "teacher")
    with checkpoints:
        return checkpoints.restore_ema({name: like})[name]


def blank_teacher(run: Run) -> PyTree:
    """Parameters of zeros in the place of a teacher that is not there yet, laid out as it will be."""
    key = run.key(Purpose.INIT_TEACHER)
    shapes = jax.eval_shape(lambda k: run.system.init(k, "teacher"), key)
    return run.parallel.init(
        lambda: jax.tree.map(lambda leaf: jax.numpy.zeros(leaf.shape, leaf.dtype), shapes)
    )


def raw_teacher(run: Run) -> PyTree:
    """The teacher's raw weights, as the optimiser left them, each leaf born where it belongs."""
    path = run.config.teacher.checkpoint or run.workdir
    key = run.key(Purpose.INIT_TEACHER)
    shapes = jax.eval_shape(lambda k: run.system.init(k, "teacher"), key)
    checkpoints, name = open_player(path, "teacher")
    with checkpoints:
        return checkpoints.restore_weights("params", {name: run.parallel.placed(shapes)})[name]
