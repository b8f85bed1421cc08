"""UniDB: GOUB whose end is drawn to x_T by a penalty."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_bridges.bridges import GOUB, UniDB, make_bridge
from jax_bridges.samplers import SAMPLERS
from jax_bridges.times import angle_grid
from tests.support.family import PAIR
from tests.support.gaussian import law_error

pytestmark = pytest.mark.usefixtures("float64")

LAM, GAMMA = 0.5, 50.0  # weak: the pin is off by 8% of the way
BRIDGE, PINNED = UniDB.create(gamma=GAMMA, lam=LAM), GOUB.create(lam=LAM)
TIMES = np.array([1e-4, 0.115, 0.455, 0.795, 0.985, 1.0])


def test_weights_are_the_paper_s():
    a, b, c = BRIDGE.coefficients(TIMES)
    rest = -jnp.log(BRIDGE.alpha(jnp.asarray(1.0))) + jnp.log(BRIDGE.alpha(TIMES))
    left, whole = LAM**2 * -jnp.expm1(-2 * rest), LAM**2 * (1 - 0.01**2)
    np.testing.assert_allclose(
        b, BRIDGE.alpha(TIMES) * (1 + GAMMA * left) / (1 + GAMMA * whole), rtol=1e-9
    )
    np.testing.assert_allclose(a + b, 1.0, rtol=1e-12)
    np.testing.assert_array_equal(c, PINNED.coefficients(TIMES).c)
    np.testing.assert_allclose(BRIDGE.coefficients(jnp.asarray(0.0)), (0, 1, 0), atol=1e-12)
    np.testing.assert_allclose(b[-1], 0.01 / (1 + GAMMA * whole), rtol=1e-9)


def test_a_large_penalty_is_the_pin():
    far = UniDB.create(gamma=1e12, lam=LAM).coefficients(TIMES)
    np.testing.assert_allclose(far, PINNED.coefficients(TIMES), rtol=1e-9, atol=1e-11)
    assert make_bridge("unidb").gamma == 1e7


def test_the_velocity_is_that_of_the_path_and_a_step_keeps_the_marginal():
    t, s = jnp.asarray(TIMES[1:5]), jnp.asarray(TIMES[1:5] - 0.05)
    x0, xT, z = 0.3, -0.7, 0.4
    (a, b, c), (da, db, dc) = jax.jvp(BRIDGE.coefficients, (t,), (jnp.ones_like(t),))
    x = a * xT + b * x0 + c * z
    drift, g = BRIDGE.reverse_sde(x0 + 0 * x, x, xT + 0 * x, t)
    velocity = BRIDGE.ode_drift(x0 + 0 * x, x, xT + 0 * x, t)
    np.testing.assert_allclose(velocity, da * xT + db * x0 + dc * z, rtol=1e-9)
    np.testing.assert_allclose(drift, velocity + 0.5 * g**2 * z / c, rtol=1e-9)
    # The mean of a step from the mean of x_t is that of x_s, and variances add up.
    mean = BRIDGE.step(x0 + 0 * x, a * xT + b * x0, t, s, 0.0, xT + 0 * x)
    at_s, kept = BRIDGE.coefficients(s), BRIDGE.posterior(t, s)
    np.testing.assert_allclose(mean, at_s.a * xT + at_s.b * x0, rtol=1e-9)
    np.testing.assert_allclose(kept.std**2 + (kept.xt * c) ** 2, at_s.c**2, rtol=1e-9)


def test_samplers_reach_the_target_law():
    """But for x_0's share of the start, w alpha_T < 1e-3, which x_T stands for."""
    bridge = dataclasses.replace(BRIDGE, t_min=1e-7)
    denoise, times = PAIR.denoiser(bridge, True), angle_grid(bridge, 100)
    for name, grid in {"ancestral": times, "dbim": times[1:], "ode_heun": times}.items():
        sample = SAMPLERS[name].sample
        error = law_error(lambda xT, keys: sample(denoise, bridge, xT, grid, keys), PAIR, 201)
        assert error < 2e-2, (name, error)


def test_a_penalty_that_is_none_is_refused():
    with pytest.raises(ValueError, match="unidb: gamma must be above 0, but is -1"):
        make_bridge("unidb", gamma=-1)
