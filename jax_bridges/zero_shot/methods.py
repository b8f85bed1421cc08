"""A solver with its settings, as configurations (`zero_shot.settings`) and commands name it."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Mapping
from typing import Any

from jax_bridges.bridges import Bridge, Diffusion, Levels
from jax_bridges.corruptions import Corruption
from jax_bridges.corruptions.superres import low_pass
from jax_bridges.schema import COUNT, Setting, check_known, derived, number
from jax_bridges.zero_shot.ddnm import solve_ddnm
from jax_bridges.zero_shot.solvers import Solver, make_solver


@dataclasses.dataclass(frozen=True)
class Method:
    """A solver with its settings.

    Attributes:
      solver: see SOLVERS.
      levels: that it visits.
      knobs: of `solver.solve`.
    """

    solver: Solver
    levels: Levels
    knobs: Mapping[str, Any]

    @property
    def nfe(self) -> int:
        """Network calls an image."""
        given = inspect.signature(self.solver.solve).parameters.items()
        defaults = {name: each.default for name, each in given if each.kind is each.KEYWORD_ONLY}
        return self.solver.calls(len(self.levels.t) - 1, **{**defaults, **self.knobs})


def make_method(name: str, bridge: Bridge, settings: Mapping[str, Any], nfe: int) -> Method:
    """The solver `name` at `nfe` levels of the prior, or at those that its settings ask for.

    >>> import jax, jax.numpy as jnp
    >>> from jax_bridges.bridges import make_bridge
    >>> from jax_bridges.corruptions import make_corruption
    >>> operator = make_corruption("superres", kind="pool", factor=2)
    >>> method = make_method("ddnm", make_bridge("ddpm"), {}, nfe=5)
    >>> def denoise(x, t):  # a prior's x0-predictor; this one knows but gray
    ...     return jnp.zeros_like(x)
    >>> y = jnp.full((1, 4, 4, 3), 0.5)
    >>> x0 = method.solver.solve(denoise, operator, y, 0.0, method.levels, jax.random.key(0), **method.knobs)
    >>> x0.shape, bool(jnp.allclose(operator.forward(x0), y, atol=1e-5))
    ((1, 8, 8, 3), True)

    Args:
      settings: knobs of the solver that a text can hold (`low_pass` is a factor there); `nfe`, the
        noise levels that it visits; and for sdedit `start`, the share of the time below which it begins.

    Raises:
      ValueError: an unknown solver or setting, a setting out of its range, levels that there are not, or
        a bridge that is no prior.
    """
    if not isinstance(bridge, Diffusion):
        raise ValueError(
            f"Zero-shot solvers restore with a diffusion prior, and {type(bridge).__name__} is a bridge "
            "between images: take bridge 'ddpm' or 'edm'."
        )
    solver = make_solver(name)
    check_known("solver", name, settings_of(solver), settings)
    knobs: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
    nfe, start = knobs.pop("nfe", solver.levels or nfe), knobs.pop("start", 1.0)
    if knobs.get("low_pass") is not None:
        knobs["low_pass"] = functools.partial(low_pass, factor=knobs["low_pass"])
    _NFE.check(nfe, f"{name}.nfe")
    if solver.narrow:
        return Method(solver, bridge.narrow_levels(nfe), knobs)
    levels = bridge.levels(round(nfe / start))
    return Method(solver, Levels(*(v[-(nfe + 1) :] for v in levels)), knobs)


_NFE = Setting("nfe", None, COUNT, "noise levels that it visits; none: zero_shot.nfe.")
_START = Setting(
    "start",
    1.0,
    number(above=0, most=1),
    "share of the time below which it begins: 1 is pure noise.",
)


def settings_of(solver: Solver) -> tuple[Setting, ...]:
    """What `make_method` takes for this solver: rows with default, values and meaning."""
    own = derived(solver.solve, like=solve_ddnm)
    return (
        *own,
        dataclasses.replace(_NFE, default=solver.levels),
        *([_START] if solver.name == "sdedit" else ()),
    )


def applicable(solver: Solver, operator: Corruption, sigma_y: float) -> bool:
    """Whether a row of this method makes sense: holes for RePaint; noise for DDNM+, else it is DDNM."""
    if solver.mask_only:
        return operator.holes_alone and sigma_y == 0
    if solver.name in ("ddnm_plus", "ddnm_simple"):
        return sigma_y > 0
    return sigma_y == 0 or solver.name != "ilvr"
