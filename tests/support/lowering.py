"""What the tests of lowering share: programs for GPUs and TPUs, traced on shapes, of toy networks."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from jax_bridges.models.attention import attend
from jax_bridges.planning.abstract import (
    abstract_arguments,
    abstract_params,
    abstract_run,
)
from jax_bridges.platforms import aim_at
from jax_bridges.stages.distill import distill
from jax_bridges.stages.train import train
from jax_bridges.training.parallel import Parallel
from tests.support.runs import tiny

HOPPER = ("cuda", (9, 0))
# dtype of the network, what is aimed at, what is lowered for
PLATFORMS = {
    "float32": ("float32", HOPPER, ("cuda", "tpu")),
    "bfloat16 on cuda": ("bfloat16", HOPPER, ("cuda",)),
    "bfloat16 on tpu": ("bfloat16", ("tpu",), ("tpu",)),
}
each_platform = pytest.mark.parametrize("platform", PLATFORMS)
KEY = jax.eval_shape(lambda: jax.random.key(0))
CUDNN = "__cudnn$fmha"  # how its custom calls begin


class Toy(nn.Module):
    """A convolution, an attention, a projection."""

    dtype: Any
    conditional: bool
    z_channels: int = 0
    mark_channels: int = 0
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x, c_noise, xT=None, z=None, y=None, train=False, mark=None):
        conv = partial(nn.Conv, 8, (3, 3), (4, 4), dtype=self.dtype)
        h = conv()(jnp.concatenate([x, xT], -1) if self.conditional else x)
        h += conv(name="z_in")(z) if self.z_channels else 0
        h += nn.Dense(8, name="mark_in")(mark)[:, None, None] if self.mark_channels else 0
        h = h * jnp.cos(c_noise)[:, None, None, None].astype(self.dtype)
        q = h.reshape(len(x), -1, 1, 8)
        h = attend(q, q, q).reshape(h.shape)
        return jnp.repeat(jnp.repeat(nn.Dense(3)(h), 4, 1), 4, 2)


class Jitted(Parallel):
    """One device, with samplers as they are compiled, not as they are called."""

    def map(self, function):
        return jax.jit(function)


def abstract(dtype, toy=True, **changes):
    """A run to be traced, of the smallest networks with attention."""
    small = {"network.widths": (32,), "network.attention": (0,), "network.dtype": dtype}
    run = abstract_run(tiny(".", **small, **changes), Jitted.create("fsdp"))
    if toy:
        system = run.system
        dtype, sees = system.teacher.dtype, system.teacher.conditional
        made = {
            player: net
            if player == "critic"  # small as it is
            else Toy(dtype, sees, net.z_channels, net.mark_channels)
            for player, net in system.networks.items()
        }
        run.system = dataclasses.replace(system, networks=made)
    return run


def lowered(platform: str, program) -> str:
    """The text of `program(dtype) -> (jitted, arguments)`, with the attention that belongs there."""
    dtype, aim, platforms = PLATFORMS[platform]
    with aim_at(*aim):
        function, arguments = program(dtype)
        text = function.trace(*arguments).lower(lowering_platforms=platforms).as_text()
    assert (CUDNN in text) is (platform == "bfloat16 on cuda")
    return text


def weights(run, player="teacher"):
    return abstract_params(run.system, player)


def step_of(run, stage):
    """The step of "train" or "distill" and the shapes of its arguments."""
    made = train(run) if stage == "train" else distill(run, weights(run))
    return made.step, abstract_arguments(run, made)


ADM = {
    "name": "adm", "model_channels": 32, "num_res_blocks": 1, "channel_mult": (1,), "attention_ds": (),
    "head_channels": 32, "dropout": 0.1, "remat": True, "conditional": True,
}  # fmt: skip
PRIOR = {
    "bridge": {"name": "ddpm"}, "preconditioning": {"name": "epsilon"}, "keep_known": False,
    "corruption": {"name": "identity"}, "network.conditional": False,
}  # fmt: skip
