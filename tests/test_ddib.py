"""DDIB: the map between two Gaussians in closed form, its error, and two priors in one player."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_bridges.bridges import DDPM
from jax_bridges.samplers.ddib import ddib_steps, sample_ddib
from jax_bridges.training.methods.ddib import SOURCE, TARGET, prior_of
from jax_bridges.training.methods.pairs import why_not_here
from tests.support.rivals import rival
from tests.support.toy import compiled, image_batch, same, small_config

TABLE = DDPM.create()
SOURCE_LAW, TARGET_LAW = (0.3, 0.2), (-0.5, 0.6)  # mean and standard deviation


def exact(mean, std):
    """The denoiser of N(mean, std^2)."""

    def denoise(x, t, xT):
        alpha, sigma = TABLE.alpha(t), TABLE.sigma(t)
        gain = alpha * std**2 / (alpha**2 * std**2 + sigma**2)
        return mean + gain * (x - alpha * mean)

    return denoise


def mapped(x, n, source=SOURCE_LAW, target=TARGET_LAW, **knobs):
    steps = ddib_steps(TABLE.levels(n, "respaced"))
    image = jnp.asarray(x).reshape(-1, 1, 1, 1)
    sample = jax.jit(lambda x: sample_ddib(exact(*source), exact(*target), x, steps, **knobs))
    return np.asarray(sample(image)).ravel()


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    "n, slope, error, cycle",
    [(10, 1.108, 0.380, 0.173), (50, 2.508, 0.100, 0.061), (250, 2.893, 0.023, 0.014)],
)
def test_the_map_and_the_cycle_are_exact_up_to_the_steps(n, slope, error, cycle):
    """Monotone, of slope 3 in the limit; there and back again is the identity in the limit."""
    x = np.array([0.1, 0.5])  # one standard deviation below and above the mean
    y = mapped(x, n, clip=False)
    back = mapped(y, n, TARGET_LAW, SOURCE_LAW, clip=False)
    assert abs((y[1] - y[0]) / 0.4 - slope) < 1e-3
    assert abs(np.abs(y - (-0.5 + 3 * (x - 0.3))).max() - error) < 1e-3
    assert abs(np.abs(back - x).max() - cycle) < 1e-3


@pytest.mark.usefixtures("float64")
def test_clipped_answers_on_the_way_up_lose_what_they_are_made_of():
    """The cycle of images beyond [-1, 1] fails by as much as is clipped, where it was all but exact."""
    wide = (0.0, 1.5)
    x = np.array([-1.5, 1.5])
    steps = ddib_steps(TABLE.levels(250, "respaced"))
    image, own = jnp.asarray(x).reshape(-1, 1, 1, 1), exact(*wide)

    def clipped(x, t, xT):
        return jnp.clip(own(x, t, xT), -1, 1)

    whole = sample_ddib(own, own, image, steps, clip=False)
    lossy = sample_ddib(clipped, own, image, steps, clip=False)
    assert np.abs(np.ravel(whole) - x).max() < 0.03 < 0.3 < np.abs(np.ravel(lossy) - x).max()


def root(matrix, power):
    values, vectors = np.linalg.eigh(matrix)
    return vectors @ np.diag(values**power) @ vectors.T


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("commuting", [True, False])
def test_in_two_dimensions_it_is_the_optimal_map_where_the_covariances_commute(commuting):
    """S2^(1/2) S1^(-1/2), which maps the one law to the other anyway."""
    S1 = np.diag([0.5, 2.0]) if commuting else np.array([[1.0, 0.8], [0.8, 1.0]])
    S2 = np.diag([1.0, 0.1])

    def exact2(S):
        def denoise(x, t, xT):
            alpha, sigma = TABLE.alpha(t), TABLE.sigma(t)
            gain = alpha * S @ jnp.linalg.inv(alpha**2 * S + sigma**2 * jnp.eye(2))
            return (x.reshape(-1, 2) @ gain.T).reshape(x.shape)

        return denoise

    steps = ddib_steps(TABLE.levels(1000, "respaced"))
    basis = jnp.eye(2).reshape(2, 1, 1, 2)
    found = jax.jit(lambda x: sample_ddib(exact2(S1), exact2(S2), x, steps, clip=False))(basis)
    found = np.asarray(found).reshape(2, 2).T
    ddib = root(S2, 0.5) @ root(S1, -0.5)
    optimal = root(S1, -0.5) @ root(root(S1, 0.5) @ S2 @ root(S1, 0.5), 0.5) @ root(S1, -0.5)
    np.testing.assert_allclose(found, ddib, atol=0.02)
    np.testing.assert_allclose(ddib @ S1 @ ddib.T, S2, atol=1e-10)
    if commuting:
        np.testing.assert_allclose(ddib, optimal, atol=1e-10)
    else:
        np.testing.assert_allclose(ddib, [[1.4907, -0.7454], [-0.2357, 0.4714]], atol=1e-4)
        np.testing.assert_allclose(optimal, [[1.2554, -0.3466], [-0.3466, 0.5155]], atol=1e-4)


def test_steps_go_up_level_by_level_and_down_again():
    steps = ddib_steps(TABLE.levels(3, "respaced"))
    assert steps.shape == (6, 6) and steps[:, 5].tolist() == [0, 0, 0, 1, 1, 1]
    np.testing.assert_array_equal(steps[:3, 1], steps[3:, 1][::-1])
    np.testing.assert_array_equal(steps[:2, 3:5], steps[1:3, 1:3])  # each to where the next begins
    assert steps[2, 3:5].tolist() == [0, 1] and steps[-1, 3:5].tolist() == [1, 0]
    xT = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
    half, third = (lambda x, t, xT: x / 2), (lambda x, t, xT: x / 3)  # noqa: E731
    one = sample_ddib(half, third, xT, steps)
    padded = np.concatenate([steps, np.full((2, 6), np.nan)])
    np.testing.assert_allclose(
        one, sample_ddib(half, third, xT, padded, length=jnp.int32(6)), atol=1e-6
    )


ZERO = {"corruption.fill": "zero"}


@pytest.mark.slow
def test_two_priors_learn_each_its_own_side_and_know_no_pairs():
    method, settings, system = rival("ddib", **ZERO)
    make_state, step = method.make(system, settings)
    state = make_state(jax.random.key(0), None)
    params = state.players["generator"].params
    assert set(params) == {TARGET, SOURCE}
    batch, key = image_batch(4), jax.random.key(1)
    run = compiled(step)
    new, metrics = run(state, None, batch, key, same)
    assert np.isfinite(float(metrics["loss"]))
    np.testing.assert_allclose(
        metrics["loss"], metrics["target_loss"] + metrics["source_loss"], rtol=1e-6
    )
    # Other x_T, the same x_0: the prior of x_0 learns the same.
    paired = batch | {"xT": 255 - batch["x0"]}
    other, told = run(state, None, paired, key, same)
    np.testing.assert_allclose(told["target_loss"], metrics["target_loss"], rtol=1e-6)
    assert abs(float(told["source_loss"] - metrics["source_loss"])) > 1e-3
    a, b = (each.players["generator"].params[TARGET] for each in (new, other))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), a, b)
    # A prior sees no x_T, and no hole.
    pair = system.prepare(batch, key, augment=False)
    denoise = prior_of(system, params, TARGET, pair)
    x, t = jax.random.normal(key, pair.xT.shape), jnp.full(4, 0.5)
    np.testing.assert_array_equal(denoise(x, t, pair.xT), denoise(x, t, 0 * pair.xT))


def test_its_answer_follows_from_x_T_alone_and_holes_of_noise_are_not_for_it():
    method, settings, system = rival("ddib", **ZERO)
    params = method.init(system, jax.random.key(0))
    pair = system.prepare(image_batch(2), jax.random.key(2), augment=False)
    sample = jax.jit(lambda k: method.sample(system, params, pair, 4, k, settings))
    one, two = (np.asarray(sample(jax.random.split(jax.random.key(n), 2))) for n in (3, 4))
    np.testing.assert_array_equal(one, two)
    known = np.broadcast_to(pair.mask == 0, one.shape)
    np.testing.assert_array_equal(one[known], np.asarray(pair.xT)[known])
    with pytest.raises(ValueError, match="ddib spends half .*nfe = 3 is odd"):
        method.grid(system.bridge, 3, settings)
    noisy = small_config(**{"corruption.fill": "noise"})
    assert "holes of x_T hold noise" in why_not_here(method, noisy)
    assert not why_not_here(method, small_config(**ZERO))
