"""The configuration that `--config=FILE[:VARIANT]` and `--config.KEY=VALUE` name, for all commands."""

from __future__ import annotations

import re
from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags

from jax_bridges.config import take_names

# What can be wrong with flags or with a configuration file; `sentence` says it.
ERRORS = (flags.Error, ValueError, OSError, LookupError, AttributeError)


def read_command_line(values: flags.FlagValues, argv: Sequence[str]) -> None:
    """Parses `argv` (the program's name first) into `values`, and makes the configuration whole.

    Args:
      values: with a flag "config" of ml_collections; of it `values["config"].value` is then the
        configuration, or None where none was given. Its keys are taken from sys.argv.

    Raises:
      ERRORS: a flag, file, variant, key or value that is not there; see `sentence`.
    """
    rest = values(list(argv))[1:]
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
    holder = config_flags.DEFINE_config_file("config", None, flag_values=values)
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
    if isinstance(error, (LookupError, AttributeError)):  # of ConfigDict, over several lines
        key, *hint = re.sub(r"\\n|[\\'\"?]", " ", str(error.args[0])).split()
        return " ".join([f"The configuration has no key {key}.", *hint])
    # The flags' library puts whole tracebacks into its errors; the last line says it.
    last = [line for line in str(error).splitlines() if line.strip()][-1].strip()
    return re.sub(r"^\w+Error: ", "", last)
