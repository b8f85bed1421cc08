"""Roll-outs: how x_0 is generated in training a student of several steps, and where gradients go."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_bridges.bridges import make_bridge
from jax_bridges.distillation import roll_out_chain, roll_out_random
from jax_bridges.keys import example_keys, normal
from jax_bridges.samplers import sample_few_step
from jax_bridges.samplers.few_step import first_input
from jax_bridges.times import student_grid
from tests.support.gaussian import GaussianPair

PAIR = GaussianPair(slope=0.8, std=0.3)
BRIDGE = make_bridge("brownian")


def generate(xt, t, xT, z):
    """A generator w x_T + v z + b."""
    return 0.2 * xT + 0.6 * z + 0.3


def some_keys(count, seed=0):
    return example_keys(jax.random.key(seed), jnp.arange(count))


def test_one_step_roll_outs_are_a_single_call():
    xT = jax.random.normal(jax.random.key(1), (6, 2, 2, 1))
    keys, times = some_keys(6), jnp.asarray(student_grid(BRIDGE, 1), jnp.float32)
    chain = roll_out_chain(generate, BRIDGE, xT, times, keys).x0
    z = normal(keys, 0, xT)
    np.testing.assert_array_equal(chain, generate(xT, times[0], xT, z))
    np.testing.assert_allclose(chain, sample_few_step(generate, BRIDGE, xT, times, keys), atol=1e-6)
    which = jnp.zeros(6, jnp.int32)
    random = roll_out_random(generate, BRIDGE, xT, times, keys, which).x0
    np.testing.assert_array_equal(random, chain)
    # With more times, an example that draws the first of them has the very same answer.
    times = jnp.asarray(student_grid(BRIDGE, 4), jnp.float32)
    several = roll_out_random(generate, BRIDGE, xT, times, keys, which).x0
    np.testing.assert_array_equal(several, random)


@pytest.mark.parametrize("first", [1.0, 0.9])
@pytest.mark.parametrize("name", ["brownian", "i2sb", "goub", "resshift", "interpolant"])
def test_roll_outs_draw_like_the_sampler(name, first):
    """The whole chain, and each of its calls, on bridges whose steps see x_T or start from noise too."""
    bridge = make_bridge(name)
    xT = jax.random.normal(jax.random.key(1), (8, 2, 2, 1))
    keys, times = some_keys(8), jnp.asarray(student_grid(bridge, 4, first=first), jnp.float32)
    generate = uses_everything(1.0)
    path = sample_few_step(generate, bridge, xT, times, keys, return_path=True)[1]
    chain = roll_out_chain(generate, bridge, xT, times, keys).x0
    np.testing.assert_allclose(chain, path[-1], atol=2e-6)
    which = jnp.arange(8) % 4
    answers = roll_out_random(generate, bridge, xT, times, keys, which).x0
    np.testing.assert_allclose(answers, path[which, jnp.arange(8)], atol=2e-6)


def test_a_first_call_below_T_sees_the_source_under_noise():
    """a x_T + c noise at first * T: by the sampler and both roll-outs; other calls see what they saw."""
    xT = jax.random.normal(jax.random.key(1), (6, 2, 2, 1))
    keys, seen = some_keys(6), []

    def spy(xt, t, xT, z):
        seen.append((xt, jnp.broadcast_to(t, (6,))))
        return uses_everything(1.0)(xt, t, xT, z)

    early = jnp.asarray(student_grid(BRIDGE, 3, first=0.9), jnp.float32)
    np.testing.assert_allclose(early, [0.9 * BRIDGE.T, *student_grid(BRIDGE, 3)[1:]], rtol=1e-6)
    with jax.disable_jit():
        chain = roll_out_chain(spy, BRIDGE, xT, early, keys).x0
    a, _, c = BRIDGE.coefficients(early[0])
    np.testing.assert_allclose(seen[0][0], a * xT + c * normal(keys, 5, xT), atol=1e-6)
    sampled = sample_few_step(uses_everything(1.0), BRIDGE, xT, early, keys)
    np.testing.assert_allclose(chain, sampled, atol=1e-6)

    # The second call's input has noise of its own: that of the first is not used twice.
    a, b, c = BRIDGE.coefficients(early[1])
    first = uses_everything(1.0)(*[seen[0][0], early[0], xT, normal(keys, 0, xT)])
    drawn = a * xT + b * first + c * normal(keys, 1, xT)
    np.testing.assert_allclose(seen[1][0], drawn, atol=1e-6)

    usual = jnp.asarray(student_grid(BRIDGE, 3), jnp.float32)
    seen.clear()
    which = jnp.asarray([0, 1, 2, 0, 1, 2])
    with jax.disable_jit():
        roll_out_random(spy, BRIDGE, xT, usual, keys, which)
    np.testing.assert_array_equal(seen[0][0], xT)
    np.testing.assert_allclose(seen[-1][1], usual[which])


def uses_everything(scale):
    """A generator whose answer depends on each of its inputs."""
    return lambda xt, t, xT, z: (
        scale * jnp.tanh(0.6 * xt + 0.3 * xT + 0.4 * z + 0.2 * jnp.reshape(t, (-1, 1, 1, 1)))
    )


def test_first_inputs_that_know_their_bridge():
    """No noise to start under where there is none; noise at T itself where paths do not end in x_T."""
    for name in ("i2sb", "brownian"):
        straight = make_bridge(name, deterministic=True)
        assert student_grid(straight, 4, first=0.9)[0] == straight.T
    bridge, xT = make_bridge("resshift"), jnp.ones((5, 8, 8, 3))
    noise = jax.random.normal(jax.random.key(0), xT.shape)
    at_T = first_input(bridge, xT, jnp.float32(bridge.T), noise)
    np.testing.assert_allclose(at_T, bridge.start(xT, noise), rtol=1e-6)
    just_below = first_input(bridge, xT, jnp.float32(0.9999 * bridge.T), noise)
    assert at_T.std() > 1 and jnp.abs(at_T - just_below).max() < 0.1 * at_T.std()


def by_call(scales, times):
    """A generator with one parameter a call, known by its time."""

    def generate(xt, t, xT, z):
        t = jnp.broadcast_to(t, xt.shape[:1])
        scale = scales[jnp.argmin(jnp.abs(t[:, None] - times), axis=1)]
        return uses_everything(scale.reshape(-1, 1, 1, 1))(xt, t, xT, z)

    return generate


@pytest.mark.parametrize("name", ["brownian", "i2sb", "vp", "goub", "resshift", "interpolant"])
def test_chain_has_gradient_in_all_its_calls(name):
    """As finite differences say, one parameter a call; from T itself, where drifts are not finite."""
    bridge = make_bridge(name)
    with jax.enable_x64(True):
        xT = jax.random.normal(jax.random.key(1), (6, 2, 2, 1), jnp.float64)
        keys, times = some_keys(6), jnp.asarray(student_grid(bridge, 3), jnp.float64)

        @jax.jit
        def total(scales):
            return jnp.sum(roll_out_chain(by_call(scales, times), bridge, xT, times, keys).x0)

        scales = jnp.array([1.0, 0.9, 1.1])
        numeric = jnp.array(
            [(total(scales + h) - total(scales - h)) / 2e-5 for h in 1e-5 * jnp.eye(3)]
        )
        assert jnp.abs(numeric).min() > 1e-3
        np.testing.assert_allclose(jax.grad(total)(scales), numeric, rtol=1e-7, atol=1e-12)


def test_random_roll_out_has_gradient_in_its_last_call_only():
    with jax.enable_x64(True):
        xT = jax.random.normal(jax.random.key(1), (8, 2, 2, 1), jnp.float64)
        keys, times = some_keys(8), jnp.asarray(student_grid(BRIDGE, 4), jnp.float64)
        which = jnp.arange(8) % 4

        @jax.jit
        def total(scales):
            out = roll_out_random(by_call(scales, times), BRIDGE, xT, times, keys, which).x0
            return jnp.sum(out, axis=(1, 2, 3))

        scales = jnp.array([1.0, 0.9, 1.1, 0.8])
        gradient = jax.jacobian(total)(scales)
        steps = 1e-5 * jnp.eye(4)
        numeric = jnp.stack([(total(scales + h) - total(scales - h)) / 2e-5 for h in steps], axis=1)
        own = jnp.arange(4) == which[:, None]  # the call that an example was given
        np.testing.assert_allclose(gradient, jnp.where(own, numeric, 0.0), rtol=1e-7, atol=1e-12)
        # The calls before it do decide where it starts, and those after it do not.
        before = jnp.arange(4) < which[:, None]
        assert (jnp.abs(numeric)[own | before] > 1e-4).all()
        np.testing.assert_array_equal(numeric[~(own | before)], 0.0)


@pytest.mark.parametrize("roll_out", ["random", "chain"])
def test_an_exact_generator_keeps_the_bridges_moments(roll_out):
    """What a student is called with, and what it answers, at each of its four times."""
    count = 100_000
    times = jnp.asarray(student_grid(BRIDGE, 4), jnp.float32)
    keys = some_keys(count)
    xT = jnp.full((count, 1, 1, 1), 0.7)
    seen = []

    def exact(xt, t, xT, z):
        """A draw of x_0 given x_t and x_T: the posterior mean plus z times its deviation."""
        seen.append(xt)
        t = jnp.broadcast_to(t, xt.shape[:1])
        _, b, c = BRIDGE.coefficients(t)
        spread = jnp.sqrt(c**2 * PAIR.std**2 / jnp.maximum(c**2 + b**2 * PAIR.std**2, 1e-12))
        spread = jnp.where(t >= 1.0, PAIR.std, spread).reshape(-1, 1, 1, 1)
        return PAIR.denoiser(BRIDGE, True)(xt, t, xT) + spread * z

    if roll_out == "chain":
        with jax.disable_jit():
            answers = [roll_out_chain(exact, BRIDGE, xT, times, keys).x0]
        inputs = seen
    else:
        answers, inputs = [], []
        for k in range(4):
            which = jnp.full(count, k, jnp.int32)
            answers.append(roll_out_random(exact, BRIDGE, xT, times, keys, which).x0)
            inputs.append(seen[-1])
    error = 4.5 / np.sqrt(count)
    for x, t in zip(inputs, times, strict=True):
        mean, std = PAIR.conditional_moments(BRIDGE, jnp.float32(0.7), t)
        assert abs(float(x.mean() - mean)) <= error * std + 1e-6
        assert abs(float(x.std() / std if std > 0 else x.std() + 1) - 1) < error
    for x0 in answers:
        assert abs(float(x0.mean()) - 0.56) < error * 0.3
        assert abs(float(x0.std()) / 0.3 - 1) < error
