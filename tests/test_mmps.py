"""Samples of a posterior by moments: exact on Gaussians, equal to the official programs, law of samples."""

from __future__ import annotations

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_bridges.bridges import DDPM, EDM, Levels
from jax_bridges.corruptions import Identity, InpaintMask
from jax_bridges.keys import normal
from jax_bridges.platforms import aim_at
from jax_bridges.zero_shot import (
    SOLVERS,
    loop_here,
    make_method,
    posterior_denoiser,
    sample_diffusion,
)
from jax_bridges.zero_shot.diffusion import Level, diffusion_loop
from jax_bridges.zero_shot.mmps import posterior_mean

pytestmark = pytest.mark.usefixtures("float64")

FILE = np.load(pathlib.Path(__file__).parent / "golden" / "em.npz")


class Gaussian:
    """x_0 ~ N(mean, covariance) of D numbers, images `[B, D, 1, 1]`, and its exact denoiser."""

    def __init__(self, mean, covariance):
        self.mean, self.covariance = np.asarray(mean), np.asarray(covariance)
        self.values, self.vectors = np.linalg.eigh(self.covariance)

    @classmethod
    def of(cls, name, mean="mu"):
        low = FILE[f"{name}/cov_U"]
        return cls(FILE[f"{name}/{mean}"], np.diag(FILE[f"{name}/cov_D"]) + low @ low.T)

    def denoise(self, bridge):
        def denoise(x, t):
            a, s = bridge.alpha(t), bridge.sigma(t)
            gain = a * self.values / (a**2 * self.values + s**2)
            flat = (x[..., 0, 0] - a * self.mean) @ self.vectors
            return (self.mean + (gain * flat) @ self.vectors.T)[..., None, None]

        return denoise

    def posterior(self, known, y, sigma_y):
        """Mean and covariance given the entries `known` of x_0 with noise."""
        a = np.eye(len(self.mean))[known]
        joint = a @ self.covariance @ a.T + sigma_y**2 * np.eye(len(a))
        gain = self.covariance @ a.T @ np.linalg.inv(joint)
        mean = self.mean + gain @ (y[known] - a @ self.mean)
        return mean, self.covariance - gain @ a @ self.covariance


def levels_of_ve(sigmas):
    return Levels(np.asarray(sigmas), np.ones(len(sigmas)), np.append(sigmas[:-1], 0.0))


@pytest.mark.parametrize("level", ["s50", "s1", "s0.05"])
def test_one_posterior_mean_is_the_official_one(level):
    """The official program has one step length for the whole batch.

    It is in single precision, so that its iterations to a residual of 1e-3 end elsewhere.
    """
    prior, t = Gaussian.of("post", "mu_x"), jnp.float64(float(level[1:]))
    x, y, mask = FILE[f"post/{level}/xt"], FILE["post/y"], FILE["post/mask"]
    denoise, at = prior.denoise(EDM()), Level(t, jnp.ones(()), t)
    np.testing.assert_allclose(
        denoise(x, t), FILE[f"post/{level}/gauss_denoise"], rtol=1e-4, atol=1e-5
    )
    x, y, whole = x.reshape(1, -1, 1, 1), y.reshape(1, -1, 1, 1), as_one_vector(denoise, mask)
    for count, within in ((1, 1e-4), (50, 2e-3)):
        with aim_at("any"):  # not unrolled
            found = posterior_mean(*whole, y, 1e-3, x, at, iterations=count)
        expected = FILE[f"post/{level}/post_tweedie_cg{count}"].ravel()
        np.testing.assert_allclose(np.ravel(found), expected, atol=within * np.abs(expected).max())


def as_one_vector(denoise, mask):
    """Denoiser and operator of a batch that is one long image: what the official program solves."""
    count, size = mask.shape[:2]

    def together(x, t):
        return denoise(x.reshape(count, size, 1, 1), t).reshape(1, -1, 1, 1)

    return together, InpaintMask(mask=mask.reshape(1, -1, 1, 1))


