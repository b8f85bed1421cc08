"""Priors of noisy images by Tweedie's formula: the first half of Daras et al. 2024 (arXiv 2404.10177)."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from jax_bridges.bridges import Bridge, Levels
from jax_bridges.corrupted_losses import tweedie_loss
from jax_bridges.keys import ONLY, Stream, fold, normal
from jax_bridges.times import level_time
from jax_bridges.training.methods.prior import Loss, PriorMethod, Task, name_of, sees_all
from jax_bridges.training.steps import draw_times, time_weight
from jax_bridges.training.system import Pair, System
from jax_bridges.typing import Array, Denoiser


def levels_above(bridge: Bridge, levels: Levels, sigma_y: float) -> Levels:
    """The levels with at least the noise of y, then the clean image.

    Below it nothing was trained, so that the last prediction is made at y's own noise.
    """
    del bridge
    alpha, sigma = (np.asarray(v) for v in (levels.alpha, levels.sigma))
    kept = sigma >= sigma_y * alpha * (1 - 1e-6)
    kept[-1] = True
    return Levels(*(np.asarray(v)[kept] for v in levels))


def _make(system: System, train, settings, task: Task) -> Loss:
    del settings
    bridge = system.bridge
    least = level_time(bridge, task.sigma_y)

    def loss(denoise: Denoiser, pair: Pair, step: Array) -> Array:
        del step
        t = jnp.maximum(draw_times(system, train, pair), least)
        weight = time_weight(system, train.weight, train.weight_max, t)
        noise = normal(fold(pair.keys, Stream.NOISE), ONLY, pair.x0)
        return tweedie_loss(denoise, bridge, pair.x0, t, noise, weight, task.sigma_y)

    return loss


def check_noise_alone(name: str, task: Task) -> None:
    """ValueError where `name`, which learns from noisy images, is given others, or ones without noise."""
    if not sees_all(task) or not task.sigma_y > 0:
        raise ValueError(
            f"em.baselines has '{name}', which learns from whole images under noise, and here they are seen "
            f"through {name_of(task.corruption)} with em.sigma_y {task.sigma_y:g}: leave it out, or take "
            "the corruption identity and a sigma_y above 0."
        )


TWEEDIE = PriorMethod(
    "tweedie",
    make=_make,
    check=lambda settings, task: check_noise_alone("tweedie", task),
    calls=3,
    settings=(),
    levels=levels_above,
)
