"""A player in one small file: its averaged weights and its configuration, as safetensors.

That is how models ship with the package: `shipped/TASK_NAME.safetensors`, called "TASK:NAME", beside a card
of the same name that says what it has learned from, how, and what it can do.
"""

from __future__ import annotations

import argparse
import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jax_bridges.choices import look_up
from jax_bridges.config import migrate
from jax_bridges.io.bucket import place
from jax_bridges.io.safetensors import write_safetensors
from jax_bridges.io.torch_file import read_torch
from jax_bridges.players import PLAYERS, read_player
from jax_bridges.typing import PyTree

SHIPPED = Path(__file__).parent / "shipped"
SUFFIX = ".safetensors"
_FORMAT = "jax_bridges"  # how a file of ours is told from others' weights


def write_packed(
    path: str | os.PathLike,
    player: str,
    config: dict[str, Any],
    params: PyTree,
    dtype: str = "float16",
) -> Path:
    """Packs what `players.read_player` gave.

    Args:
      path: of the file, which appears whole or not at all.
      player: one of PLAYERS.
      config: recorded, with the number of its format.
      params: a nested dict of arrays.
      dtype: in which they are kept: float16 or float32.

    Raises:
      ValueError: weights that float16 cannot hold.
    """
    arrays = {}
    for name, array in flatten_dict(params, sep="/").items():
        with np.errstate(over="ignore"):
            arrays[name] = np.asarray(array).astype(dtype)
        if not np.isfinite(arrays[name]).all():
            raise ValueError(
                f"The weights '{name}' are not finite in {dtype}: keep them in float32."
            )
    look_up("player", PLAYERS, player)
    about = {"format": _FORMAT, "player": player, "config": json.dumps(config)}
    return write_safetensors(place(path), arrays, about)


def read_packed(path: str | os.PathLike) -> tuple[str, dict[str, Any], PyTree]:
    """(player, recorded configuration, float32 parameters) of a file of `write_packed`.

    Raises:
      FileNotFoundError: there is none.
      ValueError: it is damaged, or no file of this kind.
    """
    path = place(path)
    arrays = read_torch(path)  # says what is wrong with the file
    with path.open("rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    about = header.get("__metadata__") or {}
    if about.get("format") != _FORMAT:
        raise ValueError(
            f"{path} holds weights of another project: bring them in by "
            "`python -m jax_bridges.import_torch`."
        )
    player, config = about.get("player"), _recorded(about)
    if player not in PLAYERS or config is None:
        raise ValueError(
            f"{path} does not say whose weights it holds, of what network: it is damaged, or was not "
            "written by jax_bridges.packed.write_packed; write it again."
        )
    params = {name: np.asarray(array, np.float32) for name, array in arrays.items()}
    return player, migrate(config), unflatten_dict(params, sep="/")


def _recorded(about: dict[str, str]) -> dict[str, Any] | None:
    """The configuration in a file's header; None: there is none, or it makes no network."""
    try:
        config = json.loads(about["config"])
        whole = "network" in config and ("bridge" in config or "source" in config)
        return dict(config) if whole else None
    except (KeyError, TypeError, ValueError):
        return None


def shipped() -> dict[str, Path]:
    """The models that come with the package: name, as "photos:inpaint", -> file."""
    files = sorted(SHIPPED.glob(f"*{SUFFIX}"))
    return {path.stem.replace("_", ":", 1): path for path in files}


def list_shipped() -> str:
    """A line for each of them: its name and the first line of its card."""
    lines = []
    for name, path in shipped().items():
        card = path.with_suffix(".md").read_text("utf-8")
        lines.append(f"{name:18s} {card.splitlines()[0].lstrip('# ')}")
    return "\n".join(lines) or "No model comes with this installation."


def read_model(
    path: str | os.PathLike, player: str | None = None
) -> tuple[dict[str, Any], PyTree, str]:
    """(recorded configuration, averaged parameters, player) of what has weights, wherever they are.

    Args:
      path: the folder of a run or an import, a file of `packed.write_packed`, or a name of
        `packed.shipped`, as "photos:inpaint".
      player: one of PLAYERS; by default the student, or the teacher where there is none.

    Raises:
      FileNotFoundError, ValueError: one sentence.
    """
    path = find_model(path)
    if path.suffix == SUFFIX and path.is_file():
        packed, recorded, params = read_packed(path)
        if player not in (None, packed):
            raise ValueError(f"{path} is a {packed} by itself, no {player}.")
        return recorded, params, packed
    if not path.is_dir():
        raise ValueError(
            f"{path} is no folder of a run or an import; an exported student restores pictures by "
            "jax_bridges.Restorer."
        )
    if player is None:
        stage, _ = PLAYERS["student"]
        player = "student" if (path / "checkpoints" / stage).is_dir() else "teacher"
    return *read_player(path, player), player


def find_model(
    path: str | os.PathLike, kinds: str = "the WORKDIR of a run or an exported file"
) -> Path:
    """The folder or file of a model; of one that ships with the package by its name.

    Raises FileNotFoundError: there is none; the sentence says to give one of `kinds`.
    """
    found = shipped().get(str(path), place(path))
    if not found.exists():
        names = f", or one of {', '.join(shipped())}" if shipped() else ""
        raise FileNotFoundError(f"There is no {found}: give {kinds}{names}.")
    return found


class ListShipped(argparse.Action):
    """A flag that prints `list_shipped()` and ends the command."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        print(list_shipped())
        parser.exit()
