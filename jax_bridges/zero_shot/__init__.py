"""Zero-shot restoration: one unconditional diffusion model, any known linear corruption.

`SOLVERS[name].solve(denoise, operator, y, sigma_y, times, keys, **knobs)` estimates x_0 `[B, H, W, C]`
from y = A x_0 + noise, where `denoise(x_t, t)` predicts x_0, `operator` is a linear corruption
(`jax_bridges.corruptions`), `times` are noise levels (`bridges.DDPM.levels`, `bridges.EDM.levels`) and
sigma_y is in units of images in [-1, 1]. A solver knows no network and no schedule.
"""

from __future__ import annotations

from jax_bridges.zero_shot.daps import solve_daps
from jax_bridges.zero_shot.ddnm import ShippedBasis, solve_ddnm, solve_ddnm_plus
from jax_bridges.zero_shot.ddnm_simple import solve_ddnm_simple
from jax_bridges.zero_shot.ddrm import solve_ddrm
from jax_bridges.zero_shot.diffpir import solve_diffpir
from jax_bridges.zero_shot.diffusion import sample_diffusion
from jax_bridges.zero_shot.dps import solve_dps
from jax_bridges.zero_shot.guidance import guided_denoiser
from jax_bridges.zero_shot.hierarchy import Refinement, coarsen, solve_hierarchical
from jax_bridges.zero_shot.ilvr import solve_ilvr
from jax_bridges.zero_shot.latent_search import solve_latent_search
from jax_bridges.zero_shot.loop import Loop, Looped, apart, loop_here
from jax_bridges.zero_shot.methods import Method, applicable, make_method, settings_of
from jax_bridges.zero_shot.mmps import posterior_denoiser, solve_mmps
from jax_bridges.zero_shot.pigdm import solve_pigdm
from jax_bridges.zero_shot.pinv import solve_pinv
from jax_bridges.zero_shot.repaint import solve_repaint
from jax_bridges.zero_shot.sdedit import solve_sdedit
from jax_bridges.zero_shot.solvers import SOLVERS, Solver, make_solver
from jax_bridges.zero_shot.steps import Steps, count_calls, jump_schedule, measure, walk
from jax_bridges.zero_shot.tiles import solve_mask_shift, tile_denoiser, tile_starts

__all__ = [
    "SOLVERS",
    "Loop",
    "Looped",
    "Method",
    "Refinement",
    "ShippedBasis",
    "Solver",
    "Steps",
    "apart",
    "applicable",
    "coarsen",
    "count_calls",
    "guided_denoiser",
    "jump_schedule",
    "loop_here",
    "make_method",
    "make_solver",
    "measure",
    "posterior_denoiser",
    "sample_diffusion",
    "settings_of",
    "solve_daps",
    "solve_ddnm",
    "solve_ddnm_plus",
    "solve_ddnm_simple",
    "solve_ddrm",
    "solve_diffpir",
    "solve_dps",
    "solve_hierarchical",
    "solve_ilvr",
    "solve_latent_search",
    "solve_mask_shift",
    "solve_mmps",
    "solve_pigdm",
    "solve_pinv",
    "solve_repaint",
    "solve_sdedit",
    "tile_denoiser",
    "tile_starts",
    "walk",
]
