"""The tables of report.html, and what stands around them."""

import html

from jax_bridges.report.row import Row, is_metric, split_metric
from jax_bridges.report.table import MISSING, Column, footnotes, format_value, make_columns

escape = html.escape


def missing(text: str) -> str:
    """A paragraph that says what is not there."""
    return f'<p class="missing">{escape(text)}</p>'


def results_table(rows: list[Row], measured: dict) -> str:
    """All rows, in the order they are given, with what the signs mean."""
    if not rows:
        return "<h2>Results</h2>\n" + missing("results.json holds no rows.")
    columns = make_columns(rows)
    body = []
    for index, row in enumerate(rows):
        cells = "".join(_cell(column, index, row) for column in columns)
        attributes = ' class="published"' if row.published else ""
        if row.reference:
            attributes += f' title="{escape(row.reference)}"'
        body.append(f"<tr{attributes}>{cells}</tr>")
    notes = footnotes(rows, columns, "Bold:")
    used = {split_metric(column.key)[0].name for column in columns if is_metric(column.key)}
    if "FD-Lite0" in used:
        notes += (
            " FD-Lite0: the Fréchet distance between features of EfficientNet-Lite0; it ranks "
            "the rows of one report and is not comparable with published distances."
        )
    references = dict.fromkeys(row.reference for row in rows if row.reference)
    if references:
        notes += f" Published numbers: {'; '.join(references)}."
    return (
        '<h2>Results</h2>\n<div class="scroll"><table class="results">\n<thead>'
        f"{_groups(columns, measured)}<tr>{''.join(map(_head, columns))}</tr></thead>\n<tbody>\n"
        + "\n".join(body)
        + f'\n</tbody></table></div>\n<p class="note">{escape(notes)}</p>'
    )


def differences_table(results: dict) -> str:
    """Students against teachers, rounds of EM against those before, of the same images, with intervals."""
    rows, lines = results["rows"], []
    for each in results["differences"]:
        metric, in_hole = split_metric(each.metric)
        numbers = (format_value(rows, each.metric, v) for v in (each.value, each.low, each.high))
        value, low, high = (number.replace("-", "−") for number in numbers)
        bound = each.worst / abs(rows[each.to].metrics[each.metric] or 1)
        cells = [
            f"{_who(rows[each.row])} minus {_who(rows[each.to])}",
            metric.name + " (hole)" * in_hole + f", {metric.unit}" * bool(metric.unit),
            value, f"{low} to {high}", "better" if bound <= 0 else f"{bound:.1%}",
            MISSING if each.sign_p is None else f"{each.sign_p:.2g}",
        ]  # fmt: skip
        lines.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    if not lines:
        return ""
    heads = ("Rows", "Metric", "Difference", "95% interval", "Worse by at most", "Sign test, p")
    return (
        "<details><summary>Differences that are paired over the same images</summary>\n"
        '<div class="scroll"><table class="results"><thead><tr>'
        + "".join(f'<th scope="col">{head}</th>' for head in heads)
        + "</tr></thead>\n<tbody>\n"
        + "\n".join(lines)
        + '\n</tbody></table></div>\n<p class="note">Worse by at most: the bound that holds with 95%, in '
        "percent of the second row's value. Neighbouring images are resampled together.</p></details>"
    )


def _who(row: Row) -> str:
    return f"{row.model} {row.sampler} {row.nfe}"


def seed_links(seeds: list[dict]) -> str:
    """The runs whose means the rows are."""
    if not seeds:
        return ""
    links = (
        f'<a href="{escape(each["folder"])}/report.html">seed {each["seed"]}</a>' for each in seeds
    )
    return f"<p>The runs: {', '.join(links)}, each with its curves and pictures.</p>"


def _groups(columns: list[Column], measured: dict) -> str:
    """A first header row that says which columns look at the hole and which at whole images."""
    if not any(column.region for column in columns):
        return ""
    names = {"hole": measured.get("region") or "hole", "image": "whole image", "": ""}
    cells = []
    start = 0
    for stop in range(1, len(columns) + 1):
        if stop == len(columns) or columns[stop].region != columns[start].region:
            name = escape(names[columns[start].region])
            inner = f"<span>{name}</span>" if name else ""
            tag = "th" if name else "td"
            cells.append(f'<{tag} colspan="{stop - start}">{inner}</{tag}>')
            start = stop
    return f'<tr class="group">{"".join(cells)}</tr>'


def _head(column: Column) -> str:
    first = "descending" if column.arrow == "↑" else "ascending"
    kind = ' class="number"' if column.numeric else ""
    name = f"{escape(column.name)} {column.arrow}".rstrip()
    return (
        f'<th scope="col"{kind} data-first="{first}"><button type="button">{name}'
        f"<small>{escape(column.unit)}</small></button></th>"
    )


def _cell(column: Column, index: int, row: Row) -> str:
    value, text = column.values[index], escape(column.texts[index])
    if column.key == "nfe" and isinstance(value, str):
        value = "".join(filter(str.isdigit, value))
    value = "" if value is None else escape(str(value))
    kinds = ["number"] * column.numeric + ["best"] * column.best[index]
    kind = f' class="{" ".join(kinds)}"' if kinds else ""
    if column.key == "model":
        known = row.model in ("source", "teacher", "student")
        style = f' style="background:var(--{row.model})"' if known else ""
        text = f'<span class="dot"{style}></span>{text}'
    return f'<td{kind} data-value="{value}">{text}</td>'
