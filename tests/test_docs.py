"""What the documentation says is so: commands are read by the real parsers, Python is run, names are there."""

from __future__ import annotations

import configparser
import json
import re

import griffe
import numpy as np
import pytest
from PIL import Image

import jax_bridges.main
from jax_bridges import settings
from jax_bridges.training.system import System
from tests.support import ROOT, config_files, pages, restorers, runs, typed
from tests.support.pages import PAGES
from tools import site_doctests, site_hooks

CONFIGS = tuple(f"configs/{name}.py" for name in ("inpaint", "zero_shot", "compare", "em"))
SHELL = [page for page in PAGES if pages.blocks(page, "sh")]
PYTHON = [page for page in PAGES if pages.blocks(page, "python") and page != "CONTRIBUTING.md"]


@pytest.mark.parametrize("page", SHELL)
def test_commands_are_read_by_the_program(page):
    for block in pages.blocks(page, "sh"):
        for command in pages.lines(block):
            typed.check(command)


def test_a_command_that_does_not_work_is_found():
    for command in (
        "python -m jax_bridges.main --config=configs/inpaint.py --config.train.stepps=3",
        "python -m jax_bridges.main --config=configs/inpaint.py:longer",
        "python -m jax_bridges.main --config=configs/inpaint.py --config.train.mode=bridges",
        "python -m jax_bridges.restore runs/inpaint in.png out.png --masks=mask.png",
        "python -m jax_bridges.restore runs/p in.png out.png --solver=ddnm --operator=superes",
        "python -m jax_bridges.reference STATS.npz --config=configs/no.py --split=train",
        "launch/local.sh --cpus 8 -- --config=configs/inpaint.py",
        "pip install '.[gpu]'",
        "conda install jax_bridges",
    ):
        with pytest.raises((pytest.fail.Exception, AssertionError, ValueError)):
            typed.check(command)


@pytest.mark.parametrize("page", [page for page in PAGES if page != "CONTRIBUTING.md"])
def test_settings_files_and_commands_within_a_line_are_there(page):
    keys = {row.key for row in settings.rows()}
    sections = {key.rpartition(".")[0] for key in keys} - {""}
    for span in pages.spans(page):
        if re.match(r"--config\.[\w.]+=", span):
            typed.check_settings(span, CONFIGS)
        elif span.startswith("python -m "):
            typed.check(span)
        elif re.match(r"(jax_bridges|configs|tests|tools|launch|results|benchmarks|docs)/", span):
            path, _, variant = span.partition(":")
            assert any(ROOT.glob(path)), span
            if variant and variant != "TASK":
                config_files.read(f"{path.removeprefix('configs/').removesuffix('.py')}:{variant}")
        elif (
            re.fullmatch(r"[a-z_]+(\.(?!py$)[a-zA-Z_]+)+", span) and span.split(".")[0] in sections
        ):
            # A setting, or a group of them; what a bridge or network brings is checked by its name.
            part, _, own = span.partition(".")
            named = settings.PARTS.get(part, ())
            brought = {row.key for name in named for row in settings.part_rows(part, name)}
            assert span in keys | sections or own in brought, span


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", pages.prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        place, _, anchor = target.partition("#")
        file = (PAGES[page].parent / place).resolve() if place else PAGES[page]
        assert file.exists() or place.startswith("api/"), target
        assert not anchor or anchor in pages.anchors(file), target


def test_each_equation_is_where_the_page_of_papers_says():
    rows = re.findall(r"^\|.*\|.*\| (.*) \|$", PAGES["docs/papers.md"].read_text(), re.MULTILINE)
    places = [place for row in rows[1:] for place in row.split("; ")]
    assert len(places) > 40
    for place in places:
        names = re.findall(r"`([^`]+)`", place)
        text = (ROOT / "jax_bridges" / names[0]).read_text()
        for name in names[1:]:
            assert re.search(rf"^ *(def|class) {name}\b|^{name} = ", text, re.MULTILINE), place


