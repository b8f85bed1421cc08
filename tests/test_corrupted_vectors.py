"""Losses and samplers of priors from corrupted data against the official programs (golden/em_baselines_make.py)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_bridges.bridges import EDM
from jax_bridges.corrupted_losses import ambient_loss, sure, tweedie_loss
from jax_bridges.losses import bridge_matching
from jax_bridges.zero_shot.ambient import agreement, sample_ambient
from tests.support import GOLDEN
from tests.support.official import close

pytestmark = pytest.mark.usefixtures("float64")

with np.load(GOLDEN / "em_baselines.npz") as file:
    NUMBERS = dict(file)
BRIDGE = EDM()
LEVELS = BRIDGE.levels(6)


def group(name):
    """Arrays saved under `name/`."""
    return {k.removeprefix(f"{name}/"): v for k, v in NUMBERS.items() if k.startswith(f"{name}/")}


def lognormal(numbers):
    """EDM's noise levels, and its weights."""
    sigma = jnp.exp(-1.2 + 1.2 * numbers.ravel())
    return sigma, (sigma**2 + 0.25) / (0.5 * sigma) ** 2


def of_channels_first(vector):
    """The order of pixels in mu and C, which are of flat images [C, H, W]."""
    return np.moveaxis(vector.reshape(3, 4, 4, *vector.shape[1:]), 0, 2).reshape(vector.shape)


def exact_denoiser(want, extra=0.0):
    """`E[x_0 | A' x_t, A']` of x_0 ~ N(mu, C), plus a share of what it sees."""
    mu, C = want["mu"], want["C"]
    mu, C = of_channels_first(mu), of_channels_first(of_channels_first(C).T).T

    def one(x, sigma, seen):
        seen, flat = seen.ravel(), x.ravel()
        system = C * seen * seen[:, None] + sigma**2 * jnp.eye(48)
        answer = mu + (C * seen) @ jnp.linalg.solve(system, flat - seen * mu)
        return answer.reshape(x.shape) + jnp.ravel(extra) * x

    def denoise(x, t, seen):
        return jax.vmap(one)(x, jnp.broadcast_to(t, x.shape[:1]), seen)

    return denoise


@pytest.mark.parametrize("name", ["loss", "loss_rgb"])
def test_ambient_loss(name):
    """One mask for all channels, and one for each; also where it is seen that images have holes."""
    want = group(f"amb/{name}")
    sigma, weight = lognormal(want["rnd_normal"])
    denoise = exact_denoiser(want, want["extra_w"])

    def loss(images, sigma_y=0.0):
        return ambient_loss(
            denoise, BRIDGE, images, want["A"], want["A_hat"], sigma, want["noise"], weight, sigma_y
        )

    got = jax.jit(loss)(want["A"] * want["images"])
    close(got, want["loss_optimised"].mean((1, 2, 3)), rtol=1e-9)
    close(got.mean() * 48, want["scalar_backward"], rtol=1e-9)  # they add pixels up


def test_tweedie_loss():
    """Noise of its own for each image, of none for one."""
    want = group("tweedie/loss")
    sigma, _ = lognormal(want["rnd_normal"])
    sigma_y = jnp.asarray(want["sigma_n"])
    sigma = jnp.maximum(sigma, sigma_y)
    weight = (sigma**2 + 0.25) / (0.5 * sigma) ** 2

    def denoise(x, t, xT):
        gain = want["v"] / (want["v"] + t.reshape(-1, 1, 1, 1) ** 2)
        return 0.9 * (want["mu"] + gain * (x - want["mu"])) + 0.05 * x

    got = tweedie_loss(denoise, BRIDGE, want["x_n"], sigma, want["noise"], weight, sigma_y)
    close(got, want["loss"].mean((1, 2, 3)), rtol=1e-9)


def score_of(want):
    def score(x, sigma):
        return (want["w"] * x + want["b"] + want["k"] * jnp.tanh(x)) / sigma

    return score


