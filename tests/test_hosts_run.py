"""The whole program on two hosts: a signal to one stops both, and any number of hosts goes on."""

from __future__ import annotations

import json
import re
import shutil
import signal

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from runs import lines, tiny, wait_for_lines, write_config
from test_hosts import ended, free_port, started

from jax_bridges.checkpoints import Checkpoints

STEPS = 30


def command(path, workdir, *more):
    """The program as a user starts it."""
    return ("-m", "jax_bridges.main", f"--config={path}", f"--workdir={workdir}", *more)


def two(path, workdir):
    """The same on two hosts."""
    port = free_port()
    return [
        command(path, workdir, f"--coordinator=127.0.0.1:{port}", "--processes=2", f"--process={i}")
        for i in range(2)
    ]


def spoken(output: str) -> str:
    """What the program itself has printed: gloo's C++ code prints too."""
    return "".join(part for part in output.splitlines(True) if not part.startswith("[Gloo]"))


def read_arrays(workdir, stage) -> list[np.ndarray]:
    """Parameters, averages and optimiser of a stage, by whatever devices they were written."""
    folder = workdir.absolute() / "checkpoints" / stage
    newest = max((p for p in folder.iterdir() if p.name.isdigit()), key=lambda p: int(p.name))
    found = []
    with ocp.PyTreeCheckpointer() as reader:
        for item in ("params", "ema", "opt"):
            tree = reader.metadata(newest / item).item_metadata.tree
            how = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
            found += jax.tree.leaves(reader.restore(newest / item, restore_args=how))
    return found


def largest_difference(one, other) -> float:
    """Of all parameters, averages and moments of both stages."""
    differences = []
    for stage in ("train", "distill"):
        a, b = read_arrays(one, stage), read_arrays(other, stage)
        differences += [
            np.abs(np.float64(x) - np.float64(y)).max() for x, y in zip(a, b, strict=True)
        ]
    return float(max(differences))


@pytest.mark.slow
def test_a_signal_to_one_host_stops_both_and_any_number_goes_on(images, tmp_path):
    """SIGTERM to the second of two processes; the end is that of a run on one, undisturbed."""
    config = tiny(
        images, checkpoint_every=10**6,
        **{"train.steps": STEPS, "train.batch": 8, "distill.batch": 8, "parallel.fsdp": 2},
    )  # fmt: skip
    config.evaluate.update(dict(images=8, teacher_nfe=(1,), student_nfe=(1,)))
    config.distill.steps = 2
    for optimizer in (
        config.train.optimizer, config.distill.optimizer, config.distill.bridge_optimizer,
    ):  # fmt: skip
        optimizer.eps = 1e-3  # else Adam magnifies what rounding leaves of the smallest gradients
    path = write_config(config, tmp_path)
    whole, stopped, alone = (tmp_path / name for name in ("whole", "stopped", "alone"))
    with started(command(path, whole), devices=8) as processes:
        ((code, said, errors),) = ended(processes)
        assert code == 0, said + errors
    with started(*two(path, stopped)) as processes:
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
    with started(*two(path, stopped)) as processes:
        (first, said, errors), (second, silent, other) = ended(processes)
        assert first == second == 0 and spoken(silent) == "", said + errors + other
    assert re.search(r"devices +8 x .* fsdp", said)
    # Two hosts add up their gradients in another order than one: the first steps were theirs.
    print("one host", largest_difference(alone, whole), "two", largest_difference(stopped, whole))
    assert largest_difference(alone, whole) < 1e-5
    assert largest_difference(stopped, whole) < 1e-5
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


def test_a_mistake_is_told_once_and_ends_both(images, tmp_path):
    path = write_config(tiny(images, **{"train.batch": 12}), tmp_path)
    with started(*two(path, tmp_path / "run")) as processes:
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
