"""What a newcomer copies runs: examples in docstrings, examples/, and its notebooks, at small size."""

from __future__ import annotations

import doctest
import importlib
import json
import pkgutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import jax_bridges as jb
from tests.support import ROOT

EXAMPLES = ROOT / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))


def code_cells(path: Path) -> list[dict]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def run_notebook(path: Path, **parameters) -> dict:
    """What its names are after all its cells, with other values for those of the cell of parameters."""
    space: dict = {"__name__": "__main__"}
    told = set()
    for number, cell in enumerate(code_cells(path)):
        exec(compile("".join(cell["source"]), f"{path.name}[{number}]", "exec"), space)
        if "parameters" in cell["metadata"].get("tags", ()):
            told = parameters.keys() & space.keys()
            space |= parameters
    assert told == parameters.keys()
    return space


@pytest.fixture
def pyplot(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    plots = pytest.importorskip("matplotlib.pyplot", reason="matplotlib is not installed")
    yield plots
    plots.close("all")


@pytest.fixture
def small(images, tmp_path, monkeypatch):
    """`jb.get_config` gives runs of seconds, of the folder of toy images, which it is."""
    real = jb.get_config

    def get_config(text):
        config = real(text)
        config.data.update(
            name="folder", path=str(images), size=16, rotate=False, test_fraction=0.5
        )
        config.network.update(widths=(8,), patch=4, groups=2)
        config.train.update(steps=3, batch=4)
        config.distill.update(steps=2, batch=4, bridge_updates=1)
        config.evaluate.update(images=8, batch=8, pictures=2, metrics=("psnr",))
        config.evaluate.update(teacher_nfe=(1, 2), student_nfe=(1, 2))
        return config

    monkeypatch.setattr(jb, "get_config", get_config)
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (60, 70, 3), np.uint8)
    Image.fromarray(pixels).save("photo.jpg")
    return images


# -- examples in docstrings -------------------------------------------------------------------------


def with_examples() -> list[str]:
    found = [m.name for m in pkgutil.walk_packages([str(ROOT / "jax_bridges")], "jax_bridges.")]
    files = {name: ROOT / Path(*name.split(".")) for name in found if "__main__" not in name}

    def text(path: Path) -> str:
        return (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text()

    return ["jax_bridges", *(name for name, path in files.items() if ">>> " in text(path))]


LONG = (
    "jax_bridges.trained",
    "jax_bridges.restoring.restorer",
)  # they compile a network that ships


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] * (n in LONG)) for n in with_examples()],
)
def test_examples_in_docstrings_are_true(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert found.attempted > 0 and found.failed == 0


# -- examples/ ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_train_sample_distil_restore_in_fifteen_lines(small):
    text = (EXAMPLES / "first.py").read_text()
    lines = [line for line in text.splitlines()[1:] if line.strip()]
    assert len(lines) <= 15
    space: dict = {}
    exec(compile(text, "first.py", "exec"), space)
    assert Path("runs/first/report.html").is_file()
    assert space["by_teacher"].shape == space["by_student"].shape == (6, 16, 16, 3)
    restored, given = (np.asarray(Image.open(p)) for p in ("runs/restored.png", "photo.jpg"))
    changed = (restored != given).any(-1)
    assert changed[30:46, 40:56].mean() > 0.9
    changed[30:46, 40:56] = False
    assert not changed.any()
    assert Image.open("runs/first.png").size[0] > 4 * 128


def test_notebooks_hold_no_outputs():
    assert {p.stem for p in NOTEBOOKS} == {"gaussians", "distil_gaussians", "your_photographs"}
    for path in NOTEBOOKS:
        notebook = json.loads(path.read_text())
        assert notebook["nbformat"] == 4 and notebook["cells"][0]["cell_type"] == "markdown"
        cells = code_cells(path)
        assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
        assert sum("parameters" in cell["metadata"].get("tags", ()) for cell in cells) == 1
        assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
        assert path.stat().st_size < 20_000


@pytest.mark.slow
def test_the_notebook_of_a_bridge(pyplot):
    space = run_notebook(EXAMPLES / "gaussians.ipynb", points=400, steps=60)
    found, true = space["found"], space["spread"](space["x0"])
    assert abs(true - 0.2) < 0.015
    for row in (found["ancestral"], found["dbim"], found["dbim3"]):
        assert abs(row[50] - true) < 0.02 < abs(row[2] - true)
    losses = np.asarray(space["losses"])
    assert losses[-10:].mean() < 0.6 * losses[:3].mean()
    assert len(pyplot.get_fignums()) == 4


def test_the_notebook_of_ibmd(pyplot):
    """The whole of it takes the generator to 0.80, 0.30 and 0.00; a part of it, that way."""
    space = run_notebook(EXAMPLES / "distil_gaussians.ipynb", steps=60, updates=5, batch=256)
    spread = space["by_teacher"]
    assert spread[1] < 1e-4 and spread[2] < spread[10] < spread[100] < 0.3
    history = {name: np.asarray(values) for name, values in space["history"].items()}
    assert len(history["w"]) == 60 and history["w"][-1] > 0.35 > 0.2 < history["w"][0]
    assert abs(history["m"][-1]) < abs(history["m"][0])


@pytest.mark.slow
def test_the_notebook_of_photographs(small):
    short = dict(size=16, widths=(8,), train_steps=3, distil_steps=2, nfe=(1, 2))
    names = dict(folder=str(small), picture="photo.jpg", workdir="runs/mine")
    space = run_notebook(EXAMPLES / "your_photographs.ipynb", **short, **names)
    assert space["report"].is_file() and Path("runs/mine/restored.png").is_file()
    assert set(space["psnr"]) == {"source", "teacher, dbim, 10", "student, 1"}
    assert all(5 < value < 40 for value in space["psnr"].values())
