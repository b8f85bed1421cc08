"""IBMD's settings: what each changes in a step, what goes together, and a run with most of them."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jax_bridges.main
from jax_bridges.bridges import make_bridge
from jax_bridges.config import record
from jax_bridges.corruptions import make_corruption
from jax_bridges.distillation import generator_loss, roll_out_random
from jax_bridges.keys import example_keys, shared_key
from jax_bridges.players import read_player
from jax_bridges.samplers import sample_few_step
from jax_bridges.stages.distill import distill
from jax_bridges.stages.log import NoLog
from jax_bridges.stages.run import Run, StopSignal
from jax_bridges.times import student_grid, training_times
from jax_bridges.training.methods import find_method, sample_student
from jax_bridges.training.methods.ibmd import IBMD, make_ibmd_step
from jax_bridges.training.methods.ibmd_answers import clamped
from jax_bridges.training.methods.ibmd_settings import check
from jax_bridges.training.parallel import Parallel
from jax_bridges.training.state import Player, State, graft
from jax_bridges.training.system import Pair, System
from tests.support.restorers import save_player
from tests.support.runs import lines, saved, tiny
from tests.support.toy import (
    compiled,
    image_batch,
    random_params,
    same,
    small_config,
    small_system,
)

BRIDGE = make_bridge("brownian")


def generate(xt, t, xT, z):
    t = jnp.broadcast_to(t, xt.shape[:1]).reshape(-1, 1, 1, 1)
    return jnp.tanh(0.6 * xt + 0.3 * xT + 0.4 * z + 0.2 * t)


# -- one call for all -----------------------------------------------------------------------------------
@pytest.mark.parametrize("one_z", [False, True])
def test_one_call_for_all_is_that_call_of_each_and_makes_no_more(one_z):
    xT = jax.random.normal(jax.random.key(1), (3, 2, 2, 1))
    keys, made = example_keys(jax.random.key(0), jnp.arange(3)), []
    times = jnp.asarray(student_grid(BRIDGE, 4), jnp.float32)

    def counted(*args):
        jax.debug.callback(lambda: made.append(1))
        return generate(*args)

    @jax.jit
    def for_all(which):
        return roll_out_random(counted, BRIDGE, xT, times, keys, which, one_z=one_z)

    for k in range(4):
        made.clear()
        found = jax.block_until_ready(for_all(jnp.int32(k)))
        jax.effects_barrier()
        assert len(made) == k + 1
        each = roll_out_random(generate, BRIDGE, xT, times, keys, jnp.full(3, k), one_z=one_z)
        for a, b in zip(found, each, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)


def test_one_z_is_that_of_the_first_call():
    xT = jnp.zeros((2, 2, 2, 1))
    keys, seen = example_keys(jax.random.key(0), jnp.arange(2)), []

    def spy(xt, t, xT, z):
        seen.append(z)
        return generate(xt, t, xT, z)

    times = jnp.asarray(student_grid(BRIDGE, 3), jnp.float32)
    for one_z in (True, False):
        seen.clear()
        with jax.disable_jit():
            sample_few_step(spy, BRIDGE, xT, times, keys, one_z=one_z)
        distances = [float(jnp.abs(z - seen[0]).max()) for z in seen[1:]]
        assert len(seen) == 3 and (max(distances) == 0.0 if one_z else min(distances) > 0.1)


def test_noise_fades_with_the_time_of_a_call():
    """At t a student that fades is fed what one that does not is fed at (t / T)^p z."""
    keys = example_keys(jax.random.key(0), jnp.arange(2, dtype=jnp.uint32))
    systems = [small_system(small_config(**{"distill.z_fade": p})) for p in (0.0, 2.0)]
    params = random_params(systems[0].student)
    rng = np.random.default_rng(0)
    x, xT, z = rng.standard_normal((3, 2, 8, 8, 3)).astype(np.float32)
    pair = Pair(x, xT, None, keys)
    plain, fading = (system.generator(params, pair) for system in systems)
    t = jnp.array([0.5, 1.0]) * systems[0].bridge.T
    least = jnp.array([0.25, 1.0]).reshape(-1, 1, 1, 1)
    np.testing.assert_allclose(
        fading(x, t, xT, z), plain(x, t, xT, least * z), rtol=1e-5, atol=1e-6
    )
    assert jnp.abs(fading(x, t, xT, z) - plain(x, t, xT, z))[0].max() > 1e-2
    at_half = fading(x, t[0], xT, z)  # one time for all
    np.testing.assert_allclose(at_half, plain(x, t[0], xT, 0.25 * z), rtol=1e-5, atol=1e-6)


def test_a_microbatchs_key_is_its_own_and_no_examples():
    key = jax.random.key(3)
    data = lambda k: jax.random.key_data(k).tobytes()  # noqa: E731
    one = {data(shared_key(key, step, update, part)) for step in range(3) for update in range(3)
           for part in range(3)}  # fmt: skip
    assert len(one) == 27


@pytest.mark.parametrize("name", ["i2sb", "brownian"])
def test_times_before_a_call(name):
    """Uniform on [t_min, t_n); on a table over the entries before n."""
    bridge = make_bridge(name)
    u, below = jnp.linspace(0, 0.9999, 4001), jnp.float32(0.5)
    laws = {
        "uniform": 1 / 2,
        "towards_source": 2 / 3,
        "towards_clean": 1 / 3,
        "half_at_source": 3 / 4,
    }
    for law, mean in laws.items():
        t = np.asarray(training_times(law, bridge, u, below))
        assert t.min() == bridge.t_min and t.max() < 0.5
        assert abs((t.mean() - bridge.t_min) / 0.5 - mean) < 2e-3
    t = np.asarray(training_times("even_levels", bridge, u, below))
    assert t.min() >= bridge.t_min and t.max() < 0.5


def test_what_lies_beyond_is_seen_clamped_and_pulled_back():
    """A teacher that believes what is there, and more of what no image has, drives x_0 = 5 further out."""
    given = jnp.array([-3.0, -1.0, 0.4, 1.0, 5.0]).reshape(5, 1, 1, 1)
    np.testing.assert_array_equal(clamped(given), jnp.clip(given, -1, 1))
    weights = jnp.arange(1.0, 6.0).reshape(given.shape)
    slope = jax.grad(lambda x: jnp.sum(weights * clamped(x)))(given)
    np.testing.assert_array_equal(slope, weights)  # as if it were not clamped

    def teacher(xt, t, xT):
        return jnp.where(jnp.abs(xt) > 1.05, 1.2 * xt, 0.9 * xt)

    def pull(x, see):
        known = jax.lax.stop_gradient(see(x))  # by a bridge net that knows its answers
        t, zero = jnp.full(5, 0.01), jnp.zeros_like(x)
        args = (teacher, lambda xt, t, xT: known, make_bridge("brownian"))
        loss = lambda x: jnp.sum(generator_loss(*args, see(x), zero, t, zero, 1.0, detach_xt=True))  # noqa: E731
        return jax.grad(loss)(x).ravel()

    assert pull(given, lambda x: x)[-1] < 0 < pull(given, clamped)[-1]
    assert pull(given, lambda x: x)[0] > 0 > pull(given, clamped)[0]
    np.testing.assert_array_equal(pull(given, clamped)[1:4], pull(given, lambda x: x)[1:4])


# -- what a step does -------------------------------------------------------------------------------------
def stepped(**changes):
    """(before, after, metrics) of one step of plain gradient descent, pointwise networks."""
    changes = {f"distill.{key}": value for key, value in changes.items()}
    config = small_config(**{"distill.bridge_updates": 1, "distill.first_time": 1.0, **changes})
    system = small_system(config)
    sgd = optax.apply_if_finite(optax.sgd(0.1), 10)
    teacher = random_params(system.teacher)
    state = {}
    for seed, name in enumerate(("generator", "bridge_net")):
        net = system.networks[name]
        state[name] = Player.create(graft(teacher, random_params(net, seed=seed + 2)), sgd)
    if "critic" in system.networks:
        state["critic"] = Player.create(system.init(jax.random.key(5), "critic"), sgd)
    state = State.create(**state)
    batch = jax.tree.map(lambda *a: np.stack(a), image_batch(4), image_batch(4, 4))
    step = compiled(make_ibmd_step(system, config.distill, sgd, sgd, sgd))
    after, metrics = step(state, teacher, batch, jax.random.key(0), same)
    return state, after, {k: float(v) for k, v in metrics.items()}


def moved(a, b, player):
    pairs = zip(*(jax.tree.leaves(s.players[player].params) for s in (a, b)), strict=True)
    return max(float(jnp.abs(x - y).max()) for x, y in pairs)


BASE = {"student_steps": 2, "first_call": 0.5}


@pytest.fixture(scope="module")
def base():
    return stepped(**BASE)


CHANGES = {
    # setting: (its value, whose parameters it changes)
    "detach_xt": (True, {"generator"}),
    "inner_weight": (0.8, {"generator"}),
    "clamp": (True, {"generator", "bridge_net"}),
    "weight_tilt": (1.0, {"generator"}),
    "xt_from": ("call", {"generator", "bridge_net"}),
    "z_per": ("chain", {"generator", "bridge_net"}),
    "call_per": ("microbatch", {"generator", "bridge_net"}),
    "roll_out": ("renoised", {"generator", "bridge_net"}),
    "ancestral": (True, {"generator", "bridge_net"}),
    "real_alpha": (0.9, {"generator", "bridge_net"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANGES)
def test_a_setting_changes_what_it_says(base, name):
    value, whose = CHANGES[name]
    extra = {"real_beta": 0.9} if name == "real_alpha" else {}
    start, after, metrics = stepped(**BASE | {name: value} | extra)
    assert np.isfinite(list(metrics.values())).all()
    assert min(moved(start, after, player) for player in after.players) > 1e-5
    for player in ("generator", "bridge_net"):
        # (A changed bridge net changes the generator's gradient too.)
        assert (moved(base[1], after, player) > 1e-7) == (player in whose), player


@pytest.mark.slow
@pytest.mark.parametrize("sees", ["xt", "x0"])
def test_a_critic_moves_and_is_paid(base, sees):
    start, after, metrics = stepped(
        **BASE, gan_weight=0.5, critic_sees=sees, critic_channels=8, critic_layers=1
    )
    assert moved(start, after, "critic") > 1e-5
    assert metrics["bridge_loss"] == pytest.approx(base[2]["bridge_loss"], rel=1e-6)
    assert moved(base[1], after, "bridge_net") < 1e-6 < moved(base[1], after, "generator")
    # A fresh critic knows nothing: near log 2 of each, and half of that is paid.
    assert metrics["critic_loss"] == pytest.approx(2 * np.log(2), rel=0.5)
    assert metrics["fooling_loss"] == pytest.approx(0.5 * np.log(2), rel=0.7)


def test_temperature_is_a_share_of_the_noise_that_a_student_samples_with():
    config = small_config(
        **{"distill.z_scale": 3.0, "distill.z_fade": 1.0, "distill.temperature": 1.0}
    )
    params = random_params(small_system(config).student)
    keys = jax.random.split(jax.random.key(1), 4)

    def answers(**changes):
        with config.unlocked():
            config.distill.update(changes)
        system = small_system(config)
        pair = system.prepare(image_batch(4), jax.random.key(0), augment=False)
        return np.asarray(sample_student(system, config.distill, params, pair, 2, keys))

    as_trained = answers()
    half = answers(temperature=0.5)
    assert np.abs(half - as_trained).max() > 1e-3
    np.testing.assert_allclose(half, answers(temperature=1.0, z_scale=1.5), atol=1e-5)
    np.testing.assert_allclose(answers(temperature=0.0), answers(z_scale=0.0), atol=1e-5)


def test_a_student_is_loaded_with_the_temperature_that_its_run_says_now(tmp_path):
    """It may change after training; a folder without config.json has what is recorded beside the weights."""
    config = small_config(**{"distill.temperature": 0.5})
    recorded = record(config)
    save_player(tmp_path, "distill", "generator", System.create(config), recorded)
    assert read_player(tmp_path, "student")[0]["distill"]["temperature"] == 0.5
    recorded["distill"]["temperature"] = 0.25
    (tmp_path / "config.json").write_text(json.dumps(recorded))
    found, _ = read_player(tmp_path, "student")
    assert found["distill"] == recorded["distill"]
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="config.json cannot be read .*: put it back"):
        read_player(tmp_path, "student")


def test_averages_without_a_warm_up():
    for warmup, decay in ((True, 2 / 11), (False, 0.99)):
        start, after, _ = stepped(student_steps=1, first_call=1.0, ema=0.99, ema_warmup=warmup)
        old, new = (s.players["generator"].params["last"]["kernel"] for s in (start, after))
        average = after.players["generator"].ema["last"]["kernel"]
        np.testing.assert_allclose(average, decay * old + (1 - decay) * new, atol=1e-6)


def test_starts_are_the_average_or_the_raw_weights():
    config = small_config(**{"distill.start": "raw", "distill.bridge_start": "average"})
    system = small_system(config)
    average, raw = (random_params(system.teacher, seed=seed) for seed in (0, 7))
    make_state, _ = IBMD.make(system, config.distill)
    state = jax.jit(make_state)(jax.random.key(0), average, raw)
    kernel = lambda tree: np.asarray(tree["second"]["kernel"])  # noqa: E731
    generator, net = (state.players[name] for name in ("generator", "bridge_net"))
    np.testing.assert_array_equal(kernel(generator.params), kernel(raw))
    for tree in (generator.ema, net.params, net.ema):
        np.testing.assert_array_equal(kernel(tree), kernel(average))
    assert IBMD.raw(config.distill)
    config.distill.start = "average"
    assert not IBMD.raw(config.distill)


# -- what goes together -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "changes, said",
    [
        ({"real_beta": 0.9}, "distill.real_beta is 0.9 at distill.real_alpha 1"),
        ({"ancestral": True, "first_time": 0.97}, "distill.ancestral steps on from"),
        ({"critic_optimizer.weight_decay": 0.1}, "distill.critic_optimizer.weight_decay is 0.1"),
    ],
)
def test_what_does_not_go_together_is_refused(changes, said):
    config = small_config(**{f"distill.{key}": value for key, value in changes.items()})
    with pytest.raises(ValueError, match=said):
        check(config.distill, BRIDGE, make_corruption("superres", kind="pool", factor=2))


def test_a_consistency_student_has_all_channels_of_noise_or_none():
    config = small_config(**{"distill.method": "cbd", "distill.z_channels": 1})
    with pytest.raises(ValueError, match="distill.z_channels is 1, but a student of cbd is fed"):
        method, settings = find_method(config.distill)
        method.check(settings, BRIDGE, make_corruption("superres", kind="pool", factor=2))


# -- a whole run ------------------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.usefixtures("handlers")
def test_a_run_with_most_of_them(images, tmp_path):
    """From raw weights, with renoising, dropout, real images and a critic; and it goes on from its checkpoint."""
    workdir = tmp_path / "run"
    settings = {
        "roll_out": "renoised", "chain_ema": True, "xt_from": "call", "first_time": 1.0, "ancestral": True,
        "start": "raw", "bridge_start": "raw", "dropout": True, "bridge_dropout": True, "z_channels": 1,
        "z_per": "chain", "real_alpha": 0.9, "real_beta": 0.9, "gan_weight": 0.1, "critic_channels": 8,
        "critic_layers": 1, "call_per": "microbatch", "microbatches": 2, "detach_xt": True,
        "optimizer.learning_rate": 1e-12,
    }  # fmt: skip
    config = tiny(images, **{f"distill.{key}": value for key, value in settings.items()})
    config.network.dropout = 0.1
    jax_bridges.main.run(config, workdir)
    logged = [line for line in lines(workdir) if line["stage"] == "distill"]
    assert all(np.isfinite(line[key]) for line in logged for key in ("critic_loss", "fooling_loss"))
    found = saved(workdir, "distill")["params"]
    assert set(found) == {"generator", "bridge_net", "critic"}
    raw, average = (saved(workdir, "train")[field]["teacher"] for field in ("params", "ema"))
    name = next(k for k in raw if "kernel" in raw[k])
    ours = found["generator"][name]["kernel"]
    np.testing.assert_allclose(ours, raw[name]["kernel"], atol=1e-9)
    assert np.abs(ours - average[name]["kernel"]).max() > 1e-6
    # The same weights, as the stage reads them.
    system = System.create(config)
    parallel = Parallel.create("fsdp", devices=jax.devices()[:1])
    run = Run(config, workdir, system, parallel, None, None, NoLog(), StopSignal())
    read = distill(run, average).raw()
    np.testing.assert_array_equal(read[name]["kernel"], raw[name]["kernel"])
