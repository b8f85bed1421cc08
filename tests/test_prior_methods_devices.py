"""Steps of priors from observations on one device, under pmap and over a (data, fsdp) mesh: the same numbers.

As in test_parallel.py, the 8 virtual devices live in a process of their own, which runs `main`.
"""

from __future__ import annotations

import dataclasses
import json
import sys

import jax
import numpy as np
import pytest

from jax_bridges.training.methods import PRIOR_METHODS
from jax_bridges.training.methods.prior import make_prior_step, observed_pair
from jax_bridges.training.optimizers import make_optimizer
from jax_bridges.training.parallel import Parallel
from jax_bridges.training.state import Player, State
from tests.support.priors import KEY, TASKS, observations, prior_system
from tests.support.processes import result_of
from tests.support.toy import random_params

pytestmark = pytest.mark.slow
BATCH, STEPS = 16, 4


@pytest.fixture(scope="module")
def measured():
    """What `main` below has printed in a process with 8 devices."""
    return result_of(sys.executable, __file__, devices=8)


@pytest.mark.parametrize("mode", ["pmap", "4x2", "parts"])
@pytest.mark.parametrize("method", PRIOR_METHODS)
def test_priors_are_the_same_on_one_device_and_on_eight(measured, method, mode):
    """Parameters and averages after four steps; in two microbatches on one device too."""
    found = measured[f"{method} {mode}"]
    assert found["difference"] < 1e-5 < 1e-3 < found["moved"]
    np.testing.assert_allclose(found["loss"], measured[f"{method} one"]["loss"], rtol=1e-4)


@pytest.mark.parametrize("mode", ["pmap", "4x2"])
def test_ambient_samples_are_the_same_on_one_device_and_on_eight(measured, mode):
    """Masks and noise follow from each image's own key."""
    found = measured[f"sampled {mode}"]
    assert found["difference"] < 1e-4 and found["spread"] > 0.05


def largest(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return float(max(np.abs(np.asarray(x) - np.asarray(y)).max() for x, y in pairs))


def play(name, parallel, parts=1):
    """The player after a few steps, the last loss, and how far the parameters have moved."""
    system, config = prior_system(name)
    config.train.microbatches = parts
    method, settings = PRIOR_METHODS[name], config.em.get(name)
    optimizer = make_optimizer(config.train.optimizer, STEPS)
    step = make_prior_step(method, system, config.train, settings, TASKS[name], optimizer)
    step = parallel.step(step)
    params = random_params(system.teacher)
    state = parallel.init(lambda: State.create(teacher=Player.create(params, optimizer)))
    for k in range(STEPS):
        batch = parallel.put(observations(name, BATCH, k * BATCH))
        state, metrics = step(state, None, batch, KEY)
    player = state.players["teacher"]
    return player, float(metrics["loss"]), largest(player.params, params)


def sampled(parallel):
    """Ambient Diffusion's images of a batch."""
    system, config = prior_system("ambient")
    method, task = PRIOR_METHODS["ambient"], TASKS["ambient"]

    def sample(params, batch, key):
        pair = observed_pair(system, batch, key)
        denoise = system.denoiser(params, pair)
        levels = system.bridge.levels(4)
        return method.sample(denoise, pair.x0, levels, pair.keys, config.em.ambient, task)

    params = random_params(system.teacher)
    return parallel.map(sample)(params, observations("ambient", BATCH, 0), KEY)


def main():
    modes = {
        "one": Parallel.create("fsdp", 1, jax.devices()[:1]),
        "pmap": Parallel.create("pmap"),
        "4x2": dataclasses.replace(Parallel.create("fsdp", 2), min_shard=100),
    }
    out = {}
    for name in PRIOR_METHODS:
        one = None
        for mode, parallel in {**modes, "parts": modes["one"]}.items():
            mine, loss, moved = play(name, parallel, 2 if mode == "parts" else 1)
            one = one or mine
            difference = max(largest(mine.params, one.params), largest(mine.ema, one.ema))
            out[f"{name} {mode}"] = dict(difference=difference, loss=loss, moved=moved)
    images = {mode: sampled(parallel) for mode, parallel in modes.items()}
    for mode, found in images.items():
        difference = largest(found, images["one"])
        out[f"sampled {mode}"] = dict(difference=difference, spread=float(found.std()))
    print("RESULT " + json.dumps(out))


if __name__ == "__main__":
    main()
