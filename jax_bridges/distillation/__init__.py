"""Distillers: pure losses of each player, and roll-outs (named in `training.methods.ibmd.ROLL_OUTS`)."""

from __future__ import annotations

from jax_bridges.distillation.adversarial import critic_loss, fooling_loss
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
    loss_point,
    real_bridge_net_loss,
    real_scales,
)
from jax_bridges.distillation.roll_outs import (
    Answer,
    roll_out_chain,
    roll_out_random,
    roll_out_renoised,
)

__all__ = [
    "Answer",
    "bridge_net_loss",
    "consistency_function",
    "consistency_loss",
    "critic_loss",
    "data_neighbour",
    "fooling_loss",
    "generator_loss",
    "loss_point",
    "ode_step",
    "real_bridge_net_loss",
    "real_scales",
    "roll_out_chain",
    "roll_out_random",
    "roll_out_renoised",
    "teacher_neighbour",
]
