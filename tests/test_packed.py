"""A player in one file (`packed`), which restores as its run does."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

from jax_bridges import packed
from jax_bridges.config import base_config, record
from jax_bridges.corruptions import smooth_fill
from jax_bridges.io.safetensors import write_safetensors
from jax_bridges.io.torch_file import read_torch
from jax_bridges.players import full_network
from jax_bridges.restore import Restorer
from jax_bridges.restore import main as restore
from jax_bridges.training.system import System
from tests.support import ROOT
from tools import measure_files


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    config = base_config()
    config.task = "photos"
    config.network.update(widths=(8,), patch=1, groups=2, sees_mask=True)
    config.data.size = 16
    config.corruption = {"name": "inpaint_freeform", "fill": "smooth", "count": 2}
    config.preconditioning = {"name": "residual"}
    config.bridge = {"name": "brownian", "epsilon": 0.15}
    config.distill.student_steps = 1
    config.evaluate.student_nfe = (1,)
    recorded = record(config)
    params = jax.device_get(System.create(config).init(jax.random.key(0), "generator"))
    folder = tmp_path_factory.mktemp("shipped")
    path = packed.write_packed(folder / "photos_fill.safetensors", "student", recorded, params)
    path.with_suffix(".md").write_text("# Fills holes\n\nMore.\n")
    return path, recorded, params


def test_it_comes_back_with_its_configuration(model):
    path, recorded, params = model
    player, config, found = packed.read_packed(path)
    assert player == "student" and {**config, "format": recorded["format"]} == recorded
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), found, params)
    assert {a.dtype.name for a in jax.tree.leaves(found)} == {"float32"}
    assert full_network(config, "student")["sees_mask"]


def test_what_ships_is_named_listed_and_restores(model, monkeypatch, capsys):
    monkeypatch.setattr(packed, "SHIPPED", model[0].parent)
    with pytest.raises(SystemExit) as end:
        restore(["--list"])
    assert end.value.code == 0
    assert capsys.readouterr().out == "photos:fill        Fills holes\n"
    picture = np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8)
    mask = np.zeros((20, 24), bool)
    mask[5:9, 3:20] = True
    by_name, by_path = (Restorer(name)(picture, mask).pixels for name in ("photos:fill", model[0]))
    np.testing.assert_array_equal(by_name, by_path)
    np.testing.assert_array_equal(by_name[~mask], picture[~mask])
    # The last layer of an untrained network is zero: it answers with the smooth fill.
    assert np.abs(by_name[mask].astype(int) - 127).max() < 128
    with pytest.raises(FileNotFoundError, match="or one of photos:fill"):
        Restorer("photos:fil")
    with pytest.raises(ValueError, match="is a student by itself: leave --model=teacher out"):
        Restorer("photos:fill", "teacher")


def test_weights_that_float16_cannot_hold_and_files_of_others_are_refused(model, tmp_path):
    path, recorded, _ = model
    with pytest.raises(ValueError, match="'a/b' are not finite in float16: keep them in float32"):
        packed.write_packed(tmp_path / "x.safetensors", "student", recorded, {"a": {"b": 1e5}})
    assert not list(tmp_path.iterdir())
    data = bytearray(path.read_bytes())
    other = tmp_path / "y.safetensors"
    other.write_bytes(bytes(data).replace(b'"jax_bridges"', b'"another_one"'))
    with pytest.raises(ValueError, match="weights of another project"):
        packed.read_packed(other)
    other.write_bytes(bytes(data[:50]))
    with pytest.raises(ValueError, match="y.safetensors"):
        packed.read_packed(other)
    assert json.loads(json.dumps(recorded)) == recorded
    whole = read_torch(path)
    for player, config in (
        (None, "{}"), ("teacher", None), ("nobody", json.dumps(recorded)),
        ("teacher", "{}"), ("teacher", "7"), ("teacher", '{"network": {}}'),
    ):  # fmt: skip
        said = {"format": "jax_bridges", "player": player, "config": config}
        write_safetensors(other, whole, {k: v for k, v in said.items() if v is not None})
        with pytest.raises(ValueError, match="y.safetensors does not say whose weights it holds"):
            packed.read_packed(other)


def test_what_comes_with_the_package_is_small_and_has_a_card():
    models = packed.shipped()
    names = ("denoise", "fill", "inpaint", "jpeg", "superres")
    assert set(models) == {f"photos:{name}" for name in names}
    assert sum(path.stat().st_size for path in models.values()) < 16e6
    for name, path in models.items():
        player, config, params = packed.read_packed(path)
        assert config["task"] == name.replace(":", "_").replace("fill", "inpaint")
        assert sum(a.size for a in jax.tree.leaves(params)) < 2e6
        assert not config["data"]["path"] and full_network(config, player)
        card = path.with_suffix(".md").read_text()
        stage = config["train" if player == "teacher" else "distill"]
        steps, batch = stage["steps"], stage["batch"]
        assert f"{steps:,}" in card and f" of {batch} random" in " ".join(card.split())
        for part in ("What it is", "Training", "Data and licences", "Figures", "Limits"):
            assert f"**{part}.**" in card


@pytest.mark.slow
def test_the_shipped_restorer_continues_what_a_scratch_cuts_through():
    y, x = np.mgrid[:64, :64]
    edges = np.where((x + 2 * y) % 32 < 16, 70, 180)[..., None] + np.array([0, 10, 30])
    picture = np.clip(edges, 0, 255).astype(np.uint8)
    hole = np.abs(y - 0.3 * x - 20) < 3
    filled = Restorer("photos:inpaint", batch=1)(picture, hole).pixels
    float_picture = picture[None].astype(np.float32) / 127.5 - 1
    start = (np.asarray(smooth_fill(float_picture, hole[None, ..., None]))[0] + 1) * 127.5

    def decibels(a):
        return -10 * np.log10(np.mean(((a.astype(float) - picture)[hole] / 255) ** 2))

    assert decibels(filled) > decibels(start) + 2
    np.testing.assert_array_equal(filled[~hole], picture[~hole])


@pytest.mark.parametrize("task", ["jpeg", "denoise", "superres"])
def test_the_shipped_restorers_of_files_undo_what_a_small_picture_has_lost(task):
    with Image.open(ROOT / "docs" / "photos_inpaint.png") as image:
        picture = np.asarray(image.convert("RGB"))[180:244, 710:774]
    lost = {
        "jpeg": lambda: measure_files.as_jpeg(picture, 10, "4:2:0"),
        "denoise": lambda: measure_files.noisy(picture, 0, 25),
        "superres": lambda: measure_files.resized(picture, 1 / 4),
    }[task]()
    restored = Restorer(f"photos:{task}", batch=1)(lost).pixels
    assert restored.shape == picture.shape
    shown = measure_files.shown([lost], 4 if task == "superres" else 1)[0]

    def decibels(a):
        return -10 * np.log10(np.mean(((a.astype(float) - picture) / 255) ** 2))

    gain = {"jpeg": 0.3, "denoise": 5, "superres": 0.2}[task]
    assert decibels(restored) > decibels(shown) + gain
