"""Runs in a bucket that lose their hosts or their connection, and models that are read from there."""

from __future__ import annotations

import json
import signal
import threading
import time

import jax
import numpy as np
import pytest

import jax_bridges.main
from jax_bridges.checkpoints import whole_steps
from jax_bridges.io.bucket import place
from tests.support.buckets import NAME, serving
from tests.support.em import em_config, make_tiles
from tests.support.processes import ended, free_port, started
from tests.support.runs import assert_same_end, saved, tiny, write_config

pytestmark = pytest.mark.usefixtures("handlers")
ROOT = f"gs://{NAME}"


@pytest.fixture(scope="module")
def emulator(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("buckets")) as served:
        yield served


def command(path, workdir, *more):
    return ("-m", "jax_bridges.main", f"--config={path}", f"--workdir={workdir}", *more)


@pytest.mark.slow
def test_two_hosts_are_killed_and_one_comes_to_the_same_end(images, emulator, tmp_path):
    """Bit for bit: of two devices the sums are those of two numbers, in whatever order."""
    config = tiny(
        images,
        checkpoint_every=10,
        **{"train.steps": 40, "parallel.mode": "fsdp", "parallel.fsdp": 2, "evaluate.every": 20},
    )
    path, whole = write_config(config, tmp_path), tmp_path / "whole"
    with started(command(path, whole), devices=2) as processes:
        ((code, said, errors),) = ended(processes)
        assert code == 0, said + errors

    address = f"--coordinator=127.0.0.1:{free_port()}"
    both = [
        command(path, f"{ROOT}/killed", address, "--processes=2", f"--process={i}")
        for i in range(2)
    ]
    stage = place(f"{ROOT}/killed") / "checkpoints" / "train"
    with started(*both, devices=1) as processes:
        while not whole_steps(stage) and processes[0].poll() is None:
            time.sleep(0.1)
        for process in processes:
            process.send_signal(signal.SIGKILL)
        for process in processes:
            process.communicate()
    assert [p.returncode for p in processes] == [-signal.SIGKILL] * 2
    step = max(whole_steps(stage))
    assert 0 < step < 40

    with started(command(path, f"{ROOT}/killed"), devices=2) as processes:
        ((code, said, errors),) = ended(processes)
    assert code == 0 and f"train: going on at step {step} of 40" in said, said + errors
    assert_same_end(emulator.files / "killed", whole)
    left = emulator.objects("killed/")
    print("\n".join(left))
    assert not [name for name in left if "tmp" in name or name.startswith("killed/.")]
    plain = {name.split("/")[1] for name in left}
    assert plain == {
        "checkpoints", "config.json", "metrics.jsonl", "report.html", "results.json", "samples",
        "tensorboard", "values.npz",
    }  # fmt: skip


@pytest.mark.slow
def test_a_minute_without_a_connection_changes_nothing(images, emulator, tmp_path, capfd):
    config = tiny(images, **{"profile.first": 1, "profile.steps": 1})
    jax_bridges.main.run(config, tmp_path / "disk")
    back = threading.Timer(60, emulator.start)
    lost = []

    def lose(stage, step, metrics):
        if (stage, step) == ("train", 3):
            lost.append(time.monotonic())
            emulator.stop()
            back.start()

    jax_bridges.main.run(config, f"{ROOT}/lost", callbacks=[lose])
    assert time.monotonic() - lost[0] > 60
    assert "does not answer" in capfd.readouterr().err
    assert_same_end(emulator.files / "lost", tmp_path / "disk")
    assert [name for name in emulator.objects("lost/profile/train") if name.endswith(".xplane.pb")]


@pytest.mark.slow
def test_rounds_of_em_and_seeds_in_a_bucket_are_those_on_a_disk(emulator, tmp_path):
    (tmp_path / "tiles").mkdir()
    config = em_config(make_tiles(tmp_path / "tiles"), seeds=(0, 1))
    for where in (tmp_path / "disk", f"{ROOT}/em"):
        jax_bridges.main.run(config, where)
    one, two = (
        json.loads((where / "results.json").read_text())["rows"]
        for where in (tmp_path / "disk", emulator.files / "em")
    )
    assert len(one) == len(two) > 0
    for mine, theirs in zip(one, two, strict=True):
        mine.pop("seconds_per_image", None), theirs.pop("seconds_per_image", None)
        assert mine == theirs
    for seed in ("seed0", "seed1"):
        one, two = (saved(w / seed, "train") for w in (tmp_path / "disk", emulator.files / "em"))
        jax.tree.map(np.testing.assert_array_equal, one, two)
