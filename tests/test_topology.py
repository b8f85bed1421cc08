"""Plans for TPUs that are not there: names, what their compiler says, and (with libtpu) their bytes."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from jax_bridges.planning.memory import GIB, Held, bytes_refused
from jax_bridges.planning.network import Traffic
from jax_bridges.planning.plan import Plan, StagePlan, describe
from jax_bridges.planning.topology import compile_only_devices, read_topology
from tests.support.commands import benchmark_main

ROOT = Path(__file__).parents[1]
HERE = importlib.util.find_spec("libtpu") is not None


@pytest.mark.parametrize(
    "text, grid, devices, gib",
    [
        ("v5e:4x4", (4, 4), 16, 15.75),
        ("v5e:8x8", (8, 8), 64, 15.75),
        ("v6e:1x1", (1, 1), 1, 31.25),
        ("v4:2x2x2", (2, 2, 2), 8, 30.75),
        ("v5p:4x4x4", (4, 4, 4), 64, 95.74),
    ],
)
def test_names_of_topologies(text, grid, devices, gib):
    topology = read_topology(text)
    assert (topology.grid, topology.devices, topology.chip.gib) == (grid, devices, gib)


@pytest.mark.parametrize(
    "text, words",
    [
        ("v5e", "'v5e' is not known: give the chips along 2 axes, as in v5e:4x4."),
        ("v5e:16", "along 2 axes"),
        ("v5e:0x4", "along 2 axes"),
        ("v5e:4x4x1", "along 2 axes"),
        ("v4:2x2", "give the chips along 3 axes, as in v4:4x4x4."),
        ("v7x:2x2", "Unknown kind of TPU 'v7x'"),
        ("v5litepod-16", "Unknown kind of TPU 'v5litepod-16'"),
    ],
)
def test_names_that_are_none(text, words):
    with pytest.raises(ValueError) as caught:
        read_topology(text)
    assert words in str(caught.value)


def test_without_the_compiler(monkeypatch, capsys):
    """One sentence that says what to install, before anything is planned."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"libtpu: pip install 'jax_bridges\[tpu\]'"):
        compile_only_devices(read_topology("v5e:2x2"))
    config = "--config=configs/inpaint.py"
    status, out, error = benchmark_main(monkeypatch, capsys, "--plan", config, "--topology=v5e:2x2")
    assert (status, out) == (1, "") and "its compiler, libtpu" in error
    wrong = ("--topology=v5e:2x2", "--devices=4")
    status, out, error = benchmark_main(monkeypatch, capsys, "--plan", config, *wrong)
    assert (status, out) == (1, "") and "leave --devices out" in error
    status, out, error = benchmark_main(monkeypatch, capsys, "--plan", config, "--slices=2")
    assert (status, out) == (1, "") and "--slices goes with --topology" in error


def test_what_the_compiler_refuses():
    """Two ways to say it: of libtpu 0.0.42 for a TPU that is not there, and of reports from real ones."""
    alone = (
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
        "temporaries (480.00G) exceeds available HBM (15.75G)."
    )
    assert bytes_refused(alone) == 480 * 2**30
    together = (
        "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space "
        "hbm. Used 20.50G of 15.75G hbm. Exceeded hbm capacity by 4.75G."
    )
    assert bytes_refused(together) == 20.5 * 2**30
    assert bytes_refused("INVALID_ARGUMENT: something else (3.00G)") is None


def test_a_plan_for_chips():
    """197 TFLOP in all on 4 chips of 197 TFLOP/s: a quarter of a second at least."""
    held = Held(GIB, GIB, 2 * GIB, 0, limit=int(15.75 * GIB))
    stage = StagePlan("train", 10, 8, 0, 197e12, held)
    plan = Plan(
        "sr", "photos of 64x64", "unet, float32", "4 x TPU v5 lite", 2_000_000, 3e9, 4, (stage,)
    )
    topology = read_topology("v5e:2x2")
    assert describe(plan, topology).splitlines() == [
        "task       sr: photos of 64x64",
        "network    unet, float32, 2.00M parameters, 3 GFLOP a call and image",
        "devices    4 x TPU v5 lite",
        "train      10 steps of 8 images, 197 TFLOP a step, which take no less than 0.25 s",
        "           a device of 15.75 GiB holds 4 GiB (parameters 1, averages 1, optimiser 2 GiB) "
        "and what a step needs besides",
        "training   1.97e+15 FLOP, no less than 0.00278 chip-hours",
    ]
    large = dataclasses.replace(held, work=16 * GIB)
    large = dataclasses.replace(stage, held=large, compiled=3.0, problem="Set network.remat=True.")
    said = describe(dataclasses.replace(plan, stages=(large,)), topology).splitlines()[4:6]
    assert said[0].endswith("holds 20 GiB (parameters 1, averages 1, optimiser 2, activations 16 GiB), "
                            "compiled in 3 s")  # fmt: skip
    assert said[1].strip() == "It does NOT fit. Set network.remat=True."


