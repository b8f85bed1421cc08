"""Curves as hand-written SVG: quality over cost, and losses over steps.

The SVG is text without scripts, fonts or links, so that it can stand inside an HTML page. Colours
are CSS variables with a fallback: a page may restyle them for dark mode, a lone file needs none.
"""

import html
import math
import os
from dataclasses import dataclass, replace
from pathlib import Path

from jax_bridges.io.atomic import write_atomic
from jax_bridges.report.row import Row, split_metric
from jax_bridges.report.table import sort_rows

WIDTH, HEIGHT = 460, 270
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 34, 40
INK, FAINT, GRID = "var(--soft, #6b7280)", "var(--faint, #9aa1ab)", "var(--line, #d9dde3)"
COLOURS = {"teacher": "var(--teacher, #2a6cb0)", "student": "var(--student, #c8501e)"}
OTHER_COLOURS = ("var(--other1, #3d8a5f)", "var(--other2, #8a5ba8)", "var(--other3, #a07d1c)")
DASHES = ("", "6 3", "2 3", "8 3 2 3", "14 3", "1 6")
MAX_POINTS = 240  # of a loss curve; more are averaged in bins
FEW_POINTS = 8  # a quality chart of fewer shows them all, however far off


@dataclass(frozen=True)
class Series:
    """One line of a chart: dots mark its points, a band spans (low, high) at each of them.

    bars: intervals (low, high) of its points, drawn as upright lines where they fit on the chart.
    A faint line is background: thin, and without hover titles.
    """

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    colour: str
    dash: str = ""
    dots: bool = True
    band: tuple[tuple[float, float], ...] = ()
    faint: bool = False
    bars: tuple[tuple[float, float], ...] = ()


def quality_series(rows: list[Row], x_key: str, y_key: str) -> list[Series]:
    """Curves of metric `y_key` over `x_key` ("nfe" or "seconds_per_image").

    One series a (model, sampler) of the measured rows that have both values and a positive x, each
    in order of x. The source is left out: it costs no call.
    """
    points: dict[tuple[str, str], list[tuple]] = {}
    names = []
    for row in sort_rows(rows):
        name = (row.model, row.sampler)
        if row.published or row.model == "source":
            continue
        names.append(name)
        x, y = getattr(row, x_key), row.metrics.get(y_key)
        if x and y is not None:
            points.setdefault(name, []).append((x, y, row.intervals.get(y_key, (y, y))))
    # Styles follow all the rows, so that a series looks the same in every chart.
    models = list(dict.fromkeys(model for model, _ in names))
    others = [model for model in models if model not in COLOURS]
    series = []
    for model, sampler in points:
        colour = COLOURS.get(model) or OTHER_COLOURS[others.index(model) % len(OTHER_COLOURS)]
        samplers = list(dict.fromkeys(each for name, each in names if name == model))
        index = samplers.index(sampler)
        dash = DASHES[index % len(DASHES)]
        if (
            model == "student"
        ):  # several students are told apart by colour, a teacher's samplers by dash
            colour, dash = (colour, *OTHER_COLOURS)[index % (1 + len(OTHER_COLOURS))], ""
        label = model if sampler == "-" else f"{model}, {sampler}"
        x, y, ends = zip(*sorted(points[model, sampler]), strict=True)
        band = ends if any(low < high for low, high in ends) else ()
        series.append(Series(label, x, y, colour, dash, bars=band))
    return series


def quality_chart(rows: list[Row], x_key: str, y_key: str, legend: bool = True) -> str:
    """SVG of metric `y_key` over "nfe" or "seconds_per_image"; "" where no row has both."""
    series = quality_series(rows, x_key, y_key)
    if not series:
        return ""
    metric, in_hole = split_metric(y_key)
    title = metric.name + (" (hole)" if in_hole else "")
    title += f", {metric.unit}" if metric.unit else ""
    title += ", higher is better" if metric.higher_is_better else ", lower is better"
    x_label = "network calls per image" if x_key == "nfe" else "seconds per image"
    # A ratio scale only for positive distances; PSNR is a logarithm already.
    y_span = _outliers_cut(series, metric.higher_is_better)
    y_log = not metric.higher_is_better and _spread(series) > 12 and y_span is None
    log = dict(x_log=True, y_log=y_log)
    return chart(series, title, x_label, legend=legend, y_span=y_span, **log)


