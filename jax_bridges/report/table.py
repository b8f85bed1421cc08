"""The table of results: one layout of columns, printed for a terminal, Markdown or the report."""

import math
from dataclasses import dataclass
from functools import partial

from jax_bridges.measured import markdown_table
from jax_bridges.metrics import METRICS
from jax_bridges.report.row import HOLE, Row, is_metric, split_metric

MODEL_ORDER = {"source": 0, "teacher": 1, "student": 2}
PUBLISHED = "†"
MISSING = "–"
FEW = 10_000  # images that the authors of the FID ask for (Heusel et al. 2017, their code's README)


@dataclass(frozen=True)
class Column:
    """One column: `values` as stored (None: missing), `texts` as shown, `best`: to be marked."""

    key: str
    name: str
    region: str  # "hole", "image" (where hole columns exist too) or ""
    unit: str
    arrow: str  # "↑" higher is better, "↓" lower is better, "" neither
    values: tuple
    texts: tuple[str, ...]
    best: tuple[bool, ...]
    numeric: bool = True


def sort_rows(rows: list[Row]) -> list[Row]:
    """Rows by model (source, teacher, student, others), sampler, NFE; published rows last.

    Rows of several tasks stay in their order, task by task.
    """
    if any(row.task for row in rows):
        tasks = list(dict.fromkeys(row.task for row in rows))
        return sorted(rows, key=lambda row: (tasks.index(row.task), row.published))
    return sorted(
        rows,
        key=lambda row: (
            row.published,
            MODEL_ORDER.get(row.model, len(MODEL_ORDER)),
            row.model if row.model not in MODEL_ORDER else "",
            row.sampler,
            row.calls,
        ),
    )


def make_columns(rows: list[Row]) -> list[Column]:
    """Columns for `rows` in the order they are given.

    Hole metrics come before whole-image ones, since known pixels drown the difference there. The
    best measured value of a metric is marked, with every value that is not worse by more than chance
    (without intervals: that prints the same); source and published rows never are, and nothing is where
    the models are worse than their source (`below_source`). Columns no row fills are left out, as is
    `images` where all agree.
    """
    names = [row.model + (f" {PUBLISHED}" if row.published else "") for row in rows]
    nfe = [row.nfe for row in rows]
    heads = ("Task", "Method") if any(row.task for row in rows) else ("Model", "Sampler")
    columns = [
        _text_column("model", heads[0], names),
        *_comparability(rows),
        _text_column("sampler", heads[1], [row.sampler for row in rows]),
        _plain("nfe", "NFE", nfe, [MISSING if value is None else str(value) for value in nfe]),
    ]
    present = {k for row in rows for k, value in row.metrics.items() if value is not None}
    holes = any(key.endswith(HOLE) for key in present)
    for suffix in (HOLE, ""):
        for name, metric in METRICS.items():
            if name + suffix not in present:
                continue
            region = ("hole" if suffix else "image") if holes else ""
            values = [row.metrics.get(name + suffix) for row in rows]
            texts = tuple(format_value(rows, name + suffix, value) for value in values)
            shown = tuple(map(partial(_with_interval, name + suffix), rows, texts))
            best = _best(rows, values, texts, metric.higher_is_better, name + suffix)
            arrow = "↑" if metric.higher_is_better else "↓"
            head = (name + suffix, metric.name, region, metric.unit, arrow)
            columns.append(Column(*head, tuple(values), shown, best))
    columns += _time_column(rows)
    trained = [row.training_calls for row in rows]
    if any(trained):
        texts = [MISSING if n is None else f"{n:,.0f}" for n in trained]
        columns.append(_plain("training_calls", "Training calls", trained, texts))
    images = [row.images for row in rows]
    if len({value for value in images if value is not None}) > 1:
        texts = [MISSING if value is None else f"{value}" for value in images]
        columns.append(_plain("images", "Images", images, texts))
    return columns


def format_table(rows: list[Row], markdown: bool = False) -> str:
    """The rows as an aligned terminal table or, for a README, as a Markdown one.

    They are sorted by `sort_rows`. The best measured value of each
    metric is marked (`*`, bold in Markdown) and a last line explains the signs that occur.
    """
    if not rows:
        return "no results"
    rows = sort_rows(rows)
    columns = make_columns(rows)
    return _markdown(rows, columns) if markdown else _terminal(rows, columns)


