"""A solver with its settings, as configurations (`zero_shot.settings`) and commands name it."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

from jax_bridges.bridges import Diffusion, Levels
from jax_bridges.choices import look_up
from jax_bridges.corruptions import Corruption
from jax_bridges.corruptions.superres import low_pass
from jax_bridges.zero_shot.ddnm_simple import FORMS
from jax_bridges.zero_shot.dps import MISFITS
from jax_bridges.zero_shot.pigdm import GUIDANCES
from jax_bridges.zero_shot.solvers import Solver, make_solver
from jax_bridges.zero_shot.steps import count_calls


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
        if self.solver.name == "pinv":
            return 0
        calls = count_calls(len(self.levels.t) - 1, self.knobs.get("travel", self._travel))
        return calls * self.knobs.get("repeats", 1)

    @property
    def _travel(self) -> tuple[int, int]:
        travel = inspect.signature(self.solver.solve).parameters.get("travel")
        return (1, 1) if travel is None else travel.default


def make_method(name: str, bridge: Diffusion, settings: Mapping[str, Any], nfe: int) -> Method:
    """The solver `name` at `nfe` levels of the prior, or at those that its settings ask for.

    Args:
      settings: knobs of the solver that a text can hold (`low_pass` is a factor there); `nfe`, the
        noise levels that it visits; and for sdedit `start`, the share of the time below which it begins.

    Raises:
      ValueError: an unknown solver or setting, a setting out of its range, or levels that there are not.
    """
    solver = make_solver(name)
    known = settings_of(solver)
    knobs = {}
    for key, value in settings.items():
        if key not in known:
            raise ValueError(
                f"The solver '{name}' has no setting '{key}': it takes {', '.join(known)}."
            )
        knobs[key] = _checked(name, key, value, known[key])
    nfe, start = knobs.pop("nfe", nfe), knobs.pop("start", 1.0)
    if knobs.get("low_pass") is not None:
        knobs["low_pass"] = functools.partial(low_pass, factor=knobs["low_pass"])
    _checked(name, "nfe", nfe, None)
    levels = bridge.levels(round(nfe / start))
    return Method(solver, Levels(*(v[-(nfe + 1) :] for v in levels)), knobs)


def settings_of(solver: Solver) -> dict[str, Any]:
    """Name -> default of every setting that `make_method` takes for this solver."""
    found = inspect.signature(solver.solve).parameters.values()
    knobs = {p.name: p.default for p in found if p.kind is p.KEYWORD_ONLY and p.name != "shipped"}
    start = {"start": 1.0} if solver.name == "sdedit" else {}
    return {**knobs, "nfe": None, **start}


def applicable(solver: Solver, operator: Corruption, sigma_y: float) -> bool:
    """Whether a row of this method makes sense: holes for RePaint; noise for DDNM+, else it is DDNM."""
    if solver.mask_only:
        return operator.holes_alone and sigma_y == 0
    if solver.name in ("ddnm_plus", "ddnm_simple"):
        return sigma_y > 0
    return sigma_y == 0 or solver.name != "ilvr"


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _travel(value: Any) -> bool:
    pair = isinstance(value, (tuple, list)) and len(value) == 2
    return pair and all(_whole(each, 1) for each in value)


# Setting -> whether a value is right, and what is.
_SHARE = (lambda v: _number(v) and 0 <= v <= 1), "a share from 0 to 1"
_POSITIVE = (lambda v: _number(v) and v > 0), "a number above 0"
_RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "eta": _SHARE,
    "eta_b": _SHARE,
    "weight": _POSITIVE,
    "scale": _POSITIVE,
    "prior_variance": _POSITIVE,
    "nfe": (lambda v: _whole(v, 1), "a whole number of at least 1"),
    "repeats": (lambda v: _whole(v, 1), "a whole number of at least 1"),
    "low_pass": (
        lambda v: _whole(v, 2),
        "the factor of the shrinking, a whole number of at least 2",
    ),
    "free_steps": (lambda v: _whole(v, 0), "a whole number of at least 0"),
    "start": (lambda v: _number(v) and 0 < v <= 1, "a share of the time, above 0 and at most 1"),
    "travel": (_travel, "two whole numbers of at least 1, how far back and how often, as (10,3)"),
}
_WORDS = {"form": FORMS, "guidance": GUIDANCES, "misfit": MISFITS}


def _checked(solver: str, key: str, value: Any, default: Any) -> Any:
    """`value`, a list as a tuple; ValueError if the setting cannot be that."""
    if key in _WORDS:
        look_up(f"{key} of the solver '{solver}'", dict.fromkeys(_WORDS[key]), str(value))
        return value
    right, what = _RANGES.get(key, (lambda v: isinstance(v, bool), "True or False"))
    if not (right(value) or (value is None and default is None and key != "nfe")):
        raise ValueError(
            f"The setting {key} of the solver '{solver}' is {value!r}: it must be {what}."
        )
    return tuple(value) if isinstance(value, list) else value
