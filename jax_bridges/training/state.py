"""What a run trains: players and a step count, one pytree without a device axis."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct, traverse_util

from jax_bridges.training.optimizers import ema_update
from jax_bridges.typing import Array, PyTree


class Player(struct.PyTreeNode):
    """One network: parameters, their moving average, and the optimiser's state."""

    params: PyTree
    ema: PyTree
    opt: PyTree

    @classmethod
    def create(cls, params: PyTree, optimizer: optax.GradientTransformation) -> Player:
        """A player at step 0; the average is a copy of its own, so that buffers can be donated."""
        return cls(params=params, ema=jax.tree.map(jnp.copy, params), opt=optimizer.init(params))

    def update(
        self, grads: PyTree, optimizer: optax.GradientTransformation, step: Array, decay: float
    ) -> Player:
        """One optax update and one update of the average; neither if a gradient is not finite."""
        updates, opt = optimizer.update(grads, self.opt, self.params)
        params = optax.apply_updates(self.params, updates)
        moved = ema_update(self.ema, params, step, decay)
        ema = jax.tree.map(lambda new, old: jnp.where(opt.last_finite, new, old), moved, self.ema)
        return Player(params=params, ema=ema, opt=opt)

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
