"""Runs that are killed, that diverge and that are refused."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from absl import flags
from PIL import Image

import jax_bridges.main
from jax_bridges.checkpoints import Checkpoints, NotSaved
from jax_bridges.command import run_command
from jax_bridges.stages.log import MetricsLog
from jax_bridges.stages.run import Diverged
from jax_bridges.training.state import Player, State
from tests.support.restorers import files_of_at_most
from tests.support.runs import (
    assert_same_end,
    lines,
    saved,
    start,
    tiny,
    wait_for_lines,
    write_config,
)

pytestmark = pytest.mark.usefixtures("handlers")

# -- killed ------------------------------------------------------------------------------------


def test_sigterm_saves_and_exits_with_75(images, tmp_path):
    """EX_TEMPFAIL is what schedulers take for "start me again"."""
    config = tiny(images, **{"train.steps": 10**6, "checkpoint_every": 10**6})
    workdir = tmp_path / "run"
    process = start(config, workdir, tmp_path)
    try:
        wait_for_lines(process, workdir, 3)
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 75, said
    step = Checkpoints(workdir / "checkpoints" / "train", read_only=True).latest()
    assert step >= 3
    assert f"saved at step {step} of 1000000; the same command goes on from there" in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_a_run_killed_ten_times_comes_to_the_same_end(images, tmp_path):
    """kill -9 anywhere: during a save, between stages, in the evaluation."""
    changes = {"train.steps": 40, "distill.steps": 30}
    config = tiny(images, **changes)
    whole, workdir = tmp_path / "whole", tmp_path / "killed"
    process = start(config, whole, tmp_path)
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said

    dice = random.Random(0)
    for kill in range(10):
        process = start(config, workdir, tmp_path)
        done = (workdir / "metrics.jsonl").read_bytes().count(b"\n") if kill else 0
        wait_for_lines(process, workdir, done + dice.randint(1, 12))
        time.sleep(dice.choice([0.0, 0.02, 0.1, 1.0]) * dice.random())
        process.kill()
        said, _ = process.communicate(timeout=600)
        assert "Traceback" not in said and "error:" not in said, said
        if process.returncode == 0:
            break
    process = start(config, workdir, tmp_path)
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said
    assert_same_end(workdir, whole)


def test_a_line_cut_by_a_kill_does_not_spoil_the_next(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"stage": "train", "step": 1, "loss": 0.5}\n{"stage": "train", "st')
    log = MetricsLog(tmp_path)
    log.write("train", 2, loss=1 / 3)
    log.close()
    log = MetricsLog(tmp_path)
    log.write("train", 3, loss=2.0)
    log.close()
    first, cut, second, third = path.read_text().splitlines()
    assert json.loads(first)["step"] == 1 and cut == '{"stage": "train", "st'
    assert json.loads(second) == {"stage": "train", "step": 2, "loss": 0.333333}
    assert json.loads(third) == {"stage": "train", "step": 3, "loss": 2.0}


def test_a_run_that_diverges_stops_and_keeps_its_last_checkpoint(images, tmp_path):
    """The first update is absurd, every later gradient is not a number."""
    config = tiny(images, checkpoint_every=1, **{"train.steps": 50, "train.max_skipped": 3})
    config.train.optimizer.update(dict(learning_rate=1e30, warmup=0, schedule="constant", clip=0.0))
    with pytest.raises(Diverged) as caught:
        jax_bridges.main.run(config, tmp_path / "run")
    said = str(caught.value)
    kept = Checkpoints(tmp_path / "run" / "checkpoints" / "train", read_only=True).latest()
    assert said.startswith("train: the last 4 gradients of the teacher were not finite")
    assert f"The checkpoint of step {kept} is kept." in said and "learning rate" in said
    state = saved(tmp_path / "run", "train")
    assert kept >= 1 and all(np.isfinite(p).all() for p in jax.tree.leaves(state["params"]))
    # What was logged stays JSON, for readers stricter than Python.
    logged = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert "NaN" not in logged and "Infinity" not in logged
    assert lines(tmp_path / "run")[-1]["gradient_norm"] is None
    assert not (tmp_path / "run" / "results.json").exists()


# -- a full disk ---------------------------------------------------------------------------------
# A limit of the size of files stands for it: the system's error comes from the same place.


def state_of(step: int) -> State:
    values = np.random.default_rng(step).normal(size=20_000).astype(np.float32)
    return State(
        jax.numpy.int32(step), {"teacher": Player({"w": values}, {"w": values}, {"m": values})}
    )


def test_a_checkpoint_that_cannot_be_written_says_which_is_whole(tmp_path, capfd):
    """It is noticed without another save, once, and leaves nothing half-written."""
    folder, full = tmp_path / "train", os.strerror(errno.EFBIG)
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(state_of(1), {})
    checkpoints = Checkpoints(folder)
    with files_of_at_most(10_000), pytest.raises(NotSaved) as error:
        checkpoints.save(state_of(2), {})
        for _ in range(600):
            checkpoints.check()
            time.sleep(0.1)
    assert str(error.value) == (
        f"{folder / '2'} could not be written ({full}): mend that, and start the same command again, "
        "which goes on at step 1, which is whole."
    )
    checkpoints.close()  # silent
    assert [p.name for p in folder.iterdir()] == ["1"]
    with Checkpoints(folder) as checkpoints:  # and there is room again
        checkpoints.save(state_of(2), {})
        checkpoints.wait()
        assert checkpoints.latest() == 2


def test_a_log_that_cannot_be_written_raises_at_once_and_closes(tmp_path):
    log = MetricsLog(tmp_path)
    log.write("train", 1, loss=0.5)
    with files_of_at_most((tmp_path / "metrics.jsonl").stat().st_size):
        with pytest.raises(OSError) as error:
            log.write("train", 2, loss=0.5)
        log.close()
    assert error.value.filename == str(tmp_path / "metrics.jsonl")
    log.write("train", 3, loss=0.25)
    log.close()
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 3


@pytest.mark.slow
def test_a_training_on_a_full_disk_ends_in_one_sentence(images, tmp_path, monkeypatch, capfd):
    monkeypatch.delenv("JAX_BRIDGES_DEBUG", raising=False)
    with files_of_at_most(12_000):
        code = run_command(lambda: jax_bridges.main.run(tiny(images), tmp_path / "run"))
    said = capfd.readouterr().err.splitlines()
    assert code == 1 and not any("Traceback" in line for line in said)
    assert [line for line in said if line.startswith("error:")] == said[-1:]
    place = tmp_path / "run" / "checkpoints" / "train" / "2"
    assert said[-1].startswith(f"error: {place} could not be written (")
    assert said[-1].endswith("which goes on from the stage's beginning.")
    assert not list(place.parent.iterdir())


# -- what is refused ------------------------------------------------------------------------------


def test_a_folder_of_something_else_is_refused(images, tmp_path):
    (tmp_path / "thesis.tex").write_text("do not touch")
    with pytest.raises(ValueError, match="is not empty and holds no config.json"):
        jax_bridges.main.run(tiny(images), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_configuration_that_an_editor_marked_is_still_the_same(images, tmp_path):
    """Windows' editors write a mark in front of UTF-8, and other ends of lines."""
    resolved = json.loads(tiny(images).to_json_best_effort())
    text = json.dumps(resolved, indent=1).replace("\n", "\r\n")
    (tmp_path / "config.json").write_bytes(b"\xef\xbb\xbf" + text.encode())
    jax_bridges.main.check_workdir(tmp_path, resolved)


