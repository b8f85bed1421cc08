"""The two training steps, written for one device: `step(state, frozen, batch, key, mean)`.

`mean` averages a tree over devices: the identity under `jit` (where a batch is one global array), a
`pmean` under `pmap`. training/parallel.py wraps a step; nothing here knows how.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar

import jax
import jax.numpy as jnp
import optax

from jax_bridges.choices import look_up
from jax_bridges.distillation import (
    bridge_net_loss,
    generator_loss,
    roll_out_chain,
    roll_out_random,
)
from jax_bridges.keys import ONLY, CallDraw, Stream, fold, normal, randint, uniform
from jax_bridges.losses import bridge_matching
from jax_bridges.times import student_grid, training_times
from jax_bridges.training.state import State
from jax_bridges.training.system import Pair, System
from jax_bridges.typing import Array, PyTree

# XLA's CPU backend runs the convolution gradients of a loop's body on a slow path: the IBMD step of the
# small UNet takes 12.2 s with loops and 0.92 s without (2 cores, jax 0.10.2, 2026-11-21). So there, and
# there alone, loops over updates and microbatches are unrolled, unless the step is only looked at.
UNROLL: ContextVar[bool | None] = ContextVar("UNROLL", default=None)


def _unroll() -> bool:
    given = UNROLL.get()
    return jax.default_backend() == "cpu" if given is None else given


Mean = Callable[[PyTree], PyTree]
Step = Callable[..., tuple[State, dict[str, Array]]]

WEIGHTS = {
    "native": lambda system, t: system.preconditioning.weight(system.bridge, t),
    "one": lambda system, t: jnp.ones_like(t),
    "inverse_sigma": lambda system, t: 1.0 / system.bridge.sigma(t),
}


def _random(*args, keys: Array, steps: int, first_call: float) -> tuple[Array, Array]:
    choice = fold(keys, Stream.CALL)
    later = randint(choice, CallDraw.LATER, max(steps - 1, 1)) + 1
    first = uniform(choice, CallDraw.IS_FIRST) < first_call
    call = jnp.where(first | (steps == 1), 0, later)
    return roll_out_random(*args, fold(keys, Stream.STUDENT), call), call


def _last(*args, keys: Array, steps: int, first_call: float) -> tuple[Array, Array]:
    del first_call
    call = jnp.full(keys.shape, steps - 1)
    return roll_out_random(*args, fold(keys, Stream.STUDENT), call), call


def _chain(*args, keys: Array, steps: int, first_call: float) -> tuple[Array, Array]:
    del first_call
    x0 = roll_out_chain(*args, fold(keys, Stream.STUDENT))
    return x0, jnp.full(keys.shape, steps - 1)


# How x_0 is generated in training a student of N steps (IBMD app. B.1, B.2), and by which call: of the
# examples' keys.
ROLL_OUTS = {"random": _random, "chain": _last, "chain_through": _chain}


def time_weight(system: System, name: str, bound: float, t: Array) -> Array:
    """lambda(t) by name, no larger than `bound` (0: unbounded); `[B]`."""
    weight = look_up("loss weight", WEIGHTS, name)(system, t)
    return jnp.minimum(weight, bound) if bound else weight


def draw_times(system: System, config, pair: Pair) -> Array:
    """Times `[B]` by `config.times`."""
    return training_times(config.times, system.bridge, uniform(fold(pair.keys, Stream.TIME), ONLY))


def gradients(loss: Callable, params: PyTree, batch: PyTree, microbatches: int, mean: Mean):
    """Loss and gradient over the batch, accumulated over `microbatches` equal parts of it.

    Args:
      loss: `loss(params, part) -> scalar`, a plain mean over the part.
      batch: leaves `[B, ...]`; B is divisible by `microbatches`.

    Returns:
      (scalar, gradient), averaged over devices by `mean`.
    """
    if microbatches == 1:
        return mean(jax.value_and_grad(loss)(params, batch))
    # Part k has every so-manieth example from the k-th on: as many of each device. In parts that are
    # pieces of the batch, each would lie on a few devices, and the others would wait or repeat it.
    parts = jax.tree.map(lambda a: a.reshape(-1, microbatches, *a.shape[1:]).swapaxes(0, 1), batch)

    def add(total, part):
        return optax.tree.add(total, jax.value_and_grad(loss)(params, part)), None

    zero = (jnp.zeros(()), optax.tree.zeros_like(params))
    total, _ = jax.lax.scan(add, zero, parts, unroll=_unroll())
    return mean(optax.tree.scale(1.0 / microbatches, total))


def make_teacher_step(system: System, config, optimizer: optax.GradientTransformation) -> Step:
    """Bridge matching: one optax update of the player "teacher" a batch `[B, ...]`."""

    def step(state: State, frozen: PyTree, batch: PyTree, key: Array, mean: Mean):
        del frozen

        def loss(params: PyTree, part: PyTree) -> Array:
            pair = system.prepare(part, key, augment=True)
            t = draw_times(system, config, pair)
            noise = normal(fold(pair.keys, Stream.NOISE), ONLY, pair.x0)
            dropout = None
            if system.teacher.dropout:
                dropout = jax.random.fold_in(pair.keys[0], Stream.DROPOUT)
            denoise = system.denoiser(params, pair, dropout)
            weight = time_weight(system, config.weight, config.weight_max, t)
            return jnp.mean(
                bridge_matching(denoise, system.bridge, pair.x0, pair.xT, t, noise, weight)
            )

        teacher = state.players["teacher"]
        value, grads = gradients(loss, teacher.params, batch, config.microbatches, mean)
        teacher = teacher.update(grads, optimizer, state.step, config.ema)
        metrics = {"loss": value, "gradient_norm": optax.tree.norm(grads)}
        return State(step=state.step + 1, players={"teacher": teacher}), metrics

    return step


def make_ibmd_step(
    system: System,
    config,
    generator_optimizer: optax.GradientTransformation,
    bridge_optimizer: optax.GradientTransformation,
) -> Step:
    """IBMD: L updates of the bridge net, then one of the generator (arXiv 2502.01362, Alg. 1).

    The batch is `[L + 1, B, ...]`: every update has corrupted images and noise of its own. `frozen`
    holds the teacher's parameters.
    """
    n = config.student_steps
    times = student_grid(system.bridge, n, n, config.first_time)

    def roll_out(params: PyTree, pair: Pair) -> tuple[Array, Array]:
        generate = system.generator(params, pair)
        grid = jnp.asarray(times, pair.xT.dtype)
        make = ROLL_OUTS[config.roll_out]
        return make(
            generate,
            system.bridge,
            pair.xT,
            grid,
            keys=pair.keys,
            steps=len(times),
            first_call=config.first_call,
        )

    def bridge_point(pair: Pair) -> tuple[Array, Array]:
        noise = normal(fold(pair.keys, Stream.NOISE), ONLY, pair.xT)
        return draw_times(system, config, pair), noise

    def step(state: State, frozen: PyTree, batch: PyTree, key: Array, mean: Mean):
        generator, bridge_net = state.players["generator"], state.players["bridge_net"]
        updates = config.bridge_updates

        def loss_of_bridge_net(params: PyTree, part: PyTree) -> Array:
            pair = system.prepare(part, key, augment=True)
            x0, call = jax.lax.stop_gradient(roll_out(generator.params, pair))
            t, noise = bridge_point(pair)
            weight = time_weight(system, config.bridge_weight, config.bridge_weight_max, t)
            denoise = system.bridge_denoiser(params, pair, call)
            return jnp.mean(bridge_net_loss(denoise, system.bridge, x0, pair.xT, t, noise, weight))

        def update_bridge_net(player, inputs):
            part, number = inputs
            value, grads = gradients(
                loss_of_bridge_net, player.params, part, config.microbatches, mean
            )
            count = state.step * updates + number  # of its own updates so far
            player = player.update(grads, bridge_optimizer, count, config.bridge_ema)
            return player, (value, optax.tree.norm(grads))

        inner = jax.tree.map(lambda a: a[:updates], batch)
        bridge_net, (bridge_loss, bridge_norm) = jax.lax.scan(
            update_bridge_net, bridge_net, (inner, jnp.arange(updates)), unroll=_unroll()
        )

        def loss_of_generator(params: PyTree, part: PyTree) -> Array:
            pair = system.prepare(part, key, augment=True)
            x0, call = roll_out(params, pair)
            t, noise = bridge_point(pair)
            weight = time_weight(system, config.weight, config.weight_max, t)
            return jnp.mean(
                generator_loss(
                    system.denoiser(frozen, pair),
                    # Its average: the last updates' noise would pass for a reward of diversity.
                    system.bridge_denoiser(bridge_net.ema, pair, call),
                    system.bridge, x0, pair.xT, t, noise, weight, normalize=config.normalize,
                )
            )  # fmt: skip

        last = jax.tree.map(lambda a: a[updates], batch)
        value, grads = gradients(
            loss_of_generator, generator.params, last, config.microbatches, mean
        )
        generator = generator.update(grads, generator_optimizer, state.step, config.ema)
        metrics = {
            "loss": value,
            "gradient_norm": optax.tree.norm(grads),
            "bridge_loss": jnp.mean(bridge_loss),
            "bridge_gradient_norm": jnp.mean(bridge_norm),
        }
        players = {"generator": generator, "bridge_net": bridge_net}
        return State(step=state.step + 1, players=players), metrics

    return step