def footnotes(rows: list[Row], columns: list[Column], best: str) -> str:
    """The line under a table; `best` says how the best value is marked."""
    where = " and task" if any(row.task for row in rows) else ""
    marked = any(any(column.best) for column in columns)
    sure = " and what is not worse by more than chance" * any(row.behind for row in rows)
    notes = [f"{best} best of its column{where}{sure}"] if marked else []
    if any(below_source([row for row in rows if row.task == task]) for task in _tasks(rows)):
        notes.append("nothing is marked: a model is worse than its source")
    if any(column.arrow for column in columns):
        notes.append("↑ higher is better, ↓ lower is better")
    notes.append("NFE: network calls per image")
    if any(row.training_calls for row in rows):
        notes.append(
            "training calls: of one image, a backward pass two, a student's with its teacher's"
        )
    images = {row.images for row in rows if row.images}
    if len(images) == 1:
        notes.append(f"{images.pop():,} images per row")
    if any(row.published for row in rows):
        notes.append(f"{PUBLISHED} published by others, not measured here")
    seeds = {row.seeds for row in rows if row.seeds}
    if seeds:
        notes.append(f"means of {seeds.pop()} seeds, in brackets their standard deviation")
    if any(row.intervals for row in rows):
        over = " over images and seeds" if any(row.seeds for row in rows) else ""
        notes.append(f"± half of the 95% interval{over}")
    if any(MISSING in column.texts for column in columns):
        notes.append(f"{MISSING} not measured")
    return "; ".join(notes) + "." + few_images(rows, [column.key for column in columns])


def few_images(rows: list[Row], keys: list[str]) -> str:
    """A warning where a distance among `keys` is of few images: its value then tells how many there are."""
    found = [split_metric(key)[0] for key in keys if is_metric(key)]
    falling = dict.fromkeys(m.name for m in found if m.of_set and m.of_set.falls)
    least = min((row.images for row in rows if row.images and not row.published), default=FEW)
    if not falling or least >= FEW:
        return ""
    return (
        f" {' and '.join(falling)} of {least:,} images: few, under {FEW:,} such a distance is too large, and "
        "the more so the fewer; compare with equal numbers of images only."
    )


def format_value(rows: list[Row], key: str, value: float | None) -> str:
    """A metric's value with the digits it has in the table of `rows`."""
    metric, _ = split_metric(key)
    decimals = metric.decimals
    if decimals is None:
        decimals = _decimals([row.metrics.get(key) for row in rows], 3)
    return MISSING if value is None else f"{value:.{decimals}f}"


def _terminal(rows: list[Row], columns: list[Column]) -> str:
    table = []
    for column in columns:
        texts = [
            text + ("*" if best else " ") if any(column.best) else text
            for text, best in zip(column.texts, column.best, strict=True)
        ]
        # Digits line up under the header's last letter, so the star hangs one place to the right.
        tail = " " if any(column.best) else ""
        second = ", ".join(part for part in (column.region, column.unit) if part)
        head = [_title(column) + tail, second + tail]
        width = max(map(len, head + texts))
        pad = str.rjust if column.numeric else str.ljust
        table.append([pad(cell, width) for cell in head + texts])
    lines = ["  ".join(cells).rstrip() for cells in zip(*table, strict=True)]
    if not lines[1]:
        del lines[1]
    lines.insert(len(lines) - len(rows), "─" * max(map(len, lines)))
    return "\n".join([*lines, footnotes(rows, columns, "*")])


def _markdown(rows: list[Row], columns: list[Column]) -> str:
    head, words, cells = [], [], []
    for column in columns:
        title = _title(column)
        title += f" ({column.region})" if column.region else ""
        title += f", {column.unit}" if column.unit else ""
        head.append(title)
        words += [] if column.numeric else [title]
        marks = zip(column.texts, column.best, strict=True)
        cells.append([f"**{text}**" if best else text for text, best in marks])
    table = markdown_table(head, zip(*cells, strict=True), words)
    return "\n".join([table, "", footnotes(rows, columns, "**bold**:")])


def _title(column: Column) -> str:
    return f"{column.name} {column.arrow}".rstrip()


def _time_column(rows: list[Row]) -> list[Column]:
    values = [row.seconds_per_image for row in rows]
    if all(value is None for value in values):
        return []
    scaled = [value for value in values if value]
    factor, unit = (1e3, "ms/image") if scaled and min(scaled) < 0.1 else (1, "s/image")
    shown = [None if value is None else value * factor for value in values]
    decimals = _decimals(shown, 2)
    texts = tuple(MISSING if value is None else f"{value:.{decimals}f}" for value in shown)
    best = _best(rows, values, texts, higher_is_better=False)
    return [Column("seconds_per_image", "Time", "", unit, "↓", tuple(values), texts, best)]