def test_a_plan_says_what_the_links_carry():
    """In units that a person would use, and which of two networks is the slower."""
    held = Held(GIB, GIB, 2 * GIB, 0, limit=int(15.75 * GIB))
    one = Traffic({"ICI": 2 * GIB, "DCN": 0.0}, {"ICI": 512 * 2**20, "DCN": 0.0}, 0.0123, "ICI")
    two = dataclasses.replace(one, reduced={"ICI": 0.0, "DCN": 3 * 2**20}, seconds=2.0, bound="DCN")
    none = Traffic({"ICI": 0.0, "DCN": 0.0}, {"ICI": 0.0, "DCN": 0.0}, 0.0, "ICI")
    said, hours = [], []
    for traffic in (one, two, none):
        stage = StagePlan("train", 10, 8, 0, 197e12, held, traffic)
        plan = Plan("sr", "photos", "unet", "32 x TPU v5 lite", 2_000_000, 3e9, 32, (stage,))
        lines = describe(plan, read_topology("v5e:4x4", 2)).splitlines()
        said.append(lines[5].strip())
        hours.append(lines[6].rpartition(" FLOP, ")[2])
    assert said == [
        "a chip hears 2 GiB of parameters and 512 MiB of sums of gradients over ICI a step, "
        "which takes no less than 0.0123 s",
        "a chip hears 2 GiB of parameters and 0 MiB of sums of gradients over ICI and 0 MiB of "
        "parameters and 3 MiB of sums of gradients over DCN a step, which takes no less than 2 s (DCN)",
        "a chip hears nothing of the others in a step",
    ]
    # Ten steps of 32 chips, of whichever takes longer: 1/32 s of arithmetic, or 2 s of the links.
    assert hours == [
        f"no less than {hours} chip-hours" for hours in ("0.00278", "0.178", "0.00278")
    ]


def test_slices_of_a_topology():
    two = read_topology("v5p:4x4x8", 2)
    assert (two.devices, two.slices, two.rings) == (256, 2, (True, True, True))
    assert read_topology("v5e:8x16").rings == (False, True)
    assert read_topology("v4:2x4x4").rings == (False, False, False)
    with pytest.raises(
        ValueError, match="between slices of v4: plan one slice, or take one of v5e"
    ):
        read_topology("v4:4x4x4", 2)


def test_a_plan_of_what_was_tried():
    """A run that goes on: what is left counts."""
    stage = StagePlan("distill", 100, 8, 40, 1e12, Held(2**20, 0, 0, 2**20, 0), None, 1.0, 60.0)
    plan = Plan("sr", "photos", "unet", "1 x cpu", 2_000_000, 3e9, 1, (stage,))
    assert describe(plan).splitlines()[3:] == [
        "distill    60 of 100 steps of 8 images, 1 TFLOP a step, 60000 ms: about 60.0 min",
        "           a device holds 2 MiB (parameters 1, frozen 1 MiB), compiled in 1 s",
        "training   about 60.0 min in all, then the evaluation; 6e+13 FLOP",
    ]


# -- with libtpu -----------------------------------------------------------------------------------
def planned(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "jax_bridges.benchmark", "--plan", "--config=configs/inpaint.py",
         "--config.network.widths=(128,)", "--config.data.size=16", "--what=train", *arguments],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(not HERE, reason="needs libtpu: pip install '.[tpu]'")
def test_a_step_compiles_for_a_tpu_that_is_not_there():
    said = planned("--topology=v5e:2x2", "--fsdp=4")
    total, work = re.search(
        r"15.75 GiB holds ([\d.]+) MiB \(.*activations ([\d.]+) MiB", said
    ).groups()
    assert 0 < float(work) < float(total)
    assert "x TPU v5 lite" in said and "compiled in" in said
    assert re.search(r"a chip hears [\d.]+ MiB of parameters and [\d.]+ MiB of sums of", said)


@pytest.mark.slow
@pytest.mark.skipif(not HERE, reason="needs libtpu: pip install '.[tpu]'")
def test_a_step_over_two_slices_is_planned_without_compiling():
    """Between the slices goes the sum of the gradients alone: of each parameter once in, once out."""
    said = planned("--topology=v5e:2x2", "--slices=2", "--fsdp=4", "--no-compile")
    assert "compiled in" not in said and "and what a step needs besides" in said
    assert "0 MiB of parameters and" in said and "over DCN a step" in said and "(DCN)" in said


@pytest.mark.skipif(not HERE, reason="needs libtpu: pip install '.[tpu]'")
def test_a_grid_that_is_no_tpu():
    with pytest.raises(ValueError, match="libtpu knows no TPU 'v5e:3x7'"):
        compile_only_devices(read_topology("v5e:3x7"))
