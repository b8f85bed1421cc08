"""report/: results.json, tables, pictures, curves and the HTML page."""

import base64
import io
import json
import math
import os
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from jax_bridges.report import (
    build_report,
    chart,
    format_table,
    grid,
    headline,
    quality_chart,
    read_metrics,
    read_results,
    save_png,
    save_svg,
    step_chart,
    to_png_bytes,
    write_results,
)
from jax_bridges.report import files as files_module
from jax_bridges.report.curves import Series, _axis, quality_series, step_series
from jax_bridges.report.pictures import GAP, MARGIN, OUTLINE, _fit_labels
from jax_bridges.report.table import make_columns, sort_rows

ROWS = [
    dict(model="student", sampler="few_step", nfe=1, images=512, psnr=31.5, fd_lite0_hole=12.3)
    | dict(seconds_per_image=0.0021),
    dict(model="source", sampler="-", nfe=0, images=512, psnr=12.0, fd_lite0_hole=310.0),
    dict(model="teacher", sampler="ode", nfe=100, images=512, psnr=30.125, fd_lite0_hole=12.81)
    | dict(seconds_per_image=0.1827),
    dict(model="teacher", sampler="ode", nfe=1, images=512, psnr=32.25, fd_lite0_hole=17.8)
    | dict(seconds_per_image=0.0021),
]


def results_of(rows=ROWS, **more):
    measured = dict(
        images=512,
        size=[64, 64],
        command="python main.py --config=configs/inpaint.py",
        machine="2 CPU cores",
        date="2026-11-21T05:28:00",
        versions={"jax": "0.10.2"},
        region="hole 16x16 + margin 2",
    )
    return dict(
        title="Earth", task="inpaint", dataset="earth", measured=measured, rows=rows, **more
    )


def colour(rgb, size=4):
    return np.full((1, size, size, 3), rgb, np.uint8)


# ---------------------------------------------------------------- results.json, metrics.jsonl


def test_results_round_trip_and_null_for_what_is_not_finite(tmp_path):
    row = ROWS[0] | {"psnr": math.inf, "ssim": math.nan, "fd_lite0": np.float32(0.5)}
    path = write_results(tmp_path / "run" / "results.json", results_of([row]))
    back = read_results(path)
    assert back["rows"][0] == ROWS[0] | {"psnr": None, "ssim": None, "fd_lite0": 0.5}
    assert back["measured"]["size"] == [64, 64]
    assert "NaN" not in path.read_text() and "Infinity" not in path.read_text()
    assert math.isinf(row["psnr"])  # the caller's row is not touched


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
        ({"pictures": ["../secret.png"]}, "must be a path inside the work directory"),
        ({"comparisons": [{"label": "a", "images": {"x": "/etc/a.png"}}]}, "'/etc/a.png' must be"),
        ({"comparisons": [{"images": {}}]}, "comparisons[0] must be"),
        ({"measured": {}}, 'measured["command"] must be text'),
        ({"measured": results_of()["measured"] | {"date": "today"}}, "ISO 8601"),
        ({"measured": results_of()["measured"] | {"size": [64]}}, "[height, width]"),
    ],
)
def test_results_that_break_the_schema_are_refused_and_not_written(tmp_path, change, words):
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


def test_terminal_table_exactly():
    assert format_table(ROWS) == "\n".join(
        [
            "Model    Sampler   NFE  FD-Lite0 ↓      PSNR ↑     Time ↓",
            "                              hole   image, dB   ms/image",
            "──────────────────────────────────────────────────────────",
            "source   -           0       310.0       12.00          –",
            "teacher  ode         1        17.8       32.25*       2.1*",
            "teacher  ode       100        12.8       30.12      182.7",
            "student  few_step    1        12.3*      31.50        2.1*",
            "* best of its column; ↑ higher is better, ↓ lower is better; "
            "NFE: network calls per image; 512 images per row; – not measured.",
        ]
    )


