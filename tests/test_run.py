"""A run from end to end at toy size: what it leaves, how it stops, how it goes on, what it refuses."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from ml_collections import ConfigDict
from PIL import Image

import jax_bridges.main
from jax_bridges.checkpoints import Checkpoints
from jax_bridges.config import base_config
from jax_bridges.stages.run import Diverged, MetricsLog, Stopped

ROOT = Path(__file__).parents[1]
TRAIN, DISTILL = 6, 4  # steps


@pytest.fixture(scope="module", autouse=True)
def quick_compiler():
    """These programs run for milliseconds: compiling them is what takes time."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(autouse=True)
def handlers():
    """A run takes over the signals; pytest gets them back."""
    before = [(s, signal.getsignal(s)) for s in (signal.SIGTERM, signal.SIGINT)]
    yield
    for number, handler in before:
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """A folder of 24 random images of 16x16 pixels."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for i in range(24):
        array = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(array).save(folder / f"{i:02}.png")
    return folder


def tiny(images, **changes) -> ConfigDict:
    """The smallest run that has everything in it."""
    config = base_config()
    config.data.update(dict(name="folder", path=str(images), size=16, test_fraction=0.5))
    config.network.update(dict(widths=(8,), patch=4, groups=2))
    config.train.update(dict(steps=TRAIN, batch=4))
    config.distill.update(dict(steps=DISTILL, batch=4, bridge_updates=1, student_steps=2))
    config.evaluate.update(
        dict(images=12, batch=8, teacher_nfe=(1, 2), student_nfe=(1, 2), pictures=2)
    )
    config.log_every = 1
    config.checkpoint_every = 2
    config.update_from_flattened_dict(changes)
    return config


@pytest.fixture(scope="module")
def whole(images, tmp_path_factory) -> Path:
    """The folder of a run that nobody disturbed; read only."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    report = jax_bridges.main.run(tiny(images), workdir)
    assert report == workdir / "report.html"
    return workdir


def lines(workdir) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def steps(workdir, stage) -> list[int]:
    return [line["step"] for line in lines(workdir) if line["stage"] == stage]


def saved(workdir, stage) -> dict:
    """Everything in a stage's last checkpoint, as numpy: params, ema, opt and the position."""
    folder = (workdir / "checkpoints" / stage).absolute()
    with ocp.CheckpointManager(folder, options=ocp.CheckpointManagerOptions(read_only=True)) as m:
        restore = ocp.args.StandardRestore()
        items = m.restore(
            m.latest_step(),
            args=ocp.args.Composite(
                params=restore, ema=restore, opt=restore, data=ocp.args.JsonRestore()
            ),
        )
        trees = {name: items[name] for name in ("params", "ema", "opt", "data")}
    return jax.tree.map(np.asarray, trees)


def assert_same_end(workdir, whole):
    """Every number of every player of both stages, and every result and picture, bit for bit."""
    for stage, players in (("train", {"teacher"}), ("distill", {"generator", "bridge_net"})):
        one, two = saved(workdir, stage), saved(whole, stage)
        assert set(one["params"]) == set(one["ema"]) == set(one["opt"]) == players
        assert jax.tree.structure(one) == jax.tree.structure(two)
        jax.tree.map(np.testing.assert_array_equal, one, two)
        last = {line["step"]: line for line in lines(workdir) if line["stage"] == stage}
        expected = {line["step"]: line for line in lines(whole) if line["stage"] == stage}
        timed = ("images_per_second", "seconds_per_step")
        for step, line in expected.items():
            assert {k: v for k, v in last[step].items() if k not in timed} == {
                k: v for k, v in line.items() if k not in timed
            }
    one, two = (json.loads((w / "results.json").read_text())["rows"] for w in (workdir, whole))
    for row in one + two:
        row.pop("seconds_per_image", None)
    assert one == two
    names = sorted(p.relative_to(whole) for p in (whole / "samples").rglob("*.png"))
    assert names == sorted(p.relative_to(workdir) for p in (workdir / "samples").rglob("*.png"))
    for name in names:
        assert (workdir / name).read_bytes() == (whole / name).read_bytes(), name


# -- what a run leaves ----------------------------------------------------------------------------


