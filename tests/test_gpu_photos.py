"""benchmarks/gpu_photos: what it is told, and what it trains."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import gpu_photos
from jax_bridges import players
from jax_bridges.packed import find_model, read_packed
from jax_bridges.stages.teacher import check_teacher


@pytest.mark.parametrize("task", gpu_photos.TASKS)
def test_the_teacher_alone_is_trained_as_the_configuration_says(task, tmp_path):
    argv = [task, str(tmp_path), str(tmp_path / "out")]
    alone, both, toy = (
        gpu_photos.configuration(gpu_photos.arguments(argv + more))
        for more in (["--teacher"], [], ["--toy"])
    )
    assert alone.train.optimizer.schedule == "cosine" and alone.train.steps < 10**5
    assert (both.train.optimizer.schedule, both.train.steps) == ("constant", gpu_photos.NEVER)
    assert both.train.batch > alone.train.batch > toy.train.batch or task != "inpaint"
    assert {config.train.optimizer.learning_rate for config in (both, toy)} == {1e-3}
    assert alone.task == both.task == f"photos_{task}"
    more = gpu_photos.arguments([*argv, "--teacher", f"--init=photos:{task}", "--steps=7"])
    more = gpu_photos.configuration(more)
    assert (more.train.steps, more.teacher.init) == (7, f"photos:{task}")
    # Other crops than of all trainings before, also by the file's own name.
    assert more.seed == read_packed(find_model(more.teacher.init))[1]["seed"] + 1
    assert more.seed == gpu_photos.seed_of(str(find_model(more.teacher.init))) + 1
    check_teacher(json.loads(more.to_json_best_effort()))
    student = gpu_photos.arguments([*argv, "--student", "--steps=9"])
    student = gpu_photos.configuration(student)
    assert (student.distill.steps, student.teacher.checkpoint) == (9, f"photos:{task}")
    check_teacher(json.loads(student.to_json_best_effort()))
    keys = [
        "--config.data.size=32",
        "--config.network.widths=(8, 16)",
        "--config.train.times=uniform",
    ]
    other = gpu_photos.configuration(gpu_photos.arguments([*argv, "--teacher", *keys]))
    assert (other.data.size, other.network.widths, other.train.times) == (32, (8, 16), "uniform")


def test_what_it_does_not_take(tmp_path):
    argv = ["jpeg", str(tmp_path), str(tmp_path / "out")]
    for flags, words in (
        (["--teacher", "--toy"], "leave one out"),
        (["--minutes=0"], "it must be above 0"),
        (["--teacher", "--student"], "leave both out for both"),
        (["--student", "--toy"], "--student trains as the configuration says"),
        (["--teacher", "--steps=0"], "it must be at least 1"),
        (["--steps=7"], "give --teacher or --student as well"),
        (["--config.data.size=32"], "give --teacher or --student as well"),
        (["--teacher", "--confg.data.size=32"], "Unrecognized arguments: --confg"),
    ):
        with pytest.raises(ValueError, match=words):
            gpu_photos.arguments(argv + flags)
    for word in ("data.sise=32", "dat.size=32", "train.batch=big", "data=32"):
        wrong = gpu_photos.arguments([*argv, "--teacher", f"--config.{word}"])
        with pytest.raises(ValueError, match=f"--config.{word}: no such key, or no such"):
            gpu_photos.configuration(wrong)
    lost = gpu_photos.arguments([*argv, "--teacher", "--init=nowhere"])
    with pytest.raises(FileNotFoundError, match="There is no nowhere"):
        gpu_photos.configuration(lost)
    with pytest.raises(ValueError, match="There is no folder"):
        gpu_photos.arguments(["jpeg", str(tmp_path / "none"), "out"])


def test_seconds_are_those_of_all_steps(tmp_path):
    lines = [{"step": 50, "seconds_per_step": 0.5}, {"step": 80, "seconds_per_step": 0.1}]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    options = SimpleNamespace(alone="teacher", teacher=True, work=tmp_path)
    assert gpu_photos.seconds(options) == {"train": pytest.approx(28.0)}


def test_out_is_looked_at_before_the_training(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu_photos, "train_both", lambda *_: pytest.fail("it trains"))
    out = tmp_path / "out"
    out.write_text("")
    for path in (out, out / "in"):
        assert gpu_photos.main(["jpeg", str(tmp_path), str(path)]) == 1
        said = capsys.readouterr().err
        assert said.startswith(f"error: {path} ") and said.count("\n") == 1
        assert "is no folder that can be written to" in said
    assert gpu_photos.main(["jpg", str(tmp_path), "out"]) == 1
    said = capsys.readouterr().err
    assert "invalid choice: 'jpg'" in said and said.count("\n") == 1


class Kept:
    """Stands for checkpoints: `step` is that of the newest."""

    def __init__(self, step):
        self.step = step

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def meta(self):
        return {"step": self.step}


def test_files_record_the_steps_that_were_made(tmp_path, monkeypatch):
    argv = ["inpaint", str(tmp_path), str(tmp_path / "out"), f"--work={tmp_path}"]
    options = gpu_photos.arguments(argv)
    config = gpu_photos.configuration(options).to_json_best_effort()
    (tmp_path / "config.json").write_text(config)
    (tmp_path / "clock.json").write_text("{}")
    (tmp_path / "metrics.jsonl").write_text("")
    made = {"teacher": 4480, "student": 1600}
    monkeypatch.setattr(players, "open_player", lambda work, player: (Kept(made[player]), player))
    monkeypatch.setattr(players, "read_player", lambda *_: ({}, {"a": np.zeros(1)}))
    gpu_photos.pack(options)
    for player in made:
        recorded = read_packed(tmp_path / "out" / f"{player}.safetensors")[1]
        steps = (recorded["train"]["steps"], recorded["distill"]["steps"])
        assert steps == tuple(made.values())
