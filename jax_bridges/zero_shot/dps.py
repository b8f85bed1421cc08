"""DPS: every step moves against the gradient of the measurement's misfit, taken through the network."""

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
    ancestral,
    ddim,
    draws,
    predict,
    predicted_noise,
    start_noise,
    walk,
)

MISFITS = ("norm", "squared_by_norm", "squared")
_DRAWS = draws("noise")


def dps_step(
    denoise, operator, y, x, noise, step: Steps, scale=0.3, misfit="norm", eta=None, clip=True
):
    """One step from x `[B, H, W, C]` to the level below; see `solve_dps`."""

    def forward(x):
        x0, fraction = predict(denoise, x, step.t, clip)
        return x0, (x0, fraction)

    x0, pull, (_, fraction) = jax.vjp(forward, x, has_aux=True)
    residual = y - operator.forward(x0)
    norm = jnp.sqrt(jnp.sum(residual**2, tuple(range(1, residual.ndim))))
    norm = norm.reshape(-1, *[1] * (x.ndim - 1))
    (g,) = pull(-operator.transpose(residual))  # half the gradient of the squared norm
    safe = jnp.where(norm > 0, norm, 1.0)
    if misfit == "norm":
        move = scale * g / safe
    elif misfit == "squared_by_norm":
        move = scale * 2.0 * g / safe
    else:
        move = step.alpha * step.alpha_to * 2.0 * scale * g
    if eta is None:
        after = ancestral(x0, x, step, noise, fraction)
    else:
        c1, c2 = ddim(step, eta)
        after = step.alpha_to * x0 + c1 * noise + c2 * predicted_noise(x, x0, step)
    return after - move


@Looped
def solve_dps(
    denoise,
    operator: LinearOperator,
    y: Array,
    sigma_y: float | Array,
    times: Levels,
    keys: Keys,
    *,
    scale: Positive = 0.3,
    misfit: Annotated[str, Choice(MISFITS)] = "norm",
    eta: Share | None = None,
    clip: bool = True,
    start_at_pinv: bool = False,
) -> Loop:
    """Diffusion posterior sampling (Chung et al. 2023, arXiv 2209.14687, alg. 1); needs A and A^T only.

    `x' = step(x_t, x0_hat) - scale grad_{x_t} |y - A x0_hat(x_t)|`, the norm of each image by itself.
    The official step size for FFHQ at 256 x 256 is 0.3 (inpainting 0.5) with 1000 steps; it grows
    with the number of measurements and with fewer steps.

    Args:
      sigma_y: not used, as in the paper's code: the scale stands for it.
      scale: zeta, how far a step moves against the gradient.
      misfit: whose gradient it is: "norm", as the official code; "squared_by_norm", the gradient of the
        squared norm divided by the norm, twice as much (the paper's, and RED-diff's `original`);
        "squared", its gradient times alpha alpha' (RED-diff's other branch).
      eta: share of fresh noise in DDIM's step; None: DDPM's ancestral step, with the learned variance if
        the denoiser has one.
      clip: clamps x0_hat to [-1, 1]; no gradient flows where it does.
      start_at_pinv: starts at alpha A^+ y + sigma z instead of pure noise, as RED-diff does.
      keys: draw 0 is x_T's noise, 1 + k that of step k.
      others: see `ddnm.solve_ddnm`.

    Returns:
      x_0 `[B, H, W, C]`.
    """
    del sigma_y
    if misfit not in MISFITS:
        raise ValueError(f"misfit is {misfit!r}: choose one of {', '.join(MISFITS)}.")
    steps = walk(times, y)

    def advance(x: Array, step: Steps) -> Array:
        noise = normal(keys, _DRAWS("noise", step.number), x)
        return dps_step(denoise, operator, y, x, noise, step, scale, misfit, eta, clip)

    image = operator.transpose(y)  # of the right shape
    if start_at_pinv:
        x = steps.alpha[0] * operator.pinv(y) + steps.sigma[0] * normal(keys, START, image)
    else:
        x = start_noise(times, image, keys)
    return Loop(x, steps, advance, lambda x: x)
