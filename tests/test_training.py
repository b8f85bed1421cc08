"""Training: averages, optimisers, grafting, the steps, and what they must not depend on."""

from __future__ import annotations

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from gaussian import GaussianPair
from ml_collections import ConfigDict

from jax_bridges.bridges import make_bridge
from jax_bridges.config import base_config
from jax_bridges.corruptions import make_corruption
from jax_bridges.keys import fold, normal, uniform
from jax_bridges.preconditioning import make_preconditioning
from jax_bridges.training.optimizers import SCHEDULES, ema_update, make_optimizer, make_schedule
from jax_bridges.training.state import Player, State, graft
from jax_bridges.training.steps import (
    gradients,
    make_ibmd_step,
    make_teacher_step,
    time_weight,
)
from jax_bridges.training.system import NOISE, STUDENT, TIME, Pair, System


def optimizer_config(**changes) -> ConfigDict:
    return ConfigDict(
        {
            **dict(name="adam", learning_rate=1e-2, schedule="constant", warmup=0),
            **dict(b1=0.9, b2=0.99, eps=1e-8, weight_decay=0.0, clip=0.0),
            **changes,
        }
    )


def compiled(step):
    """A step for one device, quickly compiled: it runs only once or twice."""
    cpu = jax.default_backend() == "cpu"
    options = {"xla_backend_optimization_level": 0} if cpu else None
    return jax.jit(step, static_argnums=4, compiler_options=options)


def same(tree):
    """`mean` on one device."""
    return tree


def leaves_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


# -- average, optimiser, schedules ----------------------------------------------------------------


def test_average_warms_up_with_exact_values():
    """decay_k = min(decay, (1 + k) / (10 + k)): 0.1, 2/11, 3/12, ... up to 0.9."""
    ema, expected = {"a": jnp.zeros(2)}, 0.0
    for k in range(100):
        value = float(k % 7)
        ema = ema_update(ema, {"a": jnp.full(2, value)}, jnp.int32(k), 0.9)
        decay = min(0.9, (1 + k) / (10 + k))
        expected = decay * expected + (1 - decay) * value
        np.testing.assert_allclose(ema["a"], expected, rtol=2e-6)
    first = ema_update({"a": jnp.ones(1)}, {"a": jnp.zeros(1)}, jnp.int32(0), 0.99)
    np.testing.assert_allclose(first["a"], 0.1, rtol=1e-6)


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
    def rates(name, at, warmup=10, steps=100):
        config = optimizer_config(schedule=name, learning_rate=2.0, warmup=warmup)
        schedule = make_schedule(config, steps)
        return [float(schedule(k)) for k in at]

    np.testing.assert_allclose(rates("constant", [0, 5, 10, 99]), [0, 1, 2, 2])
    np.testing.assert_allclose(rates("constant", [0, 5], warmup=0), [2, 2])
    middle = 10 + 90 / 2
    np.testing.assert_allclose(rates("cosine", [0, 5, 10, middle, 100]), [0, 1, 2, 1, 0], atol=1e-6)
    np.testing.assert_allclose(rates("cosine", [0], warmup=0), [2])
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


# -- a system with a network that compiles in no time ---------------------------------------------


class Pointwise(nn.Module):
    """An MLP on single values of (x_t, t[, x_T]) and on all of z, which has a kernel of its own."""

    conditional: bool = False
    z_channels: int = 0
    dropout: float = 0.0
    width: int = 32

    @nn.compact
    def __call__(self, x, c_noise, xT=None, z=None, label=None, train=False):
        t = jnp.broadcast_to((c_noise / 1000.0).reshape(-1, 1, 1, 1), x.shape)
        parts = [x, t, jnp.sqrt(t)] + ([xT] if self.conditional else [])
        h = nn.Dense(self.width, name="first")(jnp.stack(parts, axis=-1))
        if self.z_channels:
            zero = nn.initializers.zeros
            extra = nn.Dense(self.width, use_bias=False, kernel_init=zero, name="z_in")(z)
            h += extra[..., None, :]
        h = nn.tanh(nn.Dense(self.width, name="second")(nn.tanh(h)))
        return nn.Dense(1, name="last")(h)[..., 0]


