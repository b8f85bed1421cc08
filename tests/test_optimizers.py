"""Averages, optimisers and gradients: what every training step is made of."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jax_bridges.platforms import aim_at
from jax_bridges.training.optimizers import SCHEDULES, ema_update, make_optimizer, make_schedule
from jax_bridges.training.state import Player
from jax_bridges.training.steps import gradients
from tests.support.toy import leaves_equal, optimizer_config, same

# -- average, optimiser, schedules ----------------------------------------------------------------


class TorchEma:
    """torch_ema 0.3's `update`, written from its formulas, for one number."""

    def __init__(self, value, decay):
        self.shadow, self.decay, self.num_updates = value, decay, 0

    def update(self, value):
        self.num_updates += 1
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        self.shadow -= (1.0 - decay) * (self.shadow - value)


def test_average_warms_up_as_torch_ema():
    """Decays 2/11, 3/12, ... up to 0.9."""
    ema, theirs = {"a": jnp.zeros(2)}, TorchEma(0.0, 0.9)
    for k in range(100):
        value = float(k % 7 + 1)
        ema = ema_update(ema, {"a": jnp.full(2, value)}, jnp.int32(k), 0.9)
        theirs.update(value)
        np.testing.assert_allclose(ema["a"], theirs.shadow, rtol=2e-6)
    first = ema_update({"a": jnp.ones(1)}, {"a": jnp.zeros(1)}, jnp.int32(0), 0.99)
    np.testing.assert_allclose(first["a"], 2 / 11, rtol=1e-6)


def test_clipping_bounds_the_global_norm():
    """Seen through plain sums: Adam itself would hide the size of a gradient."""
    grads = {"a": jnp.array([3.0]), "b": jnp.array([4.0])}
    params = jax.tree.map(jnp.zeros_like, grads)
    state = make_optimizer(optimizer_config(clip=1.0), 10)
    moments = state.update(grads, state.init(params), params)[1].inner_state[1][0]
    np.testing.assert_allclose(moments.mu["a"], 0.1 * 0.6, rtol=1e-6)
    np.testing.assert_allclose(moments.mu["b"], 0.1 * 0.8, rtol=1e-6)
    free = make_optimizer(optimizer_config(clip=0.0), 10)
    moments = free.update(grads, free.init(params), params)[1].inner_state[0][0]
    np.testing.assert_allclose(moments.mu["b"], 0.1 * 4.0, rtol=1e-6)


@pytest.mark.parametrize("name", ["adam", "adamw", "radam"])
def test_optimisers_are_optax_with_the_configured_numbers(name):
    numbers = dict(b1=0.5, b2=0.7, eps=0.01, weight_decay=0.3)
    config = optimizer_config(name=name, learning_rate=0.1, **numbers)
    reference = {
        "adam": optax.adam(0.1, b1=0.5, b2=0.7, eps=0.01),
        "adamw": optax.adamw(0.1, b1=0.5, b2=0.7, eps=0.01, weight_decay=0.3),
        "radam": optax.radam(0.1, b1=0.5, b2=0.7, eps=0.01),
    }[name]
    ours = make_optimizer(config, 10)
    one = two = {"a": jnp.array([1.0, -2.0])}
    state, other = ours.init(one), reference.init(two)
    for k in range(8):
        grads = {"a": jnp.array([0.3 + k, 1.0 / (k + 1)])}
        moves, state = ours.update(grads, state, one)
        one = optax.apply_updates(one, moves)
        moves, other = reference.update(grads, other, two)
        two = optax.apply_updates(two, moves)
        np.testing.assert_allclose(one["a"], two["a"], rtol=1e-6)


