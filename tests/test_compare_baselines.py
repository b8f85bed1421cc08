"""Baselines of a comparison: trained, measured, told what they cost, left out, refused, restored with."""

from __future__ import annotations

import json

import numpy as np
import pytest

import jax_bridges.main
from jax_bridges.acts import compare_time
from jax_bridges.acts.compare import student_runs
from jax_bridges.acts.compare_baselines import baseline_config, baseline_runs, seconds_of, taught
from jax_bridges.acts.compare_time import equal_time
from jax_bridges.acts.longer import check_longer, is_longer
from jax_bridges.config import base_config
from jax_bridges.export import run as export
from jax_bridges.io.exported import split_export
from jax_bridges.planning.abstract import abstract_run
from jax_bridges.players import PLAYERS, read_player, recorded_config
from jax_bridges.report.row import Row
from jax_bridges.report.table import format_table
from jax_bridges.restore import Restorer
from jax_bridges.trained import load
from jax_bridges.training.methods import PAIR_METHODS, find_method
from jax_bridges.training.methods.pairs import why_not_here
from jax_bridges.training.parallel import Parallel
from jax_bridges.training.system import System
from jax_bridges.validation import check_given, validate
from tests.support.config_files import read
from tests.support.restorers import save_player
from tests.support.runs import DISTILL, TRAIN, saved, steps, tiny

pytestmark = pytest.mark.usefixtures("handlers")
PICTURE = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)


def comparison(images, baselines=("palette",), **changes):
    """A comparison of a teacher with baselines alone."""
    few = {
        "palette": {"nfe": (1, 3)},
        "pix2pix": {"critic_channels": 4, "critic_layers": 1},
        "ddib": {"nfe": (4,)},
        "adm_sr": {"nfe": (3,)},
        "cdsb": {"path": 3},
    }
    own = {f"baselines.{n}.{k}": v for n, its in few.items() for k, v in its.items()}
    return tiny(
        images,
        **{
            "compare.baselines": baselines, "compare.samplers": ("ancestral",),
            "compare.teacher_nfe": (1,), "baselines.batch": 4, **own, **changes,
        },
    )  # fmt: skip


@pytest.mark.slow
def test_baselines_from_end_to_end(images, tmp_path, capsys):
    """Beside a student; then one more is asked for, and only what is new is done."""
    workdir = tmp_path / "compare"
    students = {
        "compare.students": ("ibmd",), "compare.equal": "seconds", "baselines.palette.steps": TRAIN,
    }  # fmt: skip
    jax_bridges.main.run(comparison(images, **students), workdir)
    results = json.loads((workdir / "results.json").read_text())
    rows = {(r["model"], r["sampler"], r["nfe"]): r for r in results["rows"]}
    expected = [("source", "-", 0), ("teacher", "ancestral", 1)]
    expected += [("student", "ibmd", n) for n in (1, 2)]
    expected += [("baseline", "palette", n) for n in (1, 3)]
    assert list(rows) == expected
    assert steps(workdir, "baseline_palette") == list(range(1, TRAIN + 1))
    assert (workdir / "samples" / f"baseline_palette-{TRAIN}.png").exists()
    # As long as the teacher's training, and a step of it costs as much.
    cost = 3 * 4 * TRAIN
    assert rows["teacher", "ancestral", 1]["training_calls"] == cost
    assert rows["baseline", "palette", 3]["training_calls"] == cost
    assert rows["student", "ibmd", 1]["training_calls"] > cost
    assert "training_calls" not in rows["source", "-", 0]
    assert all(np.isfinite(row["psnr"]) for row in rows.values())
    assert "Training calls" in (workdir / "report.html").read_text()
    assert "train " in results["measured"]["trained_in"]

    everyone = comparison(images, tuple(PAIR_METHODS), **students)
    jax_bridges.main.run(everyone, workdir)
    assert f"baseline_palette: already done ({TRAIN} steps)" in capsys.readouterr().out
    again = json.loads((workdir / "results.json").read_text())
    found = {r["sampler"] for r in again["rows"] if r["model"] == "baseline"}
    left = {name for name in PAIR_METHODS if f"{name}: " in again["measured"]["left_out"]}
    assert found | left == set(PAIR_METHODS) and not found & left
    for name in found:
        length = recorded_config(workdir, name)["distill"][name]["steps"]
        assert steps(workdir, f"baseline_{name}") == list(range(1, length + 1))
        assert "generator" in saved(workdir, f"baseline_{name}")["ema"]
        answer = Restorer(workdir, name)(PICTURE, boxes=[(4, 4, 8, 8)], seed=3).pixels
        assert answer.shape == PICTURE.shape


def kept(images, name, workdir, **changes):
    """A folder that holds a baseline of random weights; its configuration."""
    config = baseline_config(comparison(images, (name,), **changes), name)
    system = System.create(config)
    recorded = json.loads(config.to_json_best_effort())
    save_player(workdir, f"baseline_{name}", "generator", system, recorded)
    return config, system


