"""Rows of one or several runs as one table, in the formats that people paste: Markdown, CSV, LaTeX, JSON."""

from __future__ import annotations

import csv
import dataclasses
import fnmatch
import io
import json
import re
from collections.abc import Sequence

from jax_bridges.hints import did_you_mean
from jax_bridges.measured import markdown_table
from jax_bridges.report.row import Row
from jax_bridges.report.table import Column, footnotes, make_columns, sort_rows


@dataclasses.dataclass(frozen=True)
class Listing:
    """Rows that were measured, run by run, and those that others have published.

    Attributes:
      runs: the run of each measured row; all "" where there is one run.
      rows: those measured, then those published.
      columns: of all of them; the best is marked within a run, among what was measured.
    """

    runs: tuple[str, ...]
    rows: tuple[Row, ...]
    columns: tuple[Column, ...]

    @classmethod
    def of(
        cls, runs: dict[str, list[Row]], metrics: Sequence[str] = (), rows: Sequence[str] = ()
    ) -> Listing:
        """Of the rows of each run by its name.

        Args:
          metrics: keys of the columns to show, in any order; all by default.
          rows: patterns MODEL, MODEL/SAMPLER or MODEL/SAMPLER/NFE of those to show, with * and ?; all by
            default. Published rows are shown whatever they are.

        Raises:
          ValueError: a metric or a pattern that no row has.
        """
        chosen = {name: _chosen(its, metrics, rows) for name, its in runs.items()}
        _check(runs, metrics, rows)
        own = {name: sort_rows([r for r in its if not r.published]) for name, its in chosen.items()}
        published = [r for its in chosen.values() for r in its if r.published]
        published = [
            r for i, r in enumerate(published) if r not in published[:i]
        ]  # once of all runs
        measured = [row for its in own.values() for row in its]
        if not measured:
            raise ValueError(f"No row is {' or '.join(rows)}: leave --rows out to see them all.")
        columns = make_columns([*measured, *sort_rows(published)])
        marks = [
            ({c.key: c.best for c in make_columns(its)}, (False,) * len(its))
            for its in own.values()
            if its
        ]
        nobody = (False,) * len(published)
        columns = [
            dataclasses.replace(c, best=sum((m.get(c.key, none) for m, none in marks), ()) + nobody)
            for c in columns
        ]
        names = [name if len(runs) > 1 else "" for name, its in own.items() for _ in its]
        return cls(tuple(names), (*measured, *sort_rows(published)), tuple(columns))

    @property
    def _measured(self) -> slice:
        return slice(len(self.runs))

    @property
    def _published(self) -> slice:
        return slice(len(self.runs), len(self.rows))

    def _cells(self, part: slice, mark: str, escape=lambda text: text) -> list[list[str]]:
        """Lines of cells of some rows; `mark` has a {} for what is marked."""
        columns = [
            [
                mark.format(escape(t)) if b else escape(t)
                for t, b in zip(c.texts[part], c.best[part], strict=True)
            ]
            for c in self.columns
        ]
        if any(self.runs):
            names = list(self.runs) if part == self._measured else [""] * len(self.rows[part])
            columns.insert(0, [escape(name) for name in names])
        return [list(line) for line in zip(*columns, strict=True)]

    def _heads(self) -> list[str]:
        heads = []
        for column in self.columns:
            head = f"{column.name} {column.arrow}".rstrip()
            head += f" ({column.region})" if column.region else ""
            heads.append(head + (f", {column.unit}" if column.unit else ""))
        return ["Run", *heads] if any(self.runs) else heads

    def _notes(self) -> str:
        part = [
            dataclasses.replace(
                c,
                values=c.values[self._measured],
                texts=c.texts[self._measured],
                best=c.best[self._measured],
            )
            for c in self.columns
        ]
        notes = footnotes(list(self.rows[self._measured]), part, "**bold**:")
        return notes.replace("of its column", "of its column and run") if any(self.runs) else notes

    def markdown(self) -> str:
        """Two tables: what was measured, and what others have published, which is not ranked with it."""
        heads = self._heads()
        words = [h for h, c in zip(heads[-len(self.columns) :], self.columns) if not c.numeric] + [
            "Run"
        ]
        text = markdown_table(heads, self._cells(self._measured, "**{}**"), words)
        text = f"{text}\n\n{self._notes()}"
        if self.rows[self._published]:
            table = markdown_table(heads, self._cells(self._published, "{}"), words)
            text += f"\n\nPublished by others, not measured here ({self._references()}):\n\n{table}"
        return text

    def _references(self) -> str:
        return (
            "; ".join(dict.fromkeys(r.reference for r in self.rows if r.reference)) or "no source"
        )

    def latex(self) -> str:
        """A tabular for any LaTeX, without packages; published rows below a line, in italics."""
        heads = [_escape(head) for head in self._heads()]
        kinds = ["l"] * any(self.runs) + ["r" if c.numeric else "l" for c in self.columns]
        lines = [
            f"% {self._notes().replace('**bold**', 'bold')}",
            f"\\begin{{tabular}}{{{''.join(kinds)}}}",
            "\\hline",
            " & ".join(heads) + r" \\",
            "\\hline",
        ]
        own = self._cells(self._measured, "\\textbf{{{}}}", _escape)
        lines += [" & ".join(cells) + r" \\" for cells in own]
        if self.rows[self._published]:
            lines += ["\\hline", f"% Published by others: {self._references()}"]
            for cells in self._cells(self._published, "{}", _escape):
                lines.append(" & ".join(f"\\textit{{{c}}}" if c else "" for c in cells) + r" \\")
        return "\n".join([*lines, "\\hline", "\\end{tabular}"])

    def csv(self) -> str:
        """A line a row: values with all digits, ends of intervals, and whether it is marked."""
        out = io.StringIO()
        keys = [c.key for c in self.columns if any(c.key in row.metrics for row in self.rows)]
        spread = [key for key in keys if any(key in row.std for row in self.rows)]
        head = [
            "run",
            "source",
            "task",
            "model",
            "sampler",
            "nfe",
            "images",
            "seeds",
            "seconds_per_image",
        ]
        for key in keys:
            head += [
                key,
                f"{key}_low",
                f"{key}_high",
                *([f"{key}_std"] if key in spread else []),
                f"{key}_best",
            ]
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(head)
        for run, row, best in self._each():
            line = [
                run,
                "published" if row.published else "measured",
                row.task,
                row.model,
                row.sampler,
            ]
            line += [row.nfe, row.images, row.seeds, row.seconds_per_image]
            for key in keys:
                line += [row.metrics.get(key), *row.intervals.get(key, (None, None))]
                line += [row.std.get(key)] if key in spread else []
                line.append(int(key in best))
            writer.writerow(["" if value is None else value for value in line])
        return out.getvalue().rstrip("\n")

    def json(self) -> str:
        """The rows as results.json has them, each with its run and the metrics that are marked."""
        rows = [{"run": run, **row.plain(), "best": best} for run, row, best in self._each()]
        return json.dumps(rows, indent=1, ensure_ascii=False)

    def _each(self):
        for i, row in enumerate(self.rows):
            run = self.runs[i] if i < len(self.runs) else ""
            yield run, row, [c.key for c in self.columns if c.best[i] and c.key in row.metrics]


