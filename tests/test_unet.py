"""The compact UNet and its layers."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_bridges.models import make_network
from jax_bridges.models.layers import (
    GroupNorm,
    depth_to_space,
    space_to_depth,
    timestep_embedding,
)
from jax_bridges.models.unet import Attention, UNet

SMALL = dict(widths=(8, 16), patch=2, groups=4)


def inputs(height=16, width=16, batch=2):
    """x, c_noise, x_T, z."""
    rng = np.random.default_rng(0)
    x, xT, z = rng.normal(size=(3, batch, height, width, 3)).astype(np.float32)
    return x, np.array([900.0, 40.0, 3.0][:batch], np.float32), xT, z


@functools.partial(jax.jit, static_argnums=0)
def init(net, *given):
    """Parameters as the network starts with them (by the generator that compiles fastest)."""
    return net.init(jax.random.key(0, impl="unsafe_rbg"), *(given or inputs()))["params"]


def awake(net, seed=5):
    """Parameters that are all random, so that nothing is zero by initialisation."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), *inputs())["params"])

    def draw(path, leaf):
        middle = 1.0 if path[-1].key == "scale" else 0.0
        fan_in = np.prod(leaf.shape[:-1]) if len(leaf.shape) > 1 else 25.0
        return np.float32(middle + rng.normal(size=leaf.shape) / np.sqrt(fan_in))

    return jax.tree.map_with_path(draw, shapes)


@functools.partial(jax.jit, static_argnums=0)
def run(net, params, *given):
    return net.apply({"params": params}, *given)


@pytest.mark.parametrize("height, width", [(18, 16), (16, 22)])
def test_sizes_must_be_multiples(height, width):
    net = UNet(**SMALL)
    assert net.multiple == 4
    with pytest.raises(ValueError, match=f"multiples of 4 .*{height}x{width}"):
        jax.eval_shape(lambda: net.init(jax.random.key(0), *inputs(height, width)))


def test_output_is_zero_at_the_start():
    net = UNet(**SMALL, attention=(1,), conditional=True, z_channels=3)
    np.testing.assert_array_equal(run(net, init(net), *inputs()), np.zeros((2, 16, 16, 3)))


@pytest.mark.parametrize("conditional", [False, True])
def test_only_a_conditional_network_sees_the_source(conditional):
    net = UNet(**SMALL, conditional=conditional)
    params = awake(net)
    x, t, xT, _ = inputs()
    one, two = run(net, params, x, t, xT), run(net, params, x, t, xT + 1.0)
    if conditional:
        assert np.abs(one - two).max() > 1e-2
    else:
        np.testing.assert_array_equal(one, two)


def test_examples_of_a_batch_do_not_meet_and_all_inputs_matter():
    net = UNet(**SMALL, attention=(1,), conditional=True)
    params = awake(net)
    x, t, xT, _ = inputs()
    both = run(net, params, x, t, xT)
    other = run(net, params, np.stack([x[0], 2 * x[1]]), t, xT)
    np.testing.assert_allclose(both[0], other[0], atol=1e-6)
    assert np.abs(both[1] - other[1]).max() > 1e-2
    assert np.abs(run(net, params, x, t + 50.0, xT) - both).max() > 1e-3
    # Attention at the coarse level: one pixel reaches the far corner.
    x = x.copy()
    x[:, 0, 0] += 5.0
    assert np.abs(run(net, params, x, t, xT) - both)[:, -1, -1].max() > 1e-6


def test_z_has_no_effect_at_the_start_but_learns():
    net = UNet(**SMALL, z_channels=3)
    kernel = init(net)["z_in"]["kernel"]
    np.testing.assert_array_equal(kernel, np.zeros((3, 3, 12, 8)))
    x, t, xT, z = inputs()

    @jax.jit
    def loss_and_gradient(params, z):
        def loss(params):
            return jnp.mean((net.apply({"params": params}, x, t, xT, z) - x) ** 2)

        return jax.value_and_grad(loss)(params)

    params = awake(net) | {"z_in": {"kernel": kernel}}
    one, gradient = loss_and_gradient(params, z)
    two, _ = loss_and_gradient(params, 5.0 * z + 1.0)
    assert float(one) == float(two)
    slope = gradient["z_in"]["kernel"]
    assert np.linalg.norm(slope) > 1e-3
    # A small step down that gradient lowers the loss by what the gradient says.
    step = 1e-2 / np.linalg.norm(slope)
    after, _ = loss_and_gradient(params | {"z_in": {"kernel": -step * slope}}, z)
    np.testing.assert_allclose((one - after) / (step * np.sum(slope**2)), 1.0, atol=0.1)


