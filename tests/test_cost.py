"""Operations counted from what is traced: closed forms, XLA's count where it has one, every network."""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from jax_bridges.config import base_config
from jax_bridges.models import mask_input
from jax_bridges.models.adm import ADM_PRESETS
from jax_bridges.models.attention import attend
from jax_bridges.planning.abstract import (
    abstract_arguments,
    abstract_params,
    abstract_run,
    call_flops,
)
from jax_bridges.planning.cost import count_flops
from jax_bridges.platforms import aim_at
from jax_bridges.stages.distill import distill
from jax_bridges.training.parallel import Parallel
from jax_bridges.training.system import System
from tests.support.config_files import CONFIGS, load, read
from tests.support.toy import small_config


def shape(*sizes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(sizes, dtype)


def by_xla(function, *args) -> float:
    return jax.jit(function).lower(*args).cost_analysis().get("flops", 0.0)


X = shape(8, 16)


# -- closed forms ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "function, args, expected",
    [
        (lambda a, b: a @ b, (shape(3, 5), shape(5, 7)), 2 * 3 * 5 * 7),
        (lambda x: jnp.einsum("bij,bjk->bik", x, x), (shape(2, 4, 4),), 2 * 2 * 4**3),
        (lambda x: x + 2 * x, (X,), 2 * 128),
        (lambda x: x**-3, (X,), 3 * 128),
        (jnp.sum, (X,), 127),
        (lambda x: x.max(0), (X,), 128 - 16),
        (lambda x: x.T.reshape(2, -1)[:, ::3], (X,), 0),
        (jnp.exp, (X,), 0),
        (jax.nn.sigmoid, (X,), 3 * 128),
        (lambda key: jax.random.bits(key, (8,)), (jax.eval_shape(lambda: jax.random.key(0)),), 0),
        (partial(nn.max_pool, window_shape=(2, 2), strides=(2, 2)), (shape(1, 8, 8, 3),), 48 * 3),
        # Functions in functions, each once.
        (jax.jit(lambda x: jax.jit(jnp.negative)(x) * x), (X,), 2 * 128),
        (jax.checkpoint(lambda x: x + x), (X,), 128),
        (jax.nn.relu, (X,), 128),  # custom_jvp
        # Loops as often as they turn, the dearest branch, one turn of a loop whose length is unknown.
        (lambda x: jax.lax.scan(lambda c, _: (c * c + x, c), x, length=5), (X,), 5 * 2 * 128),
        (lambda x: jax.lax.map(lambda row: row + row, x), (X,), 128),
        (lambda x: jax.lax.cond(x[0, 0] > 0, lambda: x + 1, lambda: x * x + x), (X,), 2 * 128 + 2),
        (lambda x: jax.lax.while_loop(lambda c: c[0, 0] < 9, lambda c: c + c, x), (X,), 128 + 1),
    ],
)  # fmt: skip
def test_closed_forms(function, args, expected):
    assert count_flops(function, *args) == expected


def test_a_backward_pass_is_two_more_products():
    """Of a chain of layers; the first needs no gradient for its input."""
    w, x = [shape(16, 16)] * 4, shape(8, 16)
    product = 2 * 8 * 16 * 16

    def loss(w, x):
        for each in w:
            x = x @ each
        return x.sum()

    assert count_flops(loss, w, x) == 4 * product + 127
    assert count_flops(jax.grad(loss), w, x) == pytest.approx((4 + 4 + 3) * product, rel=0.02)


def test_every_device_of_a_shard_map_counts():
    automatic = (jax.sharding.AxisType.Auto,)
    mesh = jax.sharding.AbstractMesh((4,), ("data",), axis_types=automatic)
    spread = jax.shard_map(
        lambda x: x * x, mesh=mesh, in_specs=jax.P("data"), out_specs=jax.P("data")
    )
    assert count_flops(spread, X) == 128


