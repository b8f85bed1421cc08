"""A consistency step on one device, under pmap and over a (data, fsdp) mesh: the same numbers.

As in test_parallel.py, the 8 virtual devices live in a process of their own, which runs `main`.
"""

from __future__ import annotations

import dataclasses
import json
import sys

import jax
import numpy as np
import pytest

from jax_bridges.training.methods import find_method
from jax_bridges.training.parallel import Parallel
from jax_bridges.training.state import State
from jax_bridges.training.system import System
from tests.support.processes import result_of
from tests.support.toy import image_batch, pointwise, random_params, small_config

pytestmark = pytest.mark.slow
BATCH, STEPS = 16, 4
METHODS = {"cbd": {}, "cbt": {"distill.cbt.target": "ema", "distill.microbatches": 2}}


@pytest.fixture(scope="module")
def measured():
    """What `main` below has printed in a process with 8 devices."""
    return result_of(sys.executable, __file__, devices=8)


@pytest.mark.parametrize("mode", ["pmap", "4x2"])
@pytest.mark.parametrize("method", METHODS)
def test_consistency_students_are_the_same_on_one_device_and_on_eight(measured, method, mode):
    """Parameters and averages after four steps; CBT's with an averaged target and microbatches."""
    found = measured[f"{method} {mode}"]
    assert found["difference"] < 1e-5 < 1e-3 < found["moved"]
    assert found["step"] == STEPS
    np.testing.assert_allclose(found["loss"], measured[f"{method} one"]["loss"], rtol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_microbatches_give_the_same_gradient(measured, method):
    """The other number of parts on one device."""
    found = measured[f"{method} parts"]
    assert found["difference"] < 1e-5 < 1e-3 < found["moved"]


def largest(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return float(max(np.abs(np.asarray(x) - np.asarray(y)).max() for x, y in pairs))


def play(config, parallel) -> tuple[State, float, float]:
    """The state after a few steps, the last loss, and how far the parameters have moved."""
    system = pointwise(System.create(config), width=32)
    teacher = random_params(system.teacher)
    method, settings = find_method(config.distill)
    make_state, step = method.make(system, settings)
    step = parallel.step(step)
    state = parallel.init(make_state, jax.random.key(0), teacher)
    start = jax.tree.map(np.asarray, state.players["generator"].params)
    for k in range(STEPS):
        batch = parallel.put(image_batch(BATCH, k * BATCH))
        state, metrics = step(state, teacher, batch, jax.random.key(1))
    moved = largest(state.players["generator"].params, start)
    return state, float(metrics["loss"]), moved


def main():
    modes = {
        "one": Parallel.create("fsdp", 1, jax.devices()[:1]),
        "pmap": Parallel.create("pmap"),
        "4x2": dataclasses.replace(Parallel.create("fsdp", 2), min_shard=100),
    }
    out = {}
    for method, changes in METHODS.items():
        config = small_config(**{"distill.method": method, "distill.batch": BATCH, **changes})
        config.distill[method].optimizer.update(dict(warmup=0, learning_rate=1e-2))
        one = None
        for name, parallel in modes.items():
            state, loss, moved = play(config, parallel)
            one = one or state.players["generator"]
            mine = state.players["generator"]
            out[f"{method} {name}"] = dict(
                difference=max(largest(mine.params, one.params), largest(mine.ema, one.ema)),
                loss=loss, moved=moved, step=int(state.step),
            )  # fmt: skip
        config.distill.microbatches = 3 - config.distill.microbatches
        state, loss, moved = play(config, modes["one"])
        mine = state.players["generator"]
        out[f"{method} parts"] = dict(difference=largest(mine.params, one.params), moved=moved)
    print("RESULT " + json.dumps(out))


if __name__ == "__main__":
    main()
