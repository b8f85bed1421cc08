"""The table of solvers: what each is called and what it asks for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from jax_bridges.choices import look_up
from jax_bridges.zero_shot.ddnm import solve_ddnm, solve_ddnm_plus
from jax_bridges.zero_shot.ddnm_simple import solve_ddnm_simple
from jax_bridges.zero_shot.ddrm import solve_ddrm
from jax_bridges.zero_shot.diffusion import calls_of
from jax_bridges.zero_shot.dps import solve_dps
from jax_bridges.zero_shot.ilvr import solve_ilvr
from jax_bridges.zero_shot.loop import Loop, Looped
from jax_bridges.zero_shot.mmps import solve_mmps
from jax_bridges.zero_shot.pigdm import solve_pigdm
from jax_bridges.zero_shot.pinv import solve_pinv
from jax_bridges.zero_shot.repaint import solve_repaint
from jax_bridges.zero_shot.sdedit import solve_sdedit


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
      count: `count(levels, **knobs)`, its network calls, where they are not those of `steps.count_calls`.
    """

    name: str
    solve: Callable
    noise: bool = False
    gradient: bool = False
    mask_only: bool = False
    narrow: bool = False
    count: Callable[..., int] | None = None

    @property
    def loop(self) -> Callable[..., Loop] | None:
        """`solve` taken apart, where it can be."""
        return self.solve.loop if isinstance(self.solve, Looped) else None


# fmt: off
_ENTRIES = [
    Solver("pinv", solve_pinv, count=lambda levels: 0),
    Solver("ddnm", solve_ddnm),
    Solver("ddnm_plus", solve_ddnm_plus, noise=True),
    Solver("ddnm_simple", solve_ddnm_simple, noise=True),
    Solver("ddrm", solve_ddrm, noise=True),
    Solver("pigdm", solve_pigdm, noise=True, gradient=True),
    Solver("dps", solve_dps, gradient=True),
    Solver(
        "mmps", solve_mmps, noise=True, gradient=True, narrow=True,
        count=lambda levels, order=2, **_: calls_of(levels, order),
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
