"""Examples of docstrings as code: griffe knows those of a section "Examples" only, ours stand in the text."""

from __future__ import annotations

import re
from typing import Any

import griffe

_EXAMPLE = re.compile(r"^>>> .*?(?=\n[ \t]*\n|\Z)", re.MULTILINE | re.DOTALL)


def fenced(text: str) -> str:
    """A docstring whose lines from >>> to the next empty one are a block of code."""
    return _EXAMPLE.sub(lambda match: f"```pycon\n{match[0]}\n```", text)


class Doctests(griffe.Extension):
    """Fences the examples of a package and all that is in it, once it is read."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        found: list[Any] = [pkg]
        while found:
            each = found.pop()
            if each.docstring:
                each.docstring.value = fenced(each.docstring.value)
            found += [member for member in each.members.values() if not member.is_alias]
