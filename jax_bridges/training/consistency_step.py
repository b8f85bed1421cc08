"""The training step of consistency students: CBD and CBT."""

from __future__ import annotations

import jax.numpy as jnp
import optax

from jax_bridges.choices import look_up
from jax_bridges.distillation import consistency
from jax_bridges.keys import ONLY, Stream, fold, normal, uniform
from jax_bridges.times import training_times
from jax_bridges.training.state import State
from jax_bridges.training.steps import Mean, Step, gradients
from jax_bridges.training.system import Pair, System
from jax_bridges.typing import Array, Denoiser, PyTree


def student_denoiser(system: System, params: PyTree, pair: Pair) -> Denoiser:
    """The x0-predictor inside a consistency student; its noise input is fed the bridge's own noise."""
    generate = system.generator(params, pair)

    def denoise(xt: Array, t: Array, xT: Array) -> Array:
        return generate(xt, t, xT, consistency.bridge_residual(system.bridge, xt, t, xT))

    return denoise


def student_function(system: System, params: PyTree, pair: Pair) -> Denoiser:
    """The consistency function `h(x_t, t, x_T)` of a student's parameters; known pixels are x_T's."""
    h = consistency.consistency_function(student_denoiser(system, params, pair), system.bridge)
    return system.known(h, pair)


def make_consistency_step(
    system: System, config, optimizer: optax.GradientTransformation, *, from_teacher: bool
) -> Step:
    """One optax update of the player "generator" a batch `[B, ...]`.

    `frozen` holds the teacher's parameters.

    Args:
      config: settings of the method (`distill_settings`).
      from_teacher: the neighbour x_r is the teacher's ODE step (CBD), or the data's (CBT).
    """
    bridge = system.bridge
    gap = look_up("gap between times", consistency.GAPS, config.gap)
    weigh = look_up("weight of a gap", consistency.GAP_WEIGHTS, config.gap_weight)

    def step(state: State, frozen: PyTree, batch: PyTree, key: Array, mean: Mean):
        generator = state.players["generator"]
        fixed = generator.ema if config.target == "ema" else generator.params
        progress = state.step / config.steps

        def loss(params: PyTree, part: PyTree) -> Array:
            pair = system.prepare(part, key, augment=True)
            t = training_times(config.times, bridge, uniform(fold(pair.keys, Stream.TIME), ONLY))
            gamma = 0.0 if bridge.deterministic else config.gamma
            t = consistency.usable_times(bridge, t, gamma * bridge.T)
            r = gap(bridge, t, progress, config)
            noise = normal(fold(pair.keys, Stream.NOISE), ONLY, pair.x0)
            xt = bridge.sample(pair.x0, pair.xT, t, noise)
            if from_teacher:
                teacher = system.denoiser(frozen, pair)
                xr = consistency.teacher_neighbour(teacher, bridge, xt, pair.xT, t, r)
            else:
                xr = consistency.data_neighbour(bridge, pair.x0, pair.xT, noise, r)
            return jnp.mean(
                consistency.consistency_loss(
                    student_function(system, params, pair), student_function(system, fixed, pair),
                    xt, xr, pair.xT, t, r, weigh(t, r),
                    distance=config.distance, scale=config.distance_scale,
                )
            )  # fmt: skip

        value, grads = gradients(loss, generator.params, batch, config.microbatches, mean)
        generator = generator.update(grads, optimizer, state.step, config.ema)
        metrics = {"loss": value, "gradient_norm": optax.tree.norm(grads)}
        return State(step=state.step + 1, players={"generator": generator}), metrics

    return step
