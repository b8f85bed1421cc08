"""A finished stage goes on where only its number of steps grew, to what a run of that length would be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import jax_bridges.main
from jax_bridges.acts.longer import check_longer
from jax_bridges.config import base_config
from jax_bridges.training.methods import METHODS, method_of_length
from tests.support.runs import assert_same_end, lines, steps, tiny

pytestmark = pytest.mark.usefixtures("handlers")

FREE = {  # of the length: no schedule that knows its end
    "train.optimizer.schedule": "constant",
    "distill.optimizer.schedule": "i2sb",
    "distill.optimizer.delay": 0.0,
    "distill.bridge_optimizer.schedule": "constant",
}


def of_length(images, train: int, distill: int, **changes):
    return tiny(images, **FREE, **{"train.steps": train, "distill.steps": distill}, **changes)


told: list[tuple[str, int, dict]] = []  # to a callback of the run below


@pytest.fixture(scope="module")
def short(images, tmp_path_factory) -> Path:
    """The folder of a finished run of 3 steps and 2, which looks at its test images; read only."""
    workdir = tmp_path_factory.mktemp("runs") / "short"
    config = of_length(images, 3, 2, **{"evaluate.every": 2})
    jax_bridges.main.run(config, workdir, [lambda *line: told.append(line)] * 2)
    return workdir


def test_callbacks_are_told_every_line(images, short):
    """What is raised in one: test_held_out.py."""
    assert told[::2] == told[1::2]
    assert [line[:2] for line in told[::2]] == [
        ("train", 1), ("train", 2), ("train", 3), ("distill", 1), ("distill", 2),
    ]  # fmt: skip
    for (_, _, metrics), line in zip(told[::2], lines(short), strict=True):
        assert metrics.keys() | {"stage", "step"} == line.keys()
        assert metrics["loss"] == pytest.approx(line["loss"], rel=1e-5)
    with pytest.raises(ValueError, match="callbacks has 'print': each must be a function"):
        jax_bridges.main.run(tiny(images), short, ["print"])


def test_looks_of_data_without_a_split_are_at_the_held_out_images(short):
    """Where they are due, and at the end of a stage."""
    looked = [line for line in lines(short) if "test_psnr" in line]
    assert [(x["stage"], x["step"]) for x in looked] == [("train", 2), ("train", 3), ("distill", 2)]
    assert [("test_loss" in line) for line in looked] == [True, True, False]
    assert (short / "samples" / "test-train-3.png").is_file()


@pytest.mark.slow
def test_it_comes_to_the_end_of_a_run_that_was_so_long_from_the_start(
    images, tmp_path, short, capsys
):
    """Bit for bit: weights, averages, optimisers, lines, rows and pictures."""
    workdir, whole = tmp_path / "short", tmp_path / "whole"
    shutil.copytree(short, workdir)
    before = (workdir / "results.json").read_bytes()
    with pytest.raises(ValueError) as caught:  # its student is of a teacher of 3 steps
        jax_bridges.main.run(of_length(images, 5, 4), workdir)
    assert str(caught.value) == (
        f"{workdir} holds a run with train.steps 3, and it is 5 now, but students were distilled from the "
        f"teacher as it was: delete {workdir}/checkpoints/distill, to have them distilled anew, or give "
        "another --workdir."
    )
    assert (workdir / "results.json").read_bytes() == before
    assert json.loads((workdir / "config.json").read_text())["train"]["steps"] == 3

    shutil.rmtree(workdir / "checkpoints" / "distill")
    capsys.readouterr()
    jax_bridges.main.run(of_length(images, 5, 2), workdir)
    assert "train: going on at step 3 of 5" in capsys.readouterr().out
    jax_bridges.main.run(of_length(images, 5, 4), workdir)
    said = capsys.readouterr().out
    assert "train: already done (5 steps)" in said and "distill: going on at step 2 of 4" in said
    assert "evaluate: already done" not in said
    assert steps(workdir, "train") == [1, 2, 3, 4, 5]
    assert steps(workdir, "distill") == [
        1,
        2,
        1,
        2,
        3,
        4,
    ]  # the student of the shorter teacher, too
    jax_bridges.main.run(of_length(images, 5, 4), whole)
    early = ("train-3.png", "distill-2.png")  # the ends of shorter stages
    for path in [*(workdir / "samples").glob("test-*"), *(workdir / "samples" / e for e in early)]:
        path.unlink()
    assert_same_end(workdir, whole)
    config, theirs = (json.loads((w / "config.json").read_text()) for w in (workdir, whole))
    assert config == theirs and config["distill"]["steps"] == 4
    # And back again it cannot go.
    with pytest.raises(ValueError, match="These keys differ:\n  distill.steps: 4 -> 3$"):
        jax_bridges.main.run(of_length(images, 5, 3), workdir)


@pytest.mark.parametrize(
    "key, value, stage, words",
    [
        ("train.optimizer.schedule", "cosine", "train", "'cosine', which falls to 0 at the last step"),
        ("train.optimizer.delay", 0.1, "train", "0.1, a share of the steps"),
        ("train.rounds", 3, "train", "3, equal parts of the steps"),
        ("distill.optimizer.schedule", "cosine", "distill", "'cosine'"),
        ("distill.optimizer.delay", 0.2, "distill", "0.2, a share"),
        ("distill.bridge_optimizer.schedule", "cosine", "distill", "'cosine'"),
        ("distill.critic_optimizer.schedule", "cosine", "distill", "'cosine'"),
    ],
    ids=str,
)  # fmt: skip
def test_what_depends_on_the_length_is_refused_by_its_key(tmp_path, key, value, stage, words):
    config = base_config()
    config.update_from_flattened_dict(FREE)
    config.train.mode = "dsbm" if key == "train.rounds" else "bridge"
    config.distill.gan_weight = 0.1 if "critic" in key else 0.0
    config.update_from_flattened_dict({key: value})
    resolved = json.loads(config.to_json_best_effort())
    grown = {f"{stage}.steps": (6, 9)}
    check_longer(resolved, tmp_path, grown)  # what has not begun may have any length
    (tmp_path / "checkpoints" / stage / "6").mkdir(parents=True)
    with pytest.raises(ValueError) as caught:
        check_longer(resolved, tmp_path, grown)
    said = str(caught.value)
    assert f"{stage}.steps 6, and it is 9 now, but {key} is " in said and words in said
    assert ("--config.teacher.init" in said) == (stage == "train")
    resolved["teacher"]["checkpoint"] = "elsewhere"
    if stage == "train":  # which is not trained then
        check_longer(resolved, tmp_path, grown)


def test_students_of_a_teacher_that_goes_on_are_refused_by_their_folders(tmp_path):
    """Of every seed; those whose number of steps alone grew may go on."""
    config = base_config()
    config.update_from_flattened_dict(FREE)
    config.seeds = (0, 1)
    resolved = json.loads(config.to_json_best_effort())
    for place in ("seed0/checkpoints/train/6", "seed1/checkpoints/distill/4"):
        (tmp_path / place).mkdir(parents=True)
    check_longer(resolved, tmp_path, {"distill.steps": (4, 9)})
    with pytest.raises(ValueError) as caught:
        check_longer(resolved, tmp_path, {"train.steps": (6, 9)})
    assert f"delete {tmp_path}/seed1/checkpoints/distill, to have them distilled anew" in str(
        caught.value
    )


def test_what_a_method_does_not_use_does_not_count():
    """A critic's schedule without a critic; the other methods' optimisers; a gap that shrinks, and one not."""
    config = base_config().distill
    assert [c.split(" is ")[0] for c in method_of_length(config)] == [
        "distill.optimizer.schedule", "distill.optimizer.delay", "distill.bridge_optimizer.schedule",
    ]  # fmt: skip
    for name in ("cbd", "cbt"):
        config.method = name
        config[name].optimizer.schedule = "constant"
    assert method_of_length(config) == [
        "distill.cbt.gap is 'shrinking', in the course of all steps"
    ]
    config.cbt.gap = "constant"
    assert method_of_length(config) == []
    for (
        method
    ) in METHODS.values():  # whatever optimisers a method's rows have, some use of it has them all
        rows = {row.key.split(".")[0] for row in method.settings if row.key.endswith(".schedule")}
        config.gan_weight = 0.1
        assert rows == set(method.optimizers(config)), method.name
