"""The law of what samplers draw, computed exactly, with the denoiser of a Gaussian pair."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_bridges import samplers
from jax_bridges.bridges import I2SB, VE, VP, Brownian, I2SBinDDBM
from jax_bridges.keys import example_keys
from jax_bridges.samplers import SAMPLERS, sample_dbim, sample_dbim_high_order
from jax_bridges.times import angle_grid, dbim_grid, karras_grid, student_grid, uniform_grid
from tests.support.gaussian import GaussianPair, law, law_error, slope

pytestmark = pytest.mark.usefixtures("float64")

PAIR = GaussianPair(slope=0.8, std=0.3, source_mean=0.2, source_std=1.1)
# Ends where almost no noise is left, so that the law there is the target's.
BRIDGES = {"vp": VP(t_min=1e-7), "ve": VE(t_min=1e-4, T=1.0), "brownian": Brownian(t_min=1e-7)}


def run(sampler, bridge, times, conditional=True, **knobs):
    denoise = PAIR.denoiser(bridge, conditional)
    return lambda xT, keys: sampler(denoise, bridge, xT, times, keys, **knobs)


@pytest.mark.parametrize("bridge", BRIDGES.values(), ids=BRIDGES)
@pytest.mark.parametrize("conditional", [True, False], ids=["conditional", "unconditional"])
@pytest.mark.parametrize("name", ["sde_euler", "ancestral"])
def test_sde_samplers_reach_the_target_law_at_first_order(bridge, conditional, name):
    sampler, sizes = SAMPLERS[name].sample, [50, 100, 200]
    errors = [
        law_error(
            run(sampler, bridge, angle_grid(bridge, n), conditional), PAIR, 2 * n, conditional
        )
        for n in sizes
    ]
    assert abs(slope(sizes, errors) - 1) < 0.15, errors
    assert errors[-1] < 1.5e-2
    assert abs(2 * errors[-1] - errors[-2]) < 2e-3  # the limit of infinitely many steps


@pytest.mark.parametrize("bridge", BRIDGES.values(), ids=BRIDGES)
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_dbim_of_any_eta_reaches_the_target_law(bridge, eta):
    sizes = [50, 100, 200]
    errors = [
        law_error(run(sample_dbim, bridge, angle_grid(bridge, n)[1:], eta=eta), PAIR, n)
        for n in sizes
    ]
    assert abs(slope(sizes, errors) - 1) < 0.15, errors
    assert errors[-1] < 5e-3


@pytest.mark.parametrize("order", [2, 3])
def test_high_order_dbim_reaches_the_target_law(order):
    sampler = functools.partial(sample_dbim_high_order, order=order)
    for bridge in BRIDGES.values():
        assert law_error(run(sampler, bridge, angle_grid(bridge, 200)[1:]), PAIR, 1) < 1e-4


@pytest.mark.parametrize("bridge", [VP(), VE(t_min=0.002, T=80.0)], ids=["vp", "ve"])
def test_ddbm_heun_with_churn_reaches_the_target_law(bridge):
    errors = [
        law_error(run(samplers.sample_heun, bridge, karras_grid(bridge, n)), PAIR, n)
        for n in (40, 160, 640)
    ]
    # Slow, for the first step below T is large next to the published gap of 1e-4.
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    assert errors[-1] < 2e-3


@pytest.mark.parametrize("name", ["ancestral", "sde_euler", "ode_heun", "dbim", "dbim3"])
def test_samplers_reach_the_target_law_on_i2sbs_tables(name):
    sampler = SAMPLERS[name]
    for bridge in (I2SB.create(beta_max=1.0), I2SBinDDBM.create(beta_max=1.0)):
        # Variance 1e-4 is left at index 0, and half of the calls go to its coarse first entries.
        sample = run(sampler.sample, bridge, sampler.grid(bridge, 300))
        assert law_error(sample, PAIR, 600) < 1e-2


def test_ddbm_heun_reaches_the_target_law_on_i2sbs_table():
    """With a quarter of the calls on steps of no length, errors would be 1.3e-2 and 3.1e-3."""
    bridge, heun = I2SB.create(beta_max=1.0), SAMPLERS["heun"]
    errors = [law_error(run(heun.sample, bridge, heun.grid(bridge, n)), PAIR, n) for n in (60, 300)]
    assert errors[0] < 1e-2 and errors[1] < 2.5e-3, errors


@pytest.mark.parametrize("bridge", [*BRIDGES.values(), VE()], ids=[*BRIDGES, "ve80"])
def test_dbim_at_eta_one_is_the_ancestral_sampler_path_by_path(bridge):
    times = dbim_grid(bridge, 12)
    noise = jax.random.normal(jax.random.key(0), (12, 6, 1, 1, 1), jnp.float64)
    xT = jax.random.normal(jax.random.key(1), (6, 1, 1, 1), jnp.float64)
    denoise = PAIR.denoiser(bridge, True)
    _, dbim = jax.jit(
        lambda x: sample_dbim(
            denoise, bridge, x, times, lambda k: noise[k], eta=1.0, return_path=True
        )
    )(xT)
    _, ancestral = jax.jit(
        lambda x: samplers.sample_ancestral(
            denoise,
            bridge,
            x,
            np.append(float(bridge.T), times),
            lambda k: noise[k // 2],
            return_path=True,
        )
    )(xT)
    np.testing.assert_allclose(dbim, ancestral, rtol=0, atol=1e-9)


def test_euler_on_the_ode_is_dbim_at_eta_zero():
    bridge, times = VP(), angle_grid(VP(), 9)
    xT = jnp.linspace(-1, 1, 6).reshape(6, 1, 1, 1)
    denoise = PAIR.denoiser(bridge, True)
    euler, dbim = jax.jit(
        lambda x: (
            samplers.sample_ode_euler(denoise, bridge, x, times, lambda k: x**2),
            sample_dbim(denoise, bridge, x, times[1:], lambda k: x**2),
        )
    )(xT)
    np.testing.assert_allclose(euler, dbim, rtol=0, atol=1e-12)


@pytest.mark.parametrize("calls", [1, 2, 4])
@pytest.mark.parametrize("bridge", BRIDGES.values(), ids=BRIDGES)
def test_few_step_sampling_from_a_perfect_student_is_exact(bridge, calls):
    mean = PAIR.denoiser(bridge, True)

    def generate(xt, t, xT, z):
        """A draw of q(x_0 | x_t, x_T)."""
        _, b, c = bridge.coefficients(t)
        precision = 1 / PAIR.std**2 + jnp.where(c > 0, b**2 / jnp.where(c > 0, c**2, 1.0), 0.0)
        return mean(xt, t, xT) + z / jnp.sqrt(precision)

    times = student_grid(bridge, calls, 4)
    error = law_error(
        lambda xT, keys: samplers.sample_few_step(generate, bridge, xT, times, keys),
        PAIR,
        2 * calls,
    )
    assert error < 1e-12


def test_real_keys_draw_from_that_law():
    """Monte Carlo, 20000 samples, limits of five standard errors."""
    bridge, count = VP(), 20000
    keys = example_keys(jax.random.key(3), jnp.arange(count))
    xT = jnp.full((count, 1, 1, 1), 0.5)
    given = GaussianPair(PAIR.slope, PAIR.std, source_mean=0.5, source_std=0.0)
    for sampler, times in [
        (functools.partial(sample_dbim, eta=0.7), dbim_grid(bridge, 20)),
        (samplers.sample_ancestral, uniform_grid(bridge, 20)),
    ]:
        sample = run(sampler, bridge, times)
        x0 = jax.jit(sample)(xT, keys)
        mean, variance, _ = law(sample, given, 40)
        assert abs(float(x0.mean()) - mean) < 5 * np.sqrt(variance / count)
        assert abs(float(x0.var()) - variance) < 5 * variance * np.sqrt(2 / count)
