"""`python -m jax_bridges.table`: rows of several runs in every format, published ones apart."""

import csv
import importlib.util
import io
import json
import shutil
import subprocess
import sys

import pytest

from jax_bridges import table
from jax_bridges.report import Row, write_results
from jax_bridges.report.listing import FORMATS, Listing
from jax_bridges.report.plots import save_plots
from tests.support.reports import results_of

OURS = [
    Row("source", "-", 0, 64, metrics={"psnr": 12.0, "fd_lite0_hole": 310.0}),
    Row("teacher", "ode", 1, 64, "", 0.002, {"psnr": 32.25, "fd_lite0_hole": 17.8}),
    Row(
        "teacher", "ode", 100, 64, "", 0.2, {"psnr": 30.125, "fd_lite0_hole": 12.81},
        {"psnr": (29.5, 30.75), "fd_lite0_hole": (11.0, 14.5)}, {"psnr": (-2.5, -1.75)},
    ),
    Row(
        "student", "few_step", 1, 64, "", 0.002, {"psnr": 31.5, "fd_lite0_hole": 12.9},
        {"fd_lite0_hole": (11.5, 14.25)}, {"psnr": (-1.0, -0.5), "fd_lite0_hole": (-0.5, 0.75)},
    ),
]  # fmt: skip
THEIRS = Row(
    "I2SB_x", "-", ">=40", None, metrics={"psnr": 99.0}, published=True, reference="a paper"
)
LONG = [
    Row("teacher", "ode", 1, 64, metrics={"psnr": 20.0}),
    Row("student", "few_step", 1, 64, metrics={"psnr": 21.5}),
]


def rows_of(markdown):
    cells = [
        [c.strip() for c in line.strip("|").split("|")]
        for line in markdown.splitlines()
        if line[:1] == "|"
    ]
    return [dict(zip(cells[0], line, strict=True)) for line in cells[2:]]


def test_markdown_of_one_run_sets_the_published_apart():
    text = Listing.of({"inpaint": [THEIRS, *OURS]}).markdown()
    ours, theirs = text.split("Published by others, not measured here (a paper):")
    rows = rows_of(ours)
    assert [row["Model"] for row in rows] == ["source", "teacher", "teacher", "student"]
    assert [row["PSNR ↑ (image), dB"] for row in rows] == [
        "12.00",
        "**32.25**",
        "30.12 ±0.62",
        "31.50",
    ]
    # The student is not worse than the best by more than chance.
    found = [row["FD-Lite0 ↓ (hole)"] for row in rows]
    assert found == ["310.0", "17.8", "**12.8 ±1.8**", "**12.9 ±1.4**"]
    (row,) = rows_of(theirs)
    assert row["Model"] == "I2SB_x †" and row["PSNR ↑ (image), dB"] == "99.00" and "Run" not in row


def test_several_runs_are_ranked_each_by_itself():
    listing = Listing.of({"short": [*OURS, THEIRS], "long": [*LONG, THEIRS]}, ("psnr",))
    text = listing.markdown()
    rows = rows_of(text.split("Published")[0])
    assert [row["Run"] for row in rows] == ["short"] * 4 + ["long"] * 2
    bold = [(row["Run"], row["Model"]) for row in rows if "**" in row["PSNR ↑, dB"]]
    assert bold == [("short", "teacher"), ("long", "student")]
    assert "best of its column and run" in text and "FD-Lite0" not in text
    assert text.count("I2SB_x") == 1  # of both runs


def test_rows_and_metrics_are_chosen_by_name():
    listing = Listing.of({"a": OURS}, ("psnr",), ("student", "teacher/*/100"))
    assert [(row.model, row.nfe) for row in listing.rows] == [("teacher", 100), ("student", 1)]
    (column,) = [c for c in listing.columns if c.key == "psnr"]
    assert column.best == (False, True)  # of what is shown
    with pytest.raises(
        ValueError, match="No row has the metric 'psnrr': choose of psnr, fd_lite0_hole. Did"
    ):
        Listing.of({"a": OURS}, ("psnrr",))
    with pytest.raises(ValueError, match="No row is stud: there are source/-/0, teacher/ode/1"):
        Listing.of({"a": OURS}, (), ("stud",))


