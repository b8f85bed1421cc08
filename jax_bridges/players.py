"""Whose weights: the teacher's, the student's, or a comparison's student or baseline by its method.

They lie in a work directory, as a run or an import left it.
"""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from jax_bridges.checkpoints import Checkpoints
from jax_bridges.choices import look_up
from jax_bridges.config import base_config, migrate
from jax_bridges.io.bucket import place
from jax_bridges.models import make_network, mask_input, portable
from jax_bridges.training.methods import METHODS, PAIR_METHODS
from jax_bridges.training.system import System, image_size
from jax_bridges.typing import PyTree

# Stages: folders under checkpoints/, lines of metrics.jsonl.
TRAIN, DISTILL, BASELINE = "train", "distill", "baseline"
_SECTIONS = ("data", "train", "distill", "evaluate", "parallel")  # whose missing keys have defaults
# Whose weights: where they are kept, and as which player. A comparison has a student of each method, and
# baselines that no teacher has taught. What `evaluate.best` keeps of a stage lies beside it.
_LAST = {
    "student": (DISTILL, "generator"),
    "teacher": (TRAIN, "teacher"),
    **{method: (f"{DISTILL}_{method}", "generator") for method in METHODS},
    **{method: (f"{BASELINE}_{method}", "generator") for method in PAIR_METHODS},
}
BEST = "_best"
PLAYERS = _LAST | {f"{name}{BEST}": (f"{its}{BEST}", who) for name, (its, who) in _LAST.items()}


def is_teacher(player: str) -> bool:
    """Whether one of PLAYERS is a teacher."""
    return player.removesuffix(BEST) == "teacher"


def is_baseline(player: str) -> bool:
    """Whether one of PLAYERS has learnt without a teacher."""
    return player.removesuffix(BEST) in PAIR_METHODS


def open_player(workdir: str | os.PathLike, player: str) -> tuple[Checkpoints, str]:
    """The checkpoints that hold one of PLAYERS, to be closed, and the player's name in them.

    Raises:
      FileNotFoundError: the folder has none.
    """
    stage, name = look_up("player", PLAYERS, player)
    checkpoints = Checkpoints(place(workdir) / "checkpoints" / stage, read_only=True)
    if checkpoints.latest() is None:
        held = [p for p, (s, _) in PLAYERS.items() if (checkpoints.folder.parent / s).exists()]
        there = f"; it holds {', '.join(held)}" if held else ""
        what = "the folder that `python -m jax_bridges.import_torch` or a run left behind"
        seeds = sorted(place(workdir).glob(f"seed*/checkpoints/{stage}"))
        if seeds:
            there, what = (
                "; it holds runs of several seeds",
                f"one of them, {seeds[0].parent.parent}",
            )
        raise FileNotFoundError(
            f"There is no {player} in {workdir} (no checkpoints/{stage}){there}: name {what}."
        )
    return checkpoints, name


def read_player(workdir: str | os.PathLike, player: str) -> tuple[dict[str, Any], PyTree]:
    """The recorded configuration and the averaged parameters of one of PLAYERS.

    Args:
      workdir: what a run left behind; for the teacher also an import.
      player: "student", "teacher", or a comparison's student or baseline by its method; each with "_best"
        for what `evaluate.best` has kept of it.

    Returns:
      (config, params), params as numpy arrays.

    Raises:
      FileNotFoundError: the folder has none.
      ValueError: see `Checkpoints.restore_ema`.
    """
    checkpoints, name = open_player(workdir, player)
    with checkpoints:
        config = _as_it_is_sampled(checkpoints.meta()["config"], place(workdir) / "config.json")
        return config, checkpoints.restore_ema({name: _shapes(config, player)})[name]


def _as_it_is_sampled(recorded: dict[str, Any], path: Path) -> dict[str, Any]:
    """What is recorded beside a student's weights, with the temperature that its run says now (`path`)."""
    if "temperature" not in recorded.get("distill", {}) or not path.is_file():
        return recorded
    try:
        now = migrate(json.loads(path.read_text("utf-8-sig")))["distill"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} cannot be read ({error}): put it back.") from None
    temperature = now.get("temperature", recorded["distill"]["temperature"])
    return {**recorded, "distill": {**recorded["distill"], "temperature": temperature}}


def recorded_config(workdir: str | os.PathLike, player: str) -> dict[str, Any]:
    """The configuration that is recorded beside the weights of one of PLAYERS.

    Raises FileNotFoundError: the folder has none.
    """
    with open_player(workdir, player)[0] as checkpoints:
        return checkpoints.meta()["config"]


def full_network(config: dict[str, Any], player: str) -> dict[str, Any]:
    """What makes the player's network by `make_network`: the teacher's, or that with a student's noise."""
    z = 0 if is_teacher(player) else config["distill"]["z_channels"]
    return {**config["network"], "z_channels": z}


def complete_recorded(recorded: dict[str, Any], size: tuple[int, int] | None) -> ConfigDict:
    """A recorded configuration with defaults for what it does not say (imports, older runs).

    Args:
      size: (h, w) of the images, for imports alone.
    """
    config = {"corruption": {"name": "paired"}} | recorded
    full = base_config().to_dict()
    for key, value in config.items():
        full[key] = {**full[key], **value} if key in _SECTIONS else value
    full["network"] = portable(full["network"])
    if size:
        full["data"]["size"] = list(size)
        full["task"] = recorded["source"]["family"]
    return ConfigDict(full)


def _shapes(config: dict[str, Any], player: str) -> PyTree:
    if is_baseline(player):
        method, system = PAIR_METHODS[player.removesuffix(BEST)], System.create(config)
        return jax.eval_shape(partial(method.init, system), jax.random.key(0))
    network = make_network(**full_network(config, player))
    if "data" in config:
        size = image_size(config["data"]["size"])
    else:  # an import, always an ADM: the smallest image that it takes
        size = image_size(2 ** (len(network.channel_mult) - 1))
    image = jnp.zeros((1, *size, System.channels))
    z, label = jnp.zeros((1, *size, network.z_channels)), jnp.zeros((1,), jnp.int32)
    time = jnp.zeros((1,))
    told = mask_input(network, image[..., :1])
    init = jax.eval_shape(network.init, jax.random.key(0), image, time, image, z, label, **told)
    return init["params"]
