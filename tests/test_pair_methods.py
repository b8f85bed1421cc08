"""Baselines by their own steps on pairs of Gaussians: what they have learnt is what they should be."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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


# Settings, network calls, and (slope, rest) of the answers: of the law of x_0 given x_T; of its median;
# or of the monotone map between the two marginals, which are the same. ADM's upsampler is Palette with x_T
# enlarged, which single pixels do not bear.
CASES = {
    "palette": ({}, 250, (R, REST)),
    "pix2pix": ({"critic_channels": 4, "critic_layers": 1}, 1, (R, 0.0)),
    "ddib": ({}, 200, (1.0, 0.0)),
    "cdsb": (
        {"path": 20, "gamma_min": 5e-4, "gamma_max": 0.02, "reference_std": 0.3, "batch": COUNT},
        20,
        (R, REST),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_learnt_of_gaussian_pairs(name):
    own, calls, (slope, rest) = CASES[name]
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
