"""Gaussian bridges. `BRIDGES` maps a name to a constructor; add one in a file and a line here."""

from __future__ import annotations

from jax_bridges.bridges.base import Bridge, Coefficients, Posterior, expand
from jax_bridges.bridges.closed_form import VE, VP, Brownian
from jax_bridges.bridges.diffusion import DDPM, EDM, Diffusion, Levels
from jax_bridges.bridges.goub import GOUB
from jax_bridges.bridges.i2sb import I2SB, I2SBinDDBM, symmetric_betas
from jax_bridges.bridges.interpolant import Interpolant, StochasticInterpolant
from jax_bridges.bridges.palette import Palette
from jax_bridges.bridges.resshift import ResShift
from jax_bridges.bridges.unidb import UniDB
from jax_bridges.choices import choose

BRIDGES = {
    "i2sb": I2SB.create,
    "i2sb_ddbm": I2SBinDDBM.create,
    "brownian": Brownian,
    "ve": VE,
    "vp": VP,
    "goub": GOUB.create,
    "unidb": UniDB.create,
    "resshift": ResShift.create,
    "interpolant": StochasticInterpolant.create,
    "ddpm": DDPM.create,  # diffusion priors: no x_T, for zero_shot
    "edm": EDM,
    "palette": Palette.create,
}


def make_bridge(name: str, **settings) -> Bridge:
    """Builds a bridge by name; raises ValueError for an unknown name or setting, listing the known.

    >>> bridge = make_bridge("brownian", epsilon=0.5)
    >>> a, b, c = bridge.coefficients(0.5)  # x_t = a x_T + b x_0 + c noise
    >>> float(a), float(b), float(c)
    (0.5, 0.5, 0.25)
    """
    return choose("bridge", BRIDGES, name, settings)


__all__ = [
    "BRIDGES",
    "Bridge",
    "Brownian",
    "Coefficients",
    "DDPM",
    "Diffusion",
    "EDM",
    "GOUB",
    "I2SB",
    "I2SBinDDBM",
    "Interpolant",
    "Levels",
    "Palette",
    "Posterior",
    "ResShift",
    "StochasticInterpolant",
    "UniDB",
    "VE",
    "VP",
    "expand",
    "make_bridge",
    "symmetric_betas",
]
