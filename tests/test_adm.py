"""The ADM UNet: parity with official runs, layouts, and the properties that the house relies on.

`adm_official_plain.npz` is a run of guided-diffusion, weights included; `adm_oracle.npz` comes from
`golden/adm_make.py`. With JAX_BRIDGES_VECTORS=FOLDER the official I2SB and DDBM runs (`unet_*.npz`,
too big to be kept here) are compared as well.
"""

import gzip
import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from jax_bridges.import_torch.names import (
    abstract_params,
    flax_to_torch,
    infer_adm_config,
    torch_layout,
    torch_to_flax,
)
from jax_bridges.models.adm import (
    ADM,
    ADM_PRESETS,
    adm_layout,
    downsample,
    upsample,
)
from jax_bridges.models.attention import attend
from tests.golden.adm_weights import weight

GOLDEN = Path(__file__).parent / "golden"

VECTORS = os.environ.get("JAX_BRIDGES_VECTORS")
TINY = {"model_channels": 32, "num_res_blocks": 1, "channel_mult": (1, 2), "attention_ds": (2,)}
TINY |= {"head_channels": 16}
FLAT = {**TINY, "channel_mult": (1,), "attention_ds": ()}  # one level: quick to compile
LAYOUTS = json.loads(gzip.decompress((GOLDEN / "adm_layouts.json.gz").read_bytes()))


def jit(f):
    """Quick to compile, and float32 products stay float32."""

    def exact(*args):
        with jax.default_matmul_precision("highest"):
            return f(*args)

    return jax.jit(exact)


def random_params(config):
    """Random parameters in which the layers that training starts at zero matter too."""
    return torch_to_flax({n: weight(n, s) for n, s in torch_layout(config).items()}, config)


def inputs(config, seed=0, size=(8, 8), batch=2):
    """x, c_noise and what else the network asks for."""
    rng = np.random.default_rng(seed)
    x, xT, z = (jnp.asarray(rng.standard_normal((batch, *size, 3)), jnp.float32) for _ in range(3))
    more = {}
    if config.get("conditional"):
        more["xT"] = xT
    if config.get("z_channels"):
        more["z"] = z
    if config.get("num_classes"):
        more["y"] = jnp.arange(batch)
    return x, jnp.linspace(0.5, 300.0, batch), more


