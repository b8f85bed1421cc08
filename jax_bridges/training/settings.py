"""The settings of a distillation by its method."""

from __future__ import annotations

from ml_collections import ConfigDict

# Keys of `config.distill` that all methods read.
SHARED = ("method", "batch", "microbatches", "ema", "max_skipped", "z_channels")

# Methods with a part of their own, `config.distill.METHOD`; the keys of IBMD are `config.distill`'s.
PARTS = ("cbd", "cbt")


def distill_settings(distill: ConfigDict) -> ConfigDict:
    """What the chosen method reads: `config.distill`, the keys of `config.distill.METHOD` laid over it."""
    settings = ConfigDict({k: v for k, v in distill.items() if k not in PARTS})
    settings = settings.copy_and_resolve_references()
    if settings.get("method") in PARTS:
        settings.update(distill[settings.method])
    return settings


def distill_part(method: str) -> str:
    """Where the keys of a method are: "distill" or "distill.METHOD"."""
    return f"distill.{method}" if method in PARTS else "distill"


def distill_keys(distill: ConfigDict, method: str) -> set[str]:
    """The keys of `config.distill`, dotted where nested, that a method reads."""
    if method not in PARTS:
        return {key for key in distill if key not in PARTS}
    return {*SHARED, *(f"{method}.{key}" for key in distill[method])}
