"""A run from end to end at toy size: what it leaves, how it stops and goes on to the same end."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
from pathlib import Path

import jax
import numpy as np
import pytest

import jax_bridges.main
from jax_bridges.acts import distil
from jax_bridges.checkpoints import Checkpoints
from jax_bridges.config import migrate
from jax_bridges.metrics import METRICS
from jax_bridges.stages.log import MetricsLog
from jax_bridges.stages.run import Stopped
from tests.support import runs
from tests.support.runs import (
    DISTILL,
    TRAIN,
    USERS_METRICS,
    assert_same_end,
    lines,
    saved,
    silent_backend,
    steps,
)

pytestmark = pytest.mark.usefixtures("handlers")


def tiny(images, **changes):
    """Measured as a user's run is, and with a last batch that is not full."""
    return runs.tiny(images, **{**USERS_METRICS, "evaluate.batch": 5, **changes})


def plain(images):
    """The same, but for feature networks."""
    return tiny(images, **{"evaluate.metrics": ("psnr", "ssim")})


@pytest.fixture(scope="module")
def whole(images, tmp_path_factory) -> Path:
    """The folder of a run that nobody disturbed, on a backend that counts nothing; read only."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    said = io.StringIO()
    with silent_backend(), contextlib.redirect_stdout(said):
        report = jax_bridges.main.run(tiny(images), workdir)
    assert report == workdir / "report.html"
    assert "its compiler does not say what a step needs besides" in said.getvalue()
    assert "MFLOP a call" in said.getvalue() or "GFLOP a call" in said.getvalue()
    return workdir


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can step down")
def test_a_finished_run_that_may_not_be_written_is_shown_again(whole, images, capsys):
    """In another's folder; with other settings there is something to do, which cannot be done."""
    other = tiny(images, **{"evaluate.student_nfe": (1,)})
    before = {p: p.stat().st_mtime_ns for p in whole.rglob("*")}
    parents = [p for p in whole.parents if p.stat().st_mode & 0o777 == 0o700]
    try:
        for p in parents:
            p.chmod(0o755)
        os.seteuid(65534)
        assert jax_bridges.main.run(tiny(images), whole) == whole / "report.html"
        with pytest.raises(ValueError, match="whole cannot be written to"):
            jax_bridges.main.run(other, whole)
    finally:
        os.seteuid(0)
        for p in parents:
            p.chmod(0o700)
    said = capsys.readouterr().out
    assert "evaluate: already done" in said and f"report: {whole / 'report.html'}" in said
    assert "few_step" in said  # the table
    assert {p: p.stat().st_mtime_ns for p in whole.rglob("*")} == before


# -- what a run leaves ----------------------------------------------------------------------------


@pytest.mark.smoke
def test_a_run_leaves_what_it_promises(whole, images):
    assert {p.name for p in whole.iterdir()} == {
        "config.json", "metrics.jsonl", "tensorboard", "checkpoints", "samples", "results.json",
        "values.npz", "report.html",
    }  # fmt: skip
    config = migrate(json.loads((whole / "config.json").read_text()))
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
        assert meta["stage"] == stage and meta["config"] == config and meta["format"] == 2
    samples = {str(p.relative_to(whole / "samples")) for p in (whole / "samples").rglob("*.png")}
    assert {"train-6.png", "distill-4.png", "evaluate.png"} <= samples
    results = json.loads((whole / "results.json").read_text())
    rows = [(r["model"], r["nfe"]) for r in results["rows"]]
    assert rows == [("source", 0), ("teacher", 1), ("teacher", 2), ("student", 1), ("student", 2)]
    for row in results["rows"]:
        assert row["images"] == 8 and np.isfinite(row["psnr"]) and np.isfinite(row["fd_lite0"])
        assert row["nfe"] == 0 or row["seconds_per_image"] > 0
    with np.load(whole / results["values"]) as values:  # what rows are means of, image by image
        for number, row in enumerate(results["rows"]):
            for metric in ("psnr", "ssim", "psnr_hole", "ssim_hole"):
                each = values[f"{number}/{metric}"]
                assert each.shape == (8,) and each.mean() == pytest.approx(row[metric], rel=1e-5)
            for metric in ("fd_lite0", "kid_lite0", "fd_lite0_hole", "kid_lite0_hole"):
                assert values[f"{number}/{metric}/without"].shape == (8,)  # a fold an image
            assert set(row["intervals"]) == {key for key in row if key.startswith(tuple(METRICS))}
        assert values["blocks"].tolist() == list(range(8))  # files know no neighbours
        assert len(values.files) == 2 + 8 * len(rows)
    pairs = {(d["row"], d["to"], d["metric"]) for d in results["differences"]}
    assert {(3, 2, "fd_lite0_hole"), (4, 2, "fd_lite0_hole"), (3, 2, "psnr_hole")} <= pairs
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

    before, had = state(), [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]
    jax_bridges.main.run(
        tiny(images, log_every=3, checkpoint_every=1, **{"data.cache_mb": 1}), workdir
    )
    said = capsys.readouterr().out
    for stage in ("train: already done", "distill: already done", "evaluate: already done"):
        assert stage in said
    assert state() == before
    # Whoever called it has its signals again.
    assert had == [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]


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