def test_a_baseline_is_restored_with_and_exported(images, tmp_path):
    config, system = kept(images, "palette", tmp_path)
    recorded, params = read_player(tmp_path, "palette")
    assert recorded["distill"]["method"] == "palette" and "out" in params
    restorer = Restorer(tmp_path, "palette")  # at its largest budget
    given = {"boxes": [(4, 4, 8, 8)], "seed": 3}
    answer = restorer(PICTURE, **given).pixels
    np.testing.assert_array_equal(
        answer, Restorer(tmp_path, "palette", nfe=3)(PICTURE, **given).pixels
    )
    assert not np.array_equal(answer, Restorer(tmp_path, "palette", nfe=1)(PICTURE, **given).pixels)
    inside = np.zeros((16, 16), bool)
    inside[4:12, 4:12] = True
    assert np.array_equal(answer[~inside], PICTURE[~inside])
    with pytest.raises(ValueError, match="A table of 1000 steps can keep 1 to 1000"):
        Restorer(tmp_path, "palette", nfe=1001)
    model = load(tmp_path, "palette")  # told x_T, so no prior, though its bridge is one's
    assert not model.prior and "palette" in repr(model)
    x = np.zeros((2, 16, 16, 3), np.float32)
    one, other = (np.asarray(model.sample(x, nfe=3, seed=seed)) for seed in (0, 1))
    assert one.shape == x.shape and not np.array_equal(one, other)
    with pytest.raises(ValueError, match="A palette is a generator, no denoiser"):
        model.denoise(x, 0.5, x)
    out = export([str(tmp_path), str(tmp_path / "p.jax"), "--player=palette", "--nfe=2"])
    data, written, calls = split_export(out.read_bytes())
    assert written is not None
    assert calls == 2 and written["distill"]["method"] == "palette" and len(data) > 1000
    exported = Restorer(out)(PICTURE, **given).pixels
    assert np.array_equal(exported[~inside], PICTURE[~inside])


def test_baselines_have_the_runs_task_and_their_own_model(images):
    config = comparison(images)
    before = config.to_json()
    for name, method in PAIR_METHODS.items():
        if method.why_not(config, config.baselines[name]):
            continue
        its = baseline_config(config, name)
        assert its.data == config.data and its.corruption == config.corruption
        assert its.keep_known == config.keep_known and its.seed == config.seed
        assert its.evaluate.student_nfe == method.budgets(find_method(its.distill)[1])
        assert name in PLAYERS and f"{name}_best" in PLAYERS
        # The same cost: to half of a step of its own.
        settings = find_method(its.distill)[1]
        step = method.calls(settings) * settings.batch
        assert abs(step * settings.steps - 3 * 4 * TRAIN) <= max(step / 2, step - 3 * 4 * TRAIN)
    assert config.to_json() == before


def test_what_a_teacher_has_cost_is_read_beside_it(images, tmp_path):
    config = comparison(images)
    its = json.loads(config.to_json_best_effort())
    its["train"]["steps"] = 40
    save_player(tmp_path, "train", "teacher", System.create(config), its)
    config.teacher.checkpoint = str(tmp_path)
    assert taught(config).steps == 40
    assert baseline_config(config, "palette").distill.palette.steps == 40
    del its["train"], its["task"]  # as of an import
    save_player(tmp_path / "import", "train", "teacher", System.create(config), its)
    config.teacher.checkpoint = str(tmp_path / "import")
    assert taught(config) is None
    with pytest.raises(ValueError, match="palette.steps is 0, .* was imported and does not say"):
        baseline_config(config, "palette")
    config.baselines.palette.steps = 7
    assert baseline_config(config, "palette").distill.palette.steps == 7


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"compare.baselines": ("palete",)}, "compare.baselines is .*Did you mean 'palette'"),
        ({"baselines.palette.nfe": (1001,)}, r"palette.nfe is \(1001,\): each must be 1 to 1000"),
        ({"baselines.batch": 3, "baselines.microbatches": 2}, "baselines.batch is 3: it must be a multiple"),
        ({"baselines.palette.optimizer.weight_decay": 0.1}, "baselines.palette.optimizer.weight_decay"),
        ({"baselines.palette.eta": 2.0}, "baselines.palette.eta is 2.0: it must be a number from 0"),
    ],
)  # fmt: skip
def test_what_cannot_run_is_refused(images, changes, words):
    with pytest.raises(ValueError, match=words):
        validate(comparison(images, **changes))


def test_keys_of_baselines_that_are_not_asked_for_are_refused(images):
    config = comparison(images)
    validate(config)
    check_given(config, ["baselines.batch", "baselines.palette.eta", "compare.teacher_nfe"])
    config.compare.baselines = ()
    with pytest.raises(
        ValueError, match="baselines.batch was given, but compare.baselines is empty"
    ):
        check_given(config, ["baselines.batch"])