def test_markdown_table_exactly_with_a_published_row():
    published = dict(model="a|b", sampler="-", source="published", nfe=">=40", psnr=99.0)
    assert format_table([published, *ROWS[2:]], markdown=True) == "\n".join(
        [
            "| Model | Sampler | NFE | FD-Lite0 ↓ (hole) | PSNR ↑ (image), dB | Time ↓, ms/image |",
            "| :-- | :-- | --: | --: | --: | --: |",
            "| teacher | ode | 1 | 17.8 | **32.25** | **2.1** |",
            "| teacher | ode | 100 | **12.8** | 30.12 | 182.7 |",
            "| a\\|b † | - | >=40 | – | 99.00 | – |",
            "",
            "**bold**: best of its column; ↑ higher is better, ↓ lower is better; "
            "NFE: network calls per image; 512 images per row; "
            "† published by others, not measured here; – not measured.",
        ]
    )


def test_digits_follow_the_smallest_value_and_ties_share_the_mark():
    base = dict(model="teacher", sampler="ode", images=64)
    rows = [base | dict(nfe=n, fd_lite0=v) for n, v in ((1, 0.03514), (2, 0.03506), (4, 1.25))]
    rows.append(dict(model="source", sampler="-", nfe=0, images=64, fd_lite0=0.02))
    column = next(c for c in make_columns(rows) if c.key == "fd_lite0")
    assert column.texts == ("0.0351", "0.0351", "1.2500", "0.0200")
    assert column.best == (True, True, False, False)  # never the source
    assert "Images" not in format_table(rows)
    assert "Images" in format_table([rows[0] | {"images": 32}, *rows[1:]])
    assert format_table([]) == "no results"


def test_headline_compares_with_few_and_many_calls():
    assert headline(ROWS) == (
        "Student, 1 call: FD-Lite0 (hole) 12.3, 31% below the teacher's 1 call, "
        "4% below its 100 calls, and 87x faster than the latter."
    )
    # A distance over another number of images is no comparison.
    assert (
        headline([ROWS[0] | {"images": 64}, *ROWS[1:]]) == "Student, 1 call: FD-Lite0 (hole) 12.3."
    )
    assert headline(ROWS[1:]) == "Teacher, 100 calls: FD-Lite0 (hole) 12.8."
    assert headline(ROWS[:3]) == (
        "Student, 1 call: FD-Lite0 (hole) 12.3, 4% below the teacher's 100 calls, and 87x faster."
    )
    psnr = [{k: v for k, v in row.items() if k != "fd_lite0_hole"} for row in ROWS]
    assert headline(psnr).startswith(
        "Student, 1 call: PSNR 31.50, 0.75 dB below the teacher's 1 call, 1.38 dB above its 100"
    )
    worse = [ROWS[0] | {"fd_lite0_hole": 40.94, "seconds_per_image": 0.0042}, ROWS[3]]
    assert headline(worse) == (
        "Student, 1 call: FD-Lite0 (hole) 40.9, 2.3 times the teacher's 1 call."
    )
    assert headline([ROWS[1]]) == headline([]) == "No model has been measured yet."


# ---------------------------------------------------------------- pictures


def test_grid_pixels_are_exact_squares():
    rng = np.random.default_rng(0)
    columns = {name: rng.integers(0, 256, (2, 6, 5, 3), np.uint8) for name in ("source", "target")}
    columns["source"][0] = (7, 8, 9)
    picture = np.asarray(grid(columns, scale=4))
    top = picture.shape[0] - MARGIN - 2 * 24 - GAP
    for column, images in enumerate(columns.values()):
        for row, image in enumerate(images):
            y, x = top + row * (24 + GAP), MARGIN + column * (20 + GAP)
            expected = np.kron(image, np.ones((4, 4, 1), np.uint8))
            np.testing.assert_array_equal(picture[y : y + 24, x : x + 20], expected)
    assert picture.shape[1] == 2 * MARGIN + 2 * 20 + GAP
    assert picture[:top].min() < 100  # labels are there
    assert (picture[-MARGIN + 1 :] == 255).all()


