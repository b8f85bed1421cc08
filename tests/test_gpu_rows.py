"""What the rows of benchmarks/gpu.sh measure is the training that they stand for, in both frameworks."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.lab import LeftOut, jax_rows, main_job, torch_rows
from benchmarks.lab.problems import make_problem
from benchmarks.lab.rows import ROWS
from benchmarks.lab.teacher_batch import first_batch
from jax_bridges.benchmark import time_step
from jax_bridges.benchmark_weights import random_params
from jax_bridges.import_torch.names import flax_to_torch
from jax_bridges.keys import Purpose
from jax_bridges.planning.abstract import abstract_params, abstract_run, random_batch
from jax_bridges.stages.train import train
from jax_bridges.training.optimizers import make_optimizer
from jax_bridges.training.parallel import Parallel
from jax_bridges.training.steps import make_teacher_step
from tests.support import toy
from tests.support.toy import compiled, same

ROOT = Path(__file__).parents[1]


def adm_run(**network):
    config = make_problem("adm256", True, 8)
    config.network.update(dtype="float32", **network)
    return abstract_run(config, Parallel.create())


def jax_steps(run, params, count):
    """State and metrics after so many steps of the teacher on the first batch."""
    config = run.config.train
    step = make_teacher_step(run.system, config, make_optimizer(config.optimizer, config.steps))
    batch = jax.tree.map(jnp.asarray, random_batch(run, (config.batch,)))
    state, once, found = train(run).make_state(run.key(0), params), compiled(step), []
    for _ in range(count):
        state, metrics = once(state, None, batch, run.key(Purpose.TRAIN_TEACHER), same)
        found.append({name: float(value) for name, value in metrics.items()})
    return state.players["teacher"], found


def test_the_first_batch_is_that_of_the_step():
    """Its loss, put together here from the arrays, is what the training step says."""
    run = adm_run()
    run = dataclasses.replace(run, system=toy.pointwise(run.system, width=8))
    params = random_params(abstract_params(run.system, "teacher"))
    b = first_batch(run)
    assert 0 < b["mask"].mean() < 1 and b["weight"].std() > 0

    def column(name):
        return b[name][:, None, None, None]

    answer = run.system.teacher.apply({"params": params}, column("c_in") * b["xt"], b["c_noise"])
    x0 = column("c_skip") * b["xt"] + column("c_out") * np.asarray(answer)
    square = (np.where(b["mask"] > 0, x0, b["xT"]) - b["x0"]) ** 2
    loss = np.mean(b["weight"] * square.mean((1, 2, 3)))
    found = time_step(run, train(run), params, repeats=1)  # what JAX's row runs
    assert found["loss"] == pytest.approx(loss, rel=1e-5)


def test_three_steps_of_pytorch_are_ours():
    """Loss, gradient, AdamW at its schedule, and the average: the same numbers."""
    torch = pytest.importorskip("torch")
    from benchmarks.lab.torch_step import make_step

    torch.set_num_threads(1)
    run = adm_run(model_channels=64, channel_mult=(1,), attention_ds=(1,))
    run.config.train.optimizer.update(learning_rate=1e-3, weight_decay=0.1, schedule="cosine")
    run.config.train.steps = 5
    params = random_params(abstract_params(run.system, "teacher"))
    settings = {k: v for k, v in run.config.network.items() if k not in ("name", "dtype")}
    step = make_step(run, flax_to_torch(params, settings), first_batch(run))
    theirs = [{k: float(v) for k, v in step().items()} for _ in range(3)]
    with jax.default_matmul_precision("highest"):
        teacher, ours = jax_steps(run, params, 3)
    assert ours[2]["loss"] < 0.9 * ours[0]["loss"]  # it has moved
    for mine, other in zip(ours, theirs, strict=True):
        assert other == pytest.approx(mine, rel=1e-4)
    names = [name for name, _ in step.model.named_parameters()]
    start = flax_to_torch(params, settings)
    for tree, tensors in ((teacher.params, step.model.parameters()), (teacher.ema, step.ema)):
        expected = flax_to_torch(jax.device_get(tree), settings)
        for name, tensor in zip(names, tensors, strict=True):
            moved = np.abs(expected[name] - start[name]).max()
            apart = np.abs(expected[name] - tensor.detach().numpy())
            # Adam makes a full step of the sign of a gradient that is rounding alone.
            assert np.median(apart) < 1e-3 * moved, name


def test_without_what_it_needs_a_row_is_left_out(monkeypatch):
    with pytest.raises(LeftOut, match="JAX sees no GPU .its platform is cpu"):
        jax_rows.forward(toy=False, scratch="", images=8)
    monkeypatch.setattr(torch_rows.importlib.util, "find_spec", lambda name: None)
    for work in (torch_rows.products, lambda **k: torch_rows.teacher(**k, images=8)):
        with pytest.raises(LeftOut, match="PyTorch is not installed: pip install"):
            work(toy=True, scratch="")


@pytest.mark.parametrize("stats", [None, {}, {"peak_bytes_in_use": 3 * 2**30}])
def test_memory_is_the_allocators_where_the_row_raised_it(stats, monkeypatch):
    class Device:
        def memory_stats(self):
            return stats

    monkeypatch.setattr(jax_rows.jax, "local_devices", lambda: [Device()])
    monkeypatch.setattr(jax_rows, "call_flops", lambda system: 2e9)
    run = abstract_run(make_problem("adm256", True, 8), Parallel.create())
    row = {"calls": 6, "images": 2, "seconds": 0.5, "compile": 1.0, "memory": 2**31, "loss": 0.1}
    peak = jax_rows.peak_bytes()
    raised = jax_rows.finish(run, row, before=2**30)
    same = jax_rows.finish(run, row, before=3 * 2**30)
    assert (same["memory_gib"], same["memory_by"]) == (2.0, "compiler")
    assert (raised["memory_gib"], raised["memory_by"]) == (
        (3.0, "allocator") if peak else (2.0, "compiler")
    )
    assert raised["images_per_second"] == 4.0 and raised["loss"] == 0.1
    assert raised["tflops"] == pytest.approx(6 * 2e9 / 0.5 / 1e12)
    unknown = jax_rows.finish(run, {**row, "memory": None}, before=3 * 2**30)
    assert unknown["memory_gib"] is unknown["memory_by"] is None


def test_images_are_something_to_learn():
    images = main_job.soft_shapes(5, 32)
    assert images.shape == (5, 32, 32, 3) and images.dtype == np.uint8
    assert images.std() > 20
    steps = np.abs(np.diff(images.astype(int), axis=1))
    assert steps.max() < 80  # soft


@pytest.mark.slow
def test_every_row_at_toy_size(tmp_path):
    """The whole, as on a GPU: without the packages that data sets would need; PyTorch if it is there."""
    for name in ("tensorflow_datasets", "mpl_toolkits"):
        (tmp_path / "hidden" / name).mkdir(parents=True)
        (tmp_path / "hidden" / name / "__init__.py").write_text("raise ImportError('hidden')")
    paths = [str(tmp_path / "hidden"), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [ROOT / "benchmarks" / "gpu.sh", "--toy", "--minutes=60", f"--out={tmp_path}",
         f"--scratch={tmp_path}/scratch"],
        env={**os.environ, "PYTHON": sys.executable, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True, text=True,
    )  # fmt: skip
    lines = (tmp_path / "gpu.jsonl").read_text().splitlines()
    found = {line["row"]: line for line in map(json.loads, lines)}
    assert list(found) == [row.name for row in ROWS], done.stderr
    torch = torch_rows.importlib.util.find_spec("torch") is not None
    assert done.returncode == (0 if torch else 1)
    for row in ROWS:
        expected = "ok" if torch or row.worker != "torch" else "left out"
        assert found[row.name]["status"] == expected, found[row.name]
    if not torch:
        return
    for name, line in found.items():
        if name.startswith("forward") and "torch" in name:
            # bfloat16 explains all of it
            assert line["difference"] < 3 * line["rounding"] < 0.2, name
    for name in ("teacher_torch", "teacher_torch_compiled"):
        for key in ("loss", "gradient_norm"):
            assert found[name][key] == pytest.approx(found["teacher_jax"][key], rel=0.05)
    assert found["teacher_remat_jax"]["loss"] == pytest.approx(
        found["teacher_jax"]["loss"], rel=0.01
    )
