"""The rows of IBMD's Table 7 as variants: published values, sizes, costs, and that they compile."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh

from jax_bridges.bridges import make_bridge
from jax_bridges.config import base_config
from jax_bridges.planning.abstract import (
    abstract_arguments,
    abstract_batch,
    abstract_params,
    abstract_run,
    abstract_state,
    bytes_per_device,
    call_flops,
    lower,
    step_flops,
)
from jax_bridges.planning.cost import count_flops
from jax_bridges.planning.plan import plan_config
from jax_bridges.platforms import aim_at
from jax_bridges.stages.distill import distill
from jax_bridges.stages.train import train
from jax_bridges.training.parallel import Parallel
from jax_bridges.validation import validate
from tests.support.config_files import load, read
from tests.support.processes import environment

ROOT = Path(__file__).parents[1]

# file:variant -> teacher's bridge, N, L, learning rate, K, z (Table 7); hours on eight A100 (Table 9).
TABLE_7 = {
    "superres:imagenet256_bicubic": ("i2sb", 1, 5, 5e-5, 3000, True, 40),
    "superres:imagenet256_pool": ("i2sb", 1, 5, 5e-5, 3000, True, 40),
    "jpeg:imagenet256_qf5": ("i2sb", 1, 5, 5e-5, 2000, True, 40),
    "jpeg:imagenet256_qf10": ("i2sb", 1, 5, 5e-5, 3000, True, 40),
    "inpaint:imagenet256_i2sb": ("i2sb", 4, 5, 5e-5, 2000, False, 24),
    "edges_to_image:handbags64": ("vp", 2, 5, 1e-5, 300, True, 1),
    "edges_to_image:handbags64_nfe1": ("vp", 1, 5, 1e-5, 14_000, True, 40),
    "normals_to_image:diode256": ("vp", 2, 5, 1e-5, 500, True, 7),
    "normals_to_image:diode256_nfe1": ("vp", 1, 5, 1e-5, 3700, True, 48),
    "inpaint:imagenet256_ddbm": ("i2sb_ddbm", 4, 1, 3e-6, 3000, True, 12),
}
ROWS = list(TABLE_7)

# What each corruption is, what the networks see, and their parameters in millions.
NETWORKS = {
    "superres:imagenet256_bicubic": ({"name": "superres", "kind": "bicubic", "factor": 4}, 552.81),
    "jpeg:imagenet256_qf5": ({"name": "jpeg", "quality": 5}, 552.81),
    "inpaint:imagenet256_i2sb": ({"name": "inpaint_center", "fill": "noise"}, 552.81),
    "inpaint:imagenet256_ddbm": ({"name": "inpaint_center", "fill": "zero"}, 553.84),
    "edges_to_image:handbags64": ({"name": "paired"}, 295.14),
    "normals_to_image:diode256": ({"name": "paired"}, 552.81),
}


def mesh_of(devices: int, fsdp: int) -> Parallel:
    """A mesh of devices that are not there."""
    return Parallel("fsdp", AbstractMesh((devices // fsdp, fsdp), ("data", "fsdp")))


def shapes(arguments):
    """Without where they lie, on a mesh that a trace knows nothing of."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), arguments)


@functools.cache
def plan_of(row: str):
    return plan_config(read(row), mesh_of(8, 8))