def with_their_derivative(h, want):
    """h with the released forward difference for a derivative: its second pass is told sigma_w (1 + e)."""
    eps = float(want["eps"])

    @jax.custom_jvp
    def estimate(y):
        return h(y, 1.0)

    @estimate.defjvp
    def _(primals, tangents):
        (y,), (r,) = primals, tangents
        return h(y, 1.0), (h(y + eps * r, 1.0 + eps) - h(y, 1.0)) / eps

    return estimate


def sure_parts(want):
    """(h, SURE) of a score network."""
    sigma_w, score = float(want["sigma_w"]), score_of(want)

    def h(y, more):
        return y + (more * sigma_w) ** 2 * score(y, more * sigma_w)

    estimate = with_their_derivative(h, want)
    return sure(estimate, jnp.asarray(want["y"]), sigma_w, jnp.asarray(want["direction"]))


def dsm(want, images):
    """Denoising score matching at their levels: bridge matching with weight 1 / sigma^2, half a sum."""
    score, sigma = score_of(want), jnp.asarray(want["sigmas"][want["labels"]])

    def denoise(x, t, xT):
        t = t.reshape(-1, 1, 1, 1)
        return x + t**2 * score(x, t)

    noise = jnp.asarray(want["dsm_noise"])
    loss = bridge_matching(denoise, BRIDGE, images, images, sigma, noise, 1 / sigma**2)
    return 0.5 * images[0].size * loss.mean()


def test_sure_score():
    """SURE without its constant, plus the score matching of its own answers; and both parts."""
    want = group("sure/single")
    sigma_w = float(want["sigma_w"])
    h, estimate = sure_parts(want)
    found = estimate.mean() + sigma_w**2
    misfit = jnp.mean((h - want["y"]) ** 2)
    close(found - misfit, want["divergence"], rtol=1e-9)
    of_score = dsm(want, h)
    close(of_score, want["dsm"], rtol=1e-9)
    close(found + want["score_wt"] * want["epoch"] * of_score, want["loss"], rtol=1e-9)


def test_sure_alone():
    """Of a network that answers with the image, without the constant."""
    want = group("sure/vanilla")
    y, sigma_w = jnp.asarray(want["y"]), float(want["sigma_w"])

    def h(y, more):
        return want["w"] * y + want["b"] + want["k"] * jnp.tanh(y)

    probe = jnp.asarray(want["direction"])
    answer, estimate = sure(with_their_derivative(h, want), y, sigma_w, probe)
    close(jnp.mean((answer - y) ** 2), want["misfit"], rtol=1e-9)
    close(estimate.mean() + sigma_w**2, want["loss"], rtol=1e-9)


def test_score_matching_of_noisy_images():
    want = group("sure/dsm")
    close(dsm(want, jnp.asarray(want["y"])), want["loss"], rtol=1e-9)


def latents_of(want):
    """Their start is sigma times the latents; ours has the images' own spread too."""
    scale = 80.0 / np.sqrt(1 + 80.0**2)
    return lambda draw: scale * want["latents"]


@pytest.mark.parametrize("name", ["sampler", "sampler_guided"])
def test_ambient_sampler(name):
    """Six steps with one mask; and with three, pulled together.

    Their masks of ones, [k, k, n] against differences [1, k, n], count each difference k times.
    """
    want = group(f"amb/{name}")
    seen, guidance = jnp.asarray(want["masks"]), float(want["guidance"])
    guided = {"misfit": agreement(len(seen) * guidance)} if guidance else {}
    sample = jax.jit(
        lambda: sample_ambient(exact_denoiser(want), seen, LEVELS, latents_of(want), **guided)
    )
    got = sample()
    close(got, want["x_final"], rtol=0, atol=1e-9)


def test_ambient_dps():
    """Theirs is one norm over the batch (`solve_adps`: one an image), of answers rounded to float32."""
    want = group("amb/adps")
    observed = jnp.asarray(want["observed"])

    def misfit(x0):
        norm = jnp.sqrt(jnp.sum((observed * (x0[0] - want["x_true"])) ** 2))
        return float(want["dps_scale"]) * norm / 2 * jnp.ones(2)

    got = sample_ambient(
        exact_denoiser(want), jnp.asarray(want["mask"]), LEVELS, latents_of(want), misfit=misfit
    )
    close(got, want["x_final"], rtol=0, atol=3e-6)