def broken_folder(tmp_path) -> Path:
    folder = tmp_path / "broken"
    folder.mkdir()
    for i in range(4):
        Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(folder / f"{i}.png")
    (folder / "4.png").write_bytes(b"not a picture")
    return folder


@pytest.mark.parametrize(
    "changes, error, words",
    [
        ({"data.path": "nowhere"}, FileNotFoundError, "nowhere"),
        ({"data.path": "BROKEN"}, ValueError, "4.png"),
        ({"data.name": "imagenet"}, ValueError, "imagenet"),
        ({"train.steps": 0}, ValueError, "train.steps is 0"),
        ({"parallel.fsdp": 3}, ValueError, "parallel.fsdp is 3"),
        ({"network.dtype": "float16"}, ValueError, "float16"),
        ({"corruption.name": "inpaint_middle"}, ValueError, "inpaint_middle"),
    ],
    ids=str,
)
def test_a_refused_run_leaves_nothing(images, tmp_path, changes, error, words):
    if changes.get("data.path") == "BROKEN":
        changes = {"data.path": str(broken_folder(tmp_path))}
    with pytest.raises(error, match=words):
        jax_bridges.main.run(tiny(images, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_errors_are_one_line_and_exit_code_1(images, tmp_path, monkeypatch, capsys):
    """Also where the work directory cannot be made."""
    (tmp_path / "file").write_text("in the way")
    monkeypatch.delenv("JAX_BRIDGES_DEBUG", raising=False)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", jax.config.jax_compilation_cache_dir or "")
    for number, (config, workdir, words) in enumerate(
        (
            (tiny(images, **{"train.steps": 0}), tmp_path / "run", "train.steps is 0"),
            (tiny(images), tmp_path / "file", "file"),
            (tiny(images), tmp_path / "file" / "run", "file is no folder"),
            (tiny(images), "s3://bucket/run", "name gs://BUCKET/FOLDER"),
            (tiny(images), tmp_path / "caf\udce9", "caf\\udce9: its name is no UTF-8"),
        )
    ):
        (tmp_path / str(number)).mkdir()
        path = write_config(config, tmp_path / str(number))
        arguments = ["jax_bridges", f"--config={path}", f"--workdir={workdir}"]
        monkeypatch.setattr(sys, "argv", arguments)
        jax_bridges.main.define_flags()
        flags.FLAGS(arguments)
        with pytest.raises(SystemExit) as left:
            jax_bridges.main.main(["jax_bridges"])
        flags.FLAGS.unparse_flags()
        said = capsys.readouterr().err.strip().splitlines()
        assert left.value.code == 1
        assert len(said) == 1 and said[0].startswith("error: ") and words in said[0]
    assert (tmp_path / "file").read_text() == "in the way"
