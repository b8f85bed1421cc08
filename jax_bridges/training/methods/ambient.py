"""Priors of images with missing pixels: Ambient Diffusion as it is trained (arXiv 2305.19256)."""

from __future__ import annotations

import jax.numpy as jnp

from jax_bridges.bridges import Levels
from jax_bridges.corrupted_losses import ambient_loss
from jax_bridges.corruptions import LinearOperator
from jax_bridges.keys import (
    ONLY,
    FurtherStream,
    Stream,
    fold,
    normal,
    uniform,
)
from jax_bridges.schema import COUNT, Setting, number
from jax_bridges.times import level_time
from jax_bridges.training.methods.prior import Loss, PriorMethod, Task, hides_pixels, name_of
from jax_bridges.training.methods.tweedie import levels_above
from jax_bridges.training.steps import draw_times, time_weight
from jax_bridges.training.system import Pair, System
from jax_bridges.typing import Array, Denoiser
from jax_bridges.zero_shot import Loop, Looped, Solver
from jax_bridges.zero_shot.ambient import agreement, sample_ambient, solve_adps
from jax_bridges.zero_shot.diffusion import calls_of

# fmt: off
SETTINGS = (
    Setting("delta", 0.1, number(above=0, below=1), "Ambient Diffusion: share of the known pixels that are "
            "hidden from the network as well, drawn anew at every step."),
    Setting("masks", 1, COUNT, "Masks under which its sampler asks for an image; the first one's answers "
            "lead."),
    Setting("guidance", 0.0, number(least=0), "How strongly the answers under the others pull at it."),
    Setting("scale", 5.0, number(above=0), "A-DPS: how far a step moves against the misfit of y."),
)
# fmt: on


def further(kept: Array, delta: float, keys: Array) -> Array:
    """A' = B A: of the known pixels `kept` `[B, H, W, C]` a share `delta` is hidden, in all channels."""
    stays = uniform(keys, ONLY, kept.shape[1:3])[..., None] >= delta
    return kept * stays


def _make(system: System, train, settings, task: Task) -> Loss:
    bridge = system.bridge
    least = level_time(bridge, task.sigma_y)

    def loss(denoise: Denoiser, pair: Pair, step: Array) -> Array:
        del step
        t = jnp.maximum(draw_times(system, train, pair), least)
        weight = time_weight(system, train.weight, train.weight_max, t)
        noise = normal(fold(pair.keys, Stream.NOISE), ONLY, pair.x0)
        seen = further(pair.xT, settings.delta, fold(pair.keys, Stream.FURTHER))
        return ambient_loss(denoise, bridge, pair.x0, pair.xT, seen, t, noise, weight, task.sigma_y)

    return loss


def sampling_masks(like: Array, keys: Array, settings, task: Task) -> Array:
    """`[k, B, H, W, C]`: masks as the network saw them in training, of the task's law and further."""

    def one(k: int) -> Array:
        own = fold(keys, k)
        drawn = task.corruption(jnp.zeros_like(like), fold(own, FurtherStream.MASK)).mask
        assert drawn is not None  # `_check` has seen to it
        kept = jnp.broadcast_to(1.0 - drawn, like.shape)
        return further(kept, settings.delta, fold(own, FurtherStream.MORE))

    return jnp.stack([one(k) for k in range(settings.masks)])


def _drawn(like: Array, keys: Array, settings, task: Task) -> tuple[Array, Array]:
    """Masks, and the keys of the sampler."""
    masks = sampling_masks(like, fold(keys, FurtherStream.MASKS), settings, task)
    return masks, fold(keys, FurtherStream.STEPS)


def _sample(denoise: Denoiser, like: Array, levels: Levels, keys: Array, settings, task: Task):
    seen, keys = _drawn(like, keys, settings, task)
    misfit = agreement(settings.guidance) if settings.masks > 1 else None
    return sample_ambient(denoise, seen, levels, keys, misfit=misfit)


@Looped
def _solve(
    denoise: Denoiser,
    operator: LinearOperator,
    y: Array,
    sigma_y: float,
    times: Levels,
    keys: Array,
    *,
    settings,
    task: Task,
) -> Loop:
    """`solve_adps` with a mask of its own for each image."""
    seen, keys = _drawn(operator.transpose(y), keys, settings, task)
    return solve_adps.loop(
        denoise, operator, y, sigma_y, times, keys, seen=seen[:1], scale=settings.scale
    )


def _check(settings, task: Task) -> None:
    if not hides_pixels(task):
        raise ValueError(
            "em.baselines has 'ambient', which learns from images that lack pixels, other ones in each, and "
            f"{name_of(task.corruption)} does not make such: leave it out, or take inpaint_random."
        )
    if settings.guidance and settings.masks < 2:
        raise ValueError(
            f"em.ambient.guidance is {settings.guidance} with em.ambient.masks {settings.masks}: answers "
            "under other masks pull at the first one's, so set masks to 2 or more, or guidance to 0."
        )


AMBIENT = PriorMethod(
    "ambient",
    make=_make,
    check=_check,
    calls=3,
    settings=SETTINGS,
    told=True,
    sample=_sample,
    solver=Solver("adps", _solve, gradient=True, calls=lambda levels, **_: calls_of(levels)),
    levels=levels_above,
)
