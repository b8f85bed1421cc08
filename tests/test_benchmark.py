"""The benchmark: numbers that agree with each other, the clock, the table, the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jax_bridges import benchmark
from jax_bridges.command_line import read_config
from jax_bridges.config import base_config
from jax_bridges.planning.abstract import abstract_run, call_flops, random_batch
from jax_bridges.training.parallel import Parallel
from tests.support.commands import benchmark_main

ROOT = Path(__file__).parents[1]
JPEG = "--config=configs/jpeg.py"


def tiny():
    config = base_config()
    config.data.size = 8
    config.network.update(widths=(8,), patch=1, groups=4)
    config.evaluate.update(batch=4, student_nfe=(1,))
    config.train.batch = config.distill.batch = 2
    config.distill.update(student_steps=1, bridge_updates=1)
    return config


def check(names: list[str], expected: dict[str, tuple[int, int]]) -> None:
    """Rows are those expected, with (images, calls) each, and rates follow from times."""
    config = tiny()
    flops = call_flops(abstract_run(config, Parallel.create()).system)
    assert flops > 1e5
    rows = list(benchmark.measure(config, names, nfe=3, repeats=2))
    assert {row["what"]: (row["images"], row["calls"]) for row in rows} == expected
    for row in rows:
        assert 0 < row["seconds"] < 10 and row["compile"] > 0
        assert row["images_per_second"] == pytest.approx(row["images"] / row["seconds"])
        assert row["tflops"] == pytest.approx(row["calls"] * flops / row["seconds"] / 1e12)
        assert row["dtype"] == "float32" and row["size"] == (8, 8)
        if row["what"] == "train":  # from weights that are random everywhere
            assert row["gradient_norm"] > 1e-3 and row["memory"] > 1e4


@pytest.mark.slow
def test_measures_without_gradients():
    few, teacher = 1, 3
    check(
        ["forward", "sample"],
        {
            "forward": (4, 4),
            f"teacher x {teacher}": (4, 4 * teacher),
            f"student x {few}": (4, 4 * few),
        },
    )


@pytest.mark.slow
def test_measures_with_gradients():
    """A step of IBMD with L = 1 sees two batches and makes (1 + 3) + (3 + 1 + 1) calls an image: x_t is a constant."""
    check(["train", "distill"], {"train": (2, 2 * 3), "distill": (4, 2 * 9)})


def test_median_leaves_the_first_call_out(monkeypatch):
    clock, calls = [0.0], []
    lasts = [100.0, 3.0, 1.0, 50.0, 2.0, 4.0]

    def call():
        clock[0] += lasts[len(calls)]
        calls.append(1)
        return jnp.zeros(())

    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: clock[0])
    assert benchmark.median_seconds(call, 5) == 3.0
    assert len(calls) == 6


def test_matmul_rate_is_operations_over_time(monkeypatch):
    monkeypatch.setattr(benchmark, "median_seconds", lambda call, repeats: 0.5)
    # Four products of 1024 x 1024 matrices.
    assert benchmark.matmul_tflops("float32") == pytest.approx(4 * 2 * 1024**3 / 0.5 / 1e12)


def test_batches_are_those_of_the_task():
    config = base_config()
    config.data.size = 8
    run = abstract_run(config, Parallel.create())
    batch = random_batch(run, (2, 3))
    assert batch["x0"].shape == (2, 3, 8, 8, 3) and batch["x0"].dtype == np.uint8
    assert batch["x0"].std() > 60  # noise over the whole range
    np.testing.assert_array_equal(batch["index"], np.arange(6).reshape(2, 3))
    assert "xT" not in batch


def test_table():
    row = dict(
        name="unet", dtype="float32", what="forward", images=32, seconds=0.0123456,
        images_per_second=2592.02, tflops=0.025, matmul_tflops=0.1, peak_tflops=0.0, compile=3.4,
    )  # fmt: skip
    assert benchmark.format_rows([row, {**row, "what": "train"}]).splitlines() == [
        "| network | dtype   | what    | images |    ms | images/s | TFLOP/s | of matmul | compile s |",
        "| ------- | ------- | ------- | -----: | ----: | -------: | ------: | --------: | --------: |",
        "| unet    | float32 | forward |     32 | 12.35 |     2592 |   0.025 |      25 % |         3 |",
        "| unet    | float32 | train   |     32 | 12.35 |     2592 |   0.025 |      25 % |         3 |",
    ]
    lines = benchmark.format_rows([{**row, "peak_tflops": 0.5}]).splitlines()
    assert "| of peak |" in lines[0] and "|     5 % |" in lines[2]


# -- command line ----------------------------------------------------------------------------------
def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "jax_bridges.benchmark", *arguments],
        cwd=ROOT, env={**os.environ, "JAX_PLATFORMS": "cpu", **environment},
        capture_output=True, text=True,
    )  # fmt: skip


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--plan"], "--plan needs --config"),
        (["--plan", "--config=configs/jpeg.py", "--what=forward"], "Unknown stage 'forward'"),
        (["--network=vit"], "Unknown network 'vit'"),
        (["--what=speed"], "Unknown measure 'speed'"),
        (["--dtype=float8"], "Unknown dtype 'float8'"),
        (["--config=configs/nope.py"], "No such file or directory: 'configs/nope.py'"),
        (["--config=configs/jpeg.py:qf7"], "Unknown variant of configs/jpeg.py 'qf7'"),
        (["--config=configs/jpeg.py", "--config.train.btch=3"], "btch"),
        (["--config=configs/jpeg.py", "--config.train.batch=x"], "train.batch is 'x': it must be"),
        (["--batchsize=3"], "batchsize"),
        (["--size=12", "--what=forward"], "data.size is 12x12"),
        (["--devices=4"], "--devices goes with --plan"),
        (["--compile"], "--compile goes with --plan"),
        (["--topology=v5e:2x2"], "--topology goes with --plan"),
        (["--network=unet", JPEG], "--network and --config both name a network"),
        (["--plan", "--network=unet", JPEG], "--network and --config both name a network"),
        (["--plan", JPEG, "--nfe=3"], "--nfe is for measuring"),
        (["--plan", JPEG, "--repeats=3"], "--repeats is for measuring"),
        (["--plan", JPEG, "--json=x.json"], "--json is for measuring"),
        (["--plan", JPEG, "--peak-tflops=0"], "--peak-tflops is for measuring"),
        (["--repeats=0"], "--repeats is 0: it must be a whole number of at least 1"),
        (["--nfe=0"], "--nfe is 0: it must be a whole number"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_mistakes_get_one_sentence(monkeypatch, capsys, tmp_path, arguments, words):
    file = tmp_path / "benchmark.json"
    results = [] if "--plan" in arguments else [f"--json={file}"]
    status, _, error = benchmark_main(monkeypatch, capsys, *arguments, *results)
    assert status == 1
    assert error.startswith("error: ") and words in error
    assert len(error.strip().splitlines()) == 1
    assert not file.exists()


@pytest.mark.slow
def test_table_and_file(monkeypatch, capsys, tmp_path):
    file = tmp_path / "deep" / "benchmark.json"
    status, out, _ = benchmark_main(
        monkeypatch, capsys, "--what=forward", "--dtype=float32,bfloat16", "--batch=2", "--repeats=1",
        "--peak-tflops=2", f"--json={file}", "--config=configs/jpeg.py", "--config.network.widths=(8,)",
    )  # fmt: skip
    assert status == 0
    written = json.loads(file.read_text())
    assert [(row["name"], row["dtype"]) for row in written["rows"]] == [
        ("jpeg", "float32"), ("jpeg", "bfloat16"),
    ]  # fmt: skip
    assert {row["images"] for row in written["rows"]} == {2}
    assert {row["peak_tflops"] for row in written["rows"]} == {2.0 * written["measured"]["devices"]}
    assert written["measured"]["versions"]["jax"] and written["measured"]["date"]
    assert "--peak-tflops=2" in written["measured"]["command"]
    assert "| jpeg    | bfloat16 | forward |" in out and "of peak" in out


def test_a_name_brings_its_settings_as_in_main(monkeypatch):
    arguments = ["--config=configs/jpeg.py", "--config.bridge.name=brownian:epsilon=0.5"]
    monkeypatch.setattr(sys, "argv", ["benchmark", *arguments])
    monkeypatch.chdir(ROOT)
    _, rest = benchmark.arguments()
    assert read_config(rest).bridge.to_dict() == {"name": "brownian", "epsilon": 0.5}


def test_options_reach_the_configuration(monkeypatch):
    arguments = ["--network=unet,i2sb256", "--batch=8", "--size=64", "--fsdp=2", "--mode=fsdp"]
    monkeypatch.setattr(sys, "argv", ["benchmark", *arguments])
    options, rest = benchmark.arguments()
    assert rest == []
    benchmark.complete_options(options, configured=False)
    assert (options.nfe, options.repeats, options.json) == (10, 5, "benchmark.json")
    found = dict(benchmark.configurations(options, None))
    assert list(found) == ["unet", "i2sb256"]
    for config in found.values():
        assert config.data.size == 64
        assert config.train.batch == config.distill.batch == config.evaluate.batch == 8
        assert config.train.microbatches == config.distill.microbatches == 1
        assert (config.parallel.fsdp, config.parallel.mode) == (2, "fsdp")
    assert found["i2sb256"].network.name == "adm"
    assert found["i2sb256"].network.dtype == "float32"


def plan_lines(*arguments: str) -> list[str]:
    done = command("--plan", "--config=configs/jpeg.py", "--devices=4", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def held(lines: list[str]) -> list[float]:
    """MiB that a device holds, of each stage."""
    lines = [line for line in lines if "a device holds " in line]
    units = {"MiB": 1, "GiB": 1024}
    words = [line.split("a device holds ")[1].split() for line in lines]
    return [float(size) * units[unit] for size, unit, *_ in words]


def test_plan_on_devices_that_are_not_there():
    """State is sharded over pretended devices."""
    wide = "--config.network.widths=(256,)"
    one, four = plan_lines(wide, "--fsdp=1"), plan_lines(wide, "--fsdp=4", "--what=train")
    stages = [[line.split()[0] for line in lines if " steps of " in line] for lines in (one, four)]
    assert stages == [["train", "distill"], ["train"]]
    (first,), (second,) = ([x for x in lines if x.startswith("devices ")] for lines in (one, four))
    assert first.startswith("devices    4 x cpu, pmap (") and "shards" not in first
    assert second.startswith("devices    4 x cpu, fsdp (") and second.endswith("in 4 shards")
    assert 0.25 < held(four)[0] / held(one)[0] < 0.3  # small leaves are not quartered


@pytest.mark.slow
def test_plan_compiles_for_devices_that_are_not_there():
    lines = plan_lines("--fsdp=4", "--compile", "--config.network.widths=(64,)")
    assert (
        len(held(lines))
        == sum("activations" in line and "compiled in" in line for line in lines)
        == 2
    )
