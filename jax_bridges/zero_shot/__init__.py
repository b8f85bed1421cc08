"""Zero-shot restoration: one unconditional diffusion model, any known linear corruption.

`SOLVERS[name].solve(denoise, operator, y, sigma_y, times, keys, **knobs)` estimates x_0 `[B, H, W, C]`
from y = A x_0 + noise, where `denoise(x_t, t)` predicts x_0, `operator` is a linear corruption
(`jax_bridges.corruptions`), `times` are noise levels (`bridges.DDPM.levels`, `bridges.EDM.levels`) and
sigma_y is in units of images in [-1, 1]. A solver knows no network and no schedule.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from jax_bridges.choices import look_up
from jax_bridges.zero_shot.ddnm import solve_ddnm, solve_ddnm_plus
from jax_bridges.zero_shot.ddnm_simple import solve_ddnm_simple
from jax_bridges.zero_shot.ddrm import solve_ddrm
from jax_bridges.zero_shot.dps import solve_dps
from jax_bridges.zero_shot.guidance import guided_denoiser
from jax_bridges.zero_shot.hierarchy import Refinement, coarsen, solve_hierarchical
from jax_bridges.zero_shot.ilvr import solve_ilvr
from jax_bridges.zero_shot.pigdm import solve_pigdm
from jax_bridges.zero_shot.pinv import solve_pinv
from jax_bridges.zero_shot.repaint import solve_repaint
from jax_bridges.zero_shot.sdedit import solve_sdedit
from jax_bridges.zero_shot.shipped import ShippedBasis, shipped_basis
from jax_bridges.zero_shot.steps import Steps, count_calls, jump_schedule, measure, walk
from jax_bridges.zero_shot.tiles import solve_mask_shift, tile_denoiser, tile_starts


@dataclasses.dataclass(frozen=True)
class Solver:
    """A method and what it asks for.

    Attributes:
      name: key in SOLVERS.
      solve: `solve(denoise, operator, y, sigma_y, times, keys, **knobs)`.
      noise: it models noise in y; the others take y for exact.
      gradient: it differentiates through the network, which costs about three calls each.
      mask_only: it is made for inpainting.
    """

    name: str
    solve: Callable
    noise: bool = False
    gradient: bool = False
    mask_only: bool = False


_ENTRIES = [
    Solver("pinv", solve_pinv),
    Solver("ddnm", solve_ddnm),
    Solver("ddnm_plus", solve_ddnm_plus, noise=True),
    Solver("ddnm_simple", solve_ddnm_simple, noise=True),
    Solver("ddrm", solve_ddrm, noise=True),
    Solver("pigdm", solve_pigdm, noise=True, gradient=True),
    Solver("dps", solve_dps, gradient=True),
    Solver("repaint", solve_repaint, mask_only=True),
    Solver("ilvr", solve_ilvr),
    Solver("sdedit", solve_sdedit),
]
SOLVERS = {entry.name: entry for entry in _ENTRIES}


def make_solver(name: str) -> Solver:
    """The solver called `name`; an unknown name is a ValueError that lists the known ones."""
    return look_up("zero-shot solver", SOLVERS, name)


__all__ = [
    "SOLVERS",
    "Refinement",
    "ShippedBasis",
    "Solver",
    "Steps",
    "coarsen",
    "count_calls",
    "guided_denoiser",
    "jump_schedule",
    "make_solver",
    "measure",
    "shipped_basis",
    "solve_ddnm",
    "solve_ddnm_plus",
    "solve_ddnm_simple",
    "solve_ddrm",
    "solve_dps",
    "solve_hierarchical",
    "solve_ilvr",
    "solve_mask_shift",
    "solve_pigdm",
    "solve_pinv",
    "solve_repaint",
    "solve_sdedit",
    "tile_denoiser",
    "tile_starts",
    "walk",
]
