"""benchmarks/gpu.sh: every row is recorded however it ends, the others go on, time is kept, a second
start does the rest; the file, the table, the command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import gpu
from benchmarks.lab import schedule
from benchmarks.lab.record import Record, machine
from benchmarks.lab.rows import ROWS, Row
from benchmarks.lab.table import markdown

ROOT = Path(__file__).parents[1]
ABOUT = {
    "size": "toy",
    "machine": {"device": "H0", "driver": "1.2", "device_gib": 80.0, "cpu": "C", "cores": 4},
    "versions": {"python": "3.12.1", "jax": "0.12.0"},
}


def row(name: str, work: str = "fine", worker: str = "jax", expected=0.0, limit=30.0, **settings):
    return Row(
        name,
        f"about {name}",
        worker,
        f"tests.support.gpu_stand_ins:{work}",
        settings,
        expected,
        limit,
    )


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Starts `run_rows` on stand-ins; what it told is in `start.told`."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def begin(*rows, minutes=1.0, retry=False, size="toy"):
        begin.told = []
        record = Record(tmp_path / "out" / "gpu.jsonl")
        about, scratch = {**ABOUT, "size": size}, tmp_path / "scratch"
        left = schedule.run_rows(rows, record, about, scratch, minutes, retry, begin.told.append)
        return {line["row"]: line for line in lines(tmp_path)}, left

    return begin


def lines(tmp_path) -> list[dict]:
    file = tmp_path / "out" / "gpu.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def gone(pid: int, within: float = 10.0) -> bool:
    """Whether a process that was killed is gone: the kernel takes a moment to end it."""
    for _ in range(int(within / 0.05)):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.05)
    return False


# -- how rows end ----------------------------------------------------------------------------------
def test_each_end_is_recorded_and_the_others_go_on(start, tmp_path):
    rows = [
        row("a"), row("b"), row("out of memory", "fails"), row("c"), row("nan", "not_finite"),
        row("dead", "dies"), row("hanging", "hangs", limit=5.0), row("lacking", "lacks"),
        row("d", worker="torch"),
    ]  # fmt: skip
    found, left = start(*rows)
    assert left == [] and list(found) == [r.name for r in rows]
    assert {name: line["status"] for name, line in found.items()} == {
        "a": "ok", "b": "ok", "out of memory": "failed", "c": "ok", "nan": "failed",
        "dead": "failed", "hanging": "cut", "lacking": "left out", "d": "ok",
    }  # fmt: skip
    assert found["out of memory"]["error"] == "RuntimeError: RESOURCE_EXHAUSTED: Out of memory"
    assert found["nan"]["error"].startswith("ValueError: Out of range float")
    assert found["dead"]["error"] == "the process ended with 3: Fatal: the driver is gone"
    assert found["hanging"]["error"] == "not done after 5 s"
    assert found["lacking"]["error"].startswith("PyTorch is not installed: pip install")
    # One process for what follows each other; a new one after a failure.
    assert found["a"]["process"] == found["b"]["process"] != found["c"]["process"]
    assert gone(int((tmp_path / "scratch" / "child").read_text()))
    assert gone(found["d"]["process"])
    for line in found.values():
        assert {"date", "command", "machine", "versions", "size", "wall_seconds"} <= set(line)
    assert found["a"]["command"] == "benchmarks/gpu.sh --rows=a --toy"


def test_a_second_start_does_what_is_not_there(start):
    rows = [row("a", counter="a"), row("m", "mends"), row("h", "lacks")]
    found, _ = start(*rows)
    assert (found["a"]["begun"], found["m"]["status"]) == (1, "failed")
    found, _ = start(*rows, row("b", counter="b"))
    assert start.told[:2] == ["a: there already (ok)", "m: there already (failed)"]
    assert start.told[2].startswith("h: about h")  # what was lacking may be there now
    assert (found["a"]["begun"], found["b"]["begun"]) == (1, 1)
    found, _ = start(*rows, retry=True)
    assert (found["a"]["begun"], found["m"]["status"]) == (1, "ok")
    assert len(found) == 4
    start(row("a", counter="a"), size="full")  # another size is another row
    assert start.told[1] == "a: 250 ms, 2 TFLOP/s"


def test_no_row_is_begun_that_would_not_fit_and_none_runs_on(start, monkeypatch):
    monkeypatch.setattr(schedule, "MARGIN", 0.5)
    begun = time.monotonic()
    found, left = start(
        row("long", expected=30.0), row("short"), row("hanging", "hangs"), row("late", expected=0.1),
        minutes=4 / 60,
    )  # fmt: skip
    assert time.monotonic() - begun < 6
    assert left == ["long", "late"] and list(found) == ["short", "hanging"]
    assert found["hanging"]["status"] == "cut"
    assert start.told[0] == "long: not begun, it takes about 30 s"


def test_stopped_in_a_row_nothing_is_left_behind(start, tmp_path, monkeypatch):
    """Ctrl-C while a row hangs: raised here from what it calls now and then."""
    monkeypatch.setattr(schedule, "BEAT", 0.5)
    measure = schedule.Worker.measure

    def stop(seconds):
        if (tmp_path / "scratch" / "child").exists():
            raise KeyboardInterrupt

    monkeypatch.setattr(schedule.Worker, "measure", lambda *args: measure(*args[:-1], stop))
    with pytest.raises(KeyboardInterrupt):
        start(row("a"), row("hanging", "hangs"), row("b"))
    assert [line["row"] for line in lines(tmp_path)] == ["a"]
    assert gone(int((tmp_path / "scratch" / "child").read_text()))


# -- the file and the table ------------------------------------------------------------------------
def line(name: str, **more) -> dict:
    return {
        "row": name, "what": f"about {name}", "status": "ok", "date": "2026-11-27T10:00:00+00:00", **ABOUT, **more,
    }  # fmt: skip


def test_table_has_shares_differences_and_reasons():
    text = markdown(
        [
            line("products_jax", tflops=600.0),
            line("forward_8_jax", images=8, seconds=0.04, images_per_second=200.0, tflops=300.0,
                 compile_seconds=16.4, memory_gib=3.21),
            line("products_torch", tflops=800.0),
            line("forward_8_torch", difference=0.0123, remarks=["NCHW", "by bfloat16 alone 0.01"]),
            line("teacher_torch", loss=2.0, gradient_norm=10.0),
            line("teacher_jax", status="cut", error="not done after 200 s"),
            line("teacher_jax", loss=2.02, gradient_norm=9.5, size="full"),
            line("main_job", seconds=61.4),
        ]
    )  # fmt: skip
    assert (
        text.splitlines()[0]
        == "**H0, 80.0 GiB, driver 1.2, C, 4 cores; toy size; python 3.12.1, jax 0.12.0**"
    )
    cells = {
        c[1].strip(): [w.strip() for w in c[2:-1]]
        for c in (r.split("|") for r in text.splitlines() if "|" in r)
    }
    assert cells["row"] == [
        "images", "ms", "images/s", "TFLOP/s", "of JAX's products", "of PyTorch's", "compile s",
        "GiB", "difference", "date", "remarks",
    ]  # fmt: skip
    assert cells["about forward_8_jax"] == [
        "8", "40", "200", "300", "50 %", "38 %", "16", "3.21", "–", "2026-11-27", "",
    ]  # fmt: skip
    assert cells["about products_torch"][3:6] == ["800", "–", "–"]
    assert cells["about forward_8_torch"][8:] == [
        "0.012",
        "2026-11-27",
        "NCHW; by bfloat16 alone 0.01",
    ]
    assert cells["about main_job"][1] == "61,400"
    assert "cut: not done after 200 s" in text and text.count("full size") == 1


def test_losses_are_compared_where_there_is_no_output():
    twins = [
        line("teacher_torch_compiled", loss=2.0, gradient_norm=10.0),
        line("teacher_jax", loss=2.02, gradient_norm=9.5),
    ]
    assert " 0.05 |" in markdown(twins)
    twins[1]["status"] = "failed"
    twins[1]["error"] = "x"
    assert " 0.05 |" not in markdown(twins)


def test_a_file_that_is_no_record(tmp_path):
    path = tmp_path / "gpu.jsonl"
    path.write_text('{"row": "a"}\n')
    with pytest.raises(ValueError, match="is no file of results"):
        Record(path)


# -- the command -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "argv, words",
    [
        (["--minutes=0"], "--minutes=0: it must be above 0"),
        (["--rows=forward_9_jax"], "Unknown row 'forward_9_jax': choose of main_job, products_jax"),
        (["--rows=products_jax"], "nvidia-smi sees no GPU: --toy tries"),
    ],
)
def test_mistakes_get_one_sentence(argv, words, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))  # without nvidia-smi
    assert gpu.main([*argv, f"--out={tmp_path}"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and words in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_gpu_is_what_nvidia_says(monkeypatch, tmp_path):
    tool = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    for said, expected in {
        "echo NVIDIA H200, 580.159.03, 143771": ("NVIDIA H200", "580.159.03", 140.4),
        "echo No devices were found": None,
        "exit 9": None,
    }.items():
        tool.write_text(f"#!/bin/sh\n{said}\n")
        tool.chmod(0o755)
        found = machine()
        about = (found["device"], found["driver"], found["device_gib"])
        assert about == (expected or (found["cpu"], None, None))


def test_packages_that_are_missing_are_named(monkeypatch):
    assert gpu.missing_packages() == []
    real = gpu.importlib.metadata.version

    def version(name):
        if name in ("tensorboardX", "basemap-data", "tensorflow-datasets"):
            raise gpu.importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(gpu.importlib.metadata, "version", version)
    assert gpu.missing_packages() == ["tensorboardX"]
    with pytest.raises(ValueError, match="not installed: pip install tensorboardX$"):
        gpu.run(["--toy"])


def test_the_script_measures_and_goes_on(tmp_path):
    """gpu.sh from another folder: one row, its files, its exit code; then nothing is left to do."""
    command = [
        ROOT / "benchmarks" / "gpu.sh",
        "--toy",
        "--rows=products_jax",
        "--out=out",
        f"--scratch={tmp_path}/s",
    ]
    environment = {**os.environ, "PYTHON": sys.executable, "JAX_PLATFORMS": "cpu"}
    first, second = (
        subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        for _ in range(2)
    )
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert "products_jax: there already (ok)" in second.stdout
    (found,) = lines(tmp_path)
    assert found["tflops"] > 0 and found["versions"]["jax"] and found["machine"]["driver"] is None
    assert "matrix products, JAX" in (tmp_path / "out" / "gpu.md").read_text()


def test_rows_are_in_the_order_of_their_weight():
    names = [each.name for each in ROWS]
    assert len(set(names)) == len(names) and names[0] == "main_job"
    order = [
        "main_job", "forward_8_jax", "forward_8_torch", "teacher_jax", "ibmd_jax", "unet64_ibmd_jax",
    ]  # fmt: skip
    assert sorted(order, key=names.index) == order
    assert all(each.expected < each.limit for each in ROWS)
