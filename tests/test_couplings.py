"""Modes of training on a Gaussian pair: augmented matching, rectified flow and reflow, DSBM."""

from __future__ import annotations

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_bridges.bridges import VP, Brownian, make_bridge
from jax_bridges.data.unpaired import Unpaired
from jax_bridges.keys import example_keys, fold
from jax_bridges.preconditioning import make_preconditioning
from jax_bridges.samplers import sample_ancestral, sample_sde_euler, straightness
from jax_bridges.times import angle_grid, uniform_grid
from jax_bridges.training.couplings import is_symmetric, make_dsbm_step, make_reflow_step
from jax_bridges.training.optimizers import make_optimizer
from jax_bridges.training.state import Player, State
from jax_bridges.training.steps import make_teacher_step
from jax_bridges.training.system import Pair, System
from jax_bridges.validation import validate
from tests.support.config_files import changed
from tests.support.gaussian import GaussianPair, law
from tests.support.toy import image_batch, optimizer_config, same, small_config

PAIR = GaussianPair(slope=0.8, std=0.3, source_mean=0.2, source_std=1.1)
FLOW = Brownian(deterministic=True, t_min=1e-7)


def schroedinger_covariance(std0: float, stdT: float, noise2: float) -> float:
    """cov(x_0, x_T) of the bridge between two Gaussians whose Brownian reference has variance noise2.

    Static entropic transport in one dimension (Janati et al. 2020, arXiv 2006.02572, thm. 1).
    """
    return 0.5 * (np.sqrt(noise2**2 + 4 * std0**2 * stdT**2) - noise2)


def ancestral_law(bridge, pair, conditional, steps=400):
    """Mean, variance and covariance with x_T of x_0 by the exact denoiser."""
    denoise, times = pair.denoiser(bridge, conditional), angle_grid(bridge, steps)
    return law(
        lambda xT, keys: sample_ancestral(denoise, bridge, xT, times, keys), pair, 2 * steps + 1
    )


# -- closed forms -----------------------------------------------------------------------------


def test_augmented_matching_keeps_the_coupling_and_plain_matching_the_marginals(float64):
    bridge = Brownian(epsilon=0.8, t_min=1e-7)
    m = PAIR.moments()
    augmented, plain = (ancestral_law(bridge, PAIR, c) for c in (True, False))
    np.testing.assert_allclose(augmented, [m.mean, m.variance, m.covariance], atol=6e-3)
    np.testing.assert_allclose(plain[:2], [m.mean, m.variance], atol=6e-3)
    # The covariance with x_T decays along the paths as d log cov = (1 - gain) dt / t.
    t = np.linspace(0, 1, 200001)[1:-1]
    variance = t**2 * m.source_variance + (1 - t) ** 2 * m.variance
    variance += 2 * t * (1 - t) * m.covariance + 0.64 * t * (1 - t)
    gain = (t * m.covariance + (1 - t) * m.variance) / variance
    kept = m.source_variance * np.exp(-np.trapezoid((1 - gain) / t, t))
    assert abs(plain[2] - kept) < 6e-3
    assert m.covariance - plain[2] > 0.05


def iterate(cov, std0, stdT, epsilon, steps=2000):
    """One round of iterative Markovian fitting, exactly: variance of x_0 and covariance with x_T.

    Ancestral steps on the Brownian bridge with `E[x_0 | x_t]` of the coupling with covariance `cov`.
    """
    times = 0.5 + 0.5 * np.cos(np.linspace(0, np.pi, steps + 1))
    variance, made = stdT**2, stdT**2
    for t, s in zip(times[:-1], times[1:], strict=True):
        spread = t**2 * stdT**2 + (1 - t) ** 2 * std0**2 + 2 * t * (1 - t) * cov
        gain = (t * cov + (1 - t) * std0**2) / (spread + epsilon**2 * t * (1 - t))
        keep = (1 - s / t) * gain + s / t
        variance = keep**2 * variance + epsilon**2 * s * (t - s) / t
        made *= keep
    return variance, made


def test_iterative_markovian_fitting_ends_in_the_schroedinger_bridge():
    """Backward and forward in turn with exact networks; the given coupling does not matter."""
    std0, stdT, epsilon = 0.5, 1.0, 0.8
    want = schroedinger_covariance(std0, stdT, epsilon**2)
    for cov in (0.0, 0.45, -0.2):
        for turn in range(6):
            start, end = (stdT, std0) if turn % 2 == 0 else (std0, stdT)
            variance, cov = iterate(cov, end, start, epsilon)
            assert abs(variance - end**2) < 2e-3
        assert abs(cov - want) < 0.01 * want, (cov, want)


