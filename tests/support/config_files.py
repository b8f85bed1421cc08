"""The files of configs/ as modules, and configurations with some keys changed."""

from __future__ import annotations

import importlib.util
from types import ModuleType

from ml_collections import ConfigDict

from jax_bridges.config import base_config
from tests.support import ROOT

CONFIGS = ROOT / "configs"


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


def changed(**keys) -> ConfigDict:
    """The base with some keys changed; `a__b` stands for the key `a.b`."""
    config = base_config()
    config.unlock()
    for key, value in keys.items():
        path = key.split("__")
        part = config
        for name in path[:-1]:
            part = part[name]
        with part.ignore_type():
            part[path[-1]] = value
    return config
