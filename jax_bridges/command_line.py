"""The configuration that `--config=NAME[:VARIANT]` and `--config.KEY=VALUE` say, for all commands."""

from __future__ import annotations

import re
from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags

from jax_bridges import settings
from jax_bridges.config import take_names
from jax_bridges.configurations import find_config

# What can be wrong with flags or with a configuration file; `sentence` says it.
ERRORS = (flags.Error, ValueError, OSError)

flags.disclaim_key_flags()  # `define_config` defines its caller's

_OVERRIDE = re.compile(r"--?(?:no)?config\.([^=]+)")


class _Parser(config_flags.config_flags.ConfigFileFlagParser):
    """The library's, which also takes the name of a configuration that comes with the package."""

    def parse(self, path: str):
        return super().parse(find_config(path))


def define_config(values: flags.FlagValues, about: str = "") -> flags.FlagHolder:
    """Defines `--config=FILE[:VARIANT]`, or NAME[:VARIANT] (configurations.py), among `values`."""
    holder = config_flags.DEFINE_config_file("config", None, about, flag_values=values)
    values["config"].parser = _Parser("config")
    return holder


def read_command_line(values: flags.FlagValues, argv: Sequence[str]) -> None:
    """Parses `argv` (the program's name first) into `values`, and makes the configuration whole.

    Args:
      values: with a flag "config" of ml_collections; of it `values["config"].value` is then the
        configuration, or None where none was given. Its keys are taken from sys.argv.

    Raises:
      ERRORS: a flag, file, variant, key or value that is not there; see `sentence`.
    """
    if "--helpfull" in argv:
        values["config"].help += f" Its keys:\n{settings.table_text()}"
    try:
        rest = values(list(argv))[1:]
    except (
        LookupError,
        AttributeError,
    ) as error:  # of ConfigDict, for a key of the line or of the file
        name = re.split(r"\W+", str(error.args[0]))[-1 if "lookup: " in str(error) else 1]
        given = [m[1] for m in map(_OVERRIDE.match, argv) if m]
        key = next((key for key in given if name in key.split(".")), name)
        raise ValueError(settings.unknown_key(key)) from error
    if rest:
        raise ValueError(
            f"Unexpected argument {rest[0]}: settings are given as --config.KEY=VALUE."
        )
    config = values["config"].value
    if config is not None:
        config.keys()  # of a file that could not be read: raises what was in the way
        take_names(config, given_keys(values))


def read_config(rest: Sequence[str]):
    """The configuration that `--config` and `--config.KEY=VALUE` in `rest` name, or None.

    For commands whose other flags are argparse's, which leaves `rest`.

    Raises:
      ValueError: another argument, or a file, variant, key or value that is not there.
    """
    values = flags.FlagValues()
    holder = define_config(values)
    try:
        read_command_line(values, ["", *rest])
    except ERRORS as error:
        raise ValueError(sentence(error)) from error
    return holder.value


def given_keys(values: flags.FlagValues) -> list[str]:
    """The keys that `--config.KEY=VALUE` gave on the command line."""
    return list(getattr(values["config"], "override_values", {}))


def sentence(error: Exception) -> str:
    """One of ERRORS in one sentence."""
    # The flags' library puts whole tracebacks into its errors; the last line says it.
    last = [line for line in str(error).splitlines() if line.strip()][-1].strip()
    flag = re.match(
        r"flag --config\.([\w.]+)=(.*?): ", last
    )  # a value that is not of the key's type
    if flag:
        return settings.refused_text(*flag.groups())
    kind = re.search(r"field '(\w+)' \(reference\)\. (.*) is of .* to type <class '(\w+)'>", last)
    if kind:
        return "The configuration file sets {} to {}: it must be of type {}.".format(*kind.groups())
    return re.sub(r"^\w+Error: ", "", last)
