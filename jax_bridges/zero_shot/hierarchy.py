"""Hierarchical restoration: the picture at low resolution first, with which the rest then agrees."""

from __future__ import annotations

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jax_bridges.bridges import Levels
from jax_bridges.corruptions import (
    Canvas,
    Corrupted,
    InpaintMask,
    LinearOperator,
    SuperResolution,
)
from jax_bridges.keys import ScaleStream, fold
from jax_bridges.typing import Array
from jax_bridges.zero_shot.ddnm import solve_ddnm


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Refinement(LinearOperator):
    """The projector on what `operator` measures and block means say together; A = A^T = A^+.

    What it measures is an image: the one of least norm with the given measurement and means
    (`known`). The two projectors must commute, which `coarsen` sees to: then the joint one is
    P_A + P_D - P_A P_D.

    Attributes:
      operator: linear, of the whole picture.
      factor: side of a block.
      use: `[B or 1, H / factor, W / factor, 1]`, 1 for blocks whose mean counts.
    """

    operator: LinearOperator
    use: chex.Array
    factor: int = dataclasses.field(metadata={"static": True})

    def __call__(self, x0: Array, keys=None) -> Corrupted:
        return Corrupted(self.forward(x0))

    def means(self, x: Array) -> Array:
        """D x: the means `[B, H / factor, W / factor, C]` of the blocks that count, 0 elsewhere."""
        return jnp.where(
            self.use > 0, SuperResolution(kind="pool", factor=self.factor).forward(x), 0
        )

    def enlarge(self, means: Array) -> Array:
        """D^+: the means, repeated over their blocks."""
        return SuperResolution(kind="pool", factor=self.factor).pinv(
            jnp.where(self.use > 0, means, 0)
        )

    def known(self, y: Array, means: Array) -> Array:
        """The image of least norm with A x = y and, as far as that allows, D x = means."""
        x = self.operator.pinv(y)
        x = x + self.enlarge(means - self.means(x))
        return x + self.operator.pinv(y - self.operator.forward(x))

    def forward(self, x: Array) -> Array:
        part = self.operator.project(x)
        return part + self.enlarge(self.means(x - part))

    transpose = pinv = forward

    def spectral_map(self, x: Array, function) -> Array:
        """f(0) outside the range, f(1) in it."""
        none, one = function(jnp.zeros((), x.dtype)), function(jnp.ones((), x.dtype))
        return none * x + (one - none) * self.forward(x)


def coarsen(operator: LinearOperator, y: Array, factor: int) -> tuple[LinearOperator, Array, Array]:
    """The same task for the picture's block means: (operator, y, which means add something).

    Exact: an x with A x = y has block means z with `A_coarse z = y_coarse`.

    Args:
      operator: holes, colour, block means larger than `factor`, or nothing, of the whole picture.
      y: its measurement.
      factor: side of a block; both sides of the picture are multiples of it.

    Returns:
      The third is `use` of `Refinement`: blocks of which a part is known are left to their pixels.

    Raises:
      ValueError: there is no such operator, or a side that does not divide.
    """
    pool = SuperResolution(kind="pool", factor=factor)
    hole = operator.hole(*y.shape[1:3])
    if hole is not None:
        mask = jnp.asarray(hole, y.dtype)
        share = pool.forward(mask)  # of missing pixels
        coarse = InpaintMask(mask=(share > 0).astype(y.dtype))
        # A mean of exact ones is exact for any block of fewer than 2^24 pixels.
        return coarse, coarse.forward(pool.forward(y)), (share == 1).astype(y.dtype)
    if operator.block == 1:  # what is done to each pixel is done to their mean
        y = pool.forward(y)
        return operator, y, jnp.ones((1, *y.shape[1:3], 1), y.dtype)
    if operator.averages:
        if operator.averages % factor == 0 and operator.averages > factor > 1:
            inner = operator.averages // factor
            size = [inner * n for n in y.shape[1:3]]
            coarse = SuperResolution(kind="pool", factor=inner)
            return coarse, y, jnp.ones((1, *size, 1), y.dtype)
        raise ValueError(
            f"Means of {operator.averages}x{operator.averages} pixels are measured, so a coarse picture "
            f"of means of {factor}x{factor} says no more: its factor must divide {operator.averages}, "
            "and be smaller."
        )
    raise ValueError(
        f"{type(operator).__name__} has no counterpart for block means: hierarchical restoration is for "
        "holes (inpaint), colorize, and superres of kind 'pool'."
    )


def solve_hierarchical(
    denoise,
    operator,
    y: Array,
    sigma_y: float | Array,
    times: Levels,
    keys: Array,
    *,
    factor: int = 4,
    least: tuple[int, int] = (1, 1),
    coarse_denoise=None,
    solve=solve_ddnm,
    **knobs,
) -> Array:
    """Large structures first (Wang et al. 2023, arXiv 2303.00354, "hierarchical restoration").

    The picture's means over blocks of `factor` pixels are restored by themselves, at a size where the
    network sees large shapes; then the picture, with those means as a further linear measurement.
    For large holes and factors in pictures of many tiles, which the tiles alone fill each its own way.

    Args:
      denoise: for any size of picture (`tiles.tile_denoiser`).
      operator: see `coarsen`.
      sigma_y: must be 0: block means of noisy numbers are less noisy than they.
      keys: `[B]`; the coarse picture and the other have a stream each (`ScaleStream`).
      least: (h, w) that `denoise` takes at least; a smaller coarse picture gets a margin that is
        made up and cut off.
      coarse_denoise: of the coarse picture; `denoise` by default, as pictures look alike at all scales.
      solve: for both, with `knobs`.
      others: see `ddnm.solve_ddnm`.

    Returns:
      x_0 `[B, H, W, C]`, with A x_0 = y.
    """
    if not isinstance(sigma_y, Tracer) and np.any(np.asarray(sigma_y) != 0):
        raise ValueError(
            f"sigma_y is {sigma_y}: hierarchical restoration takes y for exact, give 0."
        )
    coarse, y_coarse, use = coarsen(operator, y, factor)
    _, height, width, _ = jax.eval_shape(coarse.pinv, y_coarse).shape
    canvas = (max(height, least[0]), max(width, least[1]))
    placed = Canvas(operator=coarse, size=(height, width), canvas=canvas)
    coarse_denoise = denoise if coarse_denoise is None else coarse_denoise
    means = solve(
        coarse_denoise, placed, y_coarse, 0.0, times, fold(keys, ScaleStream.COARSE), **knobs
    )
    means = placed.cut(means)
    both = Refinement(operator=operator, use=use, factor=factor)
    return solve(
        denoise, both, both.known(y, means), 0.0, times, fold(keys, ScaleStream.FINE), **knobs
    )