def relative(a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return np.abs(a - b).max() / np.abs(b).max()


# ---------------------------------------------------------------- parity


def official(path):
    """Weights, config and record of an official run."""
    data = dict(np.load(path))
    args = json.loads(str(data["args_json"]))
    state_dict = {n[6:]: a for n, a in data.items() if n.startswith("param/")}
    config = infer_adm_config(
        state_dict,
        head_channels=args["num_head_channels"] if args["num_head_channels"] > 0 else None,
        num_heads=args["num_heads"],
        new_attention_order=args.get("use_new_attention_order", "attention_type" in args),
        dropout=args["dropout"],
    )
    data["grad_norms"] = {n[9:]: float(a) for n, a in data.items() if n.startswith("gradnorm/")}
    return config, torch_to_flax(state_dict, config), data


def oracle(case):
    """Config and record of a case of golden/adm_make.py; its weights are drawn again."""
    stored = np.load(GOLDEN / "adm_oracle.npz")
    data = {n.split("/", 1)[1]: stored[n] for n in stored.files if n.startswith(case + "/")}
    config = json.loads(str(data["args_json"]))
    data["grad_norms"] = json.loads(str(data["grad_norms_json"]))
    if config.get("conditional"):
        data["in/x"], data["in/xT"] = np.split(data["in/x"], 2, axis=1)
    return config, random_params(config), data


CASES = {
    "official_plain": lambda: official(GOLDEN / "adm_official_plain.npz"),
    "legacy_updown": lambda: oracle("legacy_updown"),
    "new_conditional": lambda: oracle("new_conditional"),
    "plain": lambda: oracle("plain"),
}
if VECTORS:
    for _name in ("unet_i2sb", "unet_ddbm", "unet_gd_plain_classcond"):
        CASES[_name] = lambda name=_name: official(Path(VECTORS) / f"{name}.npz")


@pytest.mark.parametrize("case", CASES)
def test_parity(case):
    """Output and activations to 1e-4, each gradient norm to 1e-3 (measured: 2e-6 all)."""
    config, params, data = CASES[case]()
    net = ADM(**config)
    more = {"y": jnp.asarray(data["in/y"])} if "in/y" in data else {}
    if "in/xT" in data:
        more["xT"] = jnp.asarray(data["in/xT"].transpose(0, 2, 3, 1))

    def loss(params, x, t):
        out, seen = net.apply({"params": params}, x, t, **more, capture_intermediates=True)
        return jnp.mean(out**2), (out, seen["intermediates"])

    x, t = jnp.asarray(data["in/x"].transpose(0, 2, 3, 1)), jnp.asarray(data["in/timesteps"])
    (_, (out, seen)), grads = jit(jax.value_and_grad(loss, has_aux=True))(params, x, t)
    assert relative(out.transpose(0, 3, 1, 2), data["out"]) < 1e-4

    acts = {n[4:]: a for n, a in data.items() if n.startswith("act/")}
    assert len(acts) >= 10
    for name, expected in acts.items():  # a torch block is the last of our modules of that number
        found = [n for n in seen if n.startswith(name.replace(".", "_") + "_")]
        h = np.asarray(seen[max(found)]["__call__"][0])
        h = h.transpose(0, 3, 1, 2)[:1, :, ::4, ::4] if h.ndim == 4 else h
        assert relative(h, expected) < 1e-4, name

    grads = flax_to_torch(grads, config)
    assert set(grads) == set(data["grad_norms"])
    noise = 1e-6 * max(data["grad_norms"].values())  # some are exactly zero but for rounding
    for name, expected in data["grad_norms"].items():
        assert abs(np.linalg.norm(grads[name]) - expected) < 1e-3 * expected + noise, name


@pytest.mark.parametrize(
    "preset, millions",
    [
        ("i2sb256", 552.81),
        ("ddbm_e2h64", 295.14),
        ("ddbm_diode256", 552.81),
        ("dbim_inpaint256", 553.84),
    ],
)
def test_layout_of_released_checkpoints(preset, millions):
    """Names, shapes and their order are those of the released state dicts."""
    config = ADM_PRESETS[preset]
    expected = [(name, tuple(shape)) for name, shape in LAYOUTS[preset].items()]
    assert list(torch_layout(config).items()) == expected
    leaves = jax.tree.leaves(abstract_params(config))
    assert round(sum(leaf.size for leaf in leaves) / 1e6, 2) == millions
    shapes = {name: np.broadcast_to(np.float32(0), shape) for name, shape in expected}
    inferred = ADM(**infer_adm_config(shapes))
    hidden = {"new_attention_order", "dropout"}  # not in the shapes
    assert all(getattr(inferred, k) == v for k, v in config.items() if k not in hidden)


def test_adm_layout():
    assert adm_layout(512) == {
        "channel_mult": (0.5, 1, 1, 2, 2, 4, 4),
        "attention_ds": (16, 32, 64),
    }
    assert adm_layout(64)["attention_ds"] == (2, 4, 8)
    assert adm_layout(128) == {"channel_mult": (1, 1, 2, 3, 4), "attention_ds": (4, 8, 16)}
    with pytest.raises(ValueError, match=r"96.*\[64, 128, 256, 512\]"):
        adm_layout(96)


# ---------------------------------------------------------------- parts


def test_resampling():
    x = np.arange(24.0, dtype=np.float32).reshape(1, 2, 4, 3)
    up = np.asarray(upsample(jnp.asarray(x)))
    np.testing.assert_array_equal(up, x.repeat(2, 1).repeat(2, 2))
    np.testing.assert_array_equal(downsample(jnp.asarray(up)), x)
    corner = np.asarray(downsample(jnp.asarray(x)))[0, 0, 0]
    np.testing.assert_allclose(corner, x[0, :2, :2].mean((0, 1)))


def test_attend():
    q, k, v = np.random.default_rng(0).standard_normal((3, 2, 5, 3, 8))
    logits = np.einsum("bnhd,bmhd->bhnm", q, k) / np.sqrt(8)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = np.einsum("bhnm,bmhd->bnhd", p, v)
    given = [jnp.asarray(a, jnp.float32) for a in (q, k, v)]
    for implementation in ("auto", "xla"):
        np.testing.assert_allclose(attend(*given, implementation), expected, atol=2e-6)
    with pytest.raises(ValueError, match="flash.*auto, cudnn, xla"):
        attend(*given, "flash")


def test_attention_orders_are_a_permutation_of_channels():
    """qkv of [head, q|k|v, d] (legacy) and [q|k|v, head, d] (new) give the same network."""
    legacy = {**TINY, "new_attention_order": False}
    params = random_params(legacy)
    x, t, _ = inputs(legacy)
    out = jit(lambda p: ADM(**legacy).apply({"params": p}, x, t))(params)
    permuted = jax.tree_util.tree_map_with_path(
        lambda path, a: (
            a.reshape(*a.shape[:-1], -1, 3, 16).swapaxes(-3, -2).reshape(a.shape)
            if "qkv" in jax.tree_util.keystr(path)
            else a
        ),
        params,
    )
    new = ADM(**{**TINY, "new_attention_order": True})
    same = jit(lambda p: new.apply({"params": p}, x, t))
    assert relative(same(permuted), out) < 1e-5
    assert relative(same(params), out) > 1e-2


# ---------------------------------------------------------------- what the house relies on


def test_initialisation():
    """Zero output at the start; the first convolution is uniform in +-1/sqrt(fan in)."""
    config = {**FLAT, "z_channels": 3, "num_classes": 3}
    net = ADM(**config)
    x, t, more = inputs(config)
    params = jit(lambda key: net.init(key, x, t, **more)["params"])(jax.random.key(0))
    out = jit(lambda p: net.apply({"params": p}, x, t, **more))(params)
    assert out.dtype == jnp.float32 and not np.any(out)
    bound = 1 / np.sqrt(27)
    first = np.asarray(params["input_blocks_0_0"]["kernel"])
    assert 0.95 * bound < np.abs(first).max() <= bound
    np.testing.assert_allclose(first.std(), bound / np.sqrt(3), rtol=0.06)
    flat = flatten_dict(params, sep="/")
    zero = {n for n, a in flat.items() if not np.any(a)} - {n for n in flat if n.endswith("bias")}
    ends = ("out_layers_3/kernel", "proj_out/kernel", "out_2/kernel", "z_in/kernel")
    assert zero == {n for n in flat if n.endswith(ends)}


def test_student_is_teacher_plus_z_in():
    """Same tree but for `z_in/kernel`; at zero z has only a gradient; else it is a channel."""
    teacher, student = {**FLAT, "conditional": True}, {**FLAT, "z_channels": 3}
    both = {**teacher, "z_channels": 3}
    params = random_params(teacher)
    x, t, more = inputs(both)
    names = {"/".join(p) for p in flatten_dict(random_params(both))}
    assert names - {"/".join(p) for p in flatten_dict(params)} == {"z_in/kernel"}

    out = jit(lambda p: ADM(**teacher).apply({"params": p}, x, t, more["xT"]))(params)
    kernel = jnp.zeros((3, 3, 3, 32))
    apply = lambda p, z: ADM(**both).apply({"params": p}, x, t, more["xT"], z)  # noqa: E731
    grown = {**params, "z_in": {"kernel": kernel}}
    np.testing.assert_array_equal(jit(apply)(grown, more["z"]), out)
    grad = jit(jax.grad(lambda p: jnp.mean(apply(p, more["z"]) ** 2)))(grown)
    assert np.abs(grad["z_in"]["kernel"]).max() > 1e-4

    # z through z_in = xT through the channels that concatenation adds.
    first = params["input_blocks_0_0"]
    split = {
        **params,
        "input_blocks_0_0": {"kernel": first["kernel"][:, :, :3], "bias": first["bias"]},
        "z_in": {"kernel": first["kernel"][:, :, 3:]},
    }
    same = jit(lambda p: ADM(**student).apply({"params": p}, x, t, z=more["xT"]))(split)
    assert relative(same, out) < 1e-5


def test_remat_changes_nothing():
    config = {**FLAT, "num_classes": 2, "dropout": 0.3}
    params = random_params(config)
    x, t, more = inputs(config)
    rngs = {"dropout": jax.random.key(1)}

    def loss(remat):
        net = ADM(**config, remat=remat)
        f = lambda p: jnp.mean(net.apply({"params": p}, x, t, **more, train=True, rngs=rngs) ** 2)  # noqa: E731
        return jit(jax.value_and_grad(f))

    plain, grads = loss(False)(params)
    again, regrads = loss(True)(params)
    np.testing.assert_allclose(again, plain, rtol=1e-6)
    assert jax.tree.structure(grads) == jax.tree.structure(regrads)
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(regrads), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-6)
    text = str(
        jax.make_jaxpr(lambda p: ADM(**config, remat=True).apply({"params": p}, x, t, **more))(
            params
        )
    )
    assert "remat" in text or "checkpoint" in text


