"""IBMD against a Gaussian pair whose teacher, bridge regressor and optimum are known exactly."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jax_bridges.bridges import make_bridge
from jax_bridges.distillation import bridge_net_loss, generator_loss
from tests.support.gaussian import GaussianPair

PAIR = GaussianPair(slope=0.8, std=0.3)
BRIDGE = make_bridge("brownian")
START = {"w": 0.2, "v": 0.6, "b": 0.3}
PIXEL = (1, 1, 1)


def linear(params):
    """The generator w x_T + v z + b: at the optimum w = 0.8, |v| = 0.3, b = 0."""
    return lambda xt, t, xT, z: params["w"] * xT + params["v"] * z + params["b"]


def coupling(w, v, b):
    """The pair that the linear generator makes of x_T ~ N(0, 1)."""
    return Shifted(slope=w, std=v, shift=b)


class Shifted(GaussianPair):
    """A Gaussian pair with `x_0 = slope x_T + std noise + shift`; parameters may be traced."""

    def __init__(self, slope, std, shift):
        super().__init__(slope, std)
        object.__setattr__(self, "shift", shift)

    def denoiser(self, bridge, conditional):
        """The exact regressor: that of the unshifted pair, moved along."""
        plain = super().denoiser(bridge, conditional)

        def denoise(xt, t, xT, z=None):
            b = jnp.reshape(bridge.coefficients(t).b, (-1, 1, 1, 1))
            return plain(xt - b * self.shift, t, xT) + self.shift

        return denoise


def draws(key, count, dtype=jnp.float32):
    """x_T, z and noise `[count, 1, 1, 1]` and times `[count]`."""
    keys = jax.random.split(key, 4)
    xT, z, noise = (jax.random.normal(k, (count, *PIXEL), dtype) for k in keys[:3])
    t = BRIDGE.t_min + jax.random.uniform(keys[3], (count,), dtype) * (1 - BRIDGE.t_min)
    return xT, z, noise, t


# -- the whole of it ------------------------------------------------------------------------------


def mlp(params, xt, t, xT):
    """A bridge net with 32 hidden units; it sees x_T if its first kernel has a row for it."""
    t = jnp.reshape(t, (-1, 1))
    inputs = [xt.reshape(-1, 1), jnp.sqrt(t), t, xT.reshape(-1, 1)]
    h = jnp.concatenate(inputs, axis=1)[:, : params["in"].shape[0]]
    h = jax.nn.silu(h @ params["in"] + params["in_bias"])
    h = jax.nn.silu(h @ params["middle"] + params["middle_bias"])
    return (h @ params["out"]).reshape(xt.shape)


def mlp_init(key, inputs, width=32):
    keys = jax.random.split(key, 3)
    return {
        "in": jax.random.normal(keys[0], (inputs, width)),
        "in_bias": jnp.zeros(width),
        "middle": jax.random.normal(keys[1], (width, width)) / np.sqrt(width),
        "middle_bias": jnp.zeros(width),
        "out": 0.1 * jax.random.normal(keys[2], (width, 1)),
    }


@functools.partial(jax.jit, static_argnames=("conditional", "steps", "detach", "updates", "batch"))
def play(key, conditional, steps, detach, updates=5, batch=1024):
    """Algorithm 1 of IBMD in one compiled loop; the generator's parameters over the steps."""
    teacher = PAIR.denoiser(BRIDGE, conditional)
    inner, outer = optax.adam(2e-3, b1=0.0), optax.adam(5e-3, b1=0.0)
    net = mlp_init(jax.random.key(7), 4 if conditional else 3)
    generator = jax.tree.map(jnp.float32, START)

    def losses(make, params, net, key):
        xT, z, noise, t = draws(key, batch)
        x0 = linear(params)(xT, t, xT, z)
        return jnp.mean(make(lambda *a: mlp(net, *a), x0, xT, t, noise))

    def update_net(carry, key):
        net, state, params = carry

        def loss(net):
            def make(phi, x0, xT, t, noise):
                return bridge_net_loss(phi, BRIDGE, x0, xT, t, noise, 1 / t)

            return losses(make, params, net, key)

        moves, state = inner.update(jax.grad(loss)(net), state)
        return (optax.apply_updates(net, moves), state, params), None

    def step(carry, key):
        params, outer_state, net, inner_state = carry
        keys = jax.random.split(key, updates + 1)
        (net, inner_state, _), _ = jax.lax.scan(update_net, (net, inner_state, params), keys[1:])

        def loss(params):
            def make(phi, x0, xT, t, noise):
                args = (teacher, phi, BRIDGE, x0, xT, t, noise, 1 / t)
                return generator_loss(*args, detach_xt=detach)

            return losses(make, params, net, keys[0])

        moves, outer_state = outer.update(jax.grad(loss)(params), outer_state)
        params = optax.apply_updates(params, moves)
        return (params, outer_state, net, inner_state), params

    carry = (generator, outer.init(generator), net, inner.init(net))
    return jax.lax.scan(step, carry, jax.random.split(key, steps))[1]


