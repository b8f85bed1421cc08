"""Importing released checkpoints: names both ways, the families, and what is refused."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from jax_bridges.import_torch.families import (
    FAMILIES,
    import_adm,
    import_dbim,
    import_ddbm,
    import_i2sb,
)
from jax_bridges.import_torch.names import (
    check_names,
    flax_path,
    flax_to_torch,
    infer_adm_config,
    torch_layout,
    torch_name,
    torch_to_flax,
    unwrapped,
)
from jax_bridges.models.adm import ADM, ADM_PRESETS, adm_layout
from tests.golden.adm_weights import weight
from tests.support.imports import as_i2sb_saves

SMALL = {"model_channels": 64, "num_res_blocks": 1, "channel_mult": (1, 2), "attention_ds": (2,)}
HEADS = {"head_channels": 64}
QKV = "middle_block.1.qkv.weight"


def state_dict(config, qkv_ndim=3, scale=1.0):
    """Random weights in torch's layout and order."""
    return {n: scale * weight(n, s) for n, s in torch_layout(config, qkv_ndim).items()}


def assert_same(a, b):
    """Equal names, order, shapes and values to the last bit."""
    a, b = flatten_dict(a), flatten_dict(b)
    assert list(a) == list(b)
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=str(name), strict=True)


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    "name, ndim, path",
    [
        ("time_embed.2.weight", 2, "time_embed_2/kernel"),
        ("label_emb.weight", 2, "label_emb/embedding"),
        ("input_blocks.0.0.bias", 1, "input_blocks_0_0/bias"),
        ("input_blocks.12.0.in_layers.2.weight", 4, "input_blocks_12_0/in_layers_2/kernel"),
        ("middle_block.1.norm.weight", 1, "middle_block_1/norm/scale"),
        ("middle_block.1.qkv.weight", 3, "middle_block_1/qkv/kernel"),
        ("output_blocks.3.2.conv.weight", 4, "output_blocks_3_2/conv/kernel"),
        ("out.0.weight", 1, "out_0/scale"),
        ("z_in.weight", 4, "z_in/kernel"),
    ],
)
def test_one_rule_maps_every_name(name, ndim, path):
    assert flax_path(name, ndim) == tuple(path.split("/"))
    assert torch_name(tuple(path.split("/"))) == name


def test_transposes():
    """A torch tensor and ours describe the same linear map."""
    config = {**SMALL, "num_classes": 5}
    torch_side = state_dict(config)
    params = torch_to_flax(torch_side, config)
    conv = torch_side["input_blocks.1.0.in_layers.2.weight"]
    ours = params["input_blocks_1_0"]["in_layers_2"]["kernel"]
    assert ours[0, 2, 5, 7] == conv[7, 5, 0, 2]
    assert params["middle_block_1"]["qkv"]["kernel"][3, 11] == torch_side[QKV][11, 3, 0]
    assert params["time_embed_0"]["kernel"][3, 11] == torch_side["time_embed.0.weight"][11, 3]
    assert params["label_emb"]["embedding"][2, 9] == torch_side["label_emb.weight"][2, 9]


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        {**SMALL, "conditional": True, "z_channels": 3, "num_classes": 4},
        {**SMALL, "scale_shift_norm": False, "resblock_updown": False, "out_channels": 6},
        {**SMALL, "channel_mult": (0.5, 1, 2), "attention_ds": (2, 4), "num_res_blocks": 2},
        {**SMALL, "channel_mult": (1,), "attention_ds": (), "num_res_blocks": 3},
    ],
)
@pytest.mark.parametrize("qkv_ndim", [3, 4])
def test_round_trip_and_inference(config, qkv_ndim):
    """Import, export, import is exact, and the architecture is read off the shapes."""
    torch_side = state_dict(config, qkv_ndim)
    assert torch_side[QKV].ndim == qkv_ndim
    inferred = infer_adm_config(torch_side)
    assert ADM(**inferred) == ADM(**config)
    params = torch_to_flax(torch_side, inferred)
    back = flax_to_torch(params, config, qkv_ndim)
    assert_same(back, torch_side)
    assert_same(torch_to_flax(back, config), params)


