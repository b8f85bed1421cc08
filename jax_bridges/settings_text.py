"""The table of settings for people: as text, and as the page docs/settings.md."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from jax_bridges.measured import markdown_table
from jax_bridges.schema import Setting

Groups = Sequence[tuple[str, str, Sequence[Setting]]]  # (kind, name, rows)

# Kind of a group -> how its settings are given.
GIVEN = {
    "sampler": "--config.evaluate.sampler={name}:KEY=VALUE",
    "guidance": "--config.evaluate.sampler=SAMPLER:{name}=VALUE,KEY=VALUE, of any sampler",
    "solver": "--config.zero_shot.settings={{'{name}':{{'KEY':VALUE}}}}",
}
_PART = "--config.{kind}.name={name}:KEY=VALUE"
_WIDTH = 110


def as_text(base: Iterable[Setting], groups: Groups) -> str:
    """Two or more lines a row: key, default and values; then what it means."""
    lines = [line for row in base for line in _lines(row)]
    for kind, name, rows in groups:
        if rows:
            lines += ["", f"{kind} {name}, {GIVEN.get(kind, _PART).format(kind=kind, name=name)}"]
            lines += [f"  {line}" for row in rows for line in _lines(row)]
    return "\n".join(lines).lstrip("\n") + "\n"


def as_markdown(base: Iterable[Setting], groups: Groups) -> str:
    """The page: a table for each part of a configuration, then one for each kind of thing."""
    sections: dict[str, list[Setting]] = {}
    for row in base:
        sections.setdefault(row.key.rpartition(".")[0], []).append(row)
    example = _PART.format(kind="bridge", name="brownian").replace("KEY=VALUE", "epsilon=0.5")
    text = [
        "# Settings\n",
        "Made by `python -m jax_bridges.settings --format=md`; `python -m jax_bridges.settings WORD` prints "
        "those with the word in their key. Any is changed on the command line, `--config.KEY=VALUE`.\n",
        *(_table(f"`{name}`" if name else "The run", rows) for name, rows in sections.items()),
        "# Settings of what is chosen by name\n",
        f"A bridge, corruption, preconditioning or network brings its settings with its name, `{example}`; "
        "a sampler as well, `--config.evaluate.sampler=dbim:eta=1`; a solver's lie in "
        "`zero_shot.settings`.\n",
        *(_table(f"{kind} `{name}`", rows) for kind, name, rows in groups if rows),
    ]
    return "\n".join(text)


def shown(value: Any) -> str:
    """A default as it would be written."""
    return repr(dict(value)) if hasattr(value, "items") else str(value) if value != "" else '""'


def _lines(row: Setting) -> list[str]:
    head = textwrap.wrap(
        f"{row.key} = {shown(row.default)}  ({row.values.words})", _WIDTH, subsequent_indent=" " * 8
    )
    meaning = textwrap.wrap(row.meaning, _WIDTH, initial_indent=" " * 4, subsequent_indent=" " * 4)
    return head + meaning


def _table(title: str, rows: Iterable[Setting]) -> str:
    head = ("key", "default", "values", "meaning")
    told = [(f"`{r.key}`", f"`{shown(r.default)}`", r.values.words, r.meaning) for r in rows]
    return f"## {title}\n\n{markdown_table(head, told, head, aligned=False)}\n"
