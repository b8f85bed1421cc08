"""report.html: one self-contained page of a run's results, pictures, curves and settings."""

import base64
import html
import json
import os
import struct
from pathlib import Path
from typing import TypeGuard

from jax_bridges.io.atomic import write_atomic
from jax_bridges.io.bucket import place
from jax_bridges.report import curves
from jax_bridges.report.headline import headline
from jax_bridges.report.html_tables import (
    differences_table,
    missing,
    results_table,
    seed_links,
)
from jax_bridges.report.page import SCRIPT, STYLE
from jax_bridges.report.results import read_metrics, read_results
from jax_bridges.report.row import HOLE, Row
from jax_bridges.report.table import sort_rows

# Nothing may be fetched: the browser itself holds the page to being self-contained.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
_PNG = b"\x89PNG\r\n\x1a\n"
_SMALL = 256  # pixels; images up to this wide are enlarged with sharp pixels
_STAGES = ("train", "distill")
_LOOKS = ("validation", "test")  # at held-out images while a stage trains (stages/held_out.py)
_ROUNDS = {
    "em": "While it learnt. validation psnr: of numbers of y that were measured and kept hidden, in dB; "
    "misfit: root mean square of A x - y over what was measured, which should be the noise's; spread: "
    "standard deviation of the samples, which should stay.",
    "em_test": "On held-out images.",
}
# What a stage's losses mean, where they are not what one expects: by a key that only it logs.
_LOSSES = {
    "bridge_loss": "loss: how much worse the teacher predicts the student's images than the bridge net "
    "does; near 0 where both are alike. bridge loss: the bridge net's own error, which cannot fall below "
    "the spread of the student's answers.",
}
escape = html.escape


def build_report(workdir: str | os.PathLike) -> Path:
    """Write `workdir`/report.html from what the run has left so far; its path.

    Reads config.json, metrics.jsonl, results.json and the PNGs they name (design.md 5). What is
    missing or unreadable is said in the report and is no error, so a run that only trained, or was
    killed, has a report too. Raises FileNotFoundError where `workdir` is no directory.
    """
    workdir = place(workdir)
    if not workdir.is_dir():
        raise FileNotFoundError(f"{workdir} is no directory: give the WORKDIR of a run.")
    results, problem = _load(workdir / "results.json", read_results)
    config, config_problem = _load(workdir / "config.json", _read_config)
    stages, skipped = {}, 0
    if (workdir / "metrics.jsonl").is_file():
        stages, skipped = read_metrics(workdir / "metrics.jsonl")
    title = results["title"] if results else f"Run {workdir.resolve().name}"
    body = [_top(title, results)]
    if results:
        rows = sort_rows(results["rows"])
        body += [results_table(rows, results["measured"]), differences_table(results)]
        body += [seed_links(results.get("seeds", [])), _quality(rows)]
        body += [_comparisons(workdir, results.get("comparisons", []))]
        body += [_pictures(workdir, results.get("pictures", []))]
    else:
        body.append(missing(problem or "No results yet: the evaluate stage has not finished."))
    if not (results and results.get("seeds")):
        body.append(_rounds(stages))
        body.append(_training(workdir, stages, skipped))
    if results:
        body.append(_measured(results["measured"]))
    body.append(_config(config, config_problem))
    page = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in body if part)
        + f"\n</main>\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )
    return write_atomic(workdir / "report.html", page.encode("utf-8", "backslashreplace"))


def _top(title: str, results: dict | None) -> str:
    if results is None:
        return f'<header><p class="kicker">jax_bridges</p><h1>{escape(title)}</h1></header>'
    measured = results["measured"]
    facts = [
        f"{measured['images']:,} images of {_size(measured['size'])}",
        measured["date"].replace("T", " ")[:16],
        measured["machine"],
    ]
    return (
        f'<header><p class="kicker">{escape(results["task"])} · {escape(results["dataset"])}</p>\n'
        f"<h1>{escape(title)}</h1>\n"
        f'<p class="headline">{escape(headline(results["rows"], results["differences"]))}</p>\n'
        f'<p class="facts">{escape(" · ".join(facts))}</p></header>'
    )


def _quality(rows: list[Row]) -> str:
    own = [row.metrics for row in rows if not row.published]
    present = {key for each in own for key, value in each.items() if value is not None}
    # Distances and a distortion tell the two sides of one story; more charts would hide it.
    shown = [
        next((key for key in (name + HOLE, name) if key in present), None)
        for name in ("fid", "fd_lite0", "lpips", "psnr")
    ]
    shown = [key for key in shown if key]
    charts = [
        curves.quality_chart(rows, cost, key, legend=False)
        for key in shown
        for cost in ("nfe", "seconds_per_image")
    ]
    if not any(charts):
        return ""
    beyond = any(curves.has_outliers(rows, key) for key in shown)
    series = {each.label: each for key in shown for each in curves.quality_series(rows, "nfe", key)}
    return (
        "<h2>Quality against cost</h2>\n"
        + curves.legend(list(series.values()))
        + f'\n<div class="charts">{_figures(charts)}</div>'
        + ('<p class="note">Triangles: values far beyond the edge, see the table.</p>' * beyond)
    )