def _tasks(rows: list[Row]) -> list[str]:
    return list(dict.fromkeys(row.task for row in rows))


def first_key(rows: list[Row]) -> str | None:
    """The metric that counts first: the first of METRICS a row has, in the hole where it was taken."""
    keys = (name + suffix for name in METRICS for suffix in (HOLE, ""))
    return next((k for k in keys if any(row.metrics.get(k) is not None for row in rows)), None)


def below_source(rows: list[Row]) -> list[tuple[Row, Row]]:
    """Models all of whose rows are worse than the source in the metric that counts first.

    Args:
      rows: of one task.

    Returns:
      (the model's best row, the source's) of each.
    """
    rows = [row for row in rows if not row.published]
    models = [row for row in rows if row.model != "source"]
    key = first_key(models)
    if key is None:
        return []
    rows = [row for row in rows if row.metrics.get(key) is not None]
    sources = [row for row in rows if row.model == "source"]
    if not sources:
        return []
    metric, _ = split_metric(key)
    sign = 1 if metric.higher_is_better else -1
    found = []
    for model in dict.fromkeys(row.model for row in models):
        own = [row for row in rows if row.model == model]
        best = max(own, key=lambda row: sign * row.metrics[key], default=None)
        if best and sign * best.metrics[key] < sign * sources[0].metrics[key]:
            found.append((best, sources[0]))
    return found


def _best(rows, values, texts, higher_is_better, key: str = "") -> tuple[bool, ...]:
    best = [False] * len(rows)
    falls = bool(key) and bool(of_set := split_metric(key)[0].of_set) and of_set.falls
    for task in _tasks(rows):
        if below_source([row for row in rows if row.task == task]):
            continue
        rivals = [
            index
            for index, (row, value) in enumerate(zip(rows, values, strict=True))
            if value is not None and row.model != "source" and not row.published
            if row.task == task
        ]
        if len(rivals) < 2:  # one value is no contest
            continue
        if falls and len({rows[index].images for index in rivals}) > 1:
            continue  # of other numbers of images: no contest either
        better = max if higher_is_better else min
        winner = better(rivals, key=lambda index: values[index])
        sources = [
            value
            for row, value in zip(rows, values, strict=True)
            if row.model == "source" and row.task == task and value is not None
        ]
        if sources and better(values[winner], sources[0]) != values[winner]:
            continue  # what was given is better still
        for index in rivals:
            behind = rows[index].behind.get(key)
            if (
                behind is None or key in rows[winner].behind
            ):  # the best of the run is not among these
                best[index] = texts[index] == texts[winner]
            else:
                best[index] = behind[1] >= 0 if higher_is_better else behind[0] <= 0
    return tuple(best)


def _decimals(values, digits: int) -> int:
    """Decimals that leave `digits` significant digits to the smallest non-zero value."""
    sizes = [abs(value) for value in values if value]
    if not sizes:
        return 1
    return min(6, max(0, digits - 1 - math.floor(math.log10(min(sizes)))))


def _comparability(rows: list[Row]) -> list[Column]:
    """A column that says of each row whose it is, and how far it compares; none without others."""
    if all(row.same_protocol is None for row in rows):
        return []
    words = {
        (True, True): "same protocol and data",
        (True, False): "other data",
        (False, True): "other protocol",
        (False, False): "other protocol and data",
    }
    texts = [
        f"published: {words[bool(row.same_protocol), bool(row.same_data)]}"
        if row.published
        else "measured here"
        for row in rows
    ]
    return [_text_column("comparable", "Whose", texts)]


def _with_interval(key: str, row: Row, text: str) -> str:
    """ "12.3 ±0.4", with the digits of the value, where the row has an interval of the metric.

    "12.3 ±0.4 (0.2)" with a standard deviation over seeds.
    """
    ends = row.intervals.get(key)
    if ends is None or text == MISSING:
        return text
    decimals = len(text.partition(".")[2])
    text = f"{text} ±{(ends[1] - ends[0]) / 2:.{decimals}f}"
    return f"{text} ({row.std[key]:.{decimals}f})" if key in row.std else text


def _text_column(key: str, name: str, texts: list[str]) -> Column:
    return _plain(key, name, texts, texts, numeric=False)


def _plain(key: str, name: str, values, texts, numeric: bool = True) -> Column:
    best = (False,) * len(texts)
    return Column(key, name, "", "", "", tuple(values), tuple(texts), best, numeric)
