"""Runs of EM at toy size: from observations to a prior, stopped anywhere and gone on, and no way to x_0."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from jax_bridges import main
from jax_bridges.acts.em import of_papers
from jax_bridges.corruptions import make_corruption
from jax_bridges.data import Observations, make_source
from jax_bridges.data.source import permutation
from jax_bridges.keys import Purpose
from jax_bridges.stages.run import Stopped, StopSignal
from jax_bridges.validation import validate
from tests.support import ROOT
from tests.support.em import em_config, make_tiles
from tests.support.processes import ended, environment, free_port, started
from tests.support.runs import lines, saved, start, write_config

pytestmark = pytest.mark.usefixtures("handlers")


@pytest.fixture(scope="module")
def tiles(tmp_path_factory):
    """A folder of 40 training and 8 test images of 16x16 pixels."""
    return make_tiles(tmp_path_factory.mktemp("tiles"))


@pytest.fixture(scope="module")
def whole(tiles, tmp_path_factory):
    """A run that nothing stopped."""
    workdir = tmp_path_factory.mktemp("em") / "whole"
    main.run(em_config(tiles), workdir)
    return workdir


def test_a_run_leaves_an_ordinary_prior(whole):
    rounds = json.loads((whole / "em" / "rounds.json").read_text())
    assert [row["round"] for row in rounds] == [0, 1, 2]
    assert all(row["validation_psnr"] > 0 for row in rounds)
    best = max(rounds, key=lambda row: row["validation_psnr"])["round"]
    jax.tree.map(np.testing.assert_array_equal, saved(whole, "train"), saved(whole, f"em_{best}"))
    results = json.loads((whole / "results.json").read_text())
    names = [(row["task"], row["model"], row["sampler"], row["nfe"]) for row in results["rows"]]
    models = ["4 clean images", "round 1", "round 2", "upper"]
    expected = [("restoration", "source", "pinv", 0)]
    expected += [("restoration", model, "mmps", 5) for model in models]
    assert names == expected + [("samples", model, "heun", 49) for model in models]
    # The last round is of all observations: the training images but for those of em.clean and validation.
    with np.load(whole / "em" / "round-1.npz") as one, np.load(whole / "em" / "round-2.npz") as two:
        assert len(one["x"]) == 8 and two["number"].tolist() == list(range(8, 40))
        assert set(one["number"]) < set(two["number"])
    assert "validation_psnr" in {k for line in lines(whole) if line["stage"] == "em" for k in line}


def test_the_papers_rows_stand_with_the_task_that_they_measure(tiles):
    """FID of samples beside samples, PSNR beside restorations; FD-Lite0 has none to stand beside."""
    changes = {"evaluate.published": "em-inpaint-random-60", "evaluate.protocol": "own"}
    config = em_config(tiles, **changes, **{"evaluate.metrics": ("psnr", "fid")})
    rows = {(row.task, row.model): row for row in of_papers(SimpleNamespace(config=config), 250)}
    assert rows["restoration", "EMDiffusion"].metrics == {"psnr": 24.70}
    assert rows["samples", "AmbientDiffusion"].metrics == {"fid": 28.88}
    assert not any(row.same_protocol or row.same_data for row in rows.values())
    assert "stretched" in rows["samples", "EMDiffusion"].reference
    config.evaluate.metrics = ("fd_lite0",)
    assert of_papers(SimpleNamespace(config=config), 250) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "first"),
    [
        ({"em.init": "gaussian", "em.sigma_y": 0.0, "em.learn_from": "measured"}, "round 1"),
        (
            {
                "em.init": "pinv", "em.method": "dps", "em.operator": {"name": "identity"}, "em.tune": 4,
                "em.settings": {"dps": {"nfe": 3}}, "em.scale_grid": (0.1, 1.0),
            },
            "A^+ y",
        ),
    ],
)  # fmt: skip
def test_other_beginnings(tiles, tmp_path, changes, first):
    """A Gaussian and masks, no clean image; A^+ y of noisy images, by dps, whose scale is chosen each round."""
    config = em_config(tiles, **{"em.rounds": 1, "em.baselines": (), "evaluate.images": 4})
    for key, value in changes.items():
        part, _, name = key.rpartition(".")
        with config.unlocked(), config.ignore_type():
            config[part][name] = ConfigDict(value) if isinstance(value, dict) else value
    main.run(config, tmp_path / "run")
    rounds = json.loads((tmp_path / "run" / "em" / "rounds.json").read_text())
    assert [row["round"] for row in rounds] == ([1] if first == "round 1" else [0, 1])
    assert np.isfinite(rounds[-1]["validation_psnr"]) and rounds[-1]["misfit"] > 0
    assert rounds[-1].get("scale") in ((0.1, 1.0) if "em.method" in changes else (None,))
    rows = json.loads((tmp_path / "run" / "results.json").read_text())["rows"]
    assert [row["model"] for row in rows if row["task"] == "restoration"][1] == first


@pytest.mark.slow
def test_a_network_that_is_told_what_is_seen(tiles, tmp_path):
    """Round 1 by the first prior, round 2 by the network of round 1, and a prior of the best one's samples."""
    config = em_config(tiles, **{"em.method": "bridge", "em.baselines": (), "evaluate.images": 4})
    config.em.settings.bridge = {"nfe": 3}
    run = tmp_path / "run"
    main.run(config, run)
    rounds = json.loads((run / "em" / "rounds.json").read_text())
    assert [row["round"] for row in rounds] == [0, 1, 2]
    with np.load(run / "em" / "last.npz") as last:
        assert last["number"].tolist() == list(range(8, 40))
    jax.tree.map(np.testing.assert_array_equal, saved(run, "train"), saved(run, "em_prior"))
    prior, told = (jax.tree.leaves(saved(run, s)["ema"]) for s in ("em_prior", "em_2"))
    assert sum(a.size for a in prior) < sum(a.size for a in told)  # which sees three channels more
    rows = json.loads((run / "results.json").read_text())["rows"]
    found = [
        (row["model"], row["sampler"], row["nfe"]) for row in rows if row["task"] == "restoration"
    ]
    assert found[1:] == [
        ("4 clean images", "mmps", 5), ("round 1", "bridge", 5), ("round 2", "bridge", 5),
        ("prior", "mmps", 5),
    ]  # fmt: skip


