"""UniDB: GOUB with a penalty on the end instead of a pin."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from jax_bridges.bridges.base import Coefficients, expand
from jax_bridges.bridges.goub import GOUB
from jax_bridges.typing import Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class UniDB(GOUB):
    """Paths from x_0 that end near x_T: `gamma / 2 |x - x_T|^2` at T is weighed against the control.

    UniDB (arXiv 2502.05749): `b_t = alpha_t (1 + gamma s_{t:T}^2) / (1 + gamma s_T^2)` with GOUB's
    variances s^2 of what is left and of the whole way, a = 1 - b, and c as GOUB's. With
    `w = 1 / (1 + gamma s_T^2)` that is `b = (1 - w) b_GOUB + w alpha`: w of the unpinned prior, whose
    posterior is the same, so that steps are GOUB's. As c is not the control's own variance, the
    velocity here is that of a, b and c, on which the paper's control differs within 1 / gamma of T.
    x_0 keeps the share `w alpha_T` at T, which a start at x_T leaves out. Build it with `UniDB.create`.
    """

    gamma: float

    @classmethod
    def create(
        cls,
        *,
        gamma: float = 1e7,
        lam: float = 60.0 / 255.0,
        schedule: str = "cosine",
        steps: int = 100,
        eps: float = 0.01,
        deterministic: bool = False,
    ) -> UniDB:
        """The bridge of the paper.

        Args:
          gamma: weight of the penalty; the official runs have 1e6 to 1e8, infinity is GOUB.
          lam: standard deviation of the prior at stationarity, in units of the images.
          schedule: of theta, a key of `THETAS`: cosine, linear or constant.
          steps: entries of the table.
          eps: alpha_T, the share of x_0 that the unpinned prior still has at T.
        """
        if not gamma > 0:
            raise ValueError(f"unidb: gamma must be above 0, but is {gamma}.")
        pinned = GOUB.create(
            lam=lam, schedule=schedule, steps=steps, eps=eps, deterministic=deterministic
        )
        return cls(gamma=gamma, **vars(pinned))

    def _free(self) -> Array:
        """w of the class's docstring."""
        whole = self.lam**2 * -jnp.expm1(-2.0 * self.integral[-1])
        return 1.0 / (1.0 + self.gamma * whole)

    def coefficients(self, t: Array) -> Coefficients:
        """Between those of GOUB and of the unpinned prior, `a = 1 - alpha` and `b = alpha`."""
        (a, b, c), w, alpha = super().coefficients(t), self._free(), self.alpha(t)
        return Coefficients(a + w * (1.0 - alpha - a), b + w * (alpha - b), c)

    def _let_go(self, x0_hat: Array, xt: Array, xT: Array, t: Array) -> Array:
        """What the pin's velocity has too much: `w g^2 (x_0 - x_T) / (alpha rhobar^2)`."""
        rate = self._free() * self.g2(t) / (self.alpha(t) * self.rho_bar2(t))
        return expand(rate, xt) * (x0_hat - xT)

    def ode_drift(
        self, x0_hat: Array, xt: Array, xT: Array, t: Array, guidance: float | Array = 1.0
    ) -> Array:
        """The velocity `a' x_T + b' x_0 + c' z`."""
        pinned = super().ode_drift(x0_hat, xt, xT, t, guidance)
        return pinned + guidance * self._let_go(x0_hat, xt, xT, t)

    def reverse_sde(
        self, x0_hat: Array, xt: Array, xT: Array, t: Array, guidance: float | Array = 1.0
    ) -> tuple[Array, Array]:
        """That velocity with noise of g and its score."""
        drift, g = super().reverse_sde(x0_hat, xt, xT, t, guidance)
        return drift + guidance * self._let_go(x0_hat, xt, xT, t), g
