"""The preconditioning 'wiener': the denoiser of a Gaussian scale mixture, against dense matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import multivariate_normal

from jax_bridges.bridges import DDPM, EDM, make_bridge
from jax_bridges.preconditioning import make_preconditioning, precondition
from jax_bridges.validation import validate
from jax_bridges.wiener import _COLOURS, Wiener, cosines

PRIOR, SCALING = DDPM.create(), Wiener()


def fields(count, height, width):
    """Draws of the mixture `[count, height, width, 3]`: every colour of an image has a scale of its own."""
    random = np.random.default_rng(0)
    power = np.asarray(SCALING.spectra(height, width))
    scale = random.choice(len(power), p=SCALING.shares, size=(count, 3))
    power = np.stack([power[scale[:, j], :, :, j] for j in range(3)], -1)
    white = random.standard_normal(power.shape) * np.sqrt(power)
    rows, columns = cosines(height), cosines(width)
    x = np.einsum("kh,lw,jc,bklj->bhwc", rows, columns, _COLOURS, white, optimize=True)
    return jnp.asarray(x) + jnp.asarray(SCALING.mean)


def test_the_bases_are_orthonormal():
    for matrix in (cosines(7), cosines(32), _COLOURS):
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(len(matrix)), atol=1e-12)


@pytest.mark.parametrize("bridge", [PRIOR, EDM()], ids=["ddpm", "edm"])
def test_the_skip_is_the_posterior_mean(bridge):
    """Of the mixture, by dense covariances: sum_s p(s | x_t) (m + alpha C_s (alpha^2 C_s + sigma^2)^-1 ...)."""
    height, width = 4, 6
    with jax.enable_x64(True):
        basis = np.einsum("kh,lw->klhw", cosines(height), cosines(width)).reshape(24, 24)
        power = np.asarray(SCALING.spectra(height, width)).reshape(len(SCALING.scales), 24, 3)
        x = jnp.asarray(np.random.default_rng(1).standard_normal((3, height, width, 3)))
        t = jnp.asarray([0.05, 0.3, 0.9]) * bridge.T
        found = np.asarray(SCALING.skip(bridge, x, t))
        for i in range(3):
            alpha, sigma = float(bridge.alpha(t)[i]), float(bridge.sigma(t)[i])
            gap = np.einsum("jc,hwc->hwj", _COLOURS, x[i] - alpha * np.asarray(SCALING.mean))
            want = np.zeros((height, width, 3))
            for j in range(3):
                odds, means = [], []
                for s in range(len(SCALING.scales)):
                    covariance = basis.T @ (power[s, :, j, None] * basis)
                    both = alpha**2 * covariance + sigma**2 * np.eye(24)
                    y = gap[..., j].ravel()
                    law = multivariate_normal(np.zeros(24), both)
                    odds.append(np.log(SCALING.shares[s]) + law.logpdf(y))
                    means.append(alpha * covariance @ np.linalg.solve(both, y))
                want[..., j] = (softmax(odds) @ np.array(means)).reshape(height, width)
            want = np.einsum("jc,hwj->hwc", _COLOURS, want) + np.asarray(SCALING.mean)
            np.testing.assert_allclose(found[i], want, atol=1e-9)


def test_the_network_s_part_has_unit_variance():
    """Var[(x_0 - skip) / c_out] and Var[c_in x_t] are 1 for such images, at every level of noise."""
    x, noise = fields(256, 32, 32), jax.random.normal(jax.random.key(0), (256, 32, 32, 3))
    denoise = jax.jit(lambda x, t: SCALING.skip(PRIOR, x, t))
    for index in (0, 20, 100, 400, 999):
        t = jnp.full(len(x), index / 999)
        xt = PRIOR.sample(x, x, t, noise)
        scalings = SCALING.scalings(PRIOR, t)
        error = jnp.sqrt(jnp.square(denoise(xt, t) - x).mean())
        np.testing.assert_allclose(error, scalings.c_out[0], rtol=0.1)
        np.testing.assert_allclose(jnp.sqrt(jnp.square(scalings.c_in[0] * xt).mean()), 1, rtol=0.1)
        ratio = float(PRIOR.sigma(t[0]) / PRIOR.alpha(t[0]))
        np.testing.assert_allclose(scalings.c_noise[0], 250 * np.log(ratio), rtol=1e-4)
        np.testing.assert_allclose(SCALING.weight(PRIOR, t) * scalings.c_out**2, 1, rtol=1e-5)


def test_a_network_corrects_it():
    x, t = fields(2, 8, 8).astype(jnp.float32), jnp.asarray([0.1, 0.6])
    silent = precondition(lambda x, c, xT, z: 0 * x, PRIOR, SCALING)
    np.testing.assert_array_equal(silent(x, t, x), SCALING.skip(PRIOR, x, t))
    speaking = precondition(lambda x, c, xT, z: jnp.ones_like(x), PRIOR, SCALING)
    gap = (speaking(x, t, x) - silent(x, t, x)).mean((1, 2, 3))
    np.testing.assert_allclose(gap, SCALING.scalings(PRIOR, t).c_out, rtol=1e-4)
    # As a recorded configuration has it: lists.
    made = make_preconditioning("wiener", mean=[-0.3, -0.3, -0.45])
    np.testing.assert_allclose(made.skip(PRIOR, x, t), SCALING.skip(PRIOR, x, t), atol=1e-6)


def test_a_bridge_between_images_is_refused():
    from jax_bridges.config import base_config

    with pytest.raises(ValueError, match="is for diffusion priors"):
        SCALING.scalings(make_bridge("i2sb"), jnp.asarray([0.5]))
    config = base_config()
    config.preconditioning = {"name": "wiener"}
    with pytest.raises(ValueError, match="is for diffusion priors"):
        validate(config)


@pytest.mark.slow
def test_the_defaults_fit_the_earth():
    """Held-out tiles: what is left of the noise is within 15% of c_out, and far below the noise."""
    from jax_bridges.config import base_config
    from jax_bridges.data import make_source

    source = make_source(base_config().data, "test")
    x = np.stack([source[i]["x0"] for i in range(0, 600, 3)]).astype(np.float32) / 127.5 - 1
    noise = jax.random.normal(jax.random.key(0), x.shape)
    for index, share in ((20, 0.6), (50, 0.45), (100, 0.35), (300, 0.15)):
        t = jnp.full(len(x), index / 999)
        error = SCALING.skip(PRIOR, PRIOR.sample(x, x, t, noise), t) - x
        error = float(jnp.sqrt(jnp.square(error).mean()))
        np.testing.assert_allclose(error, SCALING.scalings(PRIOR, t).c_out[0], rtol=0.15)
        assert error < share * float(PRIOR.sigma(t[0]) / PRIOR.alpha(t[0]))