@pytest.mark.parametrize("box", [(2, 1, 3, 4), (0, 0, 8, 8), (5, 5, 3, 3)])
def test_grid_outlines_the_hole_on_the_source_without_covering_it(box):
    columns = {"source": colour((10, 20, 30), 8), "target": colour((10, 20, 30), 8)}
    plain, outlined = np.asarray(grid(columns, 6)), np.asarray(grid(columns, 6, box=box))
    changed = (plain != outlined).any(-1)
    y0, x0 = plain.shape[0] - MARGIN - 48, MARGIN
    top, left, height, width = (value * 6 for value in box)
    assert not changed[y0 + top : y0 + top + height, x0 + left : x0 + left + width].any()
    frame = np.zeros_like(changed)  # 6 // 3 = 2 pixels thick
    frame[y0 + top - 2 : y0 + top + height + 2, x0 + left - 2 : x0 + left + width + 2] = True
    frame[y0 + top : y0 + top + height, x0 + left : x0 + left + width] = False
    np.testing.assert_array_equal(changed, frame)
    assert (outlined[frame] == OUTLINE).all()


def test_grid_takes_long_labels_and_picks_a_scale():
    image = colour((0, 0, 0), 32)
    assert grid({"a": image}).size[0] == 2 * MARGIN + 128
    tall, short = grid({"a b c d e f": image}, 1), grid({"a": image}, 1)
    assert tall.size[1] > short.size[1] and tall.size[0] == short.size[0]
    labels, font = _fit_labels(["incomprehensibilities", "a"], 32)
    assert labels[0].endswith("…") and labels[0][:3] == "inc" and labels[1] == "a"
    assert font.getlength(labels[0]) <= 32 + GAP


@pytest.mark.parametrize(
    "columns, scale, words",
    [
        ({}, 1, "at least one column"),
        ({"a": colour((0, 0, 0)).astype(np.float32)}, 1, "column 'a' must be uint8"),
        (
            {"a": colour((0, 0, 0))[0]},
            1,
            "column 'a' must be uint8 [N, H, W, 3], not uint8 [4, 4, 3]",
        ),
        ({"a": colour((0, 0, 0)), "b": colour((0, 0, 0), 5)}, 1, "column 'b' has shape"),
        ({"a": colour((0, 0, 0))}, 0, "scale must be a whole number"),
        ({"a": colour((0, 0, 0))[:0]}, 1, "holds no pixels"),
    ],
)
def test_grid_refuses_bad_input(columns, scale, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        grid(columns, scale)


def test_png_round_trip(tmp_path):
    pixels = np.random.default_rng(1).integers(0, 256, (7, 5, 3), np.uint8)
    path = save_png(tmp_path / "samples" / "a.png", pixels)
    np.testing.assert_array_equal(np.asarray(Image.open(path)), pixels)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(to_png_bytes(pixels)))), pixels)
    with pytest.raises(ValueError, match="uint8"):
        to_png_bytes(pixels / 255)


# ---------------------------------------------------------------- curves


