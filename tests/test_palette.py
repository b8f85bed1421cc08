"""Palette: its two schedules, the law of its samples in closed form, and what its step trains."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_bridges.bridges import DDPM, Palette
from jax_bridges.corruptions import bilinear
from jax_bridges.samplers.levels import level_steps, sample_levels
from jax_bridges.training.methods.adm_sr import enlarged
from jax_bridges.training.methods.pairs import why_not_here
from jax_bridges.training.methods.palette import known_in_input
from jax_bridges.training.system import Pair
from tests.support.rivals import S2, R, law_of, rival
from tests.support.toy import compiled, image_batch, same, small_config

PAL = Palette.create()


def exact_law(levels, variance_of_x0: float, **knobs) -> tuple[float, float]:
    """Slope and relative variance of samples by the optimal denoiser of the Gaussian pair."""
    steps = level_steps(levels)
    steps[:, 0] = np.arange(len(steps))  # the denoiser knows the level itself

    def denoise(x, k, xT):
        alpha, sigma = (jnp.asarray(steps[:, i])[k.astype(int)] for i in (1, 2))
        gain = alpha * variance_of_x0 / (alpha**2 * variance_of_x0 + sigma**2)
        return R * xT + gain * (x - alpha * R * xT)

    slope, variance = law_of(
        lambda xT, keys: sample_levels(denoise, xT, steps, keys, clip=False, **knobs),
        len(steps) + 1,
    )
    return slope, variance / variance_of_x0


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    "levels, s2, knobs, expected",
    [
        (PAL.levels(10), S2, {}, 0.236),
        (PAL.levels(20), S2, {}, 0.450),
        (PAL.levels(50), S2, {}, 0.674),
        (PAL.levels(100), S2, {}, 0.801),
        (PAL.levels(250), S2, {}, 0.906),
        (PAL.levels(1000), S2, {}, 0.973),
        (PAL.levels(1000), S2, {"eta": 0.0}, 0.989),
        (PAL.levels(1000), 0.04, {}, 0.932),
        (PAL.levels(1000), 0.04, {"eta": 0.0}, 0.972),
        (DDPM.create().levels(10, "respaced"), S2, {}, 0.450),
        (DDPM.create().levels(100, "respaced"), S2, {}, 0.891),
        (DDPM.create().levels(100, "respaced"), S2, {"eta": 0.0}, 0.951),
    ],
)
def test_the_law_of_its_samples(levels, s2, knobs, expected):
    """The mean is the conditional one; few steps with the posterior's variance are too alike.

    DDPM's table ends with a share of the image, 0.006, which a start from noise alone lacks.
    """
    slope, variance = exact_law(levels, s2, **knobs)
    assert abs(slope - R) < (1e-4 if levels.alpha[0] < 1e-4 else 4e-3)
    assert abs(variance - expected) < 6e-4


@pytest.mark.usefixtures("float64")
def test_the_large_variance_is_too_large_by_as_little():
    errors = []
    for n in (10, 50, 250):
        small, large = (
            exact_law(PAL.levels(n), S2, variance=name)[1] for name in ("small", "large")
        )
        assert small < 1 < large
        errors.append(large - 1)
    assert errors[0] > errors[1] > errors[2] and errors[2] < 0.03


def test_a_uniform_time_draws_the_papers_law_of_noise():
    """An entry k of 1 .. N - 1, then alpha_bar uniform between those of k - 1 and k."""
    few = Palette.create(beta_max=0.3, steps=20)
    t = (np.arange(100_000) + 0.5) / 100_000
    found = np.sort(np.asarray(few.alpha(t)) ** 2)
    table = few.alpha_bar_table[::-1]
    law = np.interp(found, table, np.linspace(0, 1, len(table)))
    assert np.abs(law - t).max() < 2e-4  # Kolmogorov-Smirnov, of draws without chance
    np.testing.assert_allclose(few.time_of(found), t[::-1], atol=1e-5)


def test_levels_begin_in_noise_and_end_at_the_clean_image():
    assert np.isclose(PAL.alpha_bar_table[0], 0.999999) and np.isclose(
        PAL.alpha_bar_table[-1], 4.39e-5, rtol=2e-3
    )
    assert np.isclose(PAL.test_table[-1], 6.6e-21, rtol=0.02)
    beyond = PAL.test_table < PAL.alpha_bar_table[-1]
    assert beyond.sum() == 532 and (PAL.test_table > 0.5).sum() == 123
    levels = PAL.levels(1000)
    assert (levels.alpha[-1], levels.sigma[-1]) == (1, 0)
    assert (levels.t[:532] == 1.0).all() and (np.diff(levels.t[531:-1]) < 0).all()
    # What a denoiser makes of a time is the level it was made of.
    seen = np.asarray(PAL.alpha(levels.t[532:-1]))
    np.testing.assert_allclose(seen, levels.alpha[532:-1], rtol=2e-4)
    np.testing.assert_allclose(
        np.asarray(PAL.sigma(levels.t[532:-1])), levels.sigma[532:-1], rtol=2e-3
    )
    with pytest.raises(ValueError, match="palette: it must be 0 < test_min <= test_max < 1"):
        Palette.create(test_max=1.0)


def test_padded_steps_are_not_made():
    xT = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
    steps = level_steps(PAL.levels(5))
    given = jax.random.key(1)
    denoise = lambda x, t, xT: 0.5 * x + 0.1 * xT * t  # noqa: E731
    one = sample_levels(denoise, xT, steps, given)
    padded = np.concatenate([steps, np.full((3, 5), np.nan)])
    two = sample_levels(denoise, xT, padded, given, length=jnp.int32(5))
    np.testing.assert_allclose(one, two, atol=1e-6)
    assert np.abs(one).max() <= 1  # the last step is its clipped answer


def test_the_known_pixels_are_seen_clean_and_cost_nothing():
    method, settings, system = rival("palette")
    assert system.bridge.prior and settings.known_in_input
    make_state, step = method.make(system, settings)
    state = make_state(jax.random.key(0), None)
    assert set(state.players) == {"generator"}
    new, metrics = compiled(step)(state, None, image_batch(4), jax.random.key(1), same)
    assert np.isfinite(float(metrics["loss"])) and float(metrics["gradient_norm"]) > 0
    moved = jax.tree.map(
        lambda a, b: float(jnp.abs(a - b).max()),
        state.players["generator"].params,
        new.players["generator"].params,
    )
    assert max(jax.tree.leaves(moved)) > 0

    pair = system.prepare(image_batch(2), jax.random.key(2), augment=False)
    seen = []
    wrapped = known_in_input(lambda xt, t, xT: seen.append(xt) or xt, pair)
    noise = jax.random.normal(jax.random.key(3), pair.xT.shape)
    wrapped(noise, 0.5, pair.xT)
    hole = np.broadcast_to(pair.mask == 1, noise.shape)
    np.testing.assert_array_equal(np.asarray(seen[0])[hole], np.asarray(noise)[hole])
    np.testing.assert_array_equal(np.asarray(seen[0])[~hole], np.asarray(pair.xT)[~hole])
    # The gradient by an answer is that of the hole alone.
    params = state.players["generator"].params
    system_denoise = system.denoiser(params, pair, "generator")

    def error(shift):
        shifted = dataclasses.replace(pair, xT=pair.xT)
        denoise = known_in_input(system_denoise, shifted)
        return jnp.sum((denoise(noise + shift, jnp.full(2, 0.5), pair.xT) - pair.x0) ** 2)

    slope = np.asarray(jax.grad(error)(jnp.zeros_like(noise)))
    assert np.abs(slope[hole]).max() > 0 and (slope[~hole] == 0).all()


@pytest.mark.parametrize("nfe", [1, 3])
def test_it_answers_in_as_many_calls_from_noise_alone(nfe):
    method, settings, system = rival("palette")
    params = method.init(system, jax.random.key(0))
    pair = system.prepare(image_batch(2), jax.random.key(2), augment=False)
    keys = jax.random.split(jax.random.key(4), 2)

    def sample(x0, keys):
        given = Pair(x0, pair.xT, pair.mask, pair.keys)
        return method.sample(system, params, given, nfe, keys, settings)

    sample = jax.jit(sample)
    one = sample(pair.x0, keys)
    np.testing.assert_array_equal(one, sample(jnp.zeros_like(pair.x0), keys))  # it never sees x_0
    if nfe > 1:
        assert np.abs(one - sample(pair.x0, keys[::-1])).max() > 1e-3
    known = np.broadcast_to(pair.mask == 0, one.shape)
    np.testing.assert_array_equal(np.asarray(one)[known], np.asarray(pair.xT)[known])
    with pytest.raises(ValueError, match="A table of 1000 steps can keep 1 to 1000"):
        method.grid(system.bridge, 1001, settings)


# -- ADM as an upsampler: the same with other constants --------------------------------------------------
def test_enlargement_has_the_eight_weights_of_four_phases():
    """Each output is of its own pixel and of the nearer neighbour; constants and ramps are exact."""
    spike = np.zeros((1, 1, 8, 1), np.float32)
    spike[0, 0, 3] = 1.0
    found = np.asarray(bilinear(jnp.asarray(spike), 4))[0, 0, :, 0]
    # Pixel 3 as own and as neighbour: the last two of pixel 2, its own four, the first two of pixel 4.
    expected = [0.125, 0.375, 0.625, 0.875, 0.875, 0.625, 0.375, 0.125]
    np.testing.assert_allclose(found[10:18], expected, atol=1e-6)
    assert np.abs(found).sum() == pytest.approx(4.0)
    small = jax.random.normal(jax.random.key(0), (2, 6, 5, 3))
    by_rows = np.asarray(bilinear(small, 4))
    np.testing.assert_allclose(by_rows[:, 0], by_rows[:, 1], atol=1e-6)  # edges are clamped
    np.testing.assert_allclose(bilinear(jnp.ones((1, 3, 3, 1)), 4), 1.0, atol=1e-6)
    ramp = np.broadcast_to(np.arange(8.0)[None, None, :, None], (1, 2, 8, 1))
    inside = np.asarray(bilinear(jnp.asarray(ramp, jnp.float32), 4))[0, 0, 2:-2, 0]
    np.testing.assert_allclose(inside, (np.arange(2, 30) + 0.5) / 4 - 0.5, atol=1e-5)


def test_the_upsampler_sees_the_small_image_enlarged_and_keeps_its_mean():
    changes = {"corruption": {"name": "superres", "kind": "pool", "factor": 4}, "keep_known": False}
    method, settings, system = rival("adm_sr", **changes)
    pair = system.prepare(image_batch(2), jax.random.key(2), augment=False)
    seen = enlarged(pair, 4)
    np.testing.assert_allclose(seen.xT, bilinear(system.corruption.forward(pair.x0), 4), atol=1e-6)
    np.testing.assert_array_equal(seen.x0, pair.x0)
    make_state, step = method.make(system, settings)
    state = make_state(jax.random.key(0), None)
    new, metrics = compiled(step)(state, None, image_batch(4), jax.random.key(1), same)
    assert np.isfinite(float(metrics["loss"])) and int(new.step) == 1
    answer = method.sample(system, state.players["generator"].params, pair, 3, pair.keys, settings)
    assert answer.shape == pair.x0.shape and np.abs(answer).max() <= 1
    grid = method.grid(system.bridge, 3, settings)
    table = system.bridge.alpha_bar_table
    np.testing.assert_allclose(grid[[0, -1], 1] ** 2, table[[-1, 0]])  # both ends of DDPM's
    assert "it enlarges small images" in why_not_here(method, small_config())
