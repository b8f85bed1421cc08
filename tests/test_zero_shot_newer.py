"""DiffPIR, DAPS and latent search: what each does to a Gaussian, in closed form."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from jax_bridges.bridges import DDPM, EDM
from jax_bridges.corruptions import Blur, Colorize, InpaintMask, SuperResolution
from jax_bridges.zero_shot import (
    make_method,
    solve_daps,
    solve_ddnm,
    solve_diffpir,
    solve_latent_search,
)
from jax_bridges.zero_shot.daps import diffuse
from jax_bridges.zero_shot.diffpir import proximal
from jax_bridges.zero_shot.latent_search import decode

pytestmark = pytest.mark.usefixtures("float64")

SIDE = 4
MASK = np.zeros((1, SIDE, SIDE, 1))
MASK[:, 1:3] = 1
OPERATORS = {
    "pool": SuperResolution(kind="pool", factor=2),
    "hole": InpaintMask(mask=MASK),
    "blur": Blur(taps=3, std=0.7, truncated=True),
    "colour": Colorize(),
}
PRIOR = DDPM.create()
MEAN, VARIANCE = 0.3, 0.5


def denoise(x, t):
    """E[x_0 | x_t] for independent pixels N(MEAN, VARIANCE)."""
    alpha, sigma = PRIOR.alpha(t), PRIOR.sigma(t)
    return MEAN + VARIANCE * alpha / (alpha**2 * VARIANCE + sigma**2) * (x - alpha * MEAN)


def given(name):
    """The operator, its matrix, an x_0 of another image, and y."""
    operator = OPERATORS[name]
    channels = 3 if name == "colour" else 1
    rng = np.random.default_rng(0)
    x0, x = (jnp.asarray(rng.standard_normal((1, SIDE, SIDE, channels))) for _ in range(2))
    units = jnp.eye(x.size).reshape(-1, *x.shape[1:])
    return (
        operator,
        np.asarray(operator.forward(units)).reshape(x.size, -1).T,
        x0,
        operator.forward(x),
    )


def flat(x):
    return np.asarray(x).ravel()


# -- DiffPIR -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPERATORS)
def test_the_proximal_step_is_the_posterior_mean_and_in_the_limit_ddnm_s_projection(name):
    operator, a, x0, y = given(name)
    for rho in (0.3, 20.0):
        hessian = a.T @ a + rho * np.eye(x0.size)
        wanted = np.linalg.solve(hessian, a.T @ flat(y) + rho * flat(x0))
        np.testing.assert_allclose(flat(proximal(operator, x0, y, rho)), wanted, atol=1e-10)
    projected = x0 - operator.pinv(operator.forward(x0) - y)
    np.testing.assert_allclose(proximal(operator, x0, y, 1e-14), projected, atol=1e-7)


def test_diffpir_without_noise_is_ddnm_with_fresh_noise_alone():
    """All but its last call, which DDNM projects too: the same states of the same draws."""
    operator, _, _, y = given("pool")
    levels, noise = (
        PRIOR.levels(6),
        np.random.default_rng(1).standard_normal((13, 1, SIDE, SIDE, 1)),
    )
    start = levels.alpha[0] * operator.pinv(y) + levels.sigma[0] * noise[0]

    def of_ddnm(draw):  # its step k has draws 1 + 2 k and 2 + 2 k
        return jnp.where(draw == 0, start, jnp.asarray(noise)[(draw + 1) // 2])

    @jax.jit
    def both(y):
        ours = solve_diffpir(
            denoise, operator, y, 0.0, levels, lambda draw: jnp.asarray(noise)[draw],
            least_noise=1e-9, project_last=True,
        )  # fmt: skip
        return ours, solve_ddnm(denoise, operator, y, 0.0, levels, of_ddnm, eta=1.0)

    ours, theirs = both(y)
    np.testing.assert_allclose(ours, theirs, atol=1e-9)
    np.testing.assert_allclose(operator.forward(ours), y, atol=1e-9)


def test_diffpir_keeps_predicted_noise_and_returns_its_last_prediction():
    """Two steps by hand, zeta = 0.25 and a weight; in the second nothing is weighed."""
    operator, a, _, y = given("hole")
    levels, noise = PRIOR.levels(2), np.random.default_rng(2).standard_normal((3, 1, SIDE, SIDE, 1))
    found = solve_diffpir(
        denoise, operator, y, 0.2, levels, lambda draw: jnp.asarray(noise)[draw],
        weight=3.0, zeta=0.25,
    )  # fmt: skip
    (alpha, alpha_to, _), (sigma, sigma_to, _) = levels.alpha, levels.sigma
    x = alpha * operator.pinv(y) + sigma * noise[0]
    rho = 3.0 * 0.2**2 * alpha**2 / sigma**2
    x0 = flat(denoise(x, levels.t[0]))
    moved = np.linalg.solve(a.T @ a + rho * np.eye(len(x0)), a.T @ flat(y) + rho * x0)
    e = (flat(x) - alpha * moved) / sigma
    x = alpha_to * moved + sigma_to * (np.sqrt(0.75) * e + 0.5 * flat(noise[1]))
    last = denoise(jnp.asarray(x).reshape(y.shape), levels.t[1])
    np.testing.assert_allclose(found, last, atol=1e-10)


# -- DAPS --------------------------------------------------------------------------------------------


def moments(function, like):
    """Mean and covariance of an affine function of white noise shaped like an image."""
    units = jnp.eye(like.size).reshape(-1, *like.shape[1:])
    batch = jnp.concatenate([jnp.zeros_like(units[:1]), units])
    out = np.asarray(jax.jit(function)(batch)).reshape(len(batch), -1)
    gains = out[1:] - out[0]
    return out[0], gains.T @ gains


@pytest.mark.parametrize("name", OPERATORS)
def test_the_diffusion_of_daps_is_langevin_s_and_ends_in_the_exact_posterior(name):
    operator, a, x0, y = given(name)
    spread, tau = 0.7, 0.2
    hessian = a.T @ a / tau**2 + np.eye(x0.size) / spread**2
    mean = np.linalg.solve(hessian, a.T @ flat(y) / tau**2 + flat(x0) / spread**2)

    def found(duration):
        def draw(noise):
            xs, ys = (jnp.broadcast_to(v, (len(noise), *v.shape[1:])) for v in (x0, y))
            return diffuse(operator, xs, ys, spread, tau, duration, noise)

        return moments(draw, x0)

    # The level's own posterior, of the Gaussian around x0 and of the measurement.
    at_end = found(100.0)
    np.testing.assert_allclose(at_end[0], mean, atol=1e-9)
    np.testing.assert_allclose(at_end[1], np.linalg.inv(hessian), atol=1e-9)
    # Langevin's steps as published, h of which a duration is made: the error is linear in h.
    duration, errors = 0.02, []
    for steps in (400, 800):
        h = duration / steps
        turn = np.eye(x0.size) - h * hessian
        x, covariance = flat(x0), np.zeros_like(hessian)
        for _ in range(steps):
            x = turn @ x + h * hessian @ mean
            covariance = turn @ covariance @ turn.T + 2 * h * np.eye(x0.size)
        ours = found(duration)
        errors.append([np.abs(x - ours[0]).max(), np.abs(covariance - ours[1]).max()])
    np.testing.assert_allclose(np.divide(*errors), 2.0, rtol=0.05)
    assert np.max(errors[1]) < 2e-3


def test_a_level_of_daps_is_its_ode_its_diffusion_and_fresh_noise():
    """Two levels by hand, of two steps of the ODE each; the second has but one level left."""
    operator, _, _, y = given("pool")
    levels, noise = PRIOR.levels(2), np.random.default_rng(3).standard_normal((5, 1, SIDE, SIDE, 1))
    seen = []

    def watched(x, t):
        jax.debug.callback(lambda t: seen.append(float(t)), t)
        return denoise(x, t)

    found = solve_daps(
        watched, operator, y, 0.3, levels, lambda draw: jnp.asarray(noise)[draw], ode_steps=2
    )
    jax.effects_barrier()
    assert seen == [float(levels.t[k]) for k in (0, 1, 1, 1)]
    (a0, a1, _), (s0, s1, _) = levels.alpha, levels.sigma
    x = noise[0]
    x0 = denoise(x, levels.t[0])
    x0 = denoise(a1 * x0 + s1 * (x - a0 * x0) / s0, levels.t[1])
    x0 = diffuse(operator, x0, y, s0 / a0, 0.3, 0.01, noise[1])
    x0 = denoise(a1 * x0 + s1 * noise[2], levels.t[1])
    x0 = diffuse(operator, x0, y, s1 / a1, 0.3, 1e-4, noise[3])
    np.testing.assert_allclose(found, x0, atol=1e-10)


# -- latent search -----------------------------------------------------------------------------------


@pytest.mark.parametrize("prior", [PRIOR, EDM(T=3.0)], ids=["ddpm", "edm"])
def test_latent_search_is_least_squares_on_the_sphere(prior):
    """x_0(z) is affine here: (B^T B + nu) z = B^T r with nu such that |z|^2 = d, from numpy."""
    operator, a, _, _ = given("blur")
    y = operator.forward(1.0 + 0.5 * jnp.sin(jnp.arange(16.0)).reshape(1, 4, 4, 1))

    def answer(x, t):
        alpha, sigma = prior.alpha(t), prior.sigma(t)
        return MEAN + VARIANCE * alpha / (alpha**2 * VARIANCE + sigma**2) * (x - alpha * MEAN)

    levels = prior.levels(4)
    zeros = jnp.zeros((1, SIDE, SIDE, 1))
    still = decode(answer, zeros, levels)
    b = a * float((decode(answer, zeros + 1.0, levels) - still).mean())
    r = flat(y - operator.forward(still))

    def z_of(nu):
        return np.linalg.solve(b.T @ b + nu * np.eye(16), b.T @ r)

    low = -np.linalg.eigvalsh(b.T @ b)[0]
    nu = scipy.optimize.brentq(lambda nu: np.sum(z_of(nu) ** 2) - 16, low + 1e-9, 1e3)
    wanted = flat(decode(answer, jnp.asarray(z_of(nu)).reshape(1, 4, 4, 1), levels))
    found = jax.jit(
        lambda y: solve_latent_search(
            answer, operator, y, 0.0, levels, jax.random.key(0)[None], iterations=300
        )
    )(y)
    np.testing.assert_allclose(flat(found), wanted, atol=2e-3)


def test_network_calls_are_counted():
    assert make_method("diffpir", PRIOR, {}, 50).nfe == 50
    assert make_method("daps", PRIOR, {}, 50).nfe == 20 * 5
    assert make_method("daps", PRIOR, {"nfe": 7, "ode_steps": 3}, 50).nfe == 21
    assert make_method("latent_search", PRIOR, {}, 50).nfe == 3 * 51
    searching = make_method("latent_search", PRIOR, {"nfe": 4, "iterations": 9}, 50)
    assert searching.nfe == 40 and len(searching.levels.t) == 5
