"""Consistency distillation and training against closed forms: the path, its end, and what is learned."""

from __future__ import annotations

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from jax_bridges import samplers
from jax_bridges.bridges import I2SB, VE, VP, I2SBinDDBM, make_bridge
from jax_bridges.distillation import consistency
from jax_bridges.samplers import count_calls, sample_dbim
from jax_bridges.times import consistency_grid, uniform_grid
from tests.support.gaussian import GaussianPair, law_error

pytestmark = pytest.mark.usefixtures("float64")

GOLDEN = Path(__file__).parent / "golden"
PAIR = GaussianPair(slope=0.8, std=0.3)
BRIDGES = {
    "brownian": make_bridge("brownian"),
    "vp": VP(),
    "ve": VE(),
    "i2sb": I2SB.create(beta_max=0.3),
    "i2sb_ddbm": I2SBinDDBM.create(beta_max=1.0),
}


def draw(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


# -- the path --------------------------------------------------------------------------------------


def test_the_ode_step_is_the_official_dbim_step_at_eta_zero():
    """From each saved state to the next (vectors of the official code, denoiser 0.7 x + 0.2 x_T)."""
    bridges = {"vp": VP(), "ve": VE(), "i2sb": I2SBinDDBM.create(beta_max=1.0)}
    with np.load(GOLDEN / "samplers_dbim.npz") as file:
        saved = dict(file)
    cases = [k[:-5] for k in saved if k.endswith("_eta0.0_path")]
    assert {case.split("_")[0] for case in cases} == set(bridges)
    for case in cases:
        tag, n, _ = case.split("_")
        path, times, xT = saved[f"{case}_path"], saved[f"{tag}_{n}_ts"], saved["xT"]
        for k in range(len(path) - 1):
            x0_hat = 0.7 * path[k] + 0.2 * xT
            got = consistency.ode_step(
                bridges[tag], x0_hat, path[k], xT, jnp.asarray(times[k]), jnp.asarray(times[k + 1])
            )
            # The official code's own rounding near T, where it divides by c.
            assert np.abs(got - path[k + 1]).max() <= 1e-8 * np.abs(path[k + 1]).max()


@pytest.mark.parametrize("tag", ["vp", "i2sb"])
def test_steps_of_the_exact_denoiser_follow_the_exact_path(tag):
    """Their error at the end falls as one over their number: the exact path of the Gaussian pair."""
    bridge = BRIDGES[tag]
    xT, t0 = draw(0, 8, 1, 1, 1), jnp.asarray(0.9)
    denoise = PAIR.denoiser(bridge, True)
    mean, std = PAIR.conditional_moments(bridge, xT, t0)
    first = mean + std * draw(1, *xT.shape)
    exact = PAIR.ode_solution(bridge, first, xT, t0, jnp.asarray(bridge.t_min))

    @jax.jit
    def end(times):
        def step(x, pair):
            return consistency.ode_step(bridge, denoise(x, pair[0], xT), x, xT, *pair), None

        return jax.lax.scan(step, first, (times[:-1], times[1:]))[0]

    coarse, fine = (
        float(jnp.abs(end(bridge.t_min + (0.9 - bridge.t_min) * np.linspace(1, 0, n + 1) ** 3) - exact).max())
        for n in (8, 16)
    )  # fmt: skip
    assert coarse < 0.2 and fine < 0.62 * coarse


@pytest.mark.parametrize("bridge", BRIDGES.values(), ids=BRIDGES)
@pytest.mark.parametrize("deterministic", [False, True])
def test_a_path_ends_where_it_is_whatever_the_network_says(bridge, deterministic):
    """h(x, t_min, x_T) = x exactly, in float32 too, and without a gradient into the network."""
    if deterministic:
        if not isinstance(bridge, I2SB):
            pytest.skip("only I2SB makes its bridge deterministic")
        bridge = type(bridge).create(beta_max=0.3, deterministic=True)
    for dtype in (jnp.float32, jnp.float64):
        x, xT = (draw(seed, 3, 2, 2, 1).astype(dtype) for seed in (0, 1))

        def h(scale, x=x, xT=xT, dtype=dtype):
            function = consistency.consistency_function(
                lambda xt, t, xT: scale * jnp.sin(7.0 * xt) + 3.0, bridge
            )
            return function(x, jnp.full(3, bridge.t_min, dtype), xT)

        end, gradient = jax.jit(lambda v: jax.jvp(h, (v,), (jnp.ones_like(v),)))(dtype(5.0))
        assert end.dtype == dtype
        np.testing.assert_array_equal(end, x)
        np.testing.assert_array_equal(gradient, 0.0)


def test_at_the_start_the_function_is_one_step_of_dbim():
    """A student that is the teacher jumps as DBIM does with two calls."""
    bridge, gamma = VP(), 0.05
    times = jnp.asarray([1.0 - gamma, bridge.t_min])
    xT, noise = draw(0, 4, 2, 2, 1), draw(1, 4, 2, 2, 1)
    denoise = PAIR.denoiser(bridge, True)
    h = consistency.consistency_function(denoise, bridge)
    mine = samplers.sample_consistency(h, bridge, xT, times[:1], lambda k: noise, boot=denoise)
    np.testing.assert_allclose(mine, sample_dbim(denoise, bridge, xT, times, lambda k: noise))


def test_the_residual_is_the_noise_near_the_source_and_nothing_at_it():
    for bridge in (BRIDGES["vp"], BRIDGES["i2sb"]):
        x0, xT, noise = (draw(seed, 2, 4, 4, 1) for seed in range(3))
        t = jnp.asarray(np.full(2, 0.999 * bridge.T))
        xt = bridge.sample(x0, xT, t, noise)
        residual = consistency.bridge_residual(bridge, xt, t, xT)
        b, c = (v[0] for v in bridge.coefficients(t)[1:])
        np.testing.assert_allclose(residual, (b * x0 + c * noise) / np.hypot(b, c), rtol=1e-5)
        assert b < 0.2 * c
    at_T = consistency.bridge_residual(VP(), xT, jnp.ones(2), xT)
    np.testing.assert_array_equal(at_T, 0.0)


# -- neighbours ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bridge", [VE(), BRIDGES["i2sb"], make_bridge("goub")], ids=["ve", "i2sb", "goub"]
)
@pytest.mark.parametrize("gap", consistency.GAPS)
def test_neighbours_are_earlier_and_on_the_bridge(bridge, gap):
    settings = ConfigDict(dict(dt=0.03, halvings=4, gap_k=8.0, gap_b=10.0))
    T, t_min = float(bridge.T), float(bridge.t_min)
    t = consistency.usable_times(bridge, jnp.linspace(t_min, T, 50), 0.1 * T)
    assert t_min < t.min() and t.max() <= 0.9 * T
    gaps = []
    for progress in (0.0, 0.3, 0.6, 1.0):
        r = consistency.GAPS[gap](bridge, t, jnp.asarray(progress), settings)
        assert jnp.all(r < t) and jnp.all(r >= t_min)
        # The bridge tells them apart, a table too.
        assert jnp.all(bridge.rho2(r) < bridge.rho2(t))
        gaps.append(float(t[-1] - r[-1]))
    if gap == "constant":
        np.testing.assert_allclose(gaps, 0.03 * T)
    else:
        grown = 1.0 + 8.0 / (1.0 + np.exp(10.0 * 0.9))
        want = [(t[-1] - t_min) * 2.0**-s * grown for s in (1, 2, 3, 4)]
        np.testing.assert_allclose(gaps, want, rtol=1e-6)