def test_bfloat16():
    """Parameters and output stay float32, blocks are bfloat16, the result is close."""
    config = {**FLAT, "num_classes": 2}
    params = random_params(config)
    x, t, more = inputs(config)
    exact = jit(lambda p: ADM(**config).apply({"params": p}, x, t, **more))(params)
    net = ADM(**config, dtype="bfloat16")
    out, seen = jit(lambda p: net.apply({"params": p}, x, t, **more, capture_intermediates=True))(
        params
    )
    assert out.dtype == jnp.float32 and 1e-5 < relative(out, exact) < 5e-2
    seen = seen["intermediates"]
    assert seen["middle_block_2"]["__call__"][0].dtype == jnp.bfloat16
    assert seen["middle_block_1"]["norm"]["__call__"][0].dtype == jnp.float32
    assert seen["time_embed_2"]["__call__"][0].dtype == jnp.float32
    shapes = jax.eval_shape(net.init, jax.random.key(0), x, t, **more)
    assert {a.dtype for a in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}


def test_dropout_only_when_training():
    config = {**FLAT, "dropout": 0.5}
    params = random_params(config)
    x, t, _ = inputs(config)
    net = ADM(**config)
    train = jit(lambda key: net.apply({"params": params}, x, t, train=True, rngs={"dropout": key}))
    one, two = train(jax.random.key(1)), train(jax.random.key(2))
    assert relative(one, two) > 0.05
    off = jit(lambda p: net.apply({"params": p}, x, t))(params)
    without = jit(lambda p: ADM(**FLAT).apply({"params": p}, x, t, train=True))(params)
    np.testing.assert_array_equal(off, without)