# -- stopped, killed, on other devices -----------------------------------------------------------------
def assert_same_rounds(workdir, whole):
    """Every number of every M-step, and every sample of every E-step, bit for bit."""
    for stage in ("em_0", "em_1", "em_2", "em_upper", "train"):
        jax.tree.map(np.testing.assert_array_equal, saved(workdir, stage), saved(whole, stage))
    for name in ("round-1", "round-2"):
        with np.load(workdir / f"em/{name}.npz") as a, np.load(whole / f"em/{name}.npz") as b:
            for key in ("x", "square", "count", "number"):
                np.testing.assert_array_equal(a[key], b[key])
    rounds = [json.loads((w / "em" / "rounds.json").read_text()) for w in (workdir, whole)]
    for one, two in zip(*rounds, strict=True):
        for row in (one, two):
            row.pop("seconds_e_step", None)
        assert one == two


@pytest.mark.slow
def test_stopped_again_and_again(tiles, whole, tmp_path, monkeypatch):
    """At every sixth question whether to stop: in an E-step, in M-steps, in a validation."""
    asked, said = [0], []

    def is_set(self):
        asked[0] += 1
        return asked[0] % 6 == 0

    monkeypatch.setattr(StopSignal, "is_set", is_set)
    for _ in range(20):
        try:
            main.run(em_config(tiles), tmp_path / "run")
            break
        except Stopped as stopped:
            said.append(str(stopped))
    assert_same_rounds(tmp_path / "run", whole)
    assert any("E-step of round-" in text for text in said), said
    assert any("saved at step" in text for text in said), said


@pytest.mark.slow
def test_killed_in_an_e_step_and_in_an_m_step(tiles, whole, tmp_path):
    workdir = tmp_path / "run"

    def until(there):
        process = start(em_config(tiles), workdir, tmp_path)
        while process.poll() is None and not there():
            time.sleep(0.005)
        assert process.poll() is None, process.stdout.read()
        process.kill()
        process.wait()

    until(lambda: any(workdir.glob("em/round-2/*.npz")))
    until(lambda: any(line["stage"] == "em_2" for line in lines(workdir)))
    main.run(em_config(tiles), workdir)
    assert_same_rounds(workdir, whole)


@pytest.mark.slow
def test_eight_devices(tiles, tmp_path):
    """The same rounds up to the order of sums: samples to float16's last bits, validation to 0.01 dB."""
    found = []
    for devices in (1, 8):
        config = em_config(tiles, **{"train.batch": 8, "distill.batch": 8})
        path, workdir = write_config(config, tmp_path), tmp_path / str(devices)
        command = [sys.executable, "-m", "jax_bridges.main", f"--config={path}"]
        subprocess.run(
            [*command, f"--workdir={workdir}"], cwd=ROOT, env=environment(devices), check=True
        )
        rounds = json.loads((workdir / "em" / "rounds.json").read_text())
        with np.load(workdir / "em" / "round-1.npz") as made:
            found.append((made["x"].astype(float), [row["validation_psnr"] for row in rounds]))
    (one, scores), (eight, others) = found
    np.testing.assert_allclose(one, eight, atol=4e-3)
    np.testing.assert_allclose(scores, others, atol=0.01)


