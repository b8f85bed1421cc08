"""What networks are timed and compared with: random everywhere, reproducible, never silent zeros."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from jax_bridges.benchmark_weights import random_inputs, random_params
from jax_bridges.import_torch.names import abstract_params
from tools.compare_torch import relative_difference

ROOT = Path(__file__).parents[1]
ADM = {"model_channels": 64, "num_res_blocks": 1, "channel_mult": (1, 2), "num_classes": 3}


def flat(tree) -> dict[str, np.ndarray]:
    found = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {"/".join(part.key for part in path): leaf for path, leaf in found}


def test_no_leaf_is_zero_and_kernels_keep_the_variance():
    params = flat(random_params(abstract_params(ADM)))
    assert {p.split("/")[-1] for p in params} == {"kernel", "bias", "scale", "embedding"}
    for name, leaf in params.items():
        mean, std = {
            "kernel": (0, np.prod(leaf.shape[:-1]) ** -0.5),
            "bias": (0, 0.1),
            "scale": (1, 0.1),
            "embedding": (0, 1),
        }[name.split("/")[-1]]
        few = 5 * leaf.size**-0.5  # deviations of what is drawn
        assert leaf.dtype == np.float32
        assert leaf.std() == pytest.approx(std, rel=max(few, 0.1)), name
        assert leaf.mean() == pytest.approx(mean, abs=few * std), name


def test_draws_depend_on_name_and_seed_alone():
    teacher = flat(random_params(abstract_params(ADM)))
    student = flat(random_params(abstract_params({**ADM, "z_channels": 3})))
    assert set(student) - set(teacher) == {"z_in/kernel"} and np.abs(student["z_in/kernel"]).min()
    for name, leaf in teacher.items():
        np.testing.assert_array_equal(leaf, student[name])
    other = flat(random_params(abstract_params(ADM), seed=1))
    assert all((leaf != other[name]).all() for name, leaf in teacher.items())
    assert len({leaf.flat[0].item() for leaf in teacher.values()}) == len(teacher)


def test_inputs_are_those_of_a_call():
    class Net:
        num_classes = 3

    x, t, xT, label = random_inputs(Net, (8, 16), 3, 4)
    assert x.shape == xT.shape == (4, 8, 16, 3) and (x != xT).all()
    assert x.dtype == t.dtype == np.float32
    np.testing.assert_allclose(t, [1, 1 + 899 / 3, 1 + 2 * 899 / 3, 900], rtol=1e-6)
    np.testing.assert_array_equal(label, [0, 1, 2, 0])


def test_difference():
    assert relative_difference(np.array([1.0, 3.0]), np.array([1.5, -4.0])) == 7 / 4
    with pytest.raises(ValueError, match="output is 0 everywhere, which compares nothing"):
        relative_difference(np.zeros(3), np.zeros(3))


def test_without_pytorch_one_sentence(tmp_path):
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError('No module named torch')")
    done = subprocess.run(
        [sys.executable, "-m", "tools.torch_unet", "ddbm_e2h64", str(tmp_path / "e.pt")],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "error: PyTorch is not installed: pip install 'jax_bridges[bench]'\n"
