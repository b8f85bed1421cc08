"""From a raw network F to a denoiser: input and output scalings, network time, loss weight.

`x0_hat = c_skip x_t + c_out F(c_in x_t, c_noise, x_T)`; each kind gives its scalings for any bridge
(or, "wiener", something better than c_skip x_t) and the loss weight that its project trains with. On a
bridge that is a table the network is told the time of the entry whose coefficients are used.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jax_bridges.bridges import Bridge, expand
from jax_bridges.choices import choose
from jax_bridges.scalings import Preconditioning, Scalings, share
from jax_bridges.typing import Array, ArrayOrPair, Predictor
from jax_bridges.wiener import Wiener


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class I2SBScaling(Preconditioning):
    """I2SB: the network predicts `(x_t - x_0) / sigma_t` (arXiv 2302.05872, eq. 12).

    c_in = c_skip = 1, c_out = -sigma_t, weight 1 / sigma_t^2; network time 0.1 .. 1000.

    Attributes:
      t0: network time at t = 0, in units of 1000.
    """

    t0: float = 1e-4

    def scalings(self, bridge: Bridge, t: Array) -> Scalings:
        """Scalings at times t `[B]`."""
        t = jnp.asarray(t)
        one = jnp.ones_like(t)
        unit = share(bridge, t, 1.0)
        return Scalings(one, one, -bridge.sigma(t), 1000.0 * (self.t0 + (1.0 - self.t0) * unit))

    def weight(self, bridge: Bridge, t: Array, xT: Array | None = None) -> Array:
        """`1 / c_out^2`: plain mean squares in units of the network's output."""
        return 1.0 / bridge.sigma(jnp.asarray(t)) ** 2


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class BridgeKarras(Preconditioning):
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
        log_t = jnp.log(jnp.maximum(bridge.snap(t), jnp.finfo(t.dtype).tiny))
        return Scalings(c_in, c_skip, c_out, 250.0 * log_t)

    def weight(self, bridge: Bridge, t: Array, xT: Array | None = None) -> Array:
        """`1 / c_out^2`."""
        return 1.0 / self._scales(bridge, jnp.asarray(t))[2] ** 2


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Residual(Preconditioning):
    """The network adds to what x_t says of x_0 where x_0 - x_T is Gaussian: nothing at T, where that is x_T.

    With `r = x_0 - x_T ~ N(0, s^2)` the bridge shows `x_t - (a + b) x_T = b r + c n`, of which r has the
    mean `g (x_t - (a + b) x_T)` with `g = b s^2 / v`, and the standard deviation `s c / sqrt(v)`, with
    `v = b^2 s^2 + c^2`. So `x0_hat = x_T + g (x_t - (a + b) x_T) + s c / sqrt(v) F`: a network that says
    nothing answers with x_T where nothing else is known. How much there is to add goes with an image's
    detail, which a network that normalises its layers hardly sees: `s = scale d`, d^2 the mean squared
    difference of neighbouring pixels of x_T, and `floor`^2.

    c_in = 1; c_out and weight are for `d = 0.1` where x_T is not given; network time 1000 t / T. The weight
    is 1 / c_out^2, but at most `most` times what it is at T.

    Attributes:
      scale: standard deviation of x_0 - x_T, in units of d.
      floor: least d that is reckoned with.
      most: bound of the weight, relative to that at T.
      centred: the network sees x_t and x_T less x_T's mean colour, in units of `sqrt(d^2 + floor^2)`. Else
        it must learn first to see faint detail beside the brightness, from which norms do not part it.
    """

    scale: float = 1.0
    floor: float = 0.01
    most: float = 8.0
    centred: bool = False

    def _detail2(self, xT: Array) -> Array:
        """d^2 + floor^2 `[B]`."""
        down, right = jnp.diff(xT, axis=1) ** 2, jnp.diff(xT, axis=2) ** 2
        d2 = 0.5 * (jnp.mean(down, axis=(1, 2, 3)) + jnp.mean(right, axis=(1, 2, 3)))
        return d2 + self.floor**2

    def _spread2(self, t: Array, xT: Array | None) -> Array:
        """s^2, shaped like t `[B]`."""
        if xT is None:
            return jnp.full_like(t, (0.1 * self.scale) ** 2)
        return self.scale**2 * self._detail2(xT)

    def seen(self, xt: Array, xT: Array, scalings: Scalings) -> tuple[Array, Array]:
        if not self.centred:
            return super().seen(xt, xT, scalings)
        mean, unit = jnp.mean(xT, axis=(1, 2), keepdims=True), expand(self._detail2(xT) ** -0.5, xT)
        return (xt - mean) * unit, (xT - mean) * unit

    def _gains(self, bridge: Bridge, t: Array, xT: Array | None = None) -> tuple[Array, Array]:
        """g, and s c / sqrt(v)."""
        _, b, c = bridge.coefficients(t)
        s2 = self._spread2(t, xT)
        # At both ends of a bridge c is 0, and at T b is 0 as well.
        c2 = jnp.maximum(c**2, 1e-12)
        v = b**2 * s2 + c2
        return b * s2 / v, jnp.sqrt(s2 * c2 / v)

    def answer(
        self, bridge: Bridge, xt: Array, t: Array, xT: Array, scalings: Scalings, raw: Array
    ) -> Array:
        a, b, _ = (expand(v, xt) for v in bridge.coefficients(t))
        gain, spread = (expand(v, xt) for v in self._gains(bridge, t, xT))
        return xT + gain * (xt - (a + b) * xT) + spread * raw

    def scalings(self, bridge: Bridge, t: Array) -> Scalings:
        """Scalings at times t `[B]`; c_skip is g of what `answer` has left of x_t."""
        t = jnp.asarray(t)
        gain, spread = self._gains(bridge, t)
        return Scalings(jnp.ones_like(t), gain, spread, share(bridge, t, 1000.0))

    def weight(self, bridge: Bridge, t: Array, xT: Array | None = None) -> Array:
        """`1 / c_out^2`, bounded."""
        t = jnp.asarray(t)
        spread = self._gains(bridge, t, xT)[1]
        return jnp.minimum(1.0 / spread**2, self.most / self._spread2(t, xT))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Plain(Preconditioning):
    """No scaling: the network predicts x_0 itself, weight 1, network time 1000 t / T."""

    def scalings(self, bridge: Bridge, t: Array) -> Scalings:
        """Scalings at times t `[B]`."""
        t = jnp.asarray(t)
        one = jnp.ones_like(t)
        return Scalings(one, jnp.zeros_like(t), one, share(bridge, t, 1000.0))

    def weight(self, bridge: Bridge, t: Array, xT: Array | None = None) -> Array:
        """One."""
        return jnp.ones_like(jnp.asarray(t))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class ScaledInput(Preconditioning):
    """The network predicts x_0 itself, from an input of unit variance; for diffusion priors.

    c_in = 1 / sqrt(alpha^2 sigma_data^2 + sigma^2), no skip, weight 1, network time `250 ln(sigma / alpha)`.
    Where pixels of x_t are missing a skip would hand on holes, and what the network adds to it is small
    at little noise.

    Attributes:
      sigma_data: standard deviation of x_0.
    """

    sigma_data: float = 0.5

    def scalings(self, bridge: Bridge, t: Array) -> Scalings:
        """Scalings at times t `[B]`."""
        t = jnp.asarray(t)
        alpha, sigma = bridge.alpha(t), bridge.sigma(t)
        c_in = jax.lax.rsqrt((alpha * self.sigma_data) ** 2 + sigma**2)
        one = jnp.ones_like(c_in)
        log_level = jnp.log(jnp.maximum(sigma / alpha, jnp.finfo(t.dtype).tiny))
        return Scalings(c_in, jnp.zeros_like(c_in), one, 250.0 * log_level)

    def weight(self, bridge: Bridge, t: Array, xT: Array | None = None) -> Array:
        """One."""
        return jnp.ones_like(bridge.alpha(jnp.asarray(t)))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class UnitVariance(BridgeKarras):
    """`BridgeKarras` with network time 1000 t / T, for bridges whose time is no noise level (DDPM)."""

    def scalings(self, bridge: Bridge, t: Array) -> Scalings:
        """Scalings at times t `[B]`."""
        t = jnp.asarray(t)
        return Scalings(*self._scales(bridge, t), share(bridge, t, 1000.0))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Epsilon(Preconditioning):
    """DDPM and ADM: the network predicts the noise, told the table's index (arXiv 2006.11239, eq. 11).

    c_in = 1, c_skip = 1 / alpha, c_out = -sigma / alpha, weight alpha^2 / sigma^2; network time
    0 .. steps - 1 on a table of `steps` entries.

    Attributes:
      steps: entries of the table that the network time counts.
    """

    steps: float = 1000.0

    def scalings(self, bridge: Bridge, t: Array) -> Scalings:
        """Scalings at times t `[B]`."""
        t = jnp.asarray(t)
        alpha, sigma = bridge.alpha(t), bridge.sigma(t)
        index = share(bridge, t, self.steps - 1)
        return Scalings(jnp.ones_like(alpha), 1.0 / alpha, -sigma / alpha, index)

    def weight(self, bridge: Bridge, t: Array, xT: Array | None = None) -> Array:
        """`1 / c_out^2`: plain mean squares of the noise."""
        t = jnp.asarray(t)
        return (bridge.alpha(t) / bridge.sigma(t)) ** 2


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Velocity(Preconditioning):
    """The network predicts how the mean path moves, `v = a' x_T + b' x_0` (arXiv 2209.03003, eq. 1).

    On the linear path `v = x_T - x_0` and x_0 = x_t - t v; on a noisy bridge, `(x_t - x_0) / t`, the
    drift that bridge matching regresses (arXiv 2303.16852, eq. 7). With `d = a' b - a b'`: c_in = 1,
    c_skip = a' / d, c_out = -a / d, weight 1 / c_out^2; network time 1000 t / T.
    """

    def _scales(self, bridge: Bridge, t: Array) -> tuple[Array, Array]:
        if bridge.table is not None or bridge.prior:
            raise ValueError(
                "The preconditioning 'velocity' needs a path between images with a slope, which a table and "
                "a diffusion prior have not: take bridge 'brownian' or 'interpolant', or preconditioning "
                "'i2sb' or, for a prior, 'epsilon'."
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

    def weight(self, bridge: Bridge, t: Array, xT: Array | None = None) -> Array:
        """`1 / c_out^2`: plain mean squares of the velocity."""
        return 1.0 / self._scales(bridge, jnp.asarray(t))[1] ** 2


PRECONDITIONINGS = {
    "i2sb": I2SBScaling,
    "bridge_karras": BridgeKarras,
    "unit_variance": UnitVariance,
    "epsilon": Epsilon,
    "none": Plain,
    "residual": Residual,
    "scaled_input": ScaledInput,
    "velocity": Velocity,
    "wiener": Wiener,
}


def make_preconditioning(name: str, **settings):
    """Builds a preconditioning by name; ValueError lists the known names or settings."""
    return choose("preconditioning", PRECONDITIONINGS, name, settings)


def precondition(network: Callable[..., Array], bridge: Bridge, preconditioning) -> Predictor:
    """Wraps `network(x, c_noise, xT, z) -> F` into `x0_hat = denoise(x_t, t, x_T, z=None)`.

    The network decides itself whether it looks at x_T (conditional) or not; x_T goes in unscaled, as the
    released conditional teachers were trained, unless `residual` is centred. Of a network with twice the
    image's channels the second half v is ADM's learned variance (arXiv 2102.09672, eq. 15): the denoiser
    then gives the pair (x0_hat, (v + 1) / 2), which `zero_shot.steps.predict` takes.
    """

    def denoise(xt: Array, t: Array, xT: Array, z: Array | None = None) -> ArrayOrPair:
        t = jnp.broadcast_to(jnp.asarray(t, xt.dtype), xt.shape[:1])
        scalings = preconditioning.scalings(bridge, t)
        seen, source = preconditioning.seen(xt, xT, scalings)
        raw = network(seen, scalings.c_noise, source, z).astype(xt.dtype)
        raw, variance = raw[..., : xt.shape[-1]], raw[..., xt.shape[-1] :]
        x0_hat = preconditioning.answer(bridge, xt, t, xT, scalings, raw)
        return (x0_hat, 0.5 * (variance + 1.0)) if variance.shape[-1] else x0_hat

    return denoise