def test_csv_and_json_have_all_digits():
    listing = Listing.of({"a": [*OURS, THEIRS]})
    rows = list(csv.DictReader(io.StringIO(listing.csv())))
    assert [row["source"] for row in rows] == ["measured"] * 4 + ["published"]
    student = rows[3]
    assert (student["fd_lite0_hole"], student["fd_lite0_hole_low"]) == ("12.9", "11.5")
    assert (student["fd_lite0_hole_best"], student["psnr_best"], student["psnr_low"]) == (
        "1",
        "0",
        "",
    )
    assert rows[4]["nfe"] == ">=40" and rows[4]["psnr_best"] == "0"
    rows = json.loads(listing.json())
    assert rows[3]["best"] == ["fd_lite0_hole"] and rows[3]["psnr"] == 31.5
    assert [
        Row.read({k: v for k, v in row.items() if k not in ("run", "best")}) for row in rows[:4]
    ] == OURS


def test_latex_is_a_tabular():
    lines = Listing.of({"a_1": [*OURS, THEIRS], "b": LONG}).latex().splitlines()
    assert lines[1] == "\\begin{tabular}{lllrrrr}" and lines[-1] == "\\end{tabular}"
    body = [line for line in lines if line.endswith(r"\\")]
    assert {line.count("&") - line.count(r"\&") for line in body} == {6}
    assert body[0].startswith(r"Run & Model & Sampler & NFE & FD-Lite0 $\downarrow$ (hole) &")
    assert r"a\_1 & student & few\_step & 1 & \textbf{12.9 $\pm$1.4} & 31.50" in body[4]
    assert r"\textit{I2SB\_x $\dagger$}" in body[-1] and r"\textit{$\ge$40}" in body[-1]


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="LaTeX is not installed")
def test_latex_compiles_without_packages(tmp_path):
    """Also a name that is made of its special characters; every cell is in the text of the page."""
    name = r"a_1 & 50% #2 {x}\y ~^$ <>"
    table = Listing.of({name: [*OURS, THEIRS], "b": LONG}).latex()
    page = f"\\documentclass{{article}}\\begin{{document}}\n{table}\n\\end{{document}}\n"
    (tmp_path / "page.tex").write_text(page)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and (tmp_path / "page.pdf").is_file(), done.stdout[-2000:]


def run_command(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["table", *map(str, arguments)])
    code = table.main()
    said = capsys.readouterr()
    return code, said.out, said.err


def test_the_command_reads_runs(tmp_path, monkeypatch, capsys):
    for name in ("x/one", "y/one"):
        write_results(tmp_path / name / "results.json", results_of([row.plain() for row in OURS]))
    code, out, _ = run_command(
        monkeypatch, capsys, tmp_path / "x/one", "--format=csv", "--rows=student"
    )
    assert code == 0 and out.count("\n") == 2 and ",student,few_step,1," in out
    code, out, _ = run_command(
        monkeypatch, capsys, tmp_path / "x/one", tmp_path / "y/one/results.json", "--metrics=psnr"
    )
    assert code == 0 and "| x/one |" in out and "| y/one |" in out
    for arguments, words in (
        ((tmp_path / "x/one", tmp_path / "x/one"), "a run is named twice"),
        ((tmp_path / "z",), "results.json does not exist: run the evaluate stage"),
        ((tmp_path / "x/one", "--format=tex"), "--help lists the flags"),
    ):
        code, _, err = run_command(monkeypatch, capsys, *arguments)
        assert code == 1 and words in err
    if importlib.util.find_spec("matplotlib") is None:
        code, _, err = run_command(monkeypatch, capsys, tmp_path / "x/one", f"--plots={tmp_path}/p")
        assert code == 1 and "pip install 'jax_bridges[paper]'" in err


def test_plots_are_files_of_each_kind(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    written = save_plots(tmp_path, Listing.of({"a": OURS}, ("fd_lite0_hole",)))
    assert {path.name for path in written} == {
        f"fd_lite0_hole-{axis}.{kind}" for axis in ("nfe", "time") for kind in ("pdf", "svg", "png")
    }
    assert all(path.stat().st_size > 2000 for path in written)


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_prints_something(form):
    assert "student" in FORMATS[form](Listing.of({"a": OURS}))
