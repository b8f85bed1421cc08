"""pix2pix: what its critic and its generator come to in closed form, and whose gradient goes where."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jax_bridges.distillation import critic_loss, fooling_loss
from jax_bridges.training.methods.pix2pix import answer, judge
from tests.support.rivals import S2, R, rival
from tests.support.toy import compiled, image_batch, same

SMALL = {"baselines.pix2pix.critic_channels": 4, "baselines.pix2pix.critic_layers": 1}


@pytest.mark.usefixtures("float64")
def test_the_best_logit_is_that_of_the_two_laws():
    """Of quadratic features, log p(x | x_T) - log q(x | x_T) for answers N(m x_T, v)."""
    m, v = 0.5, 0.2
    xT, x = (g.ravel() for g in np.meshgrid(np.linspace(-6, 6, 121), np.linspace(-8, 8, 321)))
    own = np.exp(-(xT**2) / 2)
    real = own * np.exp(-((x - R * xT) ** 2) / (2 * S2)) / np.sqrt(S2)
    made = own * np.exp(-((x - m * xT) ** 2) / (2 * v)) / np.sqrt(v)
    real, made = real / real.sum(), made / made.sum()
    features = jnp.stack([np.ones_like(x), x, xT, x**2, x * xT, xT**2], axis=1)

    def loss(w):
        logits = (features @ w)[:, None]
        none = jnp.full_like(logits, -1e9)  # costs nothing
        of_real, of_made = critic_loss(logits, none), critic_loss(-none, logits)
        return 0.5 * jnp.sum(jnp.asarray(real) * of_real + jnp.asarray(made) * of_made)

    w, slope, curve = jnp.zeros(6), jax.jit(jax.grad(loss)), jax.jit(jax.hessian(loss))
    np.testing.assert_allclose(loss(w), np.log(2), rtol=1e-12)
    for _ in range(30):
        step = jnp.linalg.solve(curve(w), slope(w))
        w = w - step * min(1.0, 1.0 / float(jnp.abs(step).max()))
    log_scale = 0.5 * np.log(v / S2)
    squares = [0.5 / v - 0.5 / S2, R / S2 - m / v, 0.5 * m**2 / v - 0.5 * R**2 / S2]
    np.testing.assert_allclose(w, [log_scale, 0, 0, *squares], atol=1e-6)


def test_one_step_is_the_critics_then_the_generators_by_the_new_critic():
    """By hand: neither sees a gradient of the other's, and a critic of zeros says log 2."""
    method, settings, system = rival("pix2pix", **SMALL)
    make_state, step = method.make(system, settings)
    state, key, batch = make_state(jax.random.key(0), None), jax.random.key(1), image_batch(4)
    assert set(state.players) == {"generator", "critic"}
    new, metrics = compiled(step)(state, None, batch, key, same)

    pair = system.prepare(batch, key, augment=True)
    generator, critic = (state.players[name].params for name in ("generator", "critic"))
    made = answer(system, generator, pair)

    def moved(params, grads):
        adam = optax.adam(1e-3, b1=0.5, b2=0.999)
        return optax.apply_updates(params, adam.update(grads, adam.init(params), params)[0])

    def of_critic(params):
        real, fake = judge(system, params, pair.x0, pair), judge(system, params, made, pair)
        return 0.5 * (jnp.mean(jax.nn.softplus(-real)) + jnp.mean(jax.nn.softplus(fake)))

    def of_generator(params, critic):
        made = answer(system, params, pair)
        fooled = jnp.mean(jax.nn.softplus(-judge(system, critic, made, pair)))
        return fooled + 100.0 * jnp.mean(jnp.abs(made - pair.x0))

    @jax.jit
    def by_hand(generator, critic):
        loss, first = jax.value_and_grad(of_critic)(critic)
        critic = moved(critic, first)
        other, second = jax.value_and_grad(of_generator)(generator, critic)
        return loss, other, critic, moved(generator, second), first, second

    *losses, critic, generator, first, second = by_hand(generator, critic)
    np.testing.assert_allclose([metrics["critic_loss"], metrics["loss"]], losses, rtol=1e-5)

    def near(a, b, gradient):
        # Of a bias before a norm it is rounding alone, to which Adam gives a whole step.
        told = np.abs(gradient) > 1e-6
        np.testing.assert_allclose(np.asarray(a)[told], np.asarray(b)[told], atol=1e-5)
        return told.mean()

    told = jax.tree.map(near, new.players["critic"].params, critic, first)
    assert np.mean(jax.tree.leaves(told)) > 0.7
    told = jax.tree.map(near, new.players["generator"].params, generator, second)
    assert np.mean(jax.tree.leaves(told)) > 0.7

    zeros = jnp.zeros((2, 3, 3, 1))
    np.testing.assert_allclose(0.5 * critic_loss(zeros, zeros), np.log(2), rtol=1e-6)
    np.testing.assert_allclose(fooling_loss(zeros), np.log(2), rtol=1e-6)


class Constant(nn.Module):
    """A network that knows one number."""

    z_channels: int = 0
    mark_channels: int = 0
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x, c_noise, xT=None, z=None, label=None, train=False):
        return x * 0.0 + self.param("value", nn.initializers.zeros, ())


def test_a_great_weight_makes_it_the_median_and_not_the_mean():
    """Three of four images are black: the median is -1, the mean -0.61."""
    own = {"optimizer.learning_rate": 0.05, "optimizer.schedule": "constant"}
    changes = {f"baselines.pix2pix.{key}": value for key, value in own.items()}
    method, settings, system = rival("pix2pix", **SMALL, **changes, keep_known=False)
    system = dataclasses.replace(system, networks=system.networks | {"generator": Constant()})
    make_state, step = method.make(system, settings)
    state, step = make_state(jax.random.key(0), None), compiled(step)
    images = np.zeros((4, 8, 8, 3), np.uint8)
    images[0] = 200
    batch = {"x0": images, "index": np.arange(4, dtype=np.uint32)}
    for _ in range(60):
        state, _ = step(state, None, batch, jax.random.key(1), same)
    assert abs(float(state.players["generator"].params["value"]) + 1.0) < 0.1


def test_known_pixels_are_pasted_before_the_critic_looks_and_one_call_is_all():
    method, settings, system = rival("pix2pix", **SMALL)
    params = method.init(system, jax.random.key(0))
    pair = system.prepare(image_batch(2), jax.random.key(2), augment=False)
    keys = jax.random.split(jax.random.key(4), 2)
    one = np.asarray(answer(system, params, pair))
    known = np.broadcast_to(pair.mask == 0, one.shape)
    np.testing.assert_array_equal(one[known], np.asarray(pair.xT)[known])
    np.testing.assert_array_equal(one, method.sample(system, params, pair, 1, keys, settings))
    assert not method.varies
    with pytest.raises(ValueError, match="pix2pix answers in one network call; nfe = 2"):
        method.grid(system.bridge, 2, settings)
