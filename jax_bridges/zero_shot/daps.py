"""DAPS: at every level a whole sample, moved towards the measurement, is noised anew."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jax_bridges.bridges import Levels
from jax_bridges.corruptions import LinearOperator
from jax_bridges.keys import Keys, normal
from jax_bridges.schema import Count, Positive, Share
from jax_bridges.typing import Array
from jax_bridges.zero_shot.steps import draws, predict, start_noise, walk

_DRAWS = draws("langevin", "noise")


def diffuse(
    operator: LinearOperator,
    x0: Array,
    y: Array,
    spread: Array,
    tau: float | Array,
    duration: Array,
    noise: Array,
) -> Array:
    """Where Langevin's diffusion of `exp(-|x - x0|^2 / 2 spread^2 - |A x - y|^2 / 2 tau^2)` takes x0.

    `dx = -grad U dt + sqrt(2) dw` is linear for a linear A, so its law after `duration` is known: with
    `h = s^2 / tau^2 + 1 / spread^2` for a singular value s, a coordinate has gone the part
    `1 - e^(-h duration)` of the way to the mean of the density and has the variance
    `(1 - e^(-2 h duration)) / h`.

    Args:
      noise: standard normal, `[B, H, W, C]`.

    Returns:
      A draw `[B, H, W, C]`; of the density itself for a long duration.
    """

    def stiffness(s):
        return (s / tau) ** 2 + 1.0 / spread**2

    residual = operator.transpose(y - operator.forward(x0))
    x = x0 + operator.spectral_map(
        residual, lambda s: -jnp.expm1(-duration * stiffness(s)) / (stiffness(s) * tau**2)
    )
    return x + operator.spectral_map(
        noise, lambda s: jnp.sqrt(-jnp.expm1(-2.0 * duration * stiffness(s)) / stiffness(s))
    )


def solve_daps(
    denoise,
    operator: LinearOperator,
    y: Array,
    sigma_y: float | Array,
    times: Levels,
    keys: Keys,
    *,
    ode_steps: Count = 5,
    duration: Positive = 1e-2,
    last_duration: Share = 1e-2,
    tau: Positive = 1e-2,
    clip: bool = False,
) -> Array:
    """Decoupled annealing (Zhang et al. 2025, CVPR, arXiv 2407.01521, alg. 1).

    At each level the probability-flow ODE is solved to a clean x0_hat, Langevin's diffusion carries it
    towards the measurement (`diffuse`, of spread sigma / alpha), and the result is noised to the next level
    afresh, so that errors of a level are not kept. The official code approximates the diffusion by 100
    steps of 1e-4; for a linear A it is drawn exactly. The operator needs `spectral_map`.

    Args:
      sigma_y: standard deviation of the noise in y, in units of [-1, 1].
      ode_steps: Euler steps of each ODE, network calls a level, at levels from this one on; static.
      duration: of the diffusion at the first level: the number of Langevin's steps times their size.
      last_duration: that of the last level, as a share of `duration`; linear in between.
      tau: noise that the measurement is taken to have where sigma_y is smaller.
      clip: clamps x0_hat to [-1, 1].
      keys: draw 0 is x_T's noise, 1 + 2k that of the diffusion of level k, 2 + 2k that of the next level.
      others: see `ddnm.solve_ddnm`. The paper visits 200 levels.

    Returns:
      x_0 `[B, H, W, C]`, the last level's own after its diffusion.
    """
    steps = walk(times, y)
    count = steps.t.shape[0]
    noise = jnp.maximum(jnp.asarray(sigma_y, steps.t.dtype), tau)
    share = jnp.linspace(1.0, last_duration, count, dtype=steps.t.dtype)

    # Levels of the ODE from level k: evenly spaced in number from k to the clean image, [n, ode_steps + 1].
    # The last step alone leads to the clean image, from which no other can begin.
    way = np.linspace(np.arange(count), count, ode_steps + 1, axis=1).astype(int)
    t, alpha, sigma = (
        jnp.concatenate([level, to[-1:]])[way]
        for level, to in (
            (steps.t, steps.t),
            (steps.alpha, steps.alpha_to),
            (steps.sigma, steps.sigma_to),
        )
    )

    def euler(x: Array, row):
        t, alpha, sigma, alpha_to, sigma_to = row
        x0, _ = predict(denoise, x, t, clip)
        return alpha_to * x0 + sigma_to * (x - alpha * x0) / sigma, None

    def advance(x: Array, row):
        step, share, *levels = row
        x0, _ = jax.lax.scan(euler, x, levels)
        number = step.number
        z = normal(keys, _DRAWS("langevin", number), x)
        x0 = diffuse(operator, x0, y, step.sigma / step.alpha, noise, share * duration, z)
        z = normal(keys, _DRAWS("noise", number), x)
        return step.alpha_to * x0 + step.sigma_to * z, None

    rows = (steps, share, t[:, :-1], alpha[:, :-1], sigma[:, :-1], alpha[:, 1:], sigma[:, 1:])
    x, _ = jax.lax.scan(advance, start_noise(times, operator.pinv(y), keys), rows)
    return x
