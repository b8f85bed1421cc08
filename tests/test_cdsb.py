"""CDSB: rounds and the bias of its steps in closed form, of affine networks that see infinitely many pairs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_bridges.distillation.cdsb import reference_step, walk_path
from jax_bridges.samplers import count_calls
from jax_bridges.samplers.cdsb import DRAWS, sample_cdsb
from jax_bridges.training.methods.cdsb import gammas_of
from tests.support.rivals import S2, R, law_of, rival
from tests.support.toy import compiled, image_batch, same


def affine(weights):
    """Networks of one step each, `p_k x + q_k x_T`."""
    weights = jnp.asarray(weights)

    def of(xT):
        return lambda x, k, gamma=None: weights[k, 0] * x + weights[k, 1] * xT

    return of


def half(step_of, gammas, forward):
    """What affine networks learn on exact paths, in their own order `[N, 2]`; and the ends of the paths.

    All is linear in x_T, the pair's own noise, and the draws: example k of a batch has one of these alone,
    and sums over the batch are the second moments.
    """
    count = len(gammas)
    basis = np.eye(count + 3)  # x_T, noise of x_0, start, draws
    column = lambda v: jnp.asarray(v).reshape(-1, 1, 1, 1)  # noqa: E731
    xT, own = column(basis[0]), column(basis[1])

    def keys(draw):
        return (jnp.arange(count + 3) == draw + 2).astype(float)[:, None, None, None]

    start = R * xT + np.sqrt(S2) * own if forward else keys(DRAWS("start"))
    sizes = gammas if forward else gammas[::-1]
    points, targets = (
        np.asarray(a)[..., 0, 0, 0] for a in walk_path(step_of(xT), start, jnp.asarray(sizes), keys)
    )
    learnt = []
    for x, y in zip(points, targets, strict=True):
        features = np.stack([x, basis[0]])
        learnt.append(np.linalg.lstsq(features @ features.T, features @ y, rcond=None)[0])
    return np.array(learnt)[::-1], points[-1]


def answers(backward, gammas):
    step_of = affine(backward)

    def sample(xT, keys):
        step = step_of(xT)
        return sample_cdsb(lambda x, k: step(x, k), keys(DRAWS("start")), gammas, keys)

    return law_of(sample, len(gammas) + 1)


def rounds(gammas, count):
    """(slope, variance of the answers, correlation of the paths' ends with x_T) after each round."""
    backward, end = half(lambda xT: reference_step(0.0, 1.0), gammas, True)
    found = [(*answers(backward, gammas[::-1]), end[0] / np.sqrt(end @ end))]
    for _ in range(count - 1):
        forward, _ = half(affine(backward), gammas, False)
        backward, end = half(affine(forward), gammas, True)
        found.append((*answers(backward, gammas[::-1]), end[0] / np.sqrt(end @ end)))
    return np.array(found), backward


@pytest.mark.usefixtures("float64")
def test_a_short_path_is_mended_by_rounds_and_its_end_forgets_x_T():
    gammas = np.full(50, 0.005)
    found, _ = rounds(gammas, 5)
    table = [(0.514, 0.436), (0.676, 0.371), (0.742, 0.360), (0.782, 0.358)]
    np.testing.assert_allclose(found[[0, 1, 2, 4], :2], table, atol=1e-3)
    np.testing.assert_allclose(found[[0, 1, 2, 4], 2], [0.623, 0.302, 0.146, 0.048], atol=2e-3)


@pytest.mark.usefixtures("float64")
def test_a_long_path_needs_no_rounds_but_small_steps():
    """The bias of a step is of the order of gamma: half of it at half the gamma, whatever the rounds."""
    coarse, _ = rounds(np.linspace(5e-5, 0.1, 50), 2)
    np.testing.assert_allclose(coarse[:, :2], [(0.790, 0.387), (0.792, 0.387)], atol=1e-3)
    fine, _ = rounds(np.linspace(5e-5, 0.05, 100), 1)
    bias = lambda found: np.abs(found[0, :2] - (R, S2))  # noqa: E731
    np.testing.assert_allclose(bias(coarse) / bias(fine), 2.0, rtol=0.15)


@pytest.mark.usefixtures("float64")
def test_steps_that_are_not_reversed_give_other_answers():
    gammas = np.linspace(5e-5, 0.1, 50)
    found, backward = rounds(gammas, 1)
    slope, variance = answers(backward, gammas)
    assert abs(found[0, 1] - S2) < 0.03 < 0.1 < abs(variance - S2)
    assert np.isclose(slope, found[0, 0])  # the mean knows no gamma


@pytest.mark.usefixtures("float64")
def test_the_first_rounds_target_is_the_reference_taken_back():
    x0, gammas = jnp.full((1, 1, 1, 1), 0.7), jnp.array([0.1, 0.3])
    z = {1: 0.5, 2: -1.2}
    keys = lambda draw: jnp.full((1, 1, 1, 1), jnp.asarray([0.0, *z.values()])[draw])  # noqa: E731
    points, targets = walk_path(reference_step(0.2, 0.9), x0, gammas, keys)
    x = 0.7
    for k, gamma in enumerate((0.1, 0.3)):
        move = lambda x, g=gamma: x + g * (0.2 - x) / 0.81  # noqa: E731
        u = move(x)
        x = u + np.sqrt(2 * gamma) * z[k + 1]
        np.testing.assert_allclose(points[k], x, rtol=1e-12)
        np.testing.assert_allclose(targets[k], x + u - move(x), rtol=1e-12)


def test_the_last_step_has_no_noise_and_each_is_one_call():
    start = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
    noises = jax.random.normal(jax.random.key(1), (6, 2, 4, 4, 3))
    gammas = np.linspace(0.01, 0.1, 4)[::-1]
    counted = count_calls(lambda x, k: 0.9 * x)
    sample = jax.jit(lambda noises: sample_cdsb(counted, start, gammas, lambda d: noises[d]))
    one = sample(noises)
    assert counted.calls() == 4
    np.testing.assert_array_equal(one, sample(noises.at[4].add(1.0)))  # draw 1 + 3
    assert np.abs(one - sample(noises.at[3].add(1.0))).max() > 0.01
    padded = np.append(gammas, [np.nan] * 2)
    two = sample_cdsb(lambda x, k: 0.9 * x, start, padded, lambda d: noises[d], length=jnp.int32(4))
    np.testing.assert_allclose(one, two, atol=1e-6)


SMALL = {"baselines.cdsb.path": 4, "baselines.cdsb.steps": 9}


def test_players_take_turns_and_the_last_leads_to_x_0():
    method, settings, system = rival("cdsb", **SMALL)
    make_state, step = method.make(system, settings)
    state, run = make_state(jax.random.key(0), None), compiled(step)
    assert set(state.players) == {"generator", "forward"}
    for k in range(9):
        new, metrics = run(state, None, image_batch(4, 4 * k), jax.random.key(1), same)
        assert np.isfinite(float(metrics["loss"]))
        moved = {
            name for name in state.players
            if any(
                np.any(a != b)
                for a, b in zip(
                    jax.tree.leaves(state.players[name].params),
                    jax.tree.leaves(new.players[name].params), strict=True,
                )
            )
        }  # fmt: skip
        assert (
            moved == ({"forward"} if 3 <= k < 6 else {"generator"})
            or float(metrics["gradient_norm"]) == 0
        )
        state = new


def test_it_answers_in_the_calls_it_was_trained_for_from_its_reference():
    method, settings, system = rival("cdsb", **SMALL)
    params = method.init(system, jax.random.key(0))
    pair = system.prepare(image_batch(2), jax.random.key(2), augment=False)
    keys = jax.random.split(jax.random.key(4), 2)
    sample = jax.jit(lambda k: method.sample(system, params, pair, 4, k, settings))
    one = np.asarray(sample(keys))
    known = np.broadcast_to(pair.mask == 0, one.shape)
    np.testing.assert_array_equal(one[known], np.asarray(pair.xT)[known])
    assert np.abs(one - sample(keys[::-1])).max() > 1e-3
    np.testing.assert_allclose(method.grid(system.bridge, 4, settings), gammas_of(settings)[::-1])
    assert method.budgets(settings) == (4,)
    with pytest.raises(ValueError, match="cdsb answers in the 4 network calls .* nfe = 5"):
        method.grid(system.bridge, 5, settings)
    for changes, words in (
        ({"rounds": 2}, "rounds is 2: it must be odd"),
        ({"gamma_min": 0.3}, "gamma_min is 0.3, above gamma_max"),
        ({"gamma_max": 1.5}, "at most reference_std"),
    ):
        other = settings.copy_and_resolve_references()
        other.update(changes)
        with pytest.raises(ValueError, match=words):
            method.check(other, system.bridge, system.corruption)
