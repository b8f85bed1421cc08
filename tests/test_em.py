"""EM in closed form: fixed points through masks and noise, what a sampler does to them, the official steps."""

from __future__ import annotations

import dataclasses
import pathlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_bridges.acts.em_checks import choose_scale, health
from jax_bridges.bridges import DDPM
from jax_bridges.corruptions import Identity, InpaintMask
from jax_bridges.training.optimizers import make_optimizer
from jax_bridges.training.state import Player
from jax_bridges.training.steps import matching_loss
from jax_bridges.zero_shot import make_method
from jax_bridges.zero_shot.gaussian import LowRank, fit, sample_posterior
from tests.support.toy import optimizer_config, small_config, small_system

pytestmark = pytest.mark.usefixtures("float64")

FILE = np.load(pathlib.Path(__file__).parent / "golden" / "em.npz")
PRIOR = DDPM.create()


def columns(a):
    return jnp.asarray(a)[..., None, None]


def low_rank(mean, covariance):
    """The same Gaussian, whole."""
    values, vectors = np.linalg.eigh(covariance)
    factors = np.sqrt(np.maximum(values - values[0], 0)) * vectors
    return LowRank(columns(mean), jnp.asarray(values[0]), columns(factors.T))


# -- a Gaussian prior --------------------------------------------------------------------------------
def test_a_gaussians_posterior_is_sampled_exactly():
    """Affine in its noises, so its law is computed, not sampled; masks and noise."""
    rng = np.random.default_rng(1)
    root, mean = rng.normal(size=(4, 4)), rng.normal(size=4)
    covariance, sigma_y = root @ root.T + 0.1 * np.eye(4), 0.3
    y, known = rng.normal(size=4), np.array([True, False, True, True])
    operator = InpaintMask(mask=columns(1.0 - known)[None])
    size = 1 + 3 * 4

    def keys(draw):
        hot = jnp.arange(size)[:, None] - 1 == draw * 4 + jnp.arange(4)
        hot = hot.astype(jnp.float64)
        return hot if draw == 1 else hot[..., None, None]

    seen = jnp.broadcast_to(columns(y * known), (size, 4, 1, 1))
    out = sample_posterior(low_rank(mean, covariance), operator, seen, sigma_y, keys, 50, 1e-12)
    out = np.asarray(out)[..., 0, 0]
    a = np.eye(4)[known]
    gain = covariance @ a.T @ np.linalg.inv(a @ covariance @ a.T + sigma_y**2 * np.eye(3))
    np.testing.assert_allclose(out[0], mean + gain @ (y[known] - a @ mean), atol=1e-9)
    np.testing.assert_allclose(
        (out[1:] - out[0]).T @ (out[1:] - out[0]), covariance - gain @ a @ covariance, atol=1e-9
    )


def em_step(prior, operator, y, sigma_y, seed, draws=1, rank=99):
    """Moments of `draws` samples for each observation, as the next prior."""
    many = jnp.repeat(y, draws, axis=0)
    operator = InpaintMask(mask=jnp.repeat(operator.mask, draws, axis=0))
    x = _SAMPLE(prior, operator, many, sigma_y, jax.random.key(seed))
    return fit(np.asarray(x), rank)


# Images of six numbers: as many iterations are exact.
_SAMPLE = jax.jit(partial(sample_posterior, iterations=8, rtol=1e-8))


def covariance_of(prior):
    factors = np.asarray(prior.factors).reshape(len(prior.factors), -1)
    return prior.variance * np.eye(factors.shape[1]) + factors.T @ factors


