"""Stage 1: the teacher, by bridge matching in one of its modes; or a teacher that is there already."""

from __future__ import annotations

import jax

from jax_bridges.keys import SECOND_PLAYER, Purpose
from jax_bridges.players import TRAIN
from jax_bridges.stages.run import Run, Stage
from jax_bridges.stages.teacher import load_teacher
from jax_bridges.training.couplings import make_dsbm_step, make_reflow_step
from jax_bridges.training.optimizers import make_optimizer
from jax_bridges.training.state import Player, State, graft
from jax_bridges.training.steps import make_held_out_loss, make_teacher_step

STEPS = {"bridge": make_teacher_step, "reflow": make_reflow_step, "dsbm": make_dsbm_step}


def train(run: Run) -> Stage:
    """The stage that trains the player "teacher", from the weights in `teacher.init` if set.

    With `train.mode` "dsbm" there is a player "forward" too, which takes turns with it; with "reflow"
    the weights in `teacher.init` also make the pairs.
    """
    system, config, init = run.system, run.config.train, run.config.teacher.init
    turns = config.rounds // 2 + 1 if config.mode == "dsbm" else 1  # of the teacher
    updates = turns * config.steps // config.rounds if config.mode == "dsbm" else config.steps
    optimizer = make_optimizer(config.optimizer, updates)

    begun = run.done(TRAIN) > 0

    def make_state(key, start) -> State:
        params = system.init(key, "teacher")
        params = params if start is None else graft(start, params)
        players = {"teacher": Player.create(params, optimizer)}
        if config.mode == "dsbm":
            back = system.init(jax.random.fold_in(key, SECOND_PLAYER), "teacher")
            players["forward"] = Player.create(back, optimizer)
        return State.create(**players)

    if config.mode == "reflow" and not init:  # only its cost is asked for
        key = run.key(Purpose.INIT_TEACHER)
        frozen = jax.eval_shape(lambda k: system.init(k, "teacher"), key)
    else:
        needed = init and (config.mode == "reflow" or not begun)
        frozen = load_teacher(run, init) if needed else None
    return Stage(
        name=TRAIN,
        init=Purpose.INIT_TEACHER,
        draws=Purpose.TRAIN_TEACHER,
        make_state=make_state,
        step=run.parallel.step(STEPS[config.mode](system, config, optimizer)),
        batch_shape=(config.batch,),
        steps=config.steps,
        max_skipped=config.max_skipped,
        player="teacher",
        frozen=frozen,
        # The other modes make their pairs: another task at every step.
        loss=make_held_out_loss(system, config) if config.mode == "bridge" else None,
    )
