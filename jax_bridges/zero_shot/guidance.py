"""Classifier guidance: an unconditional denoiser is told a class by a classifier of noisy images."""

from __future__ import annotations

from collections.abc import Callable

import jax

from jax_bridges.bridges import Bridge
from jax_bridges.typing import Array, ArrayOrPair


def guided_denoiser(
    denoise, log_prob: Callable[[Array, Array], Array], bridge: Bridge, scale: float = 1.0
):
    """The denoiser of images of a class (Dhariwal and Nichol 2021, arXiv 2105.05233, sec. 4.2).

    By Tweedie's and Bayes' formulas, exactly for scale 1,
    `E[x_0 | x_t, c] = E[x_0 | x_t] + (sigma_t^2 / alpha_t) grad log p(c | x_t)`. The paper's
    alg. 1 moves the mean of an ancestral step, its alg. 2 the noise; both are this, the former to
    first order in the step. Any solver takes it; those that differentiate the denoiser go through
    the classifier's second derivative.

    Args:
      denoise: `x0_hat = denoise(x_t, t)`, t a scalar, or a pair (see `steps.predict`).
      log_prob: `log p(c | x_t)` `[B]` of the wanted class, at time t.
      bridge: that t belongs to.
      scale: 1 is Bayes' rule; more trades diversity for likeness.
    """

    def guided(x: Array, t: Array) -> ArrayOrPair:
        out = denoise(x, t)
        x0, *rest = out if isinstance(out, tuple) else (out,)
        slope = jax.grad(lambda x: log_prob(x, t).sum())(x)
        x0 = x0 + scale * bridge.sigma(t) ** 2 / bridge.alpha(t) * slope
        return (x0, *rest) if rest else x0

    return guided
