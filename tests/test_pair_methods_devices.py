"""Steps of baselines on one device, under pmap and over a (data, fsdp) mesh: the same numbers.

As in test_parallel.py, the 8 virtual devices live in a process of their own, which runs `main`.
"""

from __future__ import annotations

import dataclasses
import json
import sys

import jax
import numpy as np
import pytest

from jax_bridges.training.methods import PAIR_METHODS
from jax_bridges.training.parallel import Parallel
from tests.support.games import BATCH, batch, difference, moved
from tests.support.processes import result_of
from tests.support.rivals import rival

pytestmark = pytest.mark.slow
STEPS = 4


@pytest.fixture(scope="module")
def measured():
    """What `main` below has printed in a process with 8 devices."""
    return result_of(sys.executable, __file__, devices=8)


@pytest.mark.parametrize("mode", ["pmap", "4x2", "parts"])
@pytest.mark.parametrize("method", PAIR_METHODS)
def test_baselines_are_the_same_on_one_device_and_on_eight(measured, method, mode):
    """Parameters and averages after four steps; in two microbatches on one device too."""
    found = measured[f"{method} {mode}"]
    assert found["difference"] < 1e-5 < 5e-4 < found["moved"]
    np.testing.assert_allclose(found["loss"], measured[f"{method} one"]["loss"], rtol=1e-4)


def play(name, parallel, parts=1):
    """The state after a few steps, the last loss, and how far the parameters have moved."""
    changes = {"baselines.batch": BATCH, "baselines.microbatches": parts}
    if name == "cdsb":
        changes["baselines.cdsb.batch"] = BATCH
    # Else Adam's first updates are signs, of gradients that are but rounding as well.
    for key in ("optimizer", "critic_optimizer") if name == "pix2pix" else ("optimizer",):
        changes[f"baselines.{name}.{key}.eps"] = 1e-4
    method, settings, system = rival(name, **changes)
    make_state, step = method.make(system, settings)
    step = parallel.step(step)
    state = parallel.init(make_state, jax.random.key(0), None)
    start = {n: jax.tree.map(np.asarray, player.params) for n, player in state.players.items()}
    for k in range(STEPS):
        state, metrics = step(state, None, parallel.put(batch(k)), jax.random.key(1))
    return state, float(metrics["loss"]), moved(state, start)


def main():
    modes = {
        "one": Parallel.create("fsdp", 1, jax.devices()[:1]),
        "pmap": Parallel.create("pmap"),
        "4x2": dataclasses.replace(Parallel.create("fsdp", 2), min_shard=100),
    }
    out = {}
    for name in PAIR_METHODS:
        one = None
        for mode, parallel in {**modes, "parts": modes["one"]}.items():
            mine, loss, far = play(name, parallel, 2 if mode == "parts" else 1)
            one = one or mine
            out[f"{name} {mode}"] = dict(difference=difference(mine, one), loss=loss, moved=far)
    print("RESULT " + json.dumps(out))


if __name__ == "__main__":
    main()
