"""Zero-shot solvers: what every one promises, bad input, and the run of a prior."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from jax_bridges.bridges import DDPM, EDM, make_bridge
from jax_bridges.corruptions import (
    BlockSensing,
    Blur,
    Colorize,
    Composition,
    Identity,
    InpaintCenter,
    SuperResolution,
    WalshHadamard,
)
from jax_bridges.preconditioning import make_preconditioning, precondition
from jax_bridges.times import training_times
from jax_bridges.validation import validate
from jax_bridges.zero_shot import (
    SOLVERS,
    make_solver,
    measure,
    solve_ddnm,
)
from tests.support.config_files import read

ROOT = pathlib.Path(__file__).parent.parent
PRIOR = DDPM.create()


def keys_of(n, seed=0):
    return jax.random.split(jax.random.key(seed), n)


def blurry(x, t):
    """A smooth, nonlinear stand-in for a network."""
    alpha, sigma = PRIOR.alpha(t), PRIOR.sigma(t)
    around = (jnp.roll(x, 1, 1) + jnp.roll(x, -1, 1) + jnp.roll(x, 1, 2) + jnp.roll(x, -1, 2)) / 4
    return jnp.tanh(alpha * (0.6 * x + 0.4 * around) / (alpha**2 + sigma**2))


OPERATORS = {
    "pool": SuperResolution(kind="pool", factor=4),
    "bicubic": SuperResolution(factor=4),
    "hole": InpaintCenter(),
    "colour": Colorize(),
    "blur uniform": Blur(kind="uniform", truncated=True),
    "blur gauss": Blur(truncated=True),
    "blur aniso": Blur(kind="aniso", truncated=True),
    "walsh": WalshHadamard(),
    "blocks": BlockSensing(block=8),
    "identity": Identity(),
    "old photo": Composition(
        parts=(InpaintCenter(), Colorize(), SuperResolution(kind="pool", factor=2))
    ),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_noise_free_ddnm_keeps_the_measurement(name):
    operator, levels = OPERATORS[name], PRIOR.levels(5)
    # A^+ of a blur multiplies rounding by up to 1000.
    with jax.enable_x64("blur" in name):
        x = jax.random.uniform(jax.random.key(1), (2, 16, 16, 3), minval=-1.0)
        y = operator.forward(x)
        out = jax.jit(lambda y: solve_ddnm(blurry, operator, y, 0.0, levels, keys_of(2)))(y)
        assert out.shape == x.shape
        np.testing.assert_allclose(operator.forward(out), y, atol=1e-5)
        if name not in ("identity", "blur gauss"):  # both keep everything at this size
            assert jnp.abs(out - x).max() > 0.05  # what is not measured is made up


@pytest.mark.parametrize("name", SOLVERS)
def test_an_example_does_not_depend_on_its_batch(name):
    operator, solver = InpaintCenter(), make_solver(name)
    x = jax.random.uniform(jax.random.key(1), (3, 8, 8, 3), minval=-1.0)
    keys, knobs = keys_of(3), {"travel": (2, 2)} if name == "repaint" else {}
    y = measure(operator, x, 0.1, keys)

    @jax.jit
    def run(y, keys):
        return solver.solve(blurry, operator, y, 0.1, PRIOR.levels(5), keys, **knobs)

    whole, one = run(y, keys), run(y[2:], keys[2:])
    np.testing.assert_allclose(whole[2:], one, atol=1e-4)
    if name != "pinv":
        assert jnp.abs(run(y, keys_of(3, seed=5)) - whole).max() > 1e-2


def test_measurement_noise_lies_in_the_range_and_has_its_level():
    operator, x = InpaintCenter(), jnp.zeros((4, 32, 32, 3))
    y = measure(operator, x, 0.2, keys_of(4))
    hole = operator.mask(32, 32) > 0
    assert not y[jnp.broadcast_to(hole, y.shape)].any()
    np.testing.assert_allclose(y[jnp.broadcast_to(~hole, y.shape)].std(), 0.2, rtol=0.02)


# -- the prior ------------------------------------------------------------------------------------


@pytest.mark.parametrize("bridge", [DDPM.create(), EDM()], ids=["ddpm", "edm"])
def test_prior_is_a_bridge_without_a_source(bridge):
    t = jnp.array([bridge.t_min, 0.5 * bridge.T, bridge.T])
    a, b, c = bridge.coefficients(t)
    np.testing.assert_array_equal(a, 0)
    np.testing.assert_allclose(b**2 + c**2, 1 if isinstance(bridge, DDPM) else 1 + t**2, rtol=1e-5)
    np.testing.assert_allclose(
        bridge.sigma(t) ** 2, bridge.alpha(t) ** 2 * bridge.rho2(t), rtol=1e-4
    )
    levels = bridge.levels(10)
    assert levels.t.shape == (11,) and levels.sigma[-1] == 0 and levels.alpha[-1] == 1
    assert (np.diff(levels.sigma) < 0).all()
    np.testing.assert_allclose(
        bridge.sigma(jnp.asarray(levels.t[:-1])), levels.sigma[:-1], rtol=1e-4
    )


@pytest.mark.parametrize(
    ("bridge", "name"),
    [(PRIOR, "epsilon"), (PRIOR, "unit_variance"), (EDM(), "bridge_karras")],
    ids=["epsilon", "unit_variance", "edm"],
)
def test_scalings_of_a_prior(bridge, name):
    """A network that returns the noise (or EDM's target) gives back x_0 exactly."""
    scaling = make_preconditioning(name)
    x0, noise = (jax.random.normal(jax.random.key(i), (3, 4, 4, 3)) for i in (1, 2))
    t = jnp.array([0.05, 0.5, 0.9]) * bridge.T
    xt = bridge.sample(x0, x0, t, noise)
    c_in, c_skip, c_out, c_noise = scaling.scalings(bridge, t)
    target = (x0 - c_skip[:, None, None, None] * xt) / c_out[:, None, None, None]
    if name == "epsilon":
        np.testing.assert_allclose(target, noise, atol=2e-2)
        np.testing.assert_array_equal(c_noise, [50, 500, 899])  # the nearest entries
    denoise = precondition(lambda x, c, xT, z: target, bridge, scaling)
    np.testing.assert_allclose(denoise(xt, t, x0), x0, atol=1e-4)
    np.testing.assert_allclose(scaling.weight(bridge, t), 1 / c_out**2, rtol=1e-5)


def test_edm_times_are_lognormal():
    t = training_times("edm_lognormal", EDM(), (jnp.arange(2000) + 0.5) / 2000)
    np.testing.assert_allclose([jnp.log(t).mean(), jnp.log(t).std()], [-1.2, 1.2], atol=0.01)


def test_times_towards_clean_are_a_square():
    """A third of them where noise is below 0.35 of the image's scale: a tenth when uniform."""
    u = (jnp.arange(2000) + 0.5) / 2000
    t = training_times("towards_clean", PRIOR, u)
    np.testing.assert_allclose([t.mean(), (t < 0.11).mean()], [1 / 3, 0.11**0.5], atol=2e-3)
    assert (PRIOR.sigma(t) < 0.35).mean() > 0.3 > 0.12 > (PRIOR.sigma(u) < 0.35).mean()


# -- the run ----------------------------------------------------------------------------------------


def test_configuration_is_valid_and_bad_ones_are_refused():
    validate(read("zero_shot"))
    for change, message in (
        ({"bridge": {"name": "i2sb"}}, "need a diffusion prior"),
        ({"keep_known": True}, "sees no x_T"),
        ({"corruption": {"name": "jpeg"}}, "trains on clean images"),
    ):
        config = read("zero_shot")
        config.update(change)
        if "bridge" in change:
            config.bridge = ConfigDict(change["bridge"])
        with pytest.raises(ValueError, match=message):
            validate(config)
    config = read("zero_shot")
    config.zero_shot.tasks = {}
    with pytest.raises(ValueError, match="no student can be"):
        validate(config)
    config = read("zero_shot")
    config.zero_shot.tasks.sr4.operator.name = "jpeg"
    with pytest.raises(ValueError, match="no linear|no setting"):
        validate(config)
    config = read("zero_shot")
    config.zero_shot.settings.ddrm.steps = 3
    with pytest.raises(ValueError, match="no setting 'steps'"):
        validate(config)
    for part, words in (
        ({"preconditioning": {"name": "velocity"}}, "a diffusion prior have not.*'epsilon'"),
        (
            {"bridge": {"name": "ddpm", "beta_max": 2.0}},
            "ddpm: .* steps at least 2, but they are 0.0001, 2.0 and 1000",
        ),
    ):
        config = read("zero_shot")
        for key, value in part.items():
            config[key] = value
        with pytest.raises(ValueError, match=words):
            validate(config)
    with pytest.raises(ValueError, match="Did you mean 'ddnm'"):
        make_solver("ddnn")
    with pytest.raises(ValueError, match="choose one of"):
        make_bridge("ddpmm")


def test_a_run_that_cannot_fit_leaves_nothing(tmp_path):
    from jax_bridges.main import run

    config = read("zero_shot")
    config.parallel.device_gib = 1e-5
    with pytest.raises(ValueError, match="train: a device would hold"):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_run_trains_a_prior_and_writes_the_table(tmp_path):
    from jax_bridges.main import run

    config = read("zero_shot")
    config.data.size = 16
    config.network.widths = (8, 8)
    config.network.groups = 4
    config.train.steps, config.train.batch = 2, 4
    config.evaluate.images, config.evaluate.batch, config.evaluate.pictures = 4, 4, 2
    config.zero_shot.nfe = 3
    config.zero_shot.methods = ("pinv", "ddnm", "ddnm_plus")
    for task in ("deblur", "colour", "inpaint", "cs25"):
        del config.zero_shot.tasks[task]
    report = run(config, tmp_path)
    assert report.stat().st_size > 10_000
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    found = {(row["model"], row["sampler"]): row for row in rows}
    assert set(found) == {
        *(("sr4", m) for m in ("pinv", "ddnm")),
        *(("sr4_noisy", m) for m in ("pinv", "ddnm", "ddnm_plus")),
    }
    for (task, method), row in found.items():
        assert np.isfinite(row["psnr"]) and row["nfe"] == (0 if method == "pinv" else 3)
        if "noisy" not in task:
            assert row["cons"] < 1e-5
        assert row["task"] == task and row["fd_lite0"] > 0
    before = (tmp_path / "results.json").read_bytes()
    run(config, tmp_path)  # finished: nothing is done again
    assert (tmp_path / "results.json").read_bytes() == before
