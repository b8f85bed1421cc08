"""Samplers as functions. `SAMPLERS` holds those that turn a teacher's denoiser into images.

An entry is used as `SAMPLERS[name](denoise, bridge, xT, nfe, keys, **knobs)`; it has its own
grid. `make_sampler("dbim:eta=1")` is one with its knobs set by name, as configurations write it.
"""

from __future__ import annotations

import functools
import inspect
from numbers import Real

from jax_bridges.choices import look_up, parse_choice
from jax_bridges.samplers.ancestral import sample_ancestral
from jax_bridges.samplers.budget import Sampler, count_calls
from jax_bridges.samplers.consistency import sample_consistency
from jax_bridges.samplers.dbim import sample_dbim, sample_dbim_high_order
from jax_bridges.samplers.few_step import sample_few_step
from jax_bridges.samplers.heun import heun_calls, sample_heun
from jax_bridges.samplers.sde import (
    ode_heun_calls,
    sample_ode_euler,
    sample_ode_heun,
    sample_sde_euler,
)
from jax_bridges.samplers.straightness import straightness
from jax_bridges.times import angle_grid, dbim_grid, karras_grid, uniform_grid


def _dbim(name: str, sample) -> Sampler:
    """DBIM's entries: as many calls as times, two at least."""
    return Sampler(
        name, sample, dbim_grid, count=lambda times, **_: len(times), least=lambda **_: 2
    )


_ENTRIES = [
    Sampler("ancestral", sample_ancestral, uniform_grid),
    Sampler("sde_euler", sample_sde_euler, uniform_grid),
    Sampler("ode_euler", sample_ode_euler, angle_grid),
    Sampler(
        "ode_heun",
        sample_ode_heun,
        angle_grid,
        steps=lambda nfe, **_: (nfe + 1) // 2,
        count=lambda times, **_: ode_heun_calls(times),
    ),
    Sampler(
        "heun",
        sample_heun,
        karras_grid,
        steps=lambda nfe, churn=0.33, **_: (nfe + 1) // (2 if churn is None else 3),
        count=lambda times, churn=0.33, **_: heun_calls(times, churn),
        least=lambda churn=0.33, **_: 3 if churn is None else 5,
    ),
    _dbim("dbim", sample_dbim),
    _dbim("dbim2", functools.partial(sample_dbim_high_order, order=2)),
    _dbim("dbim3", functools.partial(sample_dbim_high_order, order=3)),
]
SAMPLERS = {entry.name: entry for entry in _ENTRIES}


# Knobs that a name may set: what each must be, in words and as a test.
_KNOBS = {
    "clip": ("True or False", lambda v: isinstance(v, bool)),
    "eta": ("a number from 0 to 1", lambda v: isinstance(v, Real) and 0 <= v <= 1),
    "churn": (
        "None, or a number from 0 to below 1",
        lambda v: v is None or (isinstance(v, Real) and 0 <= v < 1),
    ),
    "guidance": ("a number", lambda v: isinstance(v, Real)),
}


def make_sampler(text: str) -> Sampler:
    """The sampler of a name, or of a name with knobs: "heun", "dbim:eta=1", "heun:churn=None,clip=True".

    Raises:
      ValueError: an unknown name or knob, with those that are known, or a value that a knob cannot have.
    """
    name, knobs = parse_choice(text)
    entry = look_up("sampler", SAMPLERS, name)
    known = [knob for knob in inspect.signature(entry.sample).parameters if knob in _KNOBS]
    for knob, value in knobs.items():
        if knob not in known:
            raise ValueError(
                f"The sampler '{name}' has no knob '{knob}': it takes {', '.join(known)}."
            )
        words, fits = _KNOBS[knob]
        if not fits(value):
            raise ValueError(f"The sampler '{text}': {knob} must be {words}.")
    return entry.fixed(text, **knobs) if knobs else entry


__all__ = [
    "SAMPLERS",
    "Sampler",
    "count_calls",
    "heun_calls",
    "make_sampler",
    "ode_heun_calls",
    "sample_ancestral",
    "sample_consistency",
    "sample_dbim",
    "sample_dbim_high_order",
    "sample_few_step",
    "sample_heun",
    "sample_ode_euler",
    "sample_ode_heun",
    "sample_sde_euler",
    "straightness",
]
