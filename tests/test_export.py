"""Exports: a jax.export file that runs with jax alone, and weights under the official names."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from jax_bridges import export
from jax_bridges.checkpoints import Checkpoints
from jax_bridges.config import base_config
from jax_bridges.export import export_jax, main
from jax_bridges.import_torch import read_torch
from jax_bridges.import_torch.__main__ import main as import_main
from jax_bridges.import_torch.names import flax_to_torch, torch_layout
from jax_bridges.io.safetensors import write_safetensors
from jax_bridges.keys import Purpose
from jax_bridges.players import read_player
from jax_bridges.stages.jobs import student_sampler
from jax_bridges.training.parallel import Parallel
from jax_bridges.training.system import System

SIZE, IMAGES, SEED = 8, 4, 3
ADM = {
    "name": "adm", "model_channels": 32, "num_res_blocks": 1, "channel_mult": (1, 2),
    "attention_ds": (2,), "head_channels": 32, "conditional": False, "dtype": "float32",
}  # fmt: skip


def tiny(**changes) -> ConfigDict:
    config = base_config()
    config.seed = SEED
    config.data.size = SIZE
    config.network.widths, config.network.patch = (8,), 2
    config.network.groups = 4
    for key, value in changes.items():
        config[key] = value
    return config


def noisy(params, seed: int):
    """Parameters none of which is zero, so that every input matters."""
    leaves, tree = jax.tree.flatten(params)
    random = np.random.default_rng(seed)
    return tree.unflatten(
        [np.asarray(a) + random.normal(0, 0.1, a.shape).astype(np.float32) for a in leaves]
    )


def left_behind(workdir: Path, config: ConfigDict) -> dict:
    """The distilled part of a run's folder, without the training."""
    system = System.create(config)
    zeros = {
        "generator": jax.eval_shape(lambda k: system.init(k, "generator"), jax.random.key(0)),
        "bridge_net": jax.eval_shape(lambda k: system.init(k, "teacher"), jax.random.key(0)),
    }
    zeros = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), zeros)
    ema = {name: noisy(tree, i) for i, (name, tree) in enumerate(zeros.items())}
    meta = {"stage": "distill", "config": json.loads(config.to_json_best_effort())}
    with Checkpoints(workdir / "checkpoints" / "distill") as checkpoints:
        checkpoints.save_weights(ema, meta, step=7)
    return ema["generator"]


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    config = tiny()
    return SimpleNamespace(workdir=workdir, config=config, params=left_behind(workdir, config))


def evaluated(config: ConfigDict, params, nfe: int) -> tuple[dict, np.ndarray]:
    """A batch of images, and what the evaluation of a run makes of them, uint8."""
    run = SimpleNamespace(
        config=config, system=System.create(config), parallel=Parallel.create("fsdp"),
        program=lambda name, make: make(),
    )  # fmt: skip
    x0 = np.random.default_rng(0).integers(0, 256, (IMAGES, SIZE, SIZE, 3), dtype=np.uint8)
    batch = {"x0": x0, "index": np.arange(IMAGES, dtype=np.uint32)}
    key = jax.random.fold_in(jax.random.key(config.seed), Purpose.EVALUATE)
    return batch, student_sampler(run, nfe)(params, batch, key)


def centre_mask(dtype) -> np.ndarray:
    mask = np.zeros((IMAGES, SIZE, SIZE, 1), dtype)
    mask[:, 2:6, 2:6] = 1
    return mask


def grey_levels(x) -> np.ndarray:
    return (np.asarray(x, np.float64) + 1) * 127.5


# ---------------------------------------------------------------- jax

CHILD = """
import sys
for name in ("jax_bridges", "flax", "optax", "orbax", "chex", "ml_collections"):
    sys.modules[name] = None  # importing it is an error
{snippet}
data = np.load("in.npz")
for seed in (3, 4):
    np.save(f"out{{seed}}.npy", restore(data["xT"], data["mask"], np.uint32(seed)))
np.save("first.npy", restore(data["xT"][:2], data["mask"][:2], np.uint32(3)))
assert x0.shape == (4, 8, 8, 3), x0.shape
"""