@pytest.mark.slow
def test_two_processes(tiles, tmp_path):
    """Each samples its share of every batch; the same rounds as of one, up to the order of sums."""
    changes = {"em.baselines": (), "train.batch": 8, "distill.batch": 8}
    path, port = write_config(em_config(tiles, **changes), tmp_path), free_port()
    shared = ["-m", "jax_bridges.main", f"--config={path}", f"--workdir={tmp_path / 'two'}"]
    shared += [f"--coordinator=localhost:{port}", "--processes=2"]
    with started(*([*shared, f"--process={k}"] for k in range(2)), devices=1) as processes:
        for code, _, errors in ended(processes):
            assert code == 0, errors
    main.run(em_config(tiles, **changes), tmp_path / "one")
    found = []
    for name in ("one", "two"):
        rounds = json.loads((tmp_path / name / "em" / "rounds.json").read_text())
        with np.load(tmp_path / name / "em" / "round-1.npz") as made:
            found.append((made["x"].astype(float), [row["validation_psnr"] for row in rounds]))
    (one, scores), (two, others) = found
    np.testing.assert_allclose(one, two, atol=4e-3)
    np.testing.assert_allclose(scores, others, atol=0.01)


@pytest.mark.slow
def test_training_cannot_reach_what_is_hidden(tiles, tmp_path):
    """x_0 + (1 - A^+ A) junk of all but the clean images: the same parameters, bit for bit."""
    config = em_config(tiles, **{"em.baselines": ()})
    source = make_source(config.data, "train")
    x0 = np.stack([source[i]["x0"] for i in range(len(source))])
    corruption = make_corruption(**config.em.operator)
    key = jax.random.fold_in(jax.random.key(config.seed), Purpose.OBSERVE)
    observed = Observations(source, corruption, config.em.sigma_y, key)
    masks = np.stack([observed[i]["mask"] for i in range(len(source))])
    masks[: config.em.clean] = 0
    junk = np.random.default_rng(3).integers(0, 256, x0.shape, np.uint8)
    order = np.argsort(permutation(len(x0), 0))  # so that the source gives them in this order again
    for name, images in (("plain", x0), ("junk", np.where(masks > 0, junk, x0))):
        folder = tmp_path / f"{name}_data"
        folder.mkdir()
        np.savez(folder / "train.npz", image=images[order])
        np.savez(folder / "test.npz", image=x0[:8])
        config = em_config(tiles, **{"em.baselines": ()})
        config.data.name, config.data.path = "arrays", str(folder)
        main.run(config, tmp_path / name)
    one, two = (saved(tmp_path / name, "em_2") for name in ("plain", "junk"))
    jax.tree.map(np.testing.assert_array_equal, one, two)
    assert (masks > 0).mean() > 0.4


# -- refused -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"em.operator": {"name": "inpaint_center"}}, "hides the same pixels of every image"),
        ({"em.operator": {"name": "jpeg"}}, "'jpeg' is no linear operator"),
        ({"em.operator": {"name": "mixture"}}, "'mixture' is no linear operator"),
        ({"em.operator": {"name": "denoise"}}, "take 'identity'.*em.sigma_y"),
        ({"evaluate.published": "sr4x"}, "take one of em-deblur, em-denoise, em-inpaint-random-60"),
        ({"em.operator": {"share": 0.5}}, "em.operator has no name"),
        ({"em.operator": {"name": "inpaint_random", "share": 2}}, "share must be between 0 and 1"),
        ({"em.sigma_y": 20.0}, r"20 of 255 is 0.157"),
        ({"em.reset_rounds": 5}, "em.reset_rounds is 5, but em.rounds is 2"),
        (
            {"em.operator": {"name": "identity"}, "em.learn_from": "measured"},
            "em.operator 'identity' does not measure pixels of the image, a part of them",
        ),
        ({"em.method": "ddnm"}, "em.method is 'ddnm': it must be one of mmps, dps, bridge"),
        (
            {"em.settings": {"bridge": {"nfe": 1}}},
            "bridge.nfe is 1: it must be a whole number of at least 2",
        ),
        ({"em.settings": {"dps": {"scale": 1.0}}}, "chosen anew each round"),
        ({"em.settings": {"ddnm": {}}}, "em.settings has 'ddnm'"),
        ({"em.settings": {"mmps": {"nfes": 3}}}, "no setting 'nfes'"),
        ({"bridge": {"name": "i2sb"}}, "em.operator needs a diffusion prior"),
        ({"network.conditional": True}, "sees no x_T"),
        ({"train.mode": "dsbm"}, "an M-step needs 'bridge'"),
        ({"teacher.checkpoint": "runs/x"}, "EM trains the teacher"),
    ],
)
def test_refused(tiles, changes, sentence):
    config = em_config(tiles)
    for key, value in changes.items():
        part, _, name = key.rpartition(".")
        with config.unlocked(), config.ignore_type():
            (config[part] if part else config)[name] = value
    with pytest.raises(ValueError, match=sentence):
        validate(config)


def test_too_few_images(tiles, tmp_path):
    with pytest.raises(ValueError, match="has 40 images, and em.clean and em.validation take 44"):
        main.run(em_config(tiles, **{"em.validation": 40}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
