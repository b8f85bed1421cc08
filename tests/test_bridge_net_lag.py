"""What a bridge net has not noticed: a copy of the teacher has noticed nothing, and is told so."""

from __future__ import annotations

import argparse

import jax
import numpy as np
import pytest

import jax_bridges as jb
from tests.support.restorers import left_behind, tiny
from tools import bridge_net_lag


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Teacher and student with random weights."""
    return left_behind(tmp_path_factory.mktemp("run"), tiny())


def test_a_copy_of_the_teacher_adds_what_the_teacher_adds(run, monkeypatch, capsys):
    teacher, student = jb.load(run, "teacher"), jb.load(run)

    def copy(folder, model):
        fresh = model.system.init(jax.random.key(0), "bridge_net")
        return {**fresh, **teacher.params}

    monkeypatch.setattr(bridge_net_lag, "read_bridge_net", copy)
    rows = bridge_net_lag.lags(run, images=4, split="test")
    assert [row["call"] for row in rows] == [*range(1, student.config.distill.student_steps + 1)]
    for row in rows:
        np.testing.assert_allclose(row["bridge_net"], row["teacher"], atol=1e-6)
        assert np.abs(row["off"]).max() > 1e-3 and np.abs(row["teacher"]).max() > 1e-3
    bridge_net_lag.main(argparse.Namespace(run=run, images=4, split="test"))
    said = capsys.readouterr().out
    assert "bridge net's" in said and f"{100 * rows[0]['off'][0]:+.1f}" in said


def test_of_another_students_run_it_is_said(run, monkeypatch):
    student = jb.load(run)
    monkeypatch.setattr(student.config.distill, "method", "cbt")
    with pytest.raises(ValueError, match="a student by cbt: only ibmd has a bridge net"):
        bridge_net_lag.read_bridge_net(run, student)
