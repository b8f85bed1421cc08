"""The two training steps, written for one device: `step(state, frozen, batch, key, mean)`.

`mean` averages a tree over devices: the identity under `jit` (where a batch is one global array), a
`pmean` under `pmap`. training/parallel.py wraps a step; nothing here knows how.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

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
from jax_bridges.platforms import unroll_gradients
from jax_bridges.schema import COUNT, DECAY, FLAG, Choice, Setting, number, under
from jax_bridges.times import TRAINING_TIMES, student_grid, training_times
from jax_bridges.training.optimizers import SETTINGS as OPTIMIZER
from jax_bridges.training.settings import BATCH, EMA, MAX_SKIPPED, MICROBATCHES, Z_CHANNELS
from jax_bridges.training.state import State
from jax_bridges.training.system import Pair, System
from jax_bridges.typing import Array, PyTree

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

# fmt: off
TIMES = Setting("times", "uniform", Choice(TRAINING_TIMES), "Law of the times t of the loss.")
WEIGHT = Setting(
    "weight", "one", Choice(WEIGHTS), "lambda(t) of the loss: native to the preconditioning, one, or "
    "inverse_sigma (1 / sigma_t: errors at small t count more).")
WEIGHT_MAX = Setting("weight_max", 0.0, number(least=0), "Upper bound of lambda; 0: none.")

# What IBMD reads, the keys of `config.distill`. The bridge net must know the generator's answers, for what it
# misses of them the generator takes for a reward of diversity: so the generator waits, and moves less.
IBMD_SETTINGS = (
    Setting("steps", 125, COUNT, "Updates of the generator."),
    BATCH,
    MICROBATCHES,
    Setting("bridge_updates", 3, COUNT, "L: updates of the bridge net before one of the generator."),
    Setting("student_steps", 4, COUNT, "N: calls the student is trained for; any fewer work too."),
    Setting("roll_out", "random", Choice(ROLL_OUTS), "How x_0 is made: random by one of the N calls, at what "
            "those before it lead to; chain by all N, with the gradient of the last; chain_through with "
            "that of all."),
    Setting("first_call", 0.75, number(above=0, most=1),
            "Roll-out random: share of examples at the first call, the hardest one."),
    Setting("first_time", 0.97, number(above=0, most=1),
            "Share of T where the first call is made: at 1 it sees x_T itself, as in the paper; below, x_T "
            "under the bridge's noise, and starts with texture, not with its teacher's blur."),
    Setting("bridge_net_sees_call", True, FLAG, "Roll-out random: that net is told which call made x_0."),
    Z_CHANNELS,
    Setting("z_scale", 4.0, number(least=0),
            "Standard deviation of that input, whose weights start at 0 and must grow."),
    replace(TIMES, meaning="Law of the times t of both losses."),
    replace(WEIGHT, meaning="lambda(t) of the generator's loss, as of train."),
    WEIGHT_MAX,
    Setting("normalize", True, FLAG, "Divide the generator's loss by its detached |x0* - x0|."),
    replace(WEIGHT, key="bridge_weight", default="inverse_sigma",
            meaning="lambda(t) of the bridge net's loss."),
    replace(WEIGHT_MAX, key="bridge_weight_max"),
    EMA,
    Setting("bridge_ema", 0.95, DECAY, "Decay of the bridge net's average, which the generator's loss sees; "
            "0: the net itself, as in Alg. 1."),
    MAX_SKIPPED,
    *under("optimizer", OPTIMIZER, learning_rate=5e-5, delay=0.2, warmup=20, b1=0.0, b2=0.95),
    *under("bridge_optimizer", OPTIMIZER, learning_rate=3e-4, b1=0.0, warmup=60),
)
# fmt: on


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
    total, _ = jax.lax.scan(add, zero, parts, unroll=unroll_gradients(microbatches))
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
            update_bridge_net,
            bridge_net,
            (inner, jnp.arange(updates)),
            unroll=unroll_gradients(updates),
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
