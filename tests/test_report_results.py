"""report/: results.json, metrics.jsonl, tables and the headline."""

import dataclasses
import json
import math
import os
import re

import numpy as np
import pytest

from jax_bridges.io import atomic as files_module
from jax_bridges.report import (
    Row,
    format_table,
    headline,
    read_metrics,
    read_results,
    save_png,
    write_results,
)
from jax_bridges.report.differences import Difference
from jax_bridges.report.results import check_results
from jax_bridges.report.table import make_columns, sort_rows
from tests.support.reports import ROWS, colour, plain_results, read, results_of

# ---------------------------------------------------------------- results.json, metrics.jsonl


def test_results_round_trip_and_null_for_what_is_not_finite(tmp_path):
    (given,) = read(ROWS[:1])
    metrics = {**given.metrics, "psnr": math.inf, "ssim": math.nan, "fd_lite0": np.float32(0.5)}
    row = dataclasses.replace(given, metrics=metrics, intervals={"psnr": (0, math.inf)})
    path = write_results(tmp_path / "run" / "results.json", results_of() | {"rows": [row]})
    held = json.loads(path.read_text())["rows"][0]
    assert held == ROWS[0] | {"psnr": None, "ssim": None, "fd_lite0": 0.5}
    back = read_results(path)
    assert back["rows"] == read([held]) and back["measured"]["size"] == [64, 64]
    assert math.isinf(row.metrics["psnr"])  # the caller's row is not touched


def test_a_row_of_the_file_and_in_memory_are_inverse():
    published = dict(model="a", sampler="-", source="published", nfe=">=40", fid=4.9)
    published |= dict(reference="a paper", same_protocol=True, same_data=False)
    zero_shot = dict(model="sr4", task="sr4", sampler="ddnm", nfe=5, images=8, cons=None)
    zero_shot |= dict(intervals={"psnr": [1.5, 2.5]})
    for item in (*ROWS, published, zero_shot):
        assert Row.read(item).plain() == item
    assert [row.calls for row in read([published, ROWS[0]])] == [40, 1]