# -- values ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("row", ROWS)
def test_rows_hold_what_is_published(row):
    bridge, calls, ratio, rate, updates, z, _ = TABLE_7[row]
    config = read(row)
    validate(config, devices=8)
    distill = config.distill
    assert config.bridge.name == bridge
    assert (distill.student_steps, distill.bridge_updates, distill.steps) == (calls, ratio, updates)
    assert distill.optimizer.learning_rate == distill.bridge_optimizer.learning_rate == rate
    i2sb, chain = bridge == "i2sb", calls == 4 and bridge == "i2sb"
    assert distill.z_channels == (0 if not z else 3 if i2sb else 1)
    assert (distill.batch, distill.ema) == (256, 0.99)
    assert max(config.evaluate.student_nfe) == calls
    # By the released code: the one-step I2SB runs detach x_t, inpainting with I2SB renoises.
    assert distill.roll_out == ("renoised" if chain else "random")
    assert distill.detach_xt == (i2sb and not chain) and distill.ancestral == i2sb
    assert (distill.xt_from, distill.chain_ema) == (("call", True) if chain else ("source", False))
    assert distill.weight == distill.bridge_weight == ("one" if i2sb else "native")
    assert distill.weight_tilt == (2 if chain else 0 if i2sb else 1)
    assert (distill.z_per, distill.call_per) == (
        ("call", "example") if i2sb else ("chain", "microbatch")
    )
    assert (distill.start, distill.bridge_start) == (
        ("raw" if chain else "average", "raw") if i2sb else ("average", "average")
    )
    assert distill.dropout == distill.bridge_dropout == (not i2sb)
    assert not (distill.ema_warmup or distill.normalize or distill.bridge_ema or distill.gan_weight)
    assert config.network.conditional is (bridge != "i2sb")
    # Every player steps as its teacher's published optimiser does: no clipping, PyTorch's momenta.
    for optimizer in (config.train.optimizer, distill.optimizer, distill.bridge_optimizer):
        assert optimizer.name == ("adamw" if bridge == "i2sb" else "radam")
        assert (optimizer.b1, optimizer.b2, optimizer.clip) == (0.9, 0.999, 0)
        assert optimizer.warmup == 0 and optimizer.weight_decay == 0
        # Losses of 32 microbatches are added up in IBMD's code for I2SB: the same with a 32nd of eps.
        added_up = 32 if i2sb and optimizer is not config.train.optimizer else 1
        assert optimizer.eps == 1e-8 / added_up
        assert optimizer.schedule == ("i2sb" if i2sb else "constant")


@pytest.mark.parametrize("row", [row for row in ROWS if "handbags" not in row])
def test_all_but_handbags_are_256_pixels(row):
    assert read(row).data.size == 256
    assert read("edges_to_image:handbags64").data.size == 64


def test_settings_of_the_teachers():
    """I2SB sec. 1.3, DDBM sec. 2.3, DBIM sec. 3.5 of their papers' code."""
    i2sb, ddbm, dbim = (
        read(row).train
        for row in (
            "superres:imagenet256_pool", "edges_to_image:handbags64", "inpaint:imagenet256_ddbm",
        )
    )  # fmt: skip
    values = [(t.batch, t.ema, t.optimizer.learning_rate, t.steps) for t in (i2sb, ddbm, dbim)]
    assert values[0] == (256, 0.99, 5e-5, 1_000_000)
    assert values[1] == (192, 0.9999, 1e-4, 420_000)
    assert values[2] == (256, 0.9999, 1e-4, 400_000)
    assert read("normals_to_image:diode256").train.steps == 440_000
    assert [t.optimizer.schedule for t in (i2sb, ddbm, dbim)] == ["i2sb", "constant", "constant"]
    assert all((t.times, t.weight) == ("uniform", "native") for t in (i2sb, ddbm, dbim))
    assert read("edges_to_image:handbags64").network.dropout == 0.1
    assert read("inpaint:imagenet256_ddbm").network.dropout == 0.0


def test_bridges_of_the_teachers():
    # beta_max 0.3 for JPEG and super-resolution, 1.0 for inpainting: std_fwd at the end of I2SB's table.
    for row, end in (
        ("jpeg:imagenet256_qf10", 0.375536),
        ("superres:imagenet256_bicubic", 0.375536),
        ("inpaint:imagenet256_i2sb", 0.496919),
        ("inpaint:imagenet256_ddbm", 0.496919),
    ):
        table = make_bridge(**read(row).bridge).rho2_table
        np.testing.assert_allclose(np.sqrt(table[-1]), end, rtol=2e-6)
    deterministic = {row: make_bridge(**read(row).bridge).deterministic for row in ROWS}
    assert [row for row, value in deterministic.items() if value] == ["inpaint:imagenet256_i2sb"]
    vp = make_bridge(**read("normals_to_image:diode256").bridge)
    assert (vp.t_min, vp.T) == (1e-4, 1.0)
    np.testing.assert_allclose(vp.rho2(1.0), np.expm1(1.1), rtol=1e-6)  # e^B - 1, B = 0.1 t + t^2


