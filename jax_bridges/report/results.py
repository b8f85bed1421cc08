"""results.json and metrics.jsonl: what they hold, and how they are checked, written and read.

results.json is one object:

    title, task, dataset   str
    measured               how the rows were measured
        images             int, images behind a row
        size               [H, W] in pixels
        command, machine   str
        date               str, ISO 8601
        versions           {package: version}, optional
        region             str, optional: what `_hole` metrics look at, "hole 16x16 + margin 2"
        (any further text or number is shown in the report as it is)
    rows                   list of
        model              str: "source", "teacher", "student", or another name
        sampler            str, "-" where there is none
        task               str, optional: rows of different tasks do not compete (zero-shot: `model` too)
        nfe                int, network calls an image (published rows: text allowed, or absent)
        images             int
        seconds_per_image  float, optional
        METRIC             float, optional: a key of METRICS, whole image
        METRIC_hole        float, optional: the same inside the missing region
        intervals          {METRIC: [low, high]}, optional: of 95%
        source             optional: "measured" (default) or "published"
        reference          str, optional: where a published number comes from
        same_protocol      bool, of published rows: measured as ours were, with as many images
        same_data          bool, of published rows: on the data that ours were measured on
    values                 str, optional: .npz file beside it, "ROW/METRIC" -> one value an image, [N]
    pictures               list of PNG paths relative to the work directory, optional
    comparisons            list of {"label": str, "images": {name: PNG path}}, optional; every PNG
                           is embedded in the report, so about a dozen of them is plenty

A metric that was not measured, or was not finite, is null or absent, never NaN.
"""

import datetime
import json
import math
import os
from pathlib import Path, PurePosixPath

from jax_bridges.io.atomic import write_atomic
from jax_bridges.metrics import METRICS, Metric

HOLE = "_hole"  # suffix of a metric taken inside the missing region only

_ROW_WORDS = (
    *("model", "sampler", "task", "nfe", "images", "seconds_per_image", "source", "reference"),
    *("intervals", "same_protocol", "same_data"),
)


def write_results(path: str | os.PathLike, results: dict) -> Path:
    """Check `results` against the module's schema and write it as JSON, atomically.

    Metrics and times that are not finite are stored as null. Raises ValueError, in one sentence,
    where the schema is not met; nothing is written then.
    """
    results = dict(results)
    if isinstance(results.get("rows"), (list, tuple)):
        rows = results["rows"]
        results["rows"] = [_finite(row) if isinstance(row, dict) else row for row in rows]
    check_results(results)
    text = json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False)
    return write_atomic(path, (text + "\n").encode("utf-8", "backslashreplace"))


def read_results(path: str | os.PathLike) -> dict:
    """Read and check a results.json.

    Raises FileNotFoundError where there is none, ValueError where it is not JSON or breaks the
    schema.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: run the evaluate stage to make it.")
    try:
        results = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}): run the evaluate stage again.") from None
    check_results(results)
    return results


def check_results(results: dict) -> None:
    """Raise ValueError, in one sentence, unless `results` follows the module's schema."""
    _need(isinstance(results, dict), "results must be an object with title, measured and rows")
    for key in ("title", "task", "dataset"):
        _need(isinstance(results.get(key), str), f'results["{key}"] must be text')
    _check_measured(results.get("measured"))
    rows = results.get("rows")
    _need(isinstance(rows, list), 'results["rows"] must be a list, one row a (model, sampler, nfe)')
    for index, row in enumerate(rows):
        _check_row(f"rows[{index}]", row)
    _check_paths("pictures", results.get("pictures", []))
    comparisons = results.get("comparisons", [])
    _need(isinstance(comparisons, list), 'results["comparisons"] must be a list')
    for index, item in enumerate(comparisons):
        where = f"comparisons[{index}]"
        _need(
            isinstance(item, dict)
            and isinstance(item.get("label"), str)
            and isinstance(item.get("images"), dict),
            f'{where} must be {{"label": text, "images": {{name: path}}}}',
        )
        _check_paths(where, list(item["images"].values()))


def read_metrics(path: str | os.PathLike) -> tuple[dict[str, list[dict]], int]:
    """Read a metrics.jsonl whatever a killed run left in it.

    Returns ({stage: records in order of step}, number of unreadable lines). A line cut short by a
    kill is skipped. A run that went on from a checkpoint repeats steps: what it wrote last counts.
    """
    stages: dict[str, list[dict]] = {}
    skipped = 0
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        for line in file:
            if not line.strip():
                continue
            try:
                record = json.loads(line)
                stage, step = record["stage"], record["step"]
                if not isinstance(stage, str) or not _is_number(step) or not math.isfinite(step):
                    raise TypeError
            except (ValueError, TypeError, KeyError, RecursionError):
                skipped += 1
                continue
            records = stages.setdefault(stage, [])
            while records and records[-1]["step"] >= step:
                records.pop()
            records.append(record)
    return stages, skipped


