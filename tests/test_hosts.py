"""Several hosts: who is one, that two compute what one does, and that they stop and go on together.

Two real processes of four virtual devices each talk over localhost (gloo). They run the second half
of this file, or the program itself.
"""

from __future__ import annotations

import dataclasses
import json
import random
import re
import sys

import jax
import numpy as np
import pytest

from jax_bridges.hosts import count_tpu_workers, find_hosts, join, slurm_tasks
from jax_bridges.training.parallel import Parallel
from tests.support.processes import GLOO, ended, free_port, spoken, started

STEP = {
    "SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "n[1-2]", "SLURM_PROCID": "3",
    "SLURM_LOCALID": "3", "SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "8",
}  # fmt: skip


def nobody(environment):
    """A machine without a TPU."""
    return 0


# -- who is one of several -------------------------------------------------------------------------
def test_a_laptop_is_alone():
    """Whatever it has in its environment, and without a word over the network."""
    for environment in ({}, {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8", "SLURM_PROCID": "0"}):
        assert find_hosts(environment=environment, tpu_workers=nobody) is None
    assert find_hosts("none", environment=STEP, tpu_workers=lambda environment: 4) is None
    assert find_hosts(environment=STEP | {"SLURM_STEP_NUM_TASKS": "1"}, tpu_workers=nobody) is None
    assert count_tpu_workers({"JAX_PLATFORMS": "cpu", "TPU_WORKER_HOSTNAMES": "a,b"}) == 0


def test_no_hardware_no_question(monkeypatch):
    """The metadata server is asked only where a TPU is plugged in and libtpu is installed."""
    import urllib.request

    def asked(*_, **__):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(urllib.request, "urlopen", asked)
    monkeypatch.setattr("glob.glob", lambda pattern: [])
    assert count_tpu_workers({}) == 0
    monkeypatch.setattr("glob.glob", lambda pattern: ["/dev/accel0"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert count_tpu_workers({}) == 0


def test_a_silence_that_is_too_short_is_refused():
    with pytest.raises(ValueError, match="--lost_after is 4: it must be at least 5 seconds"):
        join("none", "", 0, -1, 4)


@pytest.mark.parametrize("answer, hosts", [("a,b,c,d", 4), ("u:1:10.0.0.1,u:1:10.0.0.2", 2)])
def test_a_pod_counts_its_hosts(monkeypatch, answer, hosts):
    """By the metadata server of a TPU VM, or by the variables of GKE."""
    import io
    import urllib.request

    monkeypatch.setattr("glob.glob", lambda pattern: ["/dev/accel0"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    seen = []

    def answered(request, timeout):
        seen.append((request.full_url, request.get_header("Metadata-flavor")))
        return io.BytesIO(answer.encode())

    monkeypatch.setattr(urllib.request, "urlopen", answered)
    assert count_tpu_workers({}) == hosts
    url = "http://metadata.google.internal/computeMetadata/v1/instance/attributes/"
    assert seen == [(url + "worker-network-endpoints", "Google")]
    assert find_hosts(environment={}).settings == {}  # JAX finds the rest by itself

    def refused(request, timeout):
        raise OSError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", refused)
    assert count_tpu_workers({}) == 0
    gke = {"TPU_WORKER_HOSTNAMES": "a,b,c"}
    assert (
        count_tpu_workers(gke) == 3 and count_tpu_workers(gke | {"MEGASCALE_NUM_SLICES": "2"}) == 6
    )
    assert count_tpu_workers({"TPU_WORKER_HOSTNAMES": "localhost"}) == 1  # a TPU VM of one host


def test_a_slurm_step_and_hosts_by_hand():
    found = find_hosts(environment=STEP, tpu_workers=nobody)
    assert found.settings == {"cluster_detection_method": "slurm"} and "8 tasks" in found.how
    assert slurm_tasks(STEP) == 8
    by_hand = find_hosts("auto", "node1:1234", 4, 2, STEP, nobody)
    assert by_hand.settings == {
        "coordinator_address": "node1:1234", "num_processes": 4, "process_id": 2,
    }  # fmt: skip
    assert find_hosts("tpu", environment={}, tpu_workers=nobody).settings == {}


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("gpu",), "--hosts is 'gpu': choose one of auto, none, tpu, slurm"),
        (("slurm",), "no step of SLURM: start it with srun"),
        (("auto", "node1:1"), "all of --coordinator=HOST:PORT"),
        (("auto", "", 2, 0), "all of --coordinator=HOST:PORT"),
        (("auto", "node1", 2, 0), "all of --coordinator=HOST:PORT"),
        (("auto", "node1:1", 2, 2), "--process=0..N-1"),
        (("slurm", "node1:1", 2, 1), "two ways to say it"),
    ],
    ids=str,
)
def test_flags_that_contradict_each_other(arguments, words):
    with pytest.raises(ValueError) as caught:
        find_hosts(*arguments, environment={}, tpu_workers=nobody)
    assert words in str(caught.value)


def test_one_host_has_the_whole_batch():
    parallel = Parallel.create(devices=jax.devices()[:1])
    batch = {"x0": np.arange(12).reshape(2, 6)}
    assert parallel.hosts == 1 and parallel.share(batch, 1) is batch
    assert parallel.reason == "one device"
    two = dataclasses.replace(parallel, hosts=2)  # this is process 0 of them
    np.testing.assert_array_equal(two.share(batch, 1)["x0"], [[0, 1, 2], [6, 7, 8]])
    np.testing.assert_array_equal(two.share(batch)["x0"], [[0, 1, 2, 3, 4, 5]])


# -- two processes of four devices -----------------------------------------------------------------
@pytest.mark.parametrize("said", ["", "train 5/30  loss 0.5", "report: run/report.html", "error"])
def test_what_a_process_said_is_told_from_what_gloo_said(said):
    """Three threads of gloo, whose pieces come in any order, and the program between two of them."""
    draw = random.Random(0)
    words = re.sub(r"[\d\s]", "", said)
    for _ in range(300):
        threads = [
            [GLOO[0], str(rank), GLOO[1], "1", GLOO[2], GLOO[3], "7", "\n"] for rank in range(3)
        ]
        pieces = []
        while any(threads):
            pieces.append(draw.choice([thread for thread in threads if thread]).pop(0))
        pieces.insert(draw.randrange(len(pieces) + 1), said)
        assert spoken("".join(pieces)) == words
    seen = "[Gloo] Rank [Gloo] Rank 10 is connected to  is connected to 11 peer ranks. "
    assert spoken(f"{seen}\n1\n") == "" and spoken(f"{seen}x\n1\n") == "x"


@pytest.fixture(scope="module")
def measured():
    """What `main` below has printed in process 0 of two."""
    port = free_port()
    with started(*((__file__, port, i) for i in range(2))) as processes:
        (code, out, errors), other = ended(processes)
    found = re.search(r"RESULT (.*)\n", out)  # gloo may have begun the line
    assert found and code == other[0] == 0, out[-2000:] + errors[-4000:] + other[2][-2000:]
    assert spoken(other[1]) == ""
    return json.loads(found[1])


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["pmap", "1x8"])
def test_two_processes_train_what_one_device_does(measured, mode):
    """Parameters and averages of both players after five steps of IBMD."""
    found = measured[mode]
    assert measured["devices"] == 8 and measured["hosts"] == 2
    assert found["difference"] < 1e-5 < 1e-3 < found["moved"]
    assert found["step"] == 5
    for name, value in measured["one"].items():
        np.testing.assert_allclose(found["metrics"][name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_shards_cross_hosts(measured):
    """1x8: every device of both hosts holds an eighth of the 32 x 32 kernel."""
    assert measured["pmap"]["kernel"] == [32, 32] and measured["1x8"]["kernel"] == [4, 32]
    assert measured["auto"] == ["fsdp", "one program over 2 hosts"]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["pmap", "1x8"])
def test_both_processes_get_all_samples_in_order(measured, mode):
    """The whole batch comes back on each, row i at place i."""
    assert measured[mode]["order"] == list(range(16))
    assert measured[mode]["samples"] < 1e-5


# -- run in each of two processes ------------------------------------------------------------------
def main(port: int, process: int) -> None:
    from jax_bridges import hosts
    from jax_bridges.samplers import sample_few_step
    from jax_bridges.times import student_grid
    from jax_bridges.training.methods.ibmd import make_ibmd_step
    from jax_bridges.training.optimizers import make_optimizer
    from jax_bridges.training.state import Player, State, graft
    from tests.support.games import STEPS, UPDATES, batch, difference, make_system, moved, shard
    from tests.support.toy import optimizer_config, pointwise, random_params

    hosts.start(find_hosts("auto", f"127.0.0.1:{port}", 2, process))
    hosts.only_chief_prints()
    config, system = make_system()
    system = pointwise(system, width=32)
    adam = make_optimizer(optimizer_config(clip=1.0, learning_rate=1e-3), 10)
    teacher = random_params(system.teacher)
    start = {
        "generator": graft(teacher, random_params(system.student, seed=2)),
        "bridge_net": graft(teacher, random_params(system.networks["bridge_net"], seed=3)),
    }
    start = jax.tree.map(np.asarray, start)
    times = student_grid(system.bridge, 2)

    def sample(params, batch, key):
        pair = system.prepare(batch, key, augment=False)
        generate = system.generator(params, pair)
        images = sample_few_step(generate, system.bridge, pair.xT, times, pair.keys)
        return images, batch["index"]

    def make(start):
        return State.create(**{name: Player.create(p, adam) for name, p in start.items()})

    def play(parallel):
        state = parallel.init(make, start)
        step = parallel.step(make_ibmd_step(system, config.distill, adam, adam), 1)
        for k in range(STEPS):
            group = parallel.put(parallel.share(batch(k, UPDATES + 1), 1), 1)
            state, metrics = step(state, teacher, group, jax.random.key(1))
        images, order = parallel.map(sample)(
            state.players["generator"].ema, batch(0), jax.random.key(1)
        )
        return state, {k: float(v) for k, v in metrics.items()}, images, order

    sharded = {
        "1x8": dataclasses.replace(Parallel.create("fsdp", 8), min_shard=100),
        "pmap": Parallel.create("pmap"),
    }
    one, metrics, images, _ = play(Parallel.create("fsdp", 1, jax.local_devices()[:1]))
    auto = Parallel.create()
    out = {
        "one": metrics, "devices": jax.device_count(), "hosts": auto.hosts,
        "auto": [auto.mode, auto.reason],
    }  # fmt: skip
    for name, parallel in sharded.items():
        state, metrics, samples, order = play(parallel)
        kernel = shard(state.players["generator"].params["second"]["kernel"])
        whole = parallel.shardings(jax.eval_shape(lambda s: s, state))
        whole = jax.tree.map(lambda s: parallel._named(), whole)
        state = jax.jit(lambda s: s, out_shardings=whole)(state)
        out[name] = dict(
            difference=difference(one, state),
            moved=moved(state, start),
            metrics=metrics,
            step=int(state.step),
            kernel=kernel,
            samples=float(np.abs(samples - images).max()),
            order=order.tolist(),
        )
    print("RESULT " + json.dumps(out), flush=True)
    hosts.barrier("end")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