@pytest.mark.slow
def test_the_file_runs_with_jax_alone(student, tmp_path):
    """It gives what the evaluation gives, whatever xT holds in the hole, for any batch size."""
    pytest.importorskip("flatbuffers")
    out = tmp_path / "student.jaxexport"
    assert main([str(student.workdir), str(out), "--nfe=2"]) == 0
    readme = (tmp_path / "student.jaxexport.md").read_text()
    assert len(readme.splitlines()) <= 10 and "2 network calls" in readme
    snippet = re.search(r"```python\n(.*?)```", readme, re.S)[1]

    batch, expected = evaluated(student.config, student.params, 2)
    xT = batch["x0"].astype(np.float32) / 127.5 - 1
    mask = centre_mask(np.float32)
    xT = np.where(mask > 0, np.float32(0.77), xT)
    np.savez(tmp_path / "in.npz", xT=xT, mask=mask)
    done = subprocess.run(
        [sys.executable, "-c", CHILD.format(snippet=snippet)],
        cwd=tmp_path, env={**os.environ, "JAX_PLATFORMS": "cpu"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    x0, other, first = (np.load(tmp_path / f"{n}.npy") for n in ("out3", "out4", "first"))
    assert x0.dtype == np.float32 and np.abs(x0).max() <= 1
    np.testing.assert_allclose(np.floor(grey_levels(x0) + 1e-3), expected, atol=1.001)
    assert np.mean(np.floor(grey_levels(x0) + 1e-3) != expected) < 0.01
    np.testing.assert_allclose(first, x0[:2], atol=1e-5)
    hole = mask[0, ..., 0] > 0
    assert np.abs(other - x0)[:, hole].mean() > 0.01
    np.testing.assert_array_equal(other[:, ~hole], xT[:, ~hole])


@pytest.fixture(scope="module")
def in_uint8(student):
    """The exported function for uint8 images, one call, with float32 and bfloat16 weights."""
    pytest.importorskip("flatbuffers")
    config, params = read_player(student.workdir, "student")
    return {
        weights: export_jax(config, params, 1, images="uint8", weights=weights, platforms=platforms)
        for weights, platforms in (("float32", export.PLATFORMS), ("bfloat16", ("cpu",)))
    }


def test_uint8_images_and_all_platforms(student, in_uint8):
    data, arguments = in_uint8["float32"]
    assert [name for name, _ in arguments] == ["xT", "mask", "seed"]
    exported = jax.export.deserialize(bytearray(data))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    batch, expected = evaluated(student.config, student.params, 1)
    x0 = np.asarray(exported.call(batch["x0"], centre_mask(np.uint8), np.uint32(SEED)))
    assert x0.dtype == np.uint8
    assert np.mean(x0 != expected) < 0.01
    np.testing.assert_allclose(x0.astype(int), expected, atol=1)


def test_weights_may_be_stored_in_16_bits(student, in_uint8):
    full, half = in_uint8["float32"][0], in_uint8["bfloat16"][0]
    parameters = sum(a.size for a in jax.tree.leaves(student.params))
    assert 1.8 * parameters < len(full) - len(half) < 2.5 * parameters + 200_000
    mask = centre_mask(np.uint8)
    xT = np.random.default_rng(0).integers(0, 256, (IMAGES, SIZE, SIZE, 3), dtype=np.uint8)
    a, b = (
        np.asarray(jax.export.deserialize(bytearray(d)).call(xT, mask, np.uint32(0)), int)
        for d in (full, half)
    )
    assert 0 < np.abs(a - b).mean() < 2


def test_tasks_without_a_hole_have_no_mask(tmp_path):
    """And class-conditional networks have labels, which matter."""
    pytest.importorskip("flatbuffers")
    config = tiny(network={**ADM, "num_classes": 4}, corruption={"name": "superres", "factor": 4})
    left_behind(tmp_path, config)
    recorded, params = read_player(tmp_path, "student")
    data, arguments = export_jax(recorded, params, 1, platforms=("cpu",))
    assert [name for name, _ in arguments] == ["xT", "label", "seed"]
    text = export.usage("s", recorded, 1, arguments)
    assert "x0 = restore(xT, label, np.uint32(0))" in text
    assert "label = np.zeros((4,), np.int32)" in text
    call = jax.export.deserialize(bytearray(data)).call
    xT = np.random.default_rng(0).uniform(-0.5, 0.5, (2, SIZE, SIZE, 3)).astype(np.float32)
    one, two = (call(xT, np.full(2, label, np.int32), np.uint32(0)) for label in (1, 2))
    assert np.abs(np.asarray(one) - np.asarray(two)).max() > 1e-3


def test_what_cannot_be_exported(student, tmp_path, capsys, monkeypatch):
    out = str(tmp_path / "out")

    def refused(*argv: str) -> str:
        assert main([*argv]) == 1
        shown = capsys.readouterr()
        assert shown.out == "" and shown.err.count("\n") == 1
        assert list(tmp_path.iterdir()) == []
        return shown.err

    run = str(student.workdir)
    assert "no student in" in refused(str(tmp_path / "nowhere"), out)
    assert "no teacher in" in refused(run, out, "--format=torch", "--player=teacher")
    assert "only 'adm' has a PyTorch counterpart" in refused(run, out, "--format=torch")
    assert "--format=jax exports students" in refused(run, out, "--player=teacher")
    for flag in ("--weights=bfloat16", "--images=float32", "--nfe=1"):
        said = refused(run, out, "--format=torch", flag)
        assert f"{flag.partition('=')[0]} is for --format=jax: leave it out" in said
    assert "invalid choice: 'onnx'" in refused(run, out, "--format=onnx")
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "flatbuffers", None)
        assert "pip install flatbuffers" in refused(run, out)
    pytest.importorskip("flatbuffers")
    assert "trained for 1 to 4 calls; nfe = 5" in refused(run, out, "--nfe=5")
    monkeypatch.setattr(export, "LIMIT", 1000)
    assert "ends at 2 GiB" in refused(run, out)


# ---------------------------------------------------------------- torch


def test_a_student_under_the_official_names(tmp_path):
    from safetensors import safe_open

    config = tiny(network=ADM)
    params = left_behind(tmp_path, config)
    out = tmp_path / "student.safetensors"
    assert main([str(tmp_path), str(out), "--format=torch"]) == 0
    expected = flax_to_torch(
        params, {k: v for k, v in ADM.items() if k not in ("name", "dtype")} | {"z_channels": 3}
    )
    with safe_open(out, framework="numpy") as file:
        assert sorted(file.keys()) == sorted(expected)
        for name, array in expected.items():
            np.testing.assert_array_equal(file.get_tensor(name), array, strict=True)
        header = file.metadata()
        assert file.get_tensor("z_in.weight").shape == (32, 3, 3, 3)
    assert (
        header["player"] == "student" and json.loads(header["config"])["network"]["name"] == "adm"
    )


@pytest.mark.parametrize("ndim", [3, 4])
def test_the_way_back_is_exact(tmp_path, ndim):
    """Import and export again: every tensor as it was, also DDBM's 1x1 convolutions."""
    network = {k: v for k, v in ADM.items() if k not in ("name", "dtype")} | {"conditional": True}
    random = np.random.default_rng(0)
    arrays = {
        n: random.normal(size=s).astype(np.float32) for n, s in torch_layout(network, ndim).items()
    }
    file = write_safetensors(tmp_path / "in.safetensors", arrays)
    workdir, out = tmp_path / "w", tmp_path / "out.safetensors"
    flags = ["--as=ddbm", "--schedule=vp", "--set=head_channels=32"]
    assert import_main([str(file), str(workdir), *flags]) == 0
    assert main([str(workdir), str(out), "--format=torch"]) == 0
    back = read_torch(out)
    assert list(back) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array, strict=True)
