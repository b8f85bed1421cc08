"""pix2pix: one call of a network that a critic of patches judges (arXiv 1611.07004)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from jax_bridges.bridges import Bridge
from jax_bridges.distillation import critic_loss, fooling_loss
from jax_bridges.keys import SECOND_PLAYER, Keys, Stream
from jax_bridges.models import PatchCritic
from jax_bridges.schema import COUNT, Setting, number, under
from jax_bridges.training.methods.base import Grid, MakeState
from jax_bridges.training.methods.pairs import STEPS, PairMethod
from jax_bridges.training.optimizers import SETTINGS as OPTIMIZER
from jax_bridges.training.optimizers import make_optimizer
from jax_bridges.training.state import Player, State
from jax_bridges.training.steps import Mean, Step, gradients
from jax_bridges.training.system import Pair, System
from jax_bridges.typing import Array, PyTree

_ADAM = {"learning_rate": 2e-4, "b1": 0.5, "b2": 0.999, "warmup": 0, "clip": 0.0}

# fmt: off
SETTINGS = (
    STEPS,
    Setting("l1_weight", 100.0, number(least=0), "Of |x0_hat - x_0| beside what the critic says."),
    Setting("critic_channels", 64, COUNT, "Channels of its first layer."),
    Setting("critic_layers", 2, COUNT, "Its layers of stride 2: with 1, 2 or 3 a logit sees 16, 34 or 70 "
            "pixels a side."),
    *under("optimizer", OPTIMIZER, **_ADAM),
    *under("critic_optimizer", OPTIMIZER, **_ADAM),
)
# fmt: on


def answer(system: System, params: PyTree, pair: Pair, dropout: Array | None = None) -> Array:
    """The network's x_0 of x_T itself; known pixels are pasted before anyone judges it."""
    t = jnp.full(len(pair.xT), system.bridge.T, pair.xT.dtype)
    return system.denoiser(params, pair, "generator", dropout=dropout)(pair.xT, t, pair.xT)


def judge(system: System, params: PyTree, x0: Array, pair: Pair) -> Array:
    """The critic's logits `[B, h, w, 1]` of an answer to x_T."""
    time = jnp.zeros(len(x0), x0.dtype)
    return system.networks["critic"].apply({"params": params}, x0, time, pair.xT)


def _make(system: System, settings) -> tuple[MakeState, Step]:
    optimizer = make_optimizer(settings.optimizer, settings.steps)
    critic_optimizer = make_optimizer(settings.critic_optimizer, settings.steps)

    def make_state(key: Array, teacher: PyTree) -> State:
        del teacher
        critic = system.init(jax.random.fold_in(key, SECOND_PLAYER), "critic")
        return State.create(
            generator=Player.create(system.init(key, "generator"), optimizer),
            critic=Player.create(critic, critic_optimizer),
        )

    def step(state: State, frozen: PyTree, batch: PyTree, key: Array, mean: Mean):
        """An update of the critic, then one of the generator by the critic as it is now."""
        del frozen
        generator, critic = state.players["generator"], state.players["critic"]

        def seen(part: PyTree) -> tuple[Pair, Array | None]:
            pair = system.prepare(part, key, augment=True)
            dropout = None
            if system.networks["generator"].dropout:
                dropout = jax.random.fold_in(pair.keys[0], Stream.DROPOUT)
            return pair, dropout

        def of_critic(params: PyTree, part: PyTree) -> Array:
            pair, dropout = seen(part)
            made = jax.lax.stop_gradient(answer(system, generator.params, pair, dropout))
            real, fake = (judge(system, params, x0, pair) for x0 in (pair.x0, made))
            return 0.5 * jnp.mean(critic_loss(real, fake))

        def of_generator(params: PyTree, part: PyTree, number: Array) -> dict[str, Array]:
            del number
            pair, dropout = seen(part)
            made = answer(system, params, pair, dropout)
            fooled = jnp.mean(fooling_loss(judge(system, critic.params, made, pair)))
            return {
                "fooling_loss": fooled,
                "l1_loss": settings.l1_weight * jnp.mean(jnp.abs(made - pair.x0)),
            }

        parts = settings.microbatches
        critics, grads = gradients(of_critic, critic.params, batch, parts, mean)
        critic = critic.update(grads, critic_optimizer, state.step, settings.ema)
        losses, grads = gradients(
            of_generator, generator.params, batch, parts, mean, names=("fooling_loss", "l1_loss")
        )
        generator = generator.update(grads, optimizer, state.step, settings.ema)
        metrics = {
            "loss": sum(losses.values()), **losses, "critic_loss": critics,
            "gradient_norm": optax.tree.norm(grads),
        }  # fmt: skip
        players = {"generator": generator, "critic": critic}
        return State(step=state.step + 1, players=players), metrics

    return make_state, step


def _exchange(config: ConfigDict, settings) -> None:
    """x_T takes the place of x_t, as nothing else is known."""
    del settings
    config.preconditioning = ConfigDict({"name": "none"})
    config.network.conditional = False


def _grid(bridge: Bridge, nfe: int, settings) -> np.ndarray:
    del settings
    if nfe != 1:
        raise ValueError(f"pix2pix answers in one network call; nfe = {nfe} was asked for.")
    return np.full(1, float(bridge.T))


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
    del keys, grid
    _grid(system.bridge, nfe, settings)
    x0 = answer(system, params, pair)
    return jnp.clip(x0, -1.0, 1.0) if clip else x0


PIX2PIX = PairMethod(
    name="pix2pix",
    networks=lambda settings: {
        "generator": {},
        "critic": PatchCritic(settings.critic_channels, settings.critic_layers),
    },
    make=_make,
    batch_shape=lambda settings: (settings.batch,),
    sample=_sample,
    grid=_grid,
    check=lambda settings, bridge, corruption: None,
    # The generator's answer to the critic, and its own there and back; the critic of both images there and
    # back, and of one there and back to the image.
    calls=lambda settings: (1 + 3) + (2 * 3 + 2),
    sampler="pix2pix",
    settings=SETTINGS,
    optimizers=lambda settings: ("optimizer", "critic_optimizer"),
    exchange=_exchange,
    budgets=lambda settings: (1,),
    varies=False,
)