def test_only_a_table_has_a_coarse_grain():
    """GOUB's table is interpolated: two times of it differ however close they are."""
    assert consistency.grain(BRIDGES["i2sb"]) == 1 / 999
    assert consistency.grain(make_bridge("goub")) == 1e-6
    assert consistency.grain(VE()) == pytest.approx(8e-5)


def test_both_neighbours_agree_on_average():
    """E[data's x_r - teacher's x_r | x_t] = o(t - r): what makes CBT the limit of CBD."""
    bridge, t = VP(), jnp.asarray(0.5)
    xT = jnp.full((200_000, 1, 1, 1), 0.7)
    x0 = 0.8 * xT + 0.3 * draw(0, *xT.shape)
    noise = draw(1, *xT.shape)
    xt = bridge.sample(x0, xT, t, noise)
    ratios = []
    for gap in (0.2, 0.02):
        r = t - gap
        teacher = PAIR.denoiser(bridge, True)
        by_teacher = consistency.teacher_neighbour(teacher, bridge, xt, xT, t, r)
        by_data = consistency.data_neighbour(bridge, x0, xT, noise, r)
        difference, x = (by_data - by_teacher).ravel(), (xt - xt.mean()).ravel()
        # Regression on x_t: of order gap^2, while a single difference is of order gap.
        ratios.append(float(jnp.abs(difference @ x / (x @ x))) / gap)
        assert float(jnp.std(difference)) > 0.1 * gap
    assert ratios[1] < 0.02 and ratios[1] < 0.5 * max(ratios[0], 0.02)