def test_a_run_leaves_what_it_promises(whole, images):
    assert {p.name for p in whole.iterdir()} == {
        "config.json", "metrics.jsonl", "tensorboard", "checkpoints", "samples", "results.json",
        "report.html",
    }  # fmt: skip
    config = json.loads((whole / "config.json").read_text())
    assert config == json.loads(tiny(images).to_json_best_effort())
    assert steps(whole, "train") == list(range(1, TRAIN + 1))
    assert steps(whole, "distill") == list(range(1, DISTILL + 1))
    for line in lines(whole):
        assert line["images_per_second"] > 0 and np.isfinite(line["loss"]) and line["skipped"] == 0
        # At its first step the game is even: generator and bridge net are the teacher.
        assert line["gradient_norm"] > 0 or (line["stage"], line["step"]) == ("distill", 1)
    assert list((whole / "tensorboard").glob("events.out.tfevents.*"))
    # The two newest checkpoints of each stage, each with its parts.
    for stage, newest in (("train", {"4", "6"}), ("distill", {"2", "4"})):
        folder = whole / "checkpoints" / stage
        assert {p.name for p in folder.iterdir() if p.is_dir()} == newest
        for step in newest:
            found = {p.name for p in (folder / step).iterdir() if p.is_dir()}
            assert {"params", "ema", "opt", "data", "meta"} <= found
        meta = Checkpoints(folder, read_only=True).meta()
        assert meta["stage"] == stage and meta["config"] == config and meta["format"] == 1
    samples = {str(p.relative_to(whole / "samples")) for p in (whole / "samples").rglob("*.png")}
    assert {"train-6.png", "distill-4.png", "evaluate.png"} <= samples
    results = json.loads((whole / "results.json").read_text())
    rows = [(r["model"], r["nfe"]) for r in results["rows"]]
    assert rows == [("source", 0), ("teacher", 1), ("teacher", 2), ("student", 1), ("student", 2)]
    for row in results["rows"]:
        assert row["images"] == 12 and np.isfinite(row["psnr"]) and np.isfinite(row["fd_lite0"])
        assert row["nfe"] == 0 or row["seconds_per_image"] > 0
    assert results["measured"]["versions"]["jax"] == jax.__version__
    report = (whole / "report.html").read_text()
    assert report.lstrip().lower().startswith("<!doctype html>") and "student" in report


def test_the_players_moved(whole):
    """And the averages follow them: a schedule or a mask gone wrong would show here."""
    trained, played = saved(whole, "train"), saved(whole, "distill")
    teacher = trained["ema"]["teacher"]
    for name in ("generator", "bridge_net"):
        final = played["params"][name]
        for layer in ("stem", "out"):
            distance = np.abs(final[layer]["kernel"] - teacher[layer]["kernel"]).max()
            assert distance > 1e-5, (name, layer)
            average = played["ema"][name][layer]["kernel"]
            assert 0 < np.abs(average - final[layer]["kernel"]).max() < 10 * distance
    assert np.abs(played["params"]["generator"]["z_in"]["kernel"]).max() > 1e-5


def test_a_second_start_repeats_nothing(whole, images, tmp_path, capsys):
    """Not even with other values for keys that are free to change."""
    workdir = tmp_path / "copy"
    shutil.copytree(whole, workdir)

    def state():
        kept = [workdir / "metrics.jsonl", workdir / "results.json"]
        kept += (p for p in (workdir / "checkpoints").rglob("*") if p.is_file())
        kept += (p for p in (workdir / "samples").rglob("*.png"))
        return {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in kept}

    before = state()
    jax_bridges.main.run(
        tiny(images, log_every=3, checkpoint_every=1, **{"data.cache_mb": 1}), workdir
    )
    said = capsys.readouterr().out
    for stage in ("train: already done", "distill: already done", "evaluate: already done"):
        assert stage in said
    assert state() == before


# -- stopping and going on ------------------------------------------------------------------------


@contextlib.contextmanager
def signal_at(monkeypatch, *places):
    """SIGTERM to this very process whenever one of the lines (stage, step) has been logged."""
    places, write = set(places), MetricsLog.write

    def send(self, stage, step, **values):
        write(self, stage, step, **values)
        if (stage, step) in places:
            places.remove((stage, step))
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(MetricsLog, "write", send)
        yield


