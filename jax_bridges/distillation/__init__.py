"""Distillers: pure losses of each player, and roll-outs (named in `training.methods.ibmd.ROLL_OUTS`)."""

from __future__ import annotations

from jax_bridges.distillation.consistency import (
    consistency_function,
    consistency_loss,
    data_neighbour,
    ode_step,
    teacher_neighbour,
)
from jax_bridges.distillation.ibmd import (
    bridge_net_loss,
    generator_loss,
    roll_out_chain,
    roll_out_random,
)

__all__ = [
    "bridge_net_loss",
    "consistency_function",
    "consistency_loss",
    "data_neighbour",
    "generator_loss",
    "ode_step",
    "roll_out_chain",
    "roll_out_random",
    "teacher_neighbour",
]
