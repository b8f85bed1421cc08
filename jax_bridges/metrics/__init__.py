"""How good restored images are: against their targets one by one, and as a set.

    out, ref = lite0_outputs(restored), lite0_outputs(targets)  # features [N, 1280] and logits
    fd_lite0(out.features, ref.features)

FD-Lite0 is the Fréchet distance on EfficientNet-Lite0's features: it ranks the rows of one report
and is not an FID, nor comparable with one. `hole_crop` limits any of them to the hole.

FID, IS, CA and LPIPS need weights that are not shipped (`weights.FILES` has their addresses); how
a paper measures them is a protocol (`PROTOCOLS`), and `Measure` makes a report's row of it all.
"""

from jax_bridges.metrics.frechet import Moments, frechet_distance, kernel_distance
from jax_bridges.metrics.image import hole_crop, psnr, ssim, to_uint8
from jax_bridges.metrics.inception import inception_outputs
from jax_bridges.metrics.intervals import (
    Estimate,
    folds_of,
    mean_estimate,
    paired_interval,
    set_estimate,
    sign_test,
)
from jax_bridges.metrics.lite0 import Lite0, Lite0Output, lite0_input, lite0_outputs, lite0_params
from jax_bridges.metrics.lpips import lpips
from jax_bridges.metrics.measure import Measure, check_metrics, measure_images
from jax_bridges.metrics.metric import METRICS, Metric
from jax_bridges.metrics.protocols import PROTOCOLS
from jax_bridges.metrics.reference import load_statistics, over_hosts
from jax_bridges.metrics.resnet import resnet_logits
from jax_bridges.metrics.scores import hits, inception_score


def fd_lite0(features_a, features_b) -> float:
    """FD-Lite0 of two equally large sets of `lite0_outputs` features [N, 1280]."""
    return frechet_distance(Moments.of(features_a), Moments.of(features_b))


__all__ = [
    "METRICS",
    "PROTOCOLS",
    "Estimate",
    "Lite0",
    "Lite0Output",
    "Measure",
    "Metric",
    "Moments",
    "check_metrics",
    "fd_lite0",
    "folds_of",
    "frechet_distance",
    "hits",
    "hole_crop",
    "inception_outputs",
    "inception_score",
    "kernel_distance",
    "lite0_input",
    "lite0_outputs",
    "lite0_params",
    "load_statistics",
    "lpips",
    "mean_estimate",
    "measure_images",
    "over_hosts",
    "paired_interval",
    "psnr",
    "resnet_logits",
    "set_estimate",
    "sign_test",
    "ssim",
    "to_uint8",
]