def test_em_of_a_gaussian_through_masks():
    """One step from two of the reference's iterates, and its fixed point stays where it is.

    60 samples an observation: moments of 18,000, whose errors are far below what a step moves.
    """
    y, sigma_y = columns(FILE["exact/y"] * FILE["exact/A"]), float(FILE["exact/sigma_y"])
    operator = InpaintMask(mask=columns(1 - FILE["exact/A"]))
    states = [(k, FILE["exact/mu"], FILE["exact/cov"]) for k in (0, 4)]
    for k, mu, cov in states:
        after = em_step(low_rank(mu[k], cov[k]), operator, y, sigma_y, k, draws=60)
        size = np.abs(cov[k + 1]).max()
        np.testing.assert_allclose(np.ravel(after.mean), mu[k + 1], atol=0.03 * size**0.5)
        np.testing.assert_allclose(covariance_of(after), cov[k + 1], atol=0.03 * size)
    assert np.abs(states[0][2][1] - states[0][2][0]).max() > 0.1 * size
    fixed = low_rank(FILE["exact/mu_fixed"], FILE["exact/cov_fixed"])
    after = em_step(fixed, operator, y, sigma_y, 9, draws=60)
    np.testing.assert_allclose(covariance_of(after), FILE["exact/cov_fixed"], atol=0.03 * size)


def test_em_of_a_gaussian_through_noise():
    """The scalar sequence of the reference to V; then eigenvalues of y less those of the noise."""
    rng, sigma_y, count = np.random.default_rng(0), 0.5, 2000
    y = rng.normal(size=(count, 6, 1, 1)) * np.sqrt(1.25)
    y = jnp.asarray(y * np.sqrt(1.25) / y.std())
    none = InpaintMask(mask=jnp.zeros((count, 6, 1, 1)))
    prior = LowRank(jnp.zeros((6, 1, 1)), jnp.asarray(4.0), jnp.zeros((1, 6, 1, 1)))
    for k, expected in enumerate(FILE["exact/scalar"][1:6], 1):
        prior = em_step(prior, none, y, sigma_y, k, rank=0)
        np.testing.assert_allclose(prior.variance, expected, rtol=4 * (2 / y.size) ** 0.5)
    scales = np.sqrt(np.array([2.0, 1.0, 0.5, 0.3, 0.2, 0.1]) + 0.25)
    y = columns(np.linalg.qr(rng.normal(size=(count, 6)))[0] * np.sqrt(count) * scales)
    y = y - y.mean(0)
    for k in range(20):
        prior = em_step(prior, none, y, sigma_y, k)
    found = np.sort(np.linalg.eigvalsh(covariance_of(prior)))[::-1]
    truth = np.linalg.eigvalsh(np.cov(y[..., 0, 0].T, bias=True))[::-1] - 0.25
    np.testing.assert_allclose(found, truth, atol=0.12)


def test_the_fit_is_probabilistic_pca():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 2, 2, 2)) @ np.diag([3.0, 0.5]) + 1
    found, flat = fit(x, 3), x.reshape(500, -1)
    values = np.linalg.eigvalsh(np.cov(flat.T, bias=True))
    np.testing.assert_allclose(np.ravel(found.mean), flat.mean(0), rtol=1e-5)
    np.testing.assert_allclose(found.variance, values[:-3].mean(), rtol=1e-5)
    np.testing.assert_allclose(
        np.linalg.eigvalsh(covariance_of(found)),
        [*[values[:-3].mean()] * 5, *values[-3:]],
        rtol=1e-4,
    )
    assert fit(x[:3], 64).factors.shape == (2, 2, 2, 2)


def test_the_fit_on_the_samples_of_the_official_one():
    """Rozet's `fit_moments`, three iterations, each from the samples that it drew (float32)."""
    given = {key: FILE[f"roz/moments/{key}"] for key in ("x_samples", "mu", "cov")}
    for x, mean, covariance in zip(*given.values(), strict=True):
        found = fit(x[..., None, None].astype(np.float64), int(FILE["roz/moments/rank"]))
        np.testing.assert_allclose(np.ravel(found.mean), mean, atol=1e-6)
        np.testing.assert_allclose(covariance_of(found), covariance, atol=1e-6)


