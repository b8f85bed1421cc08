"""Consistency bridge distillation (CBD) and training (CBT): pure losses.

After Consistency Diffusion Bridge Models (CDBM). Its text could not be read whole; what follows are its
published formulas, and what is not published is a setting.

A consistency function takes any point of a path of the bridge's probability-flow ODE to the path's
end, `h(x_t, t, x_T) = x_eps`. Two neighbours x_t and x_r, r < t, have the same end:

    L = E lambda(t) d( h_theta(x_t, t, x_T), h_theta-(x_r, r, x_T) ),   x_t ~ q(x_t | x_0, x_T)

theta- is theta without gradient, or its average. x_r is one step of the teacher's ODE (CBD), or the
point of `q(x_r | x_0, x_T)` with the noise of x_t (CBT): the same up to o(t - r) on average.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from jax_bridges.bridges import Bridge, expand
from jax_bridges.choices import look_up
from jax_bridges.typing import Array, Denoiser


# -- the path and its end ------------------------------------------------------------------------
def ode_step(bridge: Bridge, x0_hat: Array, xt: Array, xT: Array, t: Array, r: Array) -> Array:
    """One first-order step t -> r of the probability-flow ODE, x0_hat held constant.

    `x_r = a_r x_T + b_r x0_hat + (c_r / c_t) (x_t - a_t x_T - b_t x0_hat)` (CDBM, Prop. 3.1; the same as
    DBIM's step with eta = 0, arXiv 2405.15885). On a deterministic bridge, where c = 0, the
    posterior's mean: I2SB's OT-ODE.

    Args:
      x0_hat, xt, xT: `[B, H, W, C]`.
      t, r: `[B]` or scalar, `t_min <= r <= t < T`; T too where the bridge is deterministic.
    """
    if bridge.deterministic:
        return bridge.step(x0_hat, xt, t, r, 0.0)
    (a_t, b_t, c_t), (a_r, b_r, c_r) = bridge.coefficients(t), bridge.coefficients(r)
    m = c_r / c_t
    x, x0, source = (expand(v, xt) for v in (m, b_r - m * b_t, a_r - m * a_t))
    return x * xt + x0 * x0_hat + source * xT


def consistency_function(denoise: Denoiser, bridge: Bridge) -> Denoiser:
    """`h(x_t, t, x_T)` by any denoiser: one ODE step from t to t_min.

    `h = c_skip x_t + c_out x0_hat + c_source x_T` with `c_skip(t_min) = 1` and
    `c_out(t_min) = c_source(t_min) = 0`, so `h(x, t_min, x_T) = x` whatever the network says. The
    paper asks for these values alone; this form makes a student that starts from the teacher
    DBIM's best answer in one step.
    """

    def h(xt: Array, t: Array, xT: Array) -> Array:
        t = jnp.broadcast_to(jnp.asarray(t, xt.dtype), xt.shape[:1])
        end = jnp.full_like(t, bridge.t_min)
        jump = ode_step(bridge, denoise(xt, t, xT), xt, xT, t, end)
        # Exactly: a compiler that folds one of the two times rounds their coefficients differently.
        return jnp.where(expand(t <= end, xt).astype(bool), xt, jump)

    return h


def bridge_residual(bridge: Bridge, xt: Array, t: Array, xT: Array) -> Array:
    """What x_t holds besides x_T, at unit scale: `(x_t - a x_T) / sqrt(b^2 + c^2)`; 0 at T.

    Near T it is the noise that picks a path. In x_t itself this noise is hardly visible there.
    """
    a, b, c = (expand(v, xt) for v in bridge.coefficients(jnp.asarray(t, xt.dtype)))
    size = jnp.sqrt(b**2 + c**2)
    return jnp.where(size > 0, (xt - a * xT) / jnp.where(size > 0, size, 1.0), 0.0)


# -- which neighbours ----------------------------------------------------------------------------
def grain(bridge: Bridge) -> float:
    """The smallest distance between two times that differ."""
    if bridge.table is not None:
        return bridge.T / (bridge.table - 1)
    return 1e-6 * bridge.T


def usable_times(bridge: Bridge, t: Array, gamma: float) -> Array:
    """Times moved into (t_min, T - gamma]: at T all paths meet, at t_min they have ended."""
    return jnp.clip(t, bridge.t_min + grain(bridge), bridge.T - gamma)


def constant_gap(bridge: Bridge, t: Array, progress: Array, config) -> Array:
    """`r = t - dt`, no less than t_min (CBD's choice; `progress` plays no part)."""
    del progress
    return _earlier(bridge, t, jnp.asarray(config.dt * bridge.T, t.dtype))


def shrinking_gap(bridge: Bridge, t: Array, progress: Array, config) -> Array:
    """`t - r = (t - t_min) 2^-s n(t)`, `n(t) = 1 + k sigmoid(-b t / T)`, after ECT (arXiv 2406.14548).

    The stage s grows from 1 to `halvings` in the course of the training. CBT's choice; of its
    constants only that there is a sigmoid with a `b` is published.
    """
    stage = 1.0 + jnp.floor(progress * config.halvings).clip(0, config.halvings - 1)
    share = 2.0**-stage * (1.0 + config.gap_k * jax.nn.sigmoid(-config.gap_b * t / bridge.T))
    return _earlier(bridge, t, (t - bridge.t_min) * share)


def _earlier(bridge: Bridge, t: Array, gap: Array) -> Array:
    """t - gap; at least one grain earlier than t, and no earlier than t_min."""
    return jnp.maximum(t - jnp.maximum(gap, grain(bridge)), bridge.t_min)


# r of t `[B]`, the share of the training that is done, and the settings dt | halvings, gap_k, gap_b.
GAPS = {"constant": constant_gap, "shrinking": shrinking_gap}

# lambda of (t, r) `[B]`.
GAP_WEIGHTS = {
    "one": lambda t, r: jnp.ones_like(t),
    "inverse_gap": lambda t, r: 1.0 / (t - r),
}


# -- the loss ------------------------------------------------------------------------------------
def l2(x: Array, y: Array, scale: float) -> Array:
    """Mean square over all pixels, `[B]`; `scale` plays no part."""
    del scale
    return jnp.mean((x - y) ** 2, axis=tuple(range(1, x.ndim)))


def pseudo_huber(x: Array, y: Array, scale: float) -> Array:
    """`sqrt(m + scale^2) - scale` of the mean square m, `[B]` (iCT, arXiv 2310.14189, eq. 8).

    A root mean square far above `scale`: every example weighs alike, however far it is off.
    """
    return jnp.sqrt(l2(x, y, scale) + scale**2) - scale


DISTANCES = {"l2": l2, "pseudo_huber": pseudo_huber}


def consistency_loss(
    h: Denoiser,
    h_target: Denoiser,
    xt: Array,
    xr: Array,
    xT: Array,
    t: Array,
    r: Array,
    weight: Array,
    *,
    distance: str = "l2",
    scale: float = 0.0,
) -> Array:
    """`lambda d(h(x_t, t, x_T), h_target(x_r, r, x_T))`, `[B]`; no gradient into the target.

    Args:
      h, h_target: consistency functions of theta and theta-.
      xt, xr, xT: `[B, H, W, C]`; xr from `teacher_neighbour` (CBD) or `data_neighbour` (CBT).
      t, r, weight: `[B]`, r < t.
      distance: a key of DISTANCES, with its `scale`.
    """
    chex.assert_equal_shape([xt, xr, xT])
    measure = look_up("distance", DISTANCES, distance)
    target = jax.lax.stop_gradient(h_target(xr, r, xT))
    return weight * measure(h(xt, t, xT), target, scale)


def teacher_neighbour(
    teacher: Denoiser, bridge: Bridge, xt: Array, xT: Array, t: Array, r: Array
) -> Array:
    """CBD's x_r: one step of the teacher's ODE from x_t, `[B, H, W, C]`."""
    return jax.lax.stop_gradient(ode_step(bridge, teacher(xt, t, xT), xt, xT, t, r))


def data_neighbour(bridge: Bridge, x0: Array, xT: Array, noise: Array, r: Array) -> Array:
    """CBT's x_r: on the bridge to the true x_0 with the noise of x_t, `[B, H, W, C]`."""
    return bridge.sample(x0, xT, r, noise)
