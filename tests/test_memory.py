"""What a device holds, known before step 1: exact bytes, how they shrink, and what is refused."""

from __future__ import annotations

import dataclasses
import functools
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh

import jax_bridges.main
from jax_bridges.config import base_config
from jax_bridges.planning.abstract import (
    abstract_params,
    abstract_run,
    abstract_state,
    lower,
)
from jax_bridges.planning.memory import (
    GIB,
    Held,
    advice,
    device_bytes,
    held_by,
    held_state,
    refuse_too_large,
)  # fmt: skip
from jax_bridges.planning.plan import describe, plan_config
from jax_bridges.stages.distill import distill
from jax_bridges.stages.train import train
from jax_bridges.training.optimizers import make_optimizer
from jax_bridges.training.parallel import Parallel
from jax_bridges.validation import validate
from tests.support.config_files import read
from tests.support.processes import environment
from tests.support.runs import silent_backend, tiny

ROOT = Path(__file__).parents[1]
ROW = "inpaint:imagenet256_i2sb"  # 552.8 million parameters, as IBMD's Table 7 has them
COUNTERS = 64  # bytes at most, of an optimiser's own counts


def mesh_of(devices: int, fsdp: int) -> Parallel:
    """A mesh of devices that are not there."""
    return Parallel("fsdp", AbstractMesh((devices // fsdp, fsdp), ("data", "fsdp")))


def stages(config, parallel):
    """The run and both of its stages, from shapes."""
    run = abstract_run(config, parallel)
    return run, train(run), distill(run, abstract_params(run.system, "teacher"))


def size(tree) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


# -- bytes -----------------------------------------------------------------------------------------
def test_bytes_of_a_state_are_exact():
    """Adam: a player is parameters, their average and twice their size; the teacher is read only."""
    run, first, second = stages(base_config(), mesh_of(1, 1))
    teacher = size(abstract_params(run.system, "teacher"))
    both = sum(size(abstract_params(run.system, n)) for n in ("generator", "bridge_net"))
    held = held_state(run, first)
    assert (held.parameters, held.averages, held.frozen) == (teacher, teacher, 0)
    assert 2 * teacher < held.optimiser <= 2 * teacher + COUNTERS
    held = held_state(run, second)
    assert (held.parameters, held.averages, held.frozen) == (both, both, teacher)
    assert 2 * both < held.optimiser <= 2 * both + 2 * COUNTERS
    assert held.state == held.total == 2 * both + teacher + held.optimiser and held.work is None


def test_state_bytes_fall_as_one_over_fsdp():
    """The two players of ADM-256 on meshes of 8 and 64 devices, within 5% of whole / fsdp."""
    shapes = abstract_state(*half_a_billion())
    whole = held_by(mesh_of(8, 1), *shapes).state
    print(f"\nIBMD of ADM-256, replicated: {whole / GIB:.2f} GiB of state a device")
    assert whole == pytest.approx(36 * 552.81e6, rel=0.01)
    for devices, fsdp in ((8, 2), (8, 4), (8, 8), (64, 8), (64, 16), (64, 64)):
        state = held_by(mesh_of(devices, fsdp), *shapes).state
        print(f"{devices} devices, fsdp {fsdp}: {state / GIB:.3f} GiB a device")
        assert state == pytest.approx(whole / fsdp, rel=0.05), (devices, fsdp)


@functools.cache
def half_a_billion():
    """A paper's run and its second stage, on eight devices that are not there; not to be changed."""
    return two(read(ROW), 8, 1)


def two(config, devices, fsdp):
    """The run and its second stage on a mesh that is not there."""
    run, _, second = stages(config, mesh_of(devices, fsdp))
    return run, second


def test_bfloat16_moments_halve_one_of_them_and_change_nothing_where_b1_is_0():
    config = base_config()
    full = held_state(*two(config, 1, 1))
    for name in ("optimizer", "bridge_optimizer"):
        config.distill[name].moment_dtype = "bfloat16"
    half = held_state(*two(config, 1, 1))
    assert full.optimiser - half.optimiser == full.parameters // 2
    assert dataclasses.replace(half, optimiser=full.optimiser) == full

    grads = [{"a": jnp.asarray(g)} for g in np.random.default_rng(0).normal(size=(5, 7))]
    ends = {}
    for b1 in (0.0, 0.9):
        for dtype in ("float32", "bfloat16"):
            settings = config.distill.optimizer.copy_and_resolve_references()
            settings.update(dict(b1=b1, moment_dtype=dtype, warmup=0))
            optimizer = make_optimizer(settings, 10)
            params, state = {"a": jnp.ones(7)}, optimizer.init({"a": jnp.ones(7)})
            for g in grads:
                updates, state = optimizer.update(g, state, params)
                params = jax.tree.map(jnp.add, params, updates)
            ends[b1, dtype] = np.asarray(params["a"])
    np.testing.assert_array_equal(ends[0.0, "float32"], ends[0.0, "bfloat16"])
    assert 0 < np.abs(ends[0.9, "float32"] - ends[0.9, "bfloat16"]).max() < 1e-5

    config.distill.optimizer.name = "radam"
    with pytest.raises(ValueError, match="radam keeps its moments in float32"):
        validate(config)


# -- what is refused, and what is to be done -------------------------------------------------------
def test_limit_of_a_device():
    assert device_bytes(16) == 16 * 2**30
    known = jax.local_devices()[0].memory_stats() or {}
    assert device_bytes(0.0) == known.get("bytes_limit")


def test_ibmd_of_half_a_billion_parameters_is_refused_on_16_gib():
    """Replicated it cannot be; in eight shards it can."""
    run, second = half_a_billion()
    held = dataclasses.replace(held_state(run, second), limit=16 * GIB)
    with pytest.raises(ValueError) as caught:
        refuse_too_large(run, second, held)
    said = str(caught.value)
    print("\n" + said)
    assert said.startswith("distill: a device would hold 18.5 GiB (parameters 4.12, averages 4.12")
    assert "and has 16 GiB. Set parallel.fsdp=4 with parallel.mode=fsdp (4.6" in said
    assert "distill.optimizer.moment_dtype=bfloat16 and distill.bridge_optimizer" in said
    assert "remat" not in said  # that would not make the state any smaller
    sharded = held_by(mesh_of(8, 8), *abstract_state(run, second))
    refuse_too_large(run, second, dataclasses.replace(sharded, limit=16 * GIB))


def test_activations_that_do_not_fit_have_other_remedies():
    run, second = half_a_billion()
    run = dataclasses.replace(run, config=read(ROW).copy_and_resolve_references())
    run.parallel, config = mesh_of(8, 8), run.config
    config.network.remat, config.network.dtype = False, "float32"
    config.distill.microbatches = 4
    gib = 2**30
    held = Held(gib, gib, 2 * gib, gib, work=20 * gib, limit=16 * gib)
    said = advice(run, second, held)
    for words in (
        "network.remat=True", "network.dtype=bfloat16",
        "distill.microbatches=8 (4 images at a time instead of 8)", "moment_dtype",
    ):  # fmt: skip
        assert words in said, words
    assert "parallel.fsdp" not in said  # it is as high as it can be
    with pytest.raises(
        ValueError, match="distill: a device would need 25 GiB .*activations 20 GiB"
    ):
        refuse_too_large(run, second, held)
    refuse_too_large(
        run, second, dataclasses.replace(held, limit=None)
    )  # a device that does not say
    refuse_too_large(run, second, dataclasses.replace(held, limit=25 * gib))


@pytest.mark.parametrize("mib, words", [(0.01, "would hold"), (1.0, "would need")])
def test_a_run_that_cannot_fit_leaves_nothing(images, tmp_path, mib, words):
    """Neither what is known from shapes nor what the compiled step needs."""
    config = tiny(images, **{"parallel.device_gib": mib / 1024})
    with pytest.raises(ValueError, match=f"train: a device {words}"):
        jax_bridges.main.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_compiler_that_refuses_itself(images, tmp_path, monkeypatch):
    """A TPU's does: the same sentence, not its own, and nothing is left. Other errors pass."""
    said = (
        "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.50G of 15.75G hbm. "
        "Exceeded hbm capacity by 4.75G."
    )

    def refuse(self, *_, **__):
        raise jax.errors.JaxRuntimeError(said)

    config = tiny(images, **{"parallel.device_gib": 15.75})
    monkeypatch.setattr(jax.stages.Lowered, "compile", refuse)
    with pytest.raises(ValueError, match="train: a device would need 20.5 GiB .* has 15.8 GiB. "):
        jax_bridges.main.run(config, tmp_path / "run")
    said = "INTERNAL: something else"
    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        jax_bridges.main.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_gpu_that_runs_out_of_memory(images, tmp_path, monkeypatch):
    """At a first step, for its compiler counts nothing: one sentence with advice, and nothing is left."""
    said = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 20.00GiB."

    def refuse(*_):
        raise jax.errors.JaxRuntimeError(said)

    monkeypatch.setattr(jax.stages.Compiled, "__call__", refuse)
    with (
        silent_backend(),
        pytest.raises(ValueError, match="train: a device ran out of .* Set train."),
    ):
        jax_bridges.main.run(tiny(images), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_plan_whose_compiler_does_not_say(monkeypatch):
    config, parallel = tiny("."), Parallel.create("fsdp")
    silent = SimpleNamespace(memory_analysis=lambda: None)
    monkeypatch.setattr("jax_bridges.planning.plan.compile_step", lambda run, stage: silent)
    plan = plan_config(config, parallel, ("train",), compiled=True, tell=str)
    assert plan.stages[0].held.work is None and plan.call_flops > 0
    text = describe(plan)
    assert "TFLOP a step" in text and "does not say what a step needs besides" in text


# -- the compiler agrees ---------------------------------------------------------------------------
COMPILE = """
import json
from jax_bridges.planning.abstract import abstract_params, abstract_run, compile_step
from jax_bridges.planning.plan import plan_config
from jax_bridges.stages.distill import distill
from jax_bridges.planning.memory import held_state
from jax_bridges.stages.train import train
from jax_bridges.training.parallel import Parallel
from tests.support.config_files import read
from tests.support.runs import tiny
out = {}
for mode, fsdp in (("pmap", 1), ("fsdp", 4), ("fsdp", 8)):
    config = tiny(".", **{"distill.batch": 8, "network.widths": (256,)})
    run = abstract_run(config, Parallel.create(mode, fsdp))
    stage = distill(run, abstract_params(run.system, "teacher"))
    memory = compile_step(run, stage).memory_analysis()
    out[f"{mode} {fsdp}"] = held_state(run, stage).state, memory.argument_size_in_bytes
config = read("edges_to_image:handbags64")
config.network.update(model_channels=128, channel_mult=(1, 2), num_res_blocks=1, attention_ds=(2,))
run = abstract_run(config, Parallel.create("auto", 8))
stage = train(run)
compiled = compile_step(run, stage)
out["adm 8"] = held_state(run, stage).state, compiled.memory_analysis().argument_size_in_bytes
out["flops"] = compiled.cost_analysis()["flops"]
plan = plan_config(config, run.parallel, stages=("train",))
out["parameters"], out["planned"] = plan.parameters, plan.stages[0].flops
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def compiled_for_eight():
    """What the program above says in a process with eight devices."""
    done = subprocess.run(
        [sys.executable, "-c", COMPILE], cwd=ROOT, capture_output=True, text=True,
        env=environment(8),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.slow
def test_the_compiled_step_takes_as_many_bytes_as_was_said(compiled_for_eight):
    """Its arguments are the state, plus a batch of a few kilobytes."""
    found = {mode: compiled_for_eight[mode] for mode in ("pmap 1", "fsdp 4", "fsdp 8")}
    for said, compiled in found.values():
        assert 0 <= compiled - said < 5000
    assert found["fsdp 8"][0] < 0.2 * found["pmap 1"][0]


@pytest.mark.slow
def test_sharding_splits_the_work_and_the_state(compiled_for_eight):
    """ZeRO: of an ADM a device of eight holds an eighth of the state and does an eighth of the work."""
    found = compiled_for_eight
    said, arguments = found["adm 8"]
    batch = 2 * 192 * 64 * 64 * 3 / 8  # two images of bytes, for each example of a device
    assert 0 <= arguments - said - batch < 5000
    assert said == pytest.approx(16 * found["parameters"] / 8, rel=0.1)  # small leaves are whole
    assert found["flops"] == pytest.approx(found["planned"] / 8, rel=0.03)


@pytest.mark.slow
def test_ibmd_of_half_a_billion_parameters_lowers_for_64_devices():
    """The whole step of ADM-256, partitioned over devices that are not there, its state in shards."""
    config = read(ROW).copy_and_resolve_references()
    config.distill.microbatches = 4  # of 64 images
    run, second = two(config, 64, 64)
    text = lower(run, second).as_text()
    assert "mhlo.num_partitions = 64 :" in text
    assert text.count("stablehlo.convolution") > 1000
