"""GOUB, ResShift and stochastic interpolants: tables of the papers, and the algebra they share."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_bridges.bridges import GOUB, ResShift, make_bridge
from jax_bridges.samplers import SAMPLERS
from jax_bridges.times import uniform_grid
from tests.support.family import (
    ALL,
    HALVES,
    NOISY,
    PAIR,
    interpolant,
)
from tests.support.official import close

pytestmark = pytest.mark.usefixtures("float64")


def step_weights(bridge, t, s):
    """Weights of x_0, x_t and x_T in the mean of a step t -> s."""
    x0, xt, xT = np.eye(3)
    return np.asarray(bridge.step(x0, xt, t, s, 0.0, xT))


# -- the papers' tables -----------------------------------------------------------------------


def goub_by_hand(schedule, lam, eps=0.01, T=100):
    """The official table in float64, written from its formulas: thetas, thetabar, dt, m, n, std."""
    if schedule == "cosine":
        x = np.arange(T + 3) / (T + 2)
        bars = np.cos((x + 0.008) / 1.008 * np.pi / 2) ** 2
        thetas = 1 - (bars / bars[0])[1:-1]
    elif schedule == "linear":
        thetas = np.linspace(1000 / (T + 1) * 1e-4, 1000 / (T + 1) * 0.02, T + 1)
    else:
        thetas = np.ones(T + 1)
    total = np.cumsum(thetas) - thetas[0]
    dt = -np.log(eps) / total[-1]

    def variance(theta):
        return lam**2 * (1 - np.exp(-2 * theta * dt))

    passed, rest, whole = variance(total), variance(total[-1] - total), variance(total[-1])
    m = np.exp(-total * dt) * rest / whole
    decay = np.exp(-2 * (total[-1] - total) * dt)
    n = ((1 - np.exp(-total * dt)) * rest + decay * passed) / whole
    std = np.sqrt(passed * rest / whole)
    sigma = np.sqrt(2 * lam**2 * thetas)
    return dict(thetas=thetas, dt=dt, m=m, n=n, std=std, sigma=sigma, decay=decay, rest=rest)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_goub_is_the_official_table(schedule):
    lam = 30 / 255
    bridge, want = GOUB.create(lam=lam, schedule=schedule), goub_by_hand(schedule, lam)
    i = np.arange(101)
    t = i / 100
    a, b, c = bridge.coefficients(t)
    close(a, want["n"], atol=1e-11)
    close(b, want["m"], atol=1e-11)
    close(c, want["std"], rtol=1e-7, atol=1e-8)
    close(a + b, np.ones(101))
    close(bridge.f(t)[1:] / 100, -want["thetas"][1:] * want["dt"])
    close(bridge.g2(t)[1:] / 100, want["sigma"][1:] ** 2 * want["dt"])


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
@pytest.mark.parametrize("entry", [1, 2, 37, 99])
def test_goub_steps_are_the_official_ones(schedule, entry):
    """Reverse SDE and mean-ODE by one Euler step, and the exact posterior, from the same x0_hat."""
    bridge, w = GOUB.create(lam=0.4, schedule=schedule), goub_by_hand(schedule, 0.4)
    x, x0_hat, xT, noise, i = np.array([[0.3]]), np.array([[-0.6]]), np.array([[0.9]]), 0.7, entry
    t, s = jnp.asarray(i / 100), jnp.asarray((i - 1) / 100)

    score = -(x - w["m"][i] * x0_hat - w["n"][i] * xT) / w["std"][i] ** 2
    close(bridge.score(x0_hat, x, xT, t), score)
    h = -(w["sigma"][i] ** 2) * w["decay"][i] / w["rest"][i] * (x - xT)
    drift = (w["thetas"][i] * (xT - x) + h - w["sigma"][i] ** 2 * score) * w["dt"]
    mean_ode = x - drift
    by_sde = mean_ode - w["sigma"][i] * np.sqrt(w["dt"]) * noise
    ours, g = bridge.reverse_sde(x0_hat, x, xT, t)
    close(x - ours / 100, mean_ode)
    close(x - ours / 100 - g * np.sqrt(0.01) * noise, by_sde)

    f_m = w["m"][i] / w["m"][i - 1]
    f_n = w["n"][i] - w["n"][i - 1] * f_m
    f_var = w["std"][i] ** 2 - w["std"][i - 1] ** 2 * f_m**2
    mean = w["std"][i - 1] ** 2 * f_m * (x - f_n * xT)
    mean = (mean + f_var * (w["m"][i - 1] * x0_hat + w["n"][i - 1] * xT)) / w["std"][i] ** 2
    std = np.sqrt(f_var) * w["std"][i - 1] / w["std"][i]
    close(bridge.step(x0_hat, x, t, s, 0.0, xT), mean, rtol=1e-8)
    close(bridge.posterior(t, s).std, std, rtol=1e-7, atol=1e-9)


def test_h_of_goub_is_the_gradient_of_its_transition_to_the_source():
    bridge, xT, t = NOISY["goub"], jnp.asarray(-0.8), jnp.asarray(0.37)
    ratio = bridge.alpha(jnp.asarray(1.0)) / bridge.alpha(t)
    variance = bridge.lam**2 * (1 - ratio**2)  # of an Ornstein-Uhlenbeck process about x_T

    def log_transition(x):
        return -((xT - (xT + ratio * (x - xT))) ** 2) / (2 * variance)

    x = jnp.asarray(0.45)
    close(bridge.h(x, xT, t), jax.grad(log_transition)(x))


def test_resshift_is_the_official_schedule():
    kappa, T, p = 2.0, 15, 0.3
    first = min(0.04 / kappa, 0.04)
    ratio = (0.99 / first) ** (1 / (T - 1))
    eta = (first * ratio ** ((T - 1) * np.linspace(0, 1, T) ** p)) ** 2
    bridge = dataclasses.replace(ResShift.create(), t_min=0.0)
    t = np.append(0.0, np.arange(1, T + 1) / T)
    before = np.append(0.0, eta[:-1])
    a, b, c = bridge.coefficients(t)
    close(a, np.append(0.0, eta))
    close(b, 1 - a)
    close(c, kappa * np.sqrt(a))
    alpha = eta - before
    for k in range(1, T):
        x0, xt, xT = step_weights(bridge, jnp.asarray(t[k + 1]), jnp.asarray(t[k]))
        close([x0, xt, xT], [alpha[k] / eta[k], before[k] / eta[k], 0])
        std = bridge.posterior(jnp.asarray(t[k + 1]), jnp.asarray(t[k])).std
        close(std**2, kappa**2 * before[k] * alpha[k] / eta[k])
    close(uniform_grid(bridge, T)[::-1], t)
    close(bridge.start(1.5, 2.0), 1.5 + kappa * 0.99 * 2.0)


def test_interpolants_are_what_their_names_say():
    t = jnp.linspace(0.0, 1.0, 9)
    want = {
        "linear": (t, 1 - t),
        "trigonometric": (np.sin(np.pi * t / 2), np.cos(np.pi * t / 2)),
        "encoder_decoder": (np.cos(np.pi * t) ** 2 * (t > 0.5), np.cos(np.pi * t) ** 2 * (t < 0.5)),
    }
    for path, (a, b) in want.items():
        for gamma, c in (
            ("sqrt", np.sqrt(2 * t * (1 - t))),
            ("sin2", np.sin(np.pi * t) ** 2),
            ("zero", np.zeros(9)),
        ):
            if (path, gamma) == ("encoder_decoder", "zero"):
                continue
            bridge = interpolant(path=path, gamma=gamma, gamma_scale=0.7, source_std=0.3)
            spread = np.sqrt((0.7 * c) ** 2 + (0.3 * a) ** 2)
            close(jnp.stack(bridge.coefficients(t)), np.stack([a, b, spread]))


def test_linear_sqrt_interpolant_is_the_brownian_bridge():
    ours, brownian = interpolant(gamma_scale=0.5), make_bridge("brownian", epsilon=np.sqrt(0.5))
    t, s = jnp.asarray([0.9, 0.4]), jnp.asarray([0.6, 0.1])
    for got, want in (
        (ours.coefficients(t), brownian.coefficients(t)),
        (ours.posterior(t, s), brownian.posterior(t, s)),
        ([ours.g2(t)], [brownian.g2(t)]),
        ([ours.angle(t)], [brownian.angle(t)]),
    ):
        close(jnp.stack(got), jnp.stack(want))
    x0, x, xT = (np.full((2, 1), v) for v in (0.3, -0.5, 0.8))
    close(ours.ode_drift(x0, x, xT, t), brownian.ode_drift(x0, x, xT, t))
    close(ours.reverse_sde(x0, x, xT, t)[0], brownian.reverse_sde(x0, x, xT, t)[0])


# -- the algebra ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, given",
    [(name, True) for name in ALL if name != "goub_linear"]
    + [(name, False) for name in ("resshift", "encoder_decoder")],
)
def test_steps_from_the_source_compose_to_the_marginal(name, given):
    """Chapman-Kolmogorov: weights of x_0 and x_T and the variance after many steps from T."""
    bridge = ALL[name]
    times = np.linspace(1.0, 0.05, 24)

    @jax.jit
    def rows(times):
        t, s = times[:-1], times[1:]
        zero, parts = jnp.zeros((len(t), 3)), jnp.broadcast_to(jnp.eye(3)[:, None], (3, len(t), 3))
        x0, xt, xT = parts
        weights = bridge.step(x0, xt, t, s, 0.0, xT if given else None)
        spread = bridge.step(zero, zero, t, s, 1.0, zero if given else None)[:, 0]
        return bridge.coefficients(times), weights, spread, bridge.posterior(t, s).std

    coefficients, weights, spread, std = jax.tree.map(np.asarray, rows(jnp.asarray(times)))
    a, b, c = np.stack(coefficients)
    state = np.array([b[0], a[0], c[0] ** 2])
    for (w0, w, wT), noise in zip(weights, spread, strict=True):
        state = np.array([w0 + w * state[0], w * state[1] + wT, w**2 * state[2] + noise**2])
    close(state, [b[-1], a[-1], c[-1] ** 2], rtol=1e-8, atol=1e-10)
    if given:
        close(std, spread, atol=1e-9)
    else:  # x_T has no weight
        close(weights[:, 2], np.zeros(len(weights)), atol=1e-10)


@pytest.mark.parametrize("name", ["goub", "resshift", "trigonometric", "sin2", "encoder_decoder"])
def test_a_small_step_draws_the_noise_of_the_sde(name):
    bridge, t = ALL[name], jnp.asarray([0.133, 0.377, 0.833])
    drawn, g2 = jax.jit(lambda t: (bridge.posterior(t, t - 1e-6).std ** 2, bridge.g2(t)))(t)
    close(drawn / 1e-6, g2, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("name", NOISY | HALVES)
def test_drifts_move_a_gaussian_as_it_moves(name):
    """With the exact denoiser, ODE velocity and SDE drift solve the continuity equations."""
    bridge = (NOISY | HALVES)[name]
    denoise = PAIR.denoiser(bridge, conditional=True)
    xT, x = jnp.full((3, 2), 0.7), jnp.array([[-0.4, 1.3]] * 3)

    @jax.jit
    def both(t):
        (mean, std), (mean_dot, std_dot) = jax.jvp(
            lambda t: PAIR.conditional_moments(bridge, 0.7, t), (t,), (jnp.ones(3),)
        )
        mean, std, mean_dot, std_dot = (v[:, None] for v in (mean, std, mean_dot, std_dot))
        velocity = mean_dot + std_dot / std * (x - mean)
        x0_hat = denoise(x, t, xT)
        drift, g = bridge.reverse_sde(x0_hat, x, xT, t)
        score = bridge.score(x0_hat, x, xT, t)
        true = -(x - mean) / std**2
        b = bridge.coefficients(t).b[:, None]
        again = jnp.where(b > 0, bridge.x0_from_score(score, x, xT, t), x0_hat)
        return (
            (bridge.ode_drift(x0_hat, x, xT, t), velocity),
            (drift, velocity - 0.5 * g[:, None] ** 2 * true),
            (score, true),
            (again, x0_hat),
        )

    for got, want in both(jnp.asarray([0.0533, 0.4133, 0.9533])):  # between entries of a table
        close(got, want, rtol=1e-6, atol=1e-9)


def test_velocity_of_a_rectified_flow_is_the_mean_slope():
    """Without noise, v = E[x_T - x_0 | x_t] for the linear path (arXiv 2209.03003, eq. 2)."""
    bridge, t, x = ALL["rectified"], jnp.asarray(0.3), jnp.array([[0.4], [-1.0]])
    m = PAIR.moments()
    variance = 0.09 * m.source_variance + 0.49 * m.variance + 0.42 * m.covariance
    covariance = 0.3 * m.source_variance - 0.7 * m.variance + (0.7 - 0.3) * m.covariance
    mean_xt = 0.3 * m.source_mean + 0.7 * m.mean
    slope_ = m.source_mean - m.mean + covariance / variance * (x - mean_xt)
    x0_hat = PAIR.denoiser(bridge, conditional=False)(x, t, None)
    close(bridge.ode_drift(x0_hat, x, None, t), slope_)


@pytest.mark.parametrize("name", [*NOISY, "encoder_decoder"])
def test_float32_is_accurate(name):
    bridge = ALL[name]
    t = np.concatenate([1 - np.geomspace(1e-2, 0.4, 20), np.geomspace(2e-3, 0.4, 20)])
    t = np.float32(t)
    values = {}
    for exact in (False, True):
        with jax.enable_x64(exact):
            time = jnp.asarray(t, jnp.float64 if exact else jnp.float32)
            values[exact] = jax.jit(
                lambda time: [
                    *bridge.coefficients(time),
                    *bridge.posterior(time, 0.7 * time),
                    bridge.sigma(time),
                    bridge.angle(time),
                    bridge.g2(time),
                ]
            )(time)
    for single, double in zip(values[False], values[True], strict=True):
        assert single.dtype == jnp.float32 and np.isfinite(single).all()
        np.testing.assert_allclose(single, double, rtol=3e-5, atol=2e-6)


# -- refusals ---------------------------------------------------------------------------------


def test_what_does_not_exist_is_said():
    for settings, words in (
        (dict(path="linar"), "path of the interpolant 'linar'.*Did you mean 'linear'"),
        (dict(gamma="sin"), "gamma of the interpolant 'sin'"),
        (dict(gamma="sin2"), "gamma 'sin2'.*give source_std > 0"),
        (dict(path="encoder_decoder", gamma="zero"), "nothing half-way.*take gamma"),
        (dict(source_std=-1.0), "source_std >= 0"),
    ):
        with pytest.raises(ValueError, match=words):
            make_bridge("interpolant", **settings)
    with pytest.raises(ValueError, match="theta schedule of goub 'cos'"):
        make_bridge("goub", schedule="cos")
    with pytest.raises(ValueError, match="eps must lie between 0 and 1"):
        make_bridge("goub", eps=1.0)
    x, t = jnp.zeros((1, 1)), jnp.asarray(0.5)
    for name in ("sin2", "goub"):
        with pytest.raises(ValueError, match="depends on x_T, which was not given"):
            NOISY[name].step(x, x, t, 0.5 * t, 0.0)
    with pytest.raises(ValueError, match="leave DDBM's guidance at 1"):
        NOISY["linear"].ode_drift(x, x, x, t, guidance=0.5)
    images = jnp.zeros((1, 1, 1, 1))
    for sampler, words in (("sde_euler", "no prior SDE.*use 'ancestral'"),):
        with pytest.raises(ValueError, match=words):
            SAMPLERS[sampler](
                PAIR.denoiser(NOISY["linear"], True), NOISY["linear"], images, 4, lambda k: images
            )
    with pytest.raises(ValueError, match="deterministic bridge has none: use 'ancestral'"):
        SAMPLERS["dbim"](
            PAIR.denoiser(ALL["rectified"], True), ALL["rectified"], images, 4, lambda k: images
        )
