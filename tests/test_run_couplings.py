"""DSBM and reflow from end to end at toy size: players, checkpoints, going on, the second round."""

from __future__ import annotations

import threading
from functools import partial

import jax
import numpy as np
import pytest

import jax_bridges.main
from jax_bridges.stages.log import MetricsLog
from jax_bridges.stages.run import Stopped, StopSignal
from tests.support.runs import (
    saved,
    steps,
    tiny,
)

pytestmark = pytest.mark.usefixtures("handlers")


def config_of(images, **changes):
    """A tiny run whose x_T are noisy images, on a Brownian bridge, unconditional."""
    config = tiny(images)
    config.corruption = {"name": "denoise", "std": 0.2}
    config.bridge = {"name": "brownian", "epsilon": 0.5}
    config.preconditioning = {"name": "i2sb"}
    config.keep_known = config.network.conditional = False
    config.train.update(dict(weight="native", simulation_steps=2))
    config.update_from_flattened_dict(changes)
    return config


@pytest.mark.slow
def test_dsbm_goes_on_where_it_stopped_to_the_same_end(images, tmp_path, monkeypatch):
    """Stopped inside the second round; both players, their optimisers and results are the same."""
    config = config_of(images, **{"train.mode": "dsbm", "train.rounds": 3})
    whole, workdir = tmp_path / "whole", tmp_path / "stopped"
    assert jax_bridges.main.run(config, whole).exists()
    one = saved(whole, "train")
    assert set(one["params"]) == {"teacher", "forward"}
    assert steps(whole, "train") == [1, 2, 3, 4, 5, 6]

    asked = threading.Event()
    write = MetricsLog.write

    def stop_at_three(self, stage, step, **values):
        write(self, stage, step, **values)
        if stage == "train" and step == 3:
            asked.set()

    with monkeypatch.context() as patch:
        patch.setattr(MetricsLog, "write", stop_at_three)
        patch.setattr(StopSignal, "is_set", lambda self: asked.is_set())
        with pytest.raises(Stopped, match="saved at step 3 of 6"):
            jax_bridges.main.run(config, workdir)
    jax_bridges.main.run(config, workdir)
    assert steps(workdir, "train") == [1, 2, 3, 4, 5, 6]
    jax.tree.map(np.testing.assert_array_equal, saved(workdir, "train"), one)
    assert (workdir / "report.html").exists()


@pytest.mark.slow
def test_reflow_is_a_second_run_from_the_first(images, tmp_path):
    flow = {"name": "brownian", "deterministic": True, "t_min": 1e-3}
    config = config_of(images)
    config.bridge, config.preconditioning = flow, {"name": "velocity"}
    jax_bridges.main.run(config, tmp_path / "first")
    first = saved(tmp_path / "first", "train")["ema"]["teacher"]

    config.train.mode, config.teacher.init = "reflow", str(tmp_path / "first")
    config.train.optimizer.learning_rate = 1e-30  # changes nothing that is not 0
    assert jax_bridges.main.run(config, tmp_path / "second").exists()
    second = saved(tmp_path / "second", "train")["params"]["teacher"]
    # It started there.
    jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=1e-25), first, second)

    config.bridge = {"name": "brownian", "deterministic": True, "t_min": 1e-2}
    with pytest.raises(ValueError, match="another model.*\n.*bridge.t_min"):
        jax_bridges.main.run(config, tmp_path / "third")
