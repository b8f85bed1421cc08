"""The pages that people read, taken apart: fenced blocks, code within a line, links, headings."""

from __future__ import annotations

import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.support import ROOT

# The site's own pages and those of a clone; records of results say what was run once.
PAGES = {
    str(path.relative_to(ROOT)): path
    for path in (
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "CHANGELOG.md",
        *sorted((ROOT / "jax_bridges" / "shipped").glob("*.md")),
        *sorted((ROOT / "docs").glob("*.md")),
    )
    if path.name != "settings.md"  # made by the program
}
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block: its language, its text, its first line in the page, the heading above it."""

    language: str
    text: str
    line: int
    section: str


def blocks(page: str, language: str) -> list[Block]:
    """The fenced blocks of a page in a language."""
    text, found = PAGES[page].read_text(), []
    for match in _FENCE.finditer(text):
        before = text[: match.start()]
        headings = re.findall(r"^## (.*)$", before, re.MULTILINE)
        line = before.count("\n") + 2
        found.append(Block(match[1], match[2], line, headings[-1] if headings else ""))
    return [block for block in found if block.language == language]


def prose(page: str) -> str:
    """A page without its fenced blocks."""
    return _FENCE.sub("", PAGES[page].read_text())


def spans(page: str) -> list[str]:
    """What stands between backticks in a page's prose; broken lines are joined."""
    return [re.sub(r"\s+", " ", span) for span in re.findall(r"`([^`]+)`", prose(page))]


def lines(block: Block) -> Iterator[str]:
    """The commands of a shell block, each a line, without comments."""
    for line in block.text.replace("\\\n", " ").splitlines():
        for command in line.split("&&"):
            if command.strip() and not command.strip().startswith("#"):
                yield command.strip()


def run_python(page: str, parts: list[Block], name: str) -> types.ModuleType:
    """Runs blocks one after the other in one module, as if typed; errors name the page's line."""
    import sys

    module = types.ModuleType(name)
    sys.modules[name] = module  # dataclasses look their annotations up there
    for part in parts:
        code = compile("\n" * (part.line - 1) + part.text, page, "exec")
        exec(code, module.__dict__)
    return module


def anchors(path: Path) -> set[str]:
    """Those of a page's headings, as GitHub and the site make them."""
    headings = re.findall(r"^#+ (.*)$", _FENCE.sub("", path.read_text()), re.MULTILINE)
    plain = [re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings]
    return {re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", h).strip().lower()) for h in plain}
