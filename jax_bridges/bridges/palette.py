"""Palette's noise levels (arXiv 2111.05826): trained on one schedule, sampled on another."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jax_bridges.bridges.diffusion import (
    Diffusion,
    Levels,
    linear_betas,
    respaced_steps,
    warped_levels,
)
from jax_bridges.typing import Array


def _alpha_bar(beta_min: float, beta_max: float, steps: int) -> np.ndarray:
    return np.cumprod(1.0 - linear_betas(beta_min, beta_max, steps))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Palette(Diffusion):
    """A table of noise levels for training, of which time is linear between entries, and one for sampling.

    Palette draws an entry k and then `alpha_bar` uniformly between those of k - 1 and k (sec. 2.2): that is
    the linear interpolation of the table at a uniform time, entry k at t = k / (steps - 1). Half of the
    other table's levels are noisier than any that was trained; a network is told the last trained time
    there, and its answer must be clipped. Build it with `Palette.create`.

    Attributes:
      alpha_bar_table: `[steps]`, of training.
      test_table: `[test_steps]`, of sampling.
    """

    t_min: float = 0.0
    alpha_bar_table: np.ndarray
    test_table: np.ndarray

    @classmethod
    def create(
        cls,
        *,
        beta_min: float = 1e-6,
        beta_max: float = 0.01,
        steps: int = 2000,
        test_min: float = 1e-4,
        test_max: float = 0.09,
        test_steps: int = 1000,
    ) -> Palette:
        """The paper's two schedules, both of linear step variances.

        Args:
          beta_min, beta_max, steps: of training: first and last step's variance, and how many there are.
          test_min, test_max, test_steps: of sampling.

        Raises:
          ValueError: step variances that are none, or a table without a second entry.
        """
        for name, low, high, count in (
            ("beta", beta_min, beta_max, steps),
            ("test", test_min, test_max, test_steps),
        ):
            if not 0 < low <= high < 1 or count < 2:
                raise ValueError(
                    f"palette: it must be 0 < {name}_min <= {name}_max < 1, and at least 2 steps, but they "
                    f"are {low}, {high} and {count}."
                )
        tables = _alpha_bar(beta_min, beta_max, steps), _alpha_bar(test_min, test_max, test_steps)
        return cls(alpha_bar_table=tables[0], test_table=tables[1])

    def _at_time(self, values: np.ndarray, t: Array) -> Array:
        """Of `values` `[steps]` what lies at time t, linear between two."""
        t = jnp.asarray(t)
        last = len(self.alpha_bar_table) - 1
        place = jnp.clip(t, 0.0, 1.0) * last
        low = jnp.clip(jnp.floor(place), 0, last - 1).astype(jnp.int32)
        table, share = jnp.asarray(values, jnp.result_type(t, jnp.float32)), place - low
        return (1.0 - share) * table[low] + share * table[low + 1]

    def alpha(self, t: Array) -> Array:
        return jnp.sqrt(self._at_time(self.alpha_bar_table, t))

    def sigma(self, t: Array) -> Array:
        return jnp.sqrt(self._at_time(1.0 - self.alpha_bar_table, t))

    def rho2(self, t: Array) -> Array:
        return self.sigma(t) ** 2 / self.alpha(t) ** 2

    def rho_bar2(self, t: Array) -> Array:
        return 1.0 / self.alpha_bar_table[-1] - 1.0 - self.rho2(t)

    def time_of(self, alpha_bar: np.ndarray) -> np.ndarray:
        """The trained times of levels, of those beyond them the nearest; float64, on the host."""
        table = self.alpha_bar_table[::-1]
        times = np.linspace(1.0, 0.0, len(table))
        return np.interp(np.asarray(alpha_bar, np.float64), table, times)

    def levels(self, nfe: int) -> Levels:
        """`nfe` entries of the table for sampling, both ends among them."""
        return self._of(self.test_table[respaced_steps(nfe, len(self.test_table))[::-1]])

    def narrow_levels(self, nfe: int, high: float = 10.0, low: float = 0.01) -> Levels:
        """Within the trained levels."""
        table = 1.0 / self.alpha_bar_table - 1.0
        ends = min(high, table[-1] ** 0.5), max(low, table[0] ** 0.5)
        return self._of(1.0 / (1.0 + warped_levels(nfe, *ends) ** 2))

    def _of(self, alpha_bar: np.ndarray) -> Levels:
        """Levels of these, descending in noise, then the clean image."""
        t = self.time_of(alpha_bar)
        alpha, sigma = np.sqrt(alpha_bar), np.sqrt(1.0 - alpha_bar)
        return Levels(np.append(t, t[-1]), np.append(alpha, 1.0), np.append(sigma, 0.0))
