"""What a run trains: players and a step count, one pytree without a device axis."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct, traverse_util

from jax_bridges.models.gather import never_sharded
from jax_bridges.platforms import packs_small_leaves
from jax_bridges.training.optimizers import ema_update
from jax_bridges.training.packing import Packing
from jax_bridges.typing import Array, PyTree


class Player(struct.PyTreeNode):
    """One network: parameters, their moving average, and the optimiser's state."""

    params: PyTree
    ema: PyTree
    opt: PyTree

    @classmethod
    def create(
        cls,
        params: PyTree,
        optimizer: optax.GradientTransformation,
        ema: PyTree | None = None,
    ) -> Player:
        """A player at step 0; the average, of `ema` or of its own, is a copy: buffers can be donated."""
        ema = jax.tree.map(jnp.copy, params if ema is None else ema)
        return cls(params=params, ema=ema, opt=optimizer.init(params))

    def update(
        self,
        grads: PyTree,
        optimizer: optax.GradientTransformation,
        step: Array,
        decay: float,
        *,
        warmup: bool = True,
    ) -> Player:
        """One optax update and one update of the average; neither if a gradient is not finite.

        `step`, `decay` and `warmup` are those of `ema_update`.
        """
        packing = Packing(self.params, never_sharded() if packs_small_leaves() else 0)
        grads, params, ema, old = map(packing.pack, (grads, self.params, self.ema, self.opt))
        updates, opt = optimizer.update(grads, old, params)
        params = optax.apply_updates(params, updates)
        moved = ema_update(ema, params, step, decay, warmup)
        ema = jax.tree.map(lambda new, old: jnp.where(opt.last_finite, new, old), moved, ema)
        return Player(*map(packing.unpack, (params, ema, opt)))

    @property
    def skipped(self) -> Array:
        """Updates left out so far because a gradient was not finite."""
        return self.opt.total_notfinite

    @property
    def skipped_in_a_row(self) -> Array:
        """Such updates since the last good one."""
        return self.opt.notfinite_count


class State(struct.PyTreeNode):
    """`players` by name ("teacher"; or "generator" and "bridge_net"), and the number of steps done."""

    step: Array
    players: dict[str, Any]

    @classmethod
    def create(cls, **players: Player) -> State:
        """A state at step 0."""
        return cls(step=jnp.zeros((), jnp.int32), players=players)


def graft(teacher: PyTree, student: PyTree) -> PyTree:
    """The student's tree with every leaf that the teacher has taken from the teacher.

    What the student has besides (its noise input) keeps its own, zero, initial value.

    Raises:
      ValueError: the teacher has a leaf that the student lacks, or one of another shape.
    """
    ours: dict[str, Any] = traverse_util.flatten_dict(student, sep="/")
    theirs: dict[str, Any] = traverse_util.flatten_dict(teacher, sep="/")
    for name, value in theirs.items():
        if name not in ours or ours[name].shape != value.shape:
            found = ours[name].shape if name in ours else "nothing"
            raise ValueError(
                f"The teacher's '{name}' {value.shape} meets {found} in the student: "
                "both must be the same network."
            )
        ours[name] = jnp.copy(value)
    return traverse_util.unflatten_dict(ours, sep="/")
