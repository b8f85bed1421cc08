"""Training: grafting, the steps, and what they must not depend on."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from jax_bridges.bridges import make_bridge
from jax_bridges.corruptions import make_corruption
from jax_bridges.keys import ONLY, Stream, fold, normal, uniform
from jax_bridges.preconditioning import make_preconditioning
from jax_bridges.training.methods.ibmd import make_ibmd_step
from jax_bridges.training.optimizers import ema_update, make_optimizer
from jax_bridges.training.state import Player, State, graft
from jax_bridges.training.steps import make_teacher_step, time_weight
from jax_bridges.training.system import Pair, System
from tests.support.gaussian import GaussianPair
from tests.support.toy import (
    Pointwise,
    compiled,
    image_batch,
    leaves_equal,
    optimizer_config,
    random_params,
    same,
    small_config,
    small_system,
    zero_z,
)

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
        bridge_net=Player.create(graft(teacher, zero_z(system.networks["bridge_net"])), adam),
    )
    return first, state, second, game, teacher


def group(updates=2, count=4):
    parts = [image_batch(count, k * count) for k in range(updates + 1)]
    return jax.tree.map(lambda *a: np.stack(a), *parts)


@pytest.mark.slow
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


@pytest.mark.parametrize(
    "bridge_ema, first_time", [(0.0, 1.0), (0.95, 0.9)], ids=["published", "ours"]
)
def test_one_step_of_ibmd_is_optax_on_the_pure_losses(bridge_ema, first_time):
    """Rebuilt from the published algorithm, and our additions, with the batch's own randomness."""
    config = small_config(**{"distill.student_steps": 1, "evaluate.student_nfe": (1,)})
    config.distill.normalize = False
    config.distill.weight, config.distill.bridge_ema = "one", bridge_ema
    config.distill.bridge_updates, config.distill.first_time = 1, first_time
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
            t = jnp.floor(uniform(fold(pair.keys, Stream.TIME), ONLY) * 1000) / 999
            return pair, t, normal(fold(pair.keys, Stream.NOISE), ONLY, pair.xT)

        def answer(params, pair):
            z = normal(fold(pair.keys, Stream.STUDENT), 0, pair.xT)
            t, xt = jnp.full(4, first_time), pair.xT
            if first_time < 1:
                a, _, c = (v.reshape(-1, 1, 1, 1) for v in system.bridge.coefficients(t))
                xt = a * xt + c * normal(fold(pair.keys, Stream.STUDENT), 1, xt)
            return system.generator(params, pair)(xt, t, pair.xT, z)

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
        decay = min(bridge_ema, 2 / 11)  # where the average's warm-up begins
        average = jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, teacher, phi)

        def loss(params):
            pair, t, noise = points(jax.tree.map(lambda a: a[1], batch))
            x0 = answer(params, pair)
            by_teacher = error(teacher, pair, x0, t, noise)
            return jnp.mean(by_teacher - error(average, pair, x0, t, noise))

        loss_g, grads = jax.value_and_grad(loss)(student)
        return loss_b, phi, loss_g, jax.tree.map(lambda p, g: p - 0.1 * g, student, grads)

    loss_b, phi, loss_g, generator = by_hand()
    np.testing.assert_allclose(metrics["bridge_loss"], loss_b, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], loss_g, rtol=1e-3)
    close = functools.partial(np.testing.assert_allclose, atol=2e-5, rtol=1e-4)
    jax.tree.map(close, after.players["bridge_net"].params, phi)
    jax.tree.map(close, after.players["generator"].params, generator)


def test_the_bridge_nets_average_counts_its_own_updates():
    """Its warm-up goes on with each of a step's L updates; here each makes every parameter 1 larger."""
    updates, steps, decay = 3, 2, 0.99
    config = small_config(**{"distill.student_steps": 1, "evaluate.student_nfe": (1,)})
    config.distill.bridge_updates, config.distill.bridge_ema = updates, decay
    system = small_system(config)
    grow = optax.GradientTransformation(
        lambda params: optax.EmptyState(),
        lambda grads, state, params: (jax.tree.map(jnp.ones_like, grads), state),
    )
    grow, still = (optax.apply_if_finite(each, 10) for each in (grow, optax.sgd(0.0)))
    teacher = random_params(system.teacher)
    student = graft(teacher, random_params(system.student))
    step = make_ibmd_step(system, config.distill, still, grow)

    def inner(state, frozen, batch, key, mean):
        """The step without the generator's part, which need not be compiled."""
        after, _ = step(state, frozen, batch, key, mean)
        players = {**after.players, "generator": state.players["generator"]}
        return after.replace(players=players)

    state = State.create(
        generator=Player.create(student, still), bridge_net=Player.create(teacher, grow)
    )
    run = compiled(inner)
    for _ in range(steps):
        state = run(state, teacher, group(updates), jax.random.key(0), same)
    moved = jax.tree.map(lambda a, b: a - b, state.players["bridge_net"].ema, teacher)
    expected = 0.0  # of the numbers 1, 2, ... in turn
    for k in range(updates * steps):
        expected = ema_update(expected, k + 1.0, jnp.int32(k), decay)
    for leaf in jax.tree.leaves(moved):
        np.testing.assert_allclose(leaf, expected, rtol=1e-5)


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


@pytest.mark.usefixtures("optimised")
@pytest.mark.parametrize("conditional", [False, True])
def test_the_teacher_learns_the_posterior_mean(conditional):
    pair = GaussianPair(slope=0.8, std=0.3)
    net = Pointwise(conditional)
    system = GaussianTask(
        bridge=make_bridge("brownian"),
        preconditioning=make_preconditioning("none"),
        corruption=make_corruption("identity"), networks={"teacher": net},
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
