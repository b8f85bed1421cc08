"""Configurations by name, the wheel that has them, and the one command for all."""

from __future__ import annotations

import subprocess
import sys

import pytest

import jax_bridges as jb
from jax_bridges import __main__ as console
from jax_bridges import __version__, configurations
from jax_bridges.command_line import read_config
from jax_bridges.config import base_config
from tests.support import ROOT

CONFIGS = ROOT / "configs"


def test_names_are_those_of_the_files():
    assert set(configurations.named()) == {path.stem for path in CONFIGS.glob("*.py")}
    assert {"inpaint", "superres", "photos", "em"} <= set(configurations.named())


def test_a_name_is_its_file_wherever_one_is(tmp_path, monkeypatch):
    """The same configuration, by name and by file, with and without a variant."""
    monkeypatch.chdir(tmp_path)
    for text in ("inpaint", "inpaint:long", "photos:jpeg"):
        name, colon, variant = text.partition(":")
        file = f"{CONFIGS / name}.py{colon}{variant}"
        asked = [f"--config={text}", "--config.train.steps=7"]
        monkeypatch.setattr(sys, "argv", ["", *asked])
        by_name = read_config(asked)
        assert by_name.train.steps == 7
        by_file, by_python = jb.get_config(file), jb.get_config(text)
        by_file.train.steps = by_python.train.steps = 7
        assert by_name.to_json() == by_file.to_json() == by_python.to_json()
    assert jb.get_config("inpaint:long").to_json() != jb.get_config("inpaint").to_json()


def test_a_file_comes_before_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "inpaint").mkdir()  # a folder is none
    assert jb.get_config("inpaint").task == "inpaint"
    own = "from jax_bridges import base_config\n\ndef get_config(variant='none'):\n    c = base_config()\n"
    (tmp_path / "mine.py").write_text(own + "    c.task = f'mine_{variant}'\n    return c\n")
    assert jb.get_config("mine.py").task == "mine_none"
    assert jb.get_config("mine.py:x:y").task == "mine_x:y"
    assert set(jb.get_config("mine.py")) == set(base_config())


@pytest.mark.parametrize(
    "text, words",
    [
        ("inpant", "Unknown configuration 'inpant': choose one of .*Did you mean 'inpaint'"),
        (
            "configs/inpaint.py",
            "There is no file configs/inpaint.py here; .* is --config=inpaint.$",
        ),
        ("configs/inpaint.py:long", "is --config=inpaint:long.$"),
        ("inpaint:no", "Unknown variant of configs/inpaint.py 'no'"),
        ("notes.txt", "notes.txt is no Python file"),
    ],
)
def test_what_is_not_there_is_one_sentence(text, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ValueError, match=words):
        jb.get_config(text)
    if text != "notes.txt":
        monkeypatch.setattr(sys, "argv", ["", f"--config={text}"])
        with pytest.raises(ValueError, match=words):
            read_config([f"--config={text}"])
    with pytest.raises(FileNotFoundError):
        jb.get_config("nowhere/mine.py")


def test_the_wheel_has_them(tmp_path):
    """Built, without installing, as pip does it: modules, configurations, and what they read."""
    pytest.importorskip("setuptools", reason="setuptools is not installed")
    code = (
        "import warnings; warnings.simplefilter('ignore'); import setuptools; "
        "from distutils.core import run_setup; d = run_setup('setup.py', ['-q'], stop_after='init'); "
        "b = d.get_command_obj('build_py'); d.parse_config_files(); "
        f"b.build_lib = {str(tmp_path)!r}; b.ensure_finalized(); b.run()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    built = tmp_path / "jax_bridges"
    for source in CONFIGS.glob("*.py"):
        assert (built / "configs" / source.name).read_bytes() == source.read_bytes()
    assert {p.name for p in tmp_path.iterdir()} == {"jax_bridges"}
    source = ROOT / "jax_bridges"
    modules = {p.relative_to(source) for p in source.rglob("*.py")}
    made = {p.relative_to(built) for p in built.rglob("*.py")}
    assert modules == {p for p in made if p.parts[0] != "configs"}
    for name in (
        *(
            f"shipped/photos_{task}.safetensors"
            for task in ("denoise", "inpaint", "jpeg", "superres")
        ),
        "painting/page.html",
        "report/published.csv",
    ):
        assert (built / name).is_file()


# -- the one command ---------------------------------------------------------------------------------


def entry(monkeypatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["jax_bridges", *arguments])
    console.entry()


def test_help_names_every_command(monkeypatch, capsys):
    for arguments in ((), ("--help",), ("-h",)):
        entry(monkeypatch, *arguments)
        said = capsys.readouterr().out
        for name in console.COMMANDS:
            assert f"    jax_bridges {name}" in said
    command = f"{sys.executable} -m jax_bridges | head -1"
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.startswith("    jax_bridges --config=inpaint ") and done.stderr == ""
    modules = {p.stem for p in (ROOT / "jax_bridges").glob("*.py")} | {"import_torch"}
    assert set(console.COMMANDS) <= modules


def test_a_command_is_its_module(monkeypatch, capsys):
    with (
        pytest.raises(SystemExit) as left,
        pytest.warns(RuntimeWarning, match="found in sys.modules"),
    ):
        entry(monkeypatch, "settings", "train.batch")
    assert left.value.code == 0 and capsys.readouterr().out.startswith("train.batch = 32")
    with pytest.raises(SystemExit) as left:
        entry(monkeypatch, "restor")
    assert "Unknown command 'restor': one of restore, paint" in left.value.code
    assert left.value.code.endswith("Did you mean 'restore'?")


def test_the_version_comes_before_anything_heavy(monkeypatch):
    heavy = "; print([m for m in ('jax', 'numpy', 'absl') if m in sys.modules])"
    code = "import sys\ntry:\n    from jax_bridges.__main__ import entry; entry()\nexcept SystemExit: 0"
    command = [sys.executable, "-c", code + heavy, "--version"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    first, second = done.stdout.splitlines()
    assert first.startswith(f"jax_bridges {__version__}, jax 0.") and ", Python 3." in first
    assert second == "[]" and done.stderr == ""


def test_every_command_says_its_version(capsys):
    from jax_bridges import restore

    with pytest.raises(SystemExit) as left:
        restore.main(["--version"])
    assert left.value.code == 0
    assert capsys.readouterr().out.startswith(f"jax_bridges {__version__}, jax ")