def _comparisons(workdir: Path, comparisons: list[dict]) -> str:
    picker, strips, problems = [], [], []
    for item in comparisons:
        figures = []
        for name, path in item["images"].items():
            image = _image(workdir, path, f"{item['label']}: {name}", name)
            if image is None:
                problems.append(path)
            else:
                figures.append(f"<figure>{image}<figcaption>{escape(name)}</figcaption></figure>")
        if figures:
            radio = f'<input type="radio" name="comparison"{"" if strips else " checked"}>'
            picker.append(f"<label>{radio}{escape(item['label'])}</label>")
            strips.append(f'<div class="strip">{"".join(figures)}</div>')
    if not strips:
        return _lost(problems)
    return f"""<h2>Compare</h2>
<p class="note">Drag across the picture, or use the arrow keys, to wipe from one version to the
other.</p>
<div id="compare">
<fieldset class="picker" data-script hidden aria-label="Image">{"".join(picker)}</fieldset>
<div class="compare">
<div data-script hidden>
<div class="stage"><img data-role="back" alt=""><img data-role="front" alt=""><i></i>
<span class="left"></span><span class="right"></span>
<input type="range" min="0" max="100" value="50" aria-label="Share of the left version"></div>
<p class="controls"><label>Left <select></select></label>
<label>Right <select></select></label></p>
</div>
<div>{"".join(strips)}</div>
</div>
</div>
{_lost(problems)}"""


def _pictures(workdir: Path, paths: list[str], heading: str = "<h2>Pictures</h2>") -> str:
    figures, problems = [], []
    for path in paths:
        image = _image(workdir, path, Path(path).stem)
        if image is None:
            problems.append(path)
        else:
            caption = f"<figcaption>{escape(path)}</figcaption>"
            figures.append(f'<figure class="picture">{image}{caption}</figure>')
    if not figures:
        return _lost(problems)
    return "\n".join([heading, *figures, _lost(problems)])


def _rounds(stages: dict[str, list[dict]]) -> str:
    """What a run in rounds found, over their number; taken out of `stages`."""
    out = []
    for stage, note in _ROUNDS.items():
        records = stages.pop(stage, [])
        keys = [
            k for k in dict.fromkeys(k for r in records for k in r) if k not in ("step", "stage")
        ]
        charts = [curves.step_chart(records, key, stage, x_label="round") for key in keys]
        if any(charts):
            out.append(f'<p class="note">{escape(note)}</p>')
            out.append(f'<div class="charts">{_figures([c for c in charts if c])}</div>')
    return "\n".join(["<h2>Rounds</h2>", *out]) if out else ""


def _training(workdir: Path, stages: dict[str, list[dict]], skipped: int) -> str:
    out = ["<h2>Training</h2>"]
    if not stages:
        out.append(missing("metrics.jsonl holds no steps: nothing was trained in this directory."))
    for stage in sorted(stages, key=lambda name: (name not in _STAGES, name != "train")):
        records = stages[stage]
        keys = [key for key in dict.fromkeys(k for r in records for k in r) if key != "step"]
        looks = [key for key in keys if key.split("_")[0] in _LOOKS and not key.endswith("seconds")]
        losses = [key for key in keys if key.endswith("loss") and key not in looks]
        others = [key for key in keys if key not in (*looks, *losses, "seconds")]
        facts = f"{records[-1]['step']:,} steps"
        speeds = sorted(filter(_is_number, (each.get("images_per_second") for each in records)))
        if speeds:
            facts += f", median {speeds[len(speeds) // 2]:,.4g} images/s"
        out.append(f'<h3>{escape(stage)} <span class="facts">{facts}</span></h3>')
        main = [curves.step_chart(records, key, stage) for key in losses]
        more = [curves.step_chart(records, key, stage) for key in others]
        if any(main):
            out.append(f'<div class="charts">{_figures(main)}</div>')
            notes = [note for key, note in _LOSSES.items() if key in keys]
            out += [f'<p class="note">{escape(note)}</p>' for note in notes]
        else:
            out.append(missing("Too few steps for a loss curve."))
        held_out = [curves.step_chart(records, key, stage) for key in looks]
        if any(held_out):
            out.append(f'<h4>Held-out images</h4><div class="charts">{_figures(held_out)}</div>')
        if any(more):
            out.append(
                "<details><summary>Speed, gradients and more</summary>"
                f'<div class="charts">{_figures(more)}</div></details>'
            )
        newest = [
            _newest(workdir, name) for name in (stage, *(f"{look}-{stage}" for look in _LOOKS))
        ]
        if any(newest):
            out.append("<details><summary>Pictures of the stage</summary>")
            out.append(_pictures(workdir, [path for path in newest if path], ""))
            out.append("</details>")
    if skipped:
        lines = "1 unreadable line" if skipped == 1 else f"{skipped} unreadable lines"
        out.append(f'<p class="note">Left out of metrics.jsonl: {lines}.</p>')
    return "\n".join(out)


