"""From a raw network F to a denoiser: input and output scalings, network time, loss weight.

`x0_hat = c_skip x_t + c_out F(c_in x_t, c_noise, x_T)`; each kind gives its scalings for any bridge
and the loss weight that its project trains with.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jax_bridges.bridges import I2SB as I2SBBridge
from jax_bridges.bridges import Bridge, expand
from jax_bridges.choices import choose
from jax_bridges.typing import Array, Denoiser


class Scalings(NamedTuple):
    """Each shaped like t."""

    c_in: Array
    c_skip: Array
    c_out: Array
    c_noise: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class I2SBScaling:
    """I2SB: the network predicts `(x_t - x_0) / sigma_t` (arXiv 2302.05872, eq. 12).

    c_in = c_skip = 1, c_out = -sigma_t, weight 1 / sigma_t^2; network time 0.1 .. 1000.
    """

    t0: float = 1e-4

    def scalings(self, bridge: Bridge, t: Array) -> Scalings:
        """Scalings at times t `[B]`."""
        t = jnp.asarray(t)
        one = jnp.ones_like(t)
        # Snapped to the table where there is one, so that network time and coefficients agree.
        unit = (
            bridge.index(t) / (bridge.steps - 1) if isinstance(bridge, I2SBBridge) else t / bridge.T
        )
        return Scalings(one, one, -bridge.sigma(t), 1000.0 * (self.t0 + (1.0 - self.t0) * unit))

    def weight(self, bridge: Bridge, t: Array) -> Array:
        """`1 / c_out^2`: plain mean squares in units of the network's output."""
        return 1.0 / bridge.sigma(jnp.asarray(t)) ** 2


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class BridgeKarras:
    """DDBM's unit-variance scalings (arXiv 2309.16948, app. A.4; `bridge_karras`).

    Attributes:
      sigma_data: standard deviation of x_0.
      sigma_data_end: standard deviation of x_T.
      cov_xy: their covariance a pixel.
    """

    sigma_data: float = 0.5
    sigma_data_end: float = 0.5
    cov_xy: float = 0.0

    def _scales(self, bridge: Bridge, t: Array) -> tuple[Array, Array, Array]:
        a, b, c = bridge.coefficients(t)
        s0, sT, cov = self.sigma_data, self.sigma_data_end, self.cov_xy
        variance = a**2 * sT**2 + b**2 * s0**2 + 2.0 * a * b * cov + c**2
        c_in = jax.lax.rsqrt(variance)
        c_skip = (b * s0**2 + a * cov) / variance
        c_out = jnp.sqrt(a**2 * (sT**2 * s0**2 - cov**2) + s0**2 * c**2) * c_in
        return c_in, c_skip, c_out

    def scalings(self, bridge: Bridge, t: Array) -> Scalings:
        """Scalings at times t `[B]`; network time `250 ln t`."""
        t = jnp.asarray(t)
        c_in, c_skip, c_out = self._scales(bridge, t)
        # DDBM adds 1e-44 to t, which float32 would flush to zero, and ln 0 to minus infinity.
        log_t = jnp.log(jnp.maximum(t, jnp.finfo(t.dtype).tiny))
        return Scalings(c_in, c_skip, c_out, 250.0 * log_t)

    def weight(self, bridge: Bridge, t: Array) -> Array:
        """`1 / c_out^2`."""
        return 1.0 / self._scales(bridge, jnp.asarray(t))[2] ** 2


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Plain:
    """No scaling: the network predicts x_0 itself, weight 1, network time 1000 t / T."""

    def scalings(self, bridge: Bridge, t: Array) -> Scalings:
        """Scalings at times t `[B]`."""
        t = jnp.asarray(t)
        one = jnp.ones_like(t)
        return Scalings(one, jnp.zeros_like(t), one, 1000.0 * t / bridge.T)

    def weight(self, bridge: Bridge, t: Array) -> Array:
        """One."""
        return jnp.ones_like(jnp.asarray(t))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class UnitVariance(BridgeKarras):
    """`BridgeKarras` with network time 1000 t / T, for bridges whose time is no noise level (DDPM)."""

    def scalings(self, bridge: Bridge, t: Array) -> Scalings:
        """Scalings at times t `[B]`."""
        t = jnp.asarray(t)
        return Scalings(*self._scales(bridge, t), 1000.0 * t / bridge.T)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Epsilon:
    """DDPM and ADM: the network predicts the noise, told the table's index (arXiv 2006.11239, eq. 11).

    c_in = 1, c_skip = 1 / alpha, c_out = -sigma / alpha, weight alpha^2 / sigma^2; network time
    0 .. steps - 1 on a table of `steps` entries.
    """

    steps: float = 1000.0

    def scalings(self, bridge: Bridge, t: Array) -> Scalings:
        """Scalings at times t `[B]`."""
        t = jnp.asarray(t)
        alpha, sigma = bridge.alpha(t), bridge.sigma(t)
        index = (self.steps - 1) * t / bridge.T
        return Scalings(jnp.ones_like(alpha), 1.0 / alpha, -sigma / alpha, index)

    def weight(self, bridge: Bridge, t: Array) -> Array:
        """`1 / c_out^2`: plain mean squares of the noise."""
        t = jnp.asarray(t)
        return (bridge.alpha(t) / bridge.sigma(t)) ** 2


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Velocity:
    """The network predicts how the mean path moves, `v = a' x_T + b' x_0` (arXiv 2209.03003, eq. 1).

    On the linear path `v = x_T - x_0` and x_0 = x_t - t v; on a noisy bridge, `(x_t - x_0) / t`, the
    drift that bridge matching regresses (arXiv 2303.16852, eq. 7). With `d = a' b - a b'`: c_in = 1,
    c_skip = a' / d, c_out = -a / d, weight 1 / c_out^2; network time 1000 t / T.
    """

    def _scales(self, bridge: Bridge, t: Array) -> tuple[Array, Array]:
        if isinstance(bridge, I2SBBridge):
            raise ValueError(
                "The preconditioning 'velocity' needs a bridge with a slope, which a table has not: "
                "take bridge 'brownian' or 'interpolant', or preconditioning 'i2sb'."
            )
        means = lambda t: bridge.coefficients(t)[:2]  # noqa: E731
        (a, b), (da, db) = jax.jvp(means, (t,), (jnp.ones_like(t),))
        d = da * b - a * db
        return da / d, -a / d

    def scalings(self, bridge: Bridge, t: Array) -> Scalings:
        """Scalings at times t `[B]`."""
        t = jnp.asarray(t)
        c_skip, c_out = self._scales(bridge, t)
        return Scalings(jnp.ones_like(t), c_skip, c_out, 1000.0 * t / bridge.T)

    def weight(self, bridge: Bridge, t: Array) -> Array:
        """`1 / c_out^2`: plain mean squares of the velocity."""
        return 1.0 / self._scales(bridge, jnp.asarray(t))[1] ** 2


