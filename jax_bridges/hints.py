"""What was meant by a name that is not there."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

# What others call a setting -> the last part of its key here.
SYNONYMS = {
    "lr": ("learning_rate",),
    "optim": ("optimizer",),
    "wd": ("weight_decay",),
    "ema_decay": ("ema",),
    "beta1": ("b1",),
    "beta2": ("b2",),
    "grad_clip": ("clip",),
    "batch_size": ("batch",),
    "grad_accum": ("microbatches",),
    "epochs": ("steps",),
    "iterations": ("steps",),
    "updates": ("steps",),
    "warmup_steps": ("warmup",),
    "nfe": ("student_steps", "student_nfe", "teacher_nfe", "prior_nfe"),
    "calls": ("student_steps", "student_nfe", "teacher_nfe"),
    "save_every": ("checkpoint_every",),
    "pretrained": ("checkpoint", "init"),
    "resolution": ("size",),
    "image_size": ("size",),
    "folder": ("path",),
    "dataset": ("name",),
    "labels": ("label_key", "classes"),
    "precision": ("dtype",),
    "num_images": ("images",),
}


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """ "" or " Did you mean 'NAME'?" with the closest of the known names."""
    close = difflib.get_close_matches(name, list(map(str, known)), 1)
    return f" Did you mean '{close[0]}'?" if close else ""


def suggest(key: str, known: Iterable[str], most: int = 3) -> list[str]:
    """The dotted keys, `most` at most, that somebody who wrote `key` may have meant.

    Their last parts are alike, or SYNONYMS, in the most similar place: `train.lr` is
    `train.optimizer.learning_rate`.
    """
    place, _, last = key.rpartition(".")
    names = {last, *SYNONYMS.get(last, ())}
    found: dict[str, float] = {}
    for other in known:
        where, _, name = other.rpartition(".")
        same = max(difflib.SequenceMatcher(None, n, name).ratio() for n in names)
        if same >= 0.75:
            near = difflib.SequenceMatcher(None, place, where).ratio() if place else 1.0
            found[other] = 2 * same + near
    best = max(found.values(), default=0.0)
    return [other for other, score in found.items() if score > best - 1e-6][:most]
