"""The algebra of Gaussian diffusion bridges, written once for every prior.

A prior SDE `dx = f(t) x dt + g(t) dw` has the marginal `q(x_t | x_0) = N(alpha_t x_0, sigma_t^2 I)`.
With `rho_t = sigma_t / alpha_t` and `rhobar_t^2 = rho_T^2 - rho_t^2`, pinning it at x_T gives the
bridge (DDBM, arXiv 2309.16948, eq. 5-6 in this notation; IBMD, arXiv 2502.01362, sec. 2.3)

    q(x_t | x_0, x_T) = N(a_t x_T + b_t x_0, c_t^2 I)
    a_t = (alpha_t / alpha_T) rho_t^2 / rho_T^2
    b_t = alpha_t rhobar_t^2 / rho_T^2
    c_t = alpha_t rho_t rhobar_t / rho_T

A prior is one small class that says what alpha, rho^2 and rhobar^2 are; all else follows here.
Times are scalars or `[B]`; images `[B, ...]`.
"""

from __future__ import annotations

import abc
import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_bridges.typing import AnyArray, Array


class Coefficients(NamedTuple):
    """Mean and spread of `q(x_t | x_0, x_T) = N(a x_T + b x_0, c^2 I)`; each shaped like t."""

    a: Array
    b: Array
    c: Array


class Posterior(NamedTuple):
    """Mean and spread of `q(x_s | x_0, x_t) = N(x0 x_0 + xt x_t, std^2 I)` for s < t."""

    x0: Array
    xt: Array
    std: Array