# -- XLA's count, to the last operation --------------------------------------------------------------
CONVOLUTIONS = {
    "valid": dict(padding="VALID"),
    "same": dict(padding="SAME"),
    "strided": dict(padding=((1, 1), (1, 1)), window_strides=(2, 3)),
    "dilated": dict(padding=((3, 2), (0, 4)), rhs_dilation=(2, 1)),
    "transposed": dict(padding=((2, 2), (1, 2)), lhs_dilation=(2, 3)),
    "grouped": dict(padding="SAME", feature_group_count=2),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name):
    """And both of their gradients, which are convolutions too. Products with padding do not count."""
    settings = {"window_strides": (1, 1), **CONVOLUTIONS[name]}
    channels = 4 // settings.get("feature_group_count", 1)
    args = shape(2, 9, 10, 4), shape(3, 3, channels, 6)

    def convolve(x, kernel):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, dimension_numbers=numbers, **settings)

    def both(x, kernel, cotangent):
        return jax.vjp(convolve, x, kernel)[1](cotangent)

    assert count_flops(convolve, *args) == by_xla(convolve, *args) > 0
    args = (*args, jax.eval_shape(convolve, *args))
    backward = count_flops(both, *args) - count_flops(convolve, *args[:2])
    assert backward == by_xla(both, *args) > 0


def call_of(config):
    """The teacher's call on one image, and its arguments, as `call_flops` counts it."""
    system = System.create(config)

    def call(params, x, t, label):
        told = mask_input(system.teacher, x[..., :1])
        return system.teacher.apply({"params": params}, x, t, x, None, label, **told)

    params = abstract_params(system, "teacher")
    image = shape(1, *system.size, system.channels)
    return call, (params, image, shape(1), shape(1, dtype=jnp.int32))


SMALL_ADM = {
    "name": "adm", "model_channels": 32, "num_res_blocks": 1, "channel_mult": (1, 2), "attention_ds": (2,),
    "head_channels": 32,
}  # fmt: skip
SHALLOW = {
    "adm": {"network": SMALL_ADM},
    "plain": {"network": {**SMALL_ADM, "resblock_updown": False}},
}
SHALLOW["attention"] = {"network.attention": (1, 2), "network.dtype": "bfloat16"}


@pytest.mark.parametrize("name", SHALLOW)
def test_small_networks(name):
    config = base_config()
    config.update_from_flattened_dict(SHALLOW[name])
    call, arguments = call_of(config)
    assert count_flops(call, *arguments) == pytest.approx(by_xla(call, *arguments), rel=1e-3)


def networks() -> dict[str, str]:
    """Every network of configs/, by what it is -> the first row that has it, as "FILE:VARIANT"."""
    found = {}
    for path in sorted(CONFIGS.glob("*.py")):
        for variant in ("", *getattr(load(path.stem), "VARIANTS", ())):
            config = read(f"{path.stem}:{variant}")
            network = config.network.to_dict() | {"size": config.data.size}
            found.setdefault(repr(sorted(network.items())), f"{path.stem}:{variant}")
    return found


ROWS = list(networks().values())


def test_every_network_of_the_papers_is_among_the_rows():
    presets = {
        "i2sb256",
        "ddbm_e2h64",
        "ddbm_diode256",
        "dbim_inpaint256",
        "adm256_uncond",
        "adm256_cond",
    }
    assert presets == set(ADM_PRESETS)
    for preset in ADM_PRESETS.values():
        wanted = preset.items()
        assert any(wanted <= read(row).network.to_dict().items() for row in ROWS), preset


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, marks=[pytest.mark.slow] if read(row).network.name == "adm" else [])
        for row in ROWS
    ],
)
def test_networks_of_the_rows(row):
    config = read(row)
    call, arguments = call_of(config)
    assert call_flops(System.create(config)) == pytest.approx(by_xla(call, *arguments), rel=0.01)


# -- on an accelerator -------------------------------------------------------------------------------
@pytest.mark.usefixtures("a_cudnn")
def test_cudnns_attention_counts_as_xlas():
    q, k = shape(2, 64, 4, 32, dtype=jnp.bfloat16), shape(2, 256, 4, 32, dtype=jnp.bfloat16)
    with aim_at("cuda", (9, 0)):
        counted = count_flops(lambda q, k: attend(q, k, k, "cudnn"), q, k)
    assert counted == pytest.approx(
        count_flops(lambda q, k: attend(q, k, k, "xla"), q, k), rel=0.01
    )


def test_a_step_counts_the_same_with_loops_and_without():
    changes = {"network.widths": (8,), "distill.microbatches": 2, "distill.student_steps": 1}
    found = {}
    for platform in ("cpu", "any"):
        with aim_at(platform):
            run = abstract_run(small_config(**changes), Parallel.create("fsdp"))
            stage = distill(run, abstract_params(run.system, "teacher"))
            found[platform] = count_flops(stage.step, *abstract_arguments(run, stage))
    assert found["cpu"] == pytest.approx(found["any"], rel=1e-3)
