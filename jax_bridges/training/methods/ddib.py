"""DDIB: two diffusion priors, of the images x_0 and of the images x_T (arXiv 2203.08382)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from jax_bridges.bridges import DDPM, Bridge
from jax_bridges.corruptions import Corruption, keep_known, make_corruption
from jax_bridges.keys import SECOND_PLAYER, Keys, Stream
from jax_bridges.samplers.ddib import ddib_steps, sample_ddib
from jax_bridges.schema import COUNT, Choice, Each, Setting, under
from jax_bridges.training.methods.base import Grid, MakeState
from jax_bridges.training.methods.pairs import STEPS, PairMethod, matching
from jax_bridges.training.optimizers import SETTINGS as OPTIMIZER
from jax_bridges.training.optimizers import make_optimizer
from jax_bridges.training.state import Player, State
from jax_bridges.training.steps import TIMES, Mean, Step, gradients, matching_loss
from jax_bridges.training.system import Pair, System
from jax_bridges.typing import Array, Denoiser, PyTree

TARGET, SOURCE = "target", "source"  # the two networks, both of the one player that is sampled

# fmt: off
SETTINGS = (
    STEPS,
    Setting("nfe", (100, 200), Each(COUNT, least=1, unique=True), "Network calls an image, half of them to "
            "noise and half back."),
    Setting("preconditioning", "wiener", Choice(("wiener", "unit_variance", "epsilon")), "Scalings of both "
            "networks, as of a prior."),
    dataclasses.replace(TIMES, default="towards_clean"),
    *under("optimizer", OPTIMIZER),
)
# fmt: on


def _init(system: System, key: Array) -> PyTree:
    second = jax.random.fold_in(key, SECOND_PLAYER)
    return {TARGET: system.init(key, "generator"), SOURCE: system.init(second, "generator")}


def prior_of(
    system: System, params: PyTree, which: str, pair: Pair, dropout: Array | None = None
) -> Denoiser:
    """The denoiser of one of the two, which knows nothing of the other's image of the pair, nor of holes."""
    alone = dataclasses.replace(pair, mask=None)
    return system.denoiser(params[which], alone, "generator", dropout=dropout)


def _make(system: System, settings) -> tuple[MakeState, Step]:
    optimizer, train = (
        make_optimizer(settings.optimizer, settings.steps),
        matching(times=settings.times),
    )

    def make_state(key: Array, teacher: PyTree) -> State:
        del teacher
        return State.create(generator=Player.create(_init(system, key), optimizer))

    def step(state: State, frozen: PyTree, batch: PyTree, key: Array, mean: Mean):
        del frozen
        generator = state.players["generator"]

        def losses(params: PyTree, part: PyTree, number: Array) -> dict[str, Array]:
            del number
            pair = system.prepare(part, key, augment=True)
            dropout = None
            if system.networks["generator"].dropout:
                dropout = jax.random.fold_in(pair.keys[0], Stream.DROPOUT)

            def of(which: str, image: Array) -> Array:
                denoise = prior_of(system, params, which, pair, dropout)
                return jnp.mean(matching_loss(system, train, denoise, image, image, pair))

            # One time and noise for both: networks that share nothing do not notice.
            return {"target_loss": of(TARGET, pair.x0), "source_loss": of(SOURCE, pair.xT)}

        found, grads = gradients(
            losses, generator.params, batch, settings.microbatches, mean,
            names=("target_loss", "source_loss"),
        )  # fmt: skip
        generator = generator.update(grads, optimizer, state.step, settings.ema)
        metrics = {"loss": sum(found.values()), **found, "gradient_norm": optax.tree.norm(grads)}
        return State(step=state.step + 1, players={"generator": generator}), metrics

    return make_state, step


def _exchange(config: ConfigDict, settings) -> None:
    config.bridge = ConfigDict({"name": "ddpm"})
    config.preconditioning = ConfigDict({"name": settings.preconditioning})
    config.network.conditional = False
    if "sees_mask" in config.network:
        config.network.sees_mask = False


def _why_not(config: ConfigDict, settings) -> str:
    del settings
    if make_corruption(**config.corruption).fills == "noise":
        return "the holes of x_T hold noise, which a prior of such images would have to learn"
    return ""


def _grid(bridge: Bridge, nfe: int, settings) -> np.ndarray:
    del settings
    assert isinstance(bridge, DDPM)
    if nfe % 2:
        raise ValueError(
            f"ddib spends half of its network calls on the way to noise; nfe = {nfe} is odd."
        )
    return ddib_steps(bridge.levels(nfe // 2, "respaced"))


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
    del keys, clip
    steps, length = (_grid(system.bridge, nfe, settings), None) if grid is None else grid
    encode, decode = (prior_of(system, params, which, pair) for which in (SOURCE, TARGET))
    x0 = sample_ddib(encode, decode, pair.xT, steps, length=length)
    return keep_known(x0, pair.xT, pair.mask) if system.keep_known else x0


def _check(settings, bridge: Bridge, corruption: Corruption) -> None:
    del corruption
    assert isinstance(bridge, DDPM)
    if any(n % 2 or n > 2 * bridge.steps for n in settings.nfe):
        raise ValueError(
            f"baselines.ddib.nfe is {tuple(settings.nfe)}: each must be an even number up to "
            f"{2 * bridge.steps}, half of the calls for each way."
        )


DDIB = PairMethod(
    name="ddib",
    networks=lambda settings: {"generator": {}},
    make=_make,
    batch_shape=lambda settings: (settings.batch,),
    sample=_sample,
    grid=_grid,
    check=_check,
    calls=lambda settings: 2 * 3,
    sampler="ddib",
    settings=SETTINGS,
    exchange=_exchange,
    why_not=_why_not,
    budgets=lambda settings: tuple(settings.nfe),
    init=_init,
    varies=False,
)