def test_reflow_straightens_and_keeps_the_marginals(float64):
    """Independent Gaussians: curved paths of known shape, then straight ones."""
    std0, stdT = 0.4, 1.3
    first = GaussianPair(slope=0.0, std=std0, source_mean=0.0, source_std=stdT)
    second = GaussianPair(slope=std0 / stdT, std=0.0, source_mean=0.0, source_std=stdT)
    xT = jnp.linspace(-2.0, 2.0, 5).reshape(5, 1, 1, 1)
    times = uniform_grid(FLOW, 1000)
    for pair, conditional in ((first, False), (second, False)):
        mean, variance, _ = ancestral_law(FLOW, pair, conditional)
        assert abs(mean) < 1e-9 and abs(variance / std0**2 - 1) < 0.015  # Euler's, of 400 steps
    # Paths of the first round are x_t = x_T std(t) / std_T.
    t = np.linspace(0, 1, 100001)
    spread = np.sqrt(t**2 * stdT**2 + (1 - t) ** 2 * std0**2) / stdT
    curve = np.trapezoid((np.gradient(spread, t) - (1 - std0 / stdT)) ** 2, t)
    by_first = straightness(first.denoiser(FLOW, False), FLOW, xT, times)
    np.testing.assert_allclose(by_first, curve * xT.ravel() ** 2, rtol=5e-3, atol=1e-9)
    by_second = straightness(second.denoiser(FLOW, False), FLOW, xT, times)
    assert float(by_second.max()) < 1e-9 < 0.1 < float(by_first.max())
    one_call = sample_ancestral(second.denoiser(FLOW, False), FLOW, xT, uniform_grid(FLOW, 1), None)
    np.testing.assert_allclose(one_call, xT * std0 / stdT, atol=1e-6)


def test_straightness_is_of_flows_only():
    with pytest.raises(ValueError, match="must be deterministic"):
        straightness(PAIR.denoiser(VP(), False), VP(), jnp.zeros((1, 1, 1, 1)), np.array([1.0, 0]))


def test_velocity_scaling_predicts_the_velocity(float64):
    scaling, t = make_preconditioning("velocity"), jnp.asarray([0.2, 0.7])
    for bridge in (FLOW, make_bridge("interpolant", path="trigonometric", gamma="zero")):
        x0, xT = jnp.asarray([0.3, -0.6]), jnp.asarray([0.9, 0.4])
        xt = bridge.sample(x0, xT, t, 0.0)
        c_in, c_skip, c_out, c_noise = scaling.scalings(bridge, t)
        slopes = jax.jvp(lambda t: bridge.coefficients(t)[:2], (t,), (jnp.ones(2),))[1]
        velocity = slopes[0] * xT + slopes[1] * x0
        np.testing.assert_allclose(c_skip * xt + c_out * velocity, x0, atol=1e-12)
        np.testing.assert_allclose(scaling.weight(bridge, t) * c_out**2, 1.0)
        np.testing.assert_allclose(c_in, 1.0)
        np.testing.assert_allclose(c_noise, 1000 * t)
    np.testing.assert_allclose(scaling.scalings(FLOW, t).c_out, -t)
    with pytest.raises(ValueError, match="which a table .*: take bridge 'brownian'"):
        scaling.scalings(make_bridge("i2sb"), t)


def test_symmetric_bridges():
    assert is_symmetric(Brownian(epsilon=0.3)) and is_symmetric(make_bridge("i2sb"))
    assert is_symmetric(make_bridge("interpolant", path="trigonometric"))
    for name in ("vp", "ve", "goub", "resshift"):
        assert not is_symmetric(make_bridge(name)), name
    assert not is_symmetric(make_bridge("interpolant", source_std=0.1))


# -- the training steps -----------------------------------------------------------------------


class Affine(nn.Module):
    """F = p(t) x + q(t), polynomials in the root of t: all that Gaussian marginals ask for."""

    z_channels: int = 0
    dropout: float = 0.0
    order: int = 6

    @nn.compact
    def __call__(self, x, c_noise, xT=None, z=None, label=None, train=False):
        weights = self.param("weights", nn.initializers.zeros, (self.order, 2))
        u = 2.0 * jnp.sqrt(c_noise / 1000.0) - 1.0
        basis = jnp.stack([jnp.cos(k * jnp.arccos(jnp.clip(u, -1, 1))) for k in range(self.order)])
        p, q = jnp.moveaxis(jnp.tensordot(basis, weights, ((0,), (0,))), -1, 0)
        return p.reshape(-1, 1, 1, 1) * x + q.reshape(-1, 1, 1, 1)