def test_parameters_are_those_of_the_network():
    config = {**SMALL, "conditional": True, "num_classes": 4, "z_channels": 2}
    net = ADM(**config)
    x, z, y = jnp.zeros((1, 2, 2, 3)), jnp.zeros((1, 2, 2, 2)), jnp.zeros(1, int)
    key = jax.random.key(0)
    expected = jax.eval_shape(lambda: net.init(key, x, jnp.zeros(1), x, z, y))["params"]
    params = torch_to_flax(state_dict(config), config)
    shapes = jax.tree.map(lambda a: (a.shape, a.dtype), params)
    assert shapes == jax.tree.map(lambda a: (a.shape, a.dtype), expected)


# ---------------------------------------------------------------- families


def test_i2sb():
    """EMA weights by position; the online weights by name, without their prefix."""
    config = {**ADM_PRESETS["i2sb256"], **SMALL}
    net, ema = state_dict(config), state_dict(config, scale=0.5)
    checkpoint = {
        "net": {"diffusion_model." + n: a for n, a in net.items()},
        "ema": {"decay": 0.99, "shadow_params": list(ema.values()), "collected_params": None},
        "optimizer": {},
    }
    found, params = import_i2sb(checkpoint)
    assert ADM(**found) == ADM(**config)
    assert_same(params, torch_to_flax(ema, config))
    assert_same(import_i2sb(checkpoint, weights="net")[1], torch_to_flax(net, config))

    exported = as_i2sb_saves(params, found)
    assert list(exported["net"]) == list(checkpoint["net"])
    assert_same(import_i2sb(exported)[1], params)
    assert_same(import_i2sb(exported, weights="net")[1], params)

    # cond_x1: the input convolution says so.
    wide = as_i2sb_saves(*import_adm(net, **HEADS, condition="extend")[::-1])
    assert import_i2sb(wide)[0]["conditional"] is True


def test_i2sb_refuses():
    config = infer_adm_config(state_dict(SMALL))
    good = as_i2sb_saves(torch_to_flax(state_dict(SMALL), config), config)
    with pytest.raises(ValueError, match="no 'net', only 'model'"):
        import_i2sb({"model": {}})
    with pytest.raises(ValueError, match="'ema' or 'net'"):
        import_i2sb(good, weights="swa")
    short = {"shadow_params": good["ema"]["shadow_params"][:-1]}
    with pytest.raises(ValueError, match=r"holds 1\d\d tensors.*by position"):
        import_i2sb({**good, "ema": short})
    turned = {"shadow_params": good["ema"]["shadow_params"][::-1]}
    with pytest.raises(ValueError, match=r"EMA tensor 0 .*\(3,\).*'time_embed.0.weight'"):
        import_i2sb({**good, "ema": turned})
    with pytest.raises(ValueError, match="no 'shadow_params', only 'decay'"):
        import_i2sb({**good, "ema": {"decay": 0.9}})


def test_ddbm():
    """4-D 1x1 convolutions, new attention order, x_T concatenated, dropout 0.1."""
    config = {**ADM_PRESETS["ddbm_e2h64"], **SMALL}
    four, three = state_dict(config, 4), state_dict(config, 3)
    found, params = import_ddbm(four)
    assert ADM(**found) == ADM(**config)
    assert found["new_attention_order"] and found["conditional"] and found["dropout"] == 0.1
    assert_same(params, torch_to_flax(three, config))
    assert_same(flax_to_torch(params, found, 4), four)
    assert import_ddbm(four, dropout=0.0)[0]["dropout"] == 0.0


def test_dbim():
    """Class-conditional, x_T concatenated, legacy attention order; `module.` of DDP is dropped."""
    config = {**ADM_PRESETS["dbim_inpaint256"], **SMALL}
    flat = state_dict(config)
    found, params = import_dbim({"module." + n: a for n, a in flat.items()})
    assert ADM(**found) == ADM(**config)
    assert found["num_classes"] == 1000 and found["conditional"]
    assert_same(params, torch_to_flax(flat, config))


