"""IBMD with real images: RealUID's term, a critic, and RSD, on Gaussian pairs of which all is known."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_bridges.bridges import make_bridge
from jax_bridges.distillation import (
    bridge_net_loss,
    critic_loss,
    fooling_loss,
    generator_loss,
    real_bridge_net_loss,
    real_scales,
)
from jax_bridges.models import PatchCritic
from tests.support.config_files import read
from tests.support.gaussian import GaussianPair

pytestmark = pytest.mark.usefixtures("float64")
PAIR = GaussianPair(slope=0.8, std=0.3)
BRIDGE = make_bridge("brownian")
WEIGHTS = [(0.9, 0.9), (0.9, 0.882), (0.85, 0.9)]  # alpha, beta


def quadrature(points=3):
    """Nodes of x_T, of an image's own noise and of x_t's, `[Q, 1, 1, 1]`, and their weights `[Q]`: sums are
    expectations of polynomials, of 3 points of those up to degree 5."""
    x, w = np.polynomial.hermite_e.hermegauss(points)
    nodes = np.stack(np.meshgrid(x, x, x, indexing="ij"), -1).reshape(-1, 3)
    weights = np.prod(np.stack(np.meshgrid(w, w, w, indexing="ij"), -1), -1).ravel()
    columns = (jnp.asarray(c).reshape(-1, 1, 1, 1) for c in nodes.T)
    return (*columns, jnp.asarray(weights / weights.sum()))


def affine(p):
    """A bridge net of one time, `g x_t + h x_T + o`."""
    return lambda xt, t, xT: p["g"] * xt + p["h"] * xT + p["o"]


def exact_net(t):
    """The conditional teacher in that form."""
    denoise = PAIR.denoiser(BRIDGE, True)

    def at(xt, xT):
        image = [jnp.full((1, 1, 1, 1), v) for v in (xt, xT)]
        return float(denoise(image[0], jnp.full(1, t), image[1])[0, 0, 0, 0])

    return {"g": at(1.0, 0.0), "h": at(0.0, 1.0), "o": 0.0}


@pytest.mark.parametrize("alpha, beta", WEIGHTS)
@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
def test_realuid_rests_where_the_generator_is_exact(alpha, beta, t):
    """Its bridge net is then the teacher, and the generator's gradient 0, whatever alpha and beta."""
    xT, own, noise, weight = quadrature()
    x0, times = 0.8 * xT + 0.3 * own, jnp.full(len(xT), t)
    made, real = real_scales(alpha, beta)

    def loss(p):
        one, two = (
            jnp.sum(bridge_net_loss(affine(p), BRIDGE, x0, xT, times, noise, weight, scale=scale))
            for scale in (made, real)
        )
        return real_bridge_net_loss(one, two, alpha)

    phi = exact_net(t)
    assert max(abs(v) for v in jax.grad(loss)(phi).values()) < 1e-12
    assert abs(jax.grad(loss)(phi | {"g": phi["g"] + 0.1})["g"]) > 1e-3

    def of_generator(p):
        x0 = p["w"] * xT + p["v"] * own + p["b"]
        nets = (PAIR.denoiser(BRIDGE, True), affine(phi))
        args = (*nets, BRIDGE, x0, xT, times, noise, weight)
        return jnp.sum(generator_loss(*args, alpha=alpha, beta=beta))

    grads = jax.grad(of_generator)({"w": 0.8, "v": 0.3, "b": 0.0})
    assert max(map(abs, grads.values())) < 1e-12


def test_realuid_of_one_and_one_is_ibmd_to_the_bit():
    rng = np.random.default_rng(0)
    x0, xT, noise = (jnp.asarray(a) for a in rng.normal(size=(3, 4, 2, 2, 1)))
    t, weight = jnp.full(4, 0.4), jnp.ones(4)
    nets = (PAIR.denoiser(BRIDGE, True), GaussianPair(0.5, 0.4).denoiser(BRIDGE, True))

    def program(**given):
        run = lambda x0: generator_loss(*nets, BRIDGE, x0, xT, t, noise, weight, **given)  # noqa: E731
        return str(jax.make_jaxpr(jax.value_and_grad(lambda x0: jnp.sum(run(x0))))(x0))

    assert program() == program(alpha=1.0, beta=1.0) != program(alpha=0.9, beta=0.9)
    assert real_scales(1.0, 1.0) == (1.0, 0.0)