def test_axes_map_ends_and_ticks():
    ticks, pixel = _axis(1, 100, True, 0.0, 200.0, 5)
    assert [text for _, text in ticks] == ["1", "10", "100"]
    assert [pixel(value) for value in (1, 10, 100)] == pytest.approx([0, 100, 200])
    ticks, pixel = _axis(0.021, 0.069, False, 300.0, 0.0, 5)  # upside down, as y axes are
    assert [text for _, text in ticks] == ["0.02", "0.03", "0.04", "0.05", "0.06", "0.07"]
    assert (pixel(0.02), pixel(0.07)) == pytest.approx((300, 0))
    ticks, _ = _axis(-2.0, 2.0, False, 0.0, 1.0, 4)
    assert [text for _, text in ticks] == ["−2", "−1", "0", "1", "2"]
    ticks, _ = _axis(1e-4, 1e-4, False, 0.0, 1.0, 5)
    assert [text for _, text in ticks] == ["9e−5", "9.5e−5", "1e−4", "1.05e−4", "1.1e−4"]
    ticks, _ = _axis(0.0021, 0.0086, True, 0.0, 360.0, 6)
    assert [text for _, text in ticks] == ["0.003", "0.004", "0.005", "0.007"]
    for low, high, log in (
        (5.0, 5.0, False),
        (0.0, 0.0, False),
        (1, 1, True),
        (0.3, 0.1 + 0.2, False),
    ):
        ticks, pixel = _axis(low, high, log, 0.0, 1.0, 5)
        assert 0 < pixel(low) < 1 and 2 <= len(ticks) <= 12


def test_quality_chart_holds_each_series_and_point_once():
    series = quality_series(ROWS, "nfe", "fd_lite0_hole")
    assert [(each.label, each.x, each.y) for each in series] == [
        ("teacher, ode", (1, 100), (17.8, 12.81)),
        ("student, few_step", (1,), (12.3,)),
    ]
    root = ElementTree.fromstring(quality_chart(ROWS, "nfe", "fd_lite0_hole"))
    assert [title.text for title in root.iter("title")] == [
        "teacher, ode: 17.8 at 1 network calls per image",
        "teacher, ode: 12.81 at 100 network calls per image",
        "student, few_step: 12.3 at 1 network calls per image",
    ]
    assert {"teacher, ode", "student, few_step", "1", "10", "100"} <= {
        t.text for t in root.iter("text")
    }
    assert quality_chart(ROWS, "nfe", "ssim") == ""
    with pytest.raises(ValueError, match="positive"):
        chart([Series("a", (0.0, 1.0), (1.0, 1.0), "red")], "t", "x", x_log=True)


def test_loss_curve_averages_long_runs_and_leaves_out_nan():
    records = [{"step": s, "loss": float(s % 5)} for s in range(1, 1201)] + [{"step": 1201}]
    series = step_series(records, "loss", "red")
    assert len(series.x) == 240 and series.x[0] == 3.0
    assert set(series.y) == {2.0} and set(series.band) == {(0.0, 4.0)}
    records = [{"step": 1, "loss": 1.0}, {"step": 2, "loss": math.nan}, {"step": 3, "loss": 2.0}]
    assert step_series(records, "loss", "red").x == (1.0, 3.0)
    assert step_chart(records[:2], "loss") == ""
    ElementTree.fromstring(step_chart([{"step": s, "loss": 1 / s} for s in range(1, 999)], "loss"))


def test_a_saved_svg_stands_alone(tmp_path):
    path = save_svg(tmp_path / "a.svg", quality_chart(ROWS, "seconds_per_image", "psnr"))
    root = ElementTree.parse(path).getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert path.read_text().count("http") == 1  # the namespace only


# ---------------------------------------------------------------- report.html


class Page(HTMLParser):
    """Fails on tags that do not nest; gathers the results table, images and text."""

    VOID = {"meta", "img", "input", "br", "link"}

    def __init__(self, text):
        super().__init__()
        self.open, self.rows, self.images, self.text = [], [], [], ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag == "img" and "src" in attributes:
            self.images.append(attributes)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> does not close what is open"

    def handle_data(self, data):
        if "style" in self.open or "script" in self.open:
            return
        self.text += data
        if "td" in self.open:
            self.rows[-1].append(data)