def test_the_students_other_parameters_are_the_teachers():
    teacher, student = UNet(**SMALL), UNet(**SMALL, z_channels=3)
    theirs, ours = awake(teacher), init(student)
    extra = ours.pop("z_in")
    assert jax.tree.structure(ours) == jax.tree.structure(theirs) and set(extra) == {"kernel"}
    grafted = run(student, {**theirs, "z_in": extra}, *inputs())
    np.testing.assert_allclose(grafted, run(teacher, theirs, *inputs()), atol=1e-6)


def test_bfloat16_is_close_to_float32_and_parameters_stay_float32():
    wide = make_network("unet", **SMALL, attention=(1,))
    half = make_network("unet", **SMALL, attention=(1,), dtype="bfloat16")
    params = awake(wide)
    assert {p.dtype for p in jax.tree.leaves(init(half))} == {jnp.dtype("float32")}
    one, two = (run(n, params, *inputs()) for n in (wide, half))
    assert two.dtype == jnp.float32
    error = np.sqrt(np.mean((one - two) ** 2) / np.mean(one**2))
    assert 1e-4 < error < 0.03  # bfloat16 keeps 8 bits: it is used, and no more is lost


@pytest.mark.parametrize("offset", [0.0, 30.0, 3e4])
def test_group_norm_is_flax_group_norm(offset):
    """Also where the mean is 15 and 15000 times the spread, which a variance about zero would lose."""
    keys = jax.random.split(jax.random.key(1), 5)
    x = 2.0 * jax.random.normal(keys[0], (3, 6, 5, 24)) + offset
    gain, bias = 1 + jax.random.normal(keys[1], (24,)), jax.random.normal(keys[2], (24,))
    params = {"params": {"scale": gain, "bias": bias}}
    grouped = np.asarray(x, np.float64).reshape(3, 30, 4, 6)
    mean, variance = (f(grouped, axis=(1, 3), keepdims=True) for f in (np.mean, np.var))
    expected = ((grouped - mean) / np.sqrt(variance + 1e-5)).reshape(x.shape) * gain + bias
    if not offset:
        reference = nn.GroupNorm(num_groups=4, epsilon=1e-5, use_fast_variance=False)
        np.testing.assert_allclose(expected, reference.apply(params, x), atol=1e-5)
    ours = GroupNorm(4)
    tolerance = 1e-5 if offset < 1e3 else 1e-2  # float32 itself holds 30000 to 0.002
    np.testing.assert_allclose(ours.apply(params, x), expected, atol=tolerance, rtol=1e-5)
    scale, shift = (jax.random.normal(k, (3, 24)) for k in keys[3:])
    np.testing.assert_allclose(
        ours.apply(params, x, scale, shift),
        expected * (1 + scale[:, None, None]) + shift[:, None, None],
        atol=3 * tolerance, rtol=1e-5,
    )  # fmt: skip
    fresh = ours.init(jax.random.key(0), x)["params"]
    np.testing.assert_array_equal(fresh["scale"], np.ones(24))
    np.testing.assert_array_equal(fresh["bias"], np.zeros(24))


