"""Zero-shot solvers with a Gaussian prior and its exact denoiser: the posterior is known in closed form.

Every solver is then affine in its noises, so its law is computed exactly, without sampling. What the
approximate ones get wrong is stated as numbers.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_bridges.bridges import DDPM
from jax_bridges.corruptions import InpaintMask, SuperResolution
from jax_bridges.zero_shot import SOLVERS, measure

pytestmark = pytest.mark.usefixtures("float64")

SIDE, PIXELS = 4, 16
MEAN, VARIANCE = 0.3, 1.0
MASK = np.zeros((1, SIDE, SIDE, 1))
MASK[:, 1:3, :, :] = 1
POOL, HOLE = SuperResolution(kind="pool", factor=2), InpaintMask(mask=MASK)
PRIOR = DDPM.create()


def denoise(x, t):
    """E[x_0 | x_t] for independent pixels N(MEAN, VARIANCE)."""
    alpha, sigma = PRIOR.alpha(t), PRIOR.sigma(t)
    gain = VARIANCE * alpha / (alpha**2 * VARIANCE + sigma**2)
    return MEAN + gain * (x - alpha * MEAN)


def matrix(operator):
    units = jnp.eye(PIXELS).reshape(PIXELS, SIDE, SIDE, 1)
    return np.asarray(operator.forward(units)).reshape(PIXELS, -1).T


def truth(operator, y, sigma_y):
    """Mean and covariance of p(x_0 | y)."""
    a = matrix(operator)
    kept = np.abs(a).sum(1) > 0  # rows of a mask's hole measure nothing
    a, y = a[kept], np.asarray(y).ravel()[kept]
    gain = VARIANCE * a.T @ np.linalg.inv(VARIANCE * a @ a.T + sigma_y**2 * np.eye(len(a)))
    mean = MEAN + gain @ (y - a @ np.full(PIXELS, MEAN))
    return mean, VARIANCE * (np.eye(PIXELS) - gain @ a)


def law(name, operator, y, sigma_y, draws, levels, **knobs):
    """Mean and covariance of the solver's result: example 0 has no noise, each other one unit of it."""
    size = 1 + draws * PIXELS

    def keys(draw):
        hot = jnp.arange(size)[:, None] - 1 == draw * PIXELS + jnp.arange(PIXELS)
        return hot.astype(jnp.float64).reshape(size, SIDE, SIDE, 1)

    @jax.jit
    def run(y):
        y = jnp.broadcast_to(y, (size, *y.shape[1:]))
        return SOLVERS[name].solve(denoise, operator, y, sigma_y, levels, keys, **knobs)

    out = np.asarray(run(y)).reshape(size, PIXELS)
    gains = out[1:] - out[0]
    return out[0], gains.T @ gains


@functools.cache
def measurement(kind, sigma_y):
    operator = {"pool": POOL, "hole": HOLE}[kind]
    rng = np.random.default_rng(0)
    x = jnp.asarray(MEAN + rng.standard_normal((1, SIDE, SIDE, 1)))
    noise = rng.standard_normal((1, *operator.forward(x).shape[1:]))
    return operator, measure(operator, x, sigma_y, lambda draw: noise)


def errors(name, kind, sigma_y, draws, levels, **knobs):
    """Of mean and covariance, relative to the size of the true ones (Frobenius)."""
    with jax.enable_x64(True):
        operator, y = measurement(kind, sigma_y)
    mean, covariance = law(name, operator, y, sigma_y, draws, levels, **knobs)
    true_mean, true_covariance = truth(operator, y, sigma_y)
    return (
        np.linalg.norm(mean - true_mean) / np.linalg.norm(true_mean),
        np.linalg.norm(covariance - true_covariance) / np.linalg.norm(true_covariance),
    )


@pytest.mark.parametrize(
    ("name", "kind", "sigma_y", "knobs"),
    [
        ("pigdm", "pool", 0.0, {"guidance": "exact", "eta": 0.0}),
        ("pigdm", "pool", 0.3, {"guidance": "exact", "eta": 0.0}),
        ("pigdm", "hole", 0.3, {"guidance": "exact", "eta": 1.0}),
        ("ddnm", "hole", 0.0, {"eta": 0.0}),
        ("ddnm", "pool", 0.0, {"eta": 0.0}),
        ("ddnm_plus", "pool", 0.0, {"eta": 0.0}),
    ],
)
def test_exact_solvers_reach_the_posterior(name, kind, sigma_y, knobs):
    # With eta = 0 only x_T is noise (but for the range of DDNM+, whose noise is gone at the last
    # step), and the error is that of an ODE of first order; eta = 1 needs three times the levels.
    count = 600 if knobs["eta"] else 200
    draws = 1 + count if knobs["eta"] else 1
    mean, covariance = errors(name, kind, sigma_y, draws, PRIOR.levels(count), **knobs)
    assert mean < 0.02 and covariance < 0.02


# (error of mean, error of covariance) with 100 levels, pooling, and noise 0 or 0.3 in y. DDNM's share
# eta = 0.85 of fresh noise at every level takes variance from the null space (0.275, although the
# mean is exact); with noise in y it also keeps that noise (mean 0.367), which DDNM+ and DDRM remove
# but for a quarter. They agree: their last steps return x0_hat alike. PiGDM's adaptive weight and the
# paper's do not weigh y against the prior at all; "exact" does (test above). DPS is left out: its step is
# normalised, hence not affine, and its law depends on the step size alone.
FAR = {
    ("ddnm", 0.0): (0.000, 0.275),
    ("ddnm", 0.3): (0.367, 0.311),
    ("ddnm_plus", 0.3): (0.104, 0.297),
    ("ddrm", 0.0): (0.000, 0.275),
    ("ddrm", 0.3): (0.104, 0.297),
    ("pigdm", 0.0): (0.000, 0.078),
    ("pigdm", 0.3): (0.363, 0.147),
    ("ilvr", 0.3): (0.367, 0.170),
}
DRAWS = {"ddnm": 200, "ddnm_plus": 200, "ilvr": 200, "ddrm": 100, "pigdm": 100}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "sigma_y"), FAR)
def test_how_far_the_others_are(name, sigma_y):
    knobs = {"clip": False} if name == "ilvr" else {}
    found = errors(name, "pool", sigma_y, 1 + DRAWS[name], PRIOR.levels(100), **knobs)
    np.testing.assert_allclose(found, FAR[name, sigma_y], atol=2e-3)
