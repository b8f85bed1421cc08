"""Palette: a diffusion that is told x_T (arXiv 2111.05826)."""

from __future__ import annotations

from functools import partial

import numpy as np
from ml_collections import ConfigDict

from jax_bridges.bridges import Bridge, Diffusion
from jax_bridges.corruptions import Corruption, keep_known
from jax_bridges.keys import Keys
from jax_bridges.samplers.levels import VARIANCES, level_steps, sample_levels
from jax_bridges.schema import COUNT, FLAG, SHARE, Choice, Each, Setting, under
from jax_bridges.training.methods.base import Grid, MakeState
from jax_bridges.training.methods.pairs import STEPS, PairMethod, matching
from jax_bridges.training.optimizers import SETTINGS as OPTIMIZER
from jax_bridges.training.optimizers import make_optimizer
from jax_bridges.training.state import Player, State
from jax_bridges.training.steps import HOLE_MEAN, Step, View, make_teacher_step
from jax_bridges.training.system import Pair, System
from jax_bridges.typing import Array, Denoiser, PyTree

# fmt: off
# Of every diffusion that is told x_T.
CONDITIONAL = (
    STEPS,
    Setting("nfe", (10, 100), Each(COUNT, least=1, unique=True), "Network calls an image."),
    Setting("preconditioning", "epsilon", Choice(("epsilon", "unit_variance")), "Scalings around the "
            "network: epsilon is the paper's; unit_variance trusts x_t where there is little noise."),
    Setting("variance", "small", Choice(VARIANCES), "Of a step's noise: small, the posterior's; large, that "
            "of the step up. Few steps of the small one give answers too alike, of the large one too "
            "different ones."),
    Setting("eta", 1.0, SHARE, "Share of that noise: 1 is DDPM's sampling, 0 is DDIM's."),
    *under("optimizer", OPTIMIZER),
)
SETTINGS = (
    *CONDITIONAL,
    HOLE_MEAN,
    Setting("known_in_input", True, FLAG, "Where there is a hole, the network sees the known pixels of x_t "
            "clean."),
)
# fmt: on


def known_in_input(denoise: Denoiser, pair: Pair) -> Denoiser:
    """`denoise` with the known pixels of x_t as x_T has them."""
    if pair.mask is None:
        return denoise
    mask = pair.mask

    def wrapped(xt: Array, t: Array, xT: Array) -> Array:
        return denoise(keep_known(xt, xT, mask), t, xT)

    return wrapped


def make_conditional(system: System, settings, view: View) -> tuple[MakeState, Step]:
    """What `Method.make` gives for a diffusion whose network sees x_T; `view` as of `make_teacher_step`."""
    optimizer = make_optimizer(settings.optimizer, settings.steps)

    def make_state(key: Array, teacher: PyTree) -> State:
        del teacher
        return State.create(generator=Player.create(system.init(key, "generator"), optimizer))

    read = ("hole_mean", "microbatches", "ema")
    train = matching(**{key: settings[key] for key in read if key in settings})
    return make_state, make_teacher_step(system, train, optimizer, "generator", view)


def conditional_network(config: ConfigDict, settings) -> None:
    """A network that sees x_T, predicting noise, in a copy of the run's configuration."""
    config.preconditioning = ConfigDict({"name": settings.preconditioning})
    config.network.conditional = True


def sample_conditional(denoise: Denoiser, pair: Pair, keys: Keys, settings, grid: Grid) -> Array:
    """The answer of a diffusion that sees x_T, by the steps of `grid`; it is always clipped."""
    steps, length = grid
    knobs = {"eta": settings.eta, "variance": settings.variance}
    return sample_levels(denoise, pair.xT, steps, keys, **knobs, length=length)


def _grid(bridge: Bridge, nfe: int, settings) -> np.ndarray:
    del settings
    assert isinstance(bridge, Diffusion)
    return level_steps(bridge.levels(nfe))


def _view(system: System, settings, params: PyTree, pair: Pair, dropout: Array | None = None):
    denoise = system.denoiser(params, pair, "generator", dropout=dropout)
    return (known_in_input(denoise, pair) if settings.known_in_input else denoise), pair


def _exchange(config: ConfigDict, settings) -> None:
    config.bridge = ConfigDict({"name": "palette"})
    conditional_network(config, settings)


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
    del clip
    denoise, pair = _view(system, settings, params, pair)
    steps = (_grid(system.bridge, nfe, settings), None) if grid is None else grid
    return sample_conditional(denoise, pair, keys, settings, steps)


def check_levels(part: str, table: int, settings, bridge: Bridge, corruption: Corruption) -> None:
    """ValueError for more network calls than the table for sampling has levels."""
    del bridge, corruption
    if max(settings.nfe) > table:
        raise ValueError(
            f"baselines.{part}.nfe is {tuple(settings.nfe)}: each must be 1 to {table}, the levels of its "
            "table."
        )


PALETTE = PairMethod(
    name="palette",
    networks=lambda settings: {"generator": {}},
    make=lambda system, settings: make_conditional(
        system, settings, partial(_view, system, settings)
    ),
    batch_shape=lambda settings: (settings.batch,),
    sample=_sample,
    grid=_grid,
    check=partial(check_levels, "palette", 1000),
    calls=lambda settings: 3,
    sampler="palette",
    settings=SETTINGS,
    exchange=_exchange,
    budgets=lambda settings: tuple(settings.nfe),
)
