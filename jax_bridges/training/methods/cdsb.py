"""CDSB: a Schroedinger bridge from a reference law to x_0 for every x_T (arXiv 2202.13460)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from jax_bridges.bridges import Bridge
from jax_bridges.corruptions import Corruption, keep_known
from jax_bridges.distillation.cdsb import reference_step, walk_path
from jax_bridges.keys import SECOND_PLAYER, Keys, Stream, fold, normal
from jax_bridges.losses import squared_error
from jax_bridges.samplers.cdsb import DRAWS, sample_cdsb
from jax_bridges.schema import COUNT, Choice, Setting, number, under, whole
from jax_bridges.training.methods.base import Grid, MakeState
from jax_bridges.training.methods.pairs import STEPS, PairMethod
from jax_bridges.training.optimizers import SETTINGS as OPTIMIZER
from jax_bridges.training.optimizers import make_optimizer
from jax_bridges.training.settings import BATCH
from jax_bridges.training.state import Player, State
from jax_bridges.training.steps import Mean, Step, gradients
from jax_bridges.training.system import Pair, System
from jax_bridges.typing import Array, PyTree

REFERENCES = ("normal", "source")

# fmt: off
SETTINGS = (
    STEPS,
    dataclasses.replace(BATCH, default=4, meaning="Paths a step, over all devices, of as many images; all "
                        "points of a path are trained at."),
    Setting("path", 20, whole(least=2), "N: steps of a path, and network calls an answer."),
    Setting("gamma_min", 5e-5, number(above=0), "Size of a path's first step from x_0, whose noise has the "
            "variance 2 gamma."),
    Setting("gamma_max", 0.2, number(above=0), "Of its last; all others linearly between. Their sum is how "
            "far a path goes: with 2 or more, two rounds are all but the last."),
    Setting("rounds", 3, COUNT, "To x_0 and to the reference law in turn, in equal parts of the steps; odd."),
    Setting("reference", "normal", Choice(REFERENCES), "The law where paths end: about 0, or about x_T "
            "(CDSB-C)."),
    Setting("reference_std", 1.0, number(above=0), "Its standard deviation."),
    *under("optimizer", OPTIMIZER),
)
# fmt: on


def gammas_of(settings) -> np.ndarray:
    """Sizes of the steps from x_0 to the reference law, `[N]`."""
    return np.linspace(settings.gamma_min, settings.gamma_max, settings.path)


def _centre(settings, pair: Pair) -> Array:
    return pair.xT if settings.reference == "source" else jnp.zeros_like(pair.xT)


def _start(settings, pair: Pair, keys: Keys) -> Array:
    """Draws of the reference law, of x_T alone."""
    noise = normal(keys, DRAWS("start"), pair.xT)
    return _centre(settings, pair) + settings.reference_std * noise


def step_of(
    system: System, settings, params: PyTree, pair: Pair, dropout: Array | None = None
) -> Callable[[Array, Array], Array]:
    """`step(x, k) -> x + network(x, k, x_T)`, k one number or `[B]`: the mean of step k of a player."""
    alone = dataclasses.replace(pair, mask=None)  # a path moves all pixels
    network = system.denoiser(params, alone, "generator", dropout=dropout)

    def step(x: Array, k: Array) -> Array:
        t = jnp.asarray(k, x.dtype) / (settings.path - 1)
        return x + network(x, t, pair.xT)

    return step


def _repeated(pair: Pair, times: int) -> Pair:
    """Each example so many times, next to each other: on the device where it is."""

    def again(a: Array) -> Array:
        shape = (len(a), times, *a.shape[1:])
        return jnp.broadcast_to(a[:, None], shape).reshape(-1, *shape[2:])

    label = None if pair.label is None else again(pair.label)
    return Pair(again(pair.x0), again(pair.xT), None, again(pair.keys), label)


def _make(system: System, settings) -> tuple[MakeState, Step]:
    length = max(settings.steps // settings.rounds, 1)
    own_steps = settings.steps - settings.rounds // 2 * length  # of the player that leads to x_0
    optimizer = make_optimizer(settings.optimizer, max(own_steps, 1))
    gammas, count = jnp.asarray(gammas_of(settings), jnp.float32), settings.path

    def make_state(key: Array, teacher: PyTree) -> State:
        del teacher
        second = jax.random.fold_in(key, SECOND_PLAYER)
        return State.create(
            generator=Player.create(system.init(key, "generator"), optimizer),
            forward=Player.create(system.init(second, "generator"), optimizer),
        )

    def step(state: State, frozen: PyTree, batch: PyTree, key: Array, mean: Mean):
        """One update of the player whose turn it is, on the paths of the one that rests."""
        del frozen
        players = state.players
        turn = jnp.minimum(state.step // length, settings.rounds - 1)
        to_x0 = turn % 2 == 0

        def choose(if_to_x0: PyTree, otherwise: PyTree) -> PyTree:
            return jax.tree.map(lambda a, b: jnp.where(to_x0, a, b), if_to_x0, otherwise)

        active = choose(players["generator"], players["forward"])
        resting = choose(players["forward"].ema, players["generator"].ema)

        def paths(pair: Pair) -> tuple[Array, Array]:
            """Points and targets: of the reference's own steps in the first turn."""
            draws = fold(pair.keys, Stream.COUPLE)
            start = choose(pair.x0, _start(settings, pair, draws))
            plain = reference_step(_centre(settings, pair), settings.reference_std)
            learnt = step_of(system, settings, resting, pair)
            return jax.lax.cond(
                turn == 0,
                lambda: walk_path(plain, start, gammas, draws),
                lambda: walk_path(
                    lambda x, k, gamma: learnt(x, k), start, choose(gammas, gammas[::-1]), draws
                ),
            )

        def loss(params: PyTree, part: PyTree) -> Array:
            pair = system.prepare(part, key, augment=True)
            points, targets = jax.lax.stop_gradient(paths(pair))
            flat = (len(pair.x0) * count, *pair.x0.shape[1:])
            points, targets = (a.swapaxes(0, 1).reshape(flat) for a in (points, targets))
            k = jnp.tile(jnp.arange(count)[::-1], len(pair.x0))
            dropout = None
            if system.networks["generator"].dropout:
                dropout = jax.random.fold_in(pair.keys[0], Stream.DROPOUT)
            back = step_of(system, settings, params, _repeated(pair, count), dropout)
            return jnp.mean(squared_error(back(points, k), targets, jnp.ones(flat[0])))

        value, grads = gradients(loss, active.params, batch, settings.microbatches, mean)
        active = active.update(grads, optimizer, state.step, settings.ema)
        trained = {
            "generator": choose(active, players["generator"]),
            "forward": choose(players["forward"], active),
        }
        metrics = {"loss": value, "gradient_norm": optax.tree.norm(grads)}
        return State(step=state.step + 1, players=trained), metrics

    return make_state, step