# -- the E-step's sampler ----------------------------------------------------------------------------
def keeps(name, nfe, **knobs):
    """What a solver leaves of the variance of a pixel that nothing is known of, exactly, by the variance."""
    method = make_method(name, PRIOR, knobs, nfe)
    draws = 1 + 2 * len(method.levels.t)
    size = 1 + draws

    def keys(draw):
        return (jnp.arange(size) - 1 == draw).astype(jnp.float64)[:, None, None, None]

    @jax.jit
    def of(variance):
        operator, y = InpaintMask(mask=jnp.ones((1, 1, 1, 1))), jnp.zeros((size, 1, 1, 1))
        told = scalar_denoiser(variance), operator, y, 0.0, method.levels, keys
        out = method.solver.solve(*told, **method.knobs).ravel()
        return jnp.sum((out[1:] - out[0]) ** 2) / variance

    return of


def scalar_denoiser(variance):
    """E[x_0 | x_t] of independent pixels N(0, variance)."""

    def denoise(x, t):
        a, s = PRIOR.alpha(t), PRIOR.sigma(t)
        return variance * a / (a**2 * variance + s**2) * x

    return denoise


# (solver, levels, knobs) -> var / V after 8 rounds of 60% missing; whether an E-step may be so.
SPREADS = [
    ("mmps", 15, {}, False),
    ("mmps", 20, {}, True),  # the default
    ("mmps", 30, {"order": 1}, False),
    ("mmps", 100, {"order": 1}, True),
    ("pigdm", 20, {"guidance": "exact", "eta": 0.0}, False),
    ("ddnm", 20, {"eta": 0.85}, False),
    ("ddnm", 100, {"eta": 0.0}, True),
    ("dps", 100, {"clip": False}, False),
]


@pytest.mark.parametrize(("name", "nfe", "knobs", "sound"), SPREADS)
def test_what_a_sampler_does_to_the_variance_of_em(name, nfe, knobs, sound):
    """Pixels of variance V, a share p missing: v' = (1 - p) V + p f(v) v, to (1 - p) / (1 - p f) V.

    EM keeps the variance within 10% only if the sampler does at every round: the gate of a solver with
    its settings, which DDNM with the published eta must not pass.
    """
    true, missing, factor_of = 0.25, 0.6, keeps(name, nfe, **knobs)
    variance, factor = true, 1.0
    for _ in range(8):
        factor = float(factor_of(variance))
        variance = (1 - missing) * true + missing * factor * variance
    ratio = variance / true
    assert abs(ratio / ((1 - missing) / (1 - missing * factor)) - 1) < 0.02
    assert (abs(ratio - 1) < 0.1) == sound


def test_what_was_measured_alone_counts():
    """Targets that were made up change nothing; the mask turns and is mirrored with its image."""
    system = small_system(small_config(**{"data.flip": True, "data.rotate": True}))
    config = small_config().train
    mask = (jax.random.uniform(jax.random.key(2), (4, 8, 8, 1)) < 0.4).astype(jnp.float32)
    batch = {"x0": jnp.repeat(mask, 3, -1), "counted": mask, "index": jnp.arange(4)}
    pair = system.prepare(batch, jax.random.key(0), augment=True)
    np.testing.assert_array_equal(pair.x0[..., :1], pair.counted)
    assert np.abs(pair.counted - mask).max() == 1

    x0 = jax.random.normal(jax.random.key(3), (4, 8, 8, 3))
    pair = dataclasses.replace(pair, x0=x0, xT=x0, counted=mask)

    def loss(x0, pair):  # of an answer that does not look at its input
        def denoise(xt, t, xT):
            return jnp.zeros_like(xt)

        return matching_loss(system, config, denoise, x0, pair.xT, pair)

    gradient = jax.grad(lambda x0: jnp.sum(loss(x0, pair)))(x0)
    assert bool(jnp.all((gradient != 0) == (mask > 0)))
    ones = dataclasses.replace(pair, counted=jnp.ones_like(mask))
    everywhere = dataclasses.replace(pair, counted=None)
    np.testing.assert_allclose(loss(x0, ones), loss(x0, everywhere), rtol=1e-6)
    means = [jnp.mean(square[m[..., 0] > 0]) for square, m in zip(x0**2, mask, strict=True)]
    full = jnp.mean(x0**2, axis=(1, 2, 3))
    np.testing.assert_allclose(loss(x0, pair) / loss(x0, ones), jnp.array(means) / full, rtol=1e-5)


