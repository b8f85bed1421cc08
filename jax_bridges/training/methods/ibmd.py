"""IBMD as it is trained (arXiv 2502.01362, Alg. 1): a generator and a bridge net, L + 1 updates a step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jax_bridges.bridges import Bridge
from jax_bridges.corruptions import Corruption
from jax_bridges.distillation import (
    bridge_net_loss,
    generator_loss,
    roll_out_chain,
    roll_out_random,
)
from jax_bridges.keys import (
    ONLY,
    SECOND_PLAYER,
    CallDraw,
    Keys,
    Stream,
    fold,
    normal,
    randint,
    uniform,
)
from jax_bridges.platforms import unroll_gradients
from jax_bridges.samplers import sample_few_step
from jax_bridges.schema import COUNT, DECAY, FLAG, Choice, Setting, number, under
from jax_bridges.times import student_grid
from jax_bridges.training.methods.base import Grid, MakeState, Method
from jax_bridges.training.optimizers import SETTINGS as OPTIMIZER
from jax_bridges.training.optimizers import check_optimizer, make_optimizer
from jax_bridges.training.settings import BATCH, EMA, MAX_SKIPPED, MICROBATCHES, Z_CHANNELS
from jax_bridges.training.state import Player, State, graft
from jax_bridges.training.steps import (
    TIMES,
    WEIGHT,
    WEIGHT_MAX,
    Mean,
    Step,
    draw_times,
    gradients,
    time_weight,
)
from jax_bridges.training.system import Pair, System
from jax_bridges.typing import Array, PyTree


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
# What IBMD reads, the keys of `config.distill`. The bridge net must know the generator's answers, for what it
# misses of them the generator takes for a reward of diversity: so the generator waits, and moves less.
SETTINGS = (
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
    Setting("detach_xt", False, FLAG, "x_t is a constant to the generator's gradient: no backward pass of "
            "teacher and bridge net, a cheaper step (IBMD's released one-step I2SB runs; the paper: not)."),
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


def told_calls(settings) -> int:
    """Of how many of the student's calls the bridge net is told (1: it is told nothing).

    One bridge net for the answers of all calls would match only their mixture: a blurred first call
    would be made up for by an over-dispersed last one.
    """
    told = settings.bridge_net_sees_call and settings.roll_out == "random"
    return settings.student_steps if told else 1


def _networks(settings) -> dict[str, dict[str, Any]]:
    return {
        "generator": {"z_channels": settings.z_channels},
        "bridge_net": {"mark_channels": told_calls(settings) - 1},
    }


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
    n, told = config.student_steps, told_calls(config)
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

    def mark(call: Array) -> Array | None:
        # One number a call, 1 where it was this one; the first call has none.
        return jax.nn.one_hot(call - 1, told - 1) if told > 1 else None

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
            denoise = system.denoiser(params, pair, "bridge_net", mark=mark(call))
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
                    system.denoiser(bridge_net.ema, pair, "bridge_net", mark=mark(call)),
                    system.bridge, x0, pair.xT, t, noise, weight,
                    normalize=config.normalize, detach_xt=config.detach_xt,
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


def _make(system: System, settings) -> tuple[MakeState, Step]:
    generator_optimizer = make_optimizer(settings.optimizer, settings.steps)
    updates = settings.steps * settings.bridge_updates
    bridge_optimizer = make_optimizer(settings.bridge_optimizer, updates)

    def make_state(key: Array, teacher: PyTree) -> State:
        generator = graft(teacher, system.init(key, "generator"))
        second = jax.random.fold_in(key, SECOND_PLAYER)
        bridge_net = graft(teacher, system.init(second, "bridge_net"))
        return State.create(
            generator=Player.create(generator, generator_optimizer),
            bridge_net=Player.create(bridge_net, bridge_optimizer),
        )

    return make_state, make_ibmd_step(system, settings, generator_optimizer, bridge_optimizer)


def _grid(bridge: Bridge, nfe: int, settings) -> np.ndarray:
    return student_grid(bridge, nfe, settings.student_steps, settings.first_time)


def _sample(
    system: System,
    params: PyTree,
    pair: Pair,
    nfe: int,
    keys: Keys,
    settings,
    clip: bool = False,
    grid: Grid | None = None,
) -> Array:
    times, length = (_grid(system.bridge, nfe, settings), None) if grid is None else grid
    generate = system.generator(params, pair)
    return sample_few_step(generate, system.bridge, pair.xT, times, keys, clip=clip, length=length)


def _calls(settings) -> int:
    n = settings.student_steps
    trained = n if settings.roll_out == "chain_through" else 1  # calls of x_0 with a gradient
    bridge_net = n + 3
    back = 0 if settings.detach_xt else 2  # through teacher and bridge net to x_t
    generator = n + 2 * trained + 2 + back
    return settings.bridge_updates * bridge_net + generator


def _check(settings, bridge: Bridge, corruption: Corruption) -> None:
    check_optimizer(settings.bridge_optimizer, "distill.bridge_optimizer")
    grid = student_grid(bridge, settings.student_steps)
    later = float(grid[1] if len(grid) > 1 else bridge.t_min) / float(bridge.T)
    if not later < settings.first_time:
        raise ValueError(
            f"distill.first_time is {settings.first_time}: it must be above {later:.3g}, the time of the "
            "next call, in units of T."
        )
    noisy = not bridge.deterministic and (settings.first_time < 1 or not bridge.pinned)
    if not (settings.z_channels or noisy or corruption.fills == "noise"):
        raise ValueError(
            "A student without z has no randomness at its first call: set distill.z_channels to 3, "
            "distill.first_time to 0.97, or corruption.fill to 'noise' for inpainting."
        )


IBMD = Method(
    "ibmd",
    networks=_networks,
    make=_make,
    batch_shape=lambda settings: (settings.bridge_updates + 1, settings.batch),
    sample=_sample,
    grid=_grid,
    check=_check,
    calls=_calls,
    sampler="few_step",
    settings=SETTINGS,
)
