"""Ambient Diffusion's samplers: a prior that was taught to look at parts of images, asked for whole ones.

Its denoiser `denoise(A' x_t, t, A')` is told by x_T which pixels it sees (`corrupted_losses.ambient_loss`).
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jax_bridges.bridges import Levels
from jax_bridges.corruptions import LinearOperator
from jax_bridges.keys import Keys
from jax_bridges.typing import Array, Denoiser
from jax_bridges.zero_shot.diffusion import Level, diffusion_loop
from jax_bridges.zero_shot.loop import Loop, Looped

Misfit = Callable[[Array], Array]  # of answers [k, B, H, W, C] to one number for each image, [B]


@Looped
def sample_ambient(
    denoise: Denoiser,
    seen: Array,
    times: Levels,
    keys: Keys,
    *,
    misfit: Misfit | None = None,
    clip: bool = True,
) -> Loop:
    """Images `[B, H, W, C]` by the "fixed mask" sampler (Daras et al. 2023, arXiv 2305.19256, sec. 3.3).

    Heun's method on the probability-flow ODE of `denoise(A' x_t, t, A')`, with the same A' all along. The
    answer is the last prediction: on pixels that A' hides a conditional mean, and no sample.

    Args:
      denoise: `x0_hat = denoise(x_t, t, x_T)`, told A' as x_T.
      seen: `[k, B, H, W, C]`, k masks A' for each image, 1 where it is seen; the first one's answers
        lead, the others' are for `misfit`.
      times: levels; 2 n - 1 steps with k calls each of n levels above the clean image.
      keys: draw 0 is x_T's noise.
      misfit: of the k answers `[k, B, H, W, C]`, `[B]`; every call moves against its gradient as well.
      clip: clamps answers to [-1, 1], as the released code does.
    """

    def answers(x: Array, level: Level) -> Array:
        x0 = jnp.stack([denoise(mask * x, level.t, mask) for mask in seen])
        return jnp.clip(x0, -1.0, 1.0) if clip else x0

    if misfit is None:
        return diffusion_loop(lambda x, level: answers(x, level)[0], seen[0], times, keys)

    def wrong(x: Array, level: Level) -> tuple[Array, Array]:
        x0 = answers(x, level)
        return misfit(x0).sum(), x0[0]

    def pulled(x: Array, level: Level) -> Array:
        """The answer by which a step of this length moves x / alpha by minus the gradient besides."""
        slope, x0 = jax.grad(wrong, has_aux=True)(x, level)
        return x0 + level.sigma / level.down * slope

    return diffusion_loop(pulled, seen[0], times, keys)


def agreement(scale: float) -> Misfit:
    """`scale / 2` times the squares by which answers to other masks differ from the first one's (its
    "reconstruction guidance")."""
    return lambda x0: 0.5 * scale * jnp.sum((x0[:1] - x0[1:]) ** 2, axis=(0, 2, 3, 4))


@Looped
def solve_adps(
    denoise: Denoiser,
    operator: LinearOperator,
    y: Array,
    sigma_y: float | Array,
    times: Levels,
    keys: Keys,
    *,
    seen: Array,
    scale: float = 5.0,
) -> Loop:
    """x_0 `[B, H, W, C]` of y by Ambient DPS (Aali et al. 2024, arXiv 2403.08728).

    `sample_ambient`, of which every call moves against `scale` times the gradient of `|A x0_hat - y|`
    too, the norm of each image by itself.

    Args:
      sigma_y: not used, as in `solve_dps`: the scale stands for it.
      seen: as of `sample_ambient`; it need not be what y measures.
      others: see `ddnm.solve_ddnm`.
    """
    del sigma_y

    def misfit(x0: Array) -> Array:
        square = jnp.sum((operator.forward(x0[0]) - y) ** 2, axis=(1, 2, 3))
        some = square > 0
        return scale * jnp.where(some, jnp.sqrt(jnp.where(some, square, 1.0)), 0.0)

    return sample_ambient.loop(denoise, seen, times, keys, misfit=misfit)
