"""Stage 2: the student, by Inverse Bridge Matching Distillation of the teacher."""

from __future__ import annotations

from jax_bridges.stages.run import Run, Stage
from jax_bridges.training.optimizers import make_optimizer
from jax_bridges.training.state import Player, State, graft
from jax_bridges.training.steps import make_ibmd_step
from jax_bridges.typing import PyTree

NAME = "distill"


def distill(run: Run, teacher: PyTree) -> Stage:
    """The stage that trains the players "generator" and "bridge_net", both started from the teacher.

    Args:
      teacher: its averaged parameters, or their shapes (for the plan).
    """
    system, config = run.system, run.config.distill
    generator_optimizer = make_optimizer(config.optimizer, config.steps)
    bridge_optimizer = make_optimizer(config.bridge_optimizer, config.steps * config.bridge_updates)

    def make_state(key, teacher) -> State:
        generator = graft(teacher, system.init(key, system.student))
        bridge_net = graft(teacher, system.init(key, system.bridge_net))
        return State.create(
            generator=Player.create(generator, generator_optimizer),
            bridge_net=Player.create(bridge_net, bridge_optimizer),
        )

    step = make_ibmd_step(system, config, generator_optimizer, bridge_optimizer)
    return Stage(
        name=NAME,
        number=1,
        make_state=make_state,
        step=run.parallel.step(step, batch_axis=1),
        batch_shape=(config.bridge_updates + 1, config.batch),
        steps=config.steps,
        max_skipped=config.max_skipped,
        frozen=teacher,
    )
