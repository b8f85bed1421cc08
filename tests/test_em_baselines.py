"""Baselines of EM: what each is trained on and by, and all of them in one table."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest

from jax_bridges import main
from jax_bridges.acts.em_baselines import baseline
from jax_bridges.acts.em_rounds import split
from jax_bridges.bridges import DDPM
from jax_bridges.data import first, make_source
from jax_bridges.stages.run import NoLog, Run, StopSignal
from jax_bridges.training.parallel import Parallel
from jax_bridges.training.system import System
from jax_bridges.validation import check_given, validate
from jax_bridges.zero_shot import make_method
from tests.support.em import em_config, make_tiles
from tests.support.runs import lines, saved

pytestmark = pytest.mark.usefixtures("handlers")
NOISY = {"em.init": "pinv", "em.sigma_y": 0.4}


@pytest.fixture(scope="module")
def tiles(tmp_path_factory):
    """A folder of 40 training and 8 test images of 16x16 pixels."""
    return make_tiles(tmp_path_factory.mktemp("tiles"))


def noisy_config(tiles, **changes):
    config = em_config(tiles, **NOISY, **changes)
    config.em.operator = {"name": "identity"}
    return config


def all_of(config, folder):
    """The baselines of a run that is not begun."""
    parallel = Parallel.create("fsdp", devices=jax.devices()[:1])
    train, test = (make_source(config.data, name) for name in ("train", "test"))
    run = Run(config, folder, System.create(config), parallel, train, test, NoLog(), StopSignal())
    parts = split(run)
    return {name: baseline(run, parts, name) for name in config.em.baselines}, run


def test_baselines_see_what_they_may(tiles, tmp_path):
    """Only the upper bound's images are clean; A^+ y is the picture with black holes, as float."""
    found, run = all_of(
        em_config(tiles, **{"em.baselines": ("upper", "pinv", "ambient")}), tmp_path
    )
    batches = {}
    for name, one in found.items():
        assert one.stage.name == f"em_{name}" and one.stage.steps == 8  # the first prior, a round
        batches[name] = first(one.stage.data(one.run), 6)
    clean = first(run.train_data, 6, 8)["x0"] / np.float32(127.5) - 1
    np.testing.assert_allclose(batches["upper"]["x0"], clean, atol=1e-6)
    assert set(batches["ambient"]) == {"y", "mask", "number", "index"}
    y, kept = batches["ambient"]["y"], 1 - batches["ambient"]["mask"]
    np.testing.assert_allclose(batches["pinv"]["x0"], np.clip(y, -1, 1), atol=1e-6)
    assert np.abs(y * (1 - kept)).max() == 0 and kept.mean() == 0.5
    # Ambient's network alone has another input, and a solver of its own.
    config = found["ambient"].run.config
    assert config.network.conditional and config.preconditioning.name == "scaled_input"
    assert not run.config.network.conditional
    usual = make_method("mmps", run.system.bridge, {"nfe": 3}, 3)
    assert found["pinv"].solver(usual).solver is usual.solver
    adps = found["ambient"].solver(usual)
    # The last of three levels has less noise than y, and was not trained.
    assert adps.solver.name == "adps" and (usual.nfe, adps.nfe) == (5, 3)


def test_baselines_have_steps_and_levels_of_their_own(tiles, tmp_path):
    config = noisy_config(
        tiles, **{"em.baselines": ("pinv", "sure", "tweedie"), "em.baseline_steps": 7}
    )
    found, run = all_of(config, tmp_path)
    assert {one.stage.steps for one in found.values()} == {7}
    assert run.config.train.steps == 4 and found["pinv"].method is None
    levels = DDPM.create().narrow_levels(20)
    ratio = found["tweedie"].levels(levels).sigma / found["tweedie"].levels(levels).alpha
    assert ratio[-1] == 0 and ratio[-2] >= 0.4 > (levels.sigma / levels.alpha)[-2]
    for name in ("pinv", "sure"):
        assert len(found[name].levels(levels).t) == 21


def test_a_baseline_that_cannot_learn_is_refused(tiles):
    validate(em_config(tiles, **{"em.baselines": ("upper", "pinv", "ambient")}))
    validate(noisy_config(tiles, **{"em.baselines": ("sure", "tweedie")}))
    with pytest.raises(ValueError, match="em.baselines has 'sure', which learns from whole images"):
        validate(em_config(tiles, **{"em.baselines": ("sure",)}))
    with pytest.raises(
        ValueError, match="em.baselines has 'ambient'.* Identity does not make such"
    ):
        validate(noisy_config(tiles, **{"em.baselines": ("ambient",)}))
    with pytest.raises(ValueError, match="em.baselines is .'clean',.: it must be a tuple"):
        validate(em_config(tiles, **{"em.baselines": ("clean",)}))
    config = em_config(tiles)
    check_given(em_config(tiles, **{"em.baselines": ("ambient",)}), ["em.ambient.delta"])
    with pytest.raises(
        ValueError, match="em.ambient.delta was given, but em.baselines has no 'amb"
    ):
        check_given(config, ["em.ambient.delta"])


@pytest.mark.slow
@pytest.mark.parametrize("names", [("upper", "pinv", "ambient"), ("upper", "sure", "tweedie")])
def test_all_of_them_stand_in_one_table(tiles, tmp_path, names, capsys):
    """Trained through the same door, restored and sampled; a second start trains nothing."""
    make = em_config if "ambient" in names else noisy_config
    changes = {"em.rounds": 1, "em.baseline_steps": 4, "train.weight": "native"}
    config = make(tiles, **{"em.baselines": names[:1], **changes})
    main.run(config, tmp_path)
    config.em.baselines = names  # others may join later
    main.run(config, tmp_path)
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    restored = {row["model"]: row for row in rows if row["task"] == "restoration"}
    assert set(names) < set(restored) and set(names) < {
        row["model"] for row in rows if row["task"] == "samples"
    }
    for name in names:
        assert np.isfinite(restored[name]["psnr"])
        own = saved(tmp_path, f"em_{name}")["ema"]["teacher"]
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(own))
        assert [line["step"] for line in lines(tmp_path) if line["stage"] == f"em_{name}"] == [
            1, 2, 3, 4,
        ]  # fmt: skip
    assert restored["upper"]["sampler"] == "mmps"
    if "ambient" in names:
        assert restored["ambient"]["sampler"] == "adps"
    capsys.readouterr()
    main.run(config, tmp_path)
    said = capsys.readouterr().out
    assert all(f"em_{name}: already done (4 steps)" in said for name in names)
