"""Bridge algebra: against the official tables, closed forms, simulation, and in float32."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_bridges.bridges import I2SB, Brownian, make_bridge, symmetric_betas
from tests.support.gaussian import GaussianPair
from tests.support.official import ALL, SMOOTH, TABLES, close, golden

# -- official numbers
# --------------------------------------------------------------------------------


@pytest.mark.parametrize("tag", ["vp", "ve"])
def test_ddbm_schedules(float64, tag):
    want, bridge = golden(f"ddbm_{tag}"), SMOOTH[tag]
    t = want["t"]
    a, b, c = bridge.coefficients(t)
    close(bridge.alpha(t), want["alpha"])
    close(bridge.sigma(t), want["sigma"])
    close(1 / bridge.rho2(t), want["snr"])
    close(a, want["a_t"])
    close(b, want["b_t"])
    # The official variance subtracts from one and loses digits near T.
    close(c**2, want["c_t_sq"], rtol=1e-9, atol=1e-13 * want["sigma_max"] ** 2)
    assert (bridge.t_min, bridge.T) == (want["sigma_min"], want["sigma_max"])


@pytest.mark.parametrize("tag", ["vp", "ve", "i2sb"])
def test_dbim_schedules(float64, tag):
    want = golden(f"dbim_{tag}")
    bridge = TABLES["i2sb_ddbm"] if tag == "i2sb" else SMOOTH[tag]
    t = want["t"]
    a, b, c = bridge.coefficients(t)
    close(bridge.alpha(t), want["alpha"])
    close(bridge.alpha_bar(t), want["alpha_bar"])
    close(jnp.sqrt(bridge.rho2(t)), want["rho"])
    # Not 1e-9: near T the official rho_bar is the root of a difference.
    close(jnp.sqrt(bridge.rho_bar2(t)), want["rho_bar"], rtol=1e-8, atol=1e-7 * want["rho_T"])
    close(a, want["a_t"])
    close(b, want["b_t"], atol=1e-12)
    close(c, want["c_t"], rtol=1e-8, atol=1e-7 * want["rho_T"])
    close(bridge.f(t), want["f"])
    # Its drift counts table entries, not time: 999 of them make a unit.
    close(bridge.g2(t), want["g2"] * (999 if tag == "i2sb" else 1))
    if tag == "i2sb":
        t = golden("i2sb")["index"] / 999
        a, b, c = bridge.coefficients(t)
        for got, key in [(a, "a"), (b, "b"), (c, "c"), (jnp.sqrt(bridge.rho2(t)), "rho")]:
            close(got, want[f"all_{key}"])
        close(jnp.sqrt(bridge.rho_bar2(t)), want["all_rho_bar"])
        close(bridge.g2(t) / 999, want["all_g2"])


@pytest.mark.parametrize("tag,beta_max", [("b03", 0.3), ("b10", 1.0)])
def test_i2sb_tables(float64, tag, beta_max):
    want, bridge = golden("i2sb"), I2SB.create(beta_max=beta_max)
    t = want["index"] / 999
    a, b, c = bridge.coefficients(t)
    close(bridge.sigma(t), want[f"{tag}_std_fwd"])
    close(jnp.sqrt(bridge.rho_bar2(t)), want[f"{tag}_std_bwd"])
    close(a, want[f"{tag}_mu_x1"])
    close(b, want[f"{tag}_mu_x0"])
    close(c, want[f"{tag}_std_sb"])
    close(a + b, np.ones_like(t))


def test_i2sb_noise_is_half_a_ramp_mirrored():
    """Published facts of the schedule: peak, sum and ends."""
    betas = symmetric_betas(0.3)
    assert betas.shape == (1000,) and np.array_equal(betas, betas[::-1])
    assert betas.argmax() in (499, 500) and abs(betas.max() - 1.8650e-4) < 1e-8
    assert abs(betas.sum() - 0.141027) < 1e-6
    assert abs(symmetric_betas(1.0).max() - 4.3266e-4) < 1e-8
    assert np.sqrt(betas[0]) == pytest.approx(0.01)


@pytest.mark.parametrize("tag,beta_max", [("b03", 0.3), ("b10", 1.0)])
@pytest.mark.parametrize("deterministic", [False, True], ids=["sde", "ode"])
def test_i2sb_draws(float64, tag, beta_max, deterministic):
    want = golden("ops")
    bridge = I2SB.create(beta_max=beta_max, deterministic=deterministic)
    xt = bridge.sample(
        want["x0"], want["x1"], jnp.asarray(want["step"] / 999), want[f"{tag}_q_noise"]
    )
    close(xt, want[f"{tag}_xt_ot_ode" if deterministic else f"{tag}_xt"])
    for i, (p, n) in enumerate(want["post_pairs"]):
        t, s = jnp.asarray(n / 999), jnp.asarray(p / 999)
        # Nothing is drawn for the last step: its saved noise is zero.
        got = bridge.step(want["post_x0"], want["post_xn"], t, s, want[f"{tag}_post_noise"][i])
        close(got, want[f"{tag}_post_out_ode" if deterministic else f"{tag}_post_out"][i])
        if not deterministic:
            x0, xt, std = bridge.posterior(t, s)
            close(jnp.stack([x0, xt, std**2]), want[f"{tag}_post_coef_x0_xn_var"][i])


# -- closed forms
# ------------------------------------------------------------------------------------


def brute_posterior(bridge, t, s):
    """Conditioning `(x_s, x_t) | x_0` on x_t, from the prior: weights of x_0, x_t and variance."""
    alpha_t, alpha_s = float(bridge.alpha(t)), float(bridge.alpha(s))
    var_t, var_s = float(bridge.sigma(t)) ** 2, float(bridge.sigma(s)) ** 2
    gain = (alpha_t / alpha_s) * var_s / var_t  # cov(x_s, x_t) / var(x_t)
    return alpha_s - gain * alpha_t, gain, var_s - gain * (alpha_t / alpha_s) * var_s


@pytest.mark.parametrize("name", SMOOTH)
def test_marginal_and_posterior_are_gaussian_conditioning(float64, name):
    """Pinning the prior at T gives a, b, c; conditioning it on x_t gives the posterior."""
    bridge = SMOOTH[name]
    T = jnp.asarray(bridge.T)
    for fraction in (0.02, 0.3, 0.77, 0.99):
        t = jnp.asarray(fraction * bridge.T)
        # x_T is the x_t of a posterior whose time is T: the marginal of the bridge.
        b, a, variance = brute_posterior(bridge, T, t)
        close(jnp.stack(bridge.coefficients(t)), [a, b, np.sqrt(variance)], rtol=1e-8)
        x0, xt, variance = brute_posterior(bridge, t, 0.4 * t)
        close(jnp.stack(bridge.posterior(t, 0.4 * t)), [x0, xt, np.sqrt(variance)], rtol=1e-8)


@pytest.mark.parametrize("name", ALL)
def test_chapman_kolmogorov(float64, name):
    """Many small posterior steps are one large one; from T they give the bridge's marginal."""
    bridge = ALL[name]
    times = bridge.T * np.linspace(1.0, 0.2, 161) ** 2
    if name in TABLES:
        times = np.round(times * 999) / 999

    @jax.jit
    def walk(times):
        def step(carry, pair):
            x0, xt, variance = carry
            w0, w, std = bridge.posterior(pair[0], pair[1])
            return (w0 + w * x0, w * xt, w**2 * variance + std**2), None

        start = (jnp.zeros(()), jnp.ones(()), jnp.zeros(()))
        return jax.lax.scan(step, start, jnp.stack([times[:-1], times[1:]], axis=1))[0]

    many = np.asarray(walk(jnp.asarray(times)))
    w0, w, std = bridge.posterior(jnp.asarray(times[0]), jnp.asarray(times[-1]))
    close(many, [w0, w, std**2], rtol=1e-9)
    if name in SMOOTH:
        a, b, c = bridge.coefficients(jnp.asarray(times[-1]))
        close(many, [b, a, c**2], rtol=1e-9)


