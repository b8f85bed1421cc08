"""The chart of how students became what they are: its lines are the runs' own numbers."""

from __future__ import annotations

import argparse
import json

import pytest

from tools.distilling_curves import line_of, main


@pytest.fixture
def run(tmp_path):
    """Steps of a tenth, then of a fifth of a second, two looks, and a teacher's line that is none of it."""
    lines = [
        {"stage": "train", "step": 5, "validation_fd_lite0": 99.0},
        {"stage": "distill", "step": 10, "seconds_per_step": 0.1, "validation_fd_lite0": 30.0},
        {"stage": "distill", "step": 15, "seconds_per_step": 0.2, "loss": 1.0},
        {"stage": "distill", "step": 20, "seconds_per_step": 0.2, "validation_fd_lite0": 20.0},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def test_a_line_is_the_looks_over_updates_or_seconds(run):
    line = line_of("a", run, "validation_fd_lite0", "updates", "red")
    assert (line.x, line.y) == ((10, 20), (30.0, 20.0))
    assert line_of("a", run, "validation_fd_lite0", "seconds", "red").x == pytest.approx((1.0, 3.0))
    with pytest.raises(ValueError, match="no validation_kid_lite0 of its student: make it with"):
        line_of("a", run, "validation_kid_lite0", "updates", "red")


def test_the_chart_has_a_line_a_run(run, tmp_path):
    out = tmp_path / "out.svg"
    args = {"metric": "validation_fd_lite0", "over": "updates", "title": "FD", "log": False}
    main(argparse.Namespace(out=out, runs=[f"few=1={run}", str(run)], **args))
    svg = out.read_text()
    assert svg.startswith("<svg xmlns") and "few=1" in svg and str(run) in svg