@pytest.fixture
def workdir(tmp_path):
    """A finished run with a hostile title, a published row and a log cut by a kill."""
    for name, rgb in (("source", 0), ("student", 128), ("target", 255)):
        save_png(tmp_path / f"samples/{name}.png", colour((rgb, 1, 2))[0])
    save_png(tmp_path / "samples/train-9.png", colour((9, 9, 9))[0])
    save_png(tmp_path / "samples/train-10.png", colour((10, 10, 10))[0])
    published = dict(model="I2SB", sampler="-", nfe=1000, source="published", fid=4.9)
    results = results_of(
        [*ROWS, published | {"reference": "a <paper>"}],
        pictures=["samples/target.png", "samples/gone.png"],
        comparisons=[
            {
                "label": 'tile "1"',
                "images": {n: f"samples/{n}.png" for n in ("source", "student", "target")},
            },
            {"label": "tile 2", "images": {"source": "samples/target.png", "target": "x.png"}},
        ],
    )
    results["title"] = "<script>alert('x')</script> & more"
    write_results(tmp_path / "results.json", results)
    lines = [
        {"stage": "train", "step": s, "loss": 1 / s, "images_per_second": 50} for s in range(1, 60)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines) + '{"stage": "train", "step": 60, "lo'
    (tmp_path / "metrics.jsonl").write_text(text)
    config = {"seed": 0, "distill": {"steps": 200, "generator": {"rate": 1e-4}}, "note": "<b>"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def test_report_is_well_formed_complete_and_sorted(workdir):
    path = build_report(workdir)
    assert path == workdir / "report.html"
    page = Page(path.read_text(encoding="utf-8"))
    cells = [
        row for row in page.rows if row and row[0] in ("source", "teacher", "student", "I2SB †")
    ]
    assert cells == [
        ["source", "-", "0", "310.0", "12.00", "–", "–"],
        ["teacher", "ode", "1", "17.8", "32.25", "–", "2.1"],
        ["teacher", "ode", "100", "12.8", "30.12", "–", "182.7"],
        ["student", "few_step", "1", "12.3", "31.50", "–", "2.1"],
        ["I2SB †", "-", "1000", "–", "–", "4.9", "–"],
    ]
    for words in (
        headline(ROWS),
        "hole 16x16 + margin 2",
        "python main.py --config=configs/inpaint.py",
        "jax 0.10.2",
        "train 59 steps, median 50 images/s",
        "Left out of metrics.jsonl: 1 unreadable line.",
        "Missing or not a PNG: samples/gone.png.",
        "Missing or not a PNG: x.png.",
        "Published numbers: a <paper>.",
    ):
        assert words in page.text, words
    settings = [row for row in page.rows if row and row[0].startswith("distill.")]
    assert settings == [["distill.steps", "200"], ["distill.generator.rate", "0.0001"]]
    shown = [base64.b64decode(image["src"].split(",")[1]) for image in page.images]
    names = ["source", "student", "target", "target", "target", "train-10"]
    assert shown == [(workdir / f"samples/{name}.png").read_bytes() for name in names]


def test_report_is_self_contained_and_escaped(workdir):
    text = build_report(workdir).read_text(encoding="utf-8")
    assert not re.search(r"https?://|//[a-z0-9-]+\.[a-z]|@import|url\(", text)
    sources = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert len(sources) == 6 and all(s.startswith("data:image/png;base64,") for s in sources)
    assert (
        "<script>alert" not in text and "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt;" in text
    )
    assert "<paper>" not in text and "<b>" not in text and 'tile "1"' not in text
    assert text.count("<script") == 1


def test_fd_lite0_is_never_called_fid(workdir):
    write_results(workdir / "results.json", results_of())
    text = build_report(workdir).read_text()
    assert "FID" not in text and "FID" not in format_table(ROWS) + headline(ROWS)


def test_building_twice_gives_the_same_bytes_and_no_litter(workdir):
    before = sorted(os.listdir(workdir))
    first = build_report(workdir).read_bytes()
    assert build_report(workdir).read_bytes() == first
    assert sorted(os.listdir(workdir)) == sorted([*before, "report.html"])


@pytest.mark.parametrize(
    "lost, words",
    [
        (("results.json",), "No results yet: the evaluate stage has not finished."),
        (("metrics.jsonl",), "nothing was trained in this directory"),
        (("config.json",), "There is no config.json."),
        (("results.json", "metrics.jsonl", "config.json"), "No results yet"),
    ],
)
def test_report_says_what_is_missing(workdir, lost, words):
    for name in lost:
        (workdir / name).unlink()
    assert words in Page(build_report(workdir).read_text()).text


def test_report_tells_of_unreadable_files(workdir):
    (workdir / "results.json").write_text('{"title": 3}')
    (workdir / "config.json").write_text("{")
    page = Page(build_report(workdir).read_text())
    assert (
        'results.json could not be used: results.json: results["title"] must be text.' in page.text
    )
    assert "config.json could not be used" in page.text
    with pytest.raises(FileNotFoundError, match="WORKDIR"):
        build_report(workdir / "nowhere")


def test_rows_of_other_models_come_after_the_student():
    rows = [dict(model=m, sampler="-", nfe=1, images=1) for m in ("ddrm", "student", "source")]
    assert [row["model"] for row in sort_rows(rows)] == ["source", "student", "ddrm"]


CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)

