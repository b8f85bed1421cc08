"""Priors with closed-form alpha and rho: Brownian, variance exploding, variance preserving."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from jax_bridges.bridges.base import Bridge
from jax_bridges.typing import Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Brownian(Bridge):
    """The Brownian bridge, `dx = epsilon dw`: alpha = 1, rho^2 = epsilon^2 t.

    Attributes:
      epsilon: standard deviation of the noise after a unit of time.
    """

    epsilon: float = 1.0

    def alpha(self, t: Array) -> Array:
        return jnp.ones_like(t)

    def rho2(self, t: Array) -> Array:
        return self.epsilon**2 * t

    def rho_bar2(self, t: Array) -> Array:
        return self.epsilon**2 * (self.T - t)

    def f(self, t: Array) -> Array:
        return jnp.zeros_like(t)

    def g2(self, t: Array) -> Array:
        return self.epsilon**2 * jnp.ones_like(t)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class VE(Bridge):
    """DDBM's variance-exploding prior, whose time is its noise level: alpha = 1, rho = t, g^2 = 2 t.

    Released settings: (t_min, T) = (0.002, 80) for edges2handbags, (0.0005, 20) for DIODE.
    """

    t_min: float = 0.002
    T: float = 80.0

    def alpha(self, t: Array) -> Array:
        return jnp.ones_like(t)

    def rho2(self, t: Array) -> Array:
        return t**2

    def rho_bar2(self, t: Array) -> Array:
        return (self.T - t) * (self.T + t)

    def guidances(self, w: float | Array) -> tuple[float | Array, float | Array]:
        """As DDBM's code damps h for this prior alone: never in the SDE, by (1 + w) / 2 in the ODE."""
        return 1.0, 0.5 * (1.0 + w)

    def f(self, t: Array) -> Array:
        return jnp.zeros_like(t)

    def g2(self, t: Array) -> Array:
        return 2.0 * t


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class VP(Bridge):
    """DDBM's variance-preserving prior with linear beta(t) = beta_min + beta_d t on [1e-4, 1].

    With `B(t) = beta_min t + beta_d t^2 / 2`: `log alpha = -B / 2`, `rho^2 = e^B - 1`, `f = -beta / 2`,
    `g^2 = beta`.

    Attributes:
      beta_d: slope of beta.
      beta_min: beta at t = 0.
    """

    beta_d: float = 2.0
    beta_min: float = 0.1

    def _integral(self, t: Array) -> Array:
        return t * (self.beta_min + 0.5 * self.beta_d * t)

    def alpha(self, t: Array) -> Array:
        return jnp.exp(-0.5 * self._integral(t))

    def rho2(self, t: Array) -> Array:
        return jnp.expm1(self._integral(t))

    def rho_bar2(self, t: Array) -> Array:
        # e^{B_T} - e^{B_t} with the difference B_T - B_t factored, exact to rounding near T.
        rest = (self.T - t) * (self.beta_min + 0.5 * self.beta_d * (self.T + t))
        return jnp.exp(self._integral(t)) * jnp.expm1(rest)

    def f(self, t: Array) -> Array:
        return -0.5 * self.g2(t)

    def g2(self, t: Array) -> Array:
        return self.beta_min + self.beta_d * t