def test_a_run_that_is_stopped_goes_on_to_the_same_end(whole, images, tmp_path, monkeypatch):
    """In both stages, between checkpoints and on one, and in the evaluation."""
    workdir, config = tmp_path / "run", tiny(images)
    for place in (("train", 3), ("distill", 2)):
        with signal_at(monkeypatch, place), pytest.raises(Stopped) as stopped:
            jax_bridges.main.run(config, workdir)
        total = {"train": TRAIN, "distill": DISTILL}[place[0]]
        assert str(stopped.value) == f"{place[0]}: saved at step {place[1]} of {total}"
        assert Checkpoints(workdir / "checkpoints" / place[0], read_only=True).latest() == place[1]

    evaluate = jax_bridges.main.evaluate

    def stopped_evaluation(*args):
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(*args)

    with monkeypatch.context() as patched, pytest.raises(Stopped, match="evaluate: stopped"):
        patched.setattr(jax_bridges.main, "evaluate", stopped_evaluation)
        jax_bridges.main.run(config, workdir)
    assert not (workdir / "results.json").exists()

    jax_bridges.main.run(config, workdir)
    assert_same_end(workdir, whole)
    # No step was made twice.
    assert steps(workdir, "train") == list(range(1, TRAIN + 1))
    assert steps(workdir, "distill") == list(range(1, DISTILL + 1))


def start(config, workdir, tmp_path) -> subprocess.Popen:
    """`python -m jax_bridges.main` in a process of its own."""
    path = tmp_path / "config.py"
    path.write_text(
        "import json\nfrom ml_collections import ConfigDict\n\n"
        f"def get_config():\n    return ConfigDict(json.loads({config.to_json()!r}))\n"
    )
    cache = jax.config.jax_compilation_cache_dir or str(tmp_path / "cache")
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_COMPILATION_CACHE_DIR": cache,
    }
    return subprocess.Popen(
        [sys.executable, "-m", "jax_bridges.main", f"--config={path}", f"--workdir={workdir}"],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def wait_for_lines(process, workdir, count):
    """Until metrics.jsonl has so many lines, or the process has ended."""
    path = workdir / "metrics.jsonl"
    while process.poll() is None:
        if path.exists() and path.read_bytes().count(b"\n") >= count:
            return
        time.sleep(0.01)


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


# -- what is refused ------------------------------------------------------------------------------


def test_another_configuration_is_refused_with_the_keys_that_differ(whole, images):
    before = (whole / "config.json").read_bytes()
    config = tiny(images, **{"train.steps": 7, "network.patch": 2, "log_every": 5})
    with pytest.raises(ValueError) as caught:
        jax_bridges.main.run(config, whole)
    said = str(caught.value)
    assert str(whole) in said and "--workdir" in said
    assert said.splitlines()[1:] == ["  network.patch: 4 -> 2", "  train.steps: 6 -> 7"]
    assert (whole / "config.json").read_bytes() == before


def test_a_folder_of_something_else_is_refused(images, tmp_path):
    (tmp_path / "thesis.tex").write_text("do not touch")
    with pytest.raises(ValueError, match="is not empty and holds no config.json"):
        jax_bridges.main.run(tiny(images), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


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
    for config, workdir, words in (
        (tiny(images, **{"train.steps": 0}), tmp_path / "run", "train.steps is 0"),
        (tiny(images), tmp_path / "file", "file"),
        (tiny(images), tmp_path / "file" / "run", "file"),
    ):
        monkeypatch.setattr(jax_bridges.main, "_CONFIG", SimpleNamespace(value=config))
        monkeypatch.setattr(jax_bridges.main, "_WORKDIR", SimpleNamespace(value=str(workdir)))
        with pytest.raises(SystemExit) as left:
            jax_bridges.main.main(["jax_bridges"])
        said = capsys.readouterr().err.strip().splitlines()
        assert left.value.code == 1
        assert len(said) == 1 and said[0].startswith("error: ") and words in said[0]
    assert (tmp_path / "file").read_text() == "in the way"