def small_config(**changes) -> ConfigDict:
    """A tiny run with every choice that these tests compute by hand, whatever the defaults are."""
    config = base_config()
    config.corruption = ConfigDict({"name": "inpaint_center", "fill": "noise"})
    config.bridge = ConfigDict({"name": "i2sb", "beta_max": 3.0})
    config.preconditioning = ConfigDict({"name": "i2sb"})
    config.network.conditional = False
    config.train.update(dict(times="uniform", weight="native", weight_max=0.0))
    config.distill.update(
        dict(
            weight="one", weight_max=0.0, bridge_weight="native", bridge_weight_max=0.0,
            times="uniform", normalize=True, roll_out="random", student_steps=4, z_channels=3,
        )
    )  # fmt: skip
    config.data.size = 8
    config.network.update(dict(widths=(8, 8), patch=2, groups=2))
    config.distill.bridge_updates = 2
    config.distill.batch = config.train.batch = 4
    config.update_from_flattened_dict(changes)
    return config


def small_system(config=None) -> System:
    """Centre inpainting of 8x8 images with pointwise networks."""
    return pointwise(System.create(config or small_config()), width=8)


def pointwise(system: System, width: int) -> System:
    """The system with pointwise networks of the same inputs."""
    made = {
        name: Pointwise(width=width, z_channels=getattr(system, name).z_channels)
        for name in ("teacher", "student", "bridge_net")
    }
    return dataclasses.replace(system, **made)


@functools.lru_cache(maxsize=8)
def random_params(net, seed=0):
    """Parameters that are random all over, without running an initialiser."""
    rng = np.random.default_rng(seed)
    image, z = jnp.zeros((1, 8, 8, 3)), jnp.zeros((1, 8, 8, net.z_channels))
    shapes = jax.eval_shape(
        lambda: net.init(jax.random.key(0), image, jnp.zeros(1), image, z)["params"]
    )
    return jax.tree.map(lambda s: np.float32(0.4 * rng.normal(size=s.shape)), shapes)


def zero_z(net):
    """What `net.init` gives where it matters here: a noise input of zeros."""
    params = random_params(net, seed=1)
    zero = {k: jax.tree.map(np.zeros_like, v) for k, v in params.items() if k == "z_in"}
    return params | zero


# -- grafting -------------------------------------------------------------------------------------


def test_a_grafted_student_is_the_teacher_whatever_z_is():
    system = System.create(small_config())
    teacher = random_params(system.teacher)
    student = graft(teacher, zero_z(system.student))
    for name, value in teacher.items():
        leaves_equal(student[name], value)
    pair = system.prepare(image_batch(4), jax.random.key(0), augment=False)
    rng = np.random.default_rng(0)
    xt, z = rng.normal(size=(2, 4, 8, 8, 3)).astype(np.float32)
    t = jnp.linspace(0.1, 1.0, 4)
    by_teacher = np.asarray(jax.jit(lambda: system.denoiser(teacher, pair)(xt, t, pair.xT))())
    by_student = jax.jit(lambda z: system.generator(student, pair)(xt, t, pair.xT, z))
    for noise in (z, 10 * z + 3):
        np.testing.assert_allclose(by_student(noise), by_teacher, atol=2e-5)
    known = np.broadcast_to(np.asarray(pair.mask) == 0, xt.shape)
    np.testing.assert_array_equal(by_teacher[known], np.asarray(pair.xT)[known])
    assert np.abs(by_teacher - np.asarray(pair.xT))[~known].mean() > 0.1


def test_a_graft_is_a_copy():
    teacher = {"a": jnp.ones(3)}
    student = graft(teacher, {"a": jnp.zeros(3), "z": jnp.zeros(2)})
    assert student["a"].unsafe_buffer_pointer() != teacher["a"].unsafe_buffer_pointer()
    np.testing.assert_array_equal(student["a"], np.ones(3))
    np.testing.assert_array_equal(student["z"], np.zeros(2))


def test_grafting_another_network_is_refused():
    with pytest.raises(ValueError, match=r"teacher's 'a/kernel' \(3,\) meets \(2,\).*same network"):
        graft({"a": {"kernel": jnp.ones(3)}}, {"a": {"kernel": jnp.ones(2)}})
    with pytest.raises(ValueError, match=r"teacher's 'b' \(3,\) meets nothing in the student"):
        graft({"b": jnp.ones(3)}, {"a": jnp.ones(3)})


def test_a_new_average_is_its_own_buffer():
    """Else a donated state would hand over one buffer twice."""
    player = Player.create({"a": jnp.ones(3)}, optax.sgd(1.0))
    one, two = (p["a"].unsafe_buffer_pointer() for p in (player.params, player.ema))
    assert one != two


# -- data of a step -------------------------------------------------------------------------------


