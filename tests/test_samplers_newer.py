"""DBMSolver, ECSI's sampler, Heun's method from a booted start, and prior guidance: closed forms."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_bridges.bridges import I2SB, VE, VP, Brownian, StochasticInterpolant
from jax_bridges.samplers import (
    SAMPLERS,
    count_calls,
    make_sampler,
    prior_guided,
    sample_dbim,
    sample_dbmsolver,
    sample_ecsi,
    sample_ode_heun,
)
from jax_bridges.samplers.prior_guidance import blurred
from jax_bridges.times import angle_grid, padded, solver_grid
from tests.support.gaussian import GaussianPair, law_error, slope

pytestmark = pytest.mark.usefixtures("float64")

PAIR = GaussianPair(slope=0.8, std=0.3, source_mean=0.2, source_std=1.1)
BRIDGES = {"vp": VP(t_min=1e-7), "ve": VE(t_min=1e-4, T=1.0), "brownian": Brownian(t_min=1e-7)}
XT = np.linspace(-1.0, 1.0, 6).reshape(6, 1, 1, 1)


def run(sampler, bridge, times, **knobs):
    denoise = PAIR.denoiser(bridge, True)
    return lambda xT, keys: sampler(denoise, bridge, xT, times, keys, **knobs)


# -- DBMSolver ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vp", "ve"])
def test_dbmsolver_at_first_order_is_dbim(name):
    """Its half-way states; and the whole of it where x0_hat does not move, so that no slope is left."""
    bridge, noise = BRIDGES[name], lambda draw: jnp.cos(3.0 * XT)
    times = solver_grid(bridge, 7)
    denoise = PAIR.denoiser(bridge, True)
    half = jnp.array([times[0], 0.5 * (times[0] + times[1])])

    @jax.jit
    def samples(xT):
        _, path = sample_dbmsolver(
            denoise, bridge, xT, times, noise, middle="time", return_path=True
        )
        _, dbim = sample_dbim(denoise, bridge, xT, half, noise, return_path=True)
        still = lambda x, t, xT: jnp.sin(2.0 * xT)  # noqa: E731
        both = (s(still, bridge, xT, times, noise) for s in (sample_dbmsolver, sample_dbim))
        return path, dbim, *both

    path, dbim, ours, theirs = samples(XT)
    np.testing.assert_allclose(path[:2], dbim, rtol=0, atol=1e-12)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)
    assert len(path) == 12 == SAMPLERS["dbmsolver"].calls(times)


@pytest.mark.parametrize("name, middle", [("vp", "lambda"), ("ve", "time")])
def test_dbmsolver_is_exact_for_a_prediction_linear_in_lambda(name, middle):
    bridge, p, q, z = BRIDGES[name], 0.4, -0.3, 0.6
    times = jnp.asarray(solver_grid(bridge, 6))

    def log_ratio(t):
        return -0.5 * jnp.log(bridge.rho2(t))

    def denoise(x, t, xT):
        return jnp.full_like(x, p + q * log_ratio(t))

    def integral(t):
        """Of p + q lambda over u / rho_T, lambda = log sqrt(1 + u^2) - log rho_T."""
        u, rho = jnp.sqrt(bridge.rho_bar2(t) / bridge.rho2(t)), jnp.sqrt(bridge.total2(t))
        log = 0.5 * u * jnp.log1p(u**2) - u + jnp.arctan(u)
        return (p * u + q * (log - u * jnp.log(rho))) / rho

    _, path = sample_dbmsolver(
        denoise, bridge, jnp.asarray(XT), times, lambda draw: z * jnp.ones_like(XT), middle=middle,
        return_path=True,
    )  # fmt: skip
    t, s = times[0], times[-2]  # the last step is of first order
    a, b, c = bridge.coefficients(t)
    start = a * XT + b * (p + q * log_ratio(jnp.asarray(bridge.T))) + c * z
    a_s, _, c_s = bridge.coefficients(s)
    exact = a_s * XT + c_s * ((start - a * XT) / c + integral(s) - integral(t))
    np.testing.assert_allclose(path[-2], exact, rtol=0, atol=1e-10)


def test_dbmsolver_has_the_errors_of_its_reference():
    """On VE from rho 0.95 to 0.05, log-uniform: numbers of a plain program in numpy, order 2."""
    bridge = VE(t_min=0.05, T=1.0)
    pair = GaussianPair(slope=0.8, std=0.6)
    denoise, xT = pair.denoiser(bridge, True), jnp.full((1, 1, 1, 1), -0.7)
    x = jnp.full_like(xT, 0.4)
    a, b, c = bridge.coefficients(jnp.asarray(0.95))
    z = (x - a * xT - b * denoise(xT, jnp.asarray(1.0), xT)) / c  # so that the booted start is x
    reference = {10: 2.5e-3, 160: 2.2e-5, 320: 6.0e-6}
    errors = []
    for n in reference:
        # One step more, as the last is of first order.
        times = np.append(np.geomspace(0.95, 0.05, n + 1), 0.04)
        _, path = sample_dbmsolver(denoise, bridge, xT, times, lambda draw: z, return_path=True)
        exact = pair.ode_solution(bridge, x, xT, jnp.asarray(0.95), jnp.asarray(0.05))
        errors.append(float(jnp.abs(path[-2] - exact).max()))
    np.testing.assert_allclose(errors, list(reference.values()), rtol=0.03)
    assert abs(slope([160, 320], errors[1:]) - 2) < 0.15


def test_dbmsolver_reaches_the_target_law():
    bridge = BRIDGES["vp"]
    assert law_error(run(sample_dbmsolver, bridge, angle_grid(bridge, 100)[1:]), PAIR, 1) < 2e-4


def test_dbmsolver_on_a_table_calls_at_its_entries():
    bridge, seen = I2SB.create(beta_max=1.0), []
    denoise = PAIR.denoiser(bridge, True)

    def watched(x, t, xT):
        jax.debug.callback(lambda t: seen.append(float(t) * 999), t)
        return denoise(x, t, xT)

    entry = SAMPLERS["dbmsolver"]
    times = entry.grid(bridge, 60)
    assert len(times) == 31 and times[0] < 1.0 and times[-1] == 0.0 and (np.diff(times) < 0).all()
    sample = lambda xT, keys: entry.sample(watched, bridge, xT, times, keys)  # noqa: E731
    assert law_error(sample, PAIR, 1) < 1e-2  # variance 1e-4 is left at entry 0
    jax.effects_barrier()
    assert len(seen) == 60 and np.abs(np.array(seen) - np.rint(seen)).max() < 1e-9


# -- Heun's method from a booted start ---------------------------------------------------------------


def test_a_booted_heun_starts_as_dbim_and_is_of_second_order():
    bridge = BRIDGES["vp"]
    denoise, noise = PAIR.denoiser(bridge, True), lambda draw: jnp.cos(3.0 * XT)
    times = angle_grid(bridge, 9)
    _, path = sample_ode_heun(
        denoise, bridge, jnp.asarray(XT), times, noise, booted=True, return_path=True
    )
    _, dbim = sample_dbim(denoise, bridge, jnp.asarray(XT), times[1:], noise, return_path=True)
    assert len(path) == 16
    np.testing.assert_allclose(path[:2], dbim[:2], rtol=0, atol=1e-12)
    errors = [
        law_error(run(sample_ode_heun, bridge, angle_grid(bridge, n), booted=True), PAIR, 1)
        for n in (50, 100)
    ]
    assert errors[1] < 2e-4 and abs(slope([50, 100], errors) - 2) < 0.15


def test_a_booted_heun_keeps_its_budget():
    bridge, entry = VP(), make_sampler("ode_heun:booted=True")
    counted = count_calls(PAIR.denoiser(bridge, True))
    sample = jax.jit(
        lambda times, length: entry.sample(
            counted, bridge, jnp.asarray(XT), times, lambda draw: XT, length=length
        )
    )
    for nfe, calls in ((1, 1), (3, 2), (13, 12)):
        grid, before = entry.grid(bridge, nfe), counted.calls()
        found = sample(*padded(grid, 16))
        assert entry.calls(grid) == calls == counted.calls() - before
        plain = run(sample_ode_heun, bridge, grid, booted=True)(jnp.asarray(XT), lambda draw: XT)
        np.testing.assert_allclose(found, plain, atol=1e-9)


# -- ECSI --------------------------------------------------------------------------------------------


ECSI_PATH = StochasticInterpolant.create(
    path="linear", gamma="sqrt", gamma_scale=np.sqrt(2.0) * 0.125, t_min=1e-7
)


@pytest.mark.parametrize("bridge", [*BRIDGES.values(), ECSI_PATH], ids=[*BRIDGES, "ecsi"])
def test_ecsi_s_noise_is_half_of_the_prior_s(bridge):
    t = jnp.linspace(0.1, 0.9, 5)
    _, slopes = jax.jvp(bridge.coefficients, (t,), (jnp.ones_like(t),))
    _, b, c = bridge.coefficients(t)
    literal = c * slopes.c - slopes.b / b * c**2
    np.testing.assert_allclose(literal, 0.5 * bridge.g2(t), rtol=1e-6)
    if bridge is ECSI_PATH:
        np.testing.assert_allclose(c, 2 * 0.125 * jnp.sqrt(t * (1 - t)), rtol=1e-12)


@pytest.mark.parametrize("steps, eta", [("exact", 0.3), ("euler", 1.0)])
@pytest.mark.parametrize("bridge", [BRIDGES["vp"], ECSI_PATH], ids=["vp", "ecsi"])
def test_ecsi_reaches_the_target_law_at_first_order(bridge, steps, eta):
    sizes, knobs = [50, 100, 200], {"steps": steps, "eta": eta}
    errors = [
        law_error(run(sample_ecsi, bridge, angle_grid(bridge, n), **knobs), PAIR, n) for n in sizes
    ]
    assert abs(slope(sizes, errors) - 1) < 0.2, errors
    assert errors[-1] < 1e-2


def test_ecsi_s_exact_steps_are_dbim_s_at_both_ends_of_eta():
    bridge, noise = BRIDGES["vp"], lambda draw: jnp.cos((3.0 + draw) * XT)
    times = SAMPLERS["ecsi"].grid(bridge, 5)
    for eta in (0.0, 1.0):
        _, ours = run(sample_ecsi, bridge, times, eta=eta, steps="exact", return_path=True)(
            jnp.asarray(XT), noise
        )
        _, theirs = run(sample_dbim, bridge, times[1:], eta=eta, return_path=True)(
            jnp.asarray(XT), noise
        )
        np.testing.assert_allclose(ours[:3], theirs[:3], rtol=0, atol=1e-12)


def test_ecsi_s_euler_step_is_the_paper_s():
    """On its own path, from derivatives of a, b and c: `x + dt (b' x_0 + a' x_T + (c' + e / c) z) + ...`."""
    bridge, eta, xT = ECSI_PATH, 0.4, jnp.asarray(XT)
    times = np.array([1.0, 0.8, 0.5, 0.3, 0.1])
    noise = lambda draw: jnp.cos((3.0 + draw) * xT)  # noqa: E731
    _, path = run(sample_ecsi, bridge, times, eta=eta, return_path=True)(xT, noise)
    t, s, x = jnp.asarray(0.8), 0.5, path[0]
    x0 = PAIR.denoiser(bridge, True)(x, t, xT)
    (a, b, c), (da, db, dc) = jax.jvp(bridge.coefficients, (t,), (jnp.ones(()),))
    e, z = eta * (c * dc - db / b * c**2), (x - a * xT - b * x0) / c
    drift = db * x0 + da * xT + (dc + e / c) * z
    wanted = x + (s - t) * drift + jnp.sqrt(2 * e * (t - s)) * noise(1)
    np.testing.assert_allclose(path[1], wanted, rtol=0, atol=1e-10)


def test_ecsi_begins_and_ends_as_dbim():
    """Of three steps none is Euler's."""
    bridge = BRIDGES["vp"]
    times = SAMPLERS["ecsi"].grid(bridge, 3)
    assert times[0] == 1.0 and times[-1] == 0.0
    noise = lambda draw: jnp.cos(3.0 * XT)  # noqa: E731
    ours = run(sample_ecsi, bridge, times, eta=0.7)(jnp.asarray(XT), noise)
    np.testing.assert_allclose(
        ours, run(sample_dbim, bridge, times[1:])(jnp.asarray(XT), noise), rtol=0, atol=1e-12
    )