def test_group_norm_has_float32_statistics_and_gradients_of_flax():
    x = jax.random.normal(jax.random.key(1), (2, 8, 8, 8)) * 3 + 1
    params = {"params": {"scale": jnp.ones(8), "bias": jnp.zeros(8)}}
    half = GroupNorm(2).apply(params, x.astype(jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    mean = np.asarray(half, np.float32).reshape(2, 64, 2, 4).mean((1, 3))
    np.testing.assert_allclose(mean, 0.0, atol=2e-3)
    weight = jax.random.normal(jax.random.key(2), x.shape)
    reference = nn.GroupNorm(num_groups=2, epsilon=1e-5, use_fast_variance=False)
    one, two = (
        jax.grad(lambda x, n=n: jnp.sum(weight * n.apply(params, x)))(x)
        for n in (GroupNorm(2), reference)
    )
    np.testing.assert_allclose(one, two, atol=1e-5)
    constant = GroupNorm(2).apply(params, jnp.full((1, 4, 4, 8), 7.0))
    np.testing.assert_allclose(constant, 0.0, atol=1e-3)


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_depth_to_space_undoes_space_to_depth(patch):
    x = jax.random.normal(jax.random.key(0), (2, 8, 12, 3))
    deep = space_to_depth(x, patch)
    assert deep.shape == (2, 8 // patch, 12 // patch, 3 * patch**2)
    np.testing.assert_array_equal(depth_to_space(deep, patch), x)
    # One coarse pixel holds its own p x p block, row by row.
    block = x[1, patch : 2 * patch, 2 * patch : 3 * patch]
    np.testing.assert_array_equal(deep[1, 1, 2], block.ravel())


def test_attention_is_softmax_attention_and_starts_as_the_identity():
    layer = Attention(heads=2, groups=4, dtype=jnp.float32)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 4, 6, 8)).astype(np.float32)
    params = init(layer, x)
    np.testing.assert_array_equal(run(layer, params, x), x)
    params = jax.tree.map(lambda p: p + 0.3 * rng.normal(size=p.shape).astype(np.float32), params)

    h = np.asarray(run(GroupNorm(4), params["norm"], x), np.float64).reshape(2, 24, 8)
    qkv = h @ params["qkv"]["kernel"][0, 0] + params["qkv"]["bias"]
    q, k, v = np.split(qkv.reshape(2, 24, 6, 4), 3, axis=2)
    weight = np.exp(np.einsum("bqhd,bkhd->bhqk", q, k) / 2.0)
    weight /= weight.sum(-1, keepdims=True)
    out = np.einsum("bhqk,bkhd->bqhd", weight, v).reshape(2, 24, 8)
    expected = x + (out @ params["out"]["kernel"][0, 0] + params["out"]["bias"]).reshape(x.shape)
    np.testing.assert_allclose(run(layer, params, x), expected, atol=1e-5)


def test_attention_is_where_it_is_asked_for():
    def layers(net):
        return set(jax.eval_shape(lambda: net.init(jax.random.key(0), *inputs()))["params"])

    added = layers(UNet(**SMALL, attention=(1,))) - layers(UNet(**SMALL))
    assert added == {"down1_attention", "up1_attention"}


def test_dropout_is_on_in_training_only():
    net = UNet(**SMALL, dropout=0.5)
    params = awake(net)
    x, t, xT, z = inputs()
    off = run(net, params, x, t)
    np.testing.assert_allclose(off, run(UNet(**SMALL), params, x, t), atol=1e-6)
    train = jax.jit(
        lambda key: net.apply({"params": params}, x, t, train=True, rngs={"dropout": key})
    )
    one, again, two = (train(jax.random.key(k)) for k in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - off).max() > 1e-2 and np.abs(one - two).max() > 1e-2


def test_images_need_not_be_square():
    net = UNet(widths=(8, 8, 16), patch=4, groups=4, attention=(2,))
    params = awake(net)
    x, t, _, _ = inputs(48, 32)
    out = run(net, params, x, t)
    assert out.shape == (2, 48, 32, 3) and np.isfinite(out).all()
    # Rows are rows and columns columns: what changes at (41, 6) changes the answer around it most.
    x = x.copy()
    x[0, 41, 6] += 3.0
    change = np.abs(run(net, params, x, t) - out)[0].sum(-1)
    row, column = np.unravel_index(change.argmax(), change.shape)
    assert abs(row - 41) <= 8 and abs(column - 6) <= 8


def test_timestep_embedding_values():
    """Cosines first; frequencies fall from 1 to 1/10000 (exclusive)."""
    t = np.array([0.0, 1.0, 250.0, -2302.585])
    phase = t[:, None] * 10_000.0 ** (-np.arange(4) / 4)
    expected = np.concatenate([np.cos(phase), np.sin(phase)], axis=-1)
    emb = timestep_embedding(jnp.asarray(t), 8)
    np.testing.assert_allclose(emb, expected, atol=2e-4)
    np.testing.assert_allclose(emb[:3], expected[:3], atol=2e-5)
    assert emb.dtype == np.float32


def test_unknown_settings_are_refused():
    with pytest.raises(ValueError, match="no setting 'width'"):
        make_network("unet", width=3)
    with pytest.raises(ValueError, match="dtype 'float16'.*bfloat16"):
        make_network("unet", dtype="float16")
    with pytest.raises(ValueError, match="network 'vit'.*unet"):
        make_network("vit")