@pytest.mark.parametrize("alpha, beta", [(1.0, 1.0), (0.9, 0.9), (0.9, 0.95), (0.5, 1.0)])
def test_where_a_teachers_known_error_leads(alpha, beta):
    """The teacher answers delta too much: the generator ends at a shift s, with the best bridge net.

    To first order s = delta E[K] / E[K^2] with `K = beta (1 - b k) + (beta - alpha) b (m + k u) u / V`,
    u = x_t - E[x_t | x_T], V its variance, k and m the slope and mean of E[x_0 | x_t, x_T]. IBMD passes the
    error on, and so does alpha = beta, 1 / alpha times; beta > alpha takes some of that away, beta = 1 more
    than that.
    """
    t, delta, own = 0.5, 1e-5, 0.3
    a, b, c = (float(v) for v in BRIDGE.coefficients(t))
    m = 0.0  # x_T = 0
    V = b**2 * own**2 + c**2
    k = b * own**2 / V
    pull, push = 1 - b * k, (beta - alpha) * b
    first = beta * pull + push * k
    second = (beta * pull) ** 2 + 2 * beta * pull * push * k + push**2 * (m**2 / V + 3 * k**2)
    expected = delta * first / second

    x, w = np.polynomial.hermite_e.hermegauss(40)
    one, two = np.meshgrid(x, x, indexing="ij")
    weight = jnp.asarray(np.outer(w, w).ravel() / w.sum() ** 2)
    z, noise = (jnp.asarray(v).reshape(-1, 1, 1, 1) for v in (one, two))
    xT, times = jnp.zeros_like(z), jnp.full(z.shape[0], t)
    exact = PAIR.denoiser(BRIDGE, True)

    def net(s):
        """The minimiser of RealUID's loss of phi for x_0 = real + s."""

        def density(xt, shift):
            return jnp.exp(-((xt - b * shift) ** 2) / (2 * V))

        def phi(xt, t, xT):
            made, real = density(xt, s), density(xt, 0.0)
            of_made, of_real = exact(xt - b * s, t, xT) + s, exact(xt, t, xT)
            top = beta * made * of_made + (1 - beta) * real * of_real
            return top / (alpha * made + (1 - alpha) * real)

        return phi

    def slope(s):
        def loss(shift):
            x0 = own * z + shift
            nets = (lambda *at: exact(*at) + delta, net(s))
            args = (*nets, BRIDGE, x0, xT, times, noise, weight)
            return jnp.sum(generator_loss(*args, alpha=alpha, beta=beta))

        return float(jax.grad(loss)(s))

    low, high = slope(0.0), slope(expected)
    found = expected * low / (low - high)  # the root of what is linear so near 0
    assert found == pytest.approx(expected, rel=1e-3)
    ibmd = delta / pull
    assert (found < 0.999 * ibmd / alpha) == (beta > alpha)
    assert (found < 0.999 * ibmd) == (beta == 1.0 > alpha)
    if alpha == beta:
        assert found == pytest.approx(ibmd / alpha, rel=1e-3)


# -- a critic -----------------------------------------------------------------------------------------
def test_the_best_critic_is_the_critics_minimum_and_leaves_an_exact_generator_alone():
    """x real ~ N(0, V), made = real + s: D* = (s^2 - 2 s x) / 2 V; paid is s / V E_made[sigmoid(-D*)] for s."""
    x, w = np.polynomial.hermite_e.hermegauss(60)
    V, weight = 0.7, jnp.asarray(w / w.sum())
    real = jnp.asarray(np.sqrt(V) * x).reshape(-1, 1, 1, 1)

    def critic(p, x):
        return p["slope"] * x + p["offset"]

    def best(s):
        return {"slope": -s / V, "offset": s**2 / (2 * V)}

    for s in (0.0, 0.4, -0.3):

        def loss(p, s=s):
            return jnp.sum(weight * critic_loss(critic(p, real), critic(p, real + s)))

        assert max(abs(v) for v in jax.grad(loss)(best(s)).values()) < 1e-9

        def paid(shift, s=s):
            return jnp.sum(weight * fooling_loss(critic(best(s), real + shift)))

        said = critic(best(s), real + s)
        expected = s / V * jnp.sum(weight * jax.nn.sigmoid(-said)[:, 0, 0, 0])
        np.testing.assert_allclose(jax.grad(paid)(s), expected, rtol=1e-12, atol=1e-15)
        assert loss(best(s)) <= 2 * np.log(2) + 1e-12


