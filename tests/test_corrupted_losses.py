"""Losses of priors from corrupted data in closed form: what minimises them, on Gaussian images."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_bridges.bridges import DDPM, EDM
from jax_bridges.corrupted_losses import ambient_loss, noisier, sure, tweedie_loss
from jax_bridges.corruptions import InpaintMask
from jax_bridges.times import level_time
from jax_bridges.zero_shot.ambient import sample_ambient, solve_adps

BRIDGES = {"edm": EDM(T=10.0, t_min=0.01), "ddpm": DDPM.create()}
MANY = 40_000
MU, C = np.array([0.3, -0.2]), np.array([[1.0, 0.6], [0.6, 0.5]])


def gaussian(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def two_pixels(seed=0):
    """MANY images of 1x2 pixels, N(MU, C)."""
    x0 = MU + gaussian(seed, MANY, 2) @ np.linalg.cholesky(C).T
    return x0.reshape(MANY, 1, 2, 1)


def masks(seed, share):
    return jax.random.bernoulli(jax.random.key(seed), 1 - share, (MANY, 1, 2, 1)).astype(float)


def denoiser(bridge):
    """`E[x_0 | A' x_t, A']` of those images, by Cramer's rule: exact wherever A' is."""

    def denoise(x, t, seen):
        a, s = (v.reshape(-1, 1, 1, 1) for v in (bridge.alpha(t), bridge.sigma(t)))
        a, s = a[..., 0, 0, 0] if a.shape[0] > 1 else a.ravel(), s.ravel()
        m, r = seen.reshape(-1, 2), x.reshape(-1, 2)
        r = r - m * (a[:, None] * MU)
        p, q = (a**2 * C[i, i] * m[:, i] + s**2 for i in range(2))  # of A' x_t: [[p, o], [o, q]]
        o = a**2 * C[0, 1] * m[:, 0] * m[:, 1]
        det = p * q - o**2
        u = jnp.stack([q * r[:, 0] - o * r[:, 1], p * r[:, 1] - o * r[:, 0]], 1) / det[:, None]
        return (MU + a[:, None] * (m * u) @ C).reshape(x.shape)

    return denoise


def slopes(loss, denoise, directions):
    """Of the mean loss along changes of the answer: in units of their own standard errors."""
    found = {}
    for name, change in directions.items():

        def along(e, change=change):
            return loss(lambda x, t, seen: denoise(x, t, seen) + e * change(x, seen))

        each = jax.jvp(along, (0.0,), (1.0,))[1]
        found[name] = float(each.mean() / (each.std() / np.sqrt(MANY)))
    return found


HIDDEN = {
    "all": lambda x, seen: jnp.ones_like(x),
    "what is hidden": lambda x, seen: 1 - seen,
    "what is seen": lambda x, seen: seen * x,
    "one pixel by the other": lambda x, seen: (1 - seen) * x[:, :, ::-1],
}


@pytest.mark.parametrize("sigma_y", [0.0, 0.4])
@pytest.mark.parametrize("name", BRIDGES)
def test_ambients_minimum_is_the_mean_given_what_is_seen(name, sigma_y):
    """Where y is noisy too: the loss has no slope there in any direction, of which 1 would be a standard error."""
    bridge = BRIDGES[name]
    x0, kept = two_pixels(), masks(1, 0.4)
    seen = kept * masks(2, 0.3)
    y = kept * (x0 + sigma_y * gaussian(3, *x0.shape))
    t = jnp.full(MANY, level_time(bridge, 0.7))
    noise = gaussian(4, *x0.shape)

    def loss(denoise, told=sigma_y):
        return ambient_loss(denoise, bridge, y, kept, seen, t, noise, 1.0, told)

    found = slopes(loss, denoiser(bridge), HIDDEN)
    assert max(map(abs, found.values())) < 3.5, found
    if sigma_y:  # taken for exact, y teaches its own noise
        found = slopes(lambda d: loss(d, 0.0), denoiser(bridge), HIDDEN)
        assert abs(found["what is seen"]) > 10


def test_what_was_measured_counts_and_not_what_is_seen():
    """With A' in the loss an answer may be anything on hidden pixels; x_0 there is never looked at."""
    bridge, x0, kept = BRIDGES["edm"], two_pixels(), masks(1, 0.4)
    seen, noise = kept * masks(2, 0.3), gaussian(4, *x0.shape)
    t = jnp.full(MANY, 0.7)
    exact = denoiser(bridge)

    def loss(counted, shift=0.0, x0=x0):
        answer = lambda x, t, seen: exact(x, t, seen) + shift * (1 - seen)  # noqa: E731
        return ambient_loss(answer, bridge, kept * x0, counted, seen, t, noise, 1.0)

    np.testing.assert_array_equal(loss(seen), loss(seen, 1.0))
    assert float(jnp.mean(loss(kept, 1.0) - loss(kept))) == pytest.approx(
        float(jnp.mean(kept - seen)), rel=0.05
    )
    np.testing.assert_array_equal(loss(kept), loss(kept, x0=x0 + 7 * (1 - kept)))


