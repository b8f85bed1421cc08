"""IBMD as it is trained (arXiv 2502.01362, Alg. 1): a generator and a bridge net, L + 1 updates a step.

A critic is a third player where `gan_weight` is not 0. The losses are in distillation/ibmd.py and
distillation/adversarial.py, how x_0 is made in ibmd_answers.py, the settings in ibmd_settings.py.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jax_bridges.bridges import Bridge
from jax_bridges.distillation import (
    Answer,
    bridge_net_loss,
    critic_loss,
    fooling_loss,
    generator_loss,
    loss_point,
    real_bridge_net_loss,
    real_scales,
)
from jax_bridges.keys import (
    ONLY,
    SECOND_PLAYER,
    THIRD_PLAYER,
    Keys,
    Masks,
    Stream,
    fold,
    normal,
    shared_key,
)
from jax_bridges.models import PatchCritic
from jax_bridges.platforms import unroll_gradients
from jax_bridges.samplers import sample_few_step
from jax_bridges.times import student_grid
from jax_bridges.training.methods.base import Grid, MakeState, Method
from jax_bridges.training.methods.ibmd_answers import make_answer, mark, moves, told_calls
from jax_bridges.training.methods.ibmd_settings import SETTINGS, check, starts_raw
from jax_bridges.training.optimizers import make_optimizer
from jax_bridges.training.state import Player, State, graft
from jax_bridges.training.steps import (
    Mean,
    Step,
    draw_times,
    gradients,
    hole_weight,
    tilted,
    time_weight,
)
from jax_bridges.training.system import Pair, System
from jax_bridges.typing import Array, PyTree


def _networks(settings) -> dict[str, Any]:
    networks: dict[str, Any] = {
        "generator": {"z_channels": settings.z_channels},
        "bridge_net": {"mark_channels": told_calls(settings) - 1},
    }
    if settings.get("gan_weight", 0.0):  # older runs do not say it
        networks["critic"] = PatchCritic(settings.critic_channels, settings.critic_layers)
    return networks


def make_ibmd_step(
    system: System,
    config,
    generator_optimizer: optax.GradientTransformation,
    bridge_optimizer: optax.GradientTransformation,
    critic_optimizer: optax.GradientTransformation | None = None,
) -> Step:
    """IBMD: L updates of the bridge net (and the critic), then one of the generator (Alg. 1).

    The batch is `[L + 1, B, ...]`: every update has corrupted images and noise of its own. `frozen`
    holds the teacher's parameters.
    """
    bridge, alpha = system.bridge, config.real_alpha
    to_made, to_real = real_scales(alpha, config.real_beta)
    optimizers = {"bridge_net": bridge_optimizer, "critic": critic_optimizer}
    decays = {"bridge_net": config.bridge_ema, "critic": config.bridge_ema}

    # -- what the losses share -----------------------------------------------------------------------
    def masks(pair: Pair, wanted: bool) -> Array | None:
        """The key of dropout."""
        return jax.random.fold_in(pair.keys[0], Stream.DROPOUT) if wanted else None

    def answer(
        params: PyTree, player: Player, pair: Pair, shared: Array, dropout: Array | None = None
    ) -> tuple[Answer, Array]:
        """x_0 by `params`, after calls of the generator as it is, or of its average; and by which call."""

        def own(masks: Masks) -> Array | None:
            return None if dropout is None else jax.random.fold_in(dropout, masks)

        generate = system.generator(params, pair, dropout=own(Masks.TRAINED))
        if config.chain_ema:
            walk = system.generator(player.ema, pair)
        else:
            walk = system.generator(player.params, pair, dropout=own(Masks.BEFORE))
        return make_answer(system, config, pair, shared, generate, walk)

    def point(made: Answer, pair: Pair) -> dict[str, Any]:
        """What says where x_t lies, for `loss_point`."""
        given = (made.x, made.t) if config.xt_from == "call" else None
        t = draw_times(system, config, pair, below=None if given is None else made.t)
        return {
            "t": t,
            "noise": normal(fold(pair.keys, Stream.NOISE), ONLY, pair.xT),
            "given": given,
        }

    def judge(params: PyTree, x0: Array, pair: Pair, t: Array, noise: Array) -> Array:
        """What the critic says of x_0, or of x_t on its bridge to x_T."""
        seen, time = x0, jnp.zeros_like(t)
        if config.critic_sees == "xt":
            seen, time = loss_point(bridge, x0, pair.xT, t, noise), t / bridge.T
        return system.networks["critic"].apply({"params": params}, seen, time, pair.xT)

    def step(state: State, frozen: PyTree, batch: PyTree, key: Array, mean: Mean):
        generator = state.players["generator"]
        updates = config.bridge_updates

        # -- the bridge net, and the critic, L times (Alg. 1, lines 3-8) -----------------------------
        inner = {name: state.players[name] for name in optimizers if name in state.players}

        def losses_of_inner(
            params: PyTree, part: PyTree, update: Array, number: Array
        ) -> dict[str, Array]:
            pair = system.prepare(part, key, augment=True)
            shared = shared_key(key, state.step, update, number)
            made, call = jax.lax.stop_gradient(answer(generator.params, generator, pair, shared))
            at = point(made, pair)
            weight = time_weight(
                system, config.bridge_weight, config.bridge_weight_max, at["t"], pair.xT
            )
            if config.get("hole_mean", False):  # older runs do not say it
                weight = weight * hole_weight(pair)
            phi = system.denoiser(
                params["bridge_net"], pair, "bridge_net", mark=mark(config, call),
                dropout=masks(pair, config.bridge_dropout),
            )  # fmt: skip
            loss = bridge_net_loss(
                phi, bridge, made.x0, pair.xT, weight=weight, scale=to_made, **at
            )
            if alpha < 1.0 or "critic" in params:
                real = {"t": at["t"], "noise": normal(fold(pair.keys, Stream.REAL), ONLY, pair.xT)}
            if alpha < 1.0:
                by_data = bridge_net_loss(
                    phi, bridge, pair.x0, pair.xT, weight=weight, scale=to_real, **real
                )
                loss = real_bridge_net_loss(loss, by_data, alpha)
            losses = {"bridge_net": jnp.mean(loss)}
            if "critic" in params:
                of_real = judge(params["critic"], pair.x0, pair, **real)
                of_made = judge(params["critic"], made.x0, pair, at["t"], at["noise"])
                losses["critic"] = jnp.mean(critic_loss(of_real, of_made))
            return losses

        def update_inner(players, inputs):
            part, update = inputs
            values, grads = gradients(
                lambda params, part, number: losses_of_inner(params, part, update, number),
                {name: player.params for name, player in players.items()},
                part, config.microbatches, mean, names=tuple(players),
            )  # fmt: skip
            count = state.step * updates + update  # of its own updates so far
            players = {
                name: player.update(
                    grads[name], optimizers[name], count, decays[name], warmup=config.ema_warmup
                )
                for name, player in players.items()
            }
            return players, (values, {name: optax.tree.norm(g) for name, g in grads.items()})

        first = jax.tree.map(lambda a: a[:updates], batch)
        inner, (values, norms) = jax.lax.scan(
            update_inner, inner, (first, jnp.arange(updates)), unroll=unroll_gradients(updates)
        )

        # -- the generator, once (Alg. 1, lines 9-13) ------------------------------------------------
        def loss_of_generator(params: PyTree, part: PyTree, number: Array) -> dict[str, Array]:
            pair = system.prepare(part, key, augment=True)
            shared = shared_key(key, state.step, updates, number)
            dropout = masks(pair, config.dropout)
            made, call = answer(params, generator, pair, shared, dropout)
            at = point(made, pair)
            weight = time_weight(system, config.weight, config.weight_max, at["t"], pair.xT)
            weight = tilted(bridge, weight, config.weight_tilt, at["t"])
            if config.get("hole_mean", False) and not config.normalize:
                weight = weight * hole_weight(pair)
            loss = generator_loss(
                system.denoiser(frozen, pair),
                # Its average: the last updates' noise would pass for a reward of diversity.
                system.denoiser(inner["bridge_net"].ema, pair, "bridge_net", mark=mark(config, call)),
                bridge, made.x0, pair.xT, weight=weight, **at,
                normalize=config.normalize, detach_xt=config.detach_xt,
                alpha=alpha, beta=config.real_beta,
                inner_weight=config.get("inner_weight", 1.0),  # older runs do not say it
            )  # fmt: skip
            losses = {"loss": jnp.mean(loss)}
            if "critic" in inner:
                said = judge(inner["critic"].params, made.x0, pair, at["t"], at["noise"])
                losses["fooling_loss"] = config.gan_weight * jnp.mean(fooling_loss(said))
            return losses

        last = jax.tree.map(lambda a: a[updates], batch)
        names = ("loss", "fooling_loss") if "critic" in inner else ("loss",)
        of_generator, grads = gradients(
            loss_of_generator, generator.params, last, config.microbatches, mean, names=names
        )
        generator = generator.update(
            grads, generator_optimizer, state.step, config.ema, warmup=config.ema_warmup
        )
        metrics = {**of_generator, "gradient_norm": optax.tree.norm(grads)}
        for name, short in (("bridge_net", "bridge"), ("critic", "critic")):
            if name in inner:
                metrics[f"{short}_loss"] = jnp.mean(values[name])
                metrics[f"{short}_gradient_norm"] = jnp.mean(norms[name])
        players = {"generator": generator, **inner}
        return State(step=state.step + 1, players=players), metrics

    return step


def _make(system: System, settings) -> tuple[MakeState, Step]:
    updates = settings.steps * settings.bridge_updates
    of_generator = make_optimizer(settings.optimizer, settings.steps)
    of_bridge_net = make_optimizer(settings.bridge_optimizer, updates)
    of_critic = make_optimizer(settings.critic_optimizer, updates)

    def make_state(key: Array, teacher: PyTree, raw: PyTree | None = None) -> State:
        def player(name: str, key: Array, start: str, optimizer) -> Player:
            fresh = system.init(key, name)
            average = graft(teacher, fresh)
            params = average if start == "average" or raw is None else graft(raw, fresh)
            return Player.create(params, optimizer, ema=average)

        second, third = (jax.random.fold_in(key, n) for n in (SECOND_PLAYER, THIRD_PLAYER))
        players = {
            "generator": player("generator", key, settings.start, of_generator),
            "bridge_net": player("bridge_net", second, settings.bridge_start, of_bridge_net),
        }
        if "critic" in system.networks:
            players["critic"] = Player.create(system.init(third, "critic"), of_critic)
        return State.create(**players)

    return make_state, make_ibmd_step(system, settings, of_generator, of_bridge_net, of_critic)


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
    generate = system.generator(params, pair, temperature=settings.temperature)
    how = moves(settings)
    return sample_few_step(
        generate, system.bridge, pair.xT, times, keys, clip=clip, length=length, **how
    )


def _optimizers(settings) -> tuple[str, ...]:
    critic = ("critic_optimizer",) if "critic" in _networks(settings) else ()
    return ("optimizer", "bridge_optimizer", *critic)


def _calls(settings) -> float:
    """Of the networks of the teacher's size: a critic is small beside them."""
    n = settings.student_steps
    made = n + (settings.roll_out == "renoised")
    drawn = settings.roll_out in ("random", "renoised")
    if (
        drawn and settings.call_per == "microbatch"
    ):  # on average: the first call alone, or a later one
        later = n + 1 if settings.roll_out == "renoised" else (n + 2) / 2
        made = settings.first_call + (1 - settings.first_call) * later if n > 1 else 1
    trained = n if settings.roll_out == "chain_through" else 1  # calls of x_0 with a gradient
    real = 3 if settings.real_alpha < 1 else 0
    back = 0 if settings.detach_xt else 2  # through teacher and bridge net to x_t
    return settings.bridge_updates * (made + 3 + real) + made + 2 * trained + 2 + back


IBMD = Method(
    "ibmd",
    networks=_networks,
    make=_make,
    batch_shape=lambda settings: (settings.bridge_updates + 1, settings.batch),
    sample=_sample,
    grid=_grid,
    check=check,
    calls=_calls,
    sampler="few_step",
    settings=SETTINGS,
    raw=starts_raw,
    optimizers=_optimizers,
)