def image_batch(count, start=0, paired=False, seed=0, size=8):
    """uint8 images of draws start .. start + count: the same draw is the same image."""
    images = np.stack(
        [
            np.random.default_rng([seed, i]).integers(0, 256, (size, size, 3), dtype=np.uint8)
            for i in range(start, start + count)
        ]
    )
    batch = {"x0": images, "index": np.arange(start, start + count, dtype=np.uint32)}
    return batch | ({"xT": 255 - images} if paired else {})


def prepared(system):
    """`system.prepare` with augmentation, compiled."""

    def arrays(batch, key):
        pair = system.prepare(batch, key, augment=True)
        return pair.x0, pair.xT, pair.mask, pair.keys

    run = jax.jit(arrays)
    return lambda *a: Pair(*run(*a))


def test_images_become_floats_from_minus_one_to_one():
    system = small_system()
    batch = {"x0": np.zeros((1, 8, 8, 3), np.uint8), "index": np.zeros(1, np.uint32)}
    batch["x0"][0, 0, 0] = [0, 255, 51]
    pair = system.prepare(batch, jax.random.key(0), augment=False)
    np.testing.assert_allclose(pair.x0[0, 0, 0], [-1.0, 1.0, -0.6], atol=1e-6)


@pytest.mark.parametrize("flip, rotate", [(True, False), (False, True), (True, True)])
def test_augmentation_is_shared_by_the_pair_and_keyed_by_the_index(flip, rotate):
    system = small_system(small_config(**{"data.flip": flip, "data.rotate": rotate}))
    prepare = prepared(system)
    batch = image_batch(64, paired=True)
    pair = prepare(batch, jax.random.key(1))
    np.testing.assert_allclose(pair.xT, -pair.x0, atol=1e-6)  # x_T was made as the negative of x_0
    # Each is one of the symmetric images, and all that may come do come.
    x0 = np.rint((np.asarray(pair.x0) + 1) * 127.5).astype(np.uint8)
    seen = set()
    for image, out in zip(batch["x0"], x0, strict=True):
        ways = {
            (f, r): np.rot90(image[:, ::-1] if f else image, r)
            for f in ((0, 1) if flip else (0,))
            for r in (range(4) if rotate else (0,))
        }
        (way,) = [k for k, v in ways.items() if np.array_equal(v, out)]
        seen.add(way)
    assert len(seen) == (2 if flip else 1) * (4 if rotate else 1)
    # Another order of the same draws gives the same images; another key does not.
    turned = {k: v[::-1] for k, v in batch.items()}
    np.testing.assert_array_equal(prepare(turned, jax.random.key(1)).x0[::-1], pair.x0)
    assert np.abs(prepare(batch, jax.random.key(2)).x0 - pair.x0).max() > 0.1
    still = system.prepare(batch, jax.random.key(1), augment=False)
    np.testing.assert_allclose(still.x0, batch["x0"] / 127.5 - 1, atol=1e-6)


def test_the_parts_of_a_batch_are_the_batch():
    """Corruption, times and noise of an example know its index alone."""
    system = small_system()
    prepare = prepared(system)
    whole = prepare(image_batch(6), jax.random.key(1))
    parts = [prepare(image_batch(3, start), jax.random.key(1)) for start in (0, 3)]
    for field in ("x0", "xT", "mask"):
        both = np.concatenate([getattr(part, field) for part in parts])
        np.testing.assert_array_equal(both, getattr(whole, field))
    hole = np.asarray(whole.mask[0, :, :, 0]) > 0
    noise = np.asarray(whole.xT)[:, hole]
    assert len({float(n[0, 0]) for n in noise}) == 6  # six different holes


def test_paired_data_are_used_as_they_are():
    system = small_system(small_config(**{"data.flip": False}))
    batch = image_batch(2, paired=True)
    pair = system.prepare(batch, jax.random.key(0), augment=True)
    assert pair.mask is None
    np.testing.assert_allclose(pair.xT, batch["xT"] / 127.5 - 1, atol=1e-6)


# -- the two steps --------------------------------------------------------------------------------


@functools.lru_cache(maxsize=4)
def both_steps(parts: int):
    """Compiled steps of a tiny run with `parts` microbatches, and fresh states."""
    config = small_config()
    config.train.microbatches = config.distill.microbatches = parts
    system = small_system(config)
    adam = make_optimizer(optimizer_config(clip=1.0, learning_rate=1e-3), 10)
    teacher = random_params(system.teacher)
    first = compiled(make_teacher_step(system, config.train, adam))
    second = compiled(make_ibmd_step(system, config.distill, adam, adam))
    state = State.create(teacher=Player.create(teacher, adam))
    game = State.create(
        generator=Player.create(graft(teacher, zero_z(system.student)), adam),
        bridge_net=Player.create(graft(teacher, zero_z(system.bridge_net)), adam),
    )
    return first, state, second, game, teacher


