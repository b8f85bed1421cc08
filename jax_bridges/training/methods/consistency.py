"""Consistency students as they are trained: CBD and CBT (CDBM, arXiv 2410.22637)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import jax.numpy as jnp
import numpy as np
import optax

from jax_bridges.bridges import Bridge
from jax_bridges.choices import look_up
from jax_bridges.corruptions import Corruption
from jax_bridges.distillation import consistency
from jax_bridges.keys import ONLY, Keys, Stream, fold, normal, uniform
from jax_bridges.samplers import sample_consistency
from jax_bridges.schema import COUNT, FLAG, Choice, Setting, number, under
from jax_bridges.times import consistency_grid, training_times
from jax_bridges.training.methods.base import Grid, MakeState, Method
from jax_bridges.training.optimizers import SETTINGS as OPTIMIZER
from jax_bridges.training.optimizers import make_optimizer
from jax_bridges.training.settings import SHARED, distill_part
from jax_bridges.training.state import Player, State, graft
from jax_bridges.training.steps import TIMES, Mean, Step, gradients
from jax_bridges.training.system import Pair, System
from jax_bridges.typing import Array, Denoiser, PyTree

TARGETS = ("copy", "ema")

# fmt: off
# CDBM publishes none of these.
_ROWS = (
    Setting("steps", 200, COUNT, "Updates."),
    Setting("z_scale", 1.0, number(least=0), "Factor of the noise input, here the bridge's noise in x_t."),
    Setting("gamma", 0.01, number(above=0, below=1),
            "Students are trained and start at T - gamma, in units of T: at T paths meet; the start lacks "
            "x_0's share, by which a student learns to read the mean colour."),
    Setting("boot", False, FLAG, "With 2 calls or more the first is spent on x_0's share of the start."),
    TIMES,
    Setting("gap", "constant", Choice(consistency.GAPS), "Between t and its neighbour r: constant (dt), or "
            "shrinking in the course of the training."),
    Setting("dt", 0.05, number(above=0, below=1), "Gap constant: t - r, in units of T."),
    Setting("halvings", 6, COUNT, "Gap shrinking: t - r ends at 2^-halvings t."),
    Setting("gap_k", 8.0, number(), "Gap shrinking: it is larger by 1 + k sigmoid(-b t / T)."),
    Setting("gap_b", 10.0, number(), "Gap shrinking: b."),
    Setting("gap_weight", "one", Choice(consistency.GAP_WEIGHTS), "lambda of the loss."),
    Setting("distance", "pseudo_huber", Choice(consistency.DISTANCES), "Between two answers."),
    Setting("distance_scale", 0.03, number(least=0),
            "Distance pseudo_huber: root mean square above which errors count once."),
    Setting("target", "copy", Choice(TARGETS), "theta-: a copy of theta, or its average, ema."),
    *under("optimizer", OPTIMIZER, learning_rate=3e-5),
)
# fmt: on


def consistency_settings(**defaults) -> tuple[Setting, ...]:
    """What CBD or CBT reads; `defaults` are those in which it differs."""
    own = (replace(row, default=defaults.get(row.key, row.default)) for row in _ROWS)
    return (*own, *SHARED.values())


def student_denoiser(system: System, params: PyTree, pair: Pair) -> Denoiser:
    """The x0-predictor inside a consistency student; its noise input is fed the bridge's own noise."""
    generate = system.generator(params, pair)

    def denoise(xt: Array, t: Array, xT: Array) -> Array:
        return generate(xt, t, xT, consistency.bridge_residual(system.bridge, xt, t, xT))

    return denoise


def student_function(system: System, params: PyTree, pair: Pair) -> Denoiser:
    """The consistency function `h(x_t, t, x_T)` of a student's parameters; known pixels are x_T's."""
    h = consistency.consistency_function(student_denoiser(system, params, pair), system.bridge)
    return system.known(h, pair)


