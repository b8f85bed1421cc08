"""Promises about the code itself: who imports whom, no TensorFlow, short files, docstrings."""

from __future__ import annotations

import ast
import configparser
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "jax_bridges"
FILES = sorted(PACKAGE.rglob("*.py"))


def names(files) -> list[str]:
    return [str(f.relative_to(ROOT)) for f in files]


def test_import_contracts_are_kept(monkeypatch):
    from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

    monkeypatch.chdir(ROOT)
    assert lint_imports(config_filename="setup.cfg", no_cache=True) == EXIT_STATUS_SUCCESS


def test_every_module_is_on_a_floor():
    """A new package that the contract does not know would escape it."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    layers = config["importlinter:contract:floors"]["layers"].replace(":", " ").replace("|", " ")
    known = {name.removeprefix("jax_bridges.") for name in layers.split()}
    found = {p.stem for p in PACKAGE.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert found - {"__init__"} <= known


def test_the_contract_is_able_to_fail(tmp_path):
    """A package that breaks a floor is found: the check above is not vacuous."""
    (tmp_path / "house").mkdir()
    for name, text in (("__init__", ""), ("high", ""), ("low", "import house.high\n")):
        (tmp_path / "house" / f"{name}.py").write_text(text)
    (tmp_path / "setup.cfg").write_text(
        "[importlinter]\nroot_package = house\n[importlinter:contract:floors]\nname = floors\n"
        "type = layers\nlayers =\n    house.high\n    house.low\n"
    )
    code = "import sys; from importlinter.cli import lint_imports as f; sys.exit(f('setup.cfg', no_cache=True))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 1 and "BROKEN" in done.stdout


def test_tensorflow_is_not_imported():
    code = (
        "import sys, jax_bridges.main; from jax_bridges.stages.log import MetricsLog; "
        "import tempfile, pathlib; MetricsLog(pathlib.Path(tempfile.mkdtemp())).close(); "
        "print([m for m in sys.modules if m.split('.')[0] in ('tensorflow', 'torch', 'keras')])"
    )
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_files_are_short():
    long = [file for file in FILES if len(file.read_text().splitlines()) > 400]
    assert names(long) == []


def test_what_classes_promise_is_documented():
    """Public methods of classes without a base: all else is ruff's (D1 in pyproject.toml)."""
    bare = [
        f"{file.name}: {node.name}.{method.name}"
        for file in FILES
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.ClassDef) and not node.bases and not node.name.startswith("_")
        for method in node.body
        if isinstance(method, ast.FunctionDef) and not method.name.startswith("_")
        if not ast.get_docstring(method) and not is_stub(method)
    ]
    assert bare == []


def is_stub(function) -> bool:
    """`def f(...): ...`, as protocols declare."""
    return all(isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant) for n in function.body)


def test_what_a_subclass_must_have_is_abstract():
    """Not an error that waits until it is called."""
    left = [f for f in FILES if "raise NotImplementedError" in f.read_text()]
    assert names(left) == []
