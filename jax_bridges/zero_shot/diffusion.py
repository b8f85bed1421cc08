"""Samples of an unconditional prior, by steps of first or second order over noise levels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, NamedTuple

import jax.numpy as jnp

from jax_bridges.bridges import Levels
from jax_bridges.keys import Keys, normal
from jax_bridges.schema import Share, whole
from jax_bridges.typing import Array
from jax_bridges.zero_shot.loop import Loop, Looped
from jax_bridges.zero_shot.steps import (
    Steps,
    ddim,
    draws,
    predict,
    predicted_noise,
    start_noise,
    walk,
)

Order = Annotated[int, whole(least=1, most=2)]
_DRAWS = draws("noise")


class Level(NamedTuple):
    """Where a denoiser is asked: its time, and `x_t = alpha x_0 + sigma noise`; scalars.

    Heun's method also says for a step of what length: sigma / alpha of the level below minus that of the
    level above.
    """

    t: Array
    alpha: Array
    sigma: Array
    down: Array | float = 0.0


class _Call(NamedTuple):
    """One call of Heun's method, `[2 n - 1]`: where, and whether it corrects."""

    at: Level
    alpha_to: Array
    corrects: Array


def calls_of(levels: int, order: int = 2) -> int:
    """Network calls of `sample_diffusion` over so many noise levels."""
    return 2 * levels - 1 if order == 2 else levels


@Looped
def sample_diffusion(
    denoise: Callable[[Array, Array], Array],
    like: Array,
    times: Levels,
    keys: Keys,
    *,
    order: Order = 2,
    eta: Share = 0.0,
) -> Loop:
    """Samples of the prior that a denoiser describes.

    The probability flow `du / ds = (u - x0_hat) / s` of u = x / alpha and s = sigma / alpha, by Heun's
    method, whose last step is Euler's (Karras et al. 2022, arXiv 2206.00364, alg. 1); or by DDIM, which
    is Euler's, with a share of fresh noise (Song et al. 2021, arXiv 2010.02502, eq. 12). A sampler of
    few steps of first order returns images of too little variance, most where they have least.

    Args:
      denoise: `x0_hat = denoise(x_t, t)`.
      like: an array of the samples' shape and type.
      times: levels to visit.
      keys: one, `[B]` keys, or saved noise; draw 0 is x_T's, 1 + k that of step k.
      order: 1, as many calls as levels; or 2, one less than twice as many.
      eta: share of fresh noise, of order 1; 1 is ancestral sampling.

    Returns:
      Images shaped like `like`.

    Raises:
      ValueError: fresh noise in steps of second order.
    """
    return diffusion_loop(
        lambda x, level: predict(denoise, x, level.t)[0], like, times, keys, order, eta
    )


def diffusion_loop(
    denoise: Callable[[Array, Level], Array],
    like: Array,
    times: Levels,
    keys: Keys,
    order: int = 2,
    eta: float = 0.0,
) -> Loop:
    """`sample_diffusion` of a denoiser that is told its whole level."""
    if order == 2 and eta:
        raise ValueError(
            f"eta is {eta}: fresh noise belongs to steps of first order. Set order to 1, or eta to 0."
        )
    x = start_noise(times, like, keys)
    steps = walk(times, like)
    if order == 1:

        def advance(x: Array, step: Steps) -> Array:
            x0 = denoise(x, Level(step.t, step.alpha, step.sigma))
            c1, c2 = ddim(step, eta)
            noise = normal(keys, _DRAWS("noise", step.number), x) if eta else 0.0
            return step.alpha_to * x0 + c1 * noise + c2 * predicted_noise(x, x0, step)

        return Loop(x, steps, advance, lambda x: x)

    ratio = steps.sigma / steps.alpha
    down = jnp.append(ratio[1:], 0.0) - ratio
    last = len(steps.t) - 1

    def each(first: Array, second: Array) -> Array:
        """Two calls a step, of which the last step has but the first."""
        return jnp.stack([first, second], axis=1).reshape(-1)[: 2 * last + 1]

    t, alpha, sigma = (each(v, jnp.roll(v, -1)) for v in (steps.t, steps.alpha, steps.sigma))
    at = Level(t, alpha, sigma, each(down, down))
    second = jnp.arange(2 * last + 1) % 2 == 1
    rows = _Call(at, each(steps.alpha_to, steps.alpha_to), second)

    def correct(state: tuple[Array, ...], call: _Call) -> tuple[Array, ...]:
        x, base, slope = state
        level = call.at
        now = (x / level.alpha - denoise(x, level)) * level.alpha / level.sigma
        # A correction goes again from where the prediction started, with the mean of both slopes.
        base = jnp.where(call.corrects, base, x / level.alpha)
        slope = jnp.where(call.corrects, 0.5 * (slope + now), now)
        return call.alpha_to * (base + level.down * slope), base, slope

    return Loop((x, x, jnp.zeros_like(x)), rows, correct, lambda state: state[0])