@pytest.mark.parametrize("name", ["ddpm_cg1", "ddpm_cg3", "ddim_cg3"])
def test_whole_e_steps_are_the_official_ones(name):
    """Rozet et al., 16 steps; CG over the batch as one vector, x_1 = start_mean + 100 z."""
    name = f"roz/{name}"
    prior, mask, eps = Gaussian.of(name), FILE[f"{name}/mask"], FILE[f"{name}/eps"]
    t = np.linspace(1, 0, len(eps) + 1)
    sigmas = 1e-3 * (1e2 / 1e-3) ** t
    # A last call at the smallest level, which is where the official sampler's x_0 comes from.
    times = Levels(*(np.append(v, v[-1]) for v in (sigmas, np.ones(17), sigmas)))
    times.sigma[-1] = 0.0
    start = FILE[f"{name}/start_mean"][None, :, None, None] + sigmas[0] * FILE[f"{name}/z"]
    eps = np.concatenate([eps, np.zeros_like(eps[:1])])
    denoise, operator = as_one_vector(prior.denoise(EDM()), mask)
    y, sigma_y = FILE[f"{name}/y"].reshape(1, -1, 1, 1), float(FILE[f"{name}/sigma_y"])
    count = 3 if "cg3" in name else 1

    def keys(draw):
        noise = jnp.asarray(np.concatenate([start[None], eps]))[draw].reshape(1, -1, 1, 1)
        # Draw 0 is scaled to the law of images of unit variance, which the official start is not.
        return jnp.where(draw == 0, noise / np.sqrt(1 + sigmas[0] ** 2), noise)

    def posterior(x, level):
        return posterior_mean(denoise, operator, y, sigma_y, x, level, count)

    eta = 1.0 if "ddpm" in name else 0.0
    found = jax.jit(lambda: diffusion_loop(posterior, y, times, keys, 1, eta).run())()
    expected = FILE[f"{name}/x_final"].ravel()
    np.testing.assert_allclose(np.ravel(found), expected, atol=1e-8 * np.abs(expected).max())


def draw_prior():
    rng = np.random.default_rng(2)
    root = rng.normal(size=(5, 5)) / 2
    return Gaussian(rng.normal(size=5) / 3, root @ root.T + 0.05 * np.eye(5))


@pytest.mark.parametrize("bridge", [DDPM.create(), EDM()], ids=["ddpm", "edm"])
@pytest.mark.parametrize("ratio", [0.02, 0.3, 1.0, 8.0])
def test_it_is_the_posterior_mean_at_every_level(bridge, ratio):
    """E[x_0 | x_t, y] is the mean given two measurements: y, and x_t / alpha with noise sigma / alpha."""
    prior, sigma_y = draw_prior(), 0.2
    known = np.array([0, 3])
    mask = np.ones((1, 5, 1, 1))
    mask[:, known] = 0
    levels = bridge.narrow_levels(40)
    k = np.abs(levels.sigma[:-1] / levels.alpha[:-1] - ratio).argmin()
    t, a, s = (jnp.float64(v[k]) for v in levels)
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(3, 5, 1, 1)), rng.normal(size=(3, 5, 1, 1)) * (1 - mask)
    wrapped = posterior_denoiser(
        prior.denoise(bridge), bridge, InpaintMask(mask=mask), jnp.asarray(y), sigma_y, 5, 1e-12
    )
    found = wrapped(jnp.asarray(x), t)[..., 0, 0]
    a, s = float(a), float(s)
    inverse = np.linalg.inv(prior.covariance)
    weight = np.zeros(5)
    weight[known] = sigma_y**-2
    covariance = np.linalg.inv(inverse + np.diag(weight) + a**2 / s**2 * np.eye(5))
    right = inverse @ prior.mean + weight * y[..., 0, 0] + a / s**2 * x[..., 0, 0]
    np.testing.assert_allclose(found, right @ covariance, rtol=2e-5, atol=1e-5)


def test_one_iteration_is_exact_where_there_is_one_eigenvalue():
    """A = 1 and independent pixels; and what an image gets does not depend on those beside it."""
    prior, bridge = Gaussian(np.full(5, 0.2), 0.3 * np.eye(5)), EDM()
    rng = np.random.default_rng(0)
    x, y = (jnp.asarray(rng.normal(size=(2, 5, 1, 1))) for _ in range(2))
    at = Level(*map(jnp.float64, (0.5, 1.0, 0.5)))

    def mean(x, y):
        return posterior_mean(prior.denoise(bridge), Identity(), y, 0.1, x, at)

    precision = 1 / 0.3 + 1 / 0.25 + 1 / 0.01
    np.testing.assert_allclose(
        mean(x, y), (0.2 / 0.3 + x / 0.25 + y / 0.01) / precision, rtol=1e-12
    )
    beside = jnp.concatenate([x[:1], 100 * x[1:]]), jnp.concatenate([y[:1], -50 * y[1:]])
    np.testing.assert_array_equal(mean(*beside)[0], mean(x, y)[0])


def law(sample, size, draws, count=1):
    """Mean and covariance of what is affine in its noises `[draws, size]`, exactly."""
    rows = 1 + draws * size

    def keys(draw):
        hot = jnp.arange(rows)[:, None] - 1 == draw * size + jnp.arange(size)
        return hot.astype(jnp.float64)[..., None, None]

    out = np.asarray(jax.jit(lambda: sample(jnp.zeros((rows, size, 1, 1)), keys))())[..., 0, 0]
    return out[0], (out[1:] - out[0]).T @ (out[1:] - out[0])