def test_adm():
    """The variance output is cut off; x_T enters as each project makes it enter."""
    config = {**ADM_PRESETS["adm256_uncond"], **SMALL}
    flat = state_dict(config)
    kernel = flat["input_blocks.0.0.weight"].transpose(2, 3, 1, 0)
    found, params = import_adm(flat, **HEADS)
    assert ADM(**found) == ADM(**{**config, "out_channels": 3})
    np.testing.assert_array_equal(params["out_2"]["bias"], flat["out.2.bias"][:3])
    np.testing.assert_array_equal(
        params["out_2"]["kernel"], flat["out.2.weight"].transpose(2, 3, 1, 0)[..., :3]
    )
    np.testing.assert_array_equal(params["input_blocks_0_0"]["kernel"], kernel)
    assert import_adm(flat, **HEADS, out_channels=6)[0]["out_channels"] == 6
    assert flat["out.2.bias"].shape == (6,), "the caller's dict is left alone"

    found, doubled = import_adm(flat, **HEADS, condition="duplicate")
    first = doubled["input_blocks_0_0"]["kernel"]
    assert found["conditional"] and found["in_channels"] == 3
    np.testing.assert_array_equal(first, np.concatenate([kernel, kernel], axis=2))

    found, extended = import_adm(flat, **HEADS, condition="extend", seed=1)
    fresh = extended["input_blocks_0_0"]["kernel"][:, :, 3:]
    bound = 1 / np.sqrt(6 * 9)
    assert found["conditional"] and 0.95 * bound < np.abs(fresh).max() <= bound
    np.testing.assert_allclose(fresh.std(), bound / np.sqrt(3), rtol=0.05)
    np.testing.assert_array_equal(extended["input_blocks_0_0"]["kernel"][:, :, :3], kernel)
    again = import_adm(flat, **HEADS, condition="extend", seed=1)[1]["input_blocks_0_0"]["kernel"]
    np.testing.assert_array_equal(again, extended["input_blocks_0_0"]["kernel"])


def test_adm_refuses():
    flat = state_dict(SMALL)
    with pytest.raises(ValueError, match="Unknown condition 'copy'.*'duplicate'"):
        import_adm(flat, **HEADS, condition="copy")
    with pytest.raises(ValueError, match="only 3"):
        import_adm(flat, **HEADS, out_channels=6)
    with pytest.raises(ValueError, match="already takes x_T"):
        import_adm(state_dict({**SMALL, "conditional": True}), **HEADS, condition="duplicate")


def test_every_family_refuses_another_network():
    for name, family in FAMILIES.items():
        alien = {"conv1.weight": np.zeros((4, 3, 3, 3))}
        with pytest.raises(ValueError, match="no ADM UNet.*conv1.weight"):
            family({"net": alien, "ema": {}} if name == "i2sb" else alien)