def group(updates=2, count=4):
    parts = [image_batch(count, k * count) for k in range(updates + 1)]
    return jax.tree.map(lambda *a: np.stack(a), *parts)


def test_steps_do_not_depend_on_microbatches():
    """Adam magnifies what differs in tiny gradients: gradients and parameters are both compared."""
    results = []
    for parts in (1, 2):
        first, state, second, game, teacher = both_steps(parts)
        state, one = first(state, None, image_batch(4), jax.random.key(0), same)
        game, two = second(game, teacher, group(), jax.random.key(0), same)
        results.append((one, two, game.players["bridge_net"].opt, state.players))
    (one, two, opt, players), (one_, two_, opt_, players_) = results
    for key in one:
        np.testing.assert_allclose(one[key], one_[key], rtol=2e-5)
    for key in ("bridge_loss", "bridge_gradient_norm"):
        np.testing.assert_allclose(two[key], two_[key], rtol=2e-5)
    np.testing.assert_allclose(two["loss"], two_["loss"], atol=2e-5)
    close = functools.partial(np.testing.assert_allclose, atol=2e-6)
    jax.tree.map(close, opt.inner_state[1][0].mu, opt_.inner_state[1][0].mu)
    jax.tree.map(close, players["teacher"].opt, players_["teacher"].opt)


def test_one_ibmd_step_updates_what_it_should():
    _, _, step, game, teacher = both_steps(1)
    after, metrics = step(game, teacher, group(), jax.random.key(0), same)
    assert int(after.step) == 1
    counts = {n: int(p.opt.inner_state[1][0].count) for n, p in after.players.items()}
    assert counts == {"generator": 1, "bridge_net": 2}
    for name, player in after.players.items():
        before = game.players[name].params
        moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), player.params, before)
        assert min(jax.tree.leaves(moved)) > 1e-5, (name, moved)
        assert int(player.skipped) == 0
    assert np.isfinite([float(m) for m in metrics.values()]).all()
    # The bridge net starts as the teacher: two updates later the generator's loss is still small.
    assert abs(float(metrics["loss"])) < 0.1 * float(metrics["bridge_loss"])


def test_one_step_of_ibmd_is_optax_on_the_pure_losses():
    """Rebuilt from the published algorithm with the batch's own randomness."""
    config = small_config(**{"distill.student_steps": 1, "evaluate.student_nfe": (1,)})
    config.distill.normalize = False
    config.distill.bridge_updates = 1
    system = small_system(config)
    sgd = optax.apply_if_finite(optax.sgd(0.1), 10)
    teacher = random_params(system.teacher)
    student = graft(teacher, random_params(system.student, seed=3))
    game = State.create(
        generator=Player.create(student, sgd), bridge_net=Player.create(teacher, sgd)
    )
    batch, key = group(updates=1), jax.random.key(0)
    step = compiled(make_ibmd_step(system, config.distill, sgd, sgd))
    after, metrics = step(game, teacher, batch, key, same)

    @jax.jit
    def by_hand():
        def points(part):
            pair = system.prepare(part, key, augment=True)
            t = jnp.floor(uniform(fold(pair.keys, TIME), 0) * 1000) / 999
            return pair, t, normal(fold(pair.keys, NOISE), 0, pair.xT)

        def answer(params, pair):
            z = normal(fold(fold(pair.keys, STUDENT), 0), 0, pair.xT)
            return system.generator(params, pair)(pair.xT, jnp.ones(4), pair.xT, z)

        def error(params, pair, x0, t, noise):
            xt = system.bridge.sample(x0, pair.xT, t, noise)
            square = (system.denoiser(params, pair)(xt, t, pair.xT) - x0) ** 2
            return jnp.mean(square, axis=(1, 2, 3))

        def bridge_loss(phi):
            pair, t, noise = points(jax.tree.map(lambda a: a[0], batch))
            x0 = answer(student, pair)
            return jnp.mean(error(phi, pair, x0, t, noise) / system.bridge.sigma(t) ** 2)

        loss_b, grads = jax.value_and_grad(bridge_loss)(teacher)
        phi = jax.tree.map(lambda p, g: p - 0.1 * g, teacher, grads)

        def loss(params):
            pair, t, noise = points(jax.tree.map(lambda a: a[1], batch))
            x0 = answer(params, pair)
            return jnp.mean(error(teacher, pair, x0, t, noise) - error(phi, pair, x0, t, noise))

        loss_g, grads = jax.value_and_grad(loss)(student)
        return loss_b, phi, loss_g, jax.tree.map(lambda p, g: p - 0.1 * g, student, grads)

    loss_b, phi, loss_g, generator = by_hand()
    np.testing.assert_allclose(metrics["bridge_loss"], loss_b, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], loss_g, rtol=1e-3)
    close = functools.partial(np.testing.assert_allclose, atol=2e-5, rtol=1e-4)
    jax.tree.map(close, after.players["bridge_net"].params, phi)
    jax.tree.map(close, after.players["generator"].params, generator)


