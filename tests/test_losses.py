"""Training losses against I2SB's, by hand, and at their minimum."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_bridges.bridges import I2SB, VP, Brownian
from jax_bridges.losses import bridge_matching, squared_error
from jax_bridges.preconditioning import BridgeKarras, I2SBScaling, precondition
from tests.support.gaussian import GaussianPair
from tests.support.official import close, golden


@pytest.mark.parametrize("tag,beta_max", [("b03", 0.3), ("b10", 1.0)])
@pytest.mark.parametrize("masked", [False, True])
def test_i2sb_loss(float64, tag, beta_max, masked):
    """Its mean square in units of the network's output is ours in x_0 with weight 1 / sigma^2."""
    want, bridge, scaling = golden("ops"), I2SB.create(beta_max=beta_max), I2SBScaling()
    t = jnp.asarray(want["step"] / 999)
    denoise = precondition(lambda *inputs: jnp.asarray(want["net_out"]), bridge, scaling)
    loss = bridge_matching(
        denoise,
        bridge,
        want["x0"],
        want["x1"],
        t,
        want[f"{tag}_q_noise"],
        scaling.weight(bridge, t),
        want["mask"] if masked else None,
    )
    assert loss.shape == t.shape
    close(loss.mean(), want[f"{tag}_loss_mse_masked" if masked else f"{tag}_loss_mse"], rtol=1e-6)
    # Its label is what the network should have said.
    xt = bridge.sample(want["x0"], want["x1"], t, want[f"{tag}_q_noise"])
    sigma = bridge.sigma(t).reshape(-1, 1, 1, 1)
    close((xt - want["x0"]) / sigma, want[f"{tag}_label"], rtol=1e-6, atol=1e-6)


def test_squared_error_by_hand():
    x0_hat = jnp.asarray([[[[1.0], [2.0]]], [[[0.0], [3.0]]]])
    x0 = jnp.zeros_like(x0_hat)
    np.testing.assert_allclose(squared_error(x0_hat, x0, jnp.asarray([1.0, 2.0])), [2.5, 9.0])
    hole = jnp.asarray([0.0, 1.0]).reshape(1, 1, 2, 1)
    # Known pixels do not count, and the mean is still over all.
    np.testing.assert_allclose(squared_error(x0_hat, x0, 1.0, hole), [2.0, 4.5])
    with pytest.raises(AssertionError):
        squared_error(x0_hat, x0[:1], 1.0)


@pytest.mark.parametrize("conditional", [True, False], ids=["conditional", "unconditional"])
def test_the_minimum_is_the_posterior_mean_and_its_variance(conditional):
    """The exact denoiser has the loss Var[x_0 | x_t (, x_T)]; a shift adds its square to it."""
    bridge, pair, t, count = Brownian(), GaussianPair(0.8, 0.3), 0.6, 200000
    keys = jax.random.split(jax.random.key(0))
    x0, xT = pair.sample(keys[0], (count, 1, 1, 1))
    noise = jax.random.normal(keys[1], x0.shape)
    denoise = pair.denoiser(bridge, conditional)

    def loss(change):
        def changed(*inputs):
            return change(denoise(*inputs))

        return float(
            bridge_matching(changed, bridge, x0, xT, jnp.full(count, t), noise, 1.0).mean()
        )

    a, b, c = (float(v) for v in bridge.coefficients(jnp.asarray(t)))
    if conditional:
        variance = 1 / (1 / 0.3**2 + b**2 / c**2)
    else:
        m = pair.moments()
        total = a**2 + b**2 * m.variance + 2 * a * b * m.covariance + c**2
        variance = m.variance - (a * m.covariance + b * m.variance) ** 2 / total
    exact = loss(lambda x: x)
    assert exact == pytest.approx(variance, rel=5 * np.sqrt(2 / count))
    assert loss(lambda x: x + 0.1) == pytest.approx(exact + 0.01, abs=1e-3)
    assert loss(lambda x: 1.05 * x) > exact < loss(lambda x: 0.95 * x)


def test_weights_are_per_example_and_gradients_flow_to_the_network():
    bridge, scaling = VP(), BridgeKarras()
    x = jax.random.normal(jax.random.key(0), (3, 3, 4, 4, 1))
    t = jnp.asarray([0.1, 0.5, 0.9])

    def loss(scale, weight):
        denoise = precondition(lambda x, c, xT, z: scale * (x + xT), bridge, scaling)
        return bridge_matching(denoise, bridge, x[0], x[1], t, x[2], weight)

    plain, weighted = loss(0.2, 1.0), loss(0.2, jnp.asarray([1.0, 0.0, 3.0]))
    np.testing.assert_allclose(weighted, plain * jnp.asarray([1.0, 0.0, 3.0]), rtol=1e-6)
    slope = jax.grad(lambda s: loss(s, 1.0).mean())(0.2)
    step = (loss(0.21, 1.0).mean() - loss(0.19, 1.0).mean()) / 0.02
    assert float(slope) == pytest.approx(float(step), rel=1e-3)