@pytest.mark.parametrize("name", SMOOTH)
def test_marginal_by_simulation_of_the_pinned_prior(name):
    """Euler-Maruyama on `dx = (f x + g^2 h) dt + g dw` from x_0 must pass through the marginals."""
    bridge, paths = SMOOTH[name], 40000
    x0, xT, stop = 0.5, -1.0, 0.6
    # Short steps at first, where the time of VE is still fast.
    times = stop * bridge.T * np.linspace(0.0, 1.0, 401) ** 1.5

    def step(x, row):
        t, dt, key = row
        h = bridge.h(x, jnp.full_like(x, xT), t)
        drift, g2 = bridge.f(t) * x + bridge.g2(t) * h, bridge.g2(t)
        return x + drift * dt + jnp.sqrt(g2 * dt) * jax.random.normal(key, x.shape), None

    keys = jax.random.split(jax.random.key(0), 400)
    # The middle of each step as its time: exact for the linear g^2 of VP and VE.
    rows = (jnp.asarray(0.5 * (times[1:] + times[:-1])), jnp.asarray(np.diff(times)), keys)
    x, _ = jax.jit(lambda x: jax.lax.scan(step, x, rows))(jnp.full(paths, x0))
    a, b, c = (float(v) for v in bridge.coefficients(jnp.asarray(times[-1])))
    assert abs(float(x.mean()) - a * xT - b * x0) < 5 * c / np.sqrt(paths) + 2e-3 * c
    assert abs(float(x.var()) / c**2 - 1) < 5 * np.sqrt(2 / paths) + 5e-3


