"""What a way to learn the task from pairs or sets is, without a teacher: one `PairMethod`, a file of its own.

It is a `Method` all the same: its player "generator" is trained, sampled, kept, exported and restored with
as a student is. What it trains on, bridge, preconditioning and network, is its own: `of_pair_method` puts
that in place of the run's, whose images, pairs and masks stay.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from jax_bridges.schema import Setting, whole
from jax_bridges.training.methods.base import Method
from jax_bridges.training.settings import BATCH, EMA, MAX_SKIPPED, MICROBATCHES
from jax_bridges.training.steps import step_calls
from jax_bridges.training.system import System
from jax_bridges.typing import Array, PyTree

# Of all of them, in `config.baselines`.
PAIR_SHARED = (BATCH, MICROBATCHES, EMA, MAX_SKIPPED)
STEPS = Setting(
    "steps",
    0,
    whole(least=0),
    "Updates; 0: as many as cost the network calls of the teacher's training.",
)


def plain_init(system: System, key: Array) -> PyTree:
    """Fresh parameters of the network of the player "generator"."""
    return system.init(key, "generator")


def matching(**settings) -> ConfigDict:
    """What `steps.matching_loss` and `make_teacher_step` read: times and weights of a plain diffusion."""
    plain = {"times": "uniform", "weight": "native", "weight_max": 0.0, "hole_mean": False}
    return ConfigDict({**plain, **settings})


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairMethod(Method):
    """One method. `settings` of its functions is what `distill_settings` gives for it.

    Attributes:
      exchange: `exchange(config, settings)` puts its bridge, preconditioning and network into a copy of the
        run's configuration.
      why_not: `why_not(config, settings)`, why the run's task is none for it, as one clause; "": it is.
      budgets: `budgets(settings)`, the numbers of network calls that it is evaluated at.
      init: `init(system, key)`, first parameters of the player "generator".
      varies: another noise is another answer.
    """

    exchange: Callable[[ConfigDict, Any], None]
    why_not: Callable[[ConfigDict, Any], str] = lambda config, settings: ""
    budgets: Callable[[Any], tuple[int, ...]]
    init: Callable[[System, Array], PyTree] = plain_init
    varies: bool = True


def teacher_calls(train: Any) -> float:
    """Network calls, forward and backward, of a teacher's whole training by `config.train`."""
    return step_calls(train) * train.batch * train.steps


def why_not_here(method: PairMethod, config: ConfigDict) -> str:
    """Why the task of a run's configuration is none for `method`, as one clause; "": it is."""
    return method.why_not(config, config.baselines[method.name])


def of_pair_method(method: PairMethod, config: ConfigDict, train: Any = None) -> ConfigDict:
    """A copy of the run's configuration with what `method` trains and samples.

    It is what its checkpoints record: `distill.method` is its name, `distill.NAME` its settings with the
    steps that it takes, `evaluate.student_nfe` its budgets.

    Args:
      config: the run's.
      train: settings of the teacher's training, where they are not `config.train`.
    """
    config = config.copy_and_resolve_references()
    shared = {row.key: config.baselines[row.key] for row in PAIR_SHARED}
    settings = config.baselines[method.name]
    its = ConfigDict({**shared, **settings})
    if not settings.steps:
        cost = method.calls(its) * its.batch
        settings.steps = max(1, round(teacher_calls(train or config.train) / cost))
    config.distill = ConfigDict(
        {"method": method.name, "z_channels": 0, "z_scale": 1.0, **shared, method.name: settings}
    )
    its.steps = settings.steps
    method.exchange(config, its)
    config.evaluate.student_nfe = method.budgets(its)
    return config
