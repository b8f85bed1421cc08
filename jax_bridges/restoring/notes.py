"""What whoever restores a picture should know of the result, each with what helps.

The command prints notes before it compiles; a `Restorer` called from Python warns (`RestoreNote`).
"""

from __future__ import annotations

import dataclasses
import shlex
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
from scipy import ndimage

from jax_bridges.data import FILES
from jax_bridges.packed import shipped
from jax_bridges.restoring.jpeg_steps import JPEGSteps
from jax_bridges.restoring.pictures import Picture, check_jpeg

# Wider holes are seen to be smooth (jax_bridges/shipped/photos_fill.md): pixels across.
WIDE, THIN, FILL = 12, "photos:inpaint", "photos:fill"
MAPS = "earth"  # the data set that needs no download, of which the shipped configurations are


class RestoreNote(UserWarning):
    """A restored picture may be less than what was hoped for; the text says why and what helps."""


@dataclasses.dataclass(frozen=True)
class Note:
    """One thing to know.

    Attributes:
      text: a sentence without its stop.
      aim: what helps, in a few words; "" where nothing does.
      command: how: a whole command ...
      add: ... or a flag for the same command again, ...
      swap: ... or that with another model, (this one, that one).
    """

    text: str
    aim: str = ""
    command: str = ""
    add: str = ""
    swap: tuple[str, str] | None = None

    def __str__(self) -> str:
        how = self.command or self.add.removeprefix("--") or (self.swap[1] if self.swap else "")
        return f"{self.text}." + (f" {self.aim}: {how}" if how else "")


def restore_one(restorer: Any, task: Any, seed: int) -> Picture:
    """One picture by `restorer.many`; warns of its notes whoever called the function that calls this."""
    notes: list[Note] = []
    restored = next(restorer.many([task], seed, tell=notes.append))[1]
    for note in notes:
        warnings.warn(str(note), RestoreNote, stacklevel=3)
    return restored


def lines(notes: Iterable[tuple[Note, str]], argv: list[str]) -> list[str]:
    """Notes as the command prints them, what helps after the last that it helps with.

    Args:
      notes: each with the name of its picture.
      argv: of the command, to which `Note.add` is added.
    """
    names: dict[Note, list[str]] = {}
    for note, name in notes:
        names.setdefault(note, []).append(name)
    said, helps = [], {}
    for note, own in names.items():
        more = f" and {len(own) - 1} more" if len(own) > 1 else ""
        said.append(f"note: {own[0]}{more}: {note.text}.")
        if note.add or note.swap:  # what this run writes is there by then
            swap = dict([note.swap] if note.swap else [])
            again = [swap.get(word, word) for word in argv] + [note.add] * bool(note.add)
            again += ["--force"] * ("--force" not in argv)
            helps[f"{note.aim}:\n  python -m jax_bridges.restore {shlex.join(again)}"] = None
        elif note.command:
            helps[f"{note.aim}:\n  {note.command}"] = None
    return said + list(helps)


def lacks(picture: Picture, colours: bool) -> list[Note]:
    """What a result cannot say of what the picture's file says; see `Picture.compose`."""
    lost = (picture.coloured() if colours else picture).left_out
    return [Note(f"what is written lacks {', and '.join(lost)}")] if lost else []


def lossy_notes(picture: Picture) -> list[Note]:
    """What a JPEG of a result cannot keep.

    Raises BadImage where it would be too large for a JPEG.
    """
    check_jpeg(picture.size)
    text = "a JPEG changes known pixels too, slightly; a .png keeps them bit for bit"
    lost = picture.jpeg_lacks
    return [Note(text + (f", and {' and '.join(lost)}, which the JPEG lacks" if lost else ""))]