@pytest.mark.parametrize(
    "change, words",
    [
        ({"title": None}, 'results["title"] must be text'),
        ({"rows": {}}, 'results["rows"] must be a list'),
        ({"rows": [ROWS[0], {"model": "teacher"}]}, r'rows[1]["sampler"] must be text'),
        ({"rows": [ROWS[0] | {"nfe": 1.5}]}, r'rows[0]["nfe"] must be a whole number'),
        ({"rows": [ROWS[0] | {"images": 0}]}, r'rows[0]["images"] must be a number of images'),
        (
            {"rows": [ROWS[0] | {"psnrr": 1.0}]},
            'unknown key "psnrr"; known metrics: fd_lite0, psnr',
        ),
        ({"rows": [ROWS[0] | {"psnr": "31"}]}, r"""rows[0]["psnr"] must be a finite number"""),
        ({"rows": [ROWS[0] | {"source": "hearsay"}]}, "not 'hearsay'"),
        ({"rows": [ROWS[0] | {"intervals": {"psnr": [5, 1]}}]}, "the lower end first, not [5, 1]"),
        ({"rows": [ROWS[0] | {"behind": {"psnr": [5, 1]}}]}, "the lower end first, not [5, 1]"),
        ({"pictures": ["../secret.png"]}, "must be a path inside the work directory"),
        ({"comparisons": [{"label": "a", "images": {"x": "/etc/a.png"}}]}, "'/etc/a.png' must be"),
        ({"comparisons": [{"images": {}}]}, "comparisons[0] must be"),
        ({"measured": {}}, 'measured["command"] must be text'),
        ({"measured": results_of()["measured"] | {"date": "today"}}, "ISO 8601"),
        ({"measured": results_of()["measured"] | {"size": [64]}}, "[height, width]"),
    ],
)
def test_results_that_break_the_schema_are_refused_and_not_written(tmp_path, change, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        check_results(plain_results() | change)
    if "rows" in change:
        return
    path = write_results(tmp_path / "results.json", results_of())
    before = path.read_bytes()
    with pytest.raises(ValueError, match=re.escape(words)):
        write_results(path, results_of() | change)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["results.json"]


def test_read_results_says_what_is_wrong(tmp_path):
    with pytest.raises(FileNotFoundError, match="run the evaluate stage"):
        read_results(tmp_path / "results.json")
    (tmp_path / "results.json").write_text('{"title": "x", ')
    with pytest.raises(ValueError, match="is not JSON"):
        read_results(tmp_path / "results.json")
    path = tmp_path / "j5.json"
    path.write_text(json.dumps(plain_results() | {"rows": [{"model": 7}]}))
    with pytest.raises(ValueError, match=rf'^{path}: rows\[0\]\["model"\] must be text'):
        read_results(path)


def test_a_difference_whose_ends_are_reversed_is_refused():
    ends = dict(low=1.0, high=2.0, lower=1.1, upper=1.9)
    good = dict(row=0, to=1, metric="psnr", value=1.5, **ends)
    assert Difference.read(good, "d").low == 1.0
    for wrong in ({"low": 3.0}, {"lower": 3.0}, {"high": None}):
        with pytest.raises(ValueError, match="d: low.* must not be above"):
            Difference.read(good | wrong, "d")


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = save_png(tmp_path / "a.png", colour((1, 2, 3))[0])
    before = path.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(files_module.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        save_png(path, colour((9, 9, 9))[0])
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["a.png"]


def test_metrics_survive_a_kill_and_a_resume(tmp_path):
    lines = [
        json.dumps({"stage": "train", "step": step, "loss": 1 / step}) for step in (1, 2, 3, 4)
    ]
    lines += ['{"stage": "train", "st']  # killed here; resumed from the checkpoint of step 2
    lines += [json.dumps({"stage": "train", "step": 3, "loss": 30.0})]
    lines += [json.dumps({"stage": "distill", "step": 1, "generator_loss": 5.0}), "", "[1]", "\0\0"]
    path = tmp_path / "metrics.jsonl"
    path.write_bytes("\n".join(lines).encode() + b'\n{"stage": "distill", "step": 2, "x": "\xc3')
    stages, skipped = read_metrics(path)
    assert [(each["step"], each["loss"]) for each in stages["train"]] == [
        (1, 1.0),
        (2, 0.5),
        (3, 30),
    ]
    assert [each["step"] for each in stages["distill"]] == [1]
    assert skipped == 4  # the two cut lines, the list, the zero bytes


# ---------------------------------------------------------------- table and headline
FEW_IMAGES = (
    " FD-Lite0 of 512 images: few, under 10,000 such a distance is too large, and the more so the fewer; "
    "compare with equal numbers of images only."
)


def test_terminal_table_exactly():
    assert format_table(read()) == "\n".join(
        [
            "Model    Sampler   NFE  FD-Lite0 ↓      PSNR ↑     Time ↓",
            "                              hole   image, dB   ms/image",
            "──────────────────────────────────────────────────────────",
            "source   -           0       310.0       12.00          –",
            "teacher  ode         1        17.8       32.25*       2.1*",
            "teacher  ode       100        12.8       30.12      182.7",
            "student  few_step    1        12.3*      31.50        2.1*",
            "* best of its column; ↑ higher is better, ↓ lower is better; "
            "NFE: network calls per image; 512 images per row; – not measured." + FEW_IMAGES,
        ]
    )


def test_markdown_table_exactly_with_a_published_row():
    published = dict(model="a|b", sampler="-", source="published", nfe=">=40", psnr=99.0)
    assert format_table(read([published, *ROWS[2:]]), markdown=True) == "\n".join(
        [
            "| Model   | Sampler |  NFE | FD-Lite0 ↓ (hole) | PSNR ↑ (image), dB | Time ↓, ms/image |",
            "| ------- | ------- | ---: | ----------------: | -----------------: | ---------------: |",
            "| teacher | ode     |    1 |              17.8 |          **32.25** |          **2.1** |",
            "| teacher | ode     |  100 |          **12.8** |              30.12 |            182.7 |",
            "| a\\|b †  | -       | >=40 |                 – |              99.00 |                – |",
            "",
            "**bold**: best of its column; ↑ higher is better, ↓ lower is better; "
            "NFE: network calls per image; 512 images per row; "
            "† published by others, not measured here; – not measured." + FEW_IMAGES,
        ]
    )


def test_digits_follow_the_smallest_value_and_ties_share_the_mark():
    base = dict(model="teacher", sampler="ode", images=64)
    rows = [base | dict(nfe=n, fd_lite0=v) for n, v in ((1, 0.03514), (2, 0.03506), (4, 1.25))]
    rows.append(dict(model="source", sampler="-", nfe=0, images=64, fd_lite0=2.0))
    other = read([rows[0] | {"images": 32}, *rows[1:]])
    rows = read(rows)
    column = next(c for c in make_columns(rows) if c.key == "fd_lite0")
    assert column.texts == ("0.0351", "0.0351", "1.2500", "2.0000")
    assert column.best == (True, True, False, False)  # never the source
    assert "Images" not in format_table(rows)
    assert "Images" in format_table(other)
    assert format_table([]) == "no results"


def test_headline_compares_with_few_and_many_calls():
    assert headline(read()) == (
        "Student, 1 call: FD-Lite0 (hole) 12.3, 31% below the teacher's 1 call, "
        "4% below its 100 calls, and 87x faster than the latter."
    )
    # A distance over another number of images is no comparison.
    assert (
        headline(read([ROWS[0] | {"images": 64}, *ROWS[1:]]))
        == "Student, 1 call: FD-Lite0 (hole) 12.3."
    )
    assert headline(read(ROWS[1:])) == "Teacher, 100 calls: FD-Lite0 (hole) 12.8."
    assert headline(read(ROWS[:3])) == (
        "Student, 1 call: FD-Lite0 (hole) 12.3, 4% below the teacher's 100 calls, and 87x faster."
    )
    psnr = [{k: v for k, v in row.items() if k != "fd_lite0_hole"} for row in ROWS]
    assert headline(read(psnr)).startswith(
        "Student, 1 call: PSNR 31.50, 0.75 dB below the teacher's 1 call, 1.38 dB above its 100"
    )
    worse = [ROWS[0] | {"fd_lite0_hole": 40.94, "seconds_per_image": 0.0042}, ROWS[3]]
    assert headline(read(worse)) == (
        "Student, 1 call: FD-Lite0 (hole) 40.9, 2.3 times the teacher's 1 call."
    )
    assert headline(read([ROWS[1]])) == headline([]) == "No model has been measured yet."


def test_rows_of_other_models_come_after_the_student():
    rows = [dict(model=m, sampler="-", nfe=1, images=1) for m in ("ddrm", "student", "source")]
    assert [row.model for row in sort_rows(read(rows))] == ["source", "student", "ddrm"]


def test_tasks_of_a_prior_do_not_compete():
    """The best is marked within a task; tasks keep their order, published rows stand with theirs."""
    base = dict(model="sr4", task="sr4", nfe=50, images=8)
    rows = [
        base | dict(sampler="pinv", psnr=20.0, nfe=0),
        base | dict(sampler="ddnm", psnr=22.0),
        base | dict(model="colour", task="colour", sampler="ddnm", psnr=30.0),
        base | dict(sampler="DDNM", psnr=27.46, source="published"),
        base | dict(model="colour", task="colour", sampler="pinv", psnr=31.0, nfe=0),
    ]
    rows = read(rows)
    order = sort_rows(rows)
    assert [(row.task, row.sampler) for row in order] == [
        ("sr4", "pinv"), ("sr4", "ddnm"), ("sr4", "DDNM"), ("colour", "ddnm"), ("colour", "pinv"),
    ]  # fmt: skip
    column = next(c for c in make_columns(order) if c.key == "psnr")
    assert column.best == (False, True, False, False, True)
    table = format_table(rows)
    assert table.split()[:2] == ["Task", "Method"]
    assert "best of its column and task" in table
    assert headline(rows) == "One prior, 2 tasks that it was not trained for, 2 methods."
    with pytest.raises(ValueError, match="task"):
        check_results(plain_results([base | dict(sampler="x", task=3)]))