def test_a_baseline_as_long_as_the_teacher_is_longer_when_that_is(images, tmp_path):
    (tmp_path / "checkpoints" / "baseline_palette" / "6").mkdir(parents=True)
    assert is_longer("baselines.palette.steps", 4, 8) and not is_longer("compare.prior_nfe", 4, 8)
    config = json.loads(
        comparison(images, **{"train.optimizer.schedule": "constant"}).to_json_best_effort()
    )
    with pytest.raises(ValueError, match="baselines.palette.optimizer.schedule is 'cosine'"):
        check_longer(config, tmp_path, {"train.steps": (6, 12)})
    check_longer(
        config, tmp_path, {"baselines.palette.steps": (6, 12)}
    )  # it has no steps of its own
    config["baselines"]["palette"]["optimizer"]["schedule"] = "constant"
    check_longer(config, tmp_path, {"train.steps": (6, 12)})


def test_training_calls_are_a_column_where_they_are_told():
    rows = [
        Row("teacher", "ancestral", 2, 8, metrics={"psnr": 20.0}, training_calls=144_000.0),
        Row("baseline", "palette", 10, 8, metrics={"psnr": 21.0}),
    ]
    text = format_table(rows)
    assert "Training calls" in text and "144,000" in text and "a backward pass two" in text
    assert Row.read(rows[0].plain()) == rows[0] and "training_calls" not in rows[1].plain()
    assert "raining" not in format_table(rows[1:])


def test_the_clock_of_a_training_counts_what_is_kept(tmp_path):
    assert seconds_of(tmp_path) == ""
    lines = [("train", 2, 0.5), ("train", 5, 1.0), ("train", 3, 2.0), ("baseline_palette", 4, 0.25)]
    records = (
        json.dumps({"stage": s, "step": n, "seconds_per_step": t, "loss": 1.0}) for s, n, t in lines
    )
    (tmp_path / "metrics.jsonl").write_text("\n".join(records))
    assert (
        seconds_of(tmp_path) == "train 3 s, baseline_palette 1 s"
    )  # step 5 was made again, from 2


@pytest.mark.parametrize("variant, spared", [("all", {"adm_sr"}), ("all:superres", set())])
def test_the_configuration_of_all_names_what_does_not_apply(variant, spared):
    config = read(f"compare:{variant}")
    validate(config)
    assert config.compare.baselines == tuple(PAIR_METHODS) and config.compare.students
    assert config.task.startswith("compare_all_")
    left = {n: why_not_here(m, config) for n, m in PAIR_METHODS.items()}
    assert {name for name, reason in left.items() if reason} == spared
    lengths = {n: baseline_config(config, n).distill[n].steps for n in set(left) - spared}
    assert lengths["palette"] == config.train.steps == 2 * lengths["ddib"]
    noisy = read(f"compare:{variant}")
    if noisy.corruption.get("fill"):
        noisy.corruption.fill = "noise"
        assert "hold noise" in why_not_here(PAIR_METHODS["ddib"], noisy)


def test_the_defaults_ask_for_no_baseline():
    config = base_config()
    assert config.compare.baselines == ()
    assert all(config.baselines[name].steps == 0 for name in PAIR_METHODS)
    assert DISTILL  # a student is no baseline
    assert not set(PAIR_METHODS) & {"student", "teacher", "ibmd", "cbd", "cbt"}


def test_equal_time_gives_each_what_fills_it(images, tmp_path, monkeypatch, capsys):
    """A step of ibmd takes 4 ms, of cbd 1, of palette 2 and of the teacher 3."""
    config = comparison(
        images,
        **{"compare.students": ("ibmd", "cbd"), "compare.equal": "seconds", "distill.steps": 5},
    )
    validate(config)
    paces = {"distill_ibmd": 4e-3, "distill_cbd": 1e-3, "baseline_palette": 2e-3, "train": 3e-3}
    monkeypatch.setattr(compare_time, "_pace", lambda run, stage: paces[stage.name])
    run = abstract_run(config, Parallel.create("auto", 1))
    runs = student_runs(run) | baseline_runs(run)[0]
    timed = equal_time(run, runs)
    found = {n: find_method(its.config.distill)[1].steps for n, its in timed.items()}
    filled = {"distill_ibmd": 5, "distill_cbd": 20, "baseline_palette": round(3 * TRAIN / 2)}
    assert found == filled
    assert "distill_cbd: 20 steps, 1 ms each, for 0.02 s" in capsys.readouterr().out
    assert timed["baseline_palette"].config.distill.method == "palette"

    monkeypatch.setattr(compare_time, "_begun", lambda its, name: 7 if "cbd" in name else 0)
    again = equal_time(run, runs)  # as many as it began with
    assert find_method(again["distill_cbd"].config.distill)[1].steps == 7
    assert find_method(again["distill_ibmd"].config.distill)[1].steps == 5
    config.baselines.palette.steps = 9  # its own are its own, and nobody need time it
    del paces["baseline_palette"], paces["train"]
    own = equal_time(
        run := abstract_run(config, run.parallel), student_runs(run) | baseline_runs(run)[0]
    )
    assert find_method(own["baseline_palette"].config.distill)[1].steps == 9

    (tmp_path / "checkpoints" / "distill_ibmd" / "5").mkdir(parents=True)
    longer = json.loads(config.to_json_best_effort())
    with pytest.raises(ValueError, match="compare.equal is 'seconds'"):
        check_longer(longer, tmp_path, {"distill.steps": (5, 9)})
