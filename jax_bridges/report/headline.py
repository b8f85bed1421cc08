"""One sentence that says what a run achieved, computed from its rows."""

from collections.abc import Sequence

from jax_bridges.report.differences import MARGIN, Difference, no_worse
from jax_bridges.report.row import Row, split_metric
from jax_bridges.report.table import below_source, first_key, format_value


def headline(rows: list[Row], differences: Sequence[Difference] = ()) -> str:
    """The student with fewest calls against the teacher at as many calls and at its most.

    Models whose images are worse than their source are told first. `differences`, of these rows in this
    order, say whether the student is no worse than the teacher at its most calls.

    The metric is the first of METRICS the student has, in the hole where it was taken. Only rows
    over the same number of images are compared, since a distance depends on that number. Without
    a student the teacher's best row is told; without rows, that there are no results. Of a prior's
    tasks, which do not compare, it is told how many there are.
    """
    worse = _worse(rows)
    return f"{worse} {_achieved(rows, differences)}" if worse else _achieved(rows, differences)


def _worse(rows: list[Row]) -> str:
    """A sentence for each model that is worse than its source."""
    said = []
    for task in dict.fromkeys(row.task for row in rows):
        for best, source in below_source([row for row in rows if row.task == task]):
            key = first_key([best])
            assert key is not None  # by it they were compared
            ours, theirs = (format_value(rows, key, row.metrics[key]) for row in (best, source))
            where = f" ({task})" if task else ""
            said.append(
                f"Worse than its source{where}: the {best.model}'s best {_metric(key)} is {ours}, "
                f"that of the corrupted images themselves {theirs}."
            )
    return " ".join(said)


def _achieved(given: list[Row], differences: Sequence[Difference]) -> str:
    rows = [row for row in given if not row.published and row.model != "source"]
    tasks, methods = {row.task for row in rows}, {row.sampler for row in rows}
    if rows and "" not in tasks:
        return f"One prior, {len(tasks)} tasks that it was not trained for, {len(methods)} methods."
    students = [row for row in rows if row.model == "student"]
    own = students or [row for row in rows if row.model == "teacher"] or rows
    key = first_key(own)
    if key is None:
        return "No model has been measured yet."
    own = [row for row in own if row.metrics.get(key) is not None]
    if not students:
        best = _best(own, key)
        return f"{_name(best)}: {_metric(key)} {format_value(rows, key, best.metrics[key])}."
    student = _best([row for row in own if row.calls == min(row.calls for row in own)], key)
    which = f" by {student.sampler}" if len({row.sampler for row in students}) > 1 else ""
    sentence = _name(student).replace(",", f"{which},", 1)
    sentence += f": {_metric(key)} {format_value(rows, key, student.metrics[key])}"
    teachers = [
        row
        for row in rows
        if row.model == "teacher"
        and row.metrics.get(key) is not None
        and row.images == student.images
    ]
    if not teachers:
        return sentence + "."
    parts = []
    equal = [row for row in teachers if row.nfe == student.nfe]
    most = [row for row in teachers if row.calls == max(row.calls for row in teachers)]
    if equal:
        teacher = _best(equal, key)
        parts.append(f"{_against(student, teacher, key)} the teacher's {_calls(teacher)}")
    if most[0].calls > student.calls:
        teacher = _best(most, key)
        whose = "its" if parts else "the teacher's"
        parts.append(f"{_against(student, teacher, key)} {whose} {_calls(teacher)}")
        sentence += ", " + ", ".join(parts)
        speed = _speed(student, teacher)
        if speed:
            sentence += f", and {speed}" + (" than the latter" if equal else "")
        return f"{sentence}.{_verdict(given, student, teacher, key, differences)}"
    return ", ".join([sentence, *parts]) + "."


def _verdict(
    rows: list[Row], student: Row, teacher: Row, key: str, differences: Sequence[Difference]
) -> str:
    """Whether the student is no worse than the teacher, by the bound of their paired difference."""
    for each in differences:
        if each.metric == key and rows[each.row] is student and rows[each.to] is teacher:
            value, *ends = (
                "−+"[v >= 0] + format_value(rows, key, abs(v))
                for v in (each.value, each.low, each.high)
            )
            base = teacher.metrics[key]
            said = f" The paired difference is {value} (95% interval {' to '.join(ends)})"
            if each.worst <= 0:
                return f"{said}: better by more than chance."
            bound = f"at most {each.worst / abs(base):.1%} worse with 95%"
            if no_worse(each, base):
                return f"{said}: no worse, {bound} (under {MARGIN:.0%} counts as no worse)."
            return f"{said}: not shown to be as good, {bound}."
    return ""


def _against(row: Row, other: Row, key: str) -> str:
    """How the value stands to the other one: "31% below", "1.20 dB above", "level with"."""
    value, base = row.metrics[key], other.metrics[key]
    metric, _ = split_metric(key)
    word = "above" if value > base else "below"
    if metric.unit or base <= 0:
        text = f"{abs(value - base):.{2 if metric.decimals is None else metric.decimals}f}"
        return "level with" if float(text) == 0 else f"{text} {metric.unit}".rstrip() + f" {word}"
    if value > 2 * base:
        return f"{value / base:.1f} times"
    change = abs(value / base - 1)
    return "level with" if change < 0.005 else f"{change:.0%} {word}"


def _speed(row: Row, other: Row) -> str:
    if not row.seconds_per_image or not other.seconds_per_image:
        return ""
    ratio = other.seconds_per_image / row.seconds_per_image
    word, ratio = ("faster", ratio) if ratio >= 1 else ("slower", 1 / ratio)
    return f"{ratio:.0f}x {word}" if ratio >= 9.95 else f"{ratio:.1f}x {word}"


def _best(rows: list[Row], key: str) -> Row:
    metric, _ = split_metric(key)
    return (max if metric.higher_is_better else min)(rows, key=lambda row: row.metrics[key])


def _metric(key: str) -> str:
    metric, in_hole = split_metric(key)
    return metric.name + (" (hole)" if in_hole else "")


def _name(row: Row) -> str:
    return f"{row.model.capitalize()}, {_calls(row)}"


def _calls(row: Row) -> str:
    return "1 call" if row.nfe == 1 else f"{row.nfe} calls"
