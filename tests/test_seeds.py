"""Several seeds of one configuration: what they share, what they redraw, and what they say together."""

from __future__ import annotations

import json

import numpy as np
import pytest

import jax_bridges.acts.seeds
import jax_bridges.main
from jax_bridges.acts.seeds import check_layout, merge, of_seed
from jax_bridges.config import base_config
from jax_bridges.io.atomic import write_atomic
from jax_bridges.main import begin_workdir, check_workdir, write_config
from jax_bridges.players import open_player
from jax_bridges.report.differences import read_values
from jax_bridges.report.results import read_measured, read_results
from jax_bridges.validation import validate
from tests.support.runs import DISTILL, TRAIN, lines, steps, tiny

pytestmark = pytest.mark.usefixtures("handlers")


def test_seeds_redraw_the_training_and_share_the_rest(tmp_path):
    config = base_config()
    config.seed, config.seeds = 7, (4, 9)
    first, second = (of_seed(config, seed, tmp_path) for seed in config.seeds)
    assert (first.seed, second.seed) == (4, 9) and first.seeds == second.seeds == ()
    assert first.evaluate.seed == second.evaluate.seed == 7
    assert first.teacher.checkpoint == second.teacher.checkpoint == ""
    config.seeds_of, config.evaluate.seed = "distill", 1
    first, second = (of_seed(config, seed, tmp_path) for seed in config.seeds)
    assert first.evaluate.seed == 1 and first.teacher.checkpoint == ""
    assert second.teacher.checkpoint == str(tmp_path / "seed4")
    config.teacher.checkpoint = "import"
    assert of_seed(config, 9, tmp_path).teacher.checkpoint == "import"
    assert config.seed == 7 and jax_bridges.main.seeds_from(config, 3, ()) == (7, 8, 9)
    with pytest.raises(ValueError, match="--seeds and --config.seeds were given"):
        jax_bridges.main.seeds_from(config, 3, ("seeds",))


def test_folders_of_one_seed_and_of_several_are_not_mixed(tmp_path):
    config = base_config()
    check_layout(config, tmp_path)
    (tmp_path / "seed0").mkdir()
    (tmp_path / "seed0/config.json").write_text("{}")
    with pytest.raises(ValueError, match="holds runs of several seeds: give --seeds=N"):
        check_layout(config, tmp_path)
    config.seeds = (0, 1)
    check_layout(config, tmp_path)
    one = tmp_path / "one"
    (one / "checkpoints").mkdir(parents=True)
    (one / "config.json").write_text('{"seed": 2}')
    with pytest.raises(ValueError, match=r"holds a run of one seed, 2, .* several, \(0, 1\): give"):
        check_layout(config, one)
    for text in ('{"seed": 1}', "{}", "no JSON"):  # of the last two it is check_workdir that speaks
        (one / "config.json").write_text(text)
        check_layout(config, one)
    config.seeds = (0, 0)
    with pytest.raises(
        ValueError, match="seeds is .0, 0.: it must be a tuple, .* none of them twice"
    ):
        validate(config)


def test_a_folder_of_seeds_can_be_moved(tmp_path):
    """Its teacher is named from the folder; as earlier versions had it, whole, it still serves in its place."""
    config = base_config()
    config.seeds, config.seeds_of = (4, 9), "distill"
    before, after = tmp_path / "before", tmp_path / "after"

    def resolved(workdir):
        return json.loads(of_seed(config, 9, workdir).to_json_best_effort())

    begin_workdir(before / "seed9", of_seed(config, 9, before))
    path = before / "seed9" / "config.json"
    recorded = json.loads(path.read_text())
    assert recorded["teacher"]["checkpoint"] == "../seed4"
    before.rename(after)
    assert resolved(after)["teacher"]["checkpoint"] == str(after / "seed4")
    check_workdir(after / "seed9", resolved(after))

    after.rename(before)
    recorded["teacher"]["checkpoint"] = str(before / "seed4")
    path.write_text(json.dumps(recorded))
    check_workdir(before / "seed9", resolved(before))
    recorded["teacher"]["checkpoint"] = str(tmp_path / "others" / "seed4")
    path.write_text(json.dumps(recorded))
    with pytest.raises(ValueError, match="teacher.checkpoint: .*others/seed4 -> ../seed4"):
        check_workdir(before / "seed9", resolved(before))


