"""Diffusion bridges and their distillation in JAX.

>>> import jax_bridges as jb
>>> sorted(jb.METHODS)
['cbd', 'cbt', 'ibmd']

`jb.run(config, workdir)` trains, distils and evaluates; `jb.get_config(name)` and `jb.base_config()` make
what it takes. `jb.load(path)` is a trained model, `jb.Restorer(path)` and `jb.PriorRestorer` restore pictures
with one, and `jb.show(images)` shows arrays. What can be chosen by name is in `jb.BRIDGES`, `jb.SAMPLERS`,
`jb.CORRUPTIONS`, `jb.SOLVERS` and `jb.METHODS`. Each is imported when it is first asked for: `import
jax_bridges` loads no jax.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Name -> the module that has it.
_FACE = {
    "BRIDGES": "bridges",
    "CORRUPTIONS": "corruptions",
    "METHODS": "training.methods",
    "SAMPLERS": "samplers",
    "SOLVERS": "zero_shot",
    "PriorRestorer": "restoring.prior",
    "Restorer": "restoring.restorer",
    "base_config": "config",
    "get_config": "configurations",
    "load": "trained",
    "run": "main",
    "show": "report.pictures",
}

__all__ = [
    "BRIDGES",
    "CORRUPTIONS",
    "METHODS",
    "SAMPLERS",
    "SOLVERS",
    "PriorRestorer",
    "Restorer",
    "base_config",
    "get_config",
    "load",
    "run",
    "show",
]

if TYPE_CHECKING:
    from jax_bridges.bridges import BRIDGES
    from jax_bridges.config import base_config
    from jax_bridges.configurations import get_config
    from jax_bridges.corruptions import CORRUPTIONS
    from jax_bridges.main import run
    from jax_bridges.report.pictures import show
    from jax_bridges.restoring.prior import PriorRestorer
    from jax_bridges.restoring.restorer import Restorer
    from jax_bridges.samplers import SAMPLERS
    from jax_bridges.trained import load
    from jax_bridges.training.methods import METHODS
    from jax_bridges.zero_shot import SOLVERS


def __getattr__(name: str) -> Any:
    if name not in _FACE:
        raise AttributeError(f"module 'jax_bridges' has no attribute '{name}'")
    value = getattr(importlib.import_module(f"jax_bridges.{_FACE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_FACE})
