"""I2SB's bridge: a table of 1000 steps with a symmetric, up-then-down noise schedule."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jax_bridges.bridges.base import Bridge, expand
from jax_bridges.typing import Array


def symmetric_betas(beta_max: float, steps: int = 1000) -> np.ndarray:
    """I2SB's step variances, float64 `[steps]` (arXiv 2302.05872, app. B; read from its code).

    The quadratic ramp from 1e-4 to `beta_max / steps` is computed at full length, of which only the
    first half is used and then mirrored: the peak is about half-way up the ramp, not `beta_max`.
    """
    ramp = np.linspace(np.sqrt(1e-4), np.sqrt(beta_max / steps), steps) ** 2
    half = ramp[: steps // 2]
    return np.concatenate([half, half[::-1]])


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class I2SB(Bridge):
    """Image-to-Image Schrodinger Bridge: alpha = 1, rho^2 a cumulated table, time t = index / (n - 1).

    Both tables include their own step, `rho_n^2 = sum_{i <= n} beta_i` and
    `rhobar_n^2 = sum_{i >= n} beta_i`, so `rho + rhobar` exceeds the total by `beta_n`: a and b are
    normalised by their sum and add to one, and rho at index 0 is 0.01, not 0. A time between two
    entries means the nearest one. Build it with `I2SB.create`.
    """

    t_min: float = 0.0
    betas: np.ndarray
    rho2_table: np.ndarray
    rho_bar2_table: np.ndarray

    @classmethod
    def create(
        cls, *, beta_max: float = 0.3, steps: int = 1000, deterministic: bool = False
    ) -> I2SB:
        """The bridge of the released checkpoints.

        Args:
          beta_max: of the noise schedule: 0.3 for JPEG and super-resolution, 1.0 for blur and inpainting.
          steps: entries of the table, an even number: its second half mirrors the first.
          deterministic: all bridge noise is left out: I2SB's `--ot-ode`, as in blur and inpainting.

        Raises:
          ValueError: beta_max not above 0, or steps not even and above 0.
        """
        if not beta_max > 0 or steps < 2 or steps % 2:
            raise ValueError(
                "i2sb: beta_max must be above 0 and steps an even number, at least 2, but they are "
                f"{beta_max} and {steps}."
            )
        betas = symmetric_betas(beta_max, steps)
        return cls(
            betas=betas,
            rho2_table=np.cumsum(betas),
            rho_bar2_table=np.cumsum(betas[::-1])[::-1].copy(),
            deterministic=deterministic,
        )

    @property
    def steps(self) -> int:
        """Entries of the table."""
        return self.betas.shape[0]

    @property
    def table(self) -> int:
        return self.steps

    def alpha(self, t: Array) -> Array:
        return jnp.ones_like(t)

    def rho2(self, t: Array) -> Array:
        return self.look_up(self.rho2_table, t)

    def rho_bar2(self, t: Array) -> Array:
        return self.look_up(self.rho_bar2_table, t)

    def total2(self, t: Array) -> Array:
        return self.rho2(t) + self.rho_bar2(t)

    def f(self, t: Array) -> Array:
        return jnp.zeros_like(t)

    def g2(self, t: Array) -> Array:
        """Variance a unit of time: beta of the entry times the n - 1 entries that a unit holds."""
        return self.look_up(self.betas, t) * (self.steps - 1)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class I2SBinDDBM(I2SB):
    """I2SB's tables in DDBM's formulas, as DBIM's inpainting teacher was trained (arXiv 2405.15885).

    Normalised by rho_T^2 alone, hence `a + b` is up to 1.0018 instead of 1: not the bridge of I2SB.
    """

    t_min: float = 1e-4

    def total2(self, t: Array) -> Array:
        return self.rho2(jnp.full_like(t, self.T))

    def step(
        self,
        x0_hat: Array,
        xt: Array,
        t: Array,
        s: Array,
        noise: Array | float,
        xT: Array | None = None,
    ) -> Array:
        """The step t -> s of DBIM's sampler at eta = 1 (arXiv 2405.15885, eq. 10), which sees x_T.

        `x_s = a_s x_T + b_s x_0 + sqrt(c_s^2 - w^2) (x_t - a_t x_T - b_t x_0) / c_t + w noise` with the
        posterior's std w: of an exact bridge it is the posterior's draw. Without x_T it is that.
        """
        if xT is None or self.deterministic:
            return super().step(x0_hat, xt, t, s, noise)
        t, s = jnp.asarray(t), jnp.asarray(s)
        (a_t, b_t, c_t), (a_s, b_s, c_s) = self.coefficients(t), self.coefficients(s)
        std = self.posterior(t, s).std
        kept = jnp.sqrt(jnp.maximum(c_s**2 - std**2, 0.0)) / c_t
        weights = (kept, a_s - kept * a_t, b_s - kept * b_t, std)
        x, source, x0, std = (expand(v, xt) for v in weights)
        return x * xt + source * xT + x0 * x0_hat + std * noise
