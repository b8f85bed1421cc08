"""The whole program on two hosts: a signal to one stops both, and any number of hosts goes on."""

from __future__ import annotations

import json
import re
import shutil
import signal
import time

import numpy as np
import pytest

from jax_bridges.checkpoints import Checkpoints
from tests.support.processes import ended, free_port, spoken, started
from tests.support.runs import lines, read_arrays, tiny, wait_for_lines, write_config

STEPS = 30


def command(path, workdir, *more):
    """The program as a user starts it."""
    return ("-m", "jax_bridges.main", f"--config={path}", f"--workdir={workdir}", *more)


def both(path, workdir):
    """The same on two hosts."""
    port = free_port()
    return [
        command(path, workdir, f"--coordinator=127.0.0.1:{port}", "--processes=2", f"--process={i}")
        for i in range(2)
    ]


def largest(one: dict, other: dict, relative: bool = False) -> float:
    """The largest difference of any number in the leaves; `relative` to the largest of its leaf."""
    assert one.keys() == other.keys()
    found = []
    for name, a in one.items():
        scale = np.abs(a).max() if relative else 1.0
        found.append(np.abs(a - other[name]).max() / (scale or 1.0))
    return float(max(found))


def least_moved(workdir) -> float:
    """How far the parameters of the player that moved least have come, the furthest of each."""
    teacher, students = read_arrays(workdir, "train"), read_arrays(workdir, "distill")["params"]
    out = teacher["params"]["['teacher']['out']['kernel']"]  # starts at zero
    moved = [np.abs(out).max()]
    for player in ("generator", "bridge_net"):  # copies of the teacher's average at first
        start = {k.replace("teacher", player, 1): v for k, v in teacher["ema"].items()}
        assert start.keys() <= students.keys()
        moved.append(largest(start, {k: students[k] for k in start}))
    return float(min(moved))


