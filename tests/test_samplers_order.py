"""Order of convergence of deterministic samplers, with the denoiser of a Gaussian pair."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_bridges import samplers
from jax_bridges.bridges import VE, VP, Brownian
from jax_bridges.samplers import SAMPLERS, sample_dbim, sample_dbim_high_order
from jax_bridges.times import karras_grid
from tests.support.gaussian import GaussianPair, slope

pytestmark = pytest.mark.usefixtures("float64")

# Ends where almost no noise is left, so that the law there is the target's.
BRIDGES = {"vp": VP(t_min=1e-7), "ve": VE(t_min=1e-4, T=1.0), "brownian": Brownian(t_min=1e-7)}


# A pixel each for several widths of the target: one alone may have its error change sign.
MANY = GaussianPair(slope=0.8, std=np.linspace(0.2, 1.0, 16).reshape(1, 1, 1, 16), source_mean=0.2)


def inner_grid(bridge, n, high=0.8, low=0.2):
    """n + 3 times evenly spaced in log(b / c), with tiny steps at both ends.

    The first two and the last are of lower order: as short as the square of the others, they leave
    the order of the steps between.
    """
    dense = np.linspace(0.9, 0.1, 100001) * bridge.T
    _, b, c = bridge.coefficients(dense)
    log_ratio = np.log(np.asarray(b / c))
    first, last = np.interp([-high * bridge.T, -low * bridge.T], -dense, log_ratio)
    short = (last - first) / n**2
    inner = np.linspace(first + 2 * short, last - short, n)
    return np.interp(np.concatenate([[first, first + short], inner, [last]]), log_ratio, dense)


@pytest.mark.parametrize("bridge", BRIDGES.values(), ids=BRIDGES)
@pytest.mark.parametrize("order", [1, 2, 3])
def test_dbim_converges_at_its_order(bridge, order):
    sampler = sample_dbim if order == 1 else functools.partial(sample_dbim_high_order, order=order)
    denoise, xT = MANY.denoiser(bridge, True), jnp.full((1, 1, 1, 16), 0.7)
    sizes, errors = [24, 48, 96], []
    for n in sizes:
        times = inner_grid(bridge, n)
        x0, path = jax.jit(
            lambda times: sampler(
                denoise, bridge, xT, times, lambda draw: jnp.ones_like(xT), return_path=True
            )
        )(times)
        exact = MANY.ode_solution(bridge, path[0], xT, times[0], times[-1])
        errors.append(float(jnp.sqrt(jnp.mean((x0 - exact) ** 2))))
    assert abs(slope(sizes, errors) - order) < 0.15, errors
    assert errors[-1] < {1: 3e-3, 2: 4e-5, 3: 4e-7}[order]


@pytest.mark.parametrize("bridge", BRIDGES.values(), ids=BRIDGES)
@pytest.mark.parametrize("order", [1, 2])
def test_ode_integrators_reach_the_target_at_their_order(bridge, order):
    name = {1: "ode_euler", 2: "ode_heun"}[order]
    sampler = SAMPLERS[name]
    denoise, xT = MANY.denoiser(bridge, True), jnp.full((1, 1, 1, 16), 0.7)
    noise = jnp.full_like(xT, 0.9)
    sizes, errors = [63, 127, 255], []
    for nfe in sizes:
        times = sampler.grid(bridge, nfe)
        x0 = jax.jit(lambda t: sampler.sample(denoise, bridge, xT, t, lambda draw: noise))(times)
        mean, std = MANY.conditional_moments(bridge, xT, times[-1])
        errors.append(float(jnp.sqrt(jnp.mean((x0 - mean - std * noise) ** 2))))
    assert abs(slope(sizes, errors) - order) < 0.15, errors
    assert errors[-1] < {1: 1e-2, 2: 5e-4}[order]


@pytest.mark.parametrize("bridge", BRIDGES.values(), ids=BRIDGES)
def test_ddbm_heun_is_of_second_order(bridge):
    # With the published gap of 1e-4 below T the order only shows beyond thousands of steps.
    denoise, xT = MANY.denoiser(bridge, True), jnp.full((1, 1, 1, 16), 0.7)
    sizes, errors = [79, 159, 319], []
    for nfe in sizes:
        times = SAMPLERS["heun"].grid(bridge, nfe, churn=None)
        times = karras_grid(bridge, len(times) - 1, gap=0.4 * bridge.T)
        x0 = jax.jit(
            lambda t: samplers.sample_heun(denoise, bridge, xT, t, lambda draw: xT, churn=None)
        )(times)
        exact = MANY.ode_solution(bridge, xT, xT, times[0], times[-1])
        errors.append(float(jnp.sqrt(jnp.mean((x0 - exact) ** 2))))
    assert abs(slope(sizes, errors) - 2) < 0.15, errors
    assert errors[-1] < 2e-5
