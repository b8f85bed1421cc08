"""The files of configs/ as modules."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

CONFIGS = Path(__file__).parents[1] / "configs"


def load(name: str) -> ModuleType:
    """`configs/NAME.py`, anew at every call."""
    spec = importlib.util.spec_from_file_location(f"config_{name}", CONFIGS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read(row: str):
    """The configuration of "NAME" or "NAME:VARIANT"."""
    name, _, variant = row.partition(":")
    return load(name).get_config(variant)