def make_consistency_step(
    system: System, config, optimizer: optax.GradientTransformation, *, from_teacher: bool
) -> Step:
    """One optax update of the player "generator" a batch `[B, ...]`.

    `frozen` holds the teacher's parameters.

    Args:
      config: settings of the method (`distill_settings`).
      from_teacher: the neighbour x_r is the teacher's ODE step (CBD), or the data's (CBT).
    """
    bridge = system.bridge
    gap = look_up("gap between times", consistency.GAPS, config.gap)
    weigh = look_up("weight of a gap", consistency.GAP_WEIGHTS, config.gap_weight)

    def step(state: State, frozen: PyTree, batch: PyTree, key: Array, mean: Mean):
        generator = state.players["generator"]
        fixed = generator.ema if config.target == "ema" else generator.params
        progress = state.step / config.steps

        def loss(params: PyTree, part: PyTree) -> Array:
            pair = system.prepare(part, key, augment=True)
            t = training_times(config.times, bridge, uniform(fold(pair.keys, Stream.TIME), ONLY))
            gamma = 0.0 if bridge.deterministic else config.gamma
            t = consistency.usable_times(bridge, t, gamma * bridge.T)
            r = gap(bridge, t, progress, config)
            noise = normal(fold(pair.keys, Stream.NOISE), ONLY, pair.x0)
            xt = bridge.sample(pair.x0, pair.xT, t, noise)
            if from_teacher:
                teacher = system.denoiser(frozen, pair)
                xr = consistency.teacher_neighbour(teacher, bridge, xt, pair.xT, t, r)
            else:
                xr = consistency.data_neighbour(bridge, pair.x0, pair.xT, noise, r)
            return jnp.mean(
                consistency.consistency_loss(
                    student_function(system, params, pair), student_function(system, fixed, pair),
                    xt, xr, pair.xT, t, r, weigh(t, r),
                    distance=config.distance, scale=config.distance_scale,
                )
            )  # fmt: skip

        value, grads = gradients(loss, generator.params, batch, config.microbatches, mean)
        generator = generator.update(grads, optimizer, state.step, config.ema)
        metrics = {"loss": value, "gradient_norm": optax.tree.norm(grads)}
        return State(step=state.step + 1, players={"generator": generator}), metrics

    return step


def _make(system: System, settings, *, from_teacher: bool) -> tuple[MakeState, Step]:
    optimizer = make_optimizer(settings.optimizer, settings.steps)

    def make_state(key: Array, teacher: PyTree) -> State:
        generator = graft(teacher, system.init(key, "generator"))
        return State.create(generator=Player.create(generator, optimizer))

    step = make_consistency_step(system, settings, optimizer, from_teacher=from_teacher)
    return make_state, step


def _boots(bridge: Bridge, nfe: int, settings) -> bool:
    return settings.boot and nfe > 1 and not bridge.deterministic


def _grid(bridge: Bridge, nfe: int, settings) -> np.ndarray:
    gamma = settings.gamma * float(bridge.T)
    return consistency_grid(bridge, nfe - _boots(bridge, nfe, settings), gamma)


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
    boot = _boots(system.bridge, nfe, settings)
    return sample_consistency(
        student_function(system, params, pair),
        system.bridge,
        pair.xT,
        times,
        keys,
        boot=student_denoiser(system, params, pair) if boot else None,
        clip=clip,
        length=length,
    )


def _check(settings, bridge: Bridge, corruption: Corruption) -> None:
    del corruption
    part = distill_part(settings.method)
    if settings.z_channels == 1:
        raise ValueError(
            f"distill.z_channels is 1, but a student of {settings.method} is fed the bridge's noise, which "
            "has an image's channels: set it to 3, or to 0."
        )
    grain = consistency.grain(bridge) / float(bridge.T)
    for key in ("gamma", "dt"):
        if settings[key] < grain:
            raise ValueError(
                f"{part}.{key} is {settings[key]}: it must be at least {grain:.2g}, for times closer than "
                "that are one to this bridge."
            )
    if settings.distance == "pseudo_huber" and settings.distance_scale <= 0:
        raise ValueError(
            f"{part}.distance_scale is {settings.distance_scale}: pseudo_huber's gradient needs one "
            "above 0; give distance 'l2' for none."
        )


def _of_length(settings) -> list[str]:
    if settings.gap != "shrinking":
        return []
    return [f"{distill_part(settings.method)}.gap is 'shrinking', in the course of all steps"]


def _method(name: str, *, from_teacher: bool, **defaults) -> Method:
    return Method(
        name,
        networks=lambda settings: {"generator": {"z_channels": settings.z_channels}},
        make=partial(_make, from_teacher=from_teacher),
        batch_shape=lambda settings: (settings.batch,),
        sample=_sample,
        grid=_grid,
        check=_check,
        # The student there and back, its target, and CBD's teacher.
        calls=lambda settings: 3 + 1 + from_teacher,
        sampler=name,
        settings=consistency_settings(**defaults),
        of_length=_of_length,
    )


CBD = _method("cbd", from_teacher=True)
CBT = _method("cbt", from_teacher=False, gap="shrinking", gap_weight="inverse_gap")
