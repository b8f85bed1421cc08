"""One way to choose a thing by name from a plain dict, with an error that lists what there is."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from typing import Any

from jax_bridges.hints import did_you_mean
from jax_bridges.schema import check_known, derived


def look_up(kind: str, table: Mapping[str, Any], name: str) -> Any:
    """`table[name]`, or a ValueError that names the kind, the known names and the closest one."""
    if name in table:
        return table[name]
    hint = did_you_mean(str(name), table)
    raise ValueError(f"Unknown {kind} '{name}': choose one of {', '.join(sorted(table))}.{hint}")


def parse_choice(text: str) -> tuple[str, dict[str, Any]]:
    """("superres", {"factor": 4}) from "superres:factor=4"; values are Python literals or words.

    >>> parse_choice("inpaint_freeform:area=(10,20),fill=zero")
    ('inpaint_freeform', {'area': (10, 20), 'fill': 'zero'})

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
    """`table[name](**settings)`; ValueError for a setting that it does not take, or cannot be that."""
    make = look_up(kind, table, name)
    check_known(kind, name, derived(make), settings)
    return make(**settings)
