"""`import jax_bridges as jb`: what a notebook sees first."""

from __future__ import annotations

import functools
import importlib
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jax_bridges as jb
from jax_bridges import starting
from jax_bridges.bridges.diffusion import warped_levels
from jax_bridges.keys import Stream, example_keys, fold, normal
from jax_bridges.restoring import read_picture
from jax_bridges.samplers import make_sampler, sample_few_step
from jax_bridges.times import student_grid
from jax_bridges.training.system import Pair, System
from tests.support import ROOT
from tests.support.restorers import left_behind, save_player, tiny
from tests.support.runs import unpack_old


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Teacher and student of a fixed hole, of 16x16, with random weights."""
    return left_behind(tmp_path_factory.mktemp("run"), tiny())


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    config = tiny()
    config.corruption, config.keep_known = {"name": "identity"}, False
    config.bridge, config.preconditioning = {"name": "edm"}, {"name": "unit_variance"}
    config.network.conditional = False
    recorded = json.loads(config.to_json_best_effort())
    workdir = tmp_path_factory.mktemp("prior")
    save_player(workdir, "train", "teacher", System.create(config), recorded, spread=0.04)
    return jb.load(workdir)


def images(count=3, size=16, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (count, size, size, 3)).astype(np.float32)


# -- the names ----------------------------------------------------------------------------------------


def test_the_import_loads_no_jax_and_its_names_are_those_of_the_library():
    """And `run` defines no flags: a program may have its own of the same names."""
    code = (
        "import sys, jax_bridges as jb; heavy = {'jax', 'flax', 'numpy', 'absl'} & set(sys.modules); "
        "assert set(jb.__all__) <= set(dir(jb)); print(heavy, hasattr(jb, 'no_such_name')); "
        "from absl import flags; jb.run; "
        "[flags.DEFINE_string(n, None, '') for n in ('config', 'workdir', 'seeds', 'hosts')]"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "set() False\n", done.stderr
    for name, module in jb._FACE.items():
        found = getattr(importlib.import_module(f"jax_bridges.{module}"), name)
        assert getattr(jb, name) is found
    assert set(jb.__all__) == set(jb._FACE)
    assert {"i2sb", "dbim", "superres", "ddnm", "ibmd"} <= {
        *jb.BRIDGES, *jb.SAMPLERS, *jb.CORRUPTIONS, *jb.SOLVERS, *jb.METHODS
    }  # fmt: skip


# -- trained models --------------------------------------------------------------------------------


@pytest.mark.parametrize("nfe", [2, 5])
def test_a_teacher_samples_as_its_parts_do(folder, nfe):
    """Denoiser, sampler and keys put together by hand: the same numbers."""
    model = jb.load(folder, "teacher")
    x0 = images()
    xT, mask = model.corrupt(x0, seed=3)
    assert mask.sum() == 3 * 8 * 8
    np.testing.assert_array_equal(np.where(mask > 0, 0, xT), np.where(mask > 0, 0, x0))
    found = model.sample(xT, sampler="dbim:eta=1", nfe=nfe, seed=5)  # the hole is always the same

    keys = example_keys(jax.random.key(5), jnp.arange(3))
    denoise = functools.partial(model.denoise, mask=mask)
    sampler, keys = make_sampler("dbim:eta=1"), fold(keys, Stream.SAMPLE)
    expected = sampler(denoise, model.bridge, xT, nfe=nfe, keys=keys)
    expected = jnp.where(mask > 0, jnp.clip(expected, -1, 1), xT)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    np.testing.assert_array_equal(np.where(mask > 0, 0, found), np.where(mask > 0, 0, xT))
    # An image's answer is its own, whatever else is in the batch; another seed is another answer.
    alone = model.sample(xT[:1], sampler="dbim:eta=1", nfe=nfe, seed=5)
    np.testing.assert_allclose(alone[0], found[0], atol=2e-5)
    other = model.sample(xT, sampler="dbim:eta=1", nfe=nfe, seed=6)
    assert np.abs(other - found).max() > 0.05


def test_the_denoiser_is_the_networks(folder):
    model = jb.load(folder, "teacher")
    xT, mask = model.corrupt(images())
    xt, t = images(seed=1), np.array([0.2, 0.5, 0.9], np.float32)
    pair = Pair(xT, xT, mask, jax.random.split(jax.random.key(0), 3))
    expected = model.system.denoiser(model.params, pair)(xt, t, xT)
    np.testing.assert_allclose(model.denoise(xt, t, xT), expected, atol=1e-5)
    one = model.denoise(xt, 0.5, xT, mask=mask[:1])
    np.testing.assert_allclose(one[1], expected[1], atol=1e-5)


def test_a_student_is_its_own_sampler(folder):
    model = jb.load(folder)
    assert model.player == "student" and "student: I2SB, UNet" in repr(model)
    xT, mask = model.corrupt(images())
    keys = fold(example_keys(jax.random.key(0), jnp.arange(3)), Stream.SAMPLE)
    pair = Pair(xT, xT, mask, keys)
    generate = model.system.generator(model.params, pair)
    distill = model.config.distill
    times = student_grid(model.bridge, 2, distill.student_steps, distill.first_time)
    expected = sample_few_step(generate, model.bridge, xT, times, keys, clip=True)
    np.testing.assert_allclose(model.sample(xT, nfe=2), expected, atol=2e-5)
    np.testing.assert_array_equal(model.sample(xT, "few_step", 2), model.sample(xT, nfe=2))


def test_a_prior_draws_images(prior):
    """A network that says nothing is the denoiser of N(0, 1/4), of which every step is a factor."""
    assert "prior: EDM" in repr(prior) and prior.size == (16, 16)
    two, four = prior.sample(2, nfe=5, seed=1), prior.sample(4, nfe=5, seed=1)
    assert two.shape == (2, 16, 16, 3)
    np.testing.assert_allclose(two, four[:2], atol=2e-5)
    x = images()
    blank = Pair(x, x, None, jax.random.split(jax.random.key(0), 3))
    expected = prior.system.denoiser(prior.params, blank)(x, jnp.float32(0.5), x)
    np.testing.assert_allclose(prior.denoise(x, 0.5), expected, atol=1e-5)
    zero = jb.trained.Trained(
        "teacher", prior.config, jax.tree.map(np.zeros_like, prior.params), True, True
    )

    def slope(s):  # of u: (u - x0_hat) / s
        return s / (s**2 + 0.25)

    s = np.append(warped_levels(25, 80.0, 0.01), 0.0)
    heun, euler = [80.0], [80.0]
    for now, to in zip(s, s[1:]):
        first = 1 + (to - now) * slope(now)
        heun.append(
            heun[-1] * (1 + (to - now) * (slope(now) + slope(to) * first) / 2 if to else first)
        )
        euler.append(euler[-1] * first)
    keys = fold(example_keys(jax.random.key(2), jnp.arange(4)), Stream.SAMPLE)
    z = normal(keys, 0, jnp.zeros((4, 16, 16, 3)))
    for name, nfe, path in (("heun", 49, heun), ("ddim", 25, euler)):
        expected = np.clip(path[-1] * z, -1, 1)
        np.testing.assert_allclose(zero.sample(4, name, nfe, seed=2), expected, atol=1e-4)
    np.testing.assert_array_equal(zero.sample(4, seed=2), zero.sample(4, "heun", 49, seed=2))


def test_an_old_import_and_an_old_run_load(tmp_path):
    unpack_old(tmp_path)
    model = jb.load(tmp_path / "import")
    assert (
        model.size is None and "ddbm teacher: VP, ADM" in repr(model) and "any size" in repr(model)
    )
    assert jb.load(tmp_path / "import", size=8).size == (8, 8)
    assert jb.load(tmp_path / "run").player == "student"
    with pytest.raises(ValueError, match="records the size it was trained at: leave size out"):
        jb.load(tmp_path / "run", size=8)
    x = images(1, 8)
    np.testing.assert_array_equal(
        model.denoise(x, 0.5, x), jb.load(tmp_path / "import", size=8).denoise(x, 0.5, x)
    )
    with pytest.raises(ValueError, match="learned from pairs: its x_T are data"):
        model.corrupt(x)


@pytest.mark.parametrize(
    "call, words",
    [
        (
            lambda m, x: m.sample(x[0]),
            r"xT has the shape \(16, 16, 3\), expected is \[B, 16, 16, 3\]",
        ),
        (lambda m, x: m.sample(images(1, 32)), r"any size: jax_bridges.Restorer"),
        (
            lambda m, x: m.sample(np.zeros((1, 16, 16, 3), np.uint8)),
            "xT must be an array of floats in",
        ),
        (lambda m, x: m.sample((x + 1) * 127.5), "xT reaches 25.*images lie in"),
        (lambda m, x: m.sample(x * np.nan), "xT reaches nan"),
        (lambda m, x: m.sample(x, "dbin"), "Unknown sampler 'dbin'.*Did you mean 'dbim'"),
        (lambda m, x: m.sample(x, "dbim", 1), "dbim' needs at least 2 network calls"),
        (lambda m, x: m.sample(x, nfe=0), "network call"),
        (lambda m, x: m.sample(x, label=3), "has no classes: leave label out"),
        (
            lambda m, x: m.sample(x, mask=x[..., :1][:2]),
            r"mask has the shape \(2, 16, 16, 1\), expected",
        ),
        (lambda m, x: m.denoise(x, 0.5), "needs the corrupted images"),
        (
            lambda m, x: m.denoise(x, 0.5, x[:2]),
            r"xT has the shape \(2, .*expected is \[3, 16, 16, 3\]",
        ),
        (lambda m, x: m.corrupt(x.astype(int)), "x0 must be an array of floats"),
    ],
)
def test_what_does_not_fit_is_one_sentence(folder, call, words):
    with pytest.raises(ValueError, match=words) as error:
        call(jb.load(folder, "teacher"), images())
    assert "\n" not in str(error.value)


def test_what_a_student_and_a_prior_cannot_is_one_sentence(folder, prior, tmp_path):
    student, x = jb.load(folder), images()
    with pytest.raises(ValueError, match="A student is a generator, no denoiser"):
        student.denoise(x, 0.5, x)
    with pytest.raises(ValueError, match="its own sampler, few_step: leave sampler='dbim' out"):
        student.sample(x, "dbim")
    with pytest.raises(ValueError, match="sample\\(4\\) draws 4"):
        prior.sample(x)
    with pytest.raises(ValueError, match="knows no x_T: leave xT out"):
        prior.denoise(x, 0.5, x)
    with pytest.raises(ValueError, match="corrupts nothing"):
        prior.corrupt(x)
    with pytest.raises(ValueError, match="nfe = 2: sampling a prior takes at least 3"):
        prior.sample(1, nfe=2)
    with pytest.raises(FileNotFoundError, match="or one of .*photos:inpaint"):
        jb.load(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="There is no teacher in"):
        jb.load(tmp_path)
    (tmp_path / "file.bin").write_bytes(b"x")
    with pytest.raises(ValueError, match="no folder of a run or an import"):
        jb.load(tmp_path / "file.bin")
    with pytest.raises(ValueError, match="is a teacher by itself, no student"):
        jb.load("photos:inpaint", "student")


# -- in a notebook ------------------------------------------------------------------------------------


def test_a_picture_shows_itself():
    pixels = (images(1, 9)[0] * 100 + 128).astype(np.uint8)
    shown = read_picture(read_picture(pixels)._repr_png_())
    np.testing.assert_array_equal(shown.pixels, pixels)


def test_arrays_are_shown_side_by_side():
    x = images(2)
    both = jb.show({"a": x, "b": np.rint((x + 1) * 127.5).astype(np.uint8)}, scale=1)
    assert isinstance(both, Image.Image)
    cell = np.asarray(both)[-28:-12, 12:28], np.asarray(both)[-28:-12, 36:52]
    np.testing.assert_array_equal(*cell)
    np.testing.assert_array_equal(cell[0], np.rint((x[1] + 1) * 127.5).astype(np.uint8))
    assert jb.show(x[0]).size[1] < jb.show(x).size[1]
    with pytest.raises(ValueError):
        jb.show(x[0, 0])


def test_bars_are_drawn_in_notebooks(monkeypatch):
    assert not starting.draws_bars()
    monkeypatch.setitem(sys.modules, "ipykernel", None)
    assert starting.draws_bars()
