"""What a teacher's loss is fed in its first step, as arrays: for another framework to do the same."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jax_bridges.keys import ONLY, Purpose, Stream, fold, normal
from jax_bridges.planning.abstract import random_batch
from jax_bridges.stages.run import Run
from jax_bridges.training.steps import draw_times, time_weight


def first_batch(run: Run) -> dict[str, np.ndarray]:
    """What the first step of `benchmark.time_step` feeds the teacher's loss, drawn by the same keys.

    Returns:
      x0, xT, xt `[B, H, W, C]`; mask `[B, H, W, 1]`, 1 where x_0 is predicted; by example `[B]`, the
      scalings c_in, c_skip, c_out and c_noise, the weight and the label.
    """
    system, config = run.system, run.config.train

    @jax.jit
    def draw(batch):
        pair = system.prepare(batch, run.key(Purpose.TRAIN_TEACHER), augment=True)
        t = draw_times(system, config, pair)
        noise = normal(fold(pair.keys, Stream.NOISE), ONLY, pair.x0)
        masked = pair.mask is not None and system.keep_known
        return {
            "x0": pair.x0,
            "xT": pair.xT,
            "xt": system.bridge.sample(pair.x0, pair.xT, t, noise),
            "mask": pair.mask if masked else jnp.ones((*pair.x0.shape[:3], 1)),
            **system.preconditioning.scalings(system.bridge, t)._asdict(),
            "weight": time_weight(system, config.weight, config.weight_max, t),
            "label": pair.label,
        }

    found = draw(random_batch(run, (config.batch,)))
    return {name: np.asarray(value) for name, value in found.items() if value is not None}