# An unconditional teacher tells less about the noise's share, and takes longer. With a detached x_t that
# share is left to the bridge net's errors: see the pulls below.
@pytest.mark.parametrize(
    "conditional, steps, detach",
    [
        (True, 1000, False),
        (False, 3000, False),
        pytest.param(True, 1000, True, marks=pytest.mark.slow),
    ],
)
@pytest.mark.usefixtures("optimised")
def test_ibmd_recovers_the_gaussian_pair_from_a_wrong_start(conditional, steps, detach):
    path = jax.tree.map(np.asarray, play(jax.random.key(0), conditional, steps, detach))
    final = {k: float(v[-100:].mean()) for k, v in path.items()}
    assert abs(path["w"][0] - 0.2) < 0.01 and abs(path["v"][0] - 0.6) < 0.01
    assert abs(final["w"] - 0.8) < 0.03
    assert abs(abs(final["v"]) - 0.3) < 0.03
    assert abs(final["b"]) < 0.03


# -- its parts ------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnames=("conditional", "weight", "detach"))
def exact_gradient(params, xT, z, noise, t, conditional, weight, detach):
    teacher = PAIR.denoiser(BRIDGE, conditional)
    phi = coupling(**params).denoiser(BRIDGE, conditional)

    def loss(params):
        x0 = linear(params)(xT, t, xT, z)
        scale = 1 / t if weight == "1/t" else 1.0
        args = (teacher, phi, BRIDGE, x0, xT, t, noise, scale)
        return jnp.mean(generator_loss(*args, detach_xt=detach))

    return jax.grad(loss)(params)


def gradient_at(point, conditional, weight="1/t", detach=False, count=20_000):
    """Gradient of the generator's loss with the exact regressor of its coupling, float64."""
    rng = np.random.default_rng(0)
    xT, z, noise = rng.normal(size=(3, count, *PIXEL))
    with jax.enable_x64(True):
        t = BRIDGE.t_min + rng.random(count) * (1 - BRIDGE.t_min)
        gradient = exact_gradient(point, xT, z, noise, t, conditional, weight, detach)
        return {k: float(v) for k, v in gradient.items()}


@pytest.mark.parametrize("weight", ["1/t", "one"])
@pytest.mark.parametrize("conditional", [True, False])
def test_gradient_is_zero_at_the_optimum_and_points_at_it_from_elsewhere(conditional, weight):
    best = gradient_at({"w": 0.8, "v": 0.3, "b": 0.0}, conditional, weight)
    # Teacher and regressor are the same function there: exactly zero for every draw.
    assert max(map(abs, best.values())) < 1e-12
    for key, value, sign in [("w", 1.1, 1), ("w", 0.5, -1), ("v", 0.6, 1), ("v", 0.1, -1),
                             ("b", 0.4, 1), ("b", -0.4, -1)]:  # fmt: skip
        slope = gradient_at({"w": 0.8, "v": 0.3, "b": 0.0} | {key: value}, conditional, weight)[key]
        assert slope * sign > 1e-3, (key, value)


