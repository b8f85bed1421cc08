"""Stochastic interpolants: any weights of x_T, x_0 and noise, with or without a prior behind them.

    x_t = a_t x_T + b_t x_0 + c_t z           (arXiv 2303.08797, def. 1; z standard normal)
    velocity  v = a' x_T + b' x_0 + c' z      of the probability-flow ODE (eq. 2.10), x_0 and z being
                                              their means given x_t and x_T
    SDE run backwards in t:  drift v - g^2 / 2 score, diffusion g, for any g (eq. 2.33)

Such a process need not be Markov, so a step t -> s has to be chosen: of all draws

    x_s = b_s x_0 + a_s x_T + m (x_t - b_t x_0 - a_t x_T) + sqrt(c_s^2 - m^2 c_t^2) noise

which all have the right law given x_0 and x_T (DBIM, arXiv 2405.15885, eq. 9), it is the one with
`m = min(a_s / a_t, c_s / c_t)`. With the first x_T drops out, as from the Markov posterior of a
bridge with a prior; with the second nothing is drawn, where the first would ask for less than no
noise. g^2 is the noise that this step adds in the limit.

Noise that goes with x_T, `c_t^2 = gamma_t^2 + a_t^2 source_std^2`, cancels wherever `m = a_s / a_t`, so
steps and g^2 are written with gamma: a difference of two c^2 would leave its rounding under a root.
"""

from __future__ import annotations

import abc
import dataclasses

import jax
import jax.numpy as jnp

from jax_bridges.bridges.base import Bridge, Coefficients, Posterior, expand
from jax_bridges.choices import look_up
from jax_bridges.typing import Array


def _static(default):
    return dataclasses.field(default=default, metadata=dict(static=True))


