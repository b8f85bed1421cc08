"""PiGDM: the measurement's likelihood under a Gaussian around each prediction guides the sampler."""

from __future__ import annotations

from typing import Annotated

import jax
import jax.numpy as jnp

from jax_bridges.bridges import Levels
from jax_bridges.corruptions import LinearOperator
from jax_bridges.keys import Keys, normal
from jax_bridges.schema import Choice, Positive, Share
from jax_bridges.typing import Array
from jax_bridges.zero_shot.loop import Loop, Looped
from jax_bridges.zero_shot.steps import (
    START,
    Steps,
    ddim,
    draws,
    predict,
    predicted_noise,
    start_noise,
    walk,
)

GUIDANCES = ("exact", "paper", "adaptive", "plain")
_DRAWS = draws("noise")


@Looped
def solve_pigdm(
    denoise,
    operator: LinearOperator,
    y: Array,
    sigma_y: float | Array,
    times: Levels,
    keys: Keys,
    *,
    eta: Share = 1.0,
    guidance: Annotated[str, Choice(GUIDANCES)] = "adaptive",
    weight: Positive = 1.0,
    prior_variance: Positive = 1.0,
    clip: bool = False,
    start_at_pinv: bool = False,
) -> Loop:
    """Pseudo-inverse-guided diffusion (Song et al. 2023, ICLR, "Pseudoinverse-guided ...", alg. 1).

    p(x_0 | x_t) is taken for N(x0_hat, r^2), `r^2 = v sigma^2 / (v alpha^2 + sigma^2)` for images of
    variance v, so with J = d x0_hat / d x_t (a vector-Jacobian product through the network)

        g = r^2 grad log p(y | x_t) = J^T A^T (A A^T + sigma_y^2 / r^2)^-1 (y - A x0_hat),

    for sigma_y = 0 `J^T (A^+ y - A^+ A x0_hat)`. Then a DDIM step with spreads c1, c2. The operator
    needs `spectral_map`.

    Args:
      sigma_y: standard deviation of the noise in y, in units of [-1, 1].
      eta: share of fresh noise in DDIM's step; 1 is ancestral sampling.
      guidance: how g enters the step: "paper": `x = alpha' x0_hat + c1 z + c2 e + w alpha g`, alg. 1;
        "adaptive": w alpha alpha' g instead, as in NVlabs/RED-diff; "plain": RED-diff's other branch,
        `w alpha (alpha' - c2 alpha / sigma) g`; "exact": x0_hat and e are corrected as Tweedie's formula
        says, which samples the posterior where the two Gaussian assumptions hold.
      weight: w, of the guidance.
      prior_variance: v, the variance of one pixel of x_0 (1 in the paper).
      start_at_pinv: starts at alpha A^+ y + sigma z instead of pure noise, as RED-diff does.
      keys: draw 0 is x_T's noise, 1 + k that of step k.
      others: see `ddnm.solve_ddnm`.

    Returns:
      x_0 `[B, H, W, C]`.
    """
    if guidance not in GUIDANCES:
        raise ValueError(f"guidance is {guidance!r}: choose one of {', '.join(GUIDANCES)}.")
    steps = walk(times, y)
    sigma_y = jnp.asarray(sigma_y, steps.t.dtype)

    def advance(x: Array, step: Steps) -> Array:
        x0, pull, _ = jax.vjp(lambda x: predict(denoise, x, step.t, clip), x, has_aux=True)
        alpha, sigma, alpha_to = step.alpha, step.sigma, step.alpha_to
        r2 = prior_variance * sigma**2 / (prior_variance * alpha**2 + sigma**2)
        ratio = sigma_y**2 / r2
        residual = operator.transpose(y - operator.forward(x0))
        m = operator.spectral_map(
            residual, lambda s: jnp.where(s > 0, 1.0 / jnp.where(s > 0, s**2 + ratio, 1.0), 0.0)
        )
        (g,) = pull(jax.lax.stop_gradient(m))
        g = weight * g
        e = predicted_noise(x, x0, step)
        c1, c2 = ddim(step, eta)
        if guidance == "exact":
            score = g / r2
            x0, e = x0 + sigma**2 / alpha * score, e - sigma * score
            move = 0.0
        elif guidance == "paper":
            move = alpha * g
        elif guidance == "adaptive":
            move = alpha * alpha_to * g
        else:
            move = alpha * (alpha_to - c2 * alpha / sigma) * g
        noise = normal(keys, _DRAWS("noise", step.number), x)
        return alpha_to * x0 + c1 * noise + c2 * e + move

    image = operator.pinv(y)
    if start_at_pinv:
        x = steps.alpha[0] * image + steps.sigma[0] * normal(keys, START, image)
    else:
        x = start_noise(times, image, keys)
    return Loop(x, steps, advance, lambda x: x)