@dataclasses.dataclass(frozen=True)
class GaussianTask(System):
    """A system whose data are a Gaussian pair instead of images."""

    pair: GaussianPair = GaussianPair()

    def prepare(self, batch, key, augment):
        keys = example_keys(key, batch["index"])
        shape = (*self.size, self.channels)
        x0, xT = jax.vmap(lambda k: self.pair.sample(k, shape))(fold(keys, 9))
        return Pair(x0, xT, None, keys)


def gaussian_system(pair, bridge, scaling) -> GaussianTask:
    system = System.create(small_config())
    fields = {f.name: getattr(system, f.name) for f in dataclasses.fields(system)}
    fields |= dict(networks={"teacher": Affine()}, bridge=bridge, keep_known=False)
    fields |= dict(preconditioning=make_preconditioning(scaling))
    return GaussianTask(**fields, pair=pair)


def fit(system, make, steps, batch=64, frozen=None, players=("teacher",), rate=2e-2, **changes):
    """Trains a mode's step; returns the averages of its players."""
    config = small_config().train
    config.update(dict(steps=steps, weight="native", ema=0.97, **changes))
    config.optimizer = optimizer_config(learning_rate=rate, b1=0.9, b2=0.99)
    optimizer = make_optimizer(config.optimizer, steps)
    params = {"weights": jnp.zeros((Affine.order, 2))}
    state = State.create(**{name: Player.create(params, optimizer) for name in players})
    step = make(system, config, optimizer)
    images = np.zeros((batch, 1), np.uint8)  # never looked at

    @jax.jit
    def run(state):
        def body(state, k):
            index = jnp.arange(batch, dtype=jnp.uint32) + k * batch
            part = {"x0": images, "index": index}
            return step(state, frozen, part, jax.random.key(0), same)

        return jax.lax.scan(body, state, jnp.arange(steps, dtype=jnp.uint32))

    state, metrics = run(state)
    assert np.isfinite(metrics["loss"]).all()
    return {name: player.ema for name, player in state.players.items()}


def sampled(system, params, steps=200, images=200, start=None):
    """x_T and the x_0 that a network leads it to; from `start` instead where given."""
    batch = {"index": jnp.arange(images, dtype=jnp.uint32)}

    @jax.jit
    def draw(params):
        pair = system.prepare(batch, jax.random.key(5), False)
        source = pair.xT if start is None else getattr(pair, start)
        bridge, denoise = system.bridge, system.denoiser(params, pair)
        sample = sample_ancestral if bridge.deterministic else sample_sde_euler
        times = uniform_grid(bridge, steps)
        return source, sample(denoise, bridge, source, times, fold(pair.keys, 7))

    return tuple(np.asarray(v).ravel() for v in draw(params))


@pytest.mark.slow
@pytest.mark.usefixtures("optimised")
def test_dsbm_step_finds_the_schroedinger_bridge():
    """From unpaired Gaussians: marginals kept both ways, and the coupling of the closed form."""
    std0, stdT, epsilon = 0.5, 1.0, 0.8
    pair = GaussianPair(slope=0.0, std=std0, source_mean=0.3, source_std=stdT)
    system = gaussian_system(pair, Brownian(epsilon=epsilon, t_min=1e-4), "i2sb")
    want = schroedinger_covariance(std0, stdT, epsilon**2)
    assert iterate(0.0, std0, stdT, epsilon)[1] < 0.9 * want  # where plain matching would end
    last = fit(
        system, make_dsbm_step, 450, rounds=3, players=("teacher", "forward"), simulation_steps=40
    )
    xT, x0 = sampled(system, last["teacher"])
    assert abs(x0.mean()) < 0.01 and abs(x0.std() / std0 - 1) < 0.03
    assert abs(np.cov(xT, x0)[0, 1] / want - 1) < 0.04, (np.cov(xT, x0)[0, 1], want)
    x0, xT = sampled(system, last["forward"], start="x0")
    assert abs(xT.mean() - 0.3) < 0.03 and abs(xT.std() / stdT - 1) < 0.03
    assert abs(np.cov(xT, x0)[0, 1] / want - 1) < 0.06, (np.cov(xT, x0)[0, 1], want)


