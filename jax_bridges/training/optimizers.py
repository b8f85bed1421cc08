"""Optimisers from a configuration: schedule, clipping, and steps that survive a bad batch."""

from __future__ import annotations

import jax.numpy as jnp
import optax

from jax_bridges.choices import look_up
from jax_bridges.schema import DECAY, Choice, Setting, number, whole
from jax_bridges.typing import Array, PyTree

# In what the mean gradient is kept between steps; an update uses it before it is rounded, so that
# with b1 = 0 nothing changes but the memory. None: as the parameters.
MOMENTS = {"float32": None, "bfloat16": jnp.bfloat16}

# How each optimiser is made from (learning rate, configuration).
OPTIMIZERS = {
    "adam": lambda rate, c: optax.adam(
        rate, b1=c.b1, b2=c.b2, eps=c.eps, mu_dtype=MOMENTS[c.get("moment_dtype", "float32")]
    ),
    "adamw": lambda rate, c: optax.adamw(
        rate,
        b1=c.b1,
        b2=c.b2,
        eps=c.eps,
        weight_decay=c.weight_decay,
        mu_dtype=MOMENTS[c.get("moment_dtype", "float32")],
    ),
    "radam": lambda rate, c: optax.radam(rate, b1=c.b1, b2=c.b2, eps=c.eps),
}

# How each schedule is made from (peak rate, steps of warm-up, steps in all).
SCHEDULES = {
    "constant": lambda peak, warmup, steps: optax.constant_schedule(peak),
    "cosine": lambda peak, warmup, steps: optax.cosine_decay_schedule(peak, max(steps - warmup, 1)),
    # I2SB: times 0.99 every 1000 steps.
    "i2sb": lambda peak, warmup, steps: optax.exponential_decay(peak, 1000, 0.99, staircase=True),
}

# fmt: off
# Below `train.optimizer` and its like.
SETTINGS = (
    Setting("name", "adam", Choice(OPTIMIZERS), "Optimiser."),
    Setting("learning_rate", 1e-3, number(above=0), "Peak of the learning rate."),
    Setting("schedule", "cosine", Choice(SCHEDULES), "Learning rate after the warm-up: cosine falls to 0 at "
            "the last step, i2sb by 1% every 1000 steps."),
    Setting("delay", 0.0, DECAY, "Share of the stage's steps at a rate of 0, before the warm-up."),
    Setting("warmup", 50, whole(least=0), "Steps of linear warm-up."),
    Setting("b1", 0.9, DECAY, "Decay of the mean gradient; 0 for the two players of IBMD."),
    Setting("b2", 0.99, DECAY, "Decay of the mean squared gradient."),
    Setting("eps", 1e-8, number(least=0), "Added to the root mean squared gradient."),
    Setting("weight_decay", 0.0, number(least=0), "Decay of the weights, by adamw only."),
    Setting("clip", 1.0, number(least=0), "Largest norm of the whole gradient; 0: no clipping."),
    Setting("moment_dtype", "float32", Choice(MOMENTS), "In what adam and adamw keep the mean gradient."),
)
# fmt: on


def make_schedule(config, steps: int) -> optax.Schedule:
    """Learning rate by step: a share `config.delay` of 0, `.warmup` steps of a rise, then `.schedule`."""
    make = look_up("learning-rate schedule", SCHEDULES, config.schedule)
    delay = int(config.delay * steps)
    full = delay + config.warmup
    parts, ends = [make(config.learning_rate, full, steps)], []
    if config.warmup:  # optax would take a warm-up of no steps for a rate of zero
        parts, ends = (
            [optax.linear_schedule(0.0, config.learning_rate, config.warmup), *parts],
            [full],
        )
    if delay:
        parts, ends = [optax.constant_schedule(0.0), *parts], [delay, *ends]
    return optax.join_schedules(parts, ends)


def make_optimizer(config, steps: int) -> optax.GradientTransformation:
    """Clipping, then the optimiser; a step with a non-finite gradient changes nothing and is counted.

    Args:
      config: the keys of SETTINGS.
      steps: length of the run, for the schedule.
    """
    make = look_up("optimiser", OPTIMIZERS, config.name)
    chain = [optax.clip_by_global_norm(config.clip)] if config.clip else []
    chain.append(make(make_schedule(config, steps), config))
    # The limit is never reached inside the step: the loop stops the run with a message (stages/run.py).
    return optax.apply_if_finite(optax.chain(*chain), max_consecutive_errors=2**30)


def check_optimizer(config, part: str) -> None:
    """ValueError for an optimiser's settings that do not go together.

    Args:
      config: the keys of SETTINGS, each in its range.
      part: where they are, as in "train.optimizer".
    """
    if config.weight_decay and config.name != "adamw":
        raise ValueError(
            f"{part}.weight_decay is {config.weight_decay}, which {config.name} does not know: set "
            f"{part}.name to adamw."
        )
    if config.name == "radam" and config.moment_dtype != "float32":
        raise ValueError(
            f"{part}.moment_dtype is {config.moment_dtype}, but radam keeps its moments in float32: set it "
            f"so, or {part}.name to adam."
        )


def of_length(config, part: str) -> list[str]:
    """What of an optimiser's settings makes a step depend on how many there will be, as clauses.

    Args:
      config: the keys of SETTINGS.
      part: where they are, as in "train.optimizer".
    """
    found = []
    if config.schedule == "cosine":
        found.append(f"{part}.schedule is 'cosine', which falls to 0 at the last step")
    if config.delay:
        found.append(f"{part}.delay is {config.delay}, a share of the steps")
    return found


def ema_update(
    ema: PyTree, params: PyTree, step: Array, decay: float, warmup: bool = True
) -> PyTree:
    """Exponential moving average with warm-up, `decay_n = min(decay, (1 + n) / (10 + n))` (torch_ema).

    Without the warm-up a short run's average is still half the initial weights.

    Args:
      step: updates before this one, which is update n = step + 1: the first decay is 2/11.
      warmup: False: the decay is `decay` from the first update on.
    """
    if not warmup:
        return optax.incremental_update(params, ema, 1.0 - decay)
    n = step.astype(jnp.float32) + 1.0
    return optax.incremental_update(params, ema, 1.0 - jnp.minimum(decay, (1.0 + n) / (10.0 + n)))