def _positive_ratio(over: Array, under: Array) -> Array:
    """`over / under`, infinite where `under` is 0."""
    safe = jnp.where(under > 0, under, 1.0)
    return jnp.where(under > 0, over / safe, jnp.inf)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Interpolant(Bridge):
    """The algebra of this file for weights that a subclass gives."""

    source_std = 0.0  # of the noise that goes with x_T

    @property
    def has_sde(self) -> bool:
        return False

    @abc.abstractmethod
    def weights(self, t: Array) -> tuple[Array, Array, Array]:
        """a, b and gamma^2 at times t, smooth enough to be differentiated."""

    def _marginal(self, t: Array) -> tuple[Array, Array, Array]:
        """a, b and c^2."""
        a, b, gamma2 = self.weights(t)
        return a, b, gamma2 + (self.source_std * a) ** 2

    # In units of x_T: these only scale grids, networks and loss weights here.
    def alpha(self, t: Array) -> Array:
        return jnp.ones_like(t)

    def rho2(self, t: Array) -> Array:
        return t / self.T

    def rho_bar2(self, t: Array) -> Array:
        return 1.0 - t / self.T

    def f(self, t: Array) -> Array:
        return jnp.zeros_like(t)

    def sigma(self, t: Array) -> Array:
        """Root mean square of `x_t - b_t x_0` for a source of unit variance."""
        a, _, c2 = self._marginal(jnp.asarray(t))
        return jnp.sqrt(a**2 + c2)

    def coefficients(self, t: Array) -> Coefficients:
        a, b, c2 = self._marginal(jnp.asarray(t))
        return Coefficients(a, b, jnp.zeros_like(a) if self.deterministic else jnp.sqrt(c2))

    def _derivatives(self, t: Array):
        """(a, b, c^2) and their derivatives in t."""
        t = jnp.asarray(t)
        values, slopes = jax.jvp(self._marginal, (t,), (jnp.ones_like(t),))
        if self.deterministic:
            values, slopes = ((*v[:2], jnp.zeros_like(v[2])) for v in (values, slopes))
        return values, slopes

    def g2(self, t: Array) -> Array:
        """`-a^2 d(c^2 / a^2) / dt` where that is positive, else 0; the same for gamma^2 as for c^2."""
        t = jnp.asarray(t)
        (a, _, gamma2), (da, _, dgamma2) = jax.jvp(self.weights, (t,), (jnp.ones_like(t),))
        drawn = 2.0 * gamma2 * da / jnp.where(a > 0, a, 1.0) - dgamma2
        return jnp.maximum(drawn, 0.0)

    def _carried(self, t: Array, s: Array) -> tuple[Array, Array, Array]:
        """m, the standard deviation of the noise, and the weight of x_T in a step."""
        (a_t, _, gamma2_t), (a_s, _, gamma2_s) = self.weights(t), self.weights(s)
        markov = _positive_ratio(a_s, a_t)
        drawn = gamma2_s - jnp.where(a_t > 0, markov, 0.0) ** 2 * gamma2_t
        is_markov = (a_t > 0) & (drawn >= 0)
        frozen = _positive_ratio(self.coefficients(s).c, self.coefficients(t).c)
        m = jnp.where(is_markov, markov, frozen)
        rest = jnp.where(is_markov, 0.0, a_s - m * a_t)
        return m, jnp.sqrt(jnp.where(is_markov, drawn, 0.0)), rest

    def posterior(self, t: Array, s: Array) -> Posterior:
        """Weights of x_0 and x_t in `step` (x_T has the rest of a_s) and the spread of its noise."""
        t, s = jnp.asarray(t), jnp.asarray(s)
        m, std, _ = self._carried(t, s)
        return Posterior(self.coefficients(s).b - m * self.coefficients(t).b, m, std)

    def step(
        self,
        x0_hat: Array,
        xt: Array,
        t: Array,
        s: Array,
        noise: Array | float,
        xT: Array | None = None,
    ) -> Array:
        """The step t -> s of the module docstring; ValueError where it needs x_T and has none."""
        x = super().step(x0_hat, xt, t, s, noise)
        if not self.needs_source:
            return x
        rest = self._carried(jnp.asarray(t), jnp.asarray(s))[2]
        return x + expand(rest, xt) * self.required(xT)

    def increment_std(self, t: Array, s: Array) -> Array:
        raise ValueError(
            "An interpolant has no prior SDE for the sampler 'sde_euler': use 'ancestral', whose step "
            "is exact, or 'dbim' with any eta."
        )

    def h(self, xt: Array, xT: Array, t: Array) -> Array:
        raise ValueError(
            "An interpolant has no prior and so no h-transform: leave DDBM's guidance at 1."
        )

    def _latent(self, x0_hat: Array, xt: Array, xT: Array, t: Array) -> Array:
        """c z, what x_t is besides the means."""
        a, b, _ = (expand(v, xt) for v in self.coefficients(t))
        return xt - a * xT - b * x0_hat

    def ode_drift(
        self, x0_hat: Array, xt: Array, xT: Array, t: Array, guidance: float | Array = 1.0
    ) -> Array:
        """The velocity v; without noise in the process, of `x_T = (x_t - b_t x0_hat) / a_t`."""
        if not isinstance(guidance, (int, float)) or guidance != 1.0:
            return self.h(xt, xT, t)
        (a, b, c2), (da, db, dc2) = self._derivatives(t)
        if self.deterministic:
            a, b, da, db = (expand(v, xt) for v in (a, b, da, db))
            return da / a * (xt - b * x0_hat) + db * x0_hat
        da, db, rate = (expand(v, xt) for v in (da, db, 0.5 * dc2 / c2))
        return da * xT + db * x0_hat + rate * self._latent(x0_hat, xt, xT, t)

    def reverse_sde(
        self, x0_hat: Array, xt: Array, xT: Array, t: Array, guidance: float | Array = 1.0
    ) -> tuple[Array, Array]:
        """`v + g^2 / 2 (c z) / c^2` and g."""
        g2, c = self.g2(t), self.coefficients(t).c
        velocity = self.ode_drift(x0_hat, xt, xT, t, guidance)
        pull = expand(0.5 * g2 / c**2, xt) * self._latent(x0_hat, xt, xT, t)
        return velocity + pull, jnp.sqrt(g2)