def _exchange(config: ConfigDict, settings) -> None:
    """Its bridge tells the network the step, as a time from 0 to 1, and nothing else."""
    del settings
    config.bridge = ConfigDict({"name": "brownian"})
    config.preconditioning = ConfigDict({"name": "none"})
    config.network.conditional = True
    if "sees_mask" in config.network:
        config.network.sees_mask = False


def _grid(bridge: Bridge, nfe: int, settings) -> np.ndarray:
    del bridge
    if nfe != settings.path:
        raise ValueError(
            f"cdsb answers in the {settings.path} network calls that it was trained for; nfe = {nfe} was "
            "asked for."
        )
    return gammas_of(settings)[::-1]


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
    gammas, length = (_grid(system.bridge, nfe, settings), None) if grid is None else grid
    start = _start(settings, pair, keys)
    step = step_of(system, settings, params, pair)
    x0 = sample_cdsb(step, start, gammas, keys, length=length)
    x0 = jnp.clip(x0, -1.0, 1.0) if clip else x0
    return keep_known(x0, pair.xT, pair.mask) if system.keep_known else x0


def _check(settings, bridge: Bridge, corruption: Corruption) -> None:
    del bridge, corruption
    if settings.gamma_min > settings.gamma_max:
        raise ValueError(
            f"baselines.cdsb.gamma_min is {settings.gamma_min}, above gamma_max, {settings.gamma_max}: steps "
            "are smallest at x_0."
        )
    if settings.gamma_max > settings.reference_std**2:
        raise ValueError(
            f"baselines.cdsb.gamma_max is {settings.gamma_max}: a step must be at most reference_std^2, "
            f"{settings.reference_std**2:g}, beyond which paths overshoot the reference law."
        )
    if settings.rounds % 2 == 0:
        raise ValueError(
            f"baselines.cdsb.rounds is {settings.rounds}: it must be odd, so that the last one leads to x_0."
        )


def _calls(settings) -> float:
    """Of one path, all of whose points are trained at; but for the first round's, each step is two calls."""
    simulated = 2 * (settings.rounds - 1) / settings.rounds
    return settings.path * (simulated + 3)


CDSB = PairMethod(
    name="cdsb",
    networks=lambda settings: {"generator": {}},
    make=_make,
    batch_shape=lambda settings: (settings.batch,),
    sample=_sample,
    grid=_grid,
    check=_check,
    calls=_calls,
    sampler="cdsb",
    settings=SETTINGS,
    of_length=lambda settings: (
        [f"baselines.cdsb.rounds is {settings.rounds}, equal parts of the steps"]
        if settings.rounds > 1
        else []
    ),
    exchange=_exchange,
    budgets=lambda settings: (settings.path,),
)
