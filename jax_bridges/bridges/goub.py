"""GOUB: a generalised Ornstein-Uhlenbeck bridge, whose prior itself drifts towards x_T."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jax_bridges.bridges.base import Bridge, Coefficients
from jax_bridges.choices import look_up
from jax_bridges.typing import Array


def _cosine(steps: int, shift: float = 0.008) -> np.ndarray:
    u = (np.arange(1, steps + 2) / (steps + 2) + shift) / (1.0 + shift)
    return 1.0 - (np.cos(0.5 * np.pi * u) / np.cos(0.5 * np.pi * shift / (1.0 + shift))) ** 2


# Rates theta_0 .. theta_steps of the table, up to a constant factor (read from the official code).
THETAS: dict[str, Callable[[int], np.ndarray]] = {
    "cosine": _cosine,
    "linear": lambda steps: np.linspace(1e-4, 2e-2, steps + 1),
    "constant": lambda steps: np.ones(steps + 1),
}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class GOUB(Bridge):
    """`dx = theta_t (x_T - x) dt + sigma_t dw` with `sigma^2 = 2 lam^2 theta`, pinned at x_T.

    arXiv 2312.10299, eq. 5-8. In the displacement `x - x_T` it is an Ornstein-Uhlenbeck prior with
    `alpha = e^-Theta`, `rho^2 = lam^2 (e^{2 Theta} - 1)`, pinned at 0; hence a = 1 - b, and x_T stays
    in drift, h-transform and posterior. Theta, the integral of theta, is cumulated from entry 1 of the
    table, scaled to end at -ln(eps) and interpolated between entries; entry i is at t = i / steps.
    Build it with `GOUB.create`.
    """

    lam: float
    thetas: np.ndarray
    integral: np.ndarray

    @classmethod
    def create(
        cls,
        *,
        lam: float = 60.0 / 255.0,
        schedule: str = "cosine",
        steps: int = 100,
        eps: float = 0.01,
        deterministic: bool = False,
    ) -> GOUB:
        """The bridge of the paper.

        Args:
          lam: standard deviation of the prior at stationarity, in units of the images: by default 30
            of 255 grey levels on [-1, 1], the official `lambda_square` of inpainting.
          schedule: of theta, a key of `THETAS`: cosine, linear or constant.
          steps: entries of the table.
          eps: alpha_T, the share of x_0 that the unpinned prior still has at T.
        """
        if not 0 < eps < 1:
            raise ValueError(f"goub: eps must lie between 0 and 1, but is {eps}.")
        if not lam > 0 or steps < 1:
            raise ValueError(
                f"goub: lam must be above 0 and steps at least 1, but they are {lam} and {steps}."
            )
        thetas = look_up("theta schedule of goub", THETAS, schedule)(steps)
        integral = np.cumsum(thetas) - thetas[0]
        scale = -math.log(eps) / integral[-1]
        return cls(
            lam=lam, thetas=scale * thetas, integral=scale * integral, deterministic=deterministic
        )

    @property
    def needs_source(self) -> bool:
        return True

    @property
    def steps(self) -> int:
        """Intervals of the table."""
        return self.thetas.shape[0] - 1

    def _interpolate(self, table: np.ndarray, t: Array) -> Array:
        dtype = jnp.promote_types(jnp.asarray(t).dtype, jnp.float32)
        entries = jnp.arange(self.steps + 1, dtype=dtype)
        return jnp.interp(t * self.steps, entries, jnp.asarray(table, dtype))

    def _done(self, t: Array) -> Array:
        return self._interpolate(self.integral, t)

    def _left(self, t: Array) -> Array:
        return self._interpolate(self.integral[-1] - self.integral, t)

    def alpha(self, t: Array) -> Array:
        return jnp.exp(-self._done(t))

    def rho2(self, t: Array) -> Array:
        return self.lam**2 * jnp.expm1(2.0 * self._done(t))

    def rho_bar2(self, t: Array) -> Array:
        return self.lam**2 * jnp.exp(2.0 * self._done(t)) * jnp.expm1(2.0 * self._left(t))

    def f(self, t: Array) -> Array:
        """-theta a unit of time, of the interval that ends in the next entry (or in this one)."""
        # The margin is for the rounding of t * steps.
        entry = jnp.clip(jnp.ceil(jnp.asarray(t) * self.steps - 1e-3), 1, self.steps)
        table = jnp.asarray(self.thetas, jnp.promote_types(entry.dtype, jnp.float32))
        return -self.steps * table[entry.astype(jnp.int32)]

    def g2(self, t: Array) -> Array:
        return -2.0 * self.lam**2 * self.f(t)

    def coefficients(self, t: Array) -> Coefficients:
        """a = 1 - b, with b and c of the prior in the displacement."""
        _, b, c = super().coefficients(t)
        alpha, alpha_T = self.alpha(t), math.exp(-self.integral[-1])
        # 1 - b, factored so that nothing cancels near 0.
        a = -jnp.expm1(-self._done(t)) * (1.0 + alpha_T**2 / alpha) / (1.0 - alpha_T**2)
        return Coefficients(a, b, c)

    def step(
        self,
        x0_hat: Array,
        xt: Array,
        t: Array,
        s: Array,
        noise: Array | float,
        xT: Array | None = None,
    ) -> Array:
        """The Markov posterior `q(x_s | x_0, x_t, x_T)`: the prior's own, in the displacement."""
        xT = self.required(xT)
        return xT + super().step(x0_hat - xT, xt - xT, t, s, noise)

    def h(self, xt: Array, xT: Array, t: Array) -> Array:
        """`-(x - x_T) / (alpha_t^2 (rho_T^2 - rho_t^2))`."""
        return super().h(xt - xT, jnp.zeros_like(xT), t)

    def prior_drift(self, xt: Array, xT: Array, t: Array) -> Array:
        """`theta (x_T - x)`."""
        return super().prior_drift(xt - xT, xT, t)
