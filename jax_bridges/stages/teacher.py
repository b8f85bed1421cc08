"""A teacher that is there already: of a run, an import, or in a file, as those that ship with the package."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jax_bridges.config import FREE_SETTINGS, differences, model_differences
from jax_bridges.corruptions import CORRUPTIONS
from jax_bridges.io.bucket import place
from jax_bridges.keys import Purpose
from jax_bridges.packed import SUFFIX, find_model, read_packed, shipped
from jax_bridges.players import is_teacher, open_player
from jax_bridges.settings import flatten, part_rows
from jax_bridges.stages.prior import as_prior, is_prior
from jax_bridges.stages.run import Run
from jax_bridges.training.methods import METHODS
from jax_bridges.training.settings import distill_settings
from jax_bridges.typing import PyTree


def teacher_record(path: str) -> tuple[dict[str, Any], str]:
    """The configuration that a teacher was trained with, and in a few words where its weights come from.

    Args:
      path: the folder of a run or an import, a file of `packed.write_packed`, or a name of `packed.shipped`.

    Raises:
      FileNotFoundError: there is no teacher.
      ValueError: the file is damaged, or holds a student.
    """
    file = _packed(path)
    if file:
        player, recorded, _ = read_packed(file)
        if not is_teacher(player):
            raise ValueError(f"{path} is a {player}, which cannot be a teacher: give its teacher.")
        steps = _steps(recorded)
        # Of a teacher that began with another's it is the last training alone.
        return recorded, "weights alone" + (f", last trained for {steps} steps" if steps else "")
    if not place(path).exists():
        find_model(path, "the folder of a run or of an import, a file of weights (.safetensors)")
    with open_player(path, "teacher")[0] as checkpoints:
        meta = checkpoints.meta()
    recorded = meta["config"]
    if "source" in recorded:
        return recorded, recorded["source"]["file"]
    steps = _steps(recorded)
    return recorded, f"step {meta['step']}" + (f" of {steps}" if steps else "")


def _steps(recorded: dict[str, Any]) -> int | None:
    """Those of its training; None: it does not say."""
    return recorded.get("train", {}).get("steps")


def _packed(path: str) -> Path | None:
    """The file of a model in one file; None: `path` is a folder, or nothing."""
    found = shipped().get(path) or place(path)
    return found if found.suffix == SUFFIX and found.is_file() else None


def _laid_out(params: PyTree, like: PyTree, path: str) -> PyTree:
    """Weights of a file where `like` says that they belong; raises a ValueError where they do not fit."""
    shapes = [jax.tree.map(np.shape, params), jax.tree.map(lambda leaf: leaf.shape, like)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"{path} does not hold the weights of the network that it names: it is damaged."
        )
    return jax.tree.map(
        lambda leaf, want: jax.make_array_from_callback(
            want.shape, want.sharding, lambda index: leaf[index].astype(want.dtype)
        ),
        params,
        like,
    )


def take_teacher(config: ConfigDict, given: Collection[str]) -> None:
    """Lets a teacher bring what its weights are for: network, bridge, preconditioning, fill, keep_known.

    Nothing of it need be typed. A part that means the same already stays as it is, and of the network
    what leaves the meaning of the weights alone (dtype, dropout). Where a teacher is but the start of a
    training (`teacher.init`), a bridge, preconditioning or fill that was given by hand is what is trained.

    Args:
      config: changed in place; its `teacher` names one as `teacher_record` does.
      given: keys that were given by hand.

    Raises:
      FileNotFoundError: there is no teacher.
      ValueError: keys given by hand that contradict the teacher; they are named.
    """
    path = config.teacher.checkpoint or config.teacher.init
    if not path:
        return
    recorded, _ = teacher_record(path)
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
      config: the resolved configuration; its `teacher` names one as `teacher_record` does.

    Raises:
      FileNotFoundError: there is no teacher.
      ValueError: it has another network; or, for teacher.checkpoint, another bridge, scaling
        (and so another convention of time), keep_known or fill of the hole: the keys that differ.
    """
    used, start = config["teacher"]["checkpoint"], config["teacher"]["init"]
    path = used or start
    if not path:
        return
    recorded, origin = teacher_record(path)
    prior = config["bridge"]["name"] == "ddpm" and is_prior(recorded)
    if used and prior:
        recorded = as_prior(recorded, path)  # what an imported ADM does not say
    if used and "bridge" not in recorded:
        raise ValueError(
            f"{path} was imported as '{recorded['source']['family']}', which is no bridge yet: "
            "train it with --config.teacher.init instead of --config.teacher.checkpoint."
        )
    distilled = distill_settings(ConfigDict(config["distill"]))
    alone = "source" in recorded or _packed(path)
    if used and alone and METHODS[distilled.method].raw(distilled):
        raise ValueError(
            f"{path} holds one set of weights, but distill.start or distill.bridge_start is "
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
    print(f"teacher    {path}: {origin}", flush=True)
    if used and not prior and (unseen := _unseen(recorded, config)):
        print(f"note: {unseen}", flush=True)


def _unseen(recorded: dict, config: dict) -> str:
    """A sentence where a teacher that is not trained further has learned to undo another corruption.

    No error: holes of another shape, or a little more noise, may well be what is to be tried.
    """
    if recorded.get("corruption", {}).get("name") not in CORRUPTIONS:
        return ""  # an import, which does not say
    theirs, ours = (_corruption(each["corruption"]) for each in (recorded, config))
    found = differences(theirs, ours)
    if not found:
        return ""
    names = [line for line in found if line.startswith("corruption.name:")]
    return (
        "the teacher has learned to undo another corruption, so that it may never have seen such x_T; "
        f"teacher.init would train it further (teacher -> configuration): {'; '.join(names or found)}."
    )


def _corruption(settings: dict[str, Any]) -> dict[str, Any]:
    """A corruption with all defaults said, but for what fills a hole, which `model_differences` compares."""
    known = {row.key: row.default for row in part_rows("corruption", settings["name"])}
    return {"corruption": {**known, **settings, "fill": ""}}


def load_teacher(run: Run, path: str) -> PyTree:
    """The averaged parameters of the teacher in `path`, each leaf born where it belongs."""
    key = run.key(Purpose.INIT_TEACHER)
    shapes = jax.eval_shape(lambda k: run.system.init(k, "teacher"), key)
    like = run.parallel.placed(shapes)
    file = _packed(path)
    if file:
        return _laid_out(read_packed(file)[2], like, path)
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
