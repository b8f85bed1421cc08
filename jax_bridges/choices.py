"""One way to choose a thing by name from a plain dict, with an error that lists what there is."""

from __future__ import annotations

import ast
import difflib
import inspect
import numbers
import re
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any


def look_up(kind: str, table: Mapping[str, Any], name: str) -> Any:
    """`table[name]`, or a ValueError that names the kind, the known names and the closest one."""
    if name in table:
        return table[name]
    close = difflib.get_close_matches(str(name), list(table), 1)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    raise ValueError(f"Unknown {kind} '{name}': choose one of {', '.join(sorted(table))}.{hint}")


def require_positive(part: str, settings: Mapping[str, Any], *keys: str) -> None:
    """ValueError, with its name `part.key`, for the first of `keys` whose setting is below 1."""
    for key in keys:
        if settings[key] < 1:
            raise ValueError(f"{part}.{key} is {settings[key]}: it must be at least 1.")


def parse_choice(text: str) -> tuple[str, dict[str, Any]]:
    """("superres", {"factor": 4}) from "superres:factor=4"; values are Python literals or words.

    Raises ValueError for a setting without "=".
    """
    name, _, rest = text.partition(":")
    settings = {}
    for part in re.split(r",(?![^(\[]*[)\]])", rest) if rest else ():  # not within brackets
        key, equals, value = part.partition("=")
        if not equals or not key.strip():
            raise ValueError(f"'{text}': settings are written NAME:KEY=VALUE,KEY=VALUE.")
        try:
            settings[key.strip()] = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError):
            settings[key.strip()] = value.strip()
    return name.strip(), settings


def choose(
    kind: str, table: Mapping[str, Callable[..., Any]], name: str, settings: Mapping[str, Any]
) -> Any:
    """`table[name](**settings)`; ValueError for a setting that it does not take, or of another type."""
    make = look_up(kind, table, name)
    known = inspect.signature(make, eval_str=True).parameters
    free = any(p.kind is p.VAR_KEYWORD for p in known.values())
    for key, value in settings.items():
        if key in known:
            wanted = known[key].annotation
            if not _fits(value, wanted):
                words = getattr(wanted, "__name__", wanted)
                words = "bool: True or False" if wanted is bool else words
                raise ValueError(f"{name}: {key} is {value!r}, and must be of type {words}.")
        elif not free:
            raise ValueError(
                f"The {kind} '{name}' has no setting '{key}': it takes {', '.join(known) or 'none'}."
            )
    return make(**settings)


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value is of a type; whole numbers pass for floats, and what is no class passes."""
    if isinstance(kind, types.UnionType):
        return any(_fits(value, each) for each in typing.get_args(kind))
    if kind in (int, float):
        number = numbers.Integral if kind is int else numbers.Real
        return isinstance(value, number) and not isinstance(value, bool)
    kind = typing.get_origin(kind) or kind
    kind = (tuple, list) if kind is tuple else kind  # configurations hold lists
    return isinstance(value, kind) if isinstance(kind, type | tuple) else True