PRECONDITIONINGS = {
    "i2sb": I2SBScaling,
    "bridge_karras": BridgeKarras,
    "unit_variance": UnitVariance,
    "epsilon": Epsilon,
    "none": Plain,
    "velocity": Velocity,
}


def make_preconditioning(name: str, **settings):
    """Builds a preconditioning by name; ValueError lists the known names or settings."""
    return choose("preconditioning", PRECONDITIONINGS, name, settings)


def precondition(network: Callable[..., Array], bridge: Bridge, preconditioning) -> Denoiser:
    """Wraps `network(x, c_noise, xT, z) -> F` into `x0_hat = denoise(x_t, t, x_T, z=None)`.

    The network decides itself whether it looks at x_T (conditional) or not; x_T goes in unscaled,
    as the released conditional teachers were trained. Of a network with twice the image's channels the
    second half v is ADM's learned variance (arXiv 2102.09672, eq. 15): the denoiser then gives the
    pair (x0_hat, (v + 1) / 2), which `zero_shot.steps.predict` takes.
    """

    def denoise(xt: Array, t: Array, xT: Array, z: Array | None = None) -> Array:
        t = jnp.broadcast_to(jnp.asarray(t, xt.dtype), xt.shape[:1])
        c_in, c_skip, c_out, c_noise = preconditioning.scalings(bridge, t)
        raw = network(expand(c_in, xt) * xt, c_noise, xT, z).astype(xt.dtype)
        raw, variance = raw[..., : xt.shape[-1]], raw[..., xt.shape[-1] :]
        x0_hat = expand(c_skip, xt) * xt + expand(c_out, xt) * raw
        return (x0_hat, 0.5 * (variance + 1.0)) if variance.shape[-1] else x0_hat

    return denoise