def expand(v: Array, like: Array) -> Array:
    """Gives a scalar or `[B]` value the trailing axes of `like` `[B, ...]`."""
    v = jnp.asarray(v, like.dtype)
    return v.reshape(v.shape + (1,) * (like.ndim - v.ndim)) if v.ndim else v


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bridge(abc.ABC):
    """A Gaussian bridge between x_0 (clean, t = 0) and x_T (corrupted, t = T).

    Attributes:
      t_min: smallest time that is trained and sampled.
      T: time of the source.
      deterministic: the optimal-transport limit (I2SB's OT-ODE): same means, all bridge noise left out.
    """

    t_min: float = 1e-4
    T: float = 1.0
    deterministic: bool = dataclasses.field(default=False, metadata=dict(static=True))

    @property
    def prior(self) -> bool:
        """Whether all paths end in noise alone: a diffusion prior, which knows no x_T."""
        return False

    @property
    def pinned(self) -> bool:
        """Whether all paths end in x_T itself; False: in x_T with noise, drawn by `start`."""
        return True

    @property
    def needs_source(self) -> bool:
        """Whether x_T stays in `step`: only a network that sees x_T can then be sampled from."""
        return False

    # -- bridges that are a table of levels, entry k at t = k / (table - 1) ---------------------
    @property
    def table(self) -> int | None:
        """Entries of the table, of which a time between two means the nearest; None: time is continuous."""
        return None

    def index(self, t: Array) -> Array:
        """int32 entry of the table at time t."""
        assert self.table is not None, "a bridge of continuous time has no entries"
        last = self.table - 1
        return jnp.clip(jnp.round(jnp.asarray(t) * last), 0, last).astype(jnp.int32)

    def snap(self, t: Array) -> Array:
        """The time that t means: that of its entry on a table, else t itself."""
        t = jnp.asarray(t)
        return t if self.table is None else self.index(t).astype(t.dtype) / (self.table - 1)

    def look_up(self, values: np.ndarray, t: Array) -> Array:
        """Of `values` `[table]` those at time t."""
        return jnp.asarray(values, jnp.result_type(t, jnp.float32))[self.index(t)]

    def required(self, xT: Array | None) -> Array:
        """x_T for a `step` that depends on it; ValueError if it was not given."""
        if xT is None:
            raise ValueError(
                f"A step of the bridge {type(self).__name__} depends on x_T, which was not given: pass xT."
            )
        return xT

    @property
    def has_sde(self) -> bool:
        """Whether there is a prior SDE behind it, whose noise `increment_std` tells."""
        return True

    def guidances(self, w: float | Array) -> tuple[float | Array, float | Array]:
        """Weights of the h-transform in `reverse_sde` and in `ode_drift` for DDBM's w (1: exact)."""
        return w, w

    def start(self, xT: Array, noise: Array) -> Array:
        """The state at T from which x_0 is sampled: x_T itself where the bridge is `pinned`."""
        del noise
        return xT

    # -- what a prior defines ------------------------------------------------------------------
    @abc.abstractmethod
    def alpha(self, t: Array) -> Array:
        """Signal scale of the prior, `E[x_t | x_0] = alpha_t x_0`."""

    @abc.abstractmethod
    def rho2(self, t: Array) -> Array:
        """Noise-to-signal ratio `rho_t^2 = sigma_t^2 / alpha_t^2` (1 / SNR)."""

    @abc.abstractmethod
    def rho_bar2(self, t: Array) -> Array:
        """`rho_T^2 - rho_t^2`, written by each prior without cancellation near T."""

    def f(self, t: Array) -> Array:
        """Linear drift of the prior, `f = d log alpha / dt`."""
        t = jnp.asarray(t)
        return jax.jvp(lambda u: jnp.log(self.alpha(u)), (t,), (jnp.ones_like(t),))[1]

    def g2(self, t: Array) -> Array:
        """Squared diffusion of the prior, `g^2 = alpha^2 d rho^2 / dt`."""
        t = jnp.asarray(t)
        return self.alpha(t) ** 2 * jax.jvp(self.rho2, (t,), (jnp.ones_like(t),))[1]

    def total2(self, t: Array) -> Array:
        """The normaliser `rho_T^2` of a, b and c."""
        return self.rho2(jnp.full_like(t, self.T))

    # -- what follows --------------------------------------------------------------------------
    def sigma(self, t: Array) -> Array:
        """Noise level of the prior, `sigma_t = alpha_t rho_t`."""
        return self.alpha(t) * jnp.sqrt(self.rho2(t))

    def angle(self, t: AnyArray) -> Array:
        """theta in [0, pi/2] with `rho_t = rho_T sin(theta)` and `rhobar_t = rho_T cos(theta)`."""
        t = jnp.asarray(t)
        return jnp.arctan2(jnp.sqrt(self.rho2(t)), jnp.sqrt(self.rho_bar2(t)))

    def alpha_bar(self, t: Array) -> Array:
        """`alpha_t / alpha_T`."""
        return self.alpha(t) / self.alpha(jnp.full_like(t, self.T))

    def coefficients(self, t: Array) -> Coefficients:
        """a_t, b_t, c_t of the bridge marginal (module docstring), each shaped like t."""
        t = jnp.asarray(t)
        rho2, rho_bar2, total2, alpha = (
            self.rho2(t),
            self.rho_bar2(t),
            self.total2(t),
            self.alpha(t),
        )
        c = (
            jnp.zeros_like(alpha)
            if self.deterministic
            else alpha * jnp.sqrt(rho2 * rho_bar2 / total2)
        )
        return Coefficients(self.alpha_bar(t) * rho2 / total2, alpha * rho_bar2 / total2, c)

    def sample(self, x0: Array, xT: Array, t: Array, noise: Array) -> Array:
        """Draws x_t from `q(x_t | x_0, x_T)` with standard normal `noise` `[B, ...]`."""
        a, b, c = (expand(v, x0) for v in self.coefficients(t))
        return a * xT + b * x0 + c * noise

    def posterior(self, t: Array, s: Array) -> Posterior:
        """The Markov posterior `q(x_s | x_0, x_t)`, `s <= t`; x_T drops out.

        With `w = rho_s^2 / rho_t^2` the mean is `alpha_s ((1 - w) x_0 + w x_t / alpha_t)` and the
        variance `alpha_s^2 rho_s^2 (1 - w)` (I2SB, arXiv 2302.05872, eq. 4; DBIM eta = 1).
        """
        t, s = jnp.asarray(t), jnp.asarray(s)
        w = self.rho2(s) / self.rho2(t)
        alpha_s = self.alpha(s)
        std = self.sigma(s) * jnp.sqrt(jnp.maximum(1.0 - w, 0.0))
        if self.deterministic:
            std = jnp.zeros_like(std)
        return Posterior(alpha_s * (1.0 - w), alpha_s * w / self.alpha(t), std)

    def step(
        self,
        x0_hat: Array,
        xt: Array,
        t: Array,
        s: Array,
        noise: Array | float,
        xT: Array | None = None,
    ) -> Array:
        """One ancestral step t -> s: a draw of `q(x_s | x_0 = x0_hat, x_t)`; noise 0 gives its mean.

        Where x_T does not drop out of it (GOUB, some interpolants), it is `q(x_s | x_0, x_t, x_T)`.
        """
        del xT
        x0, x, std = (expand(v, xt) for v in self.posterior(t, s))
        return x0 * x0_hat + x * xt + std * noise

    def increment_std(self, t: Array, s: Array) -> Array:
        """Standard deviation of the noise that the prior adds from s to t, seen at s (Euler-Maruyama)."""
        grown = self.rho2(t) - self.rho2(s)
        return self.alpha(s) * jnp.sqrt(jnp.maximum(grown, 0.0))

    def score(self, x0_hat: Array, xt: Array, xT: Array, t: Array) -> Array:
        """`grad_x log q(x_t | x_T)` for the denoiser's x0_hat: `-(x - a x_T - b x0_hat) / c^2`.

        Infinite at t = T, where the bridge is a point.
        """
        a, b, c = (expand(v, xt) for v in self.coefficients(t))
        return -(xt - a * xT - b * x0_hat) / c**2

    def x0_from_score(self, score: Array, xt: Array, xT: Array, t: Array) -> Array:
        """Inverse of `score`: `x0_hat = (x + c^2 score - a x_T) / b`."""
        a, b, c = (expand(v, xt) for v in self.coefficients(t))
        return (xt + c**2 * score - a * xT) / b

    def h(self, xt: Array, xT: Array, t: Array) -> Array:
        """Doob's h-transform `grad_x log q(x_T | x_t)` of the prior (DDBM eq. 4).

        `-(x - alphabar_t x_T) / (alpha_t^2 (rho_T^2 - rho_t^2))`; infinite at t = T.
        """
        t = jnp.asarray(t)
        spread = expand(self.alpha(t) ** 2 * self.rho_bar2(t), xt)
        return -(xt - expand(self.alpha_bar(t), xt) * xT) / spread

    def prior_drift(self, xt: Array, xT: Array, t: Array) -> Array:
        """Drift of the prior SDE, `f x`."""
        del xT
        return expand(self.f(t), xt) * xt

    def reverse_sde(
        self, x0_hat: Array, xt: Array, xT: Array, t: Array, guidance: float | Array = 1.0
    ) -> tuple[Array, Array]:
        """Drift and diffusion of the reverse-time SDE from x_T to x_0 (DDBM eq. 7).

        `dx = [f x - g^2 (score - w h)] dt + g dw`, run backwards in t; w is DDBM's guidance (1 = exact).

        Returns:
          drift `[B, ...]` and g, shaped like t.
        """
        g2 = self.g2(t)
        score, h = self.score(x0_hat, xt, xT, t), self.h(xt, xT, t)
        drift = self.prior_drift(xt, xT, t) - expand(g2, xt) * (score - guidance * h)
        return drift, jnp.sqrt(g2)

    def ode_drift(
        self, x0_hat: Array, xt: Array, xT: Array, t: Array, guidance: float | Array = 1.0
    ) -> Array:
        """Velocity dx/dt of the probability-flow ODE, `f x - g^2 (score / 2 - w h)` (DDBM eq. 8)."""
        score, h = self.score(x0_hat, xt, xT, t), self.h(xt, xT, t)
        force = expand(self.g2(t), xt) * (0.5 * score - guidance * h)
        return self.prior_drift(xt, xT, t) - force