def test_how_hard_the_optimum_pulls():
    """Of w, v and b, exactly: by quadrature of the closed form. Each eigenvalue is above 0, so that descent
    ends at the optimum; but with an unconditional teacher and x_t detached v is hardly pulled at all."""
    t = (np.arange(400) + 0.5) / 400
    a, b, c = t, 1 - t, np.sqrt(t * (1 - t))

    def regressor(w, v, shift):
        """Slope and offset of E[x_0 | x_t]."""
        variance = a**2 + b**2 * (w**2 + v**2) + 2 * a * b * w + c**2
        gain = (a * w + b * (w**2 + v**2)) / variance
        return gain, shift * (1 - gain * b)

    best = np.array([0.8, 0.3, 0.0])
    teacher, far = regressor(*best), 1e-5

    def pull(point):  # E[(x0_phi - x0*)(x_t) dx_0 / d(w, v, b)] / t, of the detached x_t
        w, v, shift = point
        gain, offset = (one - two for one, two in zip(regressor(*point), teacher, strict=True))
        parts = gain * (a + b * w), gain * b * v, gain * b * shift + offset
        return np.array([2 * np.mean(part / t) for part in parts])

    columns = [pull(best + far * e) - pull(best - far * e) for e in np.eye(3)]
    strength = np.sort(np.linalg.eigvals(np.array(columns).T / (2 * far)).real)
    np.testing.assert_allclose(strength, [0.0422, 2.845, 2.959], rtol=2e-3)
    at = gradient_at({"w": 0.8, "v": 0.4, "b": 0.1}, False, detach=True, count=400_000)
    expected = dict(zip("wvb", pull(np.array([0.8, 0.4, 0.1])), strict=True))
    for key, value in expected.items():
        assert at[key] == pytest.approx(value, abs=0.02), key


@pytest.mark.parametrize("conditional", [True, False])
def test_a_detached_gradient_rests_at_the_optimum_too(conditional):
    best = gradient_at({"w": 0.8, "v": 0.3, "b": 0.0}, conditional, detach=True)
    assert max(map(abs, best.values())) < 1e-12
    for key, value, sign in [("w", 1.1, 1), ("w", 0.5, -1), ("b", 0.4, 1), ("b", -0.4, -1)]:
        at = {"w": 0.8, "v": 0.3, "b": 0.0} | {key: value}
        assert gradient_at(at, conditional, detach=True)[key] * sign > 1e-3, (key, value)


def test_the_mirrored_optimum_is_one_too():
    assert max(map(abs, gradient_at({"w": 0.8, "v": -0.3, "b": 0.0}, True).values())) < 1e-12


@pytest.mark.parametrize("conditional", [True, False])
def test_loss_equals_the_inner_product_form(conditional):
    """lambda <x0* - x0phi, x0* + x0phi - 2 x0>, example by example."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        x0, xT, noise = rng.normal(size=(3, 16, 4, 6, 3))
        t, weight = rng.uniform(0.01, 1.0, 16), rng.uniform(0.5, 3.0, 16)
        teacher, phi = (
            pair.denoiser(BRIDGE, conditional) for pair in (PAIR, coupling(0.4, 0.7, 0.2))
        )
        loss = generator_loss(teacher, phi, BRIDGE, *map(jnp.asarray, (x0, xT, t, noise, weight)))
        xt = BRIDGE.sample(*map(jnp.asarray, (x0, xT, t, noise)))
        one, two = teacher(xt, jnp.asarray(t), xT), phi(xt, jnp.asarray(t), xT)
        product = jnp.mean((one - two) * (one + two - 2 * x0), axis=(1, 2, 3))
        np.testing.assert_allclose(loss, weight * product, rtol=1e-12)


def test_expected_loss_is_the_distance_of_the_two_regressors():
    """Prop. 3.3: with the exact bridge net it is E lambda |x0* - x0phi|^2."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        xT, z, noise = rng.normal(size=(3, 400_000, *PIXEL))
        t = rng.uniform(BRIDGE.t_min, 1.0, 400_000)
        pair = coupling(0.5, 0.5, 0.2)
        teacher, phi = (p.denoiser(BRIDGE, True) for p in (PAIR, pair))
        x0 = 0.5 * xT + 0.5 * z + 0.2
        loss = generator_loss(teacher, phi, BRIDGE, x0, xT, t, noise, jnp.ones_like(t))
        xt = BRIDGE.sample(x0, xT, t, noise)
        distance = jnp.mean((teacher(xt, t, xT) - phi(xt, t, xT)) ** 2)
        error = float(jnp.std(loss)) / np.sqrt(len(t))
        assert distance > 0.01
        assert abs(float(jnp.mean(loss) - distance)) < 4 * error < 0.1 * float(distance)


