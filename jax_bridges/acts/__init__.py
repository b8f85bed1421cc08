"""What a run does after check and data, each act in a file of its own, by name in `ACTS`.

An act refuses what cannot be done, plans, calls `begin()`, which makes the work directory, then trains
and evaluates. A further one is a file here and a line of `ACTS`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from jax_bridges.acts import compare, distil, em, zero_shot
from jax_bridges.stages.run import Run


class Act(NamedTuple):
    """One act.

    wanted: whether a configuration asks for it; do: `do(run, begin)`; settings: what of a configuration
    its results depend on, as text.
    """

    wanted: Callable[[Any], bool]
    do: Callable[[Run, Callable[[], None]], None]
    settings: Callable[[Any], str]


# The first that is wanted is done.
ACTS = {
    "em": Act(lambda config: bool(config.em.operator), em.em, em.settings),
    "zero_shot": Act(
        lambda config: bool(config.zero_shot.tasks), zero_shot.zero_shot, zero_shot.settings
    ),
    "compare": Act(compare.is_comparison, compare.compare, compare.settings),
    "distil": Act(lambda config: True, distil.distil, distil.settings),
}


def choose_act(config: Any) -> Act:
    """The act of a configuration."""
    return next(act for act in ACTS.values() if act.wanted(config))