@pytest.mark.parametrize(
    "killed_at", [None, "metrics.jsonl", "config.json", "write", "seed1.moving"]
)
def test_a_run_of_one_seed_is_taken_in_by_several(tmp_path, monkeypatch, killed_at):
    """Wherever the move is killed, the next start ends it, and nothing is lost or overwritten."""
    config = base_config()
    config.seed = 1
    (tmp_path / "checkpoints" / "train").mkdir(parents=True)
    begin_workdir(tmp_path / "own", config)
    (tmp_path / "own" / "config.json").rename(tmp_path / "config.json")
    (tmp_path / "own").rmdir()
    alone = (tmp_path / "config.json").read_bytes()
    (tmp_path / "metrics.jsonl").write_text("lines")
    config.seed, config.seeds, config.evaluate.images = 0, (0, 1), 771
    config.evaluate.seed = 0

    class Killed(Exception):
        pass

    def dies(its, name):
        left = [name]  # once

        def maybe(path, *args):
            if path.name in left:
                left.clear()
                raise Killed
            return its(path, *args)

        return maybe

    monkeypatch.setattr(jax_bridges.main, "run_seeds", lambda *of: None)
    monkeypatch.setattr(jax_bridges.main, "build_report", lambda path: path)
    for key, value, said in (
        ("train.steps", 7, "another configuration.*\n  train.steps: 1500 -> 7"),
        ("evaluate.images", 1, "leaves 1 image to evaluate"),
    ):
        other = config.copy_and_resolve_references()
        other.update_from_flattened_dict({key: value})
        with pytest.raises(ValueError, match=said):
            jax_bridges.main._run_seeds(other, tmp_path, ())
        assert (tmp_path / "config.json").read_bytes() == alone
        assert not list(tmp_path.glob("seed1*"))
    with monkeypatch.context() as patch:
        if killed_at == "config.json":
            patch.setattr(jax_bridges.acts.seeds, "write_atomic", dies(write_atomic, killed_at))
        elif killed_at == "write":
            patch.setattr(jax_bridges.main, "write_config", dies(write_config, tmp_path.name))
        elif killed_at:
            patch.setattr(type(tmp_path), "rename", dies(type(tmp_path).rename, killed_at))
        if killed_at:
            with pytest.raises(Killed):
                jax_bridges.main._run_seeds(config, tmp_path, ())
            with pytest.raises(ValueError, match="holds runs of several seeds"):
                check_layout(base_config(), tmp_path)
        check_layout(config, tmp_path)
        jax_bridges.main._run_seeds(config, tmp_path, ())
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "seed1"}
    assert (tmp_path / "seed1" / "config.json").read_bytes() == alone
    assert (tmp_path / "seed1" / "metrics.jsonl").read_text() == "lines"
    assert json.loads((tmp_path / "config.json").read_text())["seeds"] == [0, 1]
    with pytest.raises(FileNotFoundError, match="holds runs of several seeds: name one .*seed1.$"):
        (tmp_path / "seed1/checkpoints/distill").mkdir()
        open_player(tmp_path, "student")


@pytest.mark.slow
def test_two_seeds_of_one_teacher_from_end_to_end(images, tmp_path, capsys):
    workdir = tmp_path / "runs"
    config = tiny(images, seeds=(3, 5), seeds_of="distill")
    assert jax_bridges.main.run(config, workdir) == workdir / "report.html"
    assert {p.name for p in workdir.iterdir()} == {
        "config.json", "seed3", "seed5", "results.json", "report.html",
    }  # fmt: skip
    one, two = workdir / "seed3", workdir / "seed5"
    assert steps(one, "train") == list(range(1, TRAIN + 1)) and steps(two, "train") == []
    assert steps(one, "distill") == steps(two, "distill") == list(range(1, DISTILL + 1))

    # The same held-out images, corruptions and noise: what was not trained anew is the same image by image.
    rows = [read_results(folder / "results.json")["rows"] for folder in (one, two)]
    values = [read_values(folder) for folder in (one, two)]
    for i, row in enumerate(rows[0]):
        same = np.array_equal(*(v[f"{i}/psnr"] for v in values))
        assert same == (row.model != "student"), row
    merged = read_results(workdir / "results.json")
    found = read_measured(workdir)  # as from Python
    assert len(found.seeds) == 2 and found.told() == merged["rows"]
    assert found.compared() == merged["differences"]
    assert merged["seeds"] == [{"seed": 3, "folder": "seed3"}, {"seed": 5, "folder": "seed5"}]
    for row, a, b in zip(merged["rows"], *rows, strict=True):
        pair = [a.metrics["psnr"], b.metrics["psnr"]]
        assert row.metrics["psnr"] == pytest.approx(np.mean(pair)) and row.seeds == 2
        assert row.std["psnr"] == pytest.approx(np.std(pair, ddof=1))
        assert row.intervals["psnr"][0] < row.metrics["psnr"] < row.intervals["psnr"][1]
    assert {merged["rows"][d.row].model for d in merged["differences"]} == {"student"}
    for path in merged["pictures"]:
        assert (workdir / path).is_file()
    page = (workdir / "report.html").read_text()
    assert 'href="seed5/report.html"' in page and "means of 2 seeds" in page

    # Once more: nothing is trained, and the seeds may become more or fewer.
    before = [len(lines(folder)) for folder in (one, two)]
    capsys.readouterr()
    config.seeds = (3,)
    jax_bridges.main.run(config, workdir)
    assert capsys.readouterr().out.count("evaluate: already done") == 1
    assert [len(lines(folder)) for folder in (one, two)] == before
    with pytest.raises(
        ValueError, match="train.steps 6, and it is 7 now, but train.optimizer.schedu"
    ):
        jax_bridges.main.run(tiny(images, seeds=(3, 5), **{"train.steps": 7}), workdir)

    # Rows that do not match are not averaged.
    results = json.loads((two / "results.json").read_text())
    del results["rows"][-1]
    results["differences"] = []
    (two / "results.json").write_text(json.dumps(results))
    with pytest.raises(ValueError, match="rows of seed5 are not those of seed3: delete"):
        merge((3, 5), workdir)
