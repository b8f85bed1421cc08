"""Flags of a command that go together or not: what would not be read is refused, not ignored."""

from __future__ import annotations

import argparse
from collections.abc import Iterable


def given_flags(flags: argparse.Namespace) -> dict[str, object]:
    """Name -> value of the flags that were given: their default must be None or, of switches, False."""
    # Not `in (None, False)`, which would leave out a 0.
    return {k: v for k, v in vars(flags).items() if v is not None and v is not False}


def refuse_empty(named: Iterable[tuple[str, object]]) -> None:
    """Refuses names that are empty, which the system would take for the current folder.

    Args:
      named: what each is to the user, as "--mask" or "OUT", and what was given; None: nothing was.

    Raises:
      ValueError: one is "".
    """
    for what, name in named:
        if name == "":
            raise ValueError(
                f"{what} is empty, where a name is expected: a shell variable in it may not be set."
            )


def refuse_given(flags: argparse.Namespace, names: Iterable[str], why: str) -> None:
    """Refuses flags that were given although nothing would read them.

    Args:
      flags: parsed; see `given_flags` for their defaults.
      names: of those that are not read, as attributes of `flags`.
      why: the rest of the sentence that a flag begins: why not, and what to do.

    Raises:
      ValueError: one of them was given.
    """
    given = given_flags(flags)
    for name in names:
        if name in given:
            raise ValueError(f"--{name.replace('_', '-')} {why}")