@pytest.mark.parametrize("name", SMOOTH)
def test_drifts_move_a_gaussian_as_it_moves(float64, name):
    """With the exact denoiser ODE velocity and SDE drift solve the continuity equations."""
    bridge = SMOOTH[name]
    pair = GaussianPair(slope=0.8, std=0.3)
    denoise = pair.denoiser(bridge, conditional=True)
    xT, x = jnp.full((2, 1), 0.7), jnp.array([[-0.4], [1.3]])
    for fraction in (0.05, 0.5, 0.95):
        t = jnp.asarray(fraction * bridge.T)
        (mean, std), (mean_dot, std_dot) = jax.jvp(
            lambda t: pair.conditional_moments(bridge, xT, t), (t,), (jnp.ones(()),)
        )
        velocity = mean_dot + std_dot / std * (x - mean)
        x0_hat = denoise(x, t, xT)
        close(bridge.ode_drift(x0_hat, x, xT, t), velocity, rtol=1e-7)
        # Fokker-Planck run backwards: the same velocity less half of g^2 times the score.
        drift, g = bridge.reverse_sde(x0_hat, x, xT, t)
        close(drift, velocity + 0.5 * g**2 * (x - mean) / std**2, rtol=1e-7)
        close(g**2, bridge.g2(t))
        # The denoiser's score is the score of q(x_t | x_T) (Tweedie), and can be undone.
        score = bridge.score(x0_hat, x, xT, t)
        close(score, -(x - mean) / std**2, rtol=1e-7)
        close(bridge.x0_from_score(score, x, xT, t), x0_hat)


@pytest.mark.parametrize("name", SMOOTH)
def test_h_is_the_gradient_of_the_transition_to_the_source(float64, name):
    bridge = SMOOTH[name]
    T, t, xT = jnp.asarray(bridge.T), jnp.asarray(0.37 * bridge.T), jnp.asarray(-0.8)

    def log_transition(x):
        ratio = bridge.alpha(T) / bridge.alpha(t)
        variance = bridge.sigma(T) ** 2 - ratio**2 * bridge.sigma(t) ** 2
        return -((xT - ratio * x) ** 2) / (2 * variance)

    x = jnp.asarray(0.45)
    close(bridge.h(x, xT, t), jax.grad(log_transition)(x), rtol=1e-9)


@pytest.mark.parametrize("name", SMOOTH)
def test_guidance_scales_h_alone(float64, name):
    bridge = SMOOTH[name]
    x, xT, t = jnp.array([0.2]), jnp.array([0.9]), jnp.asarray(0.5 * bridge.T)
    one, half = bridge.ode_drift(x, x, xT, t, 1.0), bridge.ode_drift(x, x, xT, t, 0.5)
    close(one - half, 0.5 * bridge.g2(t) * bridge.h(x, xT, t))
    one, half = (bridge.reverse_sde(x, x, xT, t, w)[0] for w in (1.0, 0.5))
    close(one - half, 0.5 * bridge.g2(t) * bridge.h(x, xT, t))


