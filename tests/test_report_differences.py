"""report/differences.py: which rows of a run differ by more than chance, and how the report says so."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from jax_bridges.metrics import mean_estimate
from jax_bridges.report import (
    Row,
    build_report,
    format_table,
    headline,
    read_measured,
    write_results,
)
from jax_bridges.report.curves import quality_chart, quality_series
from jax_bridges.report.differences import Difference, Measured, no_worse, with_seeds
from jax_bridges.report.table import make_columns
from tests.support.reports import Page, results_of

IMAGES = 40
RANDOM = np.random.default_rng(0)
HARD = RANDOM.normal(0, 5, IMAGES)  # how hard an image is, for all rows
BLOCKS = np.arange(IMAGES) // 4


def psnr(mean, spread=0.5, seed=0):
    return 30 + mean + HARD + spread * np.random.default_rng(seed).normal(size=IMAGES)


def measured(student, teacher_100, shift=0.0):
    """Source, teacher at 1 and 100 calls, student at 1: PSNR by image, and a distance of the set."""
    each = {0: psnr(-10), 1: psnr(-4, seed=1), 2: teacher_100, 3: student}
    kinds = [
        ("source", "-", 0),
        ("teacher", "ode", 1),
        ("teacher", "ode", 100),
        ("student", "few", 1),
    ]
    rows, values = [], {"blocks": BLOCKS, "folds": BLOCKS}
    for i, (model, sampler, nfe) in enumerate(kinds):
        distance = (100.0, 40.0, 30.0, 31.0)[i] + shift
        values[f"{i}/psnr"] = each[i]
        wobble = 0.03 * np.random.default_rng(10 + i).normal(size=10) + 0.5 * np.sin(np.arange(10))
        values[f"{i}/fd_lite0_hole/without"] = distance + wobble
        metrics = {"psnr": float(each[i].mean()), "fd_lite0_hole": distance}
        rows.append(Row(model, sampler, nfe, IMAGES, metrics=metrics, seconds_per_image=0.1 + nfe))
    return rows, values


def test_intervals_and_differences_are_those_of_the_images():
    rows, values = measured(psnr(0.0, seed=2), psnr(0.1, seed=3))
    found = Measured([(rows, values)])
    told = found.told()
    for i, row in enumerate(told):
        want = mean_estimate(values[f"{i}/psnr"], BLOCKS).interval()
        assert row.intervals["psnr"] == pytest.approx(want)
        assert row.seeds is None and not row.std and row.metrics == rows[i].metrics
    # Paired: how hard an image is says nothing of a difference.
    one = found.difference(3, 2, "psnr")
    sums = (values["3/psnr"] - values["2/psnr"]).reshape(10, 4).mean(1)
    want = stats.t.interval(0.95, 9, sums.mean(), stats.sem(sums))
    assert (one.low, one.high) == pytest.approx(want)
    assert one.high - one.low < 0.3 * np.ptp(told[3].intervals["psnr"])
    assert one.worst == -one.lower and one.low < one.lower < one.upper < one.high
    assert one.sign_p == stats.binomtest(int((sums > 0).sum()), 10).pvalue
    # Of a set, whose folds wobble together.
    distance = found.difference(3, 2, "fd_lite0_hole")
    assert distance.value == 1 and distance.sign_p is None
    assert distance.high - distance.low < 0.5 * np.ptp(told[3].intervals["fd_lite0_hole"])
    assert set(told[3].behind) == {"psnr", "fd_lite0_hole"} and not told[0].behind
    assert told[3].behind["fd_lite0_hole"] == (distance.low, distance.high)
    assert "fd_lite0_hole" not in told[2].behind  # it is the best
    pairs = [(each.row, each.to, each.metric) for each in found.to_teacher()]
    assert pairs == [(3, 2, "fd_lite0_hole"), (3, 2, "psnr")]
    assert found.difference(3, 2, "ssim") is None


def test_each_round_of_em_is_compared_with_what_stands_before_it():
    rows, values = measured(psnr(0.3, seed=2), psnr(0.1, seed=3))
    names = ("source", "10 clean images", "round 1", "round 2")
    rows = [dataclasses.replace(row, model=name) for row, name in zip(rows, names, strict=True)]
    found = Measured([(rows, values)])
    first, second = found.compared()
    assert [(d.row, d.to, d.metric) for d in (first, second)] == [(2, 1, "psnr"), (3, 2, "psnr")]
    assert second == found.difference(3, 2, "psnr") and first.low > 3.5
    other = [dataclasses.replace(row, task=f"task {i}") for i, row in enumerate(rows)]
    assert Measured([(other, values)]).compared() == []  # of other tasks


def test_no_worse_is_a_bound_of_the_difference():
    worse = Difference(3, 2, "fd_lite0_hole", 0.8, -0.2, 1.8, -0.1, 1.4)
    assert no_worse(worse, 30.0) and not no_worse(worse, 20.0)  # 1.4 against 1.5 and 1.0
    better = dataclasses.replace(worse, metric="psnr", lower=-1.4, upper=0.1)
    assert not worse.is_worse and not better.is_worse
    assert (
        dataclasses.replace(worse, low=0.1).is_worse
        and dataclasses.replace(better, high=-1).is_worse
    )
    assert better.worst == 1.4 and no_worse(better, 30.0) and not no_worse(better, 20.0)


def test_seeds_are_averaged_and_their_spread_is_told():
    one = measured(psnr(0.0, seed=2), psnr(0.1, seed=3))
    two = measured(psnr(0.4, seed=4), psnr(0.1, seed=3), shift=2.0)
    row = Measured([one, two]).told()[3]
    assert row.seeds == 2 and row.metrics["fd_lite0_hole"] == 32
    assert row.std["fd_lite0_hole"] == pytest.approx(np.sqrt(2))
    values = [rows[3].metrics["psnr"] for rows, _ in (one, two)]
    assert row.std["psnr"] == pytest.approx(np.std(values, ddof=1))
    each = (one[1]["3/psnr"] + two[1]["3/psnr"]) / 2
    inner = mean_estimate(each, BLOCKS).interval()
    half = stats.t.ppf(0.975, 1) * np.std(values, ddof=1) / np.sqrt(2)
    want = np.hypot((inner[1] - inner[0]) / 2, half)
    assert np.ptp(row.intervals["psnr"]) / 2 == pytest.approx(want)
    # Both rows moved alike: of the difference the seeds say that it is sure.
    narrow = Measured([one, two]).difference(3, 2, "fd_lite0_hole")
    alone = Measured([one]).difference(3, 2, "fd_lite0_hole")
    assert (narrow.low, narrow.high) == pytest.approx((alone.low, alone.high))
    assert with_seeds(1.0, (0.5, 2.0), [1.0], 0.975) == (0.5, 2.0)
    text = format_table(Measured([one, two]).told())
    assert "means of 2 seeds, in brackets their standard deviation" in text and "(1.4)" in text
    assert "interval over images and seeds" in text


def marks(rows, key):
    return next(c for c in make_columns(rows) if c.key == key).best


def test_what_is_not_worse_by_more_than_chance_is_bold_too():
    rows, values = measured(psnr(0.0, seed=2), psnr(0.1, seed=3))
    assert marks(rows, "psnr") == (False, False, True, False)
    told = Measured([(rows, values)]).told()
    assert marks(told, "psnr") == (False, False, True, True)
    assert "what is not worse by more than chance" in format_table(told)
    far, values = measured(psnr(-1.0, seed=2), psnr(0.1, seed=3))
    assert marks(Measured([(far, values)]).told(), "psnr") == (False, False, True, False)
    fewer = [*told[:3], dataclasses.replace(told[3], images=20)]  # a distance of other numbers
    assert not any(marks(fewer, "fd_lite0_hole")) and any(marks(fewer, "psnr"))


def test_a_model_below_its_source_is_told_first_and_nothing_is_bold():
    rows, values = measured(psnr(0.0, seed=2), psnr(0.1, seed=3))
    rows[0] = dataclasses.replace(rows[0], metrics={"psnr": 20.0, "fd_lite0_hole": 30.5})
    told = Measured([(rows, values)]).told()
    assert headline(told).startswith(
        "Worse than its source: the student's best FD-Lite0 (hole) is 31.0, that of the corrupted images "
        "themselves 30.5. Student, 1 call"
    )
    assert not any(any(column.best) for column in make_columns(told))
    assert "nothing is marked: a model is worse than its source" in format_table(told)
    rows[0] = dataclasses.replace(rows[0], metrics={"psnr": 50.0, "fd_lite0_hole": 90})
    assert not any(marks(rows, "psnr")) and any(
        marks(rows, "fd_lite0_hole")
    )  # in that column alone


def test_the_headline_says_whether_the_student_is_no_worse():
    rows, values = measured(psnr(0.0, seed=2), psnr(0.1, seed=3))
    found = Measured([(rows, values)])
    said = headline(found.told(), found.to_teacher())  # matched by their place
    assert (
        "3% above its 100 calls" in said and "The paired difference is +1.0 (95% interval" in said
    )
    (bound,) = [d.worst for d in found.to_teacher() if d.metric == "fd_lite0_hole"]
    assert (
        f"no worse, at most {bound / 30:.1%} worse with 95% (under 5% counts as no worse)" in said
    )
    assert found.difference(3, 2, "fd_lite0_hole").is_worse  # by 3%, which counts as no worse
    values["3/fd_lite0_hole/without"] = 31 + np.arange(10.0)
    found = Measured([(rows, values)])
    assert "not shown to be as good, at most" in headline(found.told(), found.to_teacher())


def test_curves_and_the_page_show_intervals(tmp_path):
    rows, values = measured(psnr(0.0, seed=2), psnr(0.1, seed=3))
    found = Measured([(rows, values)])
    told = found.told()
    (teacher, _) = quality_series(told, "nfe", "fd_lite0_hole")
    assert teacher.bars == (told[1].intervals["fd_lite0_hole"], told[2].intervals["fd_lite0_hole"])
    assert "(95% interval" in quality_chart(told, "nfe", "fd_lite0_hole")
    assert quality_series(rows, "nfe", "fd_lite0_hole")[0].bars == ()
    results = results_of([row.plain() for row in told])
    folders = [{"seed": 7, "folder": "seed7"}]
    write_results(tmp_path / "seed7/results.json", results)
    np.savez(tmp_path / "seed7/values.npz", **values)
    write_results(
        tmp_path / "results.json",
        {**results, "differences": found.to_teacher(), "seeds": folders},
    )
    for folder in (tmp_path, tmp_path / "seed7"):  # of several seeds, and of one
        again = read_measured(folder)
        assert again.told() == told and again.to_teacher() == found.to_teacher()
    page = Page(build_report(tmp_path).read_text())
    assert "student few 1 minus teacher ode 100" in page.text and "Sign test, p" in page.text
    assert "seed 7" in page.text and "Training" not in page.text