def test_what_was_measured_alone_has_the_fixed_point_of_em_and_nears_it_sooner():
    """Two correlated pixels, exact posterior samples: the best linear denoiser of one M-step, in moments.

    From the truth it is the true one; from a prior of too much variance less of the error is left.
    """
    shares = {(1, 1): 0.16, (1, 0): 0.24, (0, 1): 0.24, (0, 0): 0.36}  # of masks, 1: measured
    true, noise = np.array([[1.0, 0.7], [0.7, 1.0]]), 0.3 * np.eye(2)

    def denoiser(
        prior, measured
    ):  # W of x_0_hat = W (x_0 + noise), row by row of the pixels that count
        products, squares = np.zeros((2, 2)), np.zeros((2, 2, 2))
        for mask, share in shares.items():
            seen = np.diag(np.array(mask, float))
            gain = prior @ seen @ np.linalg.pinv(seen @ prior @ seen)
            of_samples = gain @ true @ gain.T + prior - gain @ prior
            for row in range(2):
                if mask[row] or not measured:
                    products[row] += share * of_samples[row]
                    squares[row] += share * (of_samples + noise)
        return np.stack([np.linalg.solve(squares[row], products[row]) for row in range(2)])

    right = true @ np.linalg.inv(true + noise)
    for measured in (False, True):
        np.testing.assert_allclose(denoiser(true, measured), right, atol=1e-12)
    wrong = true + 0.8 * np.eye(2)
    left = [np.abs(denoiser(wrong, measured) - right).max() for measured in (False, True)]
    assert 0 < left[1] < 0.75 * left[0]


def test_a_posterior_sample_misses_y_by_its_noise():
    """E |y - A x|^2 = sigma_y^2, which the mean of the posterior does not."""
    sigma_y, variance, count = 0.2, 0.25, 20000
    rng = np.random.default_rng(0)
    x = rng.normal(size=(count, 1, 1, 1)) * variance**0.5
    y, denoise = jnp.asarray(x + sigma_y * rng.normal(size=x.shape)), scalar_denoiser(variance)
    method = make_method("mmps", PRIOR, {}, 20)
    found = jax.jit(
        lambda key: method.solver.solve(denoise, Identity(), y, sigma_y, method.levels, key)
    )(jax.random.key(0))
    assert abs(float(jnp.mean((y - found) ** 2)) / sigma_y**2 - 1) < 0.12
    # So that one round leaves the variance where it was, and none of the noise is learnt.
    assert abs(float(jnp.var(found)) / variance - 1) < 0.06


def test_the_scale_of_dps_is_no_smaller_misfit():
    """Without noise the least misfit; with noise the smallest scale that explains it, never y itself."""
    misfits = {0.3: 0.5, 1.0: 0.05, 3.0: 0.01, 10.0: 0.0018, 30.0: 0.4}
    assert choose_scale(misfits, 0.0) == 10.0
    assert choose_scale(misfits, 0.2) == 3.0  # 0.01 <= 1.1 * 0.04, and 0.05 is above
    assert choose_scale(misfits, 0.03) == 10.0  # none reaches it: the least


@pytest.mark.parametrize("task, sigma_y", [("inpaint", 0.0), ("denoise", 0.2)])
def test_the_scale_of_dps_on_the_official_programs_misfits(task, sigma_y):
    """Its scales with their misfits and errors to the truth."""
    scales, misfits, errors = FILE[f"emd/scale_grid_{task}"].T
    chosen = choose_scale(dict(zip(scales, misfits, strict=True)), sigma_y)
    if task == "inpaint":
        assert chosen == scales[errors.argmin()] == 1.5
    else:
        # The least misfit, the paper's choice, is at 3; 2 is the smallest that explains the noise.
        assert chosen == 2.0
        assert scales[misfits.argmin()] == 3.0


