"""IBMD's steps on one device, under pmap, over a (data, fsdp) mesh and on two hosts: the same numbers.

As in test_parallel.py and test_hosts.py, several devices live in processes of their own, which run `main`.
"""

from __future__ import annotations

import dataclasses
import json
import re
import sys

import jax
import numpy as np
import optax
import pytest

from jax_bridges import hosts
from jax_bridges.training.methods.ibmd import make_ibmd_step
from jax_bridges.training.parallel import Parallel
from jax_bridges.training.state import Player, State, graft
from jax_bridges.training.system import System
from tests.support.games import batch, difference, moved
from tests.support.processes import ended, free_port, result_of, spoken, started
from tests.support.toy import pointwise, random_params, small_config

pytestmark = pytest.mark.slow
STEPS, UPDATES = 3, 1
CASES = {
    "official": {  # what the released runs have
        "roll_out": "renoised", "chain_ema": True, "xt_from": "call", "ancestral": True, "weight_tilt": 2.0,
        "call_per": "microbatch", "microbatches": 2, "z_per": "chain", "z_channels": 1, "ema_warmup": False,
        "student_steps": 2, "first_call": 0.5, "normalize": False,
    },
    "real": {  # RealUID's term and a critic, x_t detached, a lighter inner term, what is for little noise
        "inner_weight": 0.8, "real_alpha": 0.9, "real_beta": 0.95, "gan_weight": 0.3, "detach_xt": True, "student_steps": 1,
        "critic_channels": 8, "critic_layers": 1, "clamp": True, "times": "even_levels",
    },
}  # fmt: skip
CASES["bfloat16"] = CASES["real"]
MODES = ("pmap", "2x4")


def result(out: str) -> dict:
    return json.loads(re.search(r"RESULT (.*)\n", out)[1])


@pytest.fixture(scope="module")
def measured():
    """What `main` has printed in a process with 8 devices."""
    return result_of(sys.executable, __file__, devices=8)


@pytest.fixture(scope="module")
def of_hosts():
    """What `main` has printed in process 0 of two with 4 devices each."""
    port = free_port()
    with started(*((__file__, port, i) for i in range(2))) as processes:
        (code, out, errors), other = ended(processes)
    assert code == other[0] == 0, out[-2000:] + errors[-4000:] + other[2][-2000:]
    assert spoken(other[1]) == ""
    return result(out)


def compare(found, case, mode):
    one, other = found[case]["one"], found[case][mode]
    # Sums in another order; in bfloat16 each term is rounded to two digits.
    assert other["difference"] < (0.05 * one["moved"] if case == "bfloat16" else 1e-5)
    assert one["moved"] > 1e-3
    near = 0.01 if case == "bfloat16" else 1e-4
    for name, value in one["metrics"].items():
        np.testing.assert_allclose(other["metrics"][name], value, rtol=near, atol=near / 10)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", CASES)
def test_eight_devices_do_what_one_does(measured, case, mode):
    """Parameters and averages of all players after three steps."""
    assert measured["devices"] == 8
    compare(measured, case, mode)


@pytest.mark.parametrize("mode", ["pmap", "1x8"])
def test_two_processes_do_what_one_device_does(of_hosts, mode):
    assert of_hosts["devices"] == 8 and of_hosts["hosts"] == 2
    compare(of_hosts, "official", mode)


@pytest.mark.parametrize("case", CASES)
def test_players_stay_float32(measured, case):
    assert measured[case]["one"]["dtypes"] == ["float32"]
    assert (measured[case]["one"]["players"] == 3) == ("gan_weight" in CASES[case])


# -- run in processes of their own ------------------------------------------------------------------
def play(case: str, parallel: Parallel):
    """The state after a few steps of plain descent, what it began as, and the last metrics."""
    changes = {f"distill.{key}": value for key, value in CASES[case].items()}
    config = small_config(
        **{"distill.first_time": 1.0, "distill.bridge_updates": UPDATES, **changes}
    )
    if case == "bfloat16":
        config.network.update(dict(dtype="bfloat16", widths=(8,), groups=2))
    system = System.create(config)
    system = system if case == "bfloat16" else pointwise(system, width=32)
    sgd = optax.apply_if_finite(optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.05)), 10)
    teacher = jax.tree.map(lambda p: 0.5 * p, random_params(system.teacher))
    # Another than the teacher: the generator's gradient is the difference between both, and must be large.
    other = jax.tree.map(lambda p: 0.5 * p, random_params(system.networks["bridge_net"], seed=3))
    start = {
        "generator": graft(teacher, random_params(system.student, seed=2)),
        "bridge_net": other,
    }
    if "critic" in system.networks:
        start["critic"] = jax.jit(system.init, static_argnums=1)(jax.random.key(5), "critic")
    start = jax.tree.map(np.asarray, start)

    def make(start):
        return State.create(**{name: Player.create(p, sgd) for name, p in start.items()})

    state = parallel.init(make, start)
    step = parallel.step(make_ibmd_step(system, config.distill, sgd, sgd, sgd), 1)
    for k in range(STEPS):
        group = parallel.put(parallel.share(batch(k, UPDATES + 1), 1), 1)
        state, metrics = step(state, teacher, group, jax.random.key(1))
    return state, start, {k: float(v) for k, v in metrics.items()}


def main(port: int | None = None, process: int = 0) -> None:
    if port is not None:
        hosts.start(hosts.find_hosts("auto", f"127.0.0.1:{port}", 2, process))
        hosts.only_chief_prints()
    sharded = {shards: Parallel.create("fsdp", shards) for shards in (4, 8)}
    sharded = {n: dataclasses.replace(parallel, min_shard=100) for n, parallel in sharded.items()}
    modes = {"pmap": Parallel.create("pmap"), "2x4": sharded[4]}
    if port is not None:
        modes = {"pmap": modes["pmap"], "1x8": sharded[8]}
    alone = Parallel.create("fsdp", 1, jax.local_devices()[:1])
    out = {"devices": jax.device_count(), "hosts": modes["pmap"].hosts}
    for case in CASES if port is None else ["official"]:
        one, start, metrics = play(case, alone)
        kinds = sorted(
            {str(leaf.dtype) for leaf in jax.tree.leaves([p.params for p in one.players.values()])}
        )
        of_one = dict(
            metrics=metrics, moved=moved(one, start), dtypes=kinds, players=len(one.players)
        )
        out[case] = {"one": of_one}
        for name, parallel in modes.items():
            state, _, metrics = play(case, parallel)
            if port is not None:  # whole on each host, to be looked at
                whole = jax.tree.map(lambda s, p=parallel: p._named(), parallel.shardings(state))
                state = jax.jit(lambda s: s, out_shardings=whole)(state)
            out[case][name] = dict(difference=difference(one, state), metrics=metrics)
    print("RESULT " + json.dumps(out), flush=True)
    if port is not None:
        hosts.barrier("end")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
