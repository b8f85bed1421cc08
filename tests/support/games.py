"""A few steps of training of which every number is compared: on one device, on eight, on two hosts."""

from __future__ import annotations

import jax
import numpy as np

from jax_bridges.training.system import System
from tests.support.toy import image_batch, small_config

BATCH, STEPS, UPDATES = 16, 5, 2


def make_system():
    config = small_config(**{"distill.student_steps": 2})
    config.distill.bridge_updates = UPDATES
    return config, System.create(config)


def batch(step, group=None):
    """Draws in the order of the run, whatever is done with them."""
    if group is None:
        return image_batch(BATCH, step * BATCH)
    parts = [image_batch(BATCH, (step * group + k) * BATCH) for k in range(group)]
    return jax.tree.map(lambda *a: np.stack(a), *parts)


def difference(a, b):
    """Largest absolute difference of parameters and averages of all players."""
    pairs = (
        np.abs(np.asarray(x) - np.asarray(y)).max()
        for name in a.players
        for field in ("params", "ema")
        for x, y in zip(
            jax.tree.leaves(getattr(a.players[name], field)),
            jax.tree.leaves(getattr(b.players[name], field)),
            strict=True,
        )
    )
    return float(max(pairs))


def moved(state, start):
    """Smallest movement of a player's parameters: a game in which nobody moves compares well."""
    return min(
        max(
            float(np.abs(np.asarray(a) - b).max())
            for a, b in zip(*map(jax.tree.leaves, pair), strict=True)
        )
        for pair in ((state.players[n].params, start[n]) for n in state.players)
    )


def shard(leaf):
    """Shape of what one device holds of a leaf."""
    return list(leaf.addressable_shards[0].data.shape)
