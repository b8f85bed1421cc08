"""The configurations that come with the package, by name: `--config=inpaint`, `get_config("inpaint:long")`.

They are the files of configs/ at the top of a clone, which an installation has beside its modules.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from ml_collections import ConfigDict

from jax_bridges.choices import look_up

_HERE = Path(__file__).parent
_PLACES = (_HERE / "configs", _HERE.parent / "configs")  # installed; a clone


def named() -> dict[str, Path]:
    """Name -> file of every configuration that comes with the package."""
    folder = next((place for place in _PLACES if place.is_dir()), _PLACES[0])
    return {path.stem: path for path in sorted(folder.glob("[!_]*.py"))}


def find_config(text: str) -> str:
    """What `--config` names, as FILE or FILE:VARIANT.

    Args:
      text: the same, or with a name of `named` in place of FILE. A file that is there comes first.

    Raises:
      ValueError: there is no configuration of that name; or no file, but a configuration of its name.
    """
    name, colon, variant = text.partition(":")
    file = Path(name)
    if file.is_file():
        return text
    if file.name == name and not file.suffix:
        return f"{look_up('configuration', named(), name)}{colon}{variant}"
    if file.parent.name == "configs" and file.stem in named():
        raise ValueError(
            f"There is no file {name} here; the configuration of that name which comes with the package is "
            f"--config={file.stem}{colon}{variant}."
        )
    return text


def get_config(text: str) -> ConfigDict:
    """A configuration that comes with the package, or of a file of the same kind.

    >>> import jax_bridges as jb
    >>> config = jb.get_config("superres:pool")
    >>> config.task, config.corruption.kind, config.corruption.factor
    ('superres_pool', 'pool', 4)

    Args:
      text: NAME, NAME:VARIANT, FILE.py or FILE.py:VARIANT, as `--config` takes it.

    Returns:
      A complete configuration, to be changed and given to `jax_bridges.run`.

    Raises:
      ValueError: an unknown name or variant, with those that are known.
      FileNotFoundError: there is no such file.
    """
    file, _, variant = find_config(text).partition(":")
    spec = importlib.util.spec_from_file_location("jax_bridges_config", file)
    if spec is None or spec.loader is None:
        raise ValueError(f"{file} is no Python file: a configuration is one, with get_config().")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(*[variant] * bool(variant))
