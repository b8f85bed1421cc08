"""The official codes' numbers of bridges and scalings, and the bridges that they are held to."""

from __future__ import annotations

import numpy as np

from jax_bridges.bridges import I2SB, VE, VP, Brownian, I2SBinDDBM
from tests.support import GOLDEN

with np.load(GOLDEN / "bridges.npz") as file:
    NUMBERS = dict(file)

SMOOTH = {"vp": VP(), "ve": VE(), "brownian": Brownian(epsilon=0.7, T=1.25)}
TABLES = {"i2sb": I2SB.create(beta_max=1.0), "i2sb_ddbm": I2SBinDDBM.create(beta_max=1.0)}
ALL = SMOOTH | TABLES


def golden(name):
    """Arrays saved under `name/`."""
    return {k.split("/")[1]: v for k, v in NUMBERS.items() if k.startswith(name + "/")}


def close(got, want, rtol=1e-9, atol=1e-12):
    np.testing.assert_allclose(np.asarray(got), want, rtol=rtol, atol=atol)