# Runs after the page's own script: clicks and picks as a person would, and notes what it sees.
ACTIONS = """
const seen = {};
const column = index => [...document.querySelectorAll('table.results tbody tr')]
  .map(row => row.cells[index].textContent);
const button = name => [...document.querySelectorAll('th button')]
  .find(each => each.textContent.startsWith(name));
button('FD-Lite0').click(); seen.best = column(3);
seen.sort = button('FD-Lite0').parentNode.getAttribute('aria-sort');
button('FD-Lite0').click(); seen.worst = column(3);
button('PSNR').click(); seen.psnr = column(4);
button('Model').click(); seen.model = column(0);
const stage = document.querySelector('.stage'), range = stage.querySelector('input');
const badges = () => [...stage.querySelectorAll('span')].map(each => each.textContent);
seen.badges = badges();
range.value = 20; range.dispatchEvent(new Event('input'));
seen.cut = stage.style.getPropertyValue('--cut');
const right = document.querySelectorAll('#compare select')[1];
right.value = 'target'; right.dispatchEvent(new Event('change')); seen.right = badges();
seen.same = stage.querySelector('[data-role=back]').src ===
  document.querySelector('.strip img[data-name=target]').src;
document.querySelectorAll('.picker input')[1].click();
seen.strips = [...document.querySelectorAll('.strip')].map(each => each.hidden);
seen.other = badges();
const text = unescape(encodeURIComponent(JSON.stringify(seen)));
document.body.textContent = 'SEEN' + btoa(text) + 'SEEN';
"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_sorting_and_comparing_work_in_a_browser(workdir, tmp_path):
    text = build_report(workdir).read_text(encoding="utf-8")
    page = workdir / "clicked.html"
    page.write_text(text.replace("</body>", f"<script>{ACTIONS}</script></body>"), encoding="utf-8")
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run"
    flags += " --disable-background-networking --disable-component-update --disable-sync"
    done = subprocess.run(
        [CHROMIUM, *flags.split(), f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
        + [page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    seen = json.loads(base64.b64decode(done.stdout.split("SEEN")[1]))
    assert seen["best"] == ["12.3", "12.8", "17.8", "310.0", "–"] and seen["sort"] == "ascending"
    assert seen["worst"] == ["310.0", "17.8", "12.8", "12.3", "–"]  # missing stays last
    assert seen["psnr"] == ["32.25", "31.50", "30.12", "12.00", "–"]
    assert seen["model"] == ["I2SB †", "source", "student", "teacher", "teacher"]
    assert seen["badges"] == ["source", "student"] and seen["right"] == ["source", "target"]
    assert seen["cut"] == "20%" and seen["same"] is True
    assert seen["strips"] == [True, False] and seen["other"] == ["source", "source"]
