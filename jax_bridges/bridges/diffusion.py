"""Unconditional diffusion, the bridges' relative that knows no x_T: noise levels and their grids.

`q(x_t | x_0) = N(alpha_t x_0, sigma_t^2 I)`: the bridge's a is 0, b = alpha, c = sigma. A network that
is trained on it is an image prior; `jax_bridges.zero_shot` restores with it. x_T is ignored.
"""

from __future__ import annotations

import abc
import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_bridges.bridges.base import Bridge, Coefficients
from jax_bridges.typing import Array


class Levels(NamedTuple):
    """Noise levels that a solver visits, noisiest first, the clean image last; each `[nfe + 1]`.

    t: time that the denoiser is told; alpha, sigma: `x_t = alpha x_0 + sigma noise` (0 at the end).
    """

    t: np.ndarray
    alpha: np.ndarray
    sigma: np.ndarray


class Diffusion(Bridge):
    """A prior SDE that is not pinned at any x_T."""

    @property
    def prior(self) -> bool:
        return True

    def coefficients(self, t: Array) -> Coefficients:
        """0, alpha_t and sigma_t."""
        t = jnp.asarray(t)
        alpha = self.alpha(t)
        return Coefficients(jnp.zeros_like(alpha), alpha, self.sigma(t))

    @abc.abstractmethod
    def levels(self, nfe: int) -> Levels:
        """The levels of a solver with so many network calls (without time travel)."""

    @abc.abstractmethod
    def narrow_levels(self, nfe: int, high: float = 10.0, low: float = 0.01) -> Levels:
        """`nfe` levels with sigma / alpha from `high` to `low`, warped as EDM's, then the clean image.

        Few steps of second order keep the variance of samples on them; from noisier ones they do not. No
        level lies outside of the bridge's own.
        """


def linear_betas(beta_min: float = 1e-4, beta_max: float = 0.02, steps: int = 1000) -> np.ndarray:
    """DDPM's step variances (Ho et al. 2020, arXiv 2006.11239, sec. 4), float64 `[steps]`."""
    return np.linspace(beta_min, beta_max, steps)


def respaced_steps(count: int, steps: int = 1000) -> np.ndarray:
    """The `count` ascending entries of 0 .. steps - 1 that guided-diffusion's respacing keeps.

    A constant stride is added up in floating point and rounded half to even; both ends are kept.
    """
    if not 1 <= count <= steps:
        raise ValueError(f"A table of {steps} steps can keep 1 to {steps}; {count} were asked for.")
    stride = (steps - 1) / (count - 1) if count > 1 else 1.0
    position, kept = 0.0, []
    for _ in range(count):
        kept.append(round(position))
        position += stride
    return np.asarray(kept)


def table_levels(alpha_bar: np.ndarray, entries: np.ndarray, times: np.ndarray) -> Levels:
    """Levels of the table entries `[nfe]`, then the clean image at the last one's time.

    Args:
      alpha_bar: `[steps]` cumulated products of 1 - beta.
      entries: descending indices `[nfe]` into it.
      times: `[nfe]` what the denoiser is told there.
    """
    kept = np.asarray(alpha_bar, np.float64)[entries]
    return Levels(
        np.append(times, times[-1]), np.append(np.sqrt(kept), 1.0), np.append(np.sqrt(1 - kept), 0)
    )


