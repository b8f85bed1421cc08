"""The teacher's step, and what all share: `step(state, frozen, batch, key, mean)` of one device.

`mean` averages a tree over devices: the identity under `jit` (where a batch is one global array), a
`pmean` under `pmap`. training/parallel.py wraps a step; nothing here knows how.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from jax_bridges.bridges import Bridge
from jax_bridges.choices import look_up
from jax_bridges.keys import ONLY, Stream, fold, normal, uniform
from jax_bridges.losses import bridge_matching
from jax_bridges.platforms import unroll_gradients
from jax_bridges.schema import FLAG, Choice, Setting, number
from jax_bridges.times import TRAINING_TIMES, training_times
from jax_bridges.training.state import State
from jax_bridges.training.system import Pair, System
from jax_bridges.typing import Array, Denoiser, PyTree

Mean = Callable[[PyTree], PyTree]
Step = Callable[..., tuple[State, dict[str, Array]]]
View = Callable[[PyTree, Pair, Array | None], tuple[Denoiser, Pair]]

WEIGHTS = {
    "native": lambda system, t, xT: system.preconditioning.weight(system.bridge, t, xT),
    "one": lambda system, t, xT: jnp.ones_like(t),
    "inverse_sigma": lambda system, t, xT: 1.0 / system.bridge.sigma(t),
}


# fmt: off
TIMES = Setting("times", "uniform", Choice(TRAINING_TIMES), "Law of the times t of the loss.")
WEIGHT = Setting(
    "weight", "one", Choice(WEIGHTS), "lambda(t) of the loss: native to the preconditioning, one, or "
    "inverse_sigma (1 / sigma_t: errors at small t count more).")
WEIGHT_MAX = Setting("weight_max", 0.0, number(least=0), "Upper bound of lambda; 0: none.")
HOLE_MEAN = Setting(
    "hole_mean", False, FLAG, "An example's mean square is over its hole alone, not over the image: thin "
    "holes count as much as wide ones.")
# fmt: on


def step_calls(train) -> int:
    """What a step of the teacher costs an example by `config.train`, in network calls (`Method.calls`)."""
    made = 0 if train.mode == "bridge" else train.simulation_steps  # DSBM's first round has none
    return 3 + made


def hole_weight(pair: Pair) -> Array:
    """`[B]`, pixels of the image over those of the hole; 1 where there is no hole."""
    if pair.mask is None:
        return jnp.ones(pair.x0.shape[:1], pair.x0.dtype)
    return _over_share(pair.mask)


def _over_share(mask: Array) -> Array:
    """`[B]`, pixels of the image over those of the mask."""
    share = jnp.mean(mask, axis=(1, 2, 3))
    return 1.0 / jnp.where(share > 0, share, 1.0)


def time_weight(
    system: System, name: str, bound: float, t: Array, xT: Array | None = None
) -> Array:
    """lambda(t) by name, no larger than `bound` (0: unbounded); `[B]`.

    Args:
      t: `[B]`.
      xT: `[B, H, W, C]`, of which a preconditioning's own weight may depend.
    """
    weight = look_up("loss weight", WEIGHTS, name)(system, t, xT)
    return jnp.minimum(weight, bound) if bound else weight


def draw_times(system: System, config, pair: Pair, below: Array | None = None) -> Array:
    """Times `[B]` by `config.times`; see `times.training_times`."""
    u = uniform(fold(pair.keys, Stream.TIME), ONLY)
    return training_times(config.times, system.bridge, u, below)


def tilted(bridge: Bridge, weight: Array, power: float, t: Array) -> Array:
    """`10^(power (1 - t / T)) weight`, `[B]`; on a table of n entries `1 - index / n` (IBMD's code)."""
    if not power:
        return weight
    share = t / bridge.T
    if bridge.table is not None:
        share = bridge.index(t).astype(t.dtype) / bridge.table
    return weight * 10.0 ** (power * (1.0 - share))


def gradients(
    loss: Callable,
    params: PyTree,
    batch: PyTree,
    microbatches: int,
    mean: Mean,
    *,
    names: tuple[str, ...] | None = None,
):
    """Loss and gradient over the batch, accumulated over `microbatches` equal parts of it.

    Args:
      loss: `loss(params, part) -> scalar`, a plain mean over the part.
      batch: leaves `[B, ...]`; B is divisible by `microbatches`.
      names: the loss is `loss(params, part, number) -> {name: scalar}` of these names, of which the sum is
        differentiated, and is told which of the parts it sees.

    Returns:
      (scalar or {name: scalar}, gradient), averaged over devices by `mean`.
    """

    def total_loss(params: PyTree, part: PyTree, number: Array):
        losses = loss(params, part) if names is None else loss(params, part, number)
        return (losses if names is None else sum(losses.values())), losses

    def of_part(part: PyTree, number: Array):
        grads, losses = jax.grad(total_loss, has_aux=True)(params, part, number)
        return losses, grads

    if microbatches == 1:
        return mean(of_part(batch, jnp.int32(0)))
    # Part k has every so-manieth example from the k-th on: as many of each device. In parts that are
    # pieces of the batch, each would lie on a few devices, and the others would wait or repeat it.
    parts = jax.tree.map(lambda a: a.reshape(-1, microbatches, *a.shape[1:]).swapaxes(0, 1), batch)

    def add(total, part):
        return optax.tree.add(total, of_part(*part)), None

    nothing = jnp.zeros(()) if names is None else {name: jnp.zeros(()) for name in names}
    zero = (nothing, optax.tree.zeros_like(params))
    numbered = (parts, jnp.arange(microbatches))
    total, _ = jax.lax.scan(add, zero, numbered, unroll=unroll_gradients(microbatches))
    return mean(optax.tree.scale(1.0 / microbatches, total))


def matching_loss(
    system: System, config, denoise: Denoiser, x0: Array, xT: Array, pair: Pair
) -> Array:
    """Bridge matching from xT to x0 at the pair's times and noise, `[B]`, by the settings of the training.

    Where some pixels alone count, their mean.
    """
    t = draw_times(system, config, pair)
    noise = normal(fold(pair.keys, Stream.NOISE), ONLY, x0)
    weight = time_weight(system, config.weight, config.weight_max, t, xT)
    if config.get("hole_mean", False):
        weight = weight * hole_weight(pair)
    if pair.counted is not None:
        weight = weight * _over_share(pair.counted)
    return bridge_matching(denoise, system.bridge, x0, xT, t, noise, weight, pair.counted)


def make_held_out_loss(system: System, config) -> Callable[[PyTree, PyTree, Array], Array]:
    """`loss(params, batch, key) -> [B]`, the teacher's step's own, without augmentation and dropout."""

    def loss(params: PyTree, batch: PyTree, key: Array) -> Array:
        pair = system.prepare(batch, key, augment=False)
        denoise = system.denoiser(params, pair)
        return matching_loss(system, config, denoise, pair.x0, pair.xT, pair)

    return loss


def make_teacher_step(
    system: System,
    config,
    optimizer: optax.GradientTransformation,
    player: str = "teacher",
    view: View | None = None,
) -> Step:
    """Bridge matching: one optax update of one player a batch `[B, ...]`.

    Args:
      config: `config.train`, or what has its keys.
      view: `view(params, pair, dropout) -> (denoise, pair)`, what is trained on which pair; its own
        denoiser and the pair itself by default.
    """

    def own(params: PyTree, pair: Pair, dropout: Array | None) -> tuple[Denoiser, Pair]:
        return system.denoiser(params, pair, player, dropout=dropout), pair

    view = view or own

    def step(state: State, frozen: PyTree, batch: PyTree, key: Array, mean: Mean):
        del frozen

        def loss(params: PyTree, part: PyTree) -> Array:
            pair = system.prepare(part, key, augment=True)
            dropout = None
            if system.networks[player].dropout:
                dropout = jax.random.fold_in(pair.keys[0], Stream.DROPOUT)
            denoise, pair = view(params, pair, dropout)
            return jnp.mean(matching_loss(system, config, denoise, pair.x0, pair.xT, pair))

        trained = state.players[player]
        value, grads = gradients(loss, trained.params, batch, config.microbatches, mean)
        trained = trained.update(grads, optimizer, state.step, config.ema)
        metrics = {"loss": value, "gradient_norm": optax.tree.norm(grads)}
        return State(step=state.step + 1, players={player: trained}), metrics

    return step
