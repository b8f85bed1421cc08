"""What the solvers share: the walk over noise levels, one prediction, one reverse step, the measurement."""

from __future__ import annotations

from typing import Annotated, NamedTuple

import chex
import jax.numpy as jnp
import numpy as np

from jax_bridges.bridges import Levels
from jax_bridges.corruptions import LinearOperator
from jax_bridges.keys import ONLY, Keys, StepDraws, normal
from jax_bridges.schema import COUNT, Each
from jax_bridges.typing import Array

# Length of a jump back, and how often each stretch is walked in all.
Travel = Annotated[tuple[int, int], Each(COUNT, count=2)]


def draws(*each: str) -> StepDraws:
    """Draws of a solver: x_T's first, then those of every step by name."""
    return StepDraws(*each, first=("start",))


START = draws()("start")


class Steps(NamedTuple):
    """One network call each, `[nfe]`: from level (t, alpha, sigma) to (alpha_to, sigma_to), then, by
    time travel, back up to (alpha_up, sigma_up), which equals the former where there is no jump."""

    t: Array
    alpha: Array
    sigma: Array
    alpha_to: Array
    sigma_to: Array
    alpha_up: Array
    sigma_up: Array
    first: Array  # bool
    last: Array  # bool, the step to the clean image
    number: Array  # int, of the step: noises are numbered by it


def jump_schedule(steps: int, length: int = 1, repeat: int = 1) -> list[int]:
    """RePaint's and DDNM's walk over levels steps - 1 .. 0, then -1 for the clean image.

    From each multiple of `length` below `steps - length` it goes `length` levels back up,
    `repeat - 1` times (Lugmayr et al. 2022, arXiv 2201.09865, app. B; DDNM, arXiv 2212.00490, alg. 2).
    Network calls: `steps + len(range(0, steps - length, length)) (repeat - 1) length`.
    """
    if length < 1 or repeat < 1:
        raise ValueError(f"travel is {(length, repeat)}: both numbers must be at least 1.")
    left = dict.fromkeys(range(0, steps - length, length), repeat - 1)
    level, walk = steps, []
    while level >= 1:
        level -= 1
        walk.append(level)
        if left.get(level, 0) > 0:
            left[level] -= 1
            walk.extend(range(level + 1, level + length + 1))
            level += length
    return [*walk, -1]


def count_calls(levels: int, travel: Travel = (1, 1)) -> int:
    """Network calls of a walk over `levels` levels (without the clean image)."""
    walk = jump_schedule(levels, *travel)
    return sum(b < a for a, b in zip(walk, walk[1:], strict=False))


def walk(times: Levels, like: Array, travel: Travel = (1, 1)) -> Steps:
    """The steps through levels `times` `[n + 1]`, in float32 or the images' higher precision."""
    dtype = jnp.promote_types(like.dtype, jnp.float32)
    t, alpha, sigma = (jnp.asarray(v, dtype) for v in times)
    chex.assert_equal_shape([t, alpha, sigma])
    chex.assert_rank(t, 1)
    levels = t.shape[0] - 1
    # Positions in the arrays, which begin with the noisiest level.
    path = [levels - 1 - level for level in jump_schedule(levels, *travel)]
    source, to, up = [], [], []
    for a, b in zip(path, path[1:], strict=False):
        if b > a:
            source.append(a)
            to.append(b)
            up.append(b)
        else:
            up[-1] = b
    source, to, up = map(np.asarray, (source, to, up))
    number = np.arange(len(source))
    return Steps(
        t[source], alpha[source], sigma[source], alpha[to], sigma[to], alpha[up], sigma[up],
        jnp.asarray(number == 0), jnp.asarray(to == levels), jnp.asarray(number),
    )  # fmt: skip


def predict(denoise, x: Array, t: Array, clip: bool = False) -> tuple[Array, Array | None]:
    """x0_hat `[B, H, W, C]` at time t, and the share of the learned variance, or None.

    A denoiser may return a pair (x0_hat, fraction): ADM's learned variance
    `exp(f ln beta + (1 - f) ln posterior)` with f `[B, H, W, C]` (Nichol and Dhariwal 2021, eq. 15).
    """
    out = denoise(x, t)
    x0, fraction = out if isinstance(out, tuple) else (out, None)
    return (jnp.clip(x0, -1.0, 1.0) if clip else x0), fraction


def predicted_noise(x: Array, x0: Array, step: Steps) -> Array:
    """`(x_t - alpha x0_hat) / sigma`."""
    return (x - step.alpha * x0) / step.sigma


def start_noise(times: Levels, like: Array, keys: Keys) -> Array:
    """x_T, draw 0: N(0, alpha^2 + sigma^2), the law for images of unit variance."""
    scale = jnp.sqrt(jnp.asarray(times.alpha[0]) ** 2 + jnp.asarray(times.sigma[0]) ** 2)
    return scale.astype(like.dtype) * normal(keys, START, like)


class Kernel(NamedTuple):
    """q(x_to | x0, x_t) = N(x0 x_0 + xt x_t, variance), and beta, the variance of the step up."""

    x0: Array
    xt: Array
    variance: Array
    beta: Array


def kernel(step: Steps) -> Kernel:
    """The Markov posterior of one step (arXiv 2006.11239, eq. 6-7, for any alpha and sigma)."""
    ratio = step.alpha / step.alpha_to
    beta = jnp.maximum(step.sigma**2 - ratio**2 * step.sigma_to**2, 0.0)
    down = step.sigma_to**2 / step.sigma**2
    return Kernel(step.alpha_to * beta / step.sigma**2, ratio * down, down * beta, beta)


def ancestral(
    x0: Array, x: Array, step: Steps, noise: Array, fraction: Array | None = None
) -> Array:
    """DDPM's step: the posterior's mean plus noise, of the learned variance where there is one."""
    k = kernel(step)
    if fraction is None:
        std = jnp.sqrt(k.variance)
    else:
        tiny = jnp.finfo(x.dtype).tiny
        log = [jnp.log(jnp.maximum(v, tiny)) for v in (k.beta, k.variance)]
        std = jnp.exp(0.5 * (fraction * log[0] + (1.0 - fraction) * log[1]))
    return k.x0 * x0 + k.xt * x + jnp.where(step.last, 0.0, std) * noise


def ddim(step: Steps, eta: float | Array) -> tuple[Array, Array]:
    """DDIM's spreads: of fresh noise and of the predicted one (arXiv 2010.02502, eq. 12 and 16)."""
    fresh = eta * jnp.sqrt(kernel(step).variance)
    return fresh, jnp.sqrt(jnp.maximum(step.sigma_to**2 - fresh**2, 0.0))


def travel_back(x: Array, step: Steps, noise: Array) -> Array:
    """A draw of q(x_up | x_to): the forward process, as RePaint and DDNM's Algorithm 2 have it."""
    ratio = step.alpha_up / step.alpha_to
    variance = step.sigma_up**2 - ratio**2 * step.sigma_to**2
    return ratio * x + jnp.sqrt(jnp.maximum(variance, 0.0)) * noise


def measure(operator: LinearOperator, x0: Array, sigma_y: float | Array, keys: Keys) -> Array:
    """y = A x_0 + sigma_y n, n (draw 0) standard normal in the range of A: the rest says nothing.

    Images and sigma_y are in units of [-1, 1]: a level that is published for [0, 1] is doubled.
    """
    y = operator.forward(x0)
    return y + sigma_y * operator.forward(operator.pinv(normal(keys, ONLY, y)))
