"""A toy for the tests of training: a system whose networks compile in no time, and its data."""

from __future__ import annotations

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jax_bridges.config import base_config
from jax_bridges.training.system import System


def optimizer_config(**changes) -> ConfigDict:
    return ConfigDict(
        {
            **dict(name="adam", learning_rate=1e-2, schedule="constant", delay=0.0, warmup=0),
            **dict(b1=0.9, b2=0.99, eps=1e-8, weight_decay=0.0, clip=0.0),
            **changes,
        }
    )


def compiled(step):
    """A step for one device."""
    return jax.jit(step, static_argnums=4)


def same(tree):
    """`mean` on one device."""
    return tree


def leaves_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


class Pointwise(nn.Module):
    """An MLP on single values of (x_t, t[, x_T]) and on all of z, which has a kernel of its own."""

    conditional: bool = False
    z_channels: int = 0
    mark_channels: int = 0
    dropout: float = 0.0
    width: int = 32

    @nn.compact
    def __call__(self, x, c_noise, xT=None, z=None, label=None, train=False, mark=None):
        t = jnp.broadcast_to((c_noise / 1000.0).reshape(-1, 1, 1, 1), x.shape)
        parts = [x, t, jnp.sqrt(t)] + ([xT] if self.conditional else [])
        h = nn.Dense(self.width, name="first")(jnp.stack(parts, axis=-1))
        if self.z_channels:
            zero = nn.initializers.zeros
            extra = nn.Dense(self.width, use_bias=False, kernel_init=zero, name="z_in")(z)
            h += extra[..., None, :]
        if self.mark_channels:
            told = nn.Dense(
                self.width, use_bias=False, kernel_init=nn.initializers.zeros, name="mark_in"
            )
            h += told(mark)[:, None, None, None, :]
        h = nn.tanh(nn.Dense(self.width, name="second")(nn.tanh(h)))
        return nn.Dense(1, name="last")(h)[..., 0]


def small_config(**changes) -> ConfigDict:
    """A tiny run with every choice that these tests compute by hand, whatever the defaults are."""
    config = base_config()
    config.corruption = ConfigDict({"name": "inpaint_center", "fill": "noise"})
    config.bridge = ConfigDict({"name": "i2sb", "beta_max": 3.0})
    config.preconditioning = ConfigDict({"name": "i2sb"})
    config.network.conditional = False
    config.train.update(dict(times="uniform", weight="native", weight_max=0.0))
    config.distill.update(
        dict(
            weight="one", weight_max=0.0, bridge_weight="native", bridge_weight_max=0.0, bridge_ema=0.95,
            times="uniform", normalize=True, roll_out="random", student_steps=4, z_channels=3,
            detach_xt=False, call_per="example",
        )
    )  # fmt: skip
    config.data.size = 8
    config.network.update(dict(widths=(8, 8), patch=2, groups=2))
    config.distill.bridge_updates = 2
    config.distill.batch = config.train.batch = 4
    config.update_from_flattened_dict(changes)
    return config


def small_system(config=None) -> System:
    """Centre inpainting of 8x8 images with pointwise networks."""
    return pointwise(System.create(config or small_config()), width=8)


def pointwise(system: System, width: int) -> System:
    """The system with pointwise networks of the same inputs, and its critic if it has one."""
    made = {
        player: Pointwise(width=width, z_channels=net.z_channels, mark_channels=net.mark_channels)
        for player, net in system.networks.items()
        if player != "critic"
    }
    made = system.networks | made
    return dataclasses.replace(system, networks=made)


@functools.lru_cache(maxsize=8)
def random_params(net, seed=0):
    """Parameters that are random all over, without running an initialiser."""
    rng = np.random.default_rng(seed)
    image, z = jnp.zeros((1, 8, 8, 3)), jnp.zeros((1, 8, 8, net.z_channels))
    mark = {"mark": jnp.zeros((1, n))} if (n := getattr(net, "mark_channels", 0)) else {}
    shapes = jax.eval_shape(
        lambda: net.init(jax.random.key(0), image, jnp.zeros(1), image, z, **mark)["params"]
    )
    return jax.tree.map(lambda s: np.float32(0.4 * rng.normal(size=s.shape)), shapes)


def zero_z(net):
    """What `net.init` gives where it matters here: inputs of zeros, of noise and marks."""
    params = random_params(net, seed=1)
    zero = {
        k: jax.tree.map(np.zeros_like, v) for k, v in params.items() if k in ("z_in", "mark_in")
    }
    return params | zero


def image_batch(count, start=0, paired=False, seed=0, size=8):
    """uint8 images of draws start .. start + count: the same draw is the same image."""
    images = np.stack(
        [
            np.random.default_rng([seed, i]).integers(0, 256, (size, size, 3), dtype=np.uint8)
            for i in range(start, start + count)
        ]
    )
    batch = {"x0": images, "index": np.arange(start, start + count, dtype=np.uint32)}
    return batch | ({"xT": 255 - images} if paired else {})
