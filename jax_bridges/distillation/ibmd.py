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
where the generator's law is the teacher's.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from jax_bridges.bridges import Bridge
from jax_bridges.keys import normal
from jax_bridges.losses import bridge_matching, squared_error
from jax_bridges.platforms import unroll_gradients
from jax_bridges.samplers.few_step import DRAWS, call_inputs, first_input, next_input
from jax_bridges.typing import Array, Denoiser, Generator

# The bridge net's loss is plain bridge matching on the generated coupling (Alg. 1, line 7).
bridge_net_loss = bridge_matching


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
    mask: Array | None = None,
) -> Array:
    """`lambda (|x0* - x_0|^2 - |x0_phi - x_0|^2)` at one x_t (Alg. 1, line 12), `[B]`.

    Differentiate it for what x0 depends on: the gradient flows through x0 itself and, by
    `x_t = a x_T + b x_0 + c noise`, through the inputs of the teacher and of the bridge net.

    Args:
      teacher, bridge_net: frozen here.
      x0: `[B, H, W, C]` the generator's answer; xT, noise: the same shape.
      t, weight: `[B]`.
      normalize: divides each example by its detached mean `|x0* - x_0|` (the normaliser of SiD and of
        RSD), which keeps examples and times of very different error in balance.
      detach_xt: takes x_t for a constant: the same value, and no gradient passes through either network.
      mask: `[B, H, W, 1]` of pixels that count, or None.
    """
    chex.assert_equal_shape([x0, xT, noise])
    xt = bridge.sample(jax.lax.stop_gradient(x0) if detach_xt else x0, xT, t, noise)
    by_teacher = teacher(xt, t, xT)
    if normalize:
        distance = jnp.abs(by_teacher - x0)
        mean = jnp.mean(distance, axis=tuple(range(1, distance.ndim)))
        weight = weight / jax.lax.stop_gradient(mean + 1e-6)
    by_bridge_net = bridge_net(xt, t, xT)
    return squared_error(by_teacher, x0, weight, mask) - squared_error(
        by_bridge_net, x0, weight, mask
    )


def roll_out_random(
    generate: Generator, bridge: Bridge, xT: Array, times: Array, keys: Array, which: Array
) -> Array:
    """x_0 by one of the student's N calls, as with DDBM teachers (IBMD app. B.2), `[B, H, W, C]`.

    Its input is what the calls before it lead to in inference, without gradient: the draws of
    `sample_few_step`. A call so learns to mend what those before it got wrong.

    Args:
      times: `[N]` descending, from T or a little below.
      keys: `[B]`.
      which: `[B]` int in 0 .. N - 1, the call of each example.
    """
    chex.assert_equal_shape_prefix([xT, which], 1)
    inputs = jax.lax.stop_gradient(call_inputs(generate, bridge, xT, times, keys))
    # Not by indexing, for which the compiler might gather a batch that is split over devices.
    own = (which == jnp.arange(len(inputs))[:, None]).reshape(
        inputs.shape[:2] + (1,) * (xT.ndim - 1)
    )
    x = jnp.sum(inputs, axis=0, where=own)
    return generate(x, times[which], xT, normal(keys, DRAWS("z", which), xT))


def roll_out_chain(
    generate: Generator, bridge: Bridge, xT: Array, times: Array, keys: Array
) -> Array:
    """x_0 by all N calls, as with I2SB teachers (IBMD app. B.1), the gradient through each, `[B, H, W, C]`.

    The calls of `sample_few_step`. (With a gradient through the last one alone it would be
    `roll_out_random` of that call.)

    Args:
      times: `[N]` descending, from T or a little below.
      keys: `[B]`.
    """
    nfe = times.shape[0]
    x = first_input(bridge, xT, times[0], normal(keys, DRAWS("noise", nfe - 1), xT))
    x0 = generate(x, times[0], xT, normal(keys, DRAWS("z", 0), x))
    if nfe == 1:
        return x0

    def call(carry: tuple[Array, Array], k: Array):
        x, x0 = carry
        x = next_input(bridge, x0, x, xT, times, keys, k)
        return (x, generate(x, times[k], xT, normal(keys, DRAWS("z", k), x))), None

    unroll = unroll_gradients(nfe - 1)
    (_, x0), _ = jax.lax.scan(call, (x, x0), jnp.arange(1, nfe), unroll=unroll)
    return x0
