"""One of each bridge of the family, and how the tests of their algebra and samplers run."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from gaussian import GaussianPair
from runs import quick_compiler  # noqa: F401

from jax_bridges.bridges import GOUB, ResShift, StochasticInterpolant

interpolant = StochasticInterpolant.create
NOISY = {
    "goub": GOUB.create(lam=0.5),
    "goub_linear": GOUB.create(lam=30 / 255, schedule="linear", steps=50),
    "resshift": ResShift.create(),
    "linear": interpolant(),
    "trigonometric": interpolant(path="trigonometric", gamma_scale=0.7),
    "coupling": interpolant(gamma="zero", source_std=0.6),
    "sin2": interpolant(path="trigonometric", gamma="sin2", source_std=0.5),
}
HALVES = {
    "encoder_decoder": interpolant(path="encoder_decoder", gamma="sin2", source_std=0.2),
    "encoder_decoder_sqrt": interpolant(path="encoder_decoder", gamma="sqrt"),
}
ALL = NOISY | HALVES | {"rectified": interpolant(gamma="zero")}
PAIR = GaussianPair(slope=0.8, std=0.3, source_mean=0.2, source_std=1.1)


@pytest.fixture(autouse=True)
def float64():
    """Closed forms are compared to nine digits."""
    with jax.enable_x64(True):
        yield


def close(got, want, rtol=1e-9, atol=1e-12):
    np.testing.assert_allclose(np.asarray(got), want, rtol=rtol, atol=atol)
