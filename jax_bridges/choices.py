"""One way to choose a thing by name from a plain dict, with an error that lists what there is."""

from __future__ import annotations

import ast
import difflib
import inspect
import re
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
    """`table[name](**settings)`; a setting it does not take is a ValueError that lists those it takes."""
    make = look_up(kind, table, name)
    known = inspect.signature(make).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in known.values()):
        for key in settings:
            if key not in known:
                raise ValueError(
                    f"The {kind} '{name}' has no setting '{key}': it takes {', '.join(known) or 'none'}."
                )
    return make(**settings)