def warped_levels(nfe: int, high: float, low: float, rho: float = 7.0) -> np.ndarray:
    """EDM's noise levels `[nfe]` from high to low (arXiv 2206.00364, eq. 5).

    Raises:
      ValueError: fewer than two.
    """
    if nfe < 2:
        raise ValueError(f"EDM's grid has at least 2 levels; {nfe} were asked for.")
    first, last = float(high) ** (1 / rho), float(low) ** (1 / rho)
    return (first + np.arange(nfe) / (nfe - 1) * (last - first)) ** rho


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class DDPM(Diffusion):
    """DDPM's table of 1000 noise levels with linear betas; time t = index / (steps - 1).

    A time between two entries means the nearest one. Build it with `DDPM.create`.
    """

    t_min: float = 0.0
    alpha_bar_table: np.ndarray

    @classmethod
    def create(cls, *, beta_min: float = 1e-4, beta_max: float = 0.02, steps: int = 1000) -> DDPM:
        """The schedule of the released DDPM and ADM checkpoints.

        Args:
          beta_min: variance of the first step.
          beta_max: variance of the last.
          steps: entries of the table.

        Raises:
          ValueError: step variances that are none, or a table without a second entry.
        """
        if not 0 < beta_min <= beta_max < 1 or steps < 2:
            raise ValueError(
                "ddpm: it must be 0 < beta_min <= beta_max < 1, and steps at least 2, but they are "
                f"{beta_min}, {beta_max} and {steps}."
            )
        return cls(alpha_bar_table=np.cumprod(1.0 - linear_betas(beta_min, beta_max, steps)))

    @property
    def steps(self) -> int:
        """Entries of the table."""
        return self.alpha_bar_table.shape[0]

    @property
    def table(self) -> int:
        return self.steps

    def alpha(self, t: Array) -> Array:
        return self.look_up(self.alpha_bar_table**0.5, t)

    def sigma(self, t: Array) -> Array:
        return self.look_up((1.0 - self.alpha_bar_table) ** 0.5, t)

    def rho2(self, t: Array) -> Array:
        return self.look_up(1.0 / self.alpha_bar_table - 1.0, t)

    def rho_bar2(self, t: Array) -> Array:
        rho2 = 1.0 / self.alpha_bar_table - 1.0
        return self.look_up(rho2[-1] - rho2, t)

    def levels(self, nfe: int, spacing: str = "strided") -> Levels:
        """Levels at `nfe` entries of the table.

        Args:
          nfe: 1 to `steps`.
          spacing: "strided": 0, k, 2k, ... with k = steps / nfe, which never reaches the last entry
            (DDNM, DDRM, which take whole k; others are rounded down); "respaced": both ends
            (guided-diffusion, RePaint, ILVR).
        """
        if spacing not in ("strided", "respaced"):
            raise ValueError(f"spacing is '{spacing}': choose 'strided' or 'respaced'.")
        kept = respaced_steps(nfe, self.steps)
        if spacing == "strided":
            kept = np.arange(nfe) * self.steps // nfe
        return self._at(kept)

    def narrow_levels(self, nfe: int, high: float = 10.0, low: float = 0.01) -> Levels:
        """At the nearest entries of the table, none of them twice."""
        ratio = np.sqrt(1.0 / self.alpha_bar_table - 1.0)
        wanted = np.log(warped_levels(nfe, min(high, ratio[-1]), max(low, ratio[0])))[::-1]
        nearest = np.abs(np.log(ratio) - wanted[:, None]).argmin(1)
        number = np.arange(nfe)
        kept = np.maximum.accumulate(nearest - number) + number
        if kept[-1] > nearest[-1]:
            raise ValueError(f"The table has no {nfe} levels from {high:g} to {low:g}: take fewer.")
        return self._at(kept)

    def _at(self, kept: np.ndarray) -> Levels:
        """The levels of ascending entries."""
        kept = kept[::-1]
        return table_levels(self.alpha_bar_table, kept, kept / (self.steps - 1))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class EDM(Diffusion):
    """EDM's noise levels (Karras et al. 2022, arXiv 2206.00364): alpha = 1, sigma = t."""

    t_min: float = 0.002
    T: float = 80.0

    def alpha(self, t: Array) -> Array:
        return jnp.ones_like(t)

    def sigma(self, t: Array) -> Array:
        return jnp.asarray(t)

    def rho2(self, t: Array) -> Array:
        return t**2

    def rho_bar2(self, t: Array) -> Array:
        return (self.T - t) * (self.T + t)

    def levels(self, nfe: int, rho: float = 7.0) -> Levels:
        """T to t_min, warped by the power rho, then 0 (arXiv 2206.00364, eq. 5)."""
        return self._at(warped_levels(nfe, self.T, self.t_min, rho))

    def narrow_levels(self, nfe: int, high: float = 10.0, low: float = 0.01) -> Levels:
        """Warped by the power 7."""
        return self._at(warped_levels(nfe, min(high, self.T), max(low, self.t_min)))

    def _at(self, t: np.ndarray) -> Levels:
        return Levels(np.append(t, t[-1]), np.ones(len(t) + 1), np.append(t, 0.0))
