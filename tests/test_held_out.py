"""Held-out images while a stage trains: numbers, pictures, the best weights, and what they leave alone."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

import jax_bridges.main
from jax_bridges.config import base_config
from jax_bridges.data import make_source
from jax_bridges.keys import ONLY, Purpose, Stream, fold, normal, uniform
from jax_bridges.metrics import psnr, to_uint8
from jax_bridges.players import read_player
from jax_bridges.report.results import read_results
from jax_bridges.samplers import SAMPLERS
from jax_bridges.stages.evaluate import row_settings
from jax_bridges.times import training_times
from jax_bridges.training.system import System
from jax_bridges.validation import validate
from tests.support.runs import lines, saved, steps, tiny

pytestmark = pytest.mark.usefixtures("handlers")

NUMBERS = ("validation_psnr", "validation_seconds")


def earth(**changes):
    """A tiny run whose data have a split for validation."""
    config = tiny("", **changes)
    config.data.update(dict(name="earth", path=""))
    config.evaluate.update(dict(images=8, every_images=10))  # a last batch that is not full
    return config


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    """A run that looks at nothing while it trains; read only."""
    workdir = tmp_path_factory.mktemp("runs") / "plain"
    jax_bridges.main.run(earth(), workdir)
    return workdir


@pytest.fixture(scope="module")
def watched(tmp_path_factory) -> Path:
    """The same, which looks every 4 steps, and keeps the best; stopped in between by a callback."""
    workdir = tmp_path_factory.mktemp("runs") / "watched"
    config = earth(**{"evaluate.every": 4, "evaluate.best": "psnr"})

    error = InterruptedError(
        "mine"
    )  # an OSError, which of the run's own would be said in a sentence

    def stop(stage, step, metrics):
        if (stage, step) == ("train", 5):
            raise error

    with pytest.raises(InterruptedError) as caught:
        jax_bridges.main.run(config, workdir, [stop])
    assert caught.value is error and error.__cause__ is None
    assert caught.traceback[-1].name == "stop"
    kept = {p.name for p in (workdir / "checkpoints" / "train").iterdir()}
    assert kept == {"2", "4"} and steps(workdir, "train") == [1, 2, 3, 4, 5]
    jax_bridges.main.run(config, workdir)
    return workdir


def test_the_training_is_the_same_bit_for_bit(plain, watched):
    """Also of a run that goes on between two looks: it was stopped at 5 and goes on from 4."""
    for stage in ("train", "distill"):
        jax.tree.map(np.testing.assert_array_equal, saved(plain, stage), saved(watched, stage))
    assert steps(watched, "train") == [1, 2, 3, 4, 5, 5, 6]


def test_lines_have_the_numbers_of_held_out_images(plain, watched):
    """Where they are due and at the end; the loss is of the teacher alone."""
    looked = {(x["stage"], x["step"]): x for x in lines(watched) if "validation_psnr" in x}
    assert list(looked) == [("train", 4), ("train", 6), ("distill", 4)]
    for (stage, _), line in looked.items():
        assert all(np.isfinite(line[key]) for key in NUMBERS) and line["validation_seconds"] > 0
        assert ("validation_loss" in line) == (stage == "train")
    assert not any("validation_psnr" in line for line in lines(plain))
    for stage, step in looked:
        assert (watched / f"samples/validation-{stage}-{step}.png").is_file()
    page = (watched / "report.html").read_text()
    assert page.count("<h4>Held-out images</h4>") == 1  # of the student there is one point
    assert "validation loss" in page and "samples/validation-train-6.png" in page
    found = [each for path in (watched / "tensorboard").glob("events*") for each in events(path)]
    losses = {s: v.simple_value for s, v in found if v.tag == "train/validation_loss"}
    expected = {
        s: line["validation_loss"] for (stage, s), line in looked.items() if stage == "train"
    }
    assert losses == pytest.approx(expected)
    pictures = {s: v.image for s, v in found if v.tag == "train/validation"}
    assert pictures.keys() == {4, 6}
    assert all(p.encoded_image_string.startswith(b"\x89PNG") for p in pictures.values())


def events(path: Path) -> list:
    """(step, value) of a TensorBoard file: length, its checksum, the event, its checksum."""
    data, found = path.read_bytes(), []
    while data:
        size = int.from_bytes(data[:8], "little")
        event = Event.FromString(data[12 : 12 + size])
        found += [(event.step, value) for value in event.summary.value]
        data = data[16 + size :]
    return found


def test_they_are_those_of_the_average_on_the_validation_split(watched):
    """The last teacher, by hand: its sampler's answer in one call, and its loss at the draws of the purpose."""
    config = earth()
    system, source = System.create(config), make_source(config.data, "validation")
    images = np.stack([source[i]["x0"] for i in range(10)])
    batch = {"x0": images, "index": np.arange(10, dtype=np.uint32)}
    key = jax.random.fold_in(jax.random.key(config.seed), Purpose.WATCH)
    pair = system.prepare(batch, key, augment=False)
    denoise = system.denoiser(saved(watched, "train")["ema"]["teacher"], pair)
    last = [line for line in lines(watched) if line["stage"] == "train"][-1]

    keys = fold(pair.keys, Stream.SAMPLE)
    answer = SAMPLERS["ancestral"](denoise, system.bridge, pair.xT, 1, keys)
    value = float(np.mean(psnr(to_uint8(answer), images)))
    assert last["validation_psnr"] == pytest.approx(value, abs=1e-3)

    u = uniform(fold(pair.keys, Stream.TIME), ONLY)
    t = training_times("uniform", system.bridge, u)
    noise = normal(fold(pair.keys, Stream.NOISE), ONLY, pair.x0)
    error = denoise(system.bridge.sample(pair.x0, pair.xT, t, noise), t, pair.xT) - pair.x0
    loss = jnp.mean(jnp.square(error).mean((1, 2, 3)) / system.bridge.sigma(t))
    assert last["validation_loss"] == pytest.approx(float(loss), rel=1e-4)