# -- distances ---------------------------------------------------------------------------------------


def test_distances():
    x, y = jnp.zeros((2, 2, 2, 1)), jnp.stack([jnp.full((2, 2, 1), v) for v in (0.3, -4.0)])
    np.testing.assert_allclose(consistency.l2(x, y, 0.0), [0.09, 16.0])
    want = [np.sqrt(0.09 + 0.16) - 0.4, np.sqrt(16.0 + 0.16) - 0.4]
    np.testing.assert_allclose(consistency.pseudo_huber(x, y, 0.4), want)
    with pytest.raises(ValueError, match="Unknown distance 'l3': choose one of l2, pseudo_huber"):
        consistency.consistency_loss(*[None] * 2, x, y, x, *[None] * 3, distance="l3")


# -- sampling ----------------------------------------------------------------------------------------


def exact_function(bridge):
    """The end of the exact path of the Gaussian pair."""

    def h(xt, t, xT):
        return PAIR.ode_solution(
            bridge, xt, xT, jnp.asarray(t, xt.dtype), jnp.asarray(bridge.t_min)
        )

    return h


@pytest.mark.parametrize("calls", [1, 3])
@pytest.mark.parametrize("bridge", [VP(), BRIDGES["i2sb"]], ids=["vp", "i2sb"])
def test_sampling_from_the_exact_function_gives_the_exact_law(bridge, calls):
    """Up to what the first point leaves out of x_0: its spread, of the order of b / c."""
    gamma = 1e-3
    times = consistency_grid(bridge, calls, gamma * float(bridge.T))
    boot = PAIR.denoiser(bridge, True)
    error = law_error(
        lambda xT, keys: samplers.sample_consistency(
            exact_function(bridge), bridge, xT, times, keys, boot=boot
        ),
        PAIR,
        calls,
    )
    # What is drawn is x at t_min, with the bridge's own noise and share of x_T there.
    a, b, c = (float(v) for v in bridge.coefficients(jnp.asarray(bridge.t_min)))
    end = abs(a + b * PAIR.slope - PAIR.slope) + c**2
    assert error < 5e-3 + 2 * end


def test_calls_are_counted_by_the_network():
    bridge, xT = VP(), draw(0, 2, 2, 2, 1)
    for calls, boots in ((1, False), (1, True), (3, True), (4, False)):
        counted = count_calls(lambda xt, t, xT: 0.7 * xt + 0.2 * xT)
        h = consistency.consistency_function(counted, bridge)
        times = consistency_grid(bridge, calls, 0.05)
        jax.jit(
            lambda x, h=h, times=times, boot=counted if boots else None: (
                samplers.sample_consistency(h, bridge, x, times, lambda k: x, boot=boot)
            )
        )(xT)
        assert counted.calls() == calls + boots


def test_the_grid_starts_a_gap_below_the_source():
    np.testing.assert_allclose(consistency_grid(VE(), 1, 4.0), [76.0])
    np.testing.assert_allclose(consistency_grid(I2SB.create(), 3, 0.1), [0.9, 0.6, 0.3])
    deterministic = I2SB.create(deterministic=True)
    np.testing.assert_allclose(consistency_grid(deterministic, 2, 0.1), [1.0, 0.5])
    with pytest.raises(ValueError, match="at least one network call; nfe = 0"):
        consistency_grid(VP(), 0, 0.1)


def test_a_deterministic_path_is_i2sbs_ode():
    """h by the exact denoiser of a linear pair: one step from x_T is OT-ODE's one step."""
    bridge = I2SB.create(beta_max=1.0, deterministic=True)
    xT = draw(0, 3, 2, 2, 1)

    def denoise(xt, t, xT):
        return 0.6 * xt + 0.1 * xT

    h = consistency.consistency_function(denoise, bridge)
    mine = samplers.sample_consistency(h, bridge, xT, consistency_grid(bridge, 1, 0.0), None)
    theirs = samplers.sample_ancestral(denoise, bridge, xT, uniform_grid(bridge, 1), None)
    # I2SB's first point is a_T x_T, a_T = 0.9996: its table counts a step at both ends.
    np.testing.assert_allclose(mine, theirs, atol=2e-3)


# -- what is learned -----------------------------------------------------------------------------------


