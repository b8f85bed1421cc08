"""What a method of distillation is: one file, of which nothing else need know."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import jax_bridges.main
from jax_bridges.checkpoints import Checkpoints
from jax_bridges.training.methods import METHODS, find_method
from jax_bridges.training.methods.ibmd_answers import told_calls
from jax_bridges.training.system import System
from tests.support.adversarial import ADVERSARIAL, PLAYERS
from tests.support.runs import lines, saved, tiny

pytestmark = pytest.mark.usefixtures("handlers")


def test_only_the_networks_that_a_method_asks_for_are_built(tmp_path):
    config = tiny(tmp_path, **{"distill.student_steps": 4})
    for method, players in (("ibmd", {"teacher", "generator", "bridge_net"}), ("cbd", None)):
        config.distill.method = method
        system = System.create(config)
        assert set(system.networks) == (players or {"teacher", "generator"})
        assert system.teacher.z_channels == system.teacher.mark_channels == 0
        assert system.student.z_channels == 3
    config.distill.method = "ibmd"
    assert System.create(config).networks["bridge_net"].mark_channels == 3
    config.distill.roll_out = "chain"  # x_0 is always the last call's
    assert told_calls(config.distill) == 1
    assert System.create(config).networks["bridge_net"].mark_channels == 0


@pytest.mark.parametrize("name", ["unet", "adm"])
def test_a_mark_is_an_input_of_its_own(name, tmp_path):
    """It starts at zero, then tells the calls apart; the noise input and the teacher know nothing of it."""
    config = tiny(tmp_path, **{"distill.student_steps": 3})
    if name == "adm":
        config.network = {
            "name": "adm", "model_channels": 32, "num_res_blocks": 1, "channel_mult": (1, 1),
            "attention_ds": (), "head_channels": 32, "conditional": True,
        }  # fmt: skip
    system = System.create(config)
    net, params = system.networks["bridge_net"], system.init(jax.random.key(0), "bridge_net")
    marked = [k for k in params if "mark" in k]
    assert marked == ["mark_in"] and "z_in" not in params
    assert not np.any(params["mark_in"]["kernel"])
    assert "mark_in" not in system.init(jax.random.key(0), "generator")
    # Awake all over: the last layers of fresh networks are zero.
    params = jax.tree.map(
        lambda p: 0.3 * jax.random.normal(jax.random.key(p.size), p.shape), params
    )
    x = jax.random.normal(jax.random.key(1), (3, 16, 16, 3))
    t, label = np.full(3, 0.5), np.zeros(3, np.int32)

    def answer(mark):
        return net.apply({"params": params}, x, t, x, None, label, mark=mark)

    calls = jax.nn.one_hot(np.array([0, 1, 2]) - 1, 2)  # the first has no number of its own
    told, first = answer(calls), answer(np.zeros((3, 2)))
    assert (
        np.array_equal(told[0], first[0]) and np.abs(told - first).max((1, 2, 3))[1:].min() > 1e-3
    )


def test_a_method_with_a_third_player_touches_nothing_outside_its_file(
    images, tmp_path, monkeypatch, capsys
):
    """A line of METHODS: configuration, plan, training, resuming, evaluation and report follow."""
    monkeypatch.setitem(METHODS, "adversarial", ADVERSARIAL)
    workdir = tmp_path / "run"
    config = tiny(images, **{"distill.method": "adversarial", "evaluate.student_nfe": (1,)})
    config.distill.adversarial.steps = 2
    jax_bridges.main.run(config, workdir)
    assert "distill    2 steps of 12 images" in capsys.readouterr().out
    begun = saved(workdir, "distill")["params"]
    assert set(begun) == set(PLAYERS) and "mark_in" not in begun["bridge_net"]
    logged = [line for line in lines(workdir) if line["stage"] == "distill"]
    assert all(np.isfinite(line[f"{player}_loss"]) for line in logged for player in PLAYERS)
    teacher = saved(workdir, "train")["ema"]["teacher"]
    for player in PLAYERS:  # all of them have moved, each its own way
        change = jax.tree.map(
            lambda a, b: np.abs(a - b).max(), teacher, {k: begun[player][k] for k in teacher}
        )
        assert max(jax.tree.leaves(change)) > 1e-5, player
    with Checkpoints(workdir / "checkpoints" / "distill", read_only=True) as checkpoints:
        assert checkpoints.latest() == 2
    rows = (workdir / "results.json").read_text()
    assert '"few_step"' in rows and (workdir / "report.html").exists()
    jax_bridges.main.run(config, workdir)  # a finished one needs the student's average alone
    assert "distill: already done (2 steps)" in capsys.readouterr().out
    found, settings = find_method(config.distill)
    assert found is ADVERSARIAL and settings.gan_weight == 0.1