def test_gradient_flows_through_xt_into_teacher_and_bridge_net():
    """Against finite differences of the whole loss; stopping x_t anywhere would change it."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(1)
        xT, z, noise = (jnp.asarray(a) for a in rng.normal(size=(3, 8, 2, 2, 1)))
        t, weight = jnp.asarray(rng.uniform(0.1, 0.9, 8)), jnp.ones(8)
        teacher, phi = PAIR.denoiser(BRIDGE, True), coupling(0.4, 0.7, 0.2).denoiser(BRIDGE, True)

        def make_loss(teacher, phi):
            def loss(params):
                x0 = linear(params)(xT, t, xT, z)
                return jnp.mean(generator_loss(teacher, phi, BRIDGE, x0, xT, t, noise, weight))

            return jax.jit(jax.value_and_grad(loss))

        def blind(denoise):
            return lambda xt, t, xT: denoise(jax.lax.stop_gradient(xt), t, xT)

        point = jax.tree.map(jnp.float64, START)
        whole = make_loss(teacher, phi)
        gradient = whole(point)[1]
        for key in START:
            high, low = (whole(point | {key: point[key] + h})[0] for h in (1e-5, -1e-5))
            np.testing.assert_allclose(gradient[key], (high - low) / 2e-5, rtol=1e-7)
        for cut in (make_loss(blind(teacher), phi), make_loss(teacher, blind(phi))):
            other = cut(point)[1]
            assert min(abs(other[key] - gradient[key]) for key in START) > 1e-3


def test_a_detached_xt_gives_the_difference_of_both_answers():
    """d/dx_0 = (2 lambda / n) (x0_phi - x0*), the attached value, and nothing else is differentiated."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(1)
        x0, xT, noise = (jnp.asarray(a) for a in rng.normal(size=(3, 5, 2, 3, 2)))
        t, weight = jnp.asarray(rng.uniform(0.1, 0.9, 5)), jnp.asarray(rng.uniform(0.5, 3.0, 5))
        mask = jnp.ones((5, 2, 3, 1)).at[:, 0].set(0.0)
        exact, known = PAIR.denoiser(BRIDGE, True), coupling(0.4, 0.7, 0.2).denoiser(BRIDGE, True)

        @jax.custom_jvp
        def no_way_back(x):
            return x

        @no_way_back.defjvp
        def _(primals, tangents):
            raise AssertionError("a network was differentiated")

        def teacher(xt, t, xT):
            return exact(no_way_back(xt), t, xT)

        def phi(xt, t, xT):
            return known(no_way_back(xt), t, xT)

        def loss(x0, detach_xt, one=teacher, two=phi):
            args = (one, two, BRIDGE, x0, xT, t, noise, weight)
            return generator_loss(*args, detach_xt=detach_xt, mask=mask)

        total = lambda x0, *a: jnp.sum(loss(x0, *a))  # noqa: E731
        gradient = jax.jit(jax.grad(total), static_argnums=1)(x0, True)
        xt = BRIDGE.sample(x0, xT, t, noise)
        scale = 2 * weight.reshape(-1, 1, 1, 1) / 12
        expected = scale * mask * (known(xt, t, xT) - exact(xt, t, xT))
        np.testing.assert_allclose(gradient, expected, rtol=1e-12, atol=1e-16)
        np.testing.assert_array_equal(loss(x0, True), loss(x0, False))
        with pytest.raises(AssertionError, match="was differentiated"):
            jax.grad(total)(x0, False)
        attached = jax.grad(total)(x0, False, exact, known)
        assert jnp.abs(attached - gradient).max() > 0.01


