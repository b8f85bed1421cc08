"""The first seconds of a command: its first line, Ctrl-C, and what it says while it compiles."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import nullcontext

import pytest

from jax_bridges import starting
from tests.support.runs import ROOT, tiny, write_config

BEGUN = "import signal, sys, time; from jax_bridges import starting; starting.begin(); "


def python(code: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip


def test_the_first_line_comes_before_anything_heavy_is_imported():
    code = BEGUN + "print([m for m in ('jax', 'numpy', 'absl') if m in sys.modules])"
    said, _ = python(code).communicate(timeout=60)
    assert said.splitlines() == ["jax_bridges 0.1.0: loading", "[]"]


@pytest.mark.parametrize("name", ["benchmark", "export", "measure", "pack", "reference", "table"])
def test_commands_begin_before_they_import(name):
    text = (ROOT / "jax_bridges" / f"{name}.py").read_text()
    assert text.index("\n    begin()\n") < text.index("\nimport ")


def test_ctrl_c_ends_a_command_while_it_compiles(images, tmp_path):
    """The main thread is in the compiler then, and its own handlers would have to wait."""
    config = tiny(images, **{"network.widths": (16, 16), "network.blocks": 6})
    command = [sys.executable, "-m", "jax_bridges.main", f"--workdir={tmp_path / 'run'}"]
    quick = {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "false"}
    process = subprocess.Popen(
        [*command, f"--config={write_config(config, tmp_path)}"], cwd=ROOT,
        env={**os.environ, **quick}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        said = [process.stdout.readline()]
        while said[-1] and not said[-1].startswith("compiling "):
            said.append(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert said[0].endswith("loading\n")
    assert re.fullmatch(r"compiling the first weights of train, \d+ s\n", said[-1])
    last = "stopped before the first step: nothing is lost, the same command starts again\n"
    assert rest == last and process.returncode == 130
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["a file", "a folder"])
def test_ctrl_c_leaves_nothing_half_written(kind, tmp_path):
    """The process ends without a `finally` then; what was there before stays."""
    (tmp_path / "a.png").write_text("before")
    code = BEGUN + "from jax_bridges.io.atomic import open_atomic\n"
    if kind == "a file":
        code += (
            f"with open_atomic({str(tmp_path / 'a.png')!r}) as file:\n file.write(bytes(10**5))\n"
        )
    else:
        code += f"place = {str(tmp_path / 'half')!r}\nwith starting.unfinished(place):\n"
        code += " import os; os.makedirs(place + '/deep'); open(place + '/deep/b', 'w').close()\n"
    process = python(code + " print('ready', flush=True); time.sleep(60)")
    assert [process.stdout.readline() for _ in range(2)][1] == "ready\n"
    assert len(os.listdir(tmp_path)) == 2
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert (said, process.returncode) == ("stopped\n", 130)
    assert os.listdir(tmp_path) == ["a.png"] and (tmp_path / "a.png").read_text() == "before"


@pytest.mark.parametrize("released", [False, True])
def test_signals_are_for_their_handlers_once_there_is_something_to_save(released):
    handler = "lambda *_: [time.sleep(1), sys.exit('saved')]"  # there is time to end it before
    code = BEGUN + f"signal.signal(signal.SIGTERM, {handler}); "
    code += "starting.stopping_says(' early'); " + "starting.release_signals(); " * released
    process = python(code + "print('ready', flush=True); time.sleep(60)")
    assert [process.stdout.readline() for _ in range(2)][1] == "ready\n"
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert (said, process.returncode) == (("saved\n", 1) if released else ("stopped early\n", 75))


def test_what_compiles_says_so_and_for_how_long(capsys, monkeypatch):
    with starting.compiling("nothing", after=5.0):
        pass
    assert capsys.readouterr() == ("", "")
    with starting.compiling("a step", after=0.01, every=0.05):
        time.sleep(0.3)
    lines = capsys.readouterr().out.splitlines()
    assert 2 <= len(lines) <= 8 and set(lines) == {"compiling a step, 0 s"}

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    with starting.compiling("a step", after=0.01):
        time.sleep(0.2)
    # One line, which is taken away at the end.
    assert sys.stderr.getvalue() == "\r\x1b[Kcompiling a step, 0 s\r\x1b[K"


def test_only_the_first_call_compiles(monkeypatch):
    told = []
    monkeypatch.setattr(starting, "compiling", lambda name: told.append(name) or nullcontext())
    call = starting.first_says("a network", lambda x: x + len(told))
    assert (call(1), call(2), told) == (2, 3, ["a network"])
