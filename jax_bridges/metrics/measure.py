"""The metrics of a report's row, by the names in `config.evaluate.metrics`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from jax_bridges.choices import look_up
from jax_bridges.metrics.bootstrap import mean_interval, set_interval
from jax_bridges.metrics.frechet import Moments, frechet_distance, kernel_distance
from jax_bridges.metrics.inception import FEATURES, inception_outputs
from jax_bridges.metrics.lite0 import lite0_outputs
from jax_bridges.metrics.lpips import TRUNKS, lpips
from jax_bridges.metrics.protocols import PROTOCOLS
from jax_bridges.metrics.reference import load_statistics, statistics_resize
from jax_bridges.metrics.resize import bilinear_torch
from jax_bridges.metrics.resnet import resnet_logits
from jax_bridges.metrics.scores import hits, inception_score
from jax_bridges.metrics.weights import file_sha256, weights_path
from jax_bridges.schema import FLAG, TEXT, Choice, Each, Either, Only, Setting, check, whole

# What each metric needs: files of weights.FILES, and class labels.
METRIC_NEEDS = {
    "psnr": (),
    "ssim": (),
    "fd_lite0": (),
    "kid_lite0": (),
    "ca_lite0": ("label",),
    "fid": ("inception",),
    "kid": ("inception",),
    "is": ("inception",),
    "ca": ("resnet50", "label"),
    "lpips": ("vgg16", "lpips_vgg"),
    "lpips_alex": ("alexnet", "lpips_alex"),
    "cons": (),
}
# Those that make sense for the hole alone: a classifier or an Inception needs the whole image.
OF_A_HOLE = ("psnr", "ssim", "fd_lite0", "kid_lite0", "lpips", "lpips_alex")
KID_SUBSET = 100  # images, fewer where the set is smaller
_TARGETS = "the targets of the same images"

# fmt: off
# The keys of `config.evaluate` that say what is measured.
SETTINGS = (
    Setting("metrics", ("psnr", "ssim", "fd_lite0"), Each(Choice(METRIC_NEEDS), least=1),
            "What is measured; fid to lpips_alex need weights, ca and ca_lite0 labels too."),
    Setting("protocol", "own", Choice(PROTOCOLS), "Whose pixels, resizing and units: ours, or a paper's."),
    Setting("weights", "", TEXT, "Folder of the feature networks' files; \"\": the usual caches."),
    Setting("reference", "", TEXT, "fid: .npz of statistics; \"\": the targets of the same images."),
    Setting("allow_unequal", False, FLAG, "fid: against a reference of another number of images."),
    Setting("bootstrap", 0, Either((Only(0), whole(least=2))),
            "Resamples for 95% intervals (of distances slow: try 50); 0: no intervals."),
)
# fmt: on


def check_metrics(config: Any, labels: bool = True) -> None:
    """Refuses what cannot be measured, before anything is trained.

    Args:
      config: `config.evaluate`.
      labels: whether the data has class labels.

    Raises:
      ValueError: an unknown metric or protocol, a metric that needs labels which are not there, or a
        reference that no metric reads or that is not of Inception's features.
      FileNotFoundError: weights or reference statistics that are not there.
    """
    check(SETTINGS, "evaluate", config)
    for name in config.metrics:
        for need in METRIC_NEEDS[name]:
            if need != "label":
                weights_path(need, config.weights or None)
            elif not labels:
                raise ValueError(
                    f"evaluate.metrics has '{name}', which needs class labels, and the data has "
                    "none: set data.classes or data.label_key, numbered as ImageNet does."
                )
    if config.reference:
        _check_reference(config)


def _check_reference(config: Any) -> None:
    if "fid" not in config.metrics:  # KID compares with features, which statistics do not hold
        raise ValueError(
            "evaluate.reference is for the metric 'fid', which evaluate.metrics does not have: add it, "
            "or set evaluate.reference to ''."
        )
    dimensions = len(load_statistics(config.reference).mean)
    if dimensions != FEATURES:
        raise ValueError(
            f"evaluate.reference={config.reference} is of {dimensions} features, but the FID's are "
            f"the {FEATURES} of Inception's last pooling: give statistics of those."
        )
    theirs, ours = statistics_resize(config.reference), PROTOCOLS[config.protocol].fid
    if theirs not in ("", ours):
        raise ValueError(
            f"evaluate.reference={config.reference} was resized as {theirs}, but the protocol "
            f"{config.protocol} resizes as {ours}: make it again under that protocol."
        )


class Measure:
    """Measures sets of images against their targets.

    Attributes:
      protocol: of PROTOCOLS.
    """

    def __init__(self, config: Any, targets: np.ndarray, labels=None, hole: bool = False):
        """For `config.evaluate`: targets are uint8 `[N, H, W, 3]`, labels `[N]`; `hole` says that
        the images are cut-outs around a hole, which limits the metrics to OF_A_HOLE."""
        self.config, self.targets, self.labels = config, targets, labels
        self.protocol = look_up("protocol", PROTOCOLS, config.protocol)
        self.names = [n for n in config.metrics if not hole or n in OF_A_HOLE]
        self.weights = config.weights or None

    def __call__(self, images: np.ndarray, consistency: Callable | None = None) -> dict:
        """Of images `[N, H, W, 3]` as `protocol.keep` made them: metric -> value.

        Args:
          consistency: gives one value an image, for the metric "cons", which is left out without.

        Returns:
          With `config.bootstrap`, also "intervals": metric -> (low, high), of 95%.
        """
        row, intervals = {}, {}
        pixels = np.asarray(self.protocol.pixels(images))
        outputs = functools.cache(lambda network: self._outputs(network, pixels))
        for name in self.names:
            if name == "cons":
                values = None if consistency is None else consistency()
            elif name in _OF_SETS:
                statistic = _OF_SETS[name](self, outputs)
                row[name] = statistic(None)
                if self.config.bootstrap:
                    intervals[name] = set_interval(
                        statistic, len(images), resamples=self.config.bootstrap
                    )
                continue
            else:
                values = self._values(name, images, pixels, outputs)
            if values is None:
                continue
            row[name] = float(np.mean(values))
            if self.config.bootstrap and len(values) == len(images):
                intervals[name] = mean_interval(values, resamples=self.config.bootstrap)
        return {**row, "intervals": intervals} if intervals else row

    def how(self) -> dict[str, str]:
        """What the report says of it: the protocol, the reference, and the weights' checksums."""
        said = {"protocol": f"{self.config.protocol}: {self.protocol.about}"}
        needs = {need for name in self.names for need in METRIC_NEEDS[name]} - {"label"}
        found = {need: weights_path(need, self.weights) for need in sorted(needs)}
        if found:
            said["weights"] = ", ".join(
                f"{path.name} (SHA-256 {file_sha256(path)[:8]})" for path in found.values()
            )
        theirs = {"fid": self.config.reference or _TARGETS, "kid": _TARGETS}
        if "fid" in self.names and self._reference is not None and self._reference.count is None:
            theirs["fid"] += " (it does not say of how many images)"
        theirs = [f"{name.upper()}: {what}" for name, what in theirs.items() if name in self.names]
        if theirs:
            said["reference"] = "; ".join(theirs)
        return said

    # -- one value an image ------------------------------------------------------------------------
    def _values(self, name: str, images, pixels, outputs) -> np.ndarray:
        if name in ("psnr", "ssim"):
            return np.asarray(getattr(self.protocol, name)(images, self.targets))
        if name.startswith("ca"):
            return hits(outputs("lite0" if name == "ca_lite0" else "resnet").logits, self.labels)
        net = "alex" if name == "lpips_alex" else "vgg"
        pair, least = (pixels, self.targets), max(self.protocol.lpips_size, TRUNKS[net][2])
        if pixels.shape[2] < (256 if self.protocol.lpips_size else least):
            pair = [
                np.asarray(bilinear_torch(v.astype(np.float32) / 127.5 - 1, least)) for v in pair
            ]
        return lpips(*pair, net, self.weights)

    # -- one value of the set ----------------------------------------------------------------------
    def _outputs(self, network: str, pixels: np.ndarray) -> Any:
        """Of "lite0", "resnet", or Inception under a convention of `inception.RESIZES`."""
        if network == "lite0":
            return lite0_outputs(pixels)
        if network == "resnet":
            return _Logits(resnet_logits(pixels, self.weights))
        return inception_outputs(pixels, network, self.weights)

    @functools.cached_property
    def _lite0_targets(self) -> np.ndarray:
        return lite0_outputs(self.targets).features

    @functools.cached_property
    def _fid_targets(self) -> np.ndarray:
        return inception_outputs(self.targets, self.protocol.fid, self.weights).features

    @functools.cached_property
    def _reference(self) -> Moments | None:
        return load_statistics(self.config.reference) if self.config.reference else None

    def _frechet(self, ours: np.ndarray, theirs: Callable, reference: Moments | None) -> Callable:
        def statistic(picks) -> float:
            mine = Moments.of(ours if picks is None else ours[picks])
            other = reference
            if other is None:
                other = Moments.of(theirs() if picks is None else theirs()[picks])
            return frechet_distance(mine, other, self.config.allow_unequal)

        return statistic

    def _kernel(self, ours: np.ndarray, theirs: np.ndarray) -> Callable:
        def statistic(picks) -> float:
            pair = (ours, theirs) if picks is None else (ours[picks], theirs[picks])
            return kernel_distance(*pair, subset=min(KID_SUBSET, len(ours)))[0]

        return statistic


class _Logits:
    def __init__(self, logits):
        self.logits = logits


def _inception_score(measure: Measure, outputs: Callable) -> Callable:
    logits = outputs(measure.protocol.inception).logits
    return lambda picks: inception_score(logits if picks is None else logits[picks])


_OF_SETS = {
    "fd_lite0": lambda m, out: m._frechet(out("lite0").features, lambda: m._lite0_targets, None),
    "kid_lite0": lambda m, out: m._kernel(out("lite0").features, m._lite0_targets),
    "fid": lambda m, out: m._frechet(
        out(m.protocol.fid).features, lambda: m._fid_targets, m._reference
    ),
    "kid": lambda m, out: m._kernel(out(m.protocol.fid).features, m._fid_targets),
    "is": _inception_score,
}
