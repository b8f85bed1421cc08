"""Baselines by their own steps on pairs of Gaussians: what they have learnt is what they should be."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_bridges.bridges import DDPM
from jax_bridges.samplers.ddib import ddib_steps, sample_ddib
from jax_bridges.training.system import Pair
from tests.support.rivals import R, rival
from tests.support.toy import compiled, same

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("optimised")]
SPREAD, REST = 0.3, 0.6  # of x_T; of what it does not say of x_0, in units of that
COUNT = 32


def pairs(number: int) -> dict:
    rng = np.random.default_rng(number)
    xT, own = SPREAD * rng.standard_normal((2, COUNT, 8, 8, 3)).astype(np.float32)
    index = np.arange(number * COUNT, (number + 1) * COUNT, dtype=np.uint32)
    return {"x0": R * xT + REST * own, "xT": xT, "index": index}


def explicit_slope(calls: int) -> float:
    """What DDIB's explicit steps make of two equal laws N(0, SPREAD^2): 1 in the limit."""
    table = DDPM.create()

    def exact(x, t, xT):
        alpha, sigma = table.alpha(t), table.sigma(t)
        return alpha * SPREAD**2 / (alpha**2 * SPREAD**2 + sigma**2) * x

    steps = ddib_steps(table.levels(calls // 2, "respaced"))
    return float(sample_ddib(exact, exact, jnp.ones((1, 1, 1, 1)), steps, clip=False)[0, 0, 0, 0])


# Settings, network calls, and (slope, rest) of the answers: of the law of x_0 given x_T; of its median; None:
# of the monotone map between the two marginals, which are the same, up to its steps. ADM's upsampler is
# Palette with x_T enlarged, which single pixels do not bear; CDSB's rounds are in test_cdsb.py.
CASES = {
    "palette": ({}, 250, (R, REST)),
    "pix2pix": ({"critic_channels": 4, "critic_layers": 1}, 1, (R, 0.0)),
    "ddib": ({}, 200, None),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_learnt_of_gaussian_pairs(name):
    own, calls, law = CASES[name]
    slope, rest = law or (explicit_slope(calls), 0.0)
    own = {"steps": 250, "optimizer.learning_rate": 1e-2, **own}
    changes = {f"baselines.{name}.{key}": value for key, value in own.items()}
    changes |= {"baselines.batch": COUNT, "keep_known": False}
    method, settings, system = rival(name, 32, **changes)
    make_state, step = method.make(system, settings)
    state, run = make_state(jax.random.key(0), None), compiled(step)
    for k in range(settings.steps):
        state, _ = run(state, None, pairs(k), jax.random.key(1), same)
    test = pairs(10_000)
    keys = jax.random.split(jax.random.key(2), COUNT)
    pair = Pair(jnp.zeros_like(test["x0"]), jnp.asarray(test["xT"]), None, keys)
    params = state.players["generator"].ema
    found = jax.jit(lambda xT: method.sample(system, params, pair, calls, keys, settings))(pair.xT)
    x, y = test["xT"].ravel(), np.asarray(found, np.float64).ravel()
    measured = float(x @ y / (x @ x))
    left = float(np.std(y - measured * x) / SPREAD)
    assert abs(measured - slope) < 0.06, (measured, left)
    assert abs(left - rest) < 0.06, (measured, left)