@pytest.mark.parametrize("name", BRIDGES)
def test_tweedies_minimum_is_the_denoiser_of_clean_images(name):
    """At the noise of y, and at more."""
    bridge, x0 = BRIDGES[name], two_pixels()
    y = x0 + 0.5 * gaussian(3, *x0.shape)
    for level in (0.5, 2.0):
        t = jnp.full(MANY, level_time(bridge, level))
        noise = gaussian(5, *x0.shape)
        xt = noisier(bridge, y, t, noise, 0.5).reshape(MANY, 2)
        a, s = float(bridge.alpha(t[0])), float(bridge.sigma(t[0]))
        np.testing.assert_allclose(
            np.cov(xt.T), a**2 * C + s**2 * np.eye(2), atol=0.03 * s**2 + 0.02
        )

        def loss(denoise, t=t, noise=noise):
            return tweedie_loss(denoise, bridge, y, t, noise, 1.0, 0.5)

        directions = {k: HIDDEN[k] for k in ("all", "what is seen")}
        directions |= {"the other pixel": lambda x, seen: x[:, :, ::-1]}
        found = slopes(loss, denoiser(bridge), directions)
        if level > 0.5 or name == "ddpm":  # of its table the next entry above
            assert max(map(abs, found.values())) < 3.5, found
        else:  # x_t is y itself, of which nothing can be learned: (1 - q) is 0
            np.testing.assert_allclose(loss(lambda x, t, xT: 9 * x), 0.0, atol=1e-3)


def test_sure_is_the_error_that_it_cannot_see():
    """h = .6 y + .3 tanh y of N(0, 1) under noise of .5: .2043 both; the best line is V / (V + s)."""
    x = gaussian(0, 8, 160, 160, 1)
    y, probe = x + 0.5 * gaussian(1, *x.shape), gaussian(2, *x.shape)
    h, estimate = sure(lambda y: 0.6 * y + 0.3 * jnp.tanh(y), y, 0.5, probe)
    true = jnp.mean((h - x) ** 2)
    assert float(true) == pytest.approx(0.2043, abs=2e-3)
    assert float(estimate.mean()) == pytest.approx(0.2043, abs=3e-3)
    assert estimate.shape == (8,)

    def of_line(gain):
        return sure(lambda y: gain * y, y, 0.5, probe)[1].mean()

    slope, bend = jax.grad(of_line)(0.0), jax.grad(jax.grad(of_line))(0.0)
    assert float(-slope / bend) == pytest.approx(1 / 1.25, abs=5e-3)


def test_the_time_of_a_level():
    edm, ddpm = BRIDGES["edm"], BRIDGES["ddpm"]
    assert level_time(edm, 0.4) == pytest.approx(0.4, rel=1e-6)
    assert level_time(edm, 0.0) == 0.01
    entry = round(level_time(ddpm, 0.2) * 999)
    ratio = np.sqrt(1 / ddpm.alpha_bar_table - 1)
    assert ratio[entry - 1] < 0.2 <= ratio[entry]
    assert level_time(ddpm, 0.0) == 0.0
    with pytest.raises(ValueError, match="Noise of 11 is more than the bridge ends with"):
        level_time(edm, 11)


# -- samplers ----------------------------------------------------------------------------------------


def white(v):
    """`E[x_0 | A' x_t, A']` of independent pixels N(.1, v), on EDM's levels."""

    def denoise(x, t, seen):
        return 0.1 + seen * v / (v + t**2) * (x - seen * 0.1)

    return denoise


def test_ambient_samples_what_is_seen_and_averages_what_is_hidden():
    """Seen pixels have the spread that Heun's 15 levels leave of .03, hidden ones none at all."""
    seen = jnp.ones((1, 4, 32, 32, 1)).at[:, :, ::2].set(0.0)
    x = sample_ambient(white(0.03), seen, BRIDGES["edm"].levels(15), jax.random.key(0))
    np.testing.assert_allclose(x[:, ::2], 0.1, atol=1e-6)
    assert float(x[:, 1::2].var()) / 0.03 == pytest.approx(1.09, abs=0.06)


def test_ambient_dps_takes_each_image_by_itself_and_fits_y():
    """Clear pixels come nearer to what was measured there than without; no image sees another."""
    x0 = 0.1 + 0.17 * gaussian(3, 4, 8, 8, 1)
    operator = InpaintMask(mask=jnp.ones((1, 8, 8, 1)).at[:, :, 1::2].set(0.0))
    y = operator.forward(x0)
    keys = jax.random.split(jax.random.key(1), 4)
    seen = jnp.ones((1, *x0.shape))
    levels = BRIDGES["edm"].levels(12)

    def misfit(x):
        return float(jnp.sqrt(jnp.mean((operator.forward(x) - y) ** 2)))

    def solve(n, scale):
        return solve_adps(
            white(0.03), operator, y[:n], 0.0, levels, keys[:n], seen=seen[:, :n], scale=scale
        )

    both, free = solve(4, 0.3), solve(4, 0.0)
    np.testing.assert_allclose(solve(2, 0.3), both[:2], atol=1e-6)
    assert misfit(both) < 0.4 * misfit(free)
    exact = jnp.broadcast_to(y, x0.shape)  # a misfit of 0 has no gradient, and is no NaN
    assert np.isfinite(solve_adps(
        lambda x, t, seen: exact, operator, y, 0.0, levels, keys, seen=seen
    )).all()  # fmt: skip
