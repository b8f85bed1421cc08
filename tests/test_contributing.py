"""The examples of CONTRIBUTING.md, as a reader would use them: registered, held to numbers, in one run."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_bridges.main
from jax_bridges import settings
from jax_bridges.acts import ACTS
from jax_bridges.bridges import BRIDGES, make_bridge
from jax_bridges.config import base_config, take_names
from jax_bridges.corruptions import CORRUPTIONS, make_corruption
from jax_bridges.data import DATASETS, make_source
from jax_bridges.keys import Stream, fold
from jax_bridges.metrics import METRICS
from jax_bridges.samplers import SAMPLERS, count_calls, make_sampler
from jax_bridges.training.methods import METHODS, find_method
from tests.support import pages, toy, typed
from tests.support.runs import lines, tiny

PAGE = "CONTRIBUTING.md"
TABLES = (BRIDGES, SAMPLERS, CORRUPTIONS, METHODS, DATASETS, METRICS, ACTS)
pytestmark = pytest.mark.usefixtures("handlers")


@pytest.fixture(scope="module")
def added():
    """Section -> the module that its blocks make; all are registered, and forgotten at the end."""
    before = [dict(table) for table in TABLES]
    found = pages.blocks(PAGE, "python")
    sections = dict.fromkeys(block.section for block in found)
    rows = settings.rows
    with pytest.MonkeyPatch.context() as patch:
        for section in sections:
            parts = [block for block in found if block.section == section]
            sections[section] = pages.run_python(PAGE, parts, re.sub(r"\W", "_", section))
        patch.setattr(settings, "rows", lambda: (*rows(), sections["An act"].ROW))
        yield sections
    for table, old in zip(TABLES, before):
        table.clear()
        table.update(old)


@pytest.fixture
def config(added):
    """A tiny run of all of it at once, as flags would ask for it."""
    config = tiny(
        "",
        **{
            "data.name": "stripes", "data.path": "", "evaluate.metrics": ("psnr", "mae"),
            "evaluate.sampler": "renoise:noise=0.5", "evaluate.student_nfe": (1,),
            "distill.method": "shortcut", "bridge.name": "cubic:scale=0.5",
            "corruption.name": "posterize:levels=3",
        },
    )  # fmt: skip
    take_names(config, ["bridge.name", "corruption.name"])
    return config


def test_there_is_one_of_each_kind(added):
    assert list(added) == [
        "A bridge", "A sampler", "A corruption", "A method", "A data set", "A metric", "An act",
    ]  # fmt: skip


def test_a_bridge(added):
    bridge = make_bridge("cubic", scale=2.0)
    a, b, c = bridge.coefficients(jnp.array([0.0, 0.5, 1.0]))
    np.testing.assert_allclose(a, [0, 1 / 8, 1], rtol=1e-6)
    np.testing.assert_allclose(b, [1, 7 / 8, 0], rtol=1e-6)
    np.testing.assert_allclose(c, [0, 2 * 7**0.5 / 8, 0], rtol=1e-6)
    post, at = bridge.posterior(0.8, 0.3), bridge.coefficients(jnp.array([0.8, 0.3]))
    np.testing.assert_allclose(post.x0 + post.xt * at.b[0], at.b[1], rtol=1e-5)
    np.testing.assert_allclose(post.xt * at.a[0], at.a[1], rtol=1e-5)
    np.testing.assert_allclose(post.std**2 + (post.xt * at.c[0]) ** 2, at.c[1] ** 2, rtol=1e-5)
    with pytest.raises(ValueError, match="scales"):
        make_bridge("cubic", scales=2.0)


def test_a_sampler(added):
    bridge, xT = make_bridge("cubic"), jnp.full((2, 4, 4, 3), -0.5)
    keys = jax.random.split(jax.random.key(0), 2)
    answer = count_calls(lambda xt, t, xT: jnp.full_like(xt, 0.25))
    x0 = SAMPLERS["renoise"](answer, bridge, xT, 5, keys)
    a, b, _ = bridge.coefficients(jnp.array(bridge.t_min))
    np.testing.assert_allclose(x0, -0.5 * a + 0.25 * b, rtol=1e-5)
    assert answer.calls() == 5

    def path(noise):  # linear in the noise where the denoiser is
        sampler = make_sampler(f"renoise:noise={noise}")
        return sampler(lambda xt, t, xT: xt, bridge, xT, 3, keys)

    none, half, whole = (path(noise) for noise in (0.0, 0.5, 1.0))
    assert float(jnp.abs(whole - none).max()) > 0.1
    np.testing.assert_allclose(half - none, (whole - none) / 2, atol=1e-6)


def test_a_corruption(added):
    keys = jax.random.split(jax.random.key(0), 1)
    x0 = jnp.array([-1.0, -0.6, -0.4, 0.1, 0.6, 1.0]).reshape(1, 2, 1, 3)
    xT, mask = make_corruption("posterize", levels=3)(x0, keys)
    assert mask is None and xT.ravel().tolist() == [-1, -1, 0, 0, 1, 1]
    with pytest.raises(ValueError, match="levels is 1: give at least 2"):
        make_corruption("posterize", levels=1)


def test_a_data_set(added):
    train, test = (
        make_source(SimpleNamespace(name="stripes", size=8), s) for s in ("train", "test")
    )
    assert (len(train), len(test)) == (96, 32)
    image = train[3]["x0"]
    assert image.shape == (8, 8, 3) and image.dtype == np.uint8 and image.std() > 10
    assert np.array_equal(image, train[3]["x0"]) and not np.array_equal(image, test[3]["x0"])


def test_a_metric(added):
    images, targets = np.zeros((2, 4, 4, 3), np.uint8), np.full((2, 4, 4, 3), 200, np.uint8)
    targets[1] = 7
    part = SimpleNamespace(images=images, targets=targets)
    assert METRICS["mae"].each(part).tolist() == [200, 7]


@pytest.mark.slow
def test_a_method_learns_what_its_teacher_answers(added):
    """The student starts as the teacher at one call, and comes nearer to the teacher at ten."""
    config = toy.small_config(**{"distill.method": "shortcut", "distill.batch": 8})
    config.distill.shortcut.optimizer.update(dict(learning_rate=1e-2, warmup=0))
    system = toy.small_system(config)
    method, read = find_method(config.distill)
    make_state, step = method.make(system, read)
    teacher = toy.random_params(system.teacher)
    state, step = make_state(jax.random.key(0), teacher), toy.compiled(step)
    batch, key, losses = toy.image_batch(8), jax.random.key(1), []

    pair = system.prepare(batch, key, augment=True)
    keys, predict = fold(pair.keys, Stream.STUDENT), system.denoiser(teacher, pair)
    one = predict(pair.xT, jnp.ones(8), pair.xT)
    ten = SAMPLERS["dbim"](predict, system.bridge, pair.xT, 10, keys)
    for _ in range(40):
        state, metrics = step(state, teacher, batch, key, toy.same)
        losses.append(float(metrics["loss"]))
    np.testing.assert_allclose(losses[0], np.mean((one - ten) ** 2), rtol=1e-4)
    assert losses[-1] < 0.8 * losses[0]

    params = state.players["generator"].params
    answer = method.sample(system, params, pair, 1, keys, read)
    np.testing.assert_allclose(np.mean((answer - ten) ** 2), losses[-1], rtol=0.2)
    with pytest.raises(ValueError, match="nfe = 2"):
        method.grid(system.bridge, 2, read)


@pytest.mark.slow
def test_all_of_them_in_one_run(config, tmp_path):
    jax_bridges.main.run(config, tmp_path / "run")
    rows = json.loads((tmp_path / "run" / "results.json").read_text())["rows"]
    assert [(row["model"], row["sampler"], row["nfe"]) for row in rows] == [
        ("source", "-", 0), ("teacher", "renoise:noise=0.5", 1),
        ("teacher", "renoise:noise=0.5", 2), ("student", "few_step", 1),
    ]  # fmt: skip
    logged = [line for line in lines(tmp_path / "run") if line["stage"] == "distill"]
    assert logged and all(np.isfinite(line["loss"]) for line in logged)


@pytest.mark.slow
def test_an_act_is_done_where_it_is_wanted(config, tmp_path):
    """With the bridge, the sampler, the corruption, the data and the metric."""
    config.teach = True
    jax_bridges.main.run(config, tmp_path / "run")
    rows = json.loads((tmp_path / "run" / "results.json").read_text())["rows"]
    assert [(row["model"], row["nfe"]) for row in rows] == [
        ("source", 0), ("teacher", 1), ("teacher", 2),
    ]  # fmt: skip
    # Rounded to three levels, a pixel is off by at most a quarter of the range.
    assert 0 < rows[0]["mae"] < 64 and all(row["mae"] > 0 for row in rows)
    assert "MAE" in (tmp_path / "run" / "report.html").read_text()
    assert not (tmp_path / "run" / "checkpoints" / "distill").exists()


def test_what_the_page_gives_on_the_command_line(added):
    """Every `--config.KEY=VALUE` of it, with the examples registered."""
    given = [span for span in pages.spans(PAGE) if re.match(r"--config\.[\w.]+=", span)]
    assert len(given) >= 7
    for span in given:
        typed.check_settings(span, ("configs/inpaint.py",))
    assert "teach" in base_config()