@pytest.mark.slow
def test_a_signal_to_one_host_stops_both_and_any_number_goes_on(images, tmp_path):
    """SIGTERM to the second of two processes; the end is that of a run on one, undisturbed.

    Equal, not bit-equal. What differs in order are the sums over devices: of gradients, their norms
    and the losses, which one process adds up in its memory and gloo in a ring over two. That is the
    last digit of a sum, 1e-7 of it, and goes into the parameters through Adam's update: with its
    usual eps of 1e-8 the smallest gradients, which are nothing but rounding, would move them by a
    whole learning rate, so eps is 1e-3 here. Moments are compared in units of their leaf. Those of
    the generator are less exact than the teacher's, for its gradient is the difference of teacher
    and bridge net, which are alike at the start.
    """
    config = tiny(
        images, checkpoint_every=10**6,
        **{"train.steps": STEPS, "train.batch": 8, "distill.batch": 8, "parallel.fsdp": 2},
    )  # fmt: skip
    config.evaluate.update(dict(teacher_nfe=(1,), student_nfe=(1,)))
    config.distill.steps = 3
    for optimizer in (
        config.train.optimizer, config.distill.optimizer, config.distill.bridge_optimizer,
    ):  # fmt: skip
        optimizer.update(dict(eps=1e-3, learning_rate=1e-3, warmup=0))
    path = write_config(config, tmp_path)
    whole, stopped, alone = (tmp_path / name for name in ("whole", "stopped", "alone"))
    with started(command(path, whole), devices=8) as processes:
        ((code, said, errors),) = ended(processes)
        assert code == 0, said + errors
    with started(*both(path, stopped)) as processes:
        wait_for_lines(processes[0], stopped, 5)
        processes[1].send_signal(signal.SIGTERM)
        (first, said, errors), (second, silent, other) = ended(processes)
    assert first == second == 75, said + errors + other
    step = Checkpoints(stopped / "checkpoints" / "train", read_only=True).latest()
    assert f"train: saved at step {step} of {STEPS}" in said and spoken(silent) == ""
    assert 5 <= step < STEPS and lines(stopped)[-1]["step"] == step
    assert not (stopped / "results.json").exists()

    shutil.copytree(stopped, alone)
    with started(command(path, alone), devices=8) as processes:
        ((code, said, errors),) = ended(processes)
        assert code == 0 and f"going on at step {step}" in said, said + errors
    with started(*both(path, stopped)) as processes:
        (first, said, errors), (second, silent, other) = ended(processes)
        assert first == second == 0 and spoken(silent) == "", said + errors + other
    assert re.search(r"devices +8 x .* fsdp", said)
    assert least_moved(whole) > 1e-4  # or the following would say little
    for other in (alone, stopped):
        for stage, moments in (("train", 1e-5), ("distill", 1e-3)):
            one, two = read_arrays(whole, stage), read_arrays(other, stage)
            found = [largest(one[k], two[k], relative=k == "opt") for k in one]
            print(
                f"{other.name} {stage}: params {found[0]:.1g} ema {found[1]:.1g} opt {found[2]:.1g}"
            )
            assert max(found[:2]) < 1e-6 and found[2] < moments
    rows = [json.loads((w / "results.json").read_text())["rows"] for w in (whole, alone, stopped)]
    for mine, *theirs in zip(*rows, strict=True):
        for row in theirs:
            assert row["model"] == mine["model"] and row["nfe"] == mine["nfe"]
            assert row["psnr"] == pytest.approx(mine["psnr"], abs=1e-3)
    assert [line["step"] for line in lines(stopped) if line["stage"] == "train"] == list(
        range(1, STEPS + 1)
    )
    for name in ("report.html", "samples/evaluate.png"):
        assert (stopped / name).stat().st_size > 0


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_host_that_is_killed_ends_the_other_and_the_next_start_goes_on(images, tmp_path, victim):
    """Of two processes, at once or after the silence that was allowed; a start of both goes on."""
    config = tiny(images, **{"train.steps": 4000, "train.batch": 8, "distill.batch": 8})
    path, workdir = write_config(config, tmp_path), tmp_path / "run"
    commands = [(*each, "--lost_after=10") for each in both(path, workdir)]
    with started(*commands) as processes:
        wait_for_lines(processes[0], workdir, 8)
        processes[victim].kill()
        killed = time.monotonic()
        (survivor,) = ended([processes[1 - victim]], timeout=60)
        assert time.monotonic() - killed < 35
    code, said, errors = survivor
    assert code == 75, said + errors
    words = "stopped: another host was lost; the same command goes on from the last checkpoint"
    assert errors.count(words) == 1 and errors.rstrip().endswith(words), errors
    step = Checkpoints(workdir / "checkpoints" / "train", read_only=True).latest()
    assert step >= 6
    with started(*both(path, workdir)) as processes:
        wait_for_lines(processes[0], workdir, step + 4)
        processes[1].send_signal(signal.SIGTERM)
        (first, said, errors), (second, _, _) = ended(processes)
    assert first == second == 75 and f"going on at step {step} of 4000" in said, said + errors


def test_a_mistake_is_told_once_and_ends_both(images, tmp_path):
    path = write_config(tiny(images, **{"train.batch": 12}), tmp_path)
    with started(*both(path, tmp_path / "run")) as processes:
        (first, _, said), (second, _, _) = ended(processes)
    assert first == 1 and second != 0
    assert "error: train.batch is 12: it must be a multiple of 8" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_whole_program_under_pmap(images, tmp_path):
    """Eight devices of one host, chosen by itself; with pictures, a recording, and a teacher to start from."""
    changes = {"train.steps": 3, "distill.steps": 2, "train.batch": 8, "distill.batch": 8}
    config = tiny(images, **changes, **{"profile.first": 1, "profile.steps": 1})
    config.pictures_every = 2
    first, second = tmp_path / "first", tmp_path / "second"
    with started(command(write_config(config, tmp_path), first), devices=8) as processes:
        ((code, said, errors),) = ended(processes)
    assert code == 0, said + errors
    assert "8 x cpu, pmap (several devices of one host, each with a whole state)" in said
    names = {p.name for p in (first / "samples").glob("*.png")}
    assert names == {"train-2.png", "train-3.png", "distill-2.png", "evaluate.png"}
    for stage in ("train", "distill"):
        assert list((first / "profile" / stage).rglob("*.xplane.pb")), stage

    config.teacher.init = str(first)
    config.profile.steps = 0
    with started(command(write_config(config, tmp_path), second), devices=8) as processes:
        ((code, said, errors),) = ended(processes)
    assert code == 0 and f"teacher    {first}: step 3 of 3" in said, said + errors
    losses = [
        [line["loss"] for line in lines(w) if line["stage"] == "train"] for w in (first, second)
    ]
    assert losses[1][0] < losses[0][0]  # it began with the first one's average
