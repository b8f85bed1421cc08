"""A teacher brings its network, bridge, preconditioning and fill (`stages.train.take_teacher`)."""

import json

import pytest

from jax_bridges.config import base_config, model_differences, record
from jax_bridges.stages import train as stage
from jax_bridges.stages.train import take_teacher


def a_teacher():
    config = base_config()
    config.network.update(widths=(16, 32), patch=1, sees_mask=True)
    config.bridge = {"name": "brownian", "epsilon": 0.15}
    config.preconditioning = {"name": "residual", "scale": 0.5}
    config.corruption = {"name": "inpaint_freeform", "fill": "smooth"}
    return config


def asked(monkeypatch, recorded, given=(), init=False, **changes):
    monkeypatch.setattr(stage, "recorded_config", lambda path, player: recorded)
    config = base_config()
    config.teacher["init" if init else "checkpoint"] = "runs/teacher"
    config.update_from_flattened_dict(changes)
    take_teacher(config, given)
    return config


def plain(config):
    return json.loads(config.to_json_best_effort())


@pytest.mark.parametrize("init", [False, True])
def test_it_brings_all_that_its_weights_are_for(monkeypatch, init):
    recorded = record(a_teacher())
    changes = {"network.dtype": "bfloat16"}
    config = asked(monkeypatch, recorded, ["network.dtype"], init, **changes)
    assert not model_differences(recorded, plain(config))
    assert config.network.dtype == "bfloat16"  # not of the weights' meaning
    assert config.corruption.name == "inpaint_center" and config.corruption.fill == "smooth"


def test_one_that_means_the_same_leaves_the_configuration_as_it_is(monkeypatch):
    before = base_config()
    recorded = record(before)
    recorded["network"]["channels"] = 3  # a default that is spelled out
    before.teacher.checkpoint = "runs/teacher"
    assert plain(asked(monkeypatch, recorded)) == plain(before)


def test_an_import_brings_what_it_records(monkeypatch):
    recorded = {k: v for k, v in record(a_teacher()).items() if k in ("network", "bridge")}
    config = asked(monkeypatch, recorded)
    assert config.bridge.name == "brownian" and config.preconditioning.name == "none"
    assert config.corruption.fill == "zero"


def test_what_contradicts_it_is_named(monkeypatch):
    recorded = record(a_teacher())
    given = {"network.patch": 2, "network.groups": 8, "corruption.fill": "zero"}
    with pytest.raises(ValueError, match="patch: 2 .the teacher's is 1.*\n.*fill: zero") as error:
        asked(monkeypatch, recorded, list(given), **given)
    assert "groups" not in str(error.value)


def test_a_training_may_leave_its_bridge(monkeypatch):
    given = {"bridge.beta_max": 0.2}
    config = asked(monkeypatch, record(a_teacher()), list(given), init=True, **given)
    assert config.bridge.name == "i2sb" and list(config.network.widths) == [16, 32]
