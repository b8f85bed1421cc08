"""A teacher brings its network, bridge, preconditioning and fill (`stages.train.take_teacher`)."""

import json

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding

from jax_bridges.config import base_config, model_differences, record
from jax_bridges.configurations import get_config
from jax_bridges.packed import write_packed
from jax_bridges.stages import teacher as stage
from jax_bridges.stages.teacher import check_teacher, load_teacher, take_teacher, teacher_record
from jax_bridges.training.system import System
from jax_bridges.validation import validate
from tests.support.imports import a_run


def a_teacher():
    config = base_config()
    config.network.update(widths=(16, 32), patch=1, sees_mask=True)
    config.bridge = {"name": "brownian", "epsilon": 0.15}
    config.preconditioning = {"name": "residual", "scale": 0.5}
    config.corruption = {"name": "inpaint_freeform", "fill": "smooth"}
    return config


def asked(monkeypatch, recorded, given=(), init=False, **changes):
    monkeypatch.setattr(stage, "teacher_record", lambda path: (recorded, ""))
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


def in_a_file(folder, player="teacher", **network):
    """A small model in one file, and its parameters."""
    config = base_config()
    config.network.update(widths=(8,), patch=1, groups=2)
    config.data.size = 16
    system = System.create(config)
    params = jax.device_get(system.init(jax.random.key(1), "teacher"))
    config.network.update(network)
    path = write_packed(folder / "small.safetensors", player, record(config), params, "float32")
    return path, params


def test_one_in_a_file_is_laid_out_as_a_run_s(tmp_path):
    path, params = in_a_file(tmp_path)
    config = base_config()
    config.data.size = 16
    config.teacher.checkpoint = str(path)
    take_teacher(config, [])
    loaded = load_teacher(a_run(config, tmp_path / "w"), str(path))
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(loaded), params)
    assert all(isinstance(leaf.sharding, NamedSharding) for leaf in jax.tree.leaves(loaded))


def test_what_is_in_a_file_and_is_no_teacher_is_refused(tmp_path):
    path, _ = in_a_file(tmp_path, "student")
    with pytest.raises(ValueError, match="is a student, which cannot be a teacher"):
        teacher_record(str(path))
    path, _ = in_a_file(tmp_path, widths=(8, 16))
    config = base_config()
    config.data.size = 16
    config.teacher.checkpoint = str(path)
    take_teacher(config, [])
    with pytest.raises(ValueError, match="does not hold the weights of the network that it names"):
        load_teacher(a_run(config, tmp_path / "w"), str(path))


def test_one_that_ships_has_one_set_of_weights():
    config = base_config()
    config.teacher.checkpoint = "photos:inpaint"
    take_teacher(config, [])
    assert config.corruption.fill == "smooth" and config.network.sees_mask
    check_teacher(plain(config))
    config.distill.start = "raw"
    with pytest.raises(ValueError, match="photos:inpaint holds one set of weights"):
        check_teacher(plain(config))


@pytest.mark.parametrize("path", ["photos:nope", "nope.safetensors", "runs/nope"])
def test_one_that_is_not_there_is_told_with_all_there_could_be(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        FileNotFoundError, match=f"There is no {path}: give the folder of a run"
    ) as e:
        teacher_record(path)
    assert ".safetensors), or one of photos:denoise, photos:fill, photos:inpaint, " in str(e.value)


def test_a_file_tells_of_its_last_training_alone(tmp_path):
    assert teacher_record("photos:inpaint")[1] == "weights alone, last trained for 4480 steps"
    imported = {k: v for k, v in record(a_teacher()).items() if k in ("network", "bridge")}
    path = write_packed(tmp_path / "a.safetensors", "teacher", imported, {"a": np.zeros(1)})
    assert teacher_record(str(path))[1] == "weights alone"


def test_a_teacher_that_sees_a_mask_is_not_for_a_task_without():
    config = get_config("photos:jpeg")
    config.teacher.checkpoint = "photos:inpaint"
    take_teacher(config, [])
    with pytest.raises(ValueError, match="photos:inpaint sees where the hole is .* 'photo_file'"):
        validate(config)
    config.teacher.checkpoint = ""
    with pytest.raises(ValueError, match="sees_mask is True, but .*: set it to False"):
        validate(config)


@pytest.mark.parametrize(
    "task, teacher, words",
    [
        ("inpaint", "photos:jpeg", "corruption.name: photo_file -> inpaint_holes.\n"),
        ("superres", "photos:jpeg", "corruption.factors: [1] -> [2, 4]"),
        ("jpeg", "photos:jpeg", ""),
        ("inpaint", "photos:inpaint", ""),
    ],
)
def test_a_teacher_of_another_corruption_is_noted(task, teacher, words, capsys):
    config = get_config(f"photos:{task}")
    config.teacher.checkpoint = teacher
    take_teacher(config, [])
    check_teacher(plain(config))
    said = capsys.readouterr().out
    assert words in said if words else "note" not in said
    config.teacher.update(checkpoint="", init=teacher)
    check_teacher(plain(config))
    assert "note" not in capsys.readouterr().out
