"""What there is to know of each metric, in one record: its name, what it needs, how it is computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from jax_bridges.metrics.frechet import (
    Moments,
    PairedFrechet,
    frechet_distance,
    gaussian_distance,
    gaussians_without,
    kernel_distance,
    kernel_without,
)
from jax_bridges.metrics.intervals import kept
from jax_bridges.metrics.lpips import TRUNKS, lpips
from jax_bridges.metrics.protocols import Protocol
from jax_bridges.metrics.resize import bilinear_torch
from jax_bridges.metrics.scores import hits, inception_score
from jax_bridges.metrics.store import Picked, Store

KID_SUBSET = 100  # images, fewer where the set is smaller
PAIRS_IN_MEMORY = 2048  # images whose inner products, 32 MB a matrix, are kept for the folds

PIXELS_AT_ONCE = 2**22  # of PSNR and SSIM


class Part(NamedTuple):
    """Some of a set's images, as a metric of single images sees them.

    images: `[N, H, W, 3]` as `protocol.keep` made them; pixels: the same in uint8; targets: uint8;
    labels: `[N]` or None; gap: gives `[N]` distances from what was measured, or None; outputs:
    `outputs(network)` of the pixels; weights: folder of the feature networks' files; again:
    `again(network)`, outputs of another answer to the same x_T, or None.
    """

    images: np.ndarray
    pixels: np.ndarray
    targets: np.ndarray
    labels: np.ndarray | None
    gap: Callable[[], np.ndarray | None] | None
    outputs: Callable[[str], Any]
    protocol: Protocol
    weights: str | None
    again: Callable[[str], Any] | None = None


class OfSet(NamedTuple):
    """How one number of a whole set is computed.

    network: `network(protocol)`, whose `kind` ("features" or "logits") it looks at; paired: whether it
    compares with the targets'; value: `value(ours, theirs, config)`, of stores; without:
    `without(ours, theirs, folds, config)`, its values `[G]` without each of the folds (metrics/intervals.py).
    `theirs` may be `Moments` where `reference` says so. falls: its expectation falls with the number of
    images, so that only equal numbers compare.
    """

    network: Callable[[Protocol], str]
    kind: str
    paired: bool
    value: Callable[..., float]
    without: Callable[..., np.ndarray]
    reference: bool = False
    falls: bool = False


@dataclass(frozen=True)
class Metric:
    """One metric, and one column of the table.

    Attributes:
      name: as people call it.
      higher_is_better, decimals, unit: of the column; decimals None: follow the smallest value.
      each: `each(part) -> [N]` or None, a number an image; or
      of_set: a number of the whole set.
      needs: files of weights.FILES.
      labels: it needs class labels, numbered as ImageNet's.
      of_hole: it makes sense for the hole alone: a classifier or an Inception needs the whole image.
      window: pixels a side that an image must have.
      published: its names in published.csv.
    """

    name: str
    higher_is_better: bool
    decimals: int | None = None
    unit: str = ""
    each: Callable[[Part], np.ndarray | None] | None = None
    of_set: OfSet | None = None
    needs: tuple[str, ...] = ()
    labels: bool = False
    of_hole: bool = False
    window: int = 1
    published: tuple[str, ...] = ()


def _frechet(ours: Store, theirs: Store | Moments, config: Any) -> float:
    known = isinstance(theirs, Moments)
    other = theirs if known else Moments.of_blocks(theirs.blocks())
    return frechet_distance(Moments.of_blocks(ours.blocks()), other, config.allow_unequal)


def _frechet_without(ours: Store, theirs: Store | Moments, folds, config: Any) -> np.ndarray:
    if isinstance(theirs, Moments):
        # Of fewer images than the reference, all alike: what that does is not the interval's to tell.
        known = (theirs.mean, theirs.covariance)
        return np.array([gaussian_distance(part, known) for part in gaussians_without(ours, folds)])
    if len(ours) <= PAIRS_IN_MEMORY:
        distance = PairedFrechet(*(store.take(np.arange(len(ours))) for store in (ours, theirs)))
        return np.array([distance(picks) for picks in kept(folds)])
    pairs = zip(gaussians_without(ours, folds), gaussians_without(theirs, folds))
    return np.array([gaussian_distance(*pair) for pair in pairs])


def _kernel(ours: Store, theirs: Store, config: Any) -> float:
    return kernel_distance(ours, theirs, subset=min(KID_SUBSET, len(ours)))[0]


def _kernel_without(ours: Store, theirs: Store, folds, config: Any) -> np.ndarray:
    return kernel_without(ours, theirs, folds)


def _score(ours: Store, theirs: None, config: Any) -> float:
    return inception_score(ours)


def _score_without(ours: Store, theirs: None, folds, config: Any) -> np.ndarray:
    return np.array([inception_score(Picked(ours, picks)) for picks in kept(folds)])


def _few_at_once(part: Part, function: Callable) -> np.ndarray:
    """`function(images, targets)` of a few of them at a time, whose maps in float32 are 25 times as large.

    All at once where a protocol looks at them by batches.
    """
    images, targets = part.images, part.targets
    pixels = images.shape[0] * images.shape[1] * images.shape[2]
    pieces = 1 if part.protocol.batch else min(len(images), -(-pixels // PIXELS_AT_ONCE))
    split = (np.array_split(each, pieces) for each in (images, targets))
    return np.concatenate([np.asarray(function(*few)) for few in zip(*split, strict=True)])


def _lpips(part: Part, net: str) -> np.ndarray:
    images, targets = part.pixels, part.targets
    least = max(part.protocol.lpips_size, TRUNKS[net][2])
    if part.pixels.shape[2] < (256 if part.protocol.lpips_size else least):
        images, targets = (
            np.asarray(bilinear_torch(v.astype(np.float32) / 127.5 - 1, least))
            for v in (images, targets)
        )
    return lpips(images, targets, net, part.weights)


def _diversity(part: Part) -> np.ndarray | None:
    """Distance of two answers to one x_T in Lite0's features: ECSI's (arXiv 2410.21553) of two answers."""
    if part.again is None:
        return None
    one, other = part.outputs("lite0").features, part.again("lite0").features
    return np.linalg.norm(one - other, axis=1)


def _lite0(protocol: Protocol) -> str:
    return "lite0"


# In the order of the columns. FD-Lite0 is this project's own distance: it is not an FID. CA is
# the top-1 accuracy of a classifier on the restored images, in percent.
METRICS = {
    "fd_lite0": Metric(
        "FD-Lite0", False, of_hole=True,
        of_set=OfSet(_lite0, "features", True, _frechet, _frechet_without, falls=True),
    ),
    "psnr": Metric(
        "PSNR", True, 2, "dB", of_hole=True, published=("PSNR",),
        each=lambda part: _few_at_once(part, part.protocol.psnr),
    ),
    "ssim": Metric(
        "SSIM", True, 3, of_hole=True, window=11, published=("SSIM",),
        each=lambda part: _few_at_once(part, part.protocol.ssim),
    ),
    "fid": Metric(
        "FID", False, 1, needs=("inception",), published=("FID", "FID-10k"),
        of_set=OfSet(
            lambda protocol: protocol.fid, "features", True, _frechet, _frechet_without,
            reference=True, falls=True,
        ),
    ),
    "ca": Metric(
        "CA", True, 1, "%", needs=("resnet50",), labels=True, published=("CA",),
        each=lambda part: hits(part.outputs("resnet").logits, part.labels),
    ),
    "is": Metric(
        "IS", True, 2, needs=("inception",), published=("IS",),
        of_set=OfSet(lambda protocol: protocol.inception, "logits", False, _score, _score_without),
    ),
    "kid": Metric(
        "KID", False, needs=("inception",),
        of_set=OfSet(lambda protocol: protocol.fid, "features", True, _kernel, _kernel_without),
    ),
    "kid_lite0": Metric(
        "KID-Lite0", False, of_hole=True,
        of_set=OfSet(_lite0, "features", True, _kernel, _kernel_without),
    ),
    "ca_lite0": Metric(
        "CA-Lite0", True, 1, "%", labels=True,
        each=lambda part: hits(part.outputs("lite0").logits, part.labels),
    ),
    "lpips": Metric(
        "LPIPS", False, 3, needs=("vgg16", "lpips_vgg"), of_hole=True,
        each=lambda part: _lpips(part, "vgg"),
    ),
    "lpips_alex": Metric(
        "LPIPS (AlexNet)", False, 3, needs=("alexnet", "lpips_alex"), of_hole=True,
        each=lambda part: _lpips(part, "alex"),
    ),
    "diversity": Metric("Diversity", True, of_hole=True, each=_diversity),
    "cons": Metric("Consistency", False, each=lambda part: part.gap and part.gap()),
}  # fmt: skip
