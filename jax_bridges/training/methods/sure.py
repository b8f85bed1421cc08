"""Priors of noisy images by Stein's estimate: SURE-Score as it is trained (arXiv 2305.01166)."""

from __future__ import annotations

import jax.numpy as jnp

from jax_bridges.corrupted_losses import sure
from jax_bridges.keys import ONLY, Stream, fold, normal
from jax_bridges.losses import bridge_matching
from jax_bridges.schema import Setting, number
from jax_bridges.times import level_time
from jax_bridges.training.methods.prior import Loss, PriorMethod, Task
from jax_bridges.training.methods.tweedie import check_noise_alone
from jax_bridges.training.steps import draw_times, time_weight
from jax_bridges.training.system import Pair, System
from jax_bridges.typing import Array, Denoiser

# fmt: off
SETTINGS = (
    Setting("score_weight", 1.0, number(above=0), "SURE-Score: of the matching of its own answers, at the "
            "end; it grows from 0 with the steps."),
)
# fmt: on


def _make(system: System, train, settings, task: Task) -> Loss:
    """`lambda(t_y) SURE + score_weight (step / steps) lambda(t) |x0_hat(x_t) - h(y)|^2`.

    h is the network's own answer at the noise of y, `h(y) = x0_hat(alpha y, t_y)`; the second term, whose
    gradient flows into h as well, is the released code's denoising score matching in x_0.
    """
    bridge = system.bridge
    t_y = level_time(bridge, task.sigma_y)

    def loss(denoise: Denoiser, pair: Pair, step: Array) -> Array:
        y = pair.x0
        own = jnp.full(len(y), t_y, y.dtype)
        alpha = bridge.alpha(own)[0]
        probe = normal(fold(pair.keys, Stream.PROBE), ONLY, y)
        h, estimate = sure(lambda y: denoise(alpha * y, own, y), y, task.sigma_y, probe)
        t = draw_times(system, train, pair)
        noise = normal(fold(pair.keys, Stream.NOISE), ONLY, y)
        at_y, at_t = (time_weight(system, train.weight, train.weight_max, v) for v in (own, t))
        matching = bridge_matching(denoise, bridge, h, y, t, noise, at_t)
        return at_y * estimate + settings.score_weight * step / train.steps * matching

    return loss


SURE = PriorMethod(
    "sure",
    make=_make,
    check=lambda settings, task: check_noise_alone("sure", task),
    # h with its derivative, there and back, and the matching of it.
    calls=2 + 4 + 3,
    settings=SETTINGS,
)
