"""What a way to learn a prior from observations alone is: one `PriorMethod`, made in a file of its own.

All train the player "teacher" of a diffusion prior on batches of `data.Observations`, by the settings of
`config.train` and a few of their own, `config.em.METHOD`. Most give a prior like any other; what does not
says how it is sampled.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jax_bridges.bridges import Bridge, Levels
from jax_bridges.corruptions import Corruption
from jax_bridges.keys import Stream
from jax_bridges.schema import Setting
from jax_bridges.training.state import State
from jax_bridges.training.steps import Mean, Step, gradients
from jax_bridges.training.system import Pair, System
from jax_bridges.typing import Array, Denoiser, PyTree
from jax_bridges.zero_shot import Solver

# Its mean is minimised: `loss(denoise, pair, step) -> [B]`, of an augmented pair whose x0 is y.
Loss = Callable[[Denoiser, Pair, Array], Array]


@dataclasses.dataclass(frozen=True)
class Task:
    """What was observed of every image.

    Attributes:
      corruption: linear once its mask is known.
      sigma_y: standard deviation of the noise, in units of images in [-1, 1].
      size: (H, W) of the images.
    """

    corruption: Corruption
    sigma_y: float
    size: tuple[int, int]


def all_levels(bridge: Bridge, levels: Levels, sigma_y: float) -> Levels:
    """The levels of a prior that was trained at all of them: those."""
    del bridge, sigma_y
    return levels


@dataclasses.dataclass(frozen=True)
class PriorMethod:
    """One method. `settings` of its functions is what `config.em.NAME` holds.

    Attributes:
      name: its key in PRIOR_METHODS.
      make: `make(system, train, settings, task) -> loss`, see `Loss`; `train` is `config.train`.
      check: `check(settings, task)`, a ValueError for a task that it cannot be trained on.
      calls: what a step costs an example, in network calls, as of `Method.calls`.
      settings: the rows of its own.
      told: the network sees, as x_T, which pixels of x_t are known.
      sample: `sample(denoise, like, levels, keys, settings, task) -> x0 [B, H, W, C]`, images out of
        nothing, of the shape of `like`; None: by any sampler of a prior.
      solver: a solver of zero_shot's kind, whose denoiser is told x_T and whose knobs are `settings` and
        `task`; None: any of them will do.
      levels: `levels(bridge, levels, sigma_y)`, those of a sampler's at which it was trained.
    """

    name: str
    make: Callable[[System, Any, Any, Task], Loss]
    check: Callable[[Any, Task], None]
    calls: float
    settings: tuple[Setting, ...]
    told: bool = False
    sample: Callable[..., Array] | None = None
    solver: Solver | None = None
    levels: Callable[[Bridge, Levels, float], Levels] = all_levels


def make_prior_step(
    method: PriorMethod,
    system: System,
    config,
    settings,
    task: Task,
    optimizer: optax.GradientTransformation,
) -> Step:
    """One optax update of the player "teacher" a batch of observations `[B, ...]`.

    Args:
      config: `config.train`.
      settings: `config.em.METHOD`.
    """
    loss = method.make(system, config, settings, task)

    def step(state: State, frozen: PyTree, batch: PyTree, key: Array, mean: Mean):
        del frozen
        teacher = state.players["teacher"]

        def of_part(params: PyTree, part: PyTree) -> Array:
            pair = observed_pair(system, part, key)
            dropout = None
            if system.teacher.dropout:
                dropout = jax.random.fold_in(pair.keys[0], Stream.DROPOUT)
            denoise = system.denoiser(params, pair, dropout=dropout)
            return jnp.mean(loss(denoise, pair, state.step))

        value, grads = gradients(of_part, teacher.params, batch, config.microbatches, mean)
        teacher = teacher.update(grads, optimizer, state.step, config.ema)
        metrics = {"loss": value, "gradient_norm": optax.tree.norm(grads)}
        return State(step=state.step + 1, players={"teacher": teacher}), metrics

    return step


def observed_pair(system: System, batch: Mapping[str, Array], key: Array) -> Pair:
    """A batch of observations of the images' size, augmented: x0 is y, xT is 1 on known pixels.

    Turned and mirrored together, they are an observation of an image that is as likely.
    """
    y = batch["y"]
    kept = 1.0 - batch["mask"].astype(y.dtype) if "mask" in batch else jnp.ones_like(y)
    kept = jnp.broadcast_to(kept, y.shape)
    return system.prepare({"x0": y, "xT": kept, "index": batch["index"]}, key, augment=True)


def sees_all(task: Task) -> bool:
    """Whether nothing but noise lies between an image and its observation."""
    one = jnp.arange(task.size[0] * task.size[1] * 3.0).reshape(1, *task.size, 3)
    if not task.corruption.linear:
        return False
    y = task.corruption.operator(None).forward(one)
    return y.shape == one.shape and bool(jnp.array_equal(y, one))


def hides_pixels(task: Task) -> bool:
    """Whether an observation lacks pixels, others in each image, and nothing else."""
    if task.corruption.linear or task.corruption.masks != "needed":
        return False
    return task.corruption.operator(jnp.zeros((1, *task.size, 1))).holes_alone


def name_of(corruption: Corruption) -> str:
    """What a corruption is called in messages."""
    return type(corruption).__name__