def test_health():
    assert health(0.2, {"misfit": 0.21, "spread": 0.5}, 0.5) == []
    assert "keeps the noise" in health(0.2, {"misfit": 0.05, "spread": 0.5}, None)[0]
    assert "does not explain" in health(0.2, {"misfit": 0.5, "spread": 0.5}, None)[0]
    assert "0.50 of the round's before" in health(0.0, {"misfit": 0.0, "spread": 0.25}, 0.5)[0]


# -- the official program ----------------------------------------------------------------------------
@pytest.mark.parametrize("task", ["inpaint", "denoise"])
@pytest.mark.parametrize("variance", ["small", "range"])
def test_emdiffusions_e_step(task, variance):
    """The official one has one norm for the batch: three images stacked into a tall one."""
    name = f"emd/{task}_{variance}"
    count = len(FILE[f"{name}/xT"])

    def tall(a):
        a = jnp.asarray(a)
        return jnp.broadcast_to(a, (count, *a.shape[1:])).reshape(1, -1, *a.shape[2:])

    mean, v, noise = tall(FILE[f"{name}/m"]), tall(FILE[f"{name}/v"]), FILE[f"{name}/noise_step"]

    def denoise(x, t):
        a, s = PRIOR.alpha(t), PRIOR.sigma(t)
        x0 = mean + v * a / (v * a**2 + s**2) * (x - a * mean)
        return (x0, ((x - a * x0) / s + 1) / 2) if variance == "range" else x0

    def keys(draw):
        return tall(FILE[f"{name}/xT"]) if draw is START else tall(jnp.asarray(noise)[draw - 1])

    masks = FILE[f"{name}/mask"] if task == "inpaint" else np.zeros((count, 8, 8, 1))
    method = make_method("dps", PRIOR, {"scale": float(FILE[f"{name}/scale"])}, 20)
    levels = PRIOR.levels(20, "respaced")
    found = method.solver.solve(
        denoise, InpaintMask(mask=tall(masks)), tall(FILE[f"{name}/y"]), 0.0, levels, keys,
        **method.knobs,
    )  # fmt: skip
    np.testing.assert_allclose(found, tall(FILE[f"{name}/x_final"]), atol=3e-6)


START = 0  # the solver asks for x_T by the number itself, for other noise by a traced one


def test_emdiffusions_m_step():
    """Three updates of its network eps = w x + b + c t / 1000 by AdamW, and its average of .999."""
    saved = {
        key: FILE[f"emd/mstep/{key}"]
        for key in ("params", "ema", "t", "loss", "grad", "x0", "noise")
    }
    config = optimizer_config(
        name="adamw", learning_rate=2e-4, weight_decay=1e-2, b2=0.999, eps=1e-8, clip=0.0
    )
    optimizer = make_optimizer(config, 10)
    player = Player.create(jnp.asarray(saved["params"][0]), optimizer)

    def loss(params, x0, noise, index):
        t = index / 999
        a, s = (v[:, None, None, None] for v in (PRIOR.alpha(t), PRIOR.sigma(t)))
        w, b, c = params
        eps = w * (a * x0 + s * noise) + b + c * index[:, None, None, None] / 1000
        return jnp.mean((eps - noise) ** 2)

    @jax.jit
    def step(player, k, *given):
        value, grads = jax.value_and_grad(loss)(player.params, *given)
        return player.update(grads, optimizer, k, 0.999, warmup=False), value, grads

    for k in range(3):
        given = (jnp.asarray(saved[key][k]) for key in ("x0", "noise", "t"))
        player, value, grads = step(player, k, *given)
        np.testing.assert_allclose(value, saved["loss"][k], rtol=1e-6)
        np.testing.assert_allclose(grads, saved["grad"][k], atol=1e-6)
        np.testing.assert_allclose(player.params, saved["params"][k + 1], atol=1e-7)
        np.testing.assert_allclose(player.ema, saved["ema"][k + 1], atol=1e-7)
