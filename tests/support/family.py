"""One of each bridge of the family, and how the tests of their algebra and samplers run."""

from __future__ import annotations

from jax_bridges.bridges import GOUB, ResShift, StochasticInterpolant
from tests.support.gaussian import GaussianPair

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
