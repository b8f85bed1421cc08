"""`python -m jax_bridges.import_torch` and the teacher that a run takes from what it leaves.

What it refuses: test_import_broken.py.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from jax_bridges.config import base_config, model_differences
from jax_bridges.corruptions import I2SB_TASKS, make_corruption
from jax_bridges.import_torch import read_torch
from jax_bridges.import_torch.__main__ import main
from jax_bridges.import_torch.names import flax_to_torch, torch_layout, torch_to_flax
from jax_bridges.import_torch.workdir import i2sb_settings
from jax_bridges.stages.teacher import check_teacher, load_teacher
from jax_bridges.stages.train import train
from jax_bridges.validation import validate
from tests.support.imports import (
    FAMILY,
    HEADS,
    I2SB,
    SMALL,
    a_run,
    assert_same,
    configured,
    imported,
    resolved,
    saved,
    weights,
)  # fmt: skip

# When a read fails, orbax leaves futures open that warn whenever they are collected.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

# ---------------------------------------------------------------- what an import records


@pytest.fixture(scope="module")
def i2sb(tmp_path_factory) -> Path:
    """An import of the file that torch wrote."""
    workdir = tmp_path_factory.mktemp("i2sb") / "teacher"
    assert main([str(I2SB), "--as=i2sb", "--task=jpeg-5", HEADS, str(workdir)]) == 0
    return workdir


@pytest.mark.smoke
def test_i2sb_file_becomes_a_teacher(i2sb):
    recorded = imported(i2sb)
    assert recorded["bridge"] == {
        "name": "i2sb", "beta_max": 0.3, "steps": 1000, "deterministic": False,
    }  # fmt: skip
    assert recorded["preconditioning"] == {"name": "i2sb", "t0": 1e-4}
    assert recorded["corruption"] == {"name": "jpeg", "quality": 5}
    assert recorded["keep_known"] is True
    assert recorded["source"] == {
        "family": "i2sb",
        "file": "import_i2sb.pt",
        "sha256": hashlib.sha256(I2SB.read_bytes()).hexdigest(),
        "qkv_ndim": 3,
    }
    assert sorted(p.name for p in i2sb.iterdir()) == ["checkpoints"]
    assert not list(i2sb.parent.glob(".*"))

    # The weights are the moving averages, matched by position, wherever a run wants them.
    config = configured(recorded)
    validate(config)
    run = a_run(config, i2sb)
    params = load_teacher(run, str(i2sb))
    shadows = read_torch(I2SB)["ema"]["shadow_params"]
    expected = torch_to_flax(dict(zip(torch_layout(SMALL), shadows, strict=True)), SMALL)
    assert_same(params, expected)
    leaves = jax.tree.leaves(params)
    assert all(a.sharding.mesh == run.parallel.mesh for a in leaves)


@pytest.mark.parametrize("task", I2SB_TASKS)
def test_i2sb_tasks(task):
    """Spec: blur and inpainting beta_max 1.0 and OT-ODE, the others 0.3 with noise."""
    settings = i2sb_settings(task)
    quiet = task.split("-")[0] in ("blur", "inpaint")
    assert settings["bridge"]["beta_max"] == (1.0 if quiet else 0.3)
    assert settings["bridge"]["deterministic"] is quiet
    corruption = make_corruption(**settings["corruption"])
    assert getattr(corruption, "fill", "noise") == "noise"
    assert getattr(corruption, "legacy", True) is True
    other = i2sb_settings(task, beta_max=0.5, ot_ode=not quiet)["bridge"]
    assert (other["beta_max"], other["deterministic"]) == (0.5, not quiet)


@pytest.mark.parametrize(
    "family, flags, bridge, scalings",
    [
        (
            "ddbm",
            ["--schedule=vp"],
            {"name": "vp", "t_min": 1e-4, "T": 1.0, "beta_d": 2.0, "beta_min": 0.1},
            "bridge_karras",
        ),
        (
            "ddbm",
            ["--schedule=ve", "--sigma-min=0.0005", "--sigma-max=20"],
            {"name": "ve", "t_min": 0.0005, "T": 20.0},
            "bridge_karras",
        ),
        (
            "dbim",
            [],
            {"name": "i2sb_ddbm", "beta_max": 1.0, "steps": 1000, "deterministic": False},
            "i2sb",
        ),
        ("adm", ["--condition=duplicate"], None, None),
    ],
)
def test_other_families(tmp_path, family, flags, bridge, scalings):
    arrays = weights(family)
    file, workdir = saved(tmp_path, arrays), tmp_path / "deep" / "er"
    assert main([str(file), f"--as={family}", HEADS, *flags, str(workdir)]) == 0
    recorded = imported(workdir)
    network = recorded["network"]
    assert recorded.get("bridge") == bridge
    assert recorded.get("preconditioning", {}).get("name") == scalings
    assert network["name"] == "adm" and network["conditional"] and network["out_channels"] == 3
    assert network["new_attention_order"] is (family == "ddbm")
    assert network["num_classes"] == (10 if family == "dbim" else 0)
    assert recorded["source"]["qkv_ndim"] == FAMILY[family][1]
    if family == "dbim":
        assert recorded["corruption"] == {"name": "inpaint_center", "fill": "zero"}

    params = load_teacher(a_run(configured(recorded), workdir), str(workdir))
    if family == "adm":
        kernel = arrays["input_blocks.0.0.weight"].transpose(2, 3, 1, 0)
        np.testing.assert_array_equal(
            params["input_blocks_0_0"]["kernel"], np.concatenate([kernel, kernel], axis=2)
        )
        np.testing.assert_array_equal(params["out_2"]["bias"], arrays["out.2.bias"][:3])
    else:
        config = {**SMALL, **FAMILY[family][0]}
        assert_same(flax_to_torch(params, config, FAMILY[family][1]), arrays)


# ---------------------------------------------------------------- what a run makes of it


def test_a_teacher_meets_only_its_own_model(i2sb, tmp_path, capsys):
    path, config = str(i2sb), configured(imported(i2sb))
    check_teacher(resolved(config, checkpoint=path))
    assert "import_i2sb.pt" in capsys.readouterr().out
    config.network.dtype, config.network.remat = "bfloat16", True  # change no weight's meaning
    config.network.dropout = 0.3
    check_teacher(resolved(config, checkpoint=path))

    config.bridge.beta_max = 1.0
    config.preconditioning = {"name": "bridge_karras"}
    config.network.head_channels = 16
    config.keep_known = False
    with pytest.raises(ValueError, match="These keys differ") as error:
        check_teacher(resolved(config, checkpoint=path))
    lines = [line.strip() for line in str(error.value).splitlines()[1:]]
    assert lines == [
        "bridge.beta_max: 0.3 -> 1.0",
        "keep_known: True -> False",
        "network.head_channels: 32 -> 16",
        "preconditioning.cov_xy: (absent) -> 0.0",
        "preconditioning.name: i2sb -> bridge_karras",
        "preconditioning.sigma_data: (absent) -> 0.5",
        "preconditioning.sigma_data_end: (absent) -> 0.5",
        "preconditioning.t0: 0.0001 -> (absent)",
    ]
    # As a start of a training only the network must be the same.
    with pytest.raises(ValueError) as error:
        check_teacher(resolved(config, checkpoint="", init=path))
    assert str(error.value).splitlines()[1:] == ["  network.head_channels: 32 -> 16"]
    config.network.head_channels = 32
    check_teacher(resolved(config, init=path))

    with pytest.raises(FileNotFoundError, match="There is no .*nowhere: give"):
        check_teacher(resolved(config, init="", checkpoint=str(tmp_path / "nowhere")))
    assert not (tmp_path / "nowhere").exists()


def test_models_are_compared_in_full():
    """A default that is written out is no difference; what fills a hole is one."""
    short = {"bridge": {"name": "i2sb"}, "preconditioning": {"name": "i2sb"}, "network": {}}
    full = {**short, "bridge": {"name": "i2sb", "beta_max": 0.3, "steps": 1000}, "keep_known": True}
    assert model_differences(short, full) == []
    noise, zero = (
        {**short, "corruption": {"name": "inpaint_center", **c}} for c in ({}, {"fill": "zero"})
    )
    assert model_differences(noise, zero) == ["corruption.fill: noise -> zero"]
    assert model_differences(zero, {**short, "corruption": {"name": "jpeg"}}) == []
    assert model_differences(zero, noise, ("network",)) == []
    levels = {**short, "network": {"name": "unet", "attention": (1,)}}
    assert model_differences(
        levels, {**short, "network": {"name": "unet", "dtype": "bfloat16"}}
    ) == ["network.attention: [1] -> []"]


def test_adm_starts_a_training(tmp_path):
    arrays = weights("adm")
    workdir = tmp_path / "start"
    assert main([str(saved(tmp_path, arrays)), "--as=adm", HEADS, str(workdir)]) == 0
    config = configured(imported(workdir))
    with pytest.raises(ValueError, match="no bridge yet.*teacher.init"):
        check_teacher(resolved(config, checkpoint=str(workdir)))
    config.teacher.update(checkpoint="", init=str(workdir))
    check_teacher(resolved(config))

    run = a_run(config, tmp_path / "run")
    stage = train(run)
    state = run.parallel.init(stage.make_state, run.key(0), stage.frozen)
    player = state.players["teacher"]
    cut = {n: a[:3] if n.startswith("out.2.") else a for n, a in arrays.items()}
    expected = torch_to_flax(cut, SMALL)
    assert_same(player.params, expected)
    assert_same(player.ema, expected)

    # A training that has begun goes on from its own checkpoint and reads the start no more.
    run.checkpoints("train").save_weights({"teacher": expected}, {}, step=3)
    assert train(run).frozen is None


def test_checkpoint_and_init(tmp_path):
    config = base_config()
    config.train.batch, config.train.microbatches = 30, 4
    config.train.optimizer.weight_decay = 0.1
    with pytest.raises(ValueError, match="train.optimizer.weight_decay is 0.1"):
        validate(config)
    config.teacher.checkpoint = "somewhere"
    validate(config)
    config.teacher.init = "elsewhere"
    with pytest.raises(ValueError, match="teacher.checkpoint.*teacher.init.*give one"):
        validate(config)


def test_damaged_weights_are_told(i2sb, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(i2sb, copy)
    run = a_run(configured(imported(copy)), copy)
    for path in (copy / "checkpoints/train/0/ema").rglob("*"):
        if path.is_file() and path.stat().st_size > 10_000:
            path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match="averages of step 0 .* cannot be read"):
        load_teacher(run, str(copy))
    wider = configured(
        {**imported(i2sb), "network": {"name": "adm", **SMALL, "model_channels": 64}}
    )
    with pytest.raises(ValueError, match="(of another network|damaged)"):
        load_teacher(a_run(wider, copy), str(i2sb))
