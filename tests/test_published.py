"""published.csv, its rows beside ours, and the table that says which is which."""

import collections

import pytest

from jax_bridges.report import (
    Row,
    format_table,
    load_published,
    published,
    published_rows,
    published_tasks,
)
from jax_bridges.report.results import check_results
from tests.support.reports import plain_results


def test_the_file_is_whole_and_clean():
    rows = load_published()
    assert len(rows) == 339
    assert all(row[k] for row in rows for k in ("task", "data", "method", "metric", "source"))
    keys = ("task", "data", "method", "nfe", "metric", "source")
    counts = collections.Counter(tuple(row[k] for k in keys) for row in rows)
    assert max(counts.values()) == 1
    assert {row["protocol"] for row in rows} == {"i2sb", "ddbm", "dbim", "ddnm", "none"}
    ranges = {"CA": (0, 100), "SSIM": (0, 1), "PSNR": (10, 60), "IS": (1, 1000)}
    for row in rows:
        low, high = ranges.get(row["metric"], (0, 1000))
        assert low <= row["value"] <= high, row
    assert len(published_tasks()) > 15


def test_known_numbers():
    """Table 1 of IBMD's first version: 4x super-resolution, bicubic."""
    (ours,) = [r for r in published_rows("sr4x-bicubic") if r.model == "IBMD-I2SB"]
    assert (ours.metrics["fid"], ours.metrics["ca"], ours.nfe) == (2.5, 72.4, 1)
    teacher = [r for r in published_rows("sr4x-bicubic") if r.model == "I2SB"]
    assert {r.nfe for r in teacher} == {1000} and teacher[0].metrics["fid"] == 2.8
    psnr = published_rows("sr4x-bicubic", metrics=["psnr"])
    assert all("psnr" in row.metrics for row in psnr)
    assert published_rows("sr4x-bicubic", metrics=["lpips"]) == []


def test_every_metric_of_the_file_has_a_counterpart_or_is_left_out_on_purpose():
    """DDNM's consistency is another quantity than our "cons", and must not stand in its column."""
    assert {row["metric"] for row in load_published()} == {
        *published._METRICS,
        *published._LEFT_OUT,
    }
    rows = published_rows("colorization")
    assert rows and not any({"cons", "Cons"} & set(row.metrics) for row in rows)
    assert published_rows("colorization", metrics=["cons"]) == []
    assert '"Cons" is left out' in published_rows.__doc__


def test_whether_protocol_and_data_are_the_same():
    place = dict(protocol="i2sb", data="ImageNet 256")
    same = published_rows("sr4x-bicubic", images=50_000, **place)
    assert all(r.same_protocol and r.same_data for r in same)
    fewer = published_rows("sr4x-bicubic", images=10_000, **place)
    assert not any(r.same_protocol for r in fewer)
    other = published_rows("sr4x-bicubic", protocol="own", images=50_000)
    assert not any(r.same_protocol or r.same_data for r in other)
    with pytest.raises(ValueError, match="Did you mean 'sr4x-bicubic'"):
        published_rows("sr4x-bicubik")
    with pytest.raises(ValueError, match="choose one of ImageNet 256"):
        published_rows("sr4x-bicubic", data="ImageNet 64")


def test_the_table_marks_every_row():
    best = dict(metrics={"fid": 2.4, "ca": 72.0}, intervals={"fid": (2.3, 2.54)})
    ours = Row("student", "few_step", 1, 50_000, **best)
    teacher = Row("teacher", "ancestral", 999, 50_000, metrics={"fid": 2.9, "ca": 70.0})
    theirs = published_rows("sr4x-bicubic", "i2sb", "ImageNet 256", 50_000)
    table = format_table([ours, teacher, *theirs])
    lines = table.splitlines()
    assert sum("published: same protocol and data" in line for line in lines) == len(theirs)
    assert sum("measured here" in line for line in lines[:6]) == 2
    assert sum(" † " in line for line in lines[:-1]) == len(theirs)
    (row,) = [line for line in lines if line.startswith("student")]
    assert "2.4 ±0.1*" in row  # the best of those measured here; the published 2.5 is no rival
    assert "half of the 95% interval" in lines[-1]
    other = published_rows("sr4x-bicubic", "own", "", 256)
    assert "other protocol and data" in format_table([ours, *other])
    assert "measured here" not in format_table([ours])  # where nothing is published, no column
    results = plain_results([row.plain() for row in (ours, *theirs)])
    assert check_results(results)[0] == [ours, *theirs]
    for broken, words in (
        (dict(intervals={"fid": [1.0]}), "low, high"),
        (dict(intervals={"speed": [1.0, 2.0]}), "low, high"),
        (dict(same_data="yes"), "true or false"),
    ):
        with pytest.raises(ValueError, match=words):
            check_results(plain_results([{**ours.plain(), **broken}]))


def test_the_paper_s_configurations_name_their_task_and_protocol():
    """Every row of Table 7 finds its published numbers, one of them IBMD's own."""
    from jax_bridges import papers
    from jax_bridges.config import base_config

    for make, protocol, method in (
        (lambda c: papers.i2sb_superres(c, kind="pool"), "i2sb", "IBMD-I2SB"),
        (lambda c: papers.i2sb_jpeg(c, quality=5, updates=2000), "i2sb", "IBMD-I2SB"),
        (papers.i2sb_inpaint, "i2sb", "IBMD-I2SB"),
        (papers.dbim_inpaint, "dbim", "IBMD-DDBM"),
        (lambda c: papers.ddbm_handbags(c, calls=2, updates=300), "ddbm", "IBMD-DDBM"),
        (lambda c: papers.ddbm_diode(c, calls=2, updates=500), "ddbm", "IBMD-DDBM"),
    ):
        config = base_config()
        make(config)
        assert config.evaluate.protocol == protocol
        rows = published_rows(config.evaluate.published, metrics=("fid", "ca", "is"))
        assert any(row.model == method for row in rows)