# -- weights by name, in u = t / T -------------------------------------------------------------


def _halves(u: Array) -> tuple[Array, Array]:
    wave = jnp.cos(jnp.pi * u) ** 2
    return jnp.where(u > 0.5, wave, 0.0), jnp.where(u < 0.5, wave, 0.0)


# (a, b): the weights of x_T and of x_0 (arXiv 2303.08797, table 4).
PATHS = {
    "linear": lambda u: (u, 1.0 - u),
    "trigonometric": lambda u: (jnp.sin(0.5 * jnp.pi * u), jnp.sin(0.5 * jnp.pi * (1.0 - u))),
    "encoder_decoder": _halves,  # x_T is all noise half-way, and then x_0 is made of it
}

# gamma^2: of the latent noise, 0 at both ends.
GAMMAS = {
    "zero": jnp.zeros_like,
    "sqrt": lambda u: 2.0 * u * (1.0 - u),
    "sin2": lambda u: jnp.sin(jnp.pi * u) ** 4,
}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class StochasticInterpolant(Interpolant):
    """`x_t = a_t (x_T + source_std zeta) + b_t x_0 + gamma_scale gamma_t z`, from dicts by name.

    source_std is the data-dependent coupling of arXiv 2310.03725, whose base is x_T with noise; then
    `c^2 = gamma^2 + a^2 source_std^2`, and sampling starts from a draw of that base. Linear with
    gamma "zero" and source_std 0 it is rectified flow (arXiv 2209.03003). Build it with `.create`.
    """

    path: str = _static("linear")
    gamma: str = _static("sqrt")
    noisy_source: bool = _static(False)
    gamma_scale: float = 1.0
    source_std: float = 0.0

    @classmethod
    def create(
        cls,
        *,
        path: str = "linear",
        gamma: str = "sqrt",
        gamma_scale: float = 1.0,
        source_std: float = 0.0,
        t_min: float = 1e-3,
    ) -> StochasticInterpolant:
        """An interpolant.

        Args:
          path: weights of x_T and x_0, a key of `PATHS`: linear, trigonometric or encoder_decoder.
          gamma: latent noise, a key of `GAMMAS`: zero, sqrt or sin2.
          gamma_scale: factor of the latent noise.
          source_std: standard deviation of the noise that is added to x_T.
          t_min: smallest time that is trained and sampled.
        """
        look_up("path of the interpolant", PATHS, path)
        look_up("gamma of the interpolant", GAMMAS, gamma)
        if gamma_scale <= 0 or source_std < 0:
            raise ValueError(
                f"interpolant: gamma_scale must be > 0 and source_std >= 0, but they are {gamma_scale} "
                f"and {source_std}: gamma 'zero' leaves the latent noise out."
            )
        if path == "encoder_decoder" and gamma == "zero":
            raise ValueError(
                "interpolant: path 'encoder_decoder' has nothing half-way but its latent noise: take "
                "gamma 'sin2' or 'sqrt'."
            )
        if gamma == "sin2" and path != "encoder_decoder" and not source_std:
            raise ValueError(
                "interpolant: with gamma 'sin2' x_0 leaves x_T before any noise does, so nothing can "
                "be drawn from x_T: give source_std > 0, or take gamma 'sqrt'."
            )
        return cls(
            path=path, gamma=gamma, gamma_scale=gamma_scale, source_std=source_std, t_min=t_min,
            noisy_source=source_std > 0, deterministic=gamma == "zero" and not source_std,
        )  # fmt: skip

    @property
    def pinned(self) -> bool:
        return not self.noisy_source

    @property
    def needs_source(self) -> bool:
        return self.gamma == "sin2" and self.path != "encoder_decoder"

    def start(self, xT: Array, noise: Array) -> Array:
        """`x_T + source_std zeta`."""
        return xT + self.source_std * noise

    def weights(self, t: Array) -> tuple[Array, Array, Array]:
        u = t / self.T
        a, b = PATHS[self.path](u)
        return a, b, self.gamma_scale**2 * GAMMAS[self.gamma](u)