def test_the_best_weights_are_kept_and_evaluated(plain, watched):
    told = {}
    for stage in ("train", "distill"):
        looked = [x for x in lines(watched) if x["stage"] == stage and "validation_psnr" in x]
        best = max(looked, key=lambda line: line["validation_psnr"])
        folder = watched / "checkpoints" / f"{stage}_best"
        assert [p.name for p in folder.iterdir()] == [str(best["step"])]
        meta = json.loads(next(folder.glob("*/meta/metadata")).read_text())["best"]
        assert meta["metric"] == "psnr" and meta["images"] == 10 and meta["step"] == best["step"]
        assert meta["value"] == pytest.approx(best["validation_psnr"], rel=1e-5)
        told[stage] = (
            f"{stage}: step {best['step']} of {6 if stage == 'train' else 4}, the best by psnr"
        )
    for name, stage, player in (
        ("teacher", "train", "teacher"), ("student", "distill", "generator"),
    ):  # fmt: skip
        config, params = read_player(watched, f"{name}_best")
        last = saved(watched, stage)["ema"][player]
        same = jax.tree.map(np.array_equal, params, last)
        step = int(told[stage].split("step ")[1].split(" ")[0])
        assert all(jax.tree.leaves(same)) == (step == config[stage]["steps"])
        rows = [read_results(w / "results.json")["rows"] for w in (plain, watched)]
        of_player = [[r.metrics for r in each if r.model == name] for each in rows]
        assert (of_player[0] == of_player[1]) == (step == config[stage]["steps"])
    weights = read_results(watched / "results.json")["measured"]["weights_of"]
    assert all(words in weights for words in told.values()) and "10 validation images" in weights
    assert "weights_of" not in read_results(plain / "results.json")["measured"]


def test_recorded_rows_do_not_depend_on_looks():
    """What results.json of older runs says of its settings is what is said today."""
    config = base_config()
    before = row_settings(config)
    assert not {"every", "every_images", "best"} & set(before)
    config.evaluate.every = 10
    assert row_settings(config) == before
    config.evaluate.best = "psnr"
    assert row_settings(config)["best"] == "psnr"


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"evaluate.every": 0}, "evaluate.best is 'psnr', but evaluate.every is 0"),
        ({"data.name": "folder"}, "'folder' has no split validation, and what is chosen by test images"),
        ({"evaluate.best": "lpips"}, "evaluate.best is 'lpips', but it is not measured"),
        ({"evaluate.best": "loss", "teacher.checkpoint": "x"}, "only a teacher that is trained here"),
        ({"evaluate.best": "los"}, "Did you mean 'loss'"),
        ({"evaluate.every_images": 1}, "a whole number of at least 2"),
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_chosen_is_refused(changes, words):
    config = earth(**{"evaluate.every": 4, "evaluate.best": "psnr"})
    config.update_from_flattened_dict(changes)
    with pytest.raises(ValueError, match=words):
        validate(config)
