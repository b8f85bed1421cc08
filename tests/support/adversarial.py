"""A method with a third player, in a file of its own: IBMD's two, and a critic of x_0 (as DMD2 has one)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import optax

from jax_bridges.distillation import bridge_net_loss, generator_loss
from jax_bridges.keys import ONLY, Stream, fold, normal
from jax_bridges.samplers import sample_few_step
from jax_bridges.schema import COUNT, Setting, number, under
from jax_bridges.times import student_grid
from jax_bridges.training.methods.base import Method
from jax_bridges.training.optimizers import SETTINGS as OPTIMIZER
from jax_bridges.training.optimizers import make_optimizer
from jax_bridges.training.settings import SHARED
from jax_bridges.training.state import Player, State, graft
from jax_bridges.training.steps import TIMES, draw_times, gradients

PLAYERS = ("generator", "bridge_net", "critic")


def make(system, settings):
    """One update of each player a step, of a student of one call; the critic tells its answers from x_0."""
    optimizer = make_optimizer(settings.optimizer, settings.steps)
    time = float(student_grid(system.bridge, 1, 1)[0])

    def make_state(key, teacher):
        players = {}
        for place, player in enumerate(PLAYERS):
            own = system.init(jax.random.fold_in(key, place), player)
            params = own if player == "critic" else graft(teacher, own)
            players[player] = Player.create(params, optimizer)
        return State.create(**players)

    def step(state, frozen, batch, key, mean):
        generator, bridge_net, critic = (state.players[player] for player in PLAYERS)

        def answer(params, pair):
            t = jnp.full(len(pair.xT), time)
            z = normal(fold(pair.keys, Stream.STUDENT), ONLY, pair.xT)
            return system.generator(params, pair)(pair.xT, t, pair.xT, z)

        def logits(params, x0, pair):
            score = system.networks["critic"].apply(
                {"params": params}, x0, jnp.zeros(len(x0)), pair.xT, None, pair.label
            )
            return score.mean((1, 2, 3))

        def of_critic(params, part):
            pair = system.prepare(part, key, augment=True)
            made = answer(generator.params, pair)
            real, fake = (logits(params, x, pair) for x in (pair.x0, made))
            return jnp.mean(jax.nn.softplus(-real) + jax.nn.softplus(fake))

        def point(pair):
            return draw_times(system, settings, pair), normal(
                fold(pair.keys, Stream.NOISE), ONLY, pair.xT
            )

        def of_bridge_net(params, part):
            pair = system.prepare(part, key, augment=True)
            x0 = jax.lax.stop_gradient(answer(generator.params, pair))
            t, noise = point(pair)
            denoise = system.denoiser(params, pair, "bridge_net")
            one = jnp.ones_like(t)
            return jnp.mean(bridge_net_loss(denoise, system.bridge, x0, pair.xT, t, noise, one))

        def of_generator(params, part):
            pair = system.prepare(part, key, augment=True)
            x0, (t, noise) = answer(params, pair), point(pair)
            teacher = system.denoiser(frozen, pair)
            bridge = system.denoiser(bridge_net.params, pair, "bridge_net")
            matched = generator_loss(
                teacher, bridge, system.bridge, x0, pair.xT, t, noise, jnp.ones_like(t)
            )
            fooled = jax.nn.softplus(-logits(critic.params, x0, pair))
            return jnp.mean(matched + settings.gan_weight * fooled)

        losses = {"generator": of_generator, "bridge_net": of_bridge_net, "critic": of_critic}
        players, metrics = {}, {}
        for place, player in enumerate(PLAYERS):
            part = jax.tree.map(lambda a, n=place: a[n], batch)
            own = state.players[player]
            value, grads = gradients(losses[player], own.params, part, settings.microbatches, mean)
            players[player] = own.update(grads, optimizer, state.step, settings.ema)
            metrics[f"{player}_loss"] = value
        metrics |= {"loss": metrics["generator_loss"], "gradient_norm": optax.tree.norm(grads)}
        return State(step=state.step + 1, players=players), metrics

    return make_state, step


def sample(system, params, pair, nfe, keys, settings, clip=False, grid=None):
    """IBMD's sampler."""
    times, length = (student_grid(system.bridge, nfe, 1), None) if grid is None else grid
    generate = system.generator(params, pair)
    return sample_few_step(generate, system.bridge, pair.xT, times, keys, clip=clip, length=length)


ADVERSARIAL = Method(
    "adversarial",
    networks=lambda settings: {
        "generator": {"z_channels": settings.z_channels},
        "bridge_net": {},
        "critic": {},
    },
    make=make,
    batch_shape=lambda settings: (len(PLAYERS), settings.batch),
    sample=sample,
    grid=lambda bridge, nfe, settings: student_grid(bridge, nfe, 1),
    check=lambda settings, bridge, corruption: None,
    calls=lambda settings: (1 + 2 + 2 + 2 + 2) + (1 + 3) + (1 + 6),
    sampler="few_step",
    settings=(
        Setting("steps", 3, COUNT, "Updates."),
        Setting("gan_weight", 0.1, number(least=0), "Of the critic in the generator's loss."),
        dataclasses.replace(TIMES),
        Setting("z_scale", 1.0, number(least=0), "Of the noise input."),
        *under("optimizer", OPTIMIZER, learning_rate=1e-3, warmup=0),
        *SHARED.values(),
    ),
)
