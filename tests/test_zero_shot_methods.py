"""Solvers with their settings, as configurations and commands name them."""

import jax.numpy as jnp
import numpy as np
import pytest

from jax_bridges.bridges import DDPM, EDM, I2SB
from jax_bridges.corruptions import (
    Colorize,
    Denoise,
    InpaintMask,
    SuperResolution,
    make_corruption,
)
from jax_bridges.corruptions.superres import low_pass
from jax_bridges.validation import validate
from jax_bridges.zero_shot import SOLVERS, applicable, make_method, make_solver, settings_of
from tests.support.config_files import read

PRIOR = DDPM.create()


def test_calls_and_levels():
    assert make_method("ddnm", PRIOR, {}, 50).nfe == 50
    assert make_method("ddnm", PRIOR, {"nfe": 100, "travel": [10, 3]}, 50).nfe == 280
    assert make_method("pinv", PRIOR, {}, 50).nfe == 0
    # RePaint travels by default, as its paper does.
    assert make_method("repaint", PRIOR, {}, 250).nfe == 2410
    third = make_method("sdedit", PRIOR, {"start": 0.3, "nfe": 50}, 50)
    assert third.levels.t[0] == pytest.approx(0.3, abs=0.01)
    half = make_method("sdedit", PRIOR, {"start": 0.5, "nfe": 25, "repeats": 3}, 50)
    assert half.nfe == 75 and len(half.levels.t) == 26
    np.testing.assert_allclose(half.levels.t[0] * 999, 480)
    x = jnp.arange(64.0).reshape(1, 8, 8, 1)
    phi = make_method("ilvr", PRIOR, {"low_pass": 4}, 5).knobs["low_pass"]
    np.testing.assert_allclose(phi(x), low_pass(x, 4))
    with pytest.raises(ValueError, match="I2SB is a bridge between images"):
        make_method("ddnm", I2SB.create(), {}, 5)


def test_every_default_can_be_said_and_what_no_text_can_hold_cannot():
    for name in SOLVERS:
        known = {row.key: row.default for row in settings_of(make_solver(name))}
        assert "shipped" not in known and ("start" in known) == (name == "sdedit")
        said = {k: v for k, v in known.items() if k != "nfe"}
        plain = make_method(name, PRIOR, said, 4)
        assert plain.nfe == make_method(name, PRIOR, {}, 4).nfe


BAD = [
    ("ddnn", {}, "Did you mean 'ddnm'"),
    ("ddnm", {"et": 1}, "has no setting 'et': it takes eta, clip, travel"),
    ("ddnm_plus", {"shipped": True}, "has no setting 'shipped'"),
    ("ddnm", {"start": 0.5}, "has no setting 'start'"),
    ("ddnm", {"eta": None}, "ddnm.eta is None: it must be a number from 0 to 1"),
    ("ddnm", {"nfe": None}, "whole number"),
    ("ddnm", {"nfe": 1001}, "can keep 1 to 1000; 1001 were asked for"),
    ("pigdm", {"guidance": ["exact"]}, "pigdm.guidance is .'exact'.: it must be one of exact, "),
]


@pytest.mark.parametrize(("name", "settings", "words"), BAD)
def test_what_cannot_be_is_one_sentence(name, settings, words):
    with pytest.raises(ValueError, match=words):
        make_method(name, PRIOR, settings, 5)


def test_edm_has_two_levels_at_least():
    with pytest.raises(ValueError, match="at least 2 levels"):
        make_method("ddnm", EDM(), {"nfe": 1}, 50)
    assert make_method("sdedit", EDM(), {"nfe": 5, "start": 0.5}, 50).nfe == 5


def test_which_rows_make_sense():
    pool, hole = SuperResolution(kind="pool"), InpaintMask(mask=np.zeros((1, 4, 4, 1)))

    def those(operator, sigma_y):
        return {name for name, each in SOLVERS.items() if applicable(each, operator, sigma_y)}

    noisy = {"ddnm_plus", "ddnm_simple"}
    assert those(pool, 0.0) == set(SOLVERS) - noisy - {"repaint"}
    assert those(hole, 0.0) == set(SOLVERS) - noisy
    assert those(pool, 0.2) == set(SOLVERS) - {"repaint", "ilvr"}


# -- configurations ----------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["", "edm"])
def test_the_configurations_are_valid(variant):
    validate(read(f"zero_shot:{variant}"))


def test_the_paper_s_rows_stand_beside_ours(tmp_path):
    """Every noise-free task of the imported prior names its published numbers, DDNM's own among them."""
    from types import SimpleNamespace

    from jax_bridges.acts.zero_shot import of_papers
    from jax_bridges.report.row import Row
    from jax_bridges.report.table import sort_rows

    config = read("zero_shot:adm256")
    assert config.evaluate.protocol == "ddnm" and config.zero_shot.nfe == 100
    config.evaluate.published_data = "ImageNet 256 (1k)"
    config.evaluate.metrics = ("psnr", "ssim", "fid", "cons")
    rows = of_papers(SimpleNamespace(config=config), 1000)
    found = {(row.task, row.sampler): row for row in rows if row.same_data}
    assert found["sr4", "DDNM"].metrics["psnr"] == 27.46 and found["sr4", "DDNM"].same_protocol
    assert found["cs25", "DDRM"].metrics["fid"] == 97.99
    assert {task for task, _ in found} == {"sr4", "inpaint", "deblur", "colour", "cs25"}
    ours = [Row(t, "ddnm", 100, 8, task=t) for t in ("sr4", "cs25")]
    order = [(row.task, row.sampler) for row in sort_rows([*ours, *rows])]
    assert order[0] == ("sr4", "ddnm") and order[1][0] == "sr4"
    assert order.index(("cs25", "ddnm")) < order.index(("inpaint", "DDNM"))

    config = read("zero_shot")
    config.zero_shot.tasks.sr4.published = "sr5x"
    with pytest.raises(ValueError, match="Unknown published task 'sr5x'"):
        validate(config)
    config = read("zero_shot")
    for sigma_y in (-1.0, 25.0):
        config.zero_shot.tasks.sr4.sigma_y = sigma_y
        with pytest.raises(ValueError, match=f"sr4.sigma_y is {sigma_y:g}: noise is in units"):
            validate(config)


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("superres", {"factor": 1.5}, "superres.factor is 1.5: it must be a whole number"),
        ("superres", {"factor": "two"}, "factor is 'two': it must be a whole number"),
        ("blur", {"taps": "9"}, "taps is '9'"),
        (
            "blur",
            {"std": "wide"},
            "std is 'wide': it must be a number, or a tuple of 2, each a number, or None",
        ),
        ("colorize", {"weights": 1}, "weights is 1: it must be a tuple, each a number"),
        ("denoise", {"std": True}, "std is True"),
    ],
)
def test_settings_of_another_type_are_refused(name, settings, words):
    with pytest.raises(ValueError, match=words):
        make_corruption(name, **settings)
    assert make_corruption("denoise", std=1) == Denoise(std=1)
    assert make_corruption("colorize", weights=[1, 1, 1]) == Colorize(weights=(1, 1, 1))