# ---------------------------------------------------------------- refused, upcast


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_dtypes_become_float32(dtype):
    config = infer_adm_config(state_dict(SMALL))
    stored = {n: a.astype(dtype) for n, a in state_dict(SMALL).items()}
    params = torch_to_flax(stored, config)
    assert {a.dtype for a in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    bias = stored["out.2.bias"].astype(np.float32)
    np.testing.assert_array_equal(params["out_2"]["bias"], bias)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_not_finite(value):
    flat = state_dict(SMALL)
    flat[QKV][5, 2] = value
    with pytest.raises(ValueError, match=f"'{QKV}' holds 1 values of 49152 that are NaN") as error:
        torch_to_flax(flat, infer_adm_config(flat))
    assert "\n" not in str(error.value)


def test_table_of_differences():
    expected = {"a.weight": (2, 3), "b.weight": (4,), "b.bias": (4,)}
    check_names(expected, {"b.bias": (4,), "b.weight": (4,), "a.weight": (2, 3)})
    with pytest.raises(ValueError) as error:
        check_names(expected, {"a.weight": (3, 2), "b.weight": (4,), "c.scale": (7,)})
    lines = str(error.value).splitlines()
    assert "1 missing, 1 unexpected, 1 misshapen of 3 names" in lines[0]
    assert [line.split() for line in lines[2:]] == [
        ["missing", "b.bias", "(4,)", "-"],
        ["unexpected", "c.scale", "-", "(7,)"],
        ["misshapen", "a.weight", "(2,", "3)", "(3,", "2)"],
    ]
    with pytest.raises(ValueError, match="missing  ... and 5 more"):
        check_names({f"n{i}": () for i in range(8)}, {}, rows=3)


def test_wrong_config_is_told_by_the_table():
    flat = state_dict(SMALL)
    other = {**SMALL, "resblock_updown": False, "num_classes": 3}
    with pytest.raises(ValueError, match="missing .*label_emb.weight") as error:
        torch_to_flax(flat, other)
    assert "input_blocks.2.0.op.weight" in str(error.value)
    params = torch_to_flax(flat, SMALL)
    with pytest.raises(ValueError, match="unexpected .*input_blocks.2.0.in_layers.0.weight"):
        flax_to_torch(params, other)
    with pytest.raises(ValueError, match="takes 5 channels, neither 3"):
        five = np.zeros((64, 5, 3, 3))
        infer_adm_config({**flat, "input_blocks.0.0.weight": five})


# ---------------------------------------------------------------- what no tensor shows


@pytest.mark.parametrize(
    "pixels, facts",
    [
        (64, {"head_channels": 64, "new_attention_order": True, "dropout": 0.1}),
        (128, {"head_channels": None, "num_heads": 4, "new_attention_order": False}),
        (256, {"head_channels": 64, "new_attention_order": False, "dropout": 0.0}),
    ],
)
def test_openai_networks_are_known_by_their_levels(pixels, facts):
    """As in the flags that are published with the files."""
    config = {"model_channels": 64, "num_res_blocks": 1, **adm_layout(pixels)}
    arrays = {n: np.zeros(s, np.float32) for n, s in torch_layout(config).items()}
    found = ADM(**import_adm(arrays)[0])
    assert {k: getattr(found, k) for k in facts} == facts


def test_heads_that_are_given_go_first_and_unknown_ones_must_be():
    flat = state_dict(SMALL)
    with pytest.raises(ValueError, match=r"levels, \(1, 2\), are those of none.*head_channels"):
        import_adm(flat)
    found = ADM(**import_adm(flat, num_heads=2, dropout=0.3)[0])
    assert (found.head_channels, found.num_heads, found.dropout) == (None, 2, 0.3)


def test_names_of_wrappers_are_dropped():
    """torch.compile's, DDP's and FSDP's, outside and inside, in any order."""
    for name in (
        "_orig_mod.a.weight", "module.a.weight", "module._orig_mod.a.weight", "a._orig_mod.weight",
        "_orig_mod.module.a.weight", "_fsdp_wrapped_module.a._checkpoint_wrapped_module.weight",
    ):  # fmt: skip
        assert unwrapped({name: 1}) == {"a.weight": 1}
    assert unwrapped({"_orig_mod.net.module.a": 1}, "net.") == {"a": 1}
    assert unwrapped({"module": 1}) == {"module": 1}  # no wrapper, but a tensor of that name
    with pytest.raises(ValueError, match="'a' is there twice"):
        unwrapped({"module.a": 0, "a": 1})
    flat, config = state_dict(SMALL), infer_adm_config(state_dict(SMALL))
    good = as_i2sb_saves(torch_to_flax(flat, config), config)
    compiled = {**good, "net": {f"_orig_mod.{n}": a for n, a in good["net"].items()}}
    assert_same(import_i2sb(compiled, weights="net")[1], torch_to_flax(flat, config))
