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
    rows                   list of what `Row.plain` gives (row.py)
    values                 str, optional: .npz file beside it, of single images (differences.py)
    differences            list of what `Difference.plain` gives, optional: students against teachers
    seeds                  list of {"seed": int, "folder": str}, optional: runs whose means the rows are
    pictures               list of PNG paths relative to the work directory, optional
    comparisons            list of {"label": str, "images": {name: PNG path}}, optional; every PNG
                           is embedded in the report, so about a dozen of them is plenty

In memory `rows` are `Row`s, and `differences` `Difference`s.
A metric that was not measured, or was not finite, is null or absent, never NaN.
"""

import datetime
import json
import math
import os
from pathlib import Path, PurePosixPath
from typing import Any

from jax_bridges.io.atomic import write_atomic
from jax_bridges.io.bucket import place
from jax_bridges.report.differences import Difference, Measured, read_values
from jax_bridges.report.row import ABOUT, Row, is_count, is_number, need


def write_results(path: str | os.PathLike, results: dict) -> Path:
    """Check `results`, as in memory, against the module's schema and write it as JSON, atomically.

    Raises ValueError, in one sentence, where the schema is not met; nothing is written then.
    """
    results = {**results, "rows": [row.plain() for row in results["rows"]]}
    if "differences" in results:
        results["differences"] = [each.plain() for each in results["differences"]]
    check_results(results)
    text = json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False)
    return write_atomic(path, (text + "\n").encode("utf-8", "backslashreplace"))


def read_results(path: str | os.PathLike) -> dict:
    """Read and check a results.json; its rows are `Row`s, its differences, perhaps none, `Difference`s.

    Raises FileNotFoundError where there is none, ValueError where it is not JSON or breaks the
    schema; both name the file.
    """
    path = place(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: run the evaluate stage to make it.")
    try:
        results = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}): run the evaluate stage again.") from None
    try:
        rows, differences = check_results(results)
    except ValueError as error:  # of several files the one that is meant
        raise ValueError(f"{path}: {str(error).removeprefix(ABOUT)}") from None
    return {**results, "rows": rows, "differences": differences}


def read_measured(workdir: str | os.PathLike) -> Measured:
    """The rows of a run, of one seed or of several, and what was measured of single images.

    Raises what `read_results` raises.
    """
    workdir = place(workdir)
    seeds = read_results(workdir / "results.json").get("seeds", [])
    folders = [workdir / each["folder"] for each in seeds] or [workdir]
    rows = [read_results(folder / "results.json")["rows"] for folder in folders]
    return Measured(list(zip(rows, map(read_values, folders), strict=True)))


def check_results(results: dict) -> tuple[list[Row], list[Difference]]:
    """The rows and the differences of an object as results.json holds it.

    Raises ValueError, in one sentence, unless it follows the module's schema.
    """
    need(isinstance(results, dict), "results must be an object with title, measured and rows")
    for key in ("title", "task", "dataset"):
        need(isinstance(results.get(key), str), f'results["{key}"] must be text')
    _check_measured(results.get("measured"))
    rows: Any = results.get("rows")
    need(isinstance(rows, list), 'results["rows"] must be a list, one row a (model, sampler, nfe)')
    rows = [Row.read(row, f"rows[{index}]") for index, row in enumerate(rows)]
    differences = results.get("differences", [])
    need(isinstance(differences, list), 'results["differences"] must be a list')
    differences = [Difference.read(d, f"differences[{i}]") for i, d in enumerate(differences)]
    for each in differences:
        need(
            max(each.row, each.to) < len(rows) and min(each.row, each.to) >= 0,
            "a difference must be of two rows",
        )
    seeds = results.get("seeds", [])
    need(
        isinstance(seeds, list)
        and all(isinstance(s, dict) and {"seed", "folder"} <= set(s) for s in seeds),
        'results["seeds"] must be a list of {"seed": number, "folder": path}',
    )
    _check_paths("seeds", [each["folder"] for each in seeds])
    _check_paths("pictures", results.get("pictures", []))
    comparisons = results.get("comparisons", [])
    need(isinstance(comparisons, list), 'results["comparisons"] must be a list')
    for index, item in enumerate(comparisons):
        where = f"comparisons[{index}]"
        need(
            isinstance(item, dict)
            and isinstance(item.get("label"), str)
            and isinstance(item.get("images"), dict),
            f'{where} must be {{"label": text, "images": {{name: path}}}}',
        )
        _check_paths(where, list(item["images"].values()))
    return rows, differences


def read_metrics(path: str | os.PathLike) -> tuple[dict[str, list[dict]], int]:
    """Read a metrics.jsonl whatever a killed run left in it.

    Returns ({stage: records in order of step}, number of unreadable lines). A line cut short by a
    kill is skipped. A run that went on from a checkpoint repeats steps: what it wrote last counts.
    """
    stages: dict[str, list[dict]] = {}
    skipped = 0
    with place(path).open(encoding="utf-8-sig", errors="replace") as file:
        for line in file:
            if not line.strip():
                continue
            try:
                record = json.loads(line)
                stage, step = record["stage"], record["step"]
                if not isinstance(stage, str) or not is_number(step) or not math.isfinite(step):
                    raise TypeError
            except (ValueError, TypeError, KeyError, RecursionError):
                skipped += 1
                continue
            records = stages.setdefault(stage, [])
            while records and records[-1]["step"] >= step:
                records.pop()
            records.append(record)
    return stages, skipped


def _check_measured(measured) -> None:
    need(isinstance(measured, dict), 'results["measured"] must say how the rows were measured')
    for key in ("command", "machine", "date"):
        need(isinstance(measured.get(key), str), f'measured["{key}"] must be text')
    try:
        datetime.datetime.fromisoformat(measured["date"])
    except ValueError:
        raise ValueError(
            f'{ABOUT}measured["date"] must be ISO 8601 such as 2026-11-21T05:28:00, '
            f"not {measured['date']!r}."
        ) from None
    need(is_count(measured.get("images")), 'measured["images"] must be a number of images')
    size = measured.get("size")
    need(
        isinstance(size, (list, tuple)) and len(size) == 2 and all(map(is_count, size)),
        'measured["size"] must be [height, width] in pixels',
    )
    need(isinstance(measured.get("versions", {}), dict), 'measured["versions"] must be an object')
    need(isinstance(measured.get("region", ""), str), 'measured["region"] must be text')


def _check_paths(where: str, paths) -> None:
    need(isinstance(paths, (list, tuple)), f"{where} must be a list of PNG paths")
    for path in paths:
        need(
            isinstance(path, str)
            and path != ""
            and not PurePosixPath(path).is_absolute()
            and ".." not in PurePosixPath(path).parts,
            f"{where}: {path!r} must be a path inside the work directory",
        )
