"""Inverse Bridge Matching Distillation (arXiv 2502.01362): the losses of its two players.

Theorem 3.2 and 3.4 (unconditional, conditional teacher), as Algorithm 1 trains them:

    min_theta  E lambda(t) |x0*(x_t, t, x_T) - x_0|^2  -  min_phi  E lambda(t) |x0_phi(x_t, t, x_T) - x_0|^2
    x_0 = G_theta(x_T, z),   x_t ~ q(x_t | x_0, x_T)

x0* is the frozen teacher, phi the bridge net, theta the generator. Only corrupted images are used.
The inner minimum is the posterior variance of x_0 given x_t: its minus sign rewards diversity.

Theta's gradient comes through x_0 and through x_t, or, with x_t detached as in the released one-step I2SB
runs, through x_0 alone: `d/dx_0 = (2 lambda / n) (x0_phi - x0*)` of n pixels. For a conditional teacher that
is DMD's (arXiv 2311.18828), since both x0-predictors differ by c_t^2 / b_t times what their scores do: the
gradient of `sum_t (2 lambda / n) (c_t / b_t)^2 KL(q_theta(x_t | x_T) || q*(x_t | x_T))`. Either way it is 0
where the generator's law is the teacher's. For an unconditional teacher it is no such gradient, and pulls
weakly at what the noise z does.

A bridge net that lags behind the generator makes the minus sign pay for errors, and pulls nothing back that
it has not noticed. With the inner minimum weighed by r a little below 1 theta sees, at a detached x_t,

    d/dx_0 = (2 lambda / n) [(x0_phi - x0*) + (1 - r) (x0 - x0_phi)]

whose new part is no more than noise in the mean where the bridge net is right about the mean, and pulls back
to what the teacher thinks where it is not. Its price is diversity: where both know what they can, a Gaussian
teacher's variance v* becomes `r v* - (1 - r) c_t^2 / b_t^2` at one t. r = 1 is IBMD.

With real images x_0^r there is RealUID's form (arXiv 2509.22459, here for x0-predictors), of which
alpha = beta = 1 is the above:

    phi:    lambda [alpha |x0_phi(x_t) - (beta / alpha) x_0|^2
                    + (1 - alpha) |x0_phi(x_t^r) - ((1 - beta) / (1 - alpha)) x_0^r|^2]
    theta:  lambda alpha [|x0*(x_t) - (beta / alpha) x_0|^2 - |x0_phi(x_t) - (beta / alpha) x_0|^2]

A teacher's small constant error shifts the generator 1 / alpha times as far as IBMD's where alpha = beta,
less far than that where beta > alpha, and less far than IBMD's where beta = 1.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from jax_bridges.bridges import Bridge
from jax_bridges.losses import squared_error
from jax_bridges.typing import Array, Denoiser

Given = tuple[Array, Array]  # x_n [B, H, W, C] and its time t_n [B]


def loss_point(
    bridge: Bridge, x0: Array, xT: Array, t: Array, noise: Array, given: Given | None = None
) -> Array:
    """x_t of the losses: of `q(x_t | x_0, x_T)`, or given (x_n, t_n), t <= t_n, of `q(x_t | x_0, x_n)`.

    The latter is what the released I2SB inpainting runs draw from, x_n being what the generator saw.
    """
    chex.assert_equal_shape([x0, xT, noise])
    if given is None:
        return bridge.sample(x0, xT, t, noise)
    xn, tn = given
    return bridge.step(x0, xn, tn, t, noise, xT)


def bridge_net_loss(
    bridge_net: Denoiser,
    bridge: Bridge,
    x0: Array,
    xT: Array,
    t: Array,
    noise: Array,
    weight: Array,
    mask: Array | None = None,
    *,
    given: Given | None = None,
    scale: float = 1.0,
) -> Array:
    """`lambda |x0_phi(x_t, t, x_T) - scale x_0|^2`, bridge matching of what was made (Alg. 1, line 7), `[B]`.

    Args:
      x0: `[B, H, W, C]` the generator's answer, or a real image; xT, noise: the same shape.
      t, weight: `[B]`.
      mask: `[B, H, W, 1]` of pixels that count, or None.
      given: see `loss_point`.
      scale: 1, or one of RealUID's ratios (`real_bridge_net_loss`).
    """
    xt = loss_point(bridge, x0, xT, t, noise, given)
    return squared_error(bridge_net(xt, t, xT), _scaled(scale, x0), weight, mask)


def real_bridge_net_loss(by_generator: Array, by_data: Array, alpha: float) -> Array:
    """RealUID's loss of phi, `alpha L(x_0) + (1 - alpha) L(x_0^r)`, from two of `bridge_net_loss`, `[B]`.

    Args:
      by_generator: of the generator's answers, with the first of `real_scales`.
      by_data: of real images, with the second.
      alpha: in (0, 1).
    """
    return alpha * by_generator + (1.0 - alpha) * by_data


def real_scales(alpha: float, beta: float) -> tuple[float, float]:
    """`beta / alpha` and `(1 - beta) / (1 - alpha)`: of what the generator made, and of real images.

    The second is 0 at alpha = 1, where no real images are used.
    """
    return beta / alpha, 0.0 if alpha == 1.0 else (1.0 - beta) / (1.0 - alpha)


def generator_loss(
    teacher: Denoiser,
    bridge_net: Denoiser,
    bridge: Bridge,
    x0: Array,
    xT: Array,
    t: Array,
    noise: Array,
    weight: Array,
    *,
    normalize: bool = False,
    detach_xt: bool = False,
    given: Given | None = None,
    alpha: float = 1.0,
    beta: float = 1.0,
    inner_weight: float = 1.0,
    mask: Array | None = None,
) -> Array:
    """`lambda (|x0* - x_0|^2 - r |x0_phi - x_0|^2)` at one x_t (Alg. 1, line 12), `[B]`.

    Differentiate it for what x0 depends on: the gradient flows through x0 itself and, by
    `x_t = a x_T + b x_0 + c noise`, through the inputs of the teacher and of the bridge net.

    >>> import jax, jax.numpy as jnp
    >>> from jax_bridges.bridges import make_bridge
    >>> xT, t = jnp.ones((2, 4, 4, 3)), jnp.array([0.1, 0.9])
    >>> noise = jax.random.normal(jax.random.key(0), xT.shape)
    >>> def loss(x0):  # the generator's answer, of which the teacher thinks 0, and the bridge net what it is
    ...     teacher, bridge_net = lambda xt, t, xT: 0 * xt, lambda xt, t, xT: 0.3 + 0 * xt
    ...     return generator_loss(teacher, bridge_net, make_bridge("brownian"), x0, xT, t, noise, jnp.ones(2))
    >>> [round(float(value), 4) for value in loss(0.3 * xT)]
    [0.09, 0.09]
    >>> jax.grad(lambda x0: loss(x0).mean())(0.3 * xT).min() > 0  # downhill is the teacher's answer
    Array(True, dtype=bool)

    Args:
      teacher, bridge_net: frozen here.
      x0: `[B, H, W, C]` the generator's answer; xT, noise: the same shape.
      t, weight: `[B]`.
      normalize: divides each example by its detached mean `|x0* - x_0|` (the normaliser of SiD and of
        RSD), which keeps examples and times of very different error in balance.
      detach_xt: takes x_t for a constant: the same value, and no gradient passes through either network.
      given: see `loss_point`.
      alpha, beta: RealUID's; 1 and 1 are IBMD.
      inner_weight: r; 1 is IBMD.
      mask: `[B, H, W, 1]` of pixels that count, or None.
    """
    xt = loss_point(bridge, x0, xT, t, noise, given)
    if detach_xt:
        xt = jax.lax.stop_gradient(xt)
    by_teacher = teacher(xt, t, xT)
    if normalize:
        distance = jnp.abs(by_teacher - x0)
        mean = jnp.mean(distance, axis=tuple(range(1, distance.ndim)))
        weight = weight / jax.lax.stop_gradient(mean + 1e-6)
    by_bridge_net = bridge_net(xt, t, xT)
    x0 = _scaled(beta / alpha, x0)
    reward = squared_error(by_bridge_net, x0, weight, mask)
    loss = squared_error(by_teacher, x0, weight, mask) - _scaled(inner_weight, reward)
    return _scaled(alpha, loss)


def _scaled(factor: float, values: Array) -> Array:
    return values if factor == 1.0 else factor * values
