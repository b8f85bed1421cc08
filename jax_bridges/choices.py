"""One way to choose a thing by name from a plain dict, with an error that lists what there is."""

from __future__ import annotations

import difflib
import inspect
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
