"""The methods by which a student is trained. `METHODS` maps `config.distill.method` to one.

A further one is a file here, beside its pure losses in distillation/, and a line of METHODS. Those by which
a prior is learned from observations alone are PRIOR_METHODS, with corrupted_losses.py; those that learn the
task without a teacher, from pairs or sets, are PAIR_METHODS.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from jax_bridges.bridges import Bridge
from jax_bridges.choices import look_up
from jax_bridges.corruptions import Corruption
from jax_bridges.keys import Keys
from jax_bridges.training.methods.adm_sr import ADM_SR
from jax_bridges.training.methods.ambient import AMBIENT
from jax_bridges.training.methods.base import Grid, Method
from jax_bridges.training.methods.cdsb import CDSB
from jax_bridges.training.methods.consistency import CBD, CBT
from jax_bridges.training.methods.ddib import DDIB
from jax_bridges.training.methods.ibmd import IBMD
from jax_bridges.training.methods.pairs import PairMethod
from jax_bridges.training.methods.palette import PALETTE
from jax_bridges.training.methods.pix2pix import PIX2PIX
from jax_bridges.training.methods.prior import PriorMethod
from jax_bridges.training.methods.sure import SURE
from jax_bridges.training.methods.tweedie import TWEEDIE
from jax_bridges.training.optimizers import check_optimizer, of_length
from jax_bridges.training.settings import distill_part, distill_settings
from jax_bridges.training.system import Pair, System
from jax_bridges.typing import Array, PyTree

METHODS = {method.name: method for method in (IBMD, CBD, CBT)}
PRIOR_METHODS: dict[str, PriorMethod] = {method.name: method for method in (AMBIENT, SURE, TWEEDIE)}
PAIR_METHODS: dict[str, PairMethod] = {
    method.name: method for method in (PALETTE, ADM_SR, PIX2PIX, DDIB, CDSB)
}
# `config.em.baselines`: those, and what bridge matching learns of clean images and of A^+ y.
BASELINES = ("upper", "pinv", *PRIOR_METHODS)


def find_method(distill) -> tuple[Method, Any]:
    """The method that `config.distill` names, and its settings; an unknown name is a ValueError.

    The recorded configuration of one of PAIR_METHODS names it there as well (`of_pair_method`).
    """
    name = distill.get("method", "ibmd")
    found = PAIR_METHODS.get(name) or look_up("method of distillation", METHODS, name)
    return found, distill_settings(distill)


def check_method(
    distill, method: str, bridge: Bridge, corruption: Corruption, asked: tuple[int, ...]
) -> None:
    """Refuses keys of `config.distill` with which `method` cannot run, whatever `distill.method` says.

    Args:
      distill: `config.distill`.
      method: a key of METHODS.
      bridge, corruption: what the student will be trained on.
      asked: `config.evaluate.student_nfe`, the numbers of calls that it must be able to answer in.

    Raises:
      ValueError: one sentence that names the key.
    """
    distill = distill.copy_and_resolve_references()
    distill.method = method
    found, settings = find_method(distill)
    check_optimizer(settings.optimizer, f"{distill_part(method)}.optimizer")
    found.check(settings, bridge, corruption)
    for nfe in asked:
        try:
            found.grid(bridge, nfe, settings)
        except ValueError as error:
            raise ValueError(f"evaluate.student_nfe is {asked}. {error}") from None


def method_of_length(distill) -> list[str]:
    """What makes a step of the method that `config.distill` names depend on how many there will be."""
    found, settings = find_method(distill)
    part = distill_part(found.name)
    clauses = (of_length(settings[name], f"{part}.{name}") for name in found.optimizers(settings))
    return [clause for each in clauses for clause in each] + found.of_length(settings)


def check_calls(distill, bridge: Bridge, nfe: int) -> None:
    """ValueError if a student that was trained with `config.distill` cannot answer in `nfe` calls."""
    student_times(distill, bridge, nfe)


def student_times(distill, bridge: Bridge, nfe: int) -> np.ndarray:
    """The times of its `nfe` calls, less those that its sampler makes elsewhere; raises as `check_calls`."""
    found, settings = find_method(distill)
    return found.grid(bridge, nfe, settings)


def sample_student(
    system: System,
    distill,
    params: PyTree,
    pair: Pair,
    nfe: int,
    keys: Keys,
    clip: bool = False,
    grid: Grid | None = None,
) -> Array:
    """The student's answer with exactly `nfe` network calls, `[B, H, W, C]`, by its method's sampler.

    Args:
      distill: `config.distill` of its training.
      params: averaged parameters of the player "generator".
      pair: what to restore.
      keys: `[B]`.
      clip: clamps the answer to [-1, 1].
      grid: see `Method.sample`.
    """
    found, settings = find_method(distill)
    return found.sample(system, params, pair, nfe, keys, settings, clip, grid)