def test_weights_by_name():
    system = small_system()
    t = jnp.array([0.0, 0.5, 1.0])
    np.testing.assert_array_equal(time_weight(system, "one", 0.0, t), np.ones(3))
    native = 1 / np.asarray(system.bridge.sigma(t)) ** 2
    np.testing.assert_allclose(time_weight(system, "native", 0.0, t), native, rtol=1e-6)
    np.testing.assert_allclose(
        time_weight(system, "native", 10.0, t), np.minimum(native, 10.0), rtol=1e-6
    )
    assert native[0] > 10 > native[2]
    with pytest.raises(ValueError, match="loss weight 'snr'.*native"):
        time_weight(system, "snr", 0.0, t)


# -- the teacher's step finds the posterior mean --------------------------------------------------


@dataclasses.dataclass(frozen=True)
class GaussianTask(System):
    """A system whose data are a Gaussian pair instead of images."""

    pair: GaussianPair = GaussianPair()

    def prepare(self, batch, key, augment):
        """Draws of the pair, keyed by the index as images are."""
        found = super().prepare(batch, key, augment)

        def draw(k):
            return self.pair.sample(k, (4, 4, 3))

        x0, xT = jax.vmap(draw)(found.keys)
        return dataclasses.replace(found, x0=x0, xT=xT, mask=None)


@pytest.mark.parametrize("conditional", [False, True])
def test_the_teacher_learns_the_posterior_mean(conditional):
    pair = GaussianPair(slope=0.8, std=0.3)
    net = Pointwise(conditional)
    system = GaussianTask(
        bridge=make_bridge("brownian"),
        preconditioning=make_preconditioning("none"),
        corruption=make_corruption("identity"), teacher=net, student=net, bridge_net=net,
        keep_known=False, flip=True, rotate=False, size=(4, 4), pair=pair,
    )  # fmt: skip
    steps, count = 1500, 64
    config = ConfigDict(
        dict(times="uniform", weight="one", weight_max=0.0, ema=0.99, microbatches=1)
    )
    adam = make_optimizer(optimizer_config(schedule="cosine", learning_rate=5e-3), steps)
    step = make_teacher_step(system, config, adam)

    @jax.jit
    def train():
        image = jnp.zeros((1, 4, 4, 3))
        params = net.init(jax.random.key(0), image, jnp.zeros(1), image)

        def one(state, k):
            index = (k * count + jnp.arange(count)).astype(jnp.uint32)
            batch = {"x0": jnp.zeros((count, 4, 4, 3), jnp.uint8), "index": index}
            return step(state, None, batch, jax.random.key(1), same)

        state = State.create(teacher=Player.create(params["params"], adam))
        return jax.lax.scan(one, state, jnp.arange(steps))

    state, metrics = train()
    rng = np.random.default_rng(0)
    t = jnp.asarray(np.repeat([0.05, 0.2, 0.4, 0.6, 0.8, 0.95], 500), jnp.float32)
    x0, xT = pair.sample(jax.random.key(5), (3000, 4, 4, 3))
    noise = rng.normal(size=x0.shape).astype(np.float32)
    xt = system.bridge.sample(x0, xT, t, noise)
    drawn = Pair(x0, xT, None, None)
    learnt = system.denoiser(state.players["teacher"].ema, drawn)(xt, t, xT)
    exact = pair.denoiser(system.bridge, conditional)(xt, t, xT)
    error = np.sqrt(np.mean((learnt - exact) ** 2) / np.mean(exact**2))
    assert error < 0.03
    # The loss has come down to the posterior variance, which no network can undercut.
    floor = float(np.mean((exact - x0) ** 2))
    assert abs(float(np.mean(metrics["loss"][-200:])) / floor - 1) < 0.25