def test_a_readme_is_read_to_its_end():
    words = re.findall(r"[A-Za-z]+", pages.prose("README.md"))
    assert 300 < len(words) < 900


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with what the examples name: runs, a prior, pictures, masks."""
    folder = tmp_path_factory.mktemp("world")
    for name, size in (("photo.jpg", (40, 24)), ("small.png", (16, 16))):
        Image.fromarray(restorers.photograph(size[1], size[0])).save(folder / name)
    mask = np.zeros((24, 40), np.uint8)
    mask[8:14, 10:18] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    (folder / "photos").mkdir()
    for i in range(24):
        Image.fromarray(restorers.photograph(16, 16, seed=i)).save(folder / "photos" / f"{i}.png")
    jax_bridges.main.run(runs.tiny(folder / "photos"), folder / "runs" / "inpaint")

    prior = restorers.tiny()
    prior.corruption, prior.keep_known = {"name": "identity"}, False
    prior.bridge, prior.preconditioning = {"name": "ddpm"}, {"name": "unit_variance"}
    prior.network.conditional = False
    recorded = json.loads(prior.to_json_best_effort())
    place = folder / "runs" / "zero_shot"
    restorers.save_player(place, "train", "teacher", System.create(prior), recorded, spread=0.04)
    return folder


@pytest.mark.slow
@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("page", PYTHON)
def test_python_runs(page, world, tmp_path, monkeypatch):
    for entry in world.iterdir():  # each page writes for itself
        (tmp_path / entry.name).symlink_to(entry)
    monkeypatch.chdir(tmp_path)
    # The run that is there, of seconds, instead of ten minutes.
    config = runs.tiny(world / "photos")
    monkeypatch.setattr(jax_bridges, "get_config", lambda text: config)
    name = "page_" + re.sub(r"\W", "_", page)
    pages.run_python(page, pages.blocks(page, "python"), name)


# -- the site -----------------------------------------------------------------------------------------


def test_every_page_is_in_the_navigation():
    text = (ROOT / "mkdocs.yml").read_text()
    listed = re.findall(r": ([\w/]+\.md)$", text, re.MULTILINE)
    guide = {"Guide": []}
    site_hooks.add_left_out([{"Start": "index.md"}, guide], ["index.md", "new.md", "results/a.md"])
    assert guide == {"Guide": ["new.md"]}
    own = {path.name for path in (ROOT / "docs").glob("*.md")}
    assert len(listed) == len(set(listed))
    assert set(listed) <= own | set(site_hooks.COPIED) | {"api/index.md"}


def test_all_of_the_mathematics_and_the_face_are_in_the_api():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    pure = setup["importlinter:contract:pure"]["source_modules"].split()
    shown = {module for _, modules in site_hooks.API.values() for module in modules}
    assert {"jax_bridges", *pure} <= shown


def test_a_public_name_without_a_docstring_ends_the_build(tmp_path, monkeypatch):
    (tmp_path / "house.py").write_text(
        '"""A house."""\n\n__all__ = ["told", "bare", "Half", "Filled"]\n\n'
        'def told():\n    """Yes."""\n\ndef bare(): ...\n\ndef left_out(): ...\n\n'
        'class Half:\n    """Half."""\n\n    def bare(self): ...\n    def _private(self): ...\n\n'
        'class Filled(Half):\n    """As its base."""\n\n    def bare(self): ...\n'
    )
    house = griffe.load("house", search_paths=[tmp_path])
    assert site_hooks.undocumented(house) == ["house.bare", "house.Half.bare"]


def test_examples_of_docstrings_are_blocks_of_code():
    text = "A thing.\n\n>>> 1 + 1\n2\n>>> 3\n3\n\nArgs:\n  x: y.\n\n>>> 4\n4"
    assert site_doctests.fenced(text) == (
        "A thing.\n\n```pycon\n>>> 1 + 1\n2\n>>> 3\n3\n```\n\nArgs:\n  x: y.\n\n```pycon\n>>> 4\n4\n```"
    )


@pytest.mark.slow
def test_the_site_is_built(tmp_path):
    """Strictly: broken links, unknown pages and bare names end it; and no page asks another machine."""
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path), strict=True))
    made = {str(p.relative_to(tmp_path)): p.read_text() for p in tmp_path.rglob("*.html")}
    assert {"index.html", "contributing.html", "api/bridges.html", "results/coverage.html"} <= set(
        made
    )
    assert "sample_dbim" in made["api/samplers.html"]
    assert "<blockquote>" not in made["api/face.html"]
    for page, text in made.items():
        asked = re.findall(r'<(?:script|img)[^>]* src="(https?:[^"]*)', text)
        asked += re.findall(r'<link rel="stylesheet" href="(https?:[^"]*)', text)
        assert not asked, (page, asked)
