"""report/: the HTML page."""

import base64
import json
import os
import re

import pytest

from jax_bridges.report import build_report, format_table, headline, write_results
from tests.support.reports import ROWS, Page, finished_run, read, results_of


@pytest.fixture
def workdir(tmp_path):
    return finished_run(tmp_path)


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
        headline(read()),
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


def test_ibmds_losses_are_explained_and_bookkeeping_is_left_out(workdir):
    assert "bridge net" not in Page(build_report(workdir).read_text()).text
    line = {"stage": "distill", "loss": 0.1, "bridge_loss": 0.2}
    with open(workdir / "metrics.jsonl", "a") as log:
        log.writelines("\n" + json.dumps({**line, "step": step}) for step in (1, 2, 3))
    results = results_of()
    results["measured"]["settings"] = '{"images": 256}'
    write_results(workdir / "results.json", results)
    text = Page(build_report(workdir).read_text()).text
    assert "bridge loss: the bridge net's own error" in text and '{"images": 256}' not in text


def test_a_chart_with_hopeless_values_says_so(workdir):
    page = build_report(workdir).read_text()
    rows = [{**ROWS[3], "nfe": n, "fd_lite0_hole": 20.0 + n} for n in range(1, 9)]
    rows.append({**ROWS[3], "nfe": 9, "fd_lite0_hole": 900.0})
    write_results(workdir / "results.json", results_of(rows))
    said = "Triangles: values far beyond the edge"
    assert said in build_report(workdir).read_text() and said not in page


def test_fd_lite0_is_never_called_fid(workdir):
    write_results(workdir / "results.json", results_of())
    text = build_report(workdir).read_text()
    assert "FID" not in text and "FID" not in format_table(read()) + headline(read())


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
    said = f'{workdir / "results.json"}: results["title"] must be text.'
    assert f"results.json could not be used: {said}" in page.text
    assert "config.json could not be used" in page.text
    with pytest.raises(FileNotFoundError, match="WORKDIR"):
        build_report(workdir / "nowhere")