def split_metric(key: str) -> tuple[Metric, bool] | None:
    """`"psnr_hole"` -> (the PSNR metric, True); None where the key is no metric."""
    name = key.removesuffix(HOLE)
    return (METRICS[name], name != key) if name in METRICS else None


def _check_measured(measured) -> None:
    _need(isinstance(measured, dict), 'results["measured"] must say how the rows were measured')
    for key in ("command", "machine", "date"):
        _need(isinstance(measured.get(key), str), f'measured["{key}"] must be text')
    try:
        datetime.datetime.fromisoformat(measured["date"])
    except ValueError:
        raise ValueError(
            'results.json: measured["date"] must be ISO 8601 such as 2026-11-21T05:28:00, '
            f"not {measured['date']!r}."
        ) from None
    _need(_is_count(measured.get("images")), 'measured["images"] must be a number of images')
    size = measured.get("size")
    _need(
        isinstance(size, (list, tuple)) and len(size) == 2 and all(map(_is_count, size)),
        'measured["size"] must be [height, width] in pixels',
    )
    _need(isinstance(measured.get("versions", {}), dict), 'measured["versions"] must be an object')
    _need(isinstance(measured.get("region", ""), str), 'measured["region"] must be text')


def _check_row(where: str, row) -> None:
    _need(isinstance(row, dict), f"{where} must be an object")
    published = row.get("source", "measured") == "published"
    _need(
        published or row.get("source", "measured") == "measured",
        f'{where}["source"] must be "measured" or "published", not {row.get("source")!r}',
    )
    for key in ("model", "sampler"):
        value = row.get(key)
        _need(isinstance(value, str) and value != "", f'{where}["{key}"] must be text')
    _need(isinstance(row.get("task", ""), str), f'{where}["task"] must be text')
    if not published:
        nfe = row.get("nfe")
        _need(_is_count(nfe) or nfe == 0, f'{where}["nfe"] must be a whole number of network calls')
        _need(_is_count(row.get("images")), f'{where}["images"] must be a number of images')
    for key in ("same_protocol", "same_data"):
        _need(isinstance(row.get(key, False), bool), f'{where}["{key}"] must be true or false')
    intervals = row.get("intervals", {})
    _need(isinstance(intervals, dict), f'{where}["intervals"] must be {{metric: [low, high]}}')
    for key, pair in intervals.items():
        _need(
            split_metric(key) is not None
            and isinstance(pair, (list, tuple))
            and len(pair) == 2
            and all(_is_number(end) and math.isfinite(end) for end in pair),
            f'{where}["intervals"]["{key}"] must be [low, high] of a metric, not {pair!r}',
        )
    for key, value in row.items():
        if key in _ROW_WORDS and key != "seconds_per_image":
            continue
        _need(
            key == "seconds_per_image" or split_metric(key) is not None,
            f'{where} has an unknown key "{key}"; known metrics: {", ".join(METRICS)} '
            f"(each also with {HOLE}); a new one is a record of METRICS in metrics/metric.py",
        )
        _need(
            value is None or (_is_number(value) and math.isfinite(value)),
            f'{where}["{key}"] must be a finite number or null, not {value!r}',
        )


def _check_paths(where: str, paths) -> None:
    _need(isinstance(paths, (list, tuple)), f"{where} must be a list of PNG paths")
    for path in paths:
        _need(
            isinstance(path, str)
            and path != ""
            and not PurePosixPath(path).is_absolute()
            and ".." not in PurePosixPath(path).parts,
            f"{where}: {path!r} must be a path inside the work directory",
        )


def _finite(row: dict) -> dict:
    """The row with plain Python numbers, and null for values that are not finite."""
    plain = {key: value.item() if hasattr(value, "item") else value for key, value in row.items()}
    if isinstance(plain.get("intervals"), dict):
        plain["intervals"] = {
            key: [float(end) for end in pair]
            for key, pair in plain["intervals"].items()
            if all(map(math.isfinite, pair))
        }
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in plain.items()
    }


def _need(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(f"results.json: {message}.")


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_count(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