def has_outliers(rows: list[Row], y_key: str) -> bool:
    """Whether the chart of metric `y_key` over "nfe" has points that lie beyond its edge."""
    series = quality_series(rows, "nfe", y_key)
    return (
        bool(series) and _outliers_cut(series, split_metric(y_key)[0].higher_is_better) is not None
    )


def _outliers_cut(series: list[Series], higher_is_better: bool) -> tuple[float, float] | None:
    """(low, high) of a chart in which a few hopeless values would flatten all the others; else None.

    Hopeless is who is more than three times as far from the best as the first 85% of the values are.
    """
    sign = -1.0 if higher_is_better else 1.0
    values = sorted(sign * value for each in series for value in each.y)
    reach = values[0] + 3.0 * (values[math.ceil(0.85 * len(values)) - 1] - values[0])
    inside = [value for value in values if value <= reach]
    if len(values) < FEW_POINTS or len(inside) == len(values) or inside[-1] == values[0]:
        return None
    edge = inside[-1] + 0.1 * (inside[-1] - values[0])
    return (values[0], edge) if sign > 0 else (-edge, -values[0])


def step_series(records: list[dict], key: str, colour: str) -> Series | None:
    """`key` over step from metrics.jsonl records; None where fewer than two values are finite.

    More than MAX_POINTS values are averaged in bins of equal length, with the bin's extremes as
    the band.
    """
    points = [
        (float(record["step"]), float(record[key]))
        for record in records
        if isinstance(record.get(key), (int, float)) and math.isfinite(record[key])
    ]
    if len(points) < 2:
        return None
    length = math.ceil(len(points) / MAX_POINTS)
    bins = [points[start : start + length] for start in range(0, len(points), length)]
    x = tuple(math.fsum(step for step, _ in each) / len(each) for each in bins)
    y = tuple(math.fsum(value for _, value in each) / len(each) for each in bins)
    band = tuple((min(v for _, v in each), max(v for _, v in each)) for each in bins)
    return Series(key, x, y, colour, dots=False, band=band if length > 1 else ())


def step_chart(records: list[dict], key: str, stage: str = "train", x_label: str = "step") -> str:
    """SVG of one logged value over step, with a smoothed line over it; "" where there is none."""
    series = step_series(
        records, key, COLOURS["student" if stage.startswith("distill") else "teacher"]
    )
    if series is None:
        return ""
    y_log = _spread([series]) > 20
    window = len(series.y) // 40
    if window < 1:
        return chart([series], key.replace("_", " "), x_label, y_log=y_log, legend=False)
    faint = replace(series, faint=True)
    smooth = replace(series, y=_smooth(series.y, window), band=())
    return chart([faint, smooth], key.replace("_", " "), x_label, y_log=y_log, legend=False)


