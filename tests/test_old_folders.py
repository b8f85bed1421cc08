"""Work directories and imports of commit a011160 (golden/old_make.py) still open; later ones are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

import jax_bridges.config
from jax_bridges.checkpoints import Checkpoints
from jax_bridges.config import FORMAT, base_config, differences, migrate, record
from jax_bridges.main import check_workdir, run
from jax_bridges.restore import Restorer
from jax_bridges.stages.teacher import check_teacher, load_teacher
from tests.support.imports import a_run, configured, resolved
from tests.support.runs import lines, unpack_old

TOTAL = 110.0283  # of the absolute values of the run's teacher, by that commit's own code


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("old")
    unpack_old(folder)
    return folder


@pytest.fixture
def old(unpacked, tmp_path, monkeypatch) -> Path:
    """A copy as the working folder, from which the run's paths lead."""
    folder = tmp_path / "old"
    shutil.copytree(unpacked, folder)
    monkeypatch.chdir(folder)
    return folder


def get_config():
    """That of the run, by today's base (golden/old_make.py)."""
    config = base_config()
    config.task = "old"
    config.data.update(dict(name="arrays", path="images.npz", size=8, test_fraction=0.5))
    config.network.update(dict(widths=(2,), patch=1, groups=1))
    config.train.update(dict(steps=2, batch=4))
    config.distill.update(dict(steps=2, batch=4, bridge_updates=1, student_steps=2))
    config.distill.update(dict(detach_xt=False, call_per="example"))  # then
    config.evaluate.update(
        dict(images=4, batch=4, teacher_nfe=(1,), student_nfe=(1,), pictures=2, metrics=("psnr",))
    )
    config.log_every = 1
    config.checkpoints_kept = 1
    return config


def test_a_finished_run_is_shown_again(old):
    before = {p: p.read_bytes() for p in sorted(old.rglob("*")) if p.is_file()}
    report = run(get_config(), "run")
    assert report.exists() and "PSNR" in report.read_text()
    assert len(lines(old / "run")) == 4  # nothing was trained
    kept = {p: p.read_bytes() for p in before if "checkpoints" in p.parts or p.suffix == ".png"}
    assert len(kept) > 50 and all(before[p] == kept[p] for p in kept)
    recorded = json.loads((old / "run/config.json").read_text())
    earlier = migrate(json.loads(before[old / "run/config.json"]))
    assert recorded.pop("format") == FORMAT and recorded == earlier
    assert "bootstrap" not in earlier["evaluate"]  # format 2 has folds


def test_it_restores_and_teaches(old):
    """By the weights in it: the student's answer, and the teacher's for a run and from the start."""
    restorer = Restorer("run", nfe=2)
    with np.load("images.npz") as file:
        image = file["image"][0]
    hole = np.zeros((8, 8), bool)
    hole[2:6, 2:6] = True
    answer = restorer(image, hole, seed=0).pixels
    assert answer.shape == (8, 8, 3)
    np.testing.assert_array_equal(answer[~hole], image[~hole])
    assert (answer != image)[hole].any()

    config = get_config()
    for key in ("checkpoint", "init"):
        check_teacher(resolved(config.copy_and_resolve_references(), **{key: "run"}))
    teacher = load_teacher(a_run(config, old / "new"), "run")
    total = sum(float(np.abs(leaf).sum()) for leaf in jax.tree.leaves(teacher))
    assert total == pytest.approx(TOTAL, rel=1e-5)
    config.bridge.beta_max = 1.0
    with pytest.raises(ValueError, match="bridge.beta_max: 0.3 -> 1.0"):
        check_teacher(resolved(config, checkpoint="run"))


def test_an_import_teaches(old):
    with Checkpoints(old / "import/checkpoints/train", read_only=True) as checkpoints:
        recorded = checkpoints.meta()["config"]
    assert recorded["source"]["family"] == "ddbm" and "train" not in recorded  # nothing is made up
    config = configured(recorded)
    config.corruption = {"name": "paired"}
    check_teacher(resolved(config, checkpoint="import"))
    teacher = load_teacher(a_run(config, old / "new"), "import")
    held = [
        np.unique(leaf) * 64 for leaf in jax.tree.leaves(teacher)
    ]  # i / 64 in tensor i of the file
    assert sorted(float(*values) for values in held) == list(range(len(held)))


# -- the number and the migrations ----------------------------------------------------------------------
def test_keys_that_moved_and_keys_that_came(old, monkeypatch):
    """A step renames; what there was not has its default; the folder is then the run's own."""
    today = record(get_config())
    recorded = json.loads((old / "run/config.json").read_text())
    assert migrate(recorded) == migrate(today) == {k: v for k, v in today.items() if k != "format"}

    earlier = json.loads(json.dumps(recorded))
    earlier["train"]["lr"] = earlier["train"]["optimizer"].pop("learning_rate")
    del earlier["train"]["max_skipped"], earlier["zero_shot"], earlier["distill"]["cbd"]["target"]
    assert differences(migrate(earlier), migrate(today)) == [
        "train.lr: 0.001 -> (absent) (did you mean train.optimizer.learning_rate?)"
    ]

    def moves(recorded):
        recorded["train"]["optimizer"]["learning_rate"] = recorded["train"].pop("lr")
        return recorded

    monkeypatch.setitem(jax_bridges.config.MIGRATIONS, 0, moves)
    assert migrate(earlier) == migrate(today)
    (old / "run/config.json").write_text(json.dumps(earlier))
    check_workdir(old / "run", migrate(today))


def test_an_unknown_key_says_what_it_may_be_now(old):
    recorded = json.loads((old / "run/config.json").read_text())
    recorded["train"]["learning_rate"] = 0.5
    (old / "run/config.json").write_text(json.dumps(recorded))
    words = (
        r"train.learning_rate: 0.5 -> \(absent\) \(did you mean train.optimizer.learning_rate\?\)"
    )
    with pytest.raises(ValueError, match=words):
        check_workdir(old / "run", migrate(record(get_config())))


@pytest.mark.parametrize("written", ["[]", '"run"', "{"])
def test_what_is_no_configuration_is_refused(old, written):
    (old / "run/config.json").write_text(written)
    with pytest.raises(
        ValueError, match="config.json cannot be read .*: put it back, or give a new"
    ):
        check_workdir(old / "run", migrate(record(get_config())))


def test_a_later_format_is_refused():
    later = {**record(base_config()), "format": FORMAT + 1}
    with pytest.raises(
        ValueError, match=f"in format {FORMAT + 1}, .* up to {FORMAT}: update jax_br"
    ):
        migrate(later)
