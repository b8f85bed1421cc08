"""The settings of a distillation by its method: which are whose, and where they are.

A method brings its settings as rows (`Method.settings`). Those that all methods have are SHARED and lie in
`config.distill`; the others lie there too for IBMD, and in `config.distill.METHOD` for the others.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ml_collections import ConfigDict

from jax_bridges.schema import COUNT, DECAY, Either, Only, Setting, whole

# fmt: off
BATCH = Setting("batch", 32, COUNT, "Images a step, over all devices.")
MICROBATCHES = Setting("microbatches", 1, COUNT, "The batch in so many parts, one after the other.")
EMA = Setting("ema", 0.99, DECAY, "Decay of the average that is sampled from, with warm-up.")
MAX_SKIPPED = Setting(
    "max_skipped", 20, whole(least=0), "Stop if gradients of more updates in a row are not finite.")
Z_CHANNELS = Setting(
    "z_channels", 3, Either((Only(0), Only(1), Only(3))),  # none, one, or those of an image
    "Channels of the generator's noise input; 0: the noise of x_T is all it has.")
# fmt: on
SHARED = {row.key: row for row in (BATCH, MICROBATCHES, EMA, MAX_SKIPPED, Z_CHANNELS)}


def distill_settings(distill: ConfigDict) -> ConfigDict:
    """What the chosen method reads: `config.distill`, the keys of `config.distill.METHOD` laid over it."""
    settings = ConfigDict(dict(distill.items())).copy_and_resolve_references()
    part = settings.get(settings.get("method", "ibmd"))
    if part is not None:
        settings.update(part)
    return settings


def distill_part(method: str) -> str:
    """Where the keys of a method are: "distill" or "distill.METHOD"."""
    return "distill" if method == "ibmd" else f"distill.{method}"


def placed(method: str, rows: Iterable[Setting]) -> tuple[Setting, ...]:
    """The rows of a method under their whole keys, "distill.KEY" or "distill.METHOD.KEY"."""
    return tuple(
        replace(row, key=f"{'distill' if row.key in SHARED else distill_part(method)}.{row.key}")
        for row in rows
    )
