"""ResShift: x_0 shifts towards x_T, and noise grows with the shift; it ends in a noisy x_T."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jax_bridges.bridges.base import Bridge
from jax_bridges.bridges.interpolant import Interpolant
from jax_bridges.typing import Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class ResShift(Interpolant):
    """`q(x_t | x_0, x_T) = N(x_0 + eta_t (x_T - x_0), kappa^2 eta_t)` (arXiv 2307.12348, eq. 2).

    a = eta, b = 1 - eta, c = kappa sqrt(eta): the Brownian bridge of clock kappa^2 eta to the noisy
    source `x_T + kappa zeta`; hence x_T drops out of the posterior (eq. 7). Entry k = 1 .. n of the table
    of sqrt(eta) is at t = k / n, after a 0 at t = 0, and it is interpolated in between: n calls on the
    uniform grid are the official sampler. Build it with `ResShift.create`.
    """

    kappa: float
    roots: np.ndarray

    @classmethod
    def create(
        cls,
        *,
        kappa: float = 2.0,
        steps: int = 15,
        min_noise: float = 0.04,
        last: float = 0.99,
        power: float = 0.3,
    ) -> ResShift:
        """The bridge of the paper: `sqrt(eta) = first (last / first)^{u^power}` (eq. 8), u in [0, 1].

        Args:
          kappa: noise, in units of the images.
          steps: entries of the table.
          min_noise: of the first entry, `sqrt(eta) = min(min_noise / kappa, min_noise)`.
          last: sqrt(eta) at T.
          power: below 1, sqrt(eta) rises early.

        Raises:
          ValueError: a number for which there is no such bridge.
        """
        if not kappa > 0 or steps < 2 or not 0 < min_noise < last <= 1:
            raise ValueError(
                "resshift: kappa must be above 0, steps at least 2 and 0 < min_noise < last <= 1, but they "
                f"are {kappa}, {steps}, {min_noise} and {last}."
            )
        first = min(min_noise / kappa, min_noise)
        roots = first * (last / first) ** np.linspace(0.0, 1.0, steps) ** power
        return cls(kappa=kappa, roots=np.append(0.0, roots))

    @property
    def pinned(self) -> bool:
        return False

    def start(self, xT: Array, noise: Array) -> Array:
        """`x_T + kappa sqrt(eta_T) zeta`: x_0's share, 1 - eta_T, is left out."""
        return xT + self.kappa * float(self.roots[-1]) * noise

    def eta(self, t: Array) -> Array:
        """How far x_0 has shifted towards x_T, in [0, 1)."""
        t = jnp.asarray(t)
        dtype = jnp.promote_types(t.dtype, jnp.float32)
        last = self.roots.shape[0] - 1
        entries, roots = jnp.arange(last + 1, dtype=dtype), jnp.asarray(self.roots, dtype)
        return jnp.interp(t / self.T * last, entries, roots) ** 2

    def weights(self, t: Array) -> tuple[Array, Array, Array]:
        eta = self.eta(t)
        return eta, 1.0 - eta, self.kappa**2 * eta

    # The prior is Brownian: it adds noise to x_0, and the shift is not random.
    def rho2(self, t: Array) -> Array:
        return self.kappa**2 * self.eta(t)

    def rho_bar2(self, t: Array) -> Array:
        return self.kappa**2 * (1.0 - self.eta(t))

    sigma = Bridge.sigma
    increment_std = Bridge.increment_std