def test_a_lighter_inner_term_narrows_what_is_made_and_pulls_a_bias_back():
    """In closed form, at one time and for pixels that know nothing of x_T: from r v* - (1 - r) c^2 / b^2 no
    force widens or narrows; and a bridge net that takes the generator's bias for its own does not hide it."""
    v, r, t, count = 0.09, 0.9, 0.3, 40_000
    rho2 = float(t / (1 - t))  # c^2 / b^2 of the Brownian bridge
    fixed = np.sqrt(r * v - (1 - r) * rho2)
    with jax.enable_x64(True):
        xT, z, noise = np.random.default_rng(3).normal(size=(3, count, 1, 1, 1))

        def law(spread, bias):
            return coupling(0.0, spread, bias).denoiser(BRIDGE, True)

        def slopes(spread, bias, known_bias, weight):
            teacher, phi = law(np.sqrt(v), 0.0), law(spread, known_bias)

            def loss(p):
                x0 = p["b"] + p["v"] * z
                args = (teacher, phi, BRIDGE, x0, xT, jnp.full(count, t), noise, 1.0)
                return jnp.mean(generator_loss(*args, detach_xt=True, inner_weight=weight))

            found = jax.jit(jax.grad(loss))({"v": spread, "b": bias})
            return {k: float(g) for k, g in found.items()}

        assert abs(slopes(fixed, 0.0, 0.0, r)["v"]) < 2e-3
        assert slopes(np.sqrt(v), 0.0, 0.0, r)["v"] > 0.01  # r = 1 leaves it, r < 1 narrows it
        assert abs(slopes(np.sqrt(v), 0.0, 0.0, 1.0)["v"]) < 1e-12
        ignorant, told = (slopes(fixed, 0.5, 0.0, weight)["b"] for weight in (1.0, r))
        assert abs(told - ignorant) > 0.05 and told > ignorant


def test_normalize_divides_by_a_detached_distance():
    with jax.enable_x64(True):
        rng = np.random.default_rng(1)
        xT, z, noise = (jnp.asarray(a) for a in rng.normal(size=(3, 5, 2, 2, 1)))
        t = jnp.asarray(rng.uniform(0.1, 0.9, 5))
        teacher, phi = PAIR.denoiser(BRIDGE, True), coupling(0.4, 0.7, 0.2).denoiser(BRIDGE, True)
        weight = jnp.arange(1.0, 6.0)

        def losses(params, weight, normalize):
            x0 = linear(params)(xT, t, xT, z)
            args = (teacher, phi, BRIDGE, x0, xT, t, noise, weight)
            return generator_loss(*args, normalize=normalize)

        point = jax.tree.map(jnp.float64, START)
        x0 = linear(point)(xT, t, xT, z)
        answer = teacher(BRIDGE.sample(x0, xT, t, noise), t, xT)
        scaled = weight / (jnp.mean(jnp.abs(answer - x0), axis=(1, 2, 3)) + 1e-6)
        one, two = losses(point, weight, True), losses(point, scaled, False)
        np.testing.assert_allclose(one, two, rtol=1e-12)
        # The divisor is a constant to the gradient: that of the plain loss with `scaled` as weight.
        gradient = jax.jit(jax.jacobian(losses), static_argnums=2)
        one, two = gradient(point, weight, True), gradient(point, scaled, False)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11), one, two)


def test_mask_leaves_pixels_out_and_still_divides_by_all():
    rng = np.random.default_rng(0)
    x0, xT, noise = rng.normal(size=(3, 4, 2, 6, 3)).astype(np.float32)
    t, weight = np.float32([0.1, 0.4, 0.7, 0.9]), np.ones(4, np.float32)
    mask = np.zeros((4, 2, 6, 1), np.float32)
    mask[:, :, :2] = 1
    teacher, phi = PAIR.denoiser(BRIDGE, True), coupling(0.4, 0.7, 0.2).denoiser(BRIDGE, True)
    masked = generator_loss(teacher, phi, BRIDGE, x0, xT, t, noise, weight, mask=mask)
    part = generator_loss(
        teacher, phi, BRIDGE, x0[:, :, :2], xT[:, :, :2], t, noise[:, :, :2], weight
    )
    np.testing.assert_allclose(masked, part / 3, rtol=2e-4, atol=1e-7)