def test_variants_do_not_inherit_what_the_small_tasks_tuned(monkeypatch):
    """A row says all that matters itself: another base gives the same row."""
    other = base_config()
    other.train.update(
        times="towards_source", weight="one", weight_max=3.0, microbatches=2, ema=0.5
    )
    other.distill.update(
        z_scale=9.0, normalize=True, weight="one", weight_max=3.0, first_call=0.9, first_time=0.8
    )
    other.distill.update(bridge_weight="one", bridge_net_sees_call=True, ema=0.5, microbatches=4)
    for optimizer in (
        other.train.optimizer,
        other.distill.optimizer,
        other.distill.bridge_optimizer,
    ):
        optimizer.update(
            name="adam", b1=0.1, b2=0.2, eps=1.0, clip=7.0, warmup=9, delay=0.5, weight_decay=0.5
        )
    other.bridge = {"name": "ve"}
    other.preconditioning = {"name": "none"}
    other.keep_known = False
    other.data.update(flip=False, rotate=True)
    other.evaluate.update(sampler="heun", teacher_nfe=(5,), student_nfe=(1,))
    other.log_every = other.checkpoint_every = 1
    for row in ROWS:
        name, variant = row.split(":")
        module = load(name)
        monkeypatch.setattr(module, "base_config", other.copy_and_resolve_references)
        changed, row_config = module.get_config(variant).to_dict(), read(row).to_dict()
        if "inpaint" not in row:  # images without a hole: the key has no effect
            del changed["keep_known"], row_config["keep_known"]
        del changed["evaluate"]["images"], row_config["evaluate"]["images"]
        assert changed == row_config


# -- costs -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "row",
    [
        "edges_to_image:handbags64",
        pytest.param("inpaint:imagenet256_ddbm", marks=pytest.mark.slow),
    ],
)
def test_plan_of_a_row(row):
    """Parameters as released; a device of eight holds an eighth of the state; nothing is allocated."""
    corruption, millions = NETWORKS[row]
    before = sum(array.nbytes for array in jax.live_arrays())
    plan, config = plan_of(row), read(row)
    assert sum(array.nbytes for array in jax.live_arrays()) - before < 2**20
    assert config.corruption.to_dict() == corruption
    assert round(plan.parameters / 1e6, 2) == millions
    teacher, student = plan.stages
    # Parameters, average and two moments of each player, float32; two players and a teacher. Small
    # leaves (biases, norms) are not sharded.
    assert teacher.held.state == pytest.approx(4 * 4 * plan.parameters / 8, rel=0.01)
    assert student.held.state == pytest.approx((2 * 4 + 1) * 4 * plan.parameters / 8, rel=0.01)
    assert (teacher.steps, student.steps) == (config.train.steps, config.distill.steps)
    assert teacher.flops == 3 * plan.call_flops * config.train.batch


@pytest.mark.slow
@pytest.mark.parametrize("row", list(NETWORKS))
def test_parameters_of_every_network(row):
    corruption, millions = NETWORKS[row]
    assert read(row).corruption.to_dict() == corruption
    assert round(plan_of(row).parameters / 1e6, 2) == millions


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS)
def test_operations_agree_with_the_published_hours(row):
    """Table 9's hours on eight A100 (312 TFLOP/s): all rows must come out at a credible rate."""
    hours = TABLE_7[row][-1]
    stage = plan_of(row).stages[1]
    rate = stage.flops * stage.steps / (hours * 3600 * 8) / 1e12
    assert 15 < rate < 90


def small(**distill) -> object:
    config = base_config()
    config.data.size = 16
    config.network.update(widths=(32, 32), patch=1)
    config.train.batch = config.distill.batch = 8
    config.distill.update(**distill)
    config.evaluate.student_nfe = (1,)
    return config