@pytest.mark.parametrize("name", ALL)
def test_rho_is_a_sine_of_the_angle(float64, name):
    bridge = ALL[name]
    t = jnp.linspace(float(bridge.t_min), float(bridge.T), 50)
    total = bridge.rho2(t) + bridge.rho_bar2(t)
    close(jnp.sin(bridge.angle(t)) ** 2 * total, bridge.rho2(t), rtol=1e-9)
    close(jnp.cos(bridge.angle(t)) ** 2 * total, bridge.rho_bar2(t), rtol=1e-9, atol=1e-12)
    assert np.all(np.diff(bridge.angle(t)) > 0)


@pytest.mark.parametrize("name", SMOOTH)
def test_ends(name):
    bridge = SMOOTH[name]
    assert [float(v) for v in bridge.coefficients(jnp.asarray(bridge.T))] == pytest.approx(
        [1, 0, 0], abs=1e-6
    )
    a, b, c = (float(v) for v in bridge.coefficients(jnp.asarray(0.0)))
    assert (a, b, c) == pytest.approx((0, 1, 0), abs=1e-6)


def test_deterministic_bridge_keeps_the_means_and_drops_all_noise():
    noisy, still = make_bridge("i2sb"), make_bridge("i2sb", deterministic=True)
    t = jnp.asarray([0.2, 0.9])
    assert np.array_equal(noisy.coefficients(t).a, still.coefficients(t).a)
    assert np.array_equal(noisy.coefficients(t).b, still.coefficients(t).b)
    assert float(still.coefficients(t).c.max()) == 0.0 < float(noisy.coefficients(t).c.min())
    assert float(still.posterior(t, t / 2).std.max()) == 0.0


# -- shapes, tracing, precision
# ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_times_of_a_batch_are_those_of_its_examples(name):
    bridge = ALL[name]
    key = jax.random.key(0)
    x0, xT, noise = jax.random.normal(key, (3, 4, 2, 2, 1))[:, :]
    t = jnp.asarray([0.1, 0.4, 0.6, 0.9]) * bridge.T
    calls = {
        "sample": lambda i, t: bridge.sample(x0[i], xT[i], t, noise[i]),
        "step": lambda i, t: bridge.step(x0[i], xT[i], t, 0.5 * t, noise[i]),
        "ode": lambda i, t: bridge.ode_drift(x0[i], noise[i], xT[i], t),
        "sde": lambda i, t: bridge.reverse_sde(x0[i], noise[i], xT[i], t)[0],
    }
    for call in calls.values():
        together = call(slice(None), t)
        for i in range(4):
            np.testing.assert_allclose(
                together[i], call(slice(i, i + 1), t[i])[0], rtol=1e-5, atol=1e-6
            )


def test_settings_are_traced():
    traces = []

    @jax.jit
    def spread(bridge):
        traces.append(None)
        return bridge.coefficients(jnp.asarray(0.5)).c

    assert float(spread(Brownian(epsilon=1.0))) == pytest.approx(0.5)
    assert float(spread(Brownian(epsilon=3.0))) == pytest.approx(1.5)
    assert len(traces) == 1


@pytest.mark.parametrize("name", ALL)
def test_float32_is_accurate_everywhere(name):
    """Relative to each value's own size, also next to T and next to zero."""
    bridge = ALL[name]
    T, t_min = float(bridge.T), float(bridge.t_min)
    t = np.concatenate(
        [T - np.geomspace(1e-3, 0.9, 40) * T, np.geomspace(max(t_min, 1e-3), 0.1 * T, 40)]
    )
    t = t.astype(np.float32)
    values = {}
    for exact in (False, True):
        with jax.enable_x64(exact):
            time = jnp.asarray(t, jnp.float64 if exact else jnp.float32)
            values[exact] = [
                *bridge.coefficients(time),
                *bridge.posterior(time, 0.7 * time),
                bridge.sigma(time),
                bridge.f(time),
                bridge.g2(time),
                bridge.angle(time),
            ]
    for single, double in zip(values[False], values[True], strict=True):
        assert single.dtype == jnp.float32
        np.testing.assert_allclose(single, double, rtol=1e-5)


def test_unknown_bridges_and_settings_are_named():
    with pytest.raises(ValueError, match="Unknown bridge 'vpp'.*brownian.*vp"):
        make_bridge("vpp")
    with pytest.raises(ValueError, match="'ve' has no setting 'beta_d'.*T"):
        make_bridge("ve", beta_d=1.0)