def _newest(workdir: Path, name: str) -> str | None:
    """samples/NAME-STEP.png of the highest step, which is not the last in alphabetical order."""
    names = [path.name for path in workdir.glob(f"samples/{_plain(name)}-*.png")]
    return f"samples/{max(names, key=lambda each: (len(each), each))}" if names else None


def _measured(measured: dict) -> str:
    items = {
        "Command": f"<code>{escape(measured['command'])}</code>",
        "Images": f"{measured['images']:,} of {_size(measured['size'])} pixels",
        "Hole metrics": escape(measured.get("region", "")),
        "Machine": escape(measured["machine"]),
        "Date": escape(measured["date"]),
        "Versions": escape(
            ", ".join(f"{name} {version}" for name, version in measured.get("versions", {}).items())
        ),
    }
    # The settings are there for the next start, and below in the configuration for people.
    known = ("command", "images", "size", "region", "machine", "date", "versions", "settings")
    for key, value in measured.items():
        if key not in known:
            items[escape(key.replace("_", " ").capitalize())] = escape(_value(value))
    lines = "".join(f"<dt>{name}</dt><dd>{text}</dd>\n" for name, text in items.items() if text)
    return f"<h2>How it was measured</h2>\n<dl>\n{lines}</dl>"


def _config(config: dict | None, problem: str | None) -> str:
    if config is None:
        return "<h2>Configuration</h2>\n" + missing(problem or "There is no config.json.")
    groups: dict[str, list[tuple[str, str]]] = {}
    for key, value in _flatten(config):
        groups.setdefault(key.split(".")[0] if "." in key else "", []).append((key, value))
    tables = ""
    for group in groups.values():
        lines = [
            f"<tr><td>{escape(key)}</td><td><code>{escape(value)}</code></td></tr>"
            for key, value in group
        ]
        tables += f"<table>{''.join(lines)}</table>\n"
    return (
        "<h2>Configuration</h2>\n<details><summary>All settings, as resolved; change one with "
        "<code>--config.KEY=VALUE</code></summary>\n"
        f'<div class="config">{tables}</div></details>'
    )


def _image(workdir: Path, path: str, alt: str, name: str = "") -> str | None:
    """An <img> with the PNG inside it; None where the file is missing or no PNG."""
    try:
        data = (workdir / path).read_bytes()
    except OSError:
        return None
    if not data.startswith(_PNG) or len(data) < 24:
        return None
    width, height = struct.unpack(">II", data[16:24])
    text = base64.b64encode(data).decode()
    attributes = f' data-name="{escape(name)}"' if name else ""
    attributes += ' class="small"' if width <= _SMALL and name else ""
    return (
        f'<img width="{width}" height="{height}" alt="{escape(alt)}"{attributes} '
        f'src="data:image/png;base64,{text}">'
    )


def _load(path: Path, read):
    """(content, None), or (None, what is wrong); a file that is not there is not wrong."""
    try:
        return (read(path), None) if path.is_file() else (None, None)
    except (OSError, ValueError) as error:
        return None, f"{path.name} could not be used: {error}"


def _read_config(path: Path) -> dict:
    config = json.loads(path.read_text(encoding="utf-8-sig"))
    if not isinstance(config, dict):
        raise ValueError("it must hold a JSON object")
    config.pop("format", None)  # of the file, not of the run
    return config


def _flatten(config: dict, prefix: str = ""):
    for key, value in config.items():
        if isinstance(value, dict) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _value(value)


def _value(value) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _figures(charts: list[str]) -> str:
    return "\n".join(f"<figure>{chart}</figure>" for chart in charts if chart)


def _lost(paths: list[str]) -> str:
    return missing(f"Missing or not a PNG: {', '.join(paths)}.") if paths else ""


def _size(size: list[int]) -> str:
    return f"{size[0]}x{size[1]}"


def _plain(name: str) -> str:
    """A stage's name as part of a file pattern."""
    return "".join(letter if letter.isalnum() or letter in "_-" else "?" for letter in name)


def _is_number(value) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and value == value