# -- prior guidance ----------------------------------------------------------------------------------


def test_guidance_of_weight_one_is_no_guidance_bit_for_bit():
    bridge, xT = VP(), jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    denoise = lambda x, t, xT: jnp.tanh(0.7 * x + 0.2 * xT)  # noqa: E731
    key = jax.random.key(0)
    for one in ("pg=1", "pg=(1.0,1.0,1.0)", "pg=1,pg_blur=0,pg_noise=0.3"):
        plain, guided = make_sampler("dbim:eta=0.5"), make_sampler(f"dbim:eta=0.5,{one}")
        times = plain.grid(bridge, 4)
        np.testing.assert_array_equal(
            jax.jit(lambda x, s=guided: s.sample(denoise, bridge, x, times, key))(xT),
            jax.jit(lambda x, s=plain: s.sample(denoise, bridge, x, times, key))(xT),
        )
    away = make_sampler("dbim:eta=0.5,pg=1.5,pg_noise=0.1")(denoise, bridge, xT, 8, key)
    assert jnp.abs(away - plain(denoise, bridge, xT, 4, key)).max() > 1e-2


def test_guidance_scales_what_the_blur_takes():
    """Of waves of 1, 3 and 6 periods a blur of 1.2 pixels leaves the part exp(-2 (pi std f)^2)."""
    size, std = 16, 1.2
    k = np.array([1, 3, 6]) / size
    waves = [jnp.cos(2 * jnp.pi * f * jnp.arange(size))[None, :, None, None] for f in k]
    waves = [jnp.broadcast_to(w, (1, size, size, 1)) for w in waves]
    left = np.exp(-2 * (np.pi * std * k) ** 2)
    x = sum(waves)
    np.testing.assert_allclose(
        blurred(x, std), sum(p * w for p, w in zip(left, waves, strict=True)), atol=1e-12
    )
    denoise = lambda x, t, xT: 0.7 * x + 0.2 * xT  # noqa: E731
    weaken = functools.partial(blurred, std=std)
    # Bands end at 1/6, 1/3 and 1/2 of a cycle a pixel: the waves lie in the first, the second, the third.
    for weight, each in ((1.6, [1.6] * 3), ((1.5, 1.0, 3.0), (1.5, 1.0, 3.0))):
        guided = prior_guided(denoise, weight, weaken)(x, 0.5, x)
        wanted = denoise(x, 0.5, x) + 0.7 * sum(
            (w - 1) * (1 - p) * wave for w, p, wave in zip(each, left, waves, strict=True)
        )
        np.testing.assert_allclose(guided, wanted, atol=1e-12)