def chart(
    series: list[Series],
    title: str,
    x_label: str,
    *,
    x_log: bool = False,
    y_log: bool = False,
    legend: bool = True,
    y_span: tuple[float, float] | None = None,
) -> str:
    """An SVG chart of `series`: axes, ticks, a legend, and a hover title at every point.

    Points outside `y_span`, if given, are triangles on the chart's edge, which point to where they are.
    Log axes need positive values; ValueError otherwise.
    """
    rows = math.ceil(len(series) / 2) if legend and len(series) > 1 else 0
    top, height = TOP + 17 * rows, HEIGHT + 17 * rows
    xs = [value for each in series for value in each.x]
    ys = [value for each in series for value in each.y]
    ys += [value for each in series for pair in each.band for value in pair]
    ys += [v for each in series for pair in each.bars for v in pair if v > 0 or not y_log]
    if not xs:
        raise ValueError("a chart needs at least one point.")
    if (x_log and min(xs) <= 0) or (y_log and min(ys) <= 0):
        raise ValueError("a logarithmic axis needs positive values.")
    x_ticks, x_of = _axis(min(xs), max(xs), x_log, LEFT + 10, WIDTH - RIGHT - 10, 6)
    low, high = y_span or (min(ys), max(ys))
    ends = (height - BOTTOM - 6, top + 6)
    y_ticks, y_free = _axis(low, high, y_log, *ends, 5)

    def y_of(value: float) -> float:
        return y_free(value) if low <= value <= high else ends[value > high]

    label = html.escape(f"{title} over {x_label}")
    out = [
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{label}" '
        f'style="font:12px system-ui,sans-serif" fill="{INK}">',
        f'<text x="{LEFT}" y="16" style="font-weight:600;fill:var(--ink, #374151)">'
        f"{html.escape(title)}</text>",
    ]
    for index, each in enumerate(series if rows else ()):
        x, y = LEFT + (index % 2) * 195, 34 + 17 * (index // 2)
        out.append(_stroke(f"M{x} {y - 4}h22", each) + f'<circle cx="{x + 11}" cy="{y - 4}" r="3" ')
        out[-1] += f'style="fill:{each.colour}"/><text x="{x + 28}" y="{y}">'
        out[-1] += f"{html.escape(each.label)}</text>"
    base = height - BOTTOM
    for value, text in y_ticks:
        y = y_free(value)
        out.append(f'<path d="M{LEFT} {_r(y)}H{WIDTH - RIGHT}" style="stroke:{GRID}"/>')
        out.append(f'<text x="{LEFT - 7}" y="{_r(y + 4)}" text-anchor="end">{text}</text>')
    out.append(f'<path d="M{LEFT} {base}H{WIDTH - RIGHT}" style="stroke:{FAINT}"/>')
    for value, text in x_ticks:
        x = _r(x_of(value))
        out.append(f'<path d="M{x} {base}v5" style="stroke:{FAINT}"/>')
        out.append(f'<text x="{x}" y="{base + 18}" text-anchor="middle">{text}</text>')
    out.append(f'<text x="{WIDTH - RIGHT}" y="{height - 5}" text-anchor="end">')
    out[-1] += f"{html.escape(x_label)}</text>"
    for each in series:
        out += _draw(each, x_of, y_of, x_label, (top, base), (low, high))
    return "\n".join([*out, "</svg>"])


def legend(series: list[Series]) -> str:
    """The legend of charts drawn without one, as HTML that wraps with the page."""
    items = []
    for each in series:
        sample = _stroke("M0 6h26", each)
        sample += f'<circle cx="13" cy="6" r="3.5" style="fill:{each.colour}"/>'
        items.append(
            f'<span><svg width="26" height="12" aria-hidden="true">{sample}</svg> '
            f"{html.escape(each.label)}</span>"
        )
    return f'<p class="legend">{"".join(items)}</p>'


def save_svg(path: str | os.PathLike, svg: str) -> Path:
    """Write a chart as a file of its own (for a README), atomically; the path."""
    svg = svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    return write_atomic(path, svg.encode())


def _draw(series: Series, x_of, y_of, x_label: str, span, limits) -> list[str]:
    """`span`: pixels of the chart's top and base; `limits`: values of its lowest and highest point."""
    points = [(x_of(x), y_of(y)) for x, y in zip(series.x, series.y, strict=True)]
    out = []
    if series.band:
        edge = [(x, y_of(high)) for (x, _), (_, high) in zip(points, series.band, strict=True)]
        edge += [(x, y_of(low)) for (x, _), (low, _) in zip(points, series.band, strict=True)][::-1]
        out.append(f'<path d="{_path(edge)}Z" style="fill:{series.colour};opacity:.13"/>')
    out.append(_stroke(_path(points), series))
    if series.faint:
        return out
    for (x, _), y, ends in zip(points, series.y, series.bars):
        if limits[0] <= y <= limits[1]:
            low, high = (y_of(min(max(end, limits[0]), limits[1])) for end in ends)
            bar = f"M{_r(x - 3)} {_r(high)}h6M{_r(x - 3)} {_r(low)}h6M{_r(x)} {_r(high)}V{_r(low)}"
            out.append(f'<path d="{bar}" style="fill:none;stroke:{series.colour};opacity:.6"/>')
    for index, (x, y) in enumerate(points):
        text = f"{series.label}: {series.y[index]:.4g} at {series.x[index]:.4g} {x_label}"
        if series.bars:
            text += " (95% interval {:.4g} to {:.4g})".format(*series.bars[index])
        if not series.dots:
            text = f"{x_label} {series.x[index]:.0f}: {series.y[index]:.4g}"
        hover = f"<title>{html.escape(text)}</title>"
        if series.dots:
            dot = f'<circle cx="{_r(x)}" cy="{_r(y)}"'
            if limits[0] <= series.y[index] <= limits[1]:
                out.append(f'{dot} r="4" style="fill:{series.colour}"/>')
            else:
                tip = 6 if series.y[index] < limits[0] else -6
                shape = f"M{_r(x - 6)} {_r(y - tip / 2)}h12l-6 {2 * tip}z"
                out.append(f'<path d="{shape}" style="fill:{series.colour}"/>')
            out.append(f'{dot} r="10" fill="transparent">{hover}</circle>')
        else:  # a full-height strip is easier to hit than a point of a dense line
            width = max(1.0, (points[-1][0] - points[0][0]) / max(1, len(points) - 1))
            out.append(
                f'<rect x="{_r(x - width / 2)}" y="{_r(span[0])}" width="{_r(width)}" '
                f'height="{_r(span[1] - span[0])}" fill="transparent">{hover}</rect>'
            )
    return out


def _stroke(path: str, series: Series) -> str:
    style = f"fill:none;stroke:{series.colour};stroke-linejoin:round;"
    if series.faint:
        style += "opacity:.35;stroke-width:1"
    else:
        style += f"stroke-width:2;stroke-dasharray:{series.dash or 'none'}"
    return f'<path d="{path}" style="{style}"/>'


def _path(points: list[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{_r(x)} {_r(y)}" for x, y in points)


def _axis(low: float, high: float, log: bool, start: float, end: float, count: int):
    """Ticks [(value, text)] and the map from value to pixel, for data in [low, high]."""
    if log:
        low, high = (low, high) if high > low * (1 + 1e-9) else (low / 2, high * 2)
        ticks, digits, position = _log_ticks(low, high), None, math.log10
    else:
        size = max(abs(low), abs(high))
        if high - low <= 1e-9 * size:  # a constant: give it room, or the step would be zero
            low, high = low - (size * 0.1 or 1.0), high + (size * 0.1 or 1.0)
        step = _nice_step((high - low) / count)
        # The axis ends on a tick, unless that would leave most of an end cell empty.
        floor, ceil = math.floor(low / step), math.ceil(high / step)
        low = floor * step if low - floor * step < 0.6 * step else low
        high = ceil * step if ceil * step - high < 0.6 * step else high
        indices = range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
        ticks, position = [index * step for index in indices], float
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
    first, last = position(low), position(high)

    def pixel(value: float) -> float:
        return start + (position(value) - first) / (last - first) * (end - start)

    shown = []  # ticks too close to the one before would print over it
    for value in ticks:
        if not shown or abs(pixel(value) - pixel(shown[-1])) > abs(end - start) / (1.25 * count):
            shown.append(value)
    return [(value, _tick_text(value, digits)) for value in shown], pixel


def _log_ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for parts in ((1,), (1, 3), (1, 2, 5), range(1, 10)):
        ticks = [part * 10.0**decade for decade in decades for part in parts]
        ticks = [tick for tick in ticks if low * 0.999 <= tick <= high * 1.001]
        if len(ticks) >= 3:
            break
    return ticks if len(ticks) > 1 else [low, high]


def _nice_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(part * power for part in (1, 2, 5, 10) if part * power >= rough * 0.999)


def _tick_text(value: float, digits: int | None) -> str:
    """A tick's label; `digits` are the decimals all ticks of a linear axis share."""
    small = abs(value) < 1e-4 if digits is None else digits > 4
    if value and (abs(value) >= 1e5 or small):
        mantissa, exponent = f"{value:.2e}".split("e")
        text = f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    elif value == 0:
        text = "0" if digits is None or digits > 4 else f"{0:.{digits}f}"
    else:
        text = f"{value:,.3g}" if digits is None else f"{value:,.{digits}f}"
    return text.replace("-", "−")


def _spread(series: list[Series]) -> float:
    values = [value for each in series for value in each.y]
    values += [value for each in series for pair in each.band for value in pair]
    return max(values) / min(values) if min(values) > 0 else 0.0


def _smooth(values: tuple[float, ...], window: int) -> tuple[float, ...]:
    """Centred moving average over 2 * window + 1 values, shorter at the ends."""
    out = []
    for index in range(len(values)):
        part = values[max(0, index - window) : index + window + 1]
        out.append(math.fsum(part) / len(part))
    return tuple(out)


def _r(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