FORMATS = {"md": Listing.markdown, "csv": Listing.csv, "latex": Listing.latex, "json": Listing.json}


def _chosen(rows: list[Row], metrics: Sequence[str], patterns: Sequence[str]) -> list[Row]:
    kept = [
        row for row in rows if row.published or not patterns or any(_is(row, p) for p in patterns)
    ]
    if not metrics:
        return kept
    cut = [
        dataclasses.replace(row, metrics={k: v for k, v in row.metrics.items() if k in metrics})
        for row in kept
    ]
    return [row for row in cut if row.metrics or not row.published]


def _is(row: Row, pattern: str) -> bool:
    names = (row.model, row.sampler, str(row.nfe))
    parts = pattern.split("/")
    return len(parts) <= len(names) and all(map(fnmatch.fnmatchcase, names, parts))


def _check(runs: dict[str, list[Row]], metrics: Sequence[str], patterns: Sequence[str]) -> None:
    rows = [row for its in runs.values() for row in its]
    known = list(dict.fromkeys(key for row in rows for key in row.metrics))
    for key in metrics:
        if key not in known:
            raise ValueError(
                f"No row has the metric '{key}': choose of {', '.join(known)}.{did_you_mean(key, known)}"
            )
    for pattern in patterns:
        if not any(_is(row, pattern) for row in rows if not row.published):
            found = dict.fromkeys(f"{row.model}/{row.sampler}/{row.nfe}" for row in rows)
            raise ValueError(f"No row is {pattern}: there are {', '.join(found)}.")


_LATEX = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "±": r"$\pm$", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "†": r"$\dagger$", "–": "--", "−": "$-$",
    ">=": r"$\ge$", "<": "$<$", ">": "$>$", "|": "$|$",
}  # fmt: skip
_SIGNS = re.compile("|".join(map(re.escape, _LATEX)))


def _escape(text: str) -> str:
    """Text for LaTeX, its signs by its own commands."""
    return _SIGNS.sub(lambda found: _LATEX[found[0]], text)