@pytest.fixture(scope="module")
def stopped(images, tmp_path_factory) -> Path:
    """The folder of a run that was stopped in both stages, between checkpoints and on one, and in
    the evaluation, and came to its end; read only."""
    workdir, config = tmp_path_factory.mktemp("runs") / "stopped", plain(images)
    before = [(s, signal.getsignal(s)) for s in (signal.SIGTERM, signal.SIGINT)]
    evaluate, patch = distil.evaluate, pytest.MonkeyPatch()
    for stage, step, total in (("train", 3, TRAIN), ("distill", 2, DISTILL)):
        with signal_at(patch, (stage, step)), pytest.raises(Stopped) as caught:
            jax_bridges.main.run(config, workdir)
        assert str(caught.value) == f"{stage}: saved at step {step} of {total}"
        assert Checkpoints(workdir / "checkpoints" / stage, read_only=True).latest() == step

    def stopped_evaluation(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(*args, **kwargs)

    with patch.context() as patched, pytest.raises(Stopped, match="evaluate: stopped"):
        patched.setattr(distil, "evaluate", stopped_evaluation)
        jax_bridges.main.run(config, workdir)
    assert not (workdir / "results.json").exists()
    jax_bridges.main.run(config, workdir)
    for number, handler in before:
        signal.signal(number, handler)
    return workdir


def test_a_run_that_is_stopped_goes_on_to_the_same_end(whole, stopped):
    assert_same_end(stopped, whole)
    # No step was made twice.
    assert steps(stopped, "train") == list(range(1, TRAIN + 1))
    assert steps(stopped, "distill") == list(range(1, DISTILL + 1))


def test_a_damaged_run_says_what_to_do_and_recovers(whole, stopped, images, tmp_path, capsys):
    """A checkpoint whose arrays are cut short, and a results.json that is half written."""
    workdir = tmp_path / "copy"
    shutil.copytree(stopped, workdir)
    folder = workdir / "checkpoints" / "train" / str(TRAIN)
    for path in (folder / "ema").rglob("*"):  # all that a finished stage is asked for
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError) as caught:
        jax_bridges.main.run(plain(images), workdir)
    said = str(caught.value)
    assert said.startswith(f"{folder} is damaged (") and "\n" not in said
    assert said.endswith("delete it and start again; the stage then goes on at step 4.")

    shutil.rmtree(folder)
    results = workdir / "results.json"
    results.write_bytes(results.read_bytes()[:100])
    jax_bridges.main.run(plain(images), workdir)
    said = capsys.readouterr().out
    assert f"going on at step 4 of {TRAIN}" in said and "distill: already done" in said
    assert f"evaluate: {results} cannot be used and is measured anew" in said
    assert_same_end(workdir, whole)


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


def test_a_configuration_that_cannot_be_read_is_refused(images, tmp_path):
    (tmp_path / "config.json").write_text('{"task": "inp')
    with pytest.raises(ValueError, match=r"config.json cannot be read .*new folder with --workdir"):
        jax_bridges.main.run(tiny(images), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]