@pytest.mark.slow
@pytest.mark.usefixtures("optimised")
def test_reflow_step_straightens_a_learned_flow():
    std0, stdT = 0.4, 1.3
    pair = GaussianPair(slope=0.0, std=std0, source_mean=0.0, source_std=stdT)
    system = gaussian_system(pair, Brownian(deterministic=True, t_min=1e-3), "velocity")
    first = fit(system, make_teacher_step, 300)["teacher"]
    second = fit(system, make_reflow_step, 300, frozen=first, simulation_steps=100)["teacher"]
    results = {}
    for name, params in (("first", first), ("second", second)):
        xT, x0 = sampled(system, params)
        assert abs(x0.mean()) < 0.02 and abs(x0.std() / std0 - 1) < 0.04, name
        _, by_one = sampled(system, params, steps=1)
        given = system.prepare({"index": jnp.arange(8)}, jax.random.key(1), False)
        bend = straightness(
            system.denoiser(params, given), system.bridge, given.xT, uniform_grid(system.bridge, 60)
        )
        results[name] = float(bend.mean()), float(np.sqrt(np.mean((by_one - x0) ** 2)))
    assert results["second"][0] < 0.03 * results["first"][0], results
    assert results["second"][1] < 0.1 < 0.3 < results["first"][1], results


def test_rounds_train_one_player_at_a_time():
    """The resting player, its optimiser and its average do not move; the turn is the step's alone."""
    pair = GaussianPair(slope=0.0, std=0.5, source_std=1.0)
    system = gaussian_system(pair, Brownian(t_min=1e-4), "i2sb")
    config = small_config().train
    config.update(dict(steps=6, rounds=3, simulation_steps=2, weight="native"))
    optimizer = make_optimizer(optimizer_config(), 6)
    player = Player.create({"weights": jnp.full((Affine.order, 2), 0.1)}, optimizer)
    state = State.create(teacher=player, forward=player)
    step = jax.jit(functools.partial(make_dsbm_step(system, config, optimizer), mean=same))
    batch = image_batch(4)
    for turn in ("teacher", "teacher", "forward", "forward", "teacher", "teacher"):
        after, _ = step(state, None, batch, jax.random.key(0))
        rests = "forward" if turn == "teacher" else "teacher"
        jax.tree.map(np.testing.assert_array_equal, after.players[rests], state.players[rests])
        moved = after.players[turn].params["weights"] - state.players[turn].params["weights"]
        assert float(jnp.abs(moved).min()) > 0 and int(after.step) == int(state.step) + 1
        state = after


# -- configuration and data -------------------------------------------------------------------

DSBM = dict(
    train__mode="dsbm", network__conditional=False, keep_known=False, bridge={"name": "brownian"}
)


@pytest.mark.parametrize(
    "changes, words",
    [
        (DSBM | dict(train__rounds=2), "train.rounds is 2: it must be odd"),
        (DSBM | dict(train__rounds=7), "divide train.steps, [0-9]+"),
        (dict(train__rounds=3), "only train.mode 'dsbm' has rounds"),
        (DSBM | dict(network__conditional=True), "set network.conditional to False"),
        (DSBM | dict(keep_known=True), "set keep_known to False"),
        (DSBM | dict(bridge={"name": "i2sb"}, train__simulation_steps=1000), "1000"),
        (DSBM | dict(bridge={"name": "vp"}), "'vp' is not the same from both ends"),
        (DSBM | dict(bridge={"name": "brownian", "deterministic": True}), "has no noise"),
        (DSBM | dict(train__mode="reflow"), "give its folder as teacher.init"),
        (dict(data__unpaired=True), "data.unpaired is for data with an x_T of their own"),
        (dict(bridge={"name": "goub"}, network__conditional=False), "drifts towards x_T"),
    ],
)
def test_modes_that_do_not_exist_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        validate(changed(**changes))


def test_modes_that_exist_are_accepted():
    validate(changed(**DSBM, train__rounds=3))
    for bridge in ("goub", "resshift", "interpolant"):
        validate(changed(bridge={"name": bridge}, distill__roll_out="chain"))


class Numbers:
    """A paired source whose images are their own number."""

    name, size = "numbers", (2, 2)

    def __len__(self):
        return 7

    def __getitem__(self, i):
        return {"x0": np.full((2, 2, 3), i, np.uint8), "xT": np.full((2, 2, 3), i, np.uint8)}


def test_unpaired_data_are_mixed_once_and_for_all():
    source = Unpaired(Numbers())
    partners = [int(source[i]["xT"][0, 0, 0]) for i in range(7)]
    assert sorted(partners) == list(range(7)) and all(p != i for i, p in enumerate(partners))
    assert [int(source[i]["x0"][0, 0, 0]) for i in range(7)] == list(range(7))
    assert partners == [int(Unpaired(Numbers())[i]["xT"][0, 0, 0]) for i in range(7)]
    assert source.size == (2, 2) and len(source) == 7

    class Clean(Numbers):
        def __getitem__(self, i):
            return {"x0": super().__getitem__(i)["x0"]}

    with pytest.raises(ValueError, match="data.unpaired needs both sides.*numbers has no x_T"):
        Unpaired(Clean())