@pytest.mark.parametrize("bridge", [DDPM.create(), EDM()], ids=["ddpm", "edm"])
def test_a_sample_has_the_posteriors_law(bridge):
    """With 20 levels of second order: the mean to 1%, the covariance to 3%.

    x_T has no mean: of a mean in a direction of variance v, sqrt(v / (100 + v)) is left out.
    """
    prior, sigma_y = draw_prior(), 0.3
    known = np.array([0, 3])
    mask = np.ones((1, 5, 1, 1))
    mask[:, known] = 0
    y = np.random.default_rng(5).normal(size=(1, 5, 1, 1)) * (1 - mask)
    method = make_method("mmps", bridge, {"iterations": 3}, 20)
    assert method.nfe == 39

    def sample(like, keys):
        return method.solver.solve(
            prior.denoise(bridge), InpaintMask(mask=mask), jnp.broadcast_to(y, like.shape), sigma_y,
            method.levels, keys, **method.knobs,
        )  # fmt: skip

    mean, covariance = law(sample, 5, 1)
    true_mean, true_covariance = prior.posterior(known, y[0, :, 0, 0], sigma_y)
    values, vectors = np.linalg.eigh(true_covariance)
    left_out = vectors * np.sqrt(values / (100 + values)) @ vectors.T @ true_mean
    assert np.linalg.norm(left_out) < 0.06 * np.linalg.norm(true_mean)
    assert np.linalg.norm(mean + left_out - true_mean) < 0.01 * np.linalg.norm(true_mean)
    assert np.linalg.norm(covariance - true_covariance) < 0.03 * np.linalg.norm(true_covariance)


# Variance that is left of v, from the reference's table: (calls' levels, order, eta) -> v -> factor.
KEPT = {
    (20, 1, 1.0): {1: 0.70, 0.25: 0.60, 0.03: 0.36, 0.003: 0.11},
    (20, 1, 0.0): {1: 0.83, 0.25: 0.74, 0.03: 0.46, 0.003: 0.19},
    (100, 1, 1.0): {1: 0.92, 0.25: 0.88, 0.03: 0.74, 0.003: 0.48},
    (15, 2, 0.0): {1: 1.05, 0.25: 1.06, 0.03: 1.09, 0.003: 1.09},
    (30, 2, 0.0): {1: 1.01, 0.25: 1.02, 0.03: 1.02, 0.003: 1.00},
}


@pytest.mark.parametrize(("count", "order", "eta"), KEPT)
def test_how_much_variance_samples_keep(count, order, eta):
    """Steps of first order lose it, most where there is least; those of second order do not."""
    variances = np.array([1, 0.25, 0.03, 0.003])
    bridge = EDM() if order == 2 else DDPM.create()
    times = bridge.levels(count, "respaced") if order == 1 else bridge.narrow_levels(count)
    prior = Gaussian(np.zeros(4), np.diag(variances))

    def sample(like, keys):
        return sample_diffusion(prior.denoise(bridge), like, times, keys, order=order, eta=eta)

    _, covariance = law(sample, 4, 1 + count * (eta > 0))
    found = np.diag(covariance) / variances
    np.testing.assert_allclose(found, list(KEPT[count, order, eta].values()), atol=0.012)


def test_a_solver_taken_apart_gives_what_its_scan_does():
    prior, bridge = draw_prior(), DDPM.create()
    mask = np.zeros((1, 5, 1, 1))
    mask[:, 2:] = 1
    y, key = jnp.ones((2, 5, 1, 1)) * (1 - mask), jax.random.key(0)
    for name, solver in SOLVERS.items():
        # What latent_search walks through is Adam's steps, not levels.
        make = loop_here(solver.solve)
        assert (make is not None) == (solver.gradient and name != "latent_search"), name
        if make is None:
            continue
        method = make_method(name, bridge, {}, 4)
        told = (prior.denoise(bridge), InpaintMask(mask=mask), y, 0.1, method.levels, key)
        loop = make(*told, **method.knobs)
        state = loop.start
        for k in range(loop.length):
            state = jax.jit(lambda state, k, loop=loop: loop.advance(state, loop.row(k)))(state, k)
        np.testing.assert_allclose(
            loop.answer(state), solver.solve(*told, **method.knobs), rtol=1e-9
        )
        assert loop.length == method.nfe


def test_refused():
    with pytest.raises(ValueError, match="eta is 0.5: fresh noise belongs to steps of first order"):
        sample_diffusion(lambda x, t: x, jnp.zeros((1, 2, 2, 1)), EDM().levels(3), normal, eta=0.5)
    with pytest.raises(ValueError, match="mmps.order is 3: it must be a whole number from 1 to 2"):
        make_method("mmps", EDM(), {"order": 3}, 5)
    with pytest.raises(ValueError, match="no 900 levels from 10 to 0.01"):
        DDPM.create().narrow_levels(900)
