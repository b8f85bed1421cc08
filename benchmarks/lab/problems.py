"""The networks that are measured, with their tasks: full and toy size."""

from __future__ import annotations

from ml_collections import ConfigDict

from jax_bridges import papers
from jax_bridges.choices import look_up
from jax_bridges.config import base_config

DTYPE = "bfloat16"


def adm256(config: ConfigDict, toy: bool) -> None:
    """ADM-256 as I2SB's inpainting has it (553M parameters); the student makes four calls, L = 5."""
    papers.i2sb_inpaint(config)
    if toy:
        small = {"model_channels": 32, "num_res_blocks": 1, "channel_mult": (1, 2)}
        config.network.update(small, attention_ds=(2,), head_channels=16)
        config.data.size = 16
        config.distill.bridge_updates = 1


def unet64(config: ConfigDict, toy: bool) -> None:
    """A 64-pixel UNet of 20M parameters on the default task, L = 3."""
    widths = (8, 8, 8) if toy else (128, 256, 256)
    config.network.update(widths=widths, blocks=1 if toy else 2, patch=2, attention=(1, 2))
    config.data.size = 16 if toy else 64
    config.distill.bridge_updates = 1 if toy else 3


PROBLEMS = {"adm256": adm256, "unet64": unet64}


def make_problem(name: str, toy: bool, images: int, remat: bool = False) -> ConfigDict:
    """The configuration of a problem, every step and call on `images` images at once.

    Args:
      name: a key of PROBLEMS.
      toy: a network of a few thousand parameters, and 2 images instead of 8, 4 instead of more.
      remat: of an ADM.
    """
    config = base_config()
    with config.unlocked():
        look_up("problem", PROBLEMS, name)(config, toy)
        config.network.dtype = DTYPE
        if remat:
            config.network.remat = True
    if toy:
        images = 2 if images <= 8 else 4
    config.evaluate.batch = config.train.batch = config.distill.batch = images
    config.train.microbatches = config.distill.microbatches = 1
    return config
