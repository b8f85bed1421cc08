"""Scalings and weights against DDBM, DBIM and I2SB, and what they are made for."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_bridges.bridges import DDPM, EDM, I2SB, VP
from jax_bridges.losses import squared_error
from jax_bridges.preconditioning import (
    BridgeKarras,
    Epsilon,
    I2SBScaling,
    Plain,
    make_preconditioning,
    precondition,
)
from jax_bridges.times import training_times
from tests.support.official import SMOOTH, TABLES, close, golden


def toy_network(x, c_noise, xT, z):
    """The network of the official training losses."""
    return 0.3 * x + 0.1 * xT + 0.01 * jnp.sin(c_noise / 250.0).reshape(-1, 1, 1, 1)


def setup(project, tag):
    if tag == "i2sb":
        return TABLES["i2sb_ddbm"], I2SBScaling()
    return SMOOTH[tag], BridgeKarras()


CASES = [("ddbm", "vp"), ("ddbm", "ve"), ("dbim", "vp"), ("dbim", "ve"), ("dbim", "i2sb")]


@pytest.mark.parametrize("project,tag", CASES)
def test_scalings(float64, project, tag):
    want = golden(f"{project}_{tag}")
    bridge, scaling = setup(project, tag)
    c_in, c_skip, c_out, c_noise = scaling.scalings(bridge, want["t"])
    close(c_in, want["c_in"], rtol=1e-8)
    close(c_skip, want["c_skip"], rtol=1e-8, atol=1e-10)
    close(c_out, want["c_out"], rtol=1e-8)
    # Network times of I2SB were held in float32.
    close(c_noise, want["c_noise"], rtol=1e-6 if tag == "i2sb" else 1e-9, atol=1e-9)
    weight = want["weight" if project == "dbim" else "weight_bridge_karras"]
    close(scaling.weight(bridge, want["t"]), weight, rtol=1e-7)


@pytest.mark.parametrize("tag", ["vp", "ve"])
def test_scalings_with_covariance(float64, tag):
    want, scaling = golden(f"ddbm_{tag}"), BridgeKarras(cov_xy=0.125)
    c_in, c_skip, c_out, _ = scaling.scalings(SMOOTH[tag], want["t"])
    close(c_in, want["c_in_cov0125"], rtol=1e-8)
    close(c_skip, want["c_skip_cov0125"], rtol=1e-8, atol=1e-10)
    close(c_out, want["c_out_cov0125"], rtol=1e-8)
    close(scaling.weight(SMOOTH[tag], want["t"]), want["weight_bridge_karras_cov0125"], rtol=1e-7)


@pytest.mark.parametrize("project,tag", CASES)
def test_denoisers_and_training_losses(float64, project, tag):
    want = golden(f"{project}_{tag}")
    bridge, scaling = setup(project, tag)
    x0, xT, t = want["train_x0"], want["train_xT"], jnp.asarray(want["train_t"])
    xt = bridge.sample(x0, xT, t, want["train_noise"])
    close(xt, want["train_xt"], rtol=1e-8, atol=1e-9)
    denoised = precondition(toy_network, bridge, scaling)(xt, t, xT)
    # The toy network sees c_noise, of which I2SB has float32.
    close(denoised, want["train_denoised"], rtol=1e-7, atol=1e-8)
    close(squared_error(denoised, x0, 1.0), want["train_xs_mse"], rtol=1e-7)
    close(squared_error(denoised, x0, scaling.weight(bridge, t)), want["train_loss"], rtol=1e-6)


@pytest.mark.parametrize("tag,beta_max", [("b03", 0.3), ("b10", 1.0)])
def test_i2sb_prediction_and_network_time(float64, tag, beta_max):
    want, bridge = golden("ops"), I2SB.create(beta_max=beta_max)
    step = want["step"]
    seen = []

    def network(x, c_noise, xT, z):
        seen.append(c_noise)
        return want["net_out"]

    x0_hat = precondition(network, bridge, I2SBScaling())(
        jnp.asarray(want[f"{tag}_xt"]), jnp.asarray(step / 999), want["x1"]
    )
    # A prediction made with the official float32 table of sigma.
    close(x0_hat, want[f"{tag}_pred_x0"], rtol=1e-6, atol=1e-7)
    close(jnp.clip(x0_hat, -1, 1), want[f"{tag}_pred_x0_clip"], rtol=1e-6, atol=1e-7)
    table = golden("i2sb")
    close(
        I2SBScaling().scalings(bridge, table["index"] / 999).c_noise,
        table["noise_levels"],
        rtol=1e-6,
    )
    assert float(seen[0][0]) == pytest.approx(0.1) and float(seen[0][-1]) == pytest.approx(1000.0)


@pytest.mark.parametrize("bridge", [I2SB.create(), DDPM.create()], ids=["i2sb", "ddpm"])
@pytest.mark.parametrize("name", ["i2sb", "none", "unit_variance", "bridge_karras", "epsilon"])
def test_network_time_is_of_the_table_entry_used(name, bridge):
    """A time between two entries has the coefficients and the network time of one entry."""
    scaling = make_preconditioning(name)
    between = jnp.asarray([500.3, 499.7, 500.0]) / 999
    for numbers in scaling.scalings(bridge, between):
        assert np.ptp(numbers) == 0.0


def test_a_network_of_the_noise_is_told_whole_entries():
    drawn = training_times("uniform", DDPM.create(), (jnp.arange(1000) + 0.5) / 1000)
    told = jax.jit(lambda t: Epsilon().scalings(DDPM.create(), t).c_noise)(drawn)
    np.testing.assert_array_equal(told, np.arange(1000))


@pytest.mark.parametrize("tag", ["vp", "ve"])
@pytest.mark.parametrize("cov", [0.0, 0.15])
def test_karras_keeps_input_and_target_at_unit_variance(float64, tag, cov):
    """Var[c_in x_t] = 1 and Var[(x_0 - c_skip x_t) / c_out] = 1, computed from the coefficients."""
    bridge, s0, sT = SMOOTH[tag], 0.5, 0.4
    scaling = BridgeKarras(sigma_data=s0, sigma_data_end=sT, cov_xy=cov)
    t = jnp.linspace(0.01, 0.99, 23) * bridge.T
    a, b, c = bridge.coefficients(t)
    c_in, c_skip, c_out, _ = scaling.scalings(bridge, t)
    variance = a**2 * sT**2 + b**2 * s0**2 + 2 * a * b * cov + c**2
    covariance = b * s0**2 + a * cov
    close(c_in**2 * variance, np.ones(23))
    target = s0**2 - 2 * c_skip * covariance + c_skip**2 * variance
    close(target / c_out**2, np.ones(23), rtol=1e-8)
    # c_skip is the one that makes the network's part smallest.
    for other in (0.9, 1.1):
        assert np.all(
            s0**2 - 2 * other * c_skip * covariance + (other * c_skip) ** 2 * variance >= target
        )


@pytest.mark.parametrize("scaling", [BridgeKarras(), Plain()], ids=["karras", "plain"])
def test_all_is_finite_at_both_ends(scaling):
    """x_T itself is where sampling starts: c_in = 2, c_skip = 0, c_out = 1/2 there for DDBM."""
    bridge = VP()
    ends = jnp.asarray([bridge.t_min, bridge.T])
    values = scaling.scalings(bridge, ends)
    assert all(bool(jnp.isfinite(v).all()) for v in values)
    if isinstance(scaling, BridgeKarras):
        assert [float(v[1]) for v in values] == pytest.approx([2.0, 0.0, 0.5, 0.0], abs=1e-5)
    else:
        assert [float(v[1]) for v in values] == [1.0, 0.0, 1.0, 1000.0]
        assert float(scaling.weight(bridge, ends).sum()) == 2.0


def test_weight_is_one_over_c_out_squared():
    t = jnp.asarray([0.1, 0.6])
    for bridge, scaling in ((VP(), BridgeKarras()), (TABLES["i2sb"], I2SBScaling())):
        close(scaling.weight(bridge, t) * scaling.scalings(bridge, t).c_out ** 2, [1, 1], rtol=1e-5)


def test_denoiser_takes_a_time_for_all_and_passes_z_and_precision_on():
    bridge = VP()

    def network(x, c_noise, xT, z):
        assert c_noise.shape == (3,)
        return (x + xT + (0 if z is None else z)).astype(jnp.bfloat16)

    denoise = precondition(network, bridge, BridgeKarras())
    x = jnp.linspace(-1, 1, 12).reshape(3, 2, 2, 1)
    whole = denoise(x, jnp.full(3, 0.3), 2 * x)
    assert whole.dtype == jnp.float32
    np.testing.assert_array_equal(denoise(x, 0.3, 2 * x), whole)
    assert np.abs(denoise(x, 0.3, 2 * x, jnp.ones_like(x)) - whole).max() > 0.01


def test_float32_scalings_are_accurate():
    for tag in ("vp", "ve"):
        bridge = SMOOTH[tag]
        t = (float(bridge.T) * np.linspace(0.001, 1.0, 200)).astype(np.float32)
        single = BridgeKarras().scalings(bridge, t)
        with jax.enable_x64(True):
            double = BridgeKarras().scalings(bridge, jnp.asarray(t, jnp.float64))
        for one, two in zip(single, double, strict=True):
            np.testing.assert_allclose(one, two, rtol=2e-5, atol=1e-5)


def test_unknown_preconditioning_is_named():
    with pytest.raises(
        ValueError, match="Unknown preconditioning 'edm'.*bridge_karras, .*i2sb, none"
    ):
        make_preconditioning("edm")


@pytest.mark.parametrize("bridge", [DDPM.create(), EDM()], ids=["ddpm", "edm"])
def test_an_input_is_scaled_and_what_comes_out_is_the_image(bridge):
    """Of images of standard deviation .7 the network sees unit variance at every noise; there is no skip."""
    scaling, t = make_preconditioning("scaled_input", sigma_data=0.7), jnp.asarray([0.02, 0.5, 1.0])
    c_in, c_skip, c_out, c_noise = scaling.scalings(bridge, t)
    alpha, sigma = bridge.alpha(t), bridge.sigma(t)
    np.testing.assert_allclose(c_in**2 * (alpha**2 * 0.49 + sigma**2), 1.0, rtol=1e-5)
    np.testing.assert_array_equal(c_skip, 0.0)
    np.testing.assert_array_equal(c_out, 1.0)
    np.testing.assert_array_equal(scaling.weight(bridge, t), 1.0)
    np.testing.assert_array_equal(scaling.weight(bridge, t, t), 1.0)
    np.testing.assert_allclose(c_noise, 250 * np.log(sigma / alpha), rtol=1e-4)
