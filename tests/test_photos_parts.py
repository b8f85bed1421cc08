"""What restorers of photographs add: a skip from x_T in units of detail, the mask as input, means over holes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jax_bridges.bridges import make_bridge
from jax_bridges.config import base_config
from jax_bridges.corruptions import make_corruption
from jax_bridges.preconditioning import Residual, precondition
from jax_bridges.restoring.jpeg_steps import JPEGSteps
from jax_bridges.restoring.notes import quality_notes
from jax_bridges.restoring.pictures import read_picture
from jax_bridges.times import training_times
from jax_bridges.training.steps import hole_weight, time_weight
from jax_bridges.training.system import Pair, System
from jax_bridges.validation import validate

RNG = np.random.default_rng(0)
BRIDGES = [make_bridge("brownian", epsilon=0.15), make_bridge("i2sb", beta_max=0.3)]


def images(count=3, size=8, contrast=0.2):
    return jnp.asarray(contrast * RNG.standard_normal((count, size, size, 3)), jnp.float32)


def detail(x, floor):
    down, right = np.diff(x, axis=1) ** 2, np.diff(x, axis=2) ** 2
    return np.sqrt((down.mean((1, 2, 3)) + right.mean((1, 2, 3))) / 2 + floor**2)


@pytest.mark.parametrize("bridge", BRIDGES)
def test_a_silent_network_answers_with_the_mean_of_a_gaussian_residual(bridge):
    xT, scaling = images(), Residual(scale=0.7)
    t = jnp.asarray([0.2, 0.5, 0.8])
    a, b, c = (np.asarray(v, np.float64)[:, None, None, None] for v in bridge.coefficients(t))
    xt = xT + images(contrast=0.05)
    s2 = (0.7 * detail(np.asarray(xT, np.float64), 0.01))[:, None, None, None] ** 2
    # r ~ N(0, s^2) and x_t = (a + b) x_T + b r + c n: precisions add up
    precision = 1 / s2 + b**2 / c**2
    mean = xT + b / c**2 * (xt - (a + b) * xT) / precision
    for answer in (0.0, 1.0):
        denoise = precondition(
            lambda x, c_noise, xT, z, answer=answer: jnp.full_like(x, answer), bridge, scaling
        )
        want = mean + answer / np.sqrt(precision)
        np.testing.assert_allclose(denoise(xt, t, xT), want, atol=2e-5)


@pytest.mark.parametrize("bridge", BRIDGES)
def test_the_untrained_answer_at_the_source_is_the_source(bridge):
    xT = images()
    denoise = precondition(lambda x, c_noise, xT, z: 0 * x, bridge, Residual())
    T = jnp.full(len(xT), bridge.T)
    np.testing.assert_allclose(denoise(xT, T, xT), xT, atol=1e-6)


def test_a_centred_network_works_alike_at_any_brightness_and_contrast():
    bridge, scaling = BRIDGES[0], Residual(floor=0.0, centred=True)
    denoise = precondition(lambda x, _, xT, z: jnp.tanh(x) + 0.5 * jnp.sin(xT), bridge, scaling)
    xT, T = images(), jnp.full(3, bridge.T)
    change = denoise(xT, T, xT) - xT
    assert float(jnp.abs(change).mean()) > 0.01
    other = 0.2 * xT + jnp.asarray([0.5, -0.3, 0.1])
    np.testing.assert_allclose(denoise(other, T, other) - other, 0.2 * change, atol=1e-6)
    plain = precondition(lambda x, _, xT, z: jnp.tanh(x), bridge, Residual(floor=0.0))
    gap = plain(other, T, other) - other - 0.2 * (plain(xT, T, xT) - xT)
    assert float(jnp.abs(gap).max()) > 1e-3


def test_half_of_the_times_are_the_last():
    bridge, u = BRIDGES[0], jnp.linspace(0, 1 - 2.0**-24, 2001)
    t = np.asarray(training_times("half_at_source", bridge, u))
    assert (t[u >= 0.5] >= bridge.T * (1 - 1e-6)).all() and t.max() <= bridge.T
    earlier = training_times("uniform", bridge, 2 * u[u < 0.5])
    np.testing.assert_array_equal(t[u < 0.5], earlier)
    table = BRIDGES[1]
    entries = table.index(training_times("half_at_source", table, u[u >= 0.5]))
    np.testing.assert_array_equal(entries, 999)  # the last of I2SB's 1000


def test_errors_count_in_units_of_an_images_detail():
    bridge, scaling = BRIDGES[0], Residual(floor=0.0)
    system = System.create(base_config())
    system = type(system)(
        **{**vars(system), "bridge": bridge, "preconditioning": scaling}
    )  # frozen, and not a pytree
    x, t = images(), jnp.full(3, bridge.T)
    one, ten = (time_weight(system, "native", 0.0, t, k * x) for k in (1.0, 10.0))
    np.testing.assert_allclose(one, 100 * ten, rtol=1e-5)
    np.testing.assert_allclose(one, 1 / detail(np.asarray(x), 0.0) ** 2, rtol=1e-4)
    early = time_weight(system, "native", 0.0, jnp.full(3, 1e-3), x)
    np.testing.assert_allclose(early, scaling.most * one, rtol=1e-5)


def test_a_mean_over_the_hole_counts_thin_holes_as_much_as_wide_ones():
    mask = np.zeros((3, 8, 8, 1), np.float32)
    mask[0, :, :2], mask[1, 0, 0] = 1, 1
    x = images()
    pair = Pair(x, x, jnp.asarray(mask), jax.random.split(jax.random.key(0), 3))
    np.testing.assert_allclose(hole_weight(pair), [4, 64, 1])
    np.testing.assert_array_equal(hole_weight(Pair(x, x, None, pair.keys)), 1)


def test_teacher_bridge_net_and_student_see_the_mask():
    config = base_config()
    config.network.update(widths=(8,), patch=1, groups=2, sees_mask=True)
    config.data.size = 8
    config.keep_known = False  # so that the mask has no other way into the answer
    validate(config)
    system, key = System.create(config), jax.random.key(0)
    x, t = images(2), jnp.full(2, 0.5)
    keys = jax.random.split(key, 2)
    z = jnp.zeros_like(x)
    for player in ("teacher", "bridge_net", "generator"):
        params = system.init(key, player)
        assert params["stem"]["kernel"].shape[2] == 3 + 3 + 1
        params = jax.tree.map(lambda a: a + 0.1, params)
        answers = []
        for hole in (jnp.zeros((2, 8, 8, 1)), jnp.ones((2, 8, 8, 1), bool)):
            pair = Pair(x, x, hole, keys)
            if player == "generator":
                answers.append(system.generator(params, pair)(x, t, x, z))
            else:
                mark = jnp.zeros((2, n)) if (n := system.networks[player].mark_channels) else None
                answers.append(system.denoiser(params, pair, player, mark=mark)(x, t, x))
        assert np.abs(answers[0] - answers[1]).max() > 1e-3, player


def test_a_mask_that_there_is_not_cannot_be_seen():
    config = base_config()
    config.corruption = {"name": "superres"}
    config.keep_known = False
    config.network.sees_mask = True
    with pytest.raises(ValueError, match="sees_mask is True, but the corruption 'superres'"):
        validate(config)


@pytest.mark.parametrize("quality", [7, 50, 51, 75, 90, 100])
def test_a_file_that_has_lost_less_than_a_model_knows_of_is_said(quality, tmp_path):
    pixels = RNG.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.jpg", quality=quality)
    read = read_picture(tmp_path / "a.jpg").jpeg
    assert read is not None and read.quality == quality
    seen = make_corruption("photo_file").qualities
    found = [str(note) for note in quality_notes(seen, read)]
    assert len(found) == (quality > 50)
    assert all(f"quality 5 to 50, and this file is of quality {quality}:" in text for text in found)
    assert read_picture(pixels).jpeg is None
    assert "no JPEG file any more" in str(quality_notes(seen, None)[0])


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("photo_file", {"noise": (0.1, 0.2)}),
        ("photo_file", {"factors": (2, 4)}),
        ("photo_file", {"written": 0.5}),
        ("inpaint_center", {}),
    ],
)
def test_of_what_else_has_been_lost_a_files_quality_says_nothing(name, settings):
    seen = make_corruption(name, **settings).qualities
    steps = JPEGSteps((np.ones((8, 8)),))
    assert steps.quality == 100 and seen is None
    assert not quality_notes(seen, steps) and not quality_notes(seen, None)
