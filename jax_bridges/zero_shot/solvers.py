"""The table of solvers: what each is called and what it asks for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from jax_bridges.choices import look_up
from jax_bridges.zero_shot.daps import solve_daps
from jax_bridges.zero_shot.ddnm import solve_ddnm, solve_ddnm_plus
from jax_bridges.zero_shot.ddnm_simple import solve_ddnm_simple
from jax_bridges.zero_shot.ddrm import solve_ddrm
from jax_bridges.zero_shot.diffpir import solve_diffpir
from jax_bridges.zero_shot.diffusion import calls_of
from jax_bridges.zero_shot.dps import solve_dps
from jax_bridges.zero_shot.ilvr import solve_ilvr
from jax_bridges.zero_shot.latent_search import solve_latent_search
from jax_bridges.zero_shot.mmps import solve_mmps
from jax_bridges.zero_shot.pigdm import solve_pigdm
from jax_bridges.zero_shot.pinv import solve_pinv
from jax_bridges.zero_shot.repaint import solve_repaint
from jax_bridges.zero_shot.sdedit import solve_sdedit
from jax_bridges.zero_shot.steps import Travel, count_calls


def _walked(levels: int, travel: Travel = (1, 1), repeats: int = 1, **_) -> int:
    return count_calls(levels, travel) * repeats


@dataclasses.dataclass(frozen=True)
class Solver:
    """A method and what it asks for.

    Attributes:
      name: key in SOLVERS.
      solve: `solve(denoise, operator, y, sigma_y, times, keys, **knobs)`.
      noise: it models noise in y; the others take y for exact.
      gradient: it differentiates through the network, which costs about three calls each.
      mask_only: it is made for inpainting.
      narrow: it visits levels from sigma / alpha = 10 to 0.01 alone (`bridges.Diffusion.narrow_levels`).
      calls: `calls(levels, **knobs)`, network calls an image that visits so many noise levels.
      levels: that it visits where nothing is said; None: as many as the others.
    """

    name: str
    solve: Callable
    noise: bool = False
    gradient: bool = False
    mask_only: bool = False
    narrow: bool = False
    calls: Callable[..., int] = _walked
    levels: int | None = None


# fmt: off
_ENTRIES = [
    Solver("pinv", solve_pinv, calls=lambda levels, **_: 0),
    Solver("ddnm", solve_ddnm),
    Solver("ddnm_plus", solve_ddnm_plus, noise=True),
    Solver("ddnm_simple", solve_ddnm_simple, noise=True),
    Solver("ddrm", solve_ddrm, noise=True),
    Solver("pigdm", solve_pigdm, noise=True, gradient=True),
    Solver("dps", solve_dps, gradient=True),
    Solver(
        "mmps", solve_mmps, noise=True, gradient=True, narrow=True,
        calls=lambda levels, order, **_: calls_of(levels, order),
    ),
    Solver("diffpir", solve_diffpir, noise=True),
    Solver(
        "daps",
        solve_daps,
        noise=True,
        calls=lambda levels, ode_steps, **_: levels * ode_steps,
        levels=20,
    ),
    Solver(
        "latent_search",
        solve_latent_search,
        gradient=True,
        calls=lambda levels, iterations, **_: levels * (iterations + 1),
        levels=3,
    ),
    Solver("repaint", solve_repaint, mask_only=True),
    Solver("ilvr", solve_ilvr),
    Solver("sdedit", solve_sdedit),
]
# fmt: on
SOLVERS = {entry.name: entry for entry in _ENTRIES}


def make_solver(name: str) -> Solver:
    """The solver called `name`; an unknown name is a ValueError that lists the known ones."""
    return look_up("zero-shot solver", SOLVERS, name)