def scale_notes(
    recorded: dict[str, Any], tile: tuple[int, int], picture: tuple[int, int], command: str = ""
) -> list[Note]:
    """What a model cannot know of a picture of (H, W), by what it has learned from.

    Args:
      recorded: the model's configuration, as far as it is known.
      tile: (h, w) of the pieces in which it restores pictures.
      command: that trains one which can; see `training_command`.
    """
    data = recorded.get("data", {})
    if str(data.get("name")).startswith(MAPS):
        text = "this model has seen nothing but maps, views of the Earth from above"
        return [Note(text, "One of photographs of your own", command)]
    whole = data.get("name") in FILES and data.get("crop", "center") == "center"
    if not whole or min(p / t for p, t in zip(picture, tile, strict=True)) < 2:
        return []
    return [
        Note(
            f"this model has learned from whole pictures of {tile[1]}x{tile[0]}, shrunk to that where "
            f"they were larger, and this one of {picture[1]}x{picture[0]} is restored in pieces of its "
            "own pixels, which may look different: train one on such pieces (data.crop=random)"
        )
    ]


def quality_notes(seen: tuple[int, int] | None, jpeg: JPEGSteps | None) -> list[Note]:
    """What a model that undoes JPEG cannot know of a picture, or has never seen.

    Args:
      seen: least and largest quality of JPEG that the model has learned from; None: it does something else.
      jpeg: the steps of the JPEG that the picture is of, if it is of one.
    """
    if seen is None:
        return []
    if jpeg is None:
        return [
            Note(
                "it is no JPEG file any more, or one of unusual colours, so nothing says how much JPEG has "
                "changed it: where that was little, as at quality 75 and above, it may lose detail; give "
                "the file as it was first saved"
            )
        ]
    if jpeg.quality <= seen[1]:
        return []
    return [
        Note(
            f"this model has learned from JPEG of quality {seen[0]} to {seen[1]}, and this file is of "
            f"quality {jpeg.quality}: it may lose more detail than its traces of JPEG are worth"
        )
    ]


def sample_notes(model: Any, seed: int, sample: int) -> list[Note]:
    """What becomes of another seed or sample of a model that has one answer (`Model.varies`)."""
    if model.varies or not (seed or sample):
        return []
    which = "one answer, whatever the seed and however many samples are asked for"
    if not model.varies_by_calls:
        return [Note(f"this model has {which}")]
    text = f"this model makes one network call, and so has {which}"
    return [Note(text, "Answers that differ", add="--nfe=10")]


def wide_hole_notes(model: Any, path: str, hole: np.ndarray | None) -> list[Note]:
    """What a mean of all possible answers is in a wide hole, and what draws one of them.

    Args:
      model: of which one call is such a mean, where it does not vary but would with more calls.
      path: what it was opened by.
      hole: bool `[H, W]`, or None.
    """
    if hole is None or not hole.any() or model.varies or not model.varies_by_calls:
        return []
    part = ndimage.find_objects(hole.view(np.uint8))[0]  # its bounding box
    width = 2 * float(ndimage.distance_transform_edt(np.pad(hole[part], 1)).max()) - 1
    if width < WIDE:
        return []
    text = (
        f"this hole is up to {width:.0f} pixels wide, and this model's one call answers with the mean of "
        "what may be there, which is smooth"
    )
    if path == THIN and FILL in shipped():
        return [Note(text, "Texture", swap=(THIN, FILL))]
    return [Note(text, "Texture", add="--nfe=10")]


def training_command(recorded: dict[str, Any], corruption: str | None = None) -> str:
    """How to train a model like this one on photographs, or for another corruption.

    Args:
      recorded: the model's configuration, as far as it is known.
      corruption: the model's own by default.
    """
    data = recorded.get("data", {})
    corruption = corruption or recorded.get("corruption", {}).get("name", "inpaint_freeform")
    words = ["python -m jax_bridges.main --config=inpaint"]
    words.append(f"--config.corruption.name={corruption}")
    if data.get("name", MAPS) == MAPS:
        words += ["--config.data.name=folder --config.data.path=PHOTOGRAPHS"]
    else:
        for key in ("name", "path", "size"):
            if data.get(key):
                words.append(f"--config.data.{key}={shlex.quote(str(data[key]))}")
    return " ".join([*words, f"--workdir=runs/{corruption}"])