@pytest.mark.parametrize(
    "roll_out, calls, updates, detach, by_hand",
    [
        # L (calls + 3) + calls + 2 for each call with a gradient + 2 through each critic, there and back
        ("random", 3, 2, False, 2 * (3 + 3) + 3 + 2 + 4),
        # A detached x_t: not back, and a student of one call makes no other.
        ("random", 1, 2, True, 2 * (1 + 3) + 1 + 2 + 2),
        pytest.param("chain", 2, 5, False, 5 * (2 + 3) + 2 + 2 + 4, marks=pytest.mark.slow),
        pytest.param("chain_through", 4, 1, False, (4 + 3) + 4 + 8 + 4, marks=pytest.mark.slow),
        pytest.param("chain_through", 2, 1, True, (2 + 3) + 2 + 4 + 2, marks=pytest.mark.slow),
    ],
)
def test_step_flops_are_those_of_the_step(roll_out, calls, updates, detach, by_hand):
    """Counted in what is traced of it, every turn of its loops."""
    config = small(
        roll_out=roll_out,
        student_steps=calls,
        bridge_updates=updates,
        detach_xt=detach,
        call_per="example",
        microbatches=2,
    )
    run = abstract_run(config, mesh_of(1, 1))
    call = call_flops(run.system)
    with aim_at("any"):
        stage = distill(run, abstract_params(run.system, "teacher"))
        counted = count_flops(stage.step, *shapes(abstract_arguments(run, stage)))
        assert step_flops(config, "distill", call) == by_hand * call * 8
        assert counted == pytest.approx(by_hand * call * 8, rel=0.04)
        if roll_out == "random" and not detach:
            stage = train(run)
            counted = count_flops(stage.step, *shapes(abstract_arguments(run, stage)))
            assert counted == pytest.approx(step_flops(config, "train", call), rel=0.04)


def test_bytes_per_device_counts_shards():
    config = small()
    sizes = {}
    for shards in (1, 4):
        run = abstract_run(config, mesh_of(4, shards))
        run.parallel = Parallel("fsdp", run.parallel.mesh, min_shard=2)
        state, frozen = abstract_state(run, train(run))
        assert frozen is None
        sizes[shards] = bytes_per_device(state)
        leaves = jax.tree.leaves(state)
        whole = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
        odd = [leaf for leaf in leaves if all(n % 4 for n in leaf.shape)]  # no axis that 4 divides
        kept = sum(leaf.size * leaf.dtype.itemsize for leaf in odd)
        assert sizes[shards] == (whole if shards == 1 else (whole - kept) // 4 + kept)
    assert sizes[4] < 0.26 * sizes[1]


def test_batches_have_what_the_task_needs():
    pair = abstract_batch(abstract_run(read("edges_to_image:handbags64"), mesh_of(8, 8)), (2, 8))
    labelled = abstract_batch(abstract_run(read("inpaint:imagenet256_ddbm"), mesh_of(8, 8)), (8,))
    assert {k: v.shape for k, v in pair.items()} == {
        "x0": (2, 8, 64, 64, 3), "xT": (2, 8, 64, 64, 3), "index": (2, 8),
    }  # fmt: skip
    assert {k: v.shape for k, v in labelled.items()} == {
        "x0": (8, 256, 256, 3), "index": (8,), "label": (8,),
    }  # fmt: skip


# -- compiling -------------------------------------------------------------------------------------
COMPILE = """
import json, resource
from tests.support.config_files import read
from jax_bridges.planning.abstract import abstract_params, abstract_run, compile_step
from jax_bridges.stages.distill import distill
from jax_bridges.training.parallel import Parallel
run = abstract_run(read("inpaint:imagenet256_i2sb"), Parallel.create("auto"))
memory = compile_step(run, distill(run, abstract_params(run.system, "teacher")))
memory = memory.memory_analysis()
print(json.dumps({
    "state": memory.argument_size_in_bytes / 2**30,
    "work": memory.temp_size_in_bytes / 2**30,
    "here": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
}))
"""


@pytest.mark.slow
def test_ibmd_of_half_a_billion_parameters_compiles():
    """Eight devices, replicated: 2 x 16 + 4 bytes a parameter each, and room on one of 80 GB."""
    done = subprocess.run(
        [sys.executable, "-c", COMPILE], cwd=ROOT, capture_output=True, text=True,
        env=environment(8),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found["state"] == pytest.approx(36 * 552.81e6 / 2**30, rel=0.01)
    assert 20 < found["work"] < 80e9 / 2**30 - found["state"]
    assert found["here"] < 12  # GiB; eight such states would be 148


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS)
def test_both_steps_of_a_row_lower_for_eight_devices(row):
    """Traced whole and partitioned by shape: what a typo in a row would break.

    With fewer layers than the row has, since a row's own take minutes; `test_memory` lowers one whole.
    """
    config = read(row)
    config.network.update(channel_mult=(1,), num_res_blocks=1, attention_ds=())
    run = abstract_run(config, mesh_of(8, 8))
    teacher = abstract_params(run.system, "teacher")
    for stage in (train(run), distill(run, teacher)):
        text = lower(run, stage).as_text()
        assert text.count("stablehlo.convolution") > 20
