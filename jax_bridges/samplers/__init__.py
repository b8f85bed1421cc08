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
from jax_bridges.samplers.dbmsolver import dbmsolver_calls, sample_dbmsolver
from jax_bridges.samplers.ecsi import ecsi_grid, sample_ecsi
from jax_bridges.samplers.few_step import sample_few_step
from jax_bridges.samplers.heun import heun_calls, sample_heun
from jax_bridges.samplers.prior_guidance import guide_sampler, prior_guided
from jax_bridges.samplers.sde import (
    ode_heun_calls,
    sample_ode_euler,
    sample_ode_heun,
    sample_sde_euler,
)
from jax_bridges.samplers.straightness import straightness
from jax_bridges.schema import Setting, check_known, derived
from jax_bridges.times import angle_grid, dbim_grid, karras_grid, solver_grid, uniform_grid


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
        steps=lambda nfe, booted=False, **_: nfe // 2 + 1 if booted else (nfe + 1) // 2,
        count=lambda times, booted=False, **_: ode_heun_calls(times, booted),
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
    Sampler(
        "dbmsolver",
        sample_dbmsolver,
        solver_grid,
        steps=lambda nfe, **_: nfe // 2 + 1,
        count=lambda times, **_: dbmsolver_calls(times),
        least=lambda **_: 2,
    ),
    Sampler("ecsi", sample_ecsi, ecsi_grid, least=lambda **_: 2),
]
SAMPLERS = {entry.name: entry for entry in _ENTRIES}


# What any name may set besides.
GUIDANCE = derived(guide_sampler)


def knobs_of(entry: Sampler) -> tuple[Setting, ...]:
    """What a name may set, `KEY=VALUE` after it: rows with default, values and meaning."""
    rows = derived(entry.sample, like=sample_dbim)
    return tuple(row for row in rows if row.key not in ("order", "return_path"))


def make_sampler(text: str) -> Sampler:
    """The sampler of a name, or of a name with knobs: "heun", "dbim:eta=1", "heun:churn=None,clip=True".

    >>> import jax, jax.numpy as jnp
    >>> from jax_bridges.bridges import make_bridge
    >>> bridge, xT = make_bridge("i2sb"), jnp.ones((1, 4, 4, 3))
    >>> sampler = make_sampler("dbim:eta=1")
    >>> def denoise(xt, t, xT):  # any x0-predictor; this one believes in black
    ...     return jnp.zeros_like(xt)
    >>> x0 = sampler(denoise, bridge, xT, nfe=5, keys=jax.random.key(0))
    >>> x0.shape, bool(jnp.abs(x0).max() < 0.1)
    ((1, 4, 4, 3), True)

    Any is guided by `pg` (`prior_guidance`), at two network calls for one: "dbim:eta=1,pg=1.5".

    Raises:
      ValueError: an unknown name or knob, with those that are known, or a value that a knob cannot have.
    """
    name, knobs = parse_choice(text)
    entry = look_up("sampler", SAMPLERS, name)
    guidance = {row.key for row in GUIDANCE}
    check_known("sampler", name, (*knobs_of(entry), *GUIDANCE), knobs)
    own = {key: value for key, value in knobs.items() if key not in guidance}
    sampler = entry.fixed(text, **own) if knobs else entry
    asked = {key: value for key, value in knobs.items() if key in guidance}
    if asked and "pg" not in asked:
        raise ValueError(
            f"'{text}': {', '.join(asked)} is of prior guidance: give its weight, pg, too."
        )
    return guide_sampler(sampler, **asked) if asked else sampler


__all__ = [
    "GUIDANCE",
    "SAMPLERS",
    "Sampler",
    "count_calls",
    "dbmsolver_calls",
    "guide_sampler",
    "heun_calls",
    "knobs_of",
    "make_sampler",
    "ode_heun_calls",
    "prior_guided",
    "sample_ancestral",
    "sample_consistency",
    "sample_dbim",
    "sample_dbim_high_order",
    "sample_dbmsolver",
    "sample_ecsi",
    "sample_few_step",
    "sample_heun",
    "sample_ode_euler",
    "sample_ode_heun",
    "sample_sde_euler",
    "straightness",
]
