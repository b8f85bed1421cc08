"""Optimisers from a configuration: schedule, clipping, and steps that survive a bad batch."""

from __future__ import annotations

import jax.numpy as jnp
import optax

from jax_bridges.choices import look_up
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
      config: keys name, learning_rate, schedule, delay, warmup, b1, b2, eps, weight_decay, clip (global norm;
        0: off).
      steps: length of the run, for the schedule.
    """
    make = look_up("optimiser", OPTIMIZERS, config.name)
    chain = [optax.clip_by_global_norm(config.clip)] if config.clip else []
    chain.append(make(make_schedule(config, steps), config))
    # The limit is never reached inside the step: the loop stops the run with a message (stages/run.py).
    return optax.apply_if_finite(optax.chain(*chain), max_consecutive_errors=2**30)


def check_optimizer(config, part: str) -> None:
    """ValueError for an optimiser's settings that name what there is not, or do not go together.

    Args:
      config: the keys of `make_optimizer`.
      part: where they are, as in "train.optimizer".
    """
    look_up("optimiser", OPTIMIZERS, config.name)
    if not config.learning_rate > 0:
        raise ValueError(
            f"{part}.learning_rate is {config.learning_rate}: it must be above 0 (a stage of no "
            "updates is one of few steps)."
        )
    if not 0 <= config.delay < 1:
        raise ValueError(
            f"{part}.delay is {config.delay}: it is a share of the steps, at least 0 and below 1."
        )
    for key in ("warmup", "clip", "weight_decay", "eps"):
        if not config[key] >= 0:
            raise ValueError(f"{part}.{key} is {config[key]}: it must be at least 0.")
    for key in ("b1", "b2"):
        if not 0 <= config[key] < 1:
            raise ValueError(
                f"{part}.{key} is {config[key]}: the decay of an average is at least 0 and below 1."
            )
    look_up("learning-rate schedule", SCHEDULES, config.schedule)
    look_up("dtype of moments", MOMENTS, config.moment_dtype)
    if config.weight_decay and config.name != "adamw":
        raise ValueError(
            f"{part}.weight_decay is {config.weight_decay}, which {config.name} does not know: set "
            f"{part}.name to adamw."
        )
    if config.name == "radam" and config.moment_dtype != "float32":
        raise ValueError(
            "The radam optimiser keeps its moments in float32: set moment_dtype so, or name to adam."
        )


def ema_update(ema: PyTree, params: PyTree, step: Array, decay: float) -> PyTree:
    """Exponential moving average with warm-up, `decay_n = min(decay, (1 + n) / (10 + n))` (torch_ema).

    Without the warm-up a short run's average is still half the initial weights.

    Args:
      step: updates before this one, which is update n = step + 1: the first decay is 2/11.
    """
    n = step.astype(jnp.float32) + 1.0
    return optax.incremental_update(params, ema, 1.0 - jnp.minimum(decay, (1.0 + n) / (10.0 + n)))
