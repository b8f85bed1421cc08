"""A comparison from end to end at toy size, and runs of one student by each method."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest

import jax_bridges.main
from jax_bridges.acts.compare import of_method, teacher_rows
from jax_bridges.bridges import I2SB, VP, make_bridge
from jax_bridges.keys import example_keys
from jax_bridges.report.curves import quality_series
from jax_bridges.report.headline import headline
from jax_bridges.report.row import Row
from jax_bridges.restore import Restorer
from jax_bridges.samplers import count_calls
from jax_bridges.training.methods import METHODS, find_method, sample_student
from jax_bridges.training.methods.consistency import student_function
from jax_bridges.training.settings import distill_settings
from jax_bridges.training.system import Pair, System
from jax_bridges.validation import check_given, validate
from tests.support.config_files import read
from tests.support.runs import DISTILL, TRAIN, saved, steps, tiny

pytestmark = pytest.mark.usefixtures("handlers")


def small(images, **changes):
    """A comparison of all methods."""
    parts = {f"distill.{part}.steps": DISTILL for part in ("cbd", "cbt")}
    compare = {
        "compare.students": tuple(METHODS),
        "compare.samplers": ("ancestral", "dbim", "heun"),
        "compare.teacher_nfe": (1, 2, 6),
    }
    return tiny(images, **{**parts, **compare, **changes})


@pytest.mark.slow
def test_a_comparison_from_end_to_end_goes_on_where_it_stopped(images, tmp_path, monkeypatch):
    """Two students first; then a third is asked for, and only what is new is done."""
    workdir = tmp_path / "compare"
    first = small(images, **{"compare.students": ("ibmd", "cbd")})
    jax_bridges.main.run(first, workdir)
    results = json.loads((workdir / "results.json").read_text())
    rows = [(r["model"], r["sampler"], r["nfe"]) for r in results["rows"]]
    teacher = [("ancestral", 1), ("ancestral", 2), ("ancestral", 6), ("dbim", 2), ("dbim", 6)]
    teacher.append(("heun", 5))  # of a budget of 6
    students = [("ibmd", 1), ("ibmd", 2), ("cbd", 1), ("cbd", 2)]
    expected = [("source", "-", 0)]
    expected += [("teacher", *row) for row in teacher] + [("student", *row) for row in students]
    assert rows == expected
    assert "dbim at 1: The sampler 'dbim' needs at least 2" in results["measured"]["left_out"]
    assert "heun at 1, 2: The sampler 'heun' needs at least 5" in results["measured"]["left_out"]
    for row in results["rows"]:
        assert row["images"] == 8 and np.isfinite(row["psnr"])
    for method in ("ibmd", "cbd"):
        assert steps(workdir, f"distill_{method}") == list(range(1, DISTILL + 1))
        assert (workdir / "samples" / f"distill_{method}-{DISTILL}.png").exists()
    report = (workdir / "report.html").read_text()
    assert "student, cbd" in report and "needs at least 5" in report

    before = {p: p.stat().st_mtime_ns for p in (workdir / "checkpoints").rglob("*") if p.is_file()}
    jax_bridges.main.run(small(images), workdir)
    assert steps(workdir, "train") == list(range(1, TRAIN + 1))
    for method in METHODS:
        assert steps(workdir, f"distill_{method}") == list(range(1, DISTILL + 1))
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    again = json.loads((workdir / "results.json").read_text())["rows"]
    assert [(r["sampler"], r["nfe"]) for r in again[-2:]] == [("cbt", 1), ("cbt", 2)]
    for old, new in zip(results["rows"], again, strict=False):
        free = ("seconds_per_image", "behind")  # the best row may be a new one
        same = {k: v for k, v in old.items() if k not in free}
        assert same == {k: v for k, v in new.items() if k not in free}

    # Each moved away from the teacher, and each in its own way.
    teacher = saved(workdir, "train")["ema"]["teacher"]["out"]["kernel"]
    ends = [saved(workdir, f"distill_{m}")["params"]["generator"]["out"]["kernel"] for m in METHODS]
    everyone = [teacher, *ends]
    for i, one in enumerate(everyone):
        for other in everyone[:i]:
            assert np.abs(one - other).max() > 1e-6

    # A student of a comparison is the one of a run of its own.
    alone = small(images, **{"compare.students": (), "distill.method": "cbt"})
    alone.teacher.checkpoint = str(workdir)
    jax_bridges.main.run(alone, tmp_path / "alone")
    one, two = saved(tmp_path / "alone", "distill"), saved(workdir, "distill_cbt")
    jax.tree.map(np.testing.assert_array_equal, one["params"], two["params"])
    rows = json.loads((tmp_path / "alone" / "results.json").read_text())["rows"]
    assert [(r["sampler"], r["nfe"]) for r in rows[-2:]] == [("cbt", 1), ("cbt", 2)]

    # Each restores, and each by its own function.
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    given = {"boxes": [(4, 4, 8, 8)], "seed": 3}
    answers = {m: Restorer(workdir, m, nfe=2)(picture, **given).pixels for m in ("ibmd", "cbt")}
    np.testing.assert_array_equal(
        answers["cbt"], Restorer(tmp_path / "alone", nfe=2)(picture, **given).pixels
    )
    assert not np.array_equal(answers["ibmd"], answers["cbt"])
    with pytest.raises(FileNotFoundError, match="no student .*it holds teacher, ibmd, cbd, cbt"):
        Restorer(workdir)


# -- which rows --------------------------------------------------------------------------------------


def test_a_row_tells_the_calls_that_are_made_and_what_cannot_be_done_is_left_out(images):
    compare = small(images).compare
    rows, left_out = teacher_rows(VP(), compare)
    assert ("heun", 6, 5) in rows and ("dbim", 2, 2) in rows and len(rows) == 6
    assert len(left_out) == 2
    compare.teacher_nfe = (5, 6, 7, 8)
    rows, left_out = teacher_rows(VP(), compare)
    assert [row for row in rows if row[0] == "heun"] == [("heun", 5, 5), ("heun", 8, 8)]
    assert left_out == ["heun at 6, 7: It spends 5 calls, as with a budget of 5."]
    rows, left_out = teacher_rows(I2SB.create(deterministic=True), compare)
    assert {row[0] for row in rows} == {"ancestral"}
    assert left_out[0].startswith("dbim at 5, 6, 7, 8: The sampler 'dbim' divides by the noise")


def test_the_configuration_takes_any_task():
    for variant, task, corruption in (
        ("", "compare_inpaint", "inpaint_center"),
        ("jpeg", "compare_jpeg", "jpeg"),
        ("superres:pool", "compare_superres_pool", "superres"),
    ):
        config = read(f"compare:{variant}")
        assert config.task == task and config.corruption.name == corruption
        assert set(config.compare.students) == set(METHODS)
        validate(config)
    # Every sampler has rows, those guided by half of the steps.
    rows, _ = teacher_rows(make_bridge(**config.bridge), config.compare)
    assert {row[0] for row in rows} == set(config.compare.samplers) and len(
        config.compare.samplers
    ) == 10
    assert ("dbmsolver", 5, 4) in rows and ("dbim:pg=1.5", 10, 10) in rows
    with pytest.raises(ValueError, match="no variant 'inpant': choose .*inpaint"):
        read("compare:inpant")


def test_several_students_are_told_apart():
    rows = [
        Row("student", s, n, 8, metrics={"fd_lite0": v})
        for s, n, v in (("ibmd", 1, 3.0), ("ibmd", 2, 2.0), ("cbd", 1, 5.0), ("cbt", 2, 4.0))
    ]
    series = quality_series(rows, "nfe", "fd_lite0")
    assert len({each.colour for each in series}) == 3 and {each.dash for each in series} == {""}
    assert headline(rows) == "Student by ibmd, 1 call: FD-Lite0 3.00."


# -- methods behind one interface --------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("nfe", [1, 2, 4])
def test_every_student_spends_exactly_the_calls_it_was_given(images, method, nfe):
    """Counted inside the network."""
    config = small(images, **{"compare.students": (), "distill.student_steps": 4})
    config.distill.method = method
    system = System.create(config)
    counted = count_calls(lambda x, *rest: 0.5 * x)

    class Network:
        z_channels = 3

        def apply(self, variables, x, *rest, rngs=None):
            return counted(x)

    system.networks["generator"] = Network()
    image = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
    keys = example_keys(jax.random.key(1), np.arange(2))
    pair = Pair(image, image, None, keys)
    x0 = jax.jit(lambda k: sample_student(system, config.distill, {}, pair, nfe, k))(keys)
    assert counted.calls() == nfe and x0.shape == image.shape and np.isfinite(x0).all()


@pytest.mark.parametrize("conditional", [True, False])
@pytest.mark.parametrize("method", ("cbd", "cbt"))
def test_a_consistency_student_keeps_known_pixels_and_starts_as_the_teacher(
    images, method, conditional
):
    config = small(images, **{"compare.students": (), "network.conditional": conditional})
    config.distill.method = method
    system = System.create(config)
    make_state, _ = METHODS[method].make(system, find_method(config.distill)[1])
    teacher = system.init(jax.random.key(0), "teacher")
    state = make_state(jax.random.key(1), teacher)
    assert set(state.players) == {"generator"}
    batch = {
        "x0": np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8),
        "index": np.arange(2, dtype=np.uint32),
    }
    pair = system.prepare(batch, jax.random.key(2), augment=False)
    h = student_function(system, state.players["generator"].params, pair)
    x = pair.xT + 0.1 * jax.random.normal(jax.random.key(3), pair.xT.shape)
    answer = h(x, jax.numpy.full(2, 0.5), pair.xT)
    known = np.broadcast_to(pair.mask == 0, answer.shape)
    np.testing.assert_array_equal(np.asarray(answer)[known], np.asarray(pair.xT)[known])
    # Its noise input starts at zero: the teacher's network, in the form of a consistency function.
    from jax_bridges.distillation import consistency_function

    mine = consistency_function(system.denoiser(teacher, pair), system.bridge)
    hole = ~known
    np.testing.assert_allclose(
        np.asarray(answer)[hole],
        np.asarray(mine(x, jax.numpy.full(2, 0.5), pair.xT))[hole],
        atol=1e-6,
    )


# -- settings ----------------------------------------------------------------------------------------


def test_a_method_reads_its_own_keys_over_the_shared_ones(images):
    config = small(images, **{"distill.cbt.steps": 7, "distill.batch": 12})
    for method, expected in (("ibmd", DISTILL), ("cbd", DISTILL), ("cbt", 7)):
        settings = distill_settings(of_method(config, method).distill)
        assert settings.steps == expected and settings.batch == 12 and settings.method == method
    assert config.distill.method == "ibmd"  # of_method copies


@pytest.mark.parametrize(
    "method, given, words",
    [
        (
            "cbd",
            "distill.steps",
            "distill.steps was given, but the method cbd .* distill.cbd.steps",
        ),
        ("cbd", "distill.roll_out", "the method cbd does not read it: leave it out"),
        ("ibmd", "distill.cbd.gamma", "the method ibmd does not read it"),
        ("cbt", "distill.optimizer.learning_rate", "distill.optimizer.learning_rate was given"),
    ],
)
def test_keys_that_the_method_does_not_read_are_refused(images, method, given, words):
    config = small(images, **{"compare.students": (), "distill.method": method})
    check_given(config, ["train.steps", "distill.batch", "distill.ema"])
    with pytest.raises(ValueError, match=words):
        check_given(config, ["data.size", given])
    config.compare.students = tuple(METHODS)
    check_given(config, [given])


@pytest.mark.parametrize(
    "changes, given, words",
    [
        ({"teacher.checkpoint": "runs/inpaint"}, "train.steps", "teacher.checkpoint is a finished"),
        ({"compare.students": ()}, "compare.samplers", "compare.students is empty"),
        ({"compare.students": ()}, "zero_shot.nfe", "zero_shot.tasks is empty"),
    ],
)
def test_keys_that_the_run_does_not_read_are_refused(images, changes, given, words):
    config = small(images, **changes)
    with pytest.raises(
        ValueError, match=f"{given} was given, but {words}.*: leave one of them out"
    ):
        check_given(config, ["data.size", given])


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"distill.cbd.gamma": 0.0}, "distill.cbd.gamma is 0.0: it must be a number above 0"),
        (
            {"distill.cbd.dt": 1e-5},
            "distill.cbd.dt is 1e-05: it must be at least 0.001, for times closer",
        ),
        ({"distill.cbd.distance_scale": 0.0}, "distance_scale is 0.0: pseudo_huber's gradient"),
        ({"distill.cbd.optimizer.weight_decay": 0.1}, "distill.cbd.optimizer.weight_decay is 0.1"),
        ({"compare.students": ("cbd", "cm")}, "compare.students is .*each one of ibmd, cbd, cbt"),
    ],
)
def test_what_cannot_run_is_refused(images, changes, words):
    with pytest.raises(ValueError, match=words):
        validate(small(images, **changes))


def test_only_ibmd_is_bound_to_the_calls_it_was_trained_for(images):
    config = small(images, **{"evaluate.student_nfe": (1, 9), "compare.students": ("cbd", "cbt")})
    validate(config)
    config.compare.students = ("cbd", "ibmd")
    with pytest.raises(ValueError, match="student is trained for 1 to 2 calls"):
        validate(config)