def test_a_patch_critic():
    """Float32 whatever it sees; an image's logits are its own; where it looks, and at what time."""
    critic = PatchCritic(channels=8, layers=2)
    x, xT = jax.random.normal(jax.random.key(0), (2, 3, 32, 24, 3)).astype(jnp.bfloat16)
    t = jnp.array([0.1, 0.5, 0.9], jnp.float32)
    params = critic.init(jax.random.key(1), x, t, xT)["params"]
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    say = jax.jit(lambda x, t, xT: critic.apply({"params": params}, x, t, xT))
    logits = say(x, t, xT)
    assert logits.shape == (3, 8, 6, 1) and logits.dtype == jnp.float32
    np.testing.assert_allclose(say(x[1:], t[1:], xT[1:]), logits[1:], atol=1e-5)
    for other in (say(x, t[::-1], xT), say(x, t, xT[::-1]), say(x[::-1], t, xT)):
        assert jnp.abs(other - logits)[0].max() > 1e-3
    default = PatchCritic()  # of patches of 70 x 70
    shapes = jax.eval_shape(default.init, jax.random.key(0), x, t, xT)["params"]
    widths = [shapes[f"conv_{k}"]["kernel"].shape[-1] for k in range(4)]
    assert widths == [64, 128, 256, 512]


# -- RSD ------------------------------------------------------------------------------------------------
def test_rsd_is_a_configuration():
    config = read("superres:rsd")
    distill = config.distill
    assert config.bridge.name == "resshift" and config.network.conditional
    assert (distill.normalize, distill.weight, distill.z_channels, distill.ema) == (
        True, "one", 1, 0.999,
    )  # fmt: skip
    assert (distill.student_steps, distill.bridge_updates, distill.batch) == (4, 5, 64)
    for name in ("optimizer", "bridge_optimizer", "critic_optimizer"):
        assert (distill[name].name, distill[name].b1, distill[name].b2) == ("adamw", 0.9, 0.95)


def test_rsds_loss_and_its_rest():
    """`(|f*|^2 - |f|^2 + 2 <f - f*, x_0>) / mean |f* - x_0|` (RSD eq. 9), 0 at the exact generator."""
    bridge = make_bridge("resshift")
    rng = np.random.default_rng(0)
    xT, own, noise = (jnp.asarray(a) for a in rng.normal(size=(3, 500, 2, 2, 1)))
    t = jnp.asarray(rng.uniform(0.05, 1.0, 500))
    star = PAIR.denoiser(bridge, True)

    def loss(p, phi):
        x0 = p["w"] * xT + p["v"] * own + p["b"]
        weight = jnp.ones(500)
        return generator_loss(star, phi, bridge, x0, xT, t, noise, weight, normalize=True)

    best, off = {"w": 0.8, "v": 0.3, "b": 0.0}, {"w": 0.6, "v": 0.5, "b": 0.2}
    grads = jax.grad(lambda p: jnp.mean(loss(p, star)))(best)
    assert max(map(abs, grads.values())) < 1e-14
    phi = GaussianPair(0.6, 0.5).denoiser(bridge, True)
    x0 = off["w"] * xT + off["v"] * own + off["b"]
    xt = bridge.sample(x0, xT, t, noise)
    f_star, f = star(xt, t, xT), phi(xt, t, xT)
    inner = f_star**2 - f**2 + 2 * (f - f_star) * x0
    mean = lambda v: jnp.mean(v, axis=(1, 2, 3))  # noqa: E731
    expected = mean(inner) / (mean(jnp.abs(f_star - x0)) + 1e-6)
    np.testing.assert_allclose(loss(off, phi), expected, rtol=1e-10, atol=1e-13)
