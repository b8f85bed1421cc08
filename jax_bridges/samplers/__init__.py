"""Samplers as functions. `SAMPLERS` holds those that turn a teacher's denoiser into images.

An entry is used as `SAMPLERS[name](denoise, bridge, xT, nfe, keys, **knobs)`; it has its own
grid. `make_sampler("dbim:eta=1")` is one with its knobs set by name, as configurations write it.
"""

from __future__ import annotations

import functools

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
from jax_bridges.schema import Setting, check_known, derived
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


def knobs_of(entry: Sampler) -> tuple[Setting, ...]:
    """What a name may set, `KEY=VALUE` after it: rows with default, values and meaning."""
    rows = derived(entry.sample, like=sample_dbim)
    return tuple(row for row in rows if row.key not in ("order", "return_path"))


def make_sampler(text: str) -> Sampler:
    """The sampler of a name, or of a name with knobs: "heun", "dbim:eta=1", "heun:churn=None,clip=True".

    Raises:
      ValueError: an unknown name or knob, with those that are known, or a value that a knob cannot have.
    """
    name, knobs = parse_choice(text)
    entry = look_up("sampler", SAMPLERS, name)
    check_known("sampler", name, knobs_of(entry), knobs)
    return entry.fixed(text, **knobs) if knobs else entry


__all__ = [
    "SAMPLERS",
    "Sampler",
    "count_calls",
    "heun_calls",
    "knobs_of",
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