def test_one_time_for_all_and_hashable():
    """A scalar time is every example's time; lists from a JSON config make a hashable module."""
    net = ADM(**{**FLAT, "channel_mult": [1], "attention_ds": []})
    assert hash(net) == hash(ADM(**FLAT))
    params = random_params(FLAT)
    x, _, _ = inputs(FLAT)
    apply = jit(lambda t: net.apply({"params": params}, x, t))
    np.testing.assert_allclose(apply(jnp.float32(7)), apply(jnp.full(2, 7.0)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "change, call, message",
    [
        ({}, {"x": (2, 8, 8, 4)}, r"\[B, H, W, 3\]"),
        ({}, {"x": (2, 8, 7, 3)}, "8x7.*multiples of 2"),
        ({"conditional": True}, {}, "needs xT .*nothing"),
        (
            {"conditional": True},
            {"xT": (2, 4, 4, 3)},
            r"needs xT of shape \(2, 8, 8, 3\).*\(2, 4, 4, 3\)",
        ),
        ({"z_channels": 4}, {"z": (2, 8, 8, 3)}, r"needs z of shape \(2, 8, 8, 4\)"),
        ({"num_classes": 5}, {}, "needs y .*nothing"),
        ({"head_channels": 48}, {}, "64 channels .* heads of 48"),
        ({"head_channels": 128}, {}, "64 channels .* heads of 128"),
        ({"head_channels": None, "num_heads": 5}, {}, "64 channels .* 5 heads"),
    ],
)
def test_bad_input(change, call, message):
    shapes = {"x": (2, 8, 8, 3), **call}
    arrays = {name: jnp.zeros(shape) for name, shape in shapes.items()}
    net = ADM(**{**TINY, **change})
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: net.init(jax.random.key(0), c_noise=jnp.zeros(2), **arrays))