def test_schedules():
    def rates(name, at, warmup=10, steps=100, delay=0.0):
        config = optimizer_config(schedule=name, learning_rate=2.0, warmup=warmup, delay=delay)
        schedule = make_schedule(config, steps)
        return [float(schedule(k)) for k in at]

    np.testing.assert_allclose(rates("constant", [0, 5, 10, 99]), [0, 1, 2, 2])
    np.testing.assert_allclose(rates("constant", [0, 5], warmup=0), [2, 2])
    middle = 10 + 90 / 2
    np.testing.assert_allclose(rates("cosine", [0, 5, 10, middle, 100]), [0, 1, 2, 1, 0], atol=1e-6)
    np.testing.assert_allclose(rates("cosine", [0], warmup=0), [2])
    late = rates("cosine", [0, 19, 20, 25, 30, 65, 100], delay=0.2)
    np.testing.assert_allclose(late, [0, 0, 0, 1, 2, 1, 0], atol=1e-6)
    np.testing.assert_allclose(rates("constant", [19, 20], warmup=0, delay=0.2), [0, 2])
    np.testing.assert_allclose(
        rates("i2sb", [5, 10, 1009, 1010, 3010]), [1, 2, 2, 2 * 0.99, 2 * 0.99**3], rtol=1e-6
    )
    for name in SCHEDULES:  # a run shorter than its warm-up still has a schedule
        assert np.isfinite(rates(name, [0, 3], warmup=50, steps=4)).all()
    with pytest.raises(ValueError, match="learning-rate schedule 'step'.*cosine"):
        make_schedule(optimizer_config(schedule="step"), 1)
    with pytest.raises(ValueError, match="optimiser 'lion'.*adam"):
        make_optimizer(optimizer_config(name="lion"), 1)


# -- gradients ------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [2, 4, 8])
def test_microbatches_add_up_to_the_batch(parts):
    rng = np.random.default_rng(0)
    batch = {"x": rng.normal(size=(8, 5)).astype(np.float32), "index": np.arange(8)}
    params = {"w": jnp.asarray(rng.normal(size=5), jnp.float32)}

    def loss(params, part):
        return jnp.mean(jnp.sin(part["x"] @ params["w"]) * (1 + part["index"]))

    value, grads = gradients(loss, params, batch, 1, same)
    other, parted = gradients(loss, params, batch, parts, same)
    np.testing.assert_allclose(value, other, rtol=1e-6)
    np.testing.assert_allclose(grads["w"], parted["w"], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_changes_nothing_and_is_counted(bad):
    optimizer = make_optimizer(optimizer_config(clip=1.0), 100)
    player = Player.create({"a": jnp.array([1.0, 2.0])}, optimizer)
    good, broken = {"a": jnp.array([0.5, -0.5])}, {"a": jnp.array([0.5, bad])}
    update = jax.jit(lambda p, g, k: p.update(g, optimizer, k, 0.9))
    for k in range(3):
        player = update(player, good, jnp.int32(k))
    before = jax.device_get(player)
    for k in range(3, 5):
        player = update(player, broken, jnp.int32(k))
        leaves_equal(player.params, before.params)
        leaves_equal(player.ema, before.ema)
        leaves_equal(player.opt.inner_state, before.opt.inner_state)
        assert int(player.skipped) == int(player.skipped_in_a_row) == k - 2
    after = update(player, good, jnp.int32(5))
    # It goes on as if the bad ones had never come.
    expected = update(before, good, jnp.int32(5))
    leaves_equal(after.params, expected.params)
    assert int(after.skipped) == 2 and int(after.skipped_in_a_row) == 0
    assert np.abs(np.asarray(after.params["a"]) - before.params["a"]).min() > 1e-4


@pytest.mark.parametrize("name", ["adamw", "radam"])
def test_small_leaves_in_one_vector_are_updated_as_each_alone(name):
    """As for an accelerator: two updates and a skipped one, of leaves below and above the limit."""
    rng = np.random.default_rng(0)
    shapes = {"bias": (3,), "kernel": (300, 300), "gain": (2, 5), "scalar": ()}
    params = {k: jnp.asarray(rng.normal(size=s), jnp.float32) for k, s in shapes.items()}
    decay = {"weight_decay": 0.1} if name == "adamw" else {}
    optimizer = make_optimizer(optimizer_config(name=name, clip=1.0, **decay), 10)
    grads = [jax.tree.map(lambda p: jnp.sin(p + k), params) for k in range(2)]
    grads.append(jax.tree.map(lambda p: p * jnp.nan, params))

    def play(player, grads):
        for step, g in enumerate(grads):
            player = player.update(g, optimizer, jnp.int32(step), 0.9)
        return player

    start = Player.create(params, optimizer)
    alone = jax.jit(play)(start, grads)
    with aim_at("any"):
        together = jax.jit(lambda *args: play(*args))(start, grads)
        jaxpr = str(jax.make_jaxpr(lambda *args: play(*args))(start, grads))
    assert "optimization_barrier" in jaxpr and "optimization_barrier" not in str(
        jax.make_jaxpr(play)(start, grads)
    )
    chex.assert_trees_all_close(together, alone, rtol=1e-6, atol=1e-7)
    assert int(together.skipped) == 1
    assert float(jnp.max(jnp.abs(together.params["kernel"] - params["kernel"]))) > 1e-5
