"""The page as one document: its own style and script, and the report's colours and slider."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from jax_bridges.painting.desk import Tab
from jax_bridges.report.page import COLOURS, COMPARE_SCRIPT, COMPARE_STYLE
from jax_bridges.report.pictures import OUTLINE

_SCRIPTS = ("page.js", "easel.js", "answers.js")


def policy(nonce: str) -> str:
    """The page's content security policy: nothing from elsewhere, and nothing to elsewhere."""
    return (
        "default-src 'none'; img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; "
        f"style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; form-action 'none'; "
        "frame-ancestors 'none'"
    )


def build_page(tabs: Sequence[Tab], most_bytes: int, nonce: str) -> str:
    """The document.

    Args:
      most_bytes: of a picture's file.
      nonce: of this answer alone, see `policy`.
    """

    def read(name: str) -> str:
        return files("jax_bridges.painting").joinpath(name).read_text(encoding="utf-8")

    facts: dict[str, Any] = {"tabs": [tab.facts() for tab in tabs], "bytes": most_bytes}
    hole = f":root {{ --hole:#{bytes(OUTLINE).hex()} }}\n"
    parts = {
        "nonce": nonce,
        "style": COLOURS + hole + COMPARE_STYLE + read("style.css"),
        "facts": json.dumps(facts).replace("<", "\\u003c"),  # no </script> in a name
        "script": COMPARE_SCRIPT + "".join(map(read, _SCRIPTS)),
    }
    page = read("page.html")
    for name, text in parts.items():
        page = page.replace(f"{{{name}}}", text)
    return page