@pytest.mark.parametrize("name", ["ode_heun", "dbmsolver"])
def test_guidance_is_counted(name):
    plain, guided = make_sampler(name), make_sampler(f"{name}:pg=1.5")
    bridge = VP()
    counted = count_calls(lambda x, t, xT: 0.7 * x + 0.2 * xT)
    for nfe in (guided.least(), 24):
        grid = guided.grid(bridge, nfe)
        assert len(grid) == len(plain.grid(bridge, nfe // 2))
        before = counted.calls()
        guided.sample(
            counted, bridge, jnp.ones((1, 4, 4, 1)), grid, lambda draw: jnp.zeros((1, 4, 4, 1))
        )
        assert counted.calls() - before == guided.calls(grid) == 2 * plain.calls(grid) <= nfe
    with pytest.raises(ValueError, match=f"needs at least {guided.least()} network calls"):
        guided.grid(bridge, guided.least() - 1)


@pytest.mark.parametrize(
    "text, words",
    [
        ("dbim:pg_blur=2.0", "pg_blur is of prior guidance: give its weight, pg, too"),
        ("dbim:pg=-1", "dbim.pg is -1: it must be a number of at least 0, or a tuple of 2 or more"),
        ("dbim:pg=2,pg_blur=0", "pg_blur and pg_noise are both 0, so nothing weakens x_t"),
    ],
)
def test_guidance_that_cannot_be_is_refused(text, words):
    with pytest.raises(ValueError, match=words):
        make_sampler(text)