def network(params, bridge, xt, t, xT):
    """x0_hat = s(t) x_T + g(t) residual + shift(t), each piecewise linear in the square root of time."""
    place = (params.shape[0] - 1) * jnp.sqrt(t / bridge.T)
    nodes = jnp.arange(params.shape[0], dtype=t.dtype)
    hats = jnp.maximum(1.0 - jnp.abs(place[:, None] - nodes), 0.0)
    s, g, shift = ((hats @ params)[:, k, None, None, None] for k in range(3))
    return s * xT + g * consistency.bridge_residual(bridge, xt, t, xT) + shift


@functools.partial(jax.jit, static_argnames=("method", "tag", "steps", "settings", "target"))
def learn(method, tag, steps, settings, target="copy"):
    """A student of the Gaussian pair from a wrong start; its parameters' average at the end."""
    bridge = BRIDGES[tag]
    teacher = PAIR.denoiser(bridge, True)
    params = jnp.tile(jnp.asarray([0.2, 0.5, 0.4], jnp.float32), (25, 1))
    adam = optax.adam(optax.cosine_decay_schedule(2e-2, steps))
    config = ConfigDict(dict(settings))

    def step(carry, i):
        params, ema, state = carry
        keys = jax.random.split(jax.random.fold_in(jax.random.key(1), i), 4)
        shape = (256, 1, 1, 1)
        xT, own, noise = (jax.random.normal(k, shape, jnp.float32) for k in keys[:3])
        x0 = PAIR.slope * xT + PAIR.std * own
        u = jax.random.uniform(keys[3], shape[:1], jnp.float32)
        gamma = 0.02 * float(bridge.T)
        t = consistency.usable_times(bridge, bridge.t_min + u * (bridge.T - bridge.t_min), gamma)
        gap = "constant" if method == "cbd" else "shrinking"
        r = consistency.GAPS[gap](bridge, t, i / steps, config)
        xt = bridge.sample(x0, xT, t, noise)
        if method == "cbd":
            xr = consistency.teacher_neighbour(teacher, bridge, xt, xT, t, r)
        else:
            xr = consistency.data_neighbour(bridge, x0, xT, noise, r)
        fixed = ema if target == "ema" else params

        def loss(params):
            h, h_fixed = (
                consistency.consistency_function(functools.partial(network, p, bridge), bridge)
                for p in (params, fixed)
            )
            weight = jnp.ones_like(t) if method == "cbd" else 1.0 / (t - r)
            return jnp.mean(consistency.consistency_loss(h, h_fixed, xt, xr, xT, t, r, weight))

        moves, state = adam.update(jax.grad(loss)(params), state)
        params = optax.apply_updates(params, moves)
        return (params, optax.incremental_update(params, ema, 0.01), state), None

    carry = (params, params, adam.init(params))
    return jax.lax.scan(step, carry, jnp.arange(steps))[0][1]


@pytest.mark.usefixtures("optimised")
@pytest.mark.parametrize(
    "method, steps", [("cbd", 9000), ("cbt", 20_000), ("cbt, averaged target", 20_000)]
)
def test_students_learn_the_end_of_the_exact_path(method, steps):
    """To 2% (root mean square), from everywhere on the bridge, from a wrong start.

    The solver's own error at these gaps, by recursion on the pair's variance: 0.9% at T - gamma.
    """
    tag, target = "i2sb", "ema" if "average" in method else "copy"
    bridge = BRIDGES[tag]
    settings = (("dt", 0.02), ("halvings", 5), ("gap_k", 8.0), ("gap_b", 10.0))
    with jax.enable_x64(False):
        params = learn(method.split(",")[0], tag, steps, settings, target)
        h = consistency.consistency_function(functools.partial(network, params, bridge), bridge)
        worst = 0.0
        for t in (0.98, 0.9, 0.6, 0.3, 0.1):
            t = jnp.float32(t * bridge.T)
            xT, z = (draw(seed, 4096, 1, 1, 1).astype(jnp.float32) for seed in (5, 6))
            mean, std = PAIR.conditional_moments(bridge, xT, t)
            xt = mean + std * z
            exact = PAIR.ode_solution(bridge, xt, xT, t, jnp.float32(bridge.t_min))
            error = jnp.sqrt(jnp.mean((h(xt, t, xT) - exact) ** 2) / jnp.mean(exact**2))
            worst = max(worst, float(error))
    print(f"\n{method}: {worst:.4f}")
    assert worst < 0.02
