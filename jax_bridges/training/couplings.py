"""Teachers whose pairs (x_0, x_T) a network makes: rectified flow's second round, and DSBM.

Bridge matching with an unconditional network keeps the marginals of x_0 and x_T but not their coupling:
its own samples are a new, straighter one. Both methods train on that again.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from jax_bridges.bridges import Bridge
from jax_bridges.corruptions import Corruption
from jax_bridges.keys import Stream, fold
from jax_bridges.samplers import sample_ancestral, sample_sde_euler
from jax_bridges.times import uniform_grid
from jax_bridges.training.state import Player, State
from jax_bridges.training.steps import Mean, Step, gradients, matching_loss
from jax_bridges.training.system import Pair, System
from jax_bridges.typing import Array, Denoiser, PyTree


def is_symmetric(bridge: Bridge) -> bool:
    """Whether the bridge is the same from x_T to x_0 as from x_0 to x_T, as DSBM needs it."""
    with jax.ensure_compile_time_eval():
        u = jnp.linspace(0.05, 0.45, 9) * bridge.T
        (a, b, c), (a_, b_, c_) = bridge.coefficients(u), bridge.coefficients(bridge.T - u)
        same = jnp.allclose(a, b_, atol=1e-4) & jnp.allclose(b, a_, atol=1e-4)
        return bool(same & jnp.allclose(c, c_, atol=1e-4) & bridge.pinned)


MODES = ("bridge", "reflow", "dsbm")


def check_mode(config, bridge: Bridge, corruption: Corruption, paired: bool) -> None:
    """Refuses a `train.mode` that this configuration cannot have.

    Args:
      config: a whole configuration, each of whose keys is right by itself.
      bridge, corruption: of it.
      paired: its data have an x_T of their own.

    Raises:
      ValueError: names the key, what the mode needs and what to do.
    """
    train, mode, sees = config.train, config.train.mode, config.network.get("conditional", False)
    if config.data.unpaired and (sees or not paired):
        raise ValueError(
            "data.unpaired is for data with an x_T of their own, and for a network that does not see it: "
            "set network.conditional to False, or data.unpaired to False."
        )
    if bridge.needs_source and not sees:
        raise ValueError(
            f"The bridge '{config.bridge.name}' drifts towards x_T, which the network must see: set "
            "network.conditional to True."
        )
    if train.rounds % 2 == 0 or train.steps % train.rounds:
        raise ValueError(
            f"train.rounds is {train.rounds}: it must be odd, so that the last round leads to x_0, and "
            f"divide train.steps, {train.steps}."
        )
    if train.rounds > 1 and mode != "dsbm":
        raise ValueError(f"train.rounds is {train.rounds}: only train.mode 'dsbm' has rounds.")
    if mode == "bridge":
        return
    if sees:
        raise ValueError(
            f"train.mode '{mode}' changes the coupling of x_0 and x_T, which a network that sees x_T "
            "would keep: set network.conditional to False."
        )
    if config.keep_known and corruption.masks != "none":
        raise ValueError(
            f"train.mode '{mode}' makes pairs of whole images: set keep_known to False."
        )
    uniform_grid(bridge, train.simulation_steps)  # refuses a number that the bridge cannot do
    if mode == "reflow" and not (config.teacher.init and bridge.deterministic):
        raise ValueError(
            "train.mode 'reflow' follows the ODE of the teacher of an earlier run: give its folder as "
            "teacher.init, and a bridge with deterministic True."
        )
    if mode == "dsbm" and (bridge.deterministic or not bridge.has_sde or not is_symmetric(bridge)):
        raise ValueError(
            f"train.mode 'dsbm' goes both ways over one noisy prior, and '{config.bridge.name}' is not "
            "the same from both ends, or has no noise or no prior: take bridge 'brownian' or 'i2sb'."
        )


def _other_end(denoise: Denoiser, system: System, config, start: Array, pair: Pair) -> Array:
    """The end of the paths that `denoise` follows from `start`, without gradient.

    By Euler's method, as DSBM does. Ancestral steps would leave x_0's own spread out of each of them:
    too little variance, three times as far off at equal calls on a Gaussian pair.
    """
    bridge, keys = system.bridge, fold(pair.keys, Stream.COUPLE)
    sample = sample_ancestral if bridge.deterministic else sample_sde_euler
    times = uniform_grid(bridge, config.simulation_steps)
    return jax.lax.stop_gradient(sample(denoise, bridge, start, times, keys))


def _update(player: Player, loss, batch, config, optimizer, count: Array, mean: Mean):
    value, grads = gradients(loss, player.params, batch, config.microbatches, mean)
    metrics = {"loss": value, "gradient_norm": optax.tree.norm(grads)}
    return player.update(grads, optimizer, count, config.ema), metrics


def make_reflow_step(system: System, config, optimizer: optax.GradientTransformation) -> Step:
    """Rectified flow's next round: bridge matching on (x_T, ODE(x_T)) (arXiv 2209.03003, alg. 1).

    `frozen` holds the parameters of the round before, whose ODE makes the pairs; x_0 of the batch is
    not looked at. The ODE is that of a deterministic bridge: `sample_ancestral`.
    """

    def step(state: State, frozen: PyTree, batch: PyTree, key: Array, mean: Mean):
        def loss(params: PyTree, part: PyTree) -> Array:
            pair = system.prepare(part, key, augment=True)
            x0 = _other_end(system.denoiser(frozen, pair), system, config, pair.xT, pair)
            denoise = system.denoiser(params, pair)
            return jnp.mean(matching_loss(system, config, denoise, x0, pair.xT, pair))

        teacher, metrics = _update(
            state.players["teacher"], loss, batch, config, optimizer, state.step, mean
        )
        return State(step=state.step + 1, players={"teacher": teacher}), metrics

    return step


def make_dsbm_step(system: System, config, optimizer: optax.GradientTransformation) -> Step:
    """Diffusion Schroedinger bridge matching (arXiv 2303.16852, alg. 1), one update of one player.

    The stage is `rounds` rounds of equal length. Even ones train "teacher", which leads from x_T to
    x_0, odd ones "forward", which leads back. The first round takes the batch's own pairs; in the later
    ones the network that rests leads from real images to the other end, and the one that is trained
    learns the way back. Its fixed point is the Schroedinger bridge between both marginals. One program
    serves both directions, for a symmetric bridge is its own mirror image (`is_symmetric`).
    """
    length = config.steps // config.rounds

    def step(state: State, frozen: PyTree, batch: PyTree, key: Array, mean: Mean):
        del frozen
        players = state.players
        turn = state.step // length
        backward = turn % 2 == 0

        def choose(if_backward: PyTree, if_forward: PyTree) -> PyTree:
            return jax.tree.map(lambda a, b: jnp.where(backward, a, b), if_backward, if_forward)

        active = choose(players["teacher"], players["forward"])
        resting = choose(players["forward"].ema, players["teacher"].ema)

        def loss(params: PyTree, part: PyTree) -> Array:
            pair = system.prepare(part, key, augment=True)
            end, start = choose((pair.x0, pair.xT), (pair.xT, pair.x0))
            start = jax.lax.cond(
                turn == 0,
                lambda: start,
                lambda: _other_end(system.denoiser(resting, pair), system, config, end, pair),
            )
            denoise = system.denoiser(params, pair)
            return jnp.mean(matching_loss(system, config, denoise, end, start, pair))

        own = (turn // 2) * length + state.step % length  # updates of this player so far
        active, metrics = _update(active, loss, batch, config, optimizer, own, mean)
        players = {
            "teacher": choose(active, players["teacher"]),
            "forward": choose(players["forward"], active),
        }
        return State(step=state.step + 1, players=players), metrics

    return step
