"""The metrics of a report's row, by the names in `config.evaluate.metrics`, as a stream.

    measure = Measure(config.evaluate)
    row = measure.begin()
    for images, targets in ...:          # in the same order for every row
        row.add(images, targets)
    row.values()                         # {"psnr": 25.1, ...}

Memory holds one part of the images at a time, one number an image of metrics that have one, and
features of a bounded number of images (metrics/store.py).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

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
from jax_bridges.metrics.store import Picked, Store
from jax_bridges.metrics.weights import file_sha256, weights_path

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
    look_up("protocol", PROTOCOLS, config.protocol)
    if not config.metrics:
        raise ValueError("evaluate.metrics is empty: name one metric or more.")
    if config.bootstrap == 1 or config.bootstrap < 0:
        raise ValueError(
            f"evaluate.bootstrap is {config.bootstrap}: it is 0 (none) or 2 resamples or more."
        )
    for name in config.metrics:
        for need in look_up("metric", METRIC_NEEDS, name):
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
    """Measures sets of images against the same targets.

    Attributes:
      protocol: of PROTOCOLS.
      names: the metrics, in the order of `config.metrics`.
    """

    def __init__(self, config: Any, hole: bool = False):
        """For `config.evaluate`; `hole` says that the images are cut-outs around a hole, which limits
        the metrics to OF_A_HOLE."""
        self.config = config
        self.protocol = look_up("protocol", PROTOCOLS, config.protocol)
        self.names = [n for n in config.metrics if not hole or n in OF_A_HOLE]
        self.weights = config.weights or None
        self._targets: dict[str, Store] = {}  # features by network: the first set fills them

    def begin(self) -> MeasuredSet:
        """A set of images to be measured."""
        return MeasuredSet(self)

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
        if "fid" in self.names and self.reference is not None and self.reference.count is None:
            theirs["fid"] += " (it does not say of how many images)"
        theirs = [f"{name.upper()}: {what}" for name, what in theirs.items() if name in self.names]
        if theirs:
            said["reference"] = "; ".join(theirs)
        return said

    @functools.cached_property
    def reference(self) -> Moments | None:
        """Statistics that stand in for the targets in the FID."""
        return load_statistics(self.config.reference) if self.config.reference else None

    def outputs(self, network: str, pixels: np.ndarray) -> Any:
        """Of "lite0", "resnet", or Inception under a convention of `inception.RESIZES`."""
        if network == "lite0":
            return lite0_outputs(pixels)
        if network == "resnet":
            return _Logits(resnet_logits(pixels, self.weights))
        return inception_outputs(pixels, network, self.weights)

    def targets(self, network: str, start: int, pixels: np.ndarray) -> None:
        """Keeps the features of targets number `start` and following, unless they are there."""
        store = self._targets.setdefault(network, Store())
        if len(store) <= start:
            store.add(self.outputs(network, pixels).features)

    def target_features(self, network: str) -> Store:
        """Those that were kept."""
        return self._targets[network]


class MeasuredSet:
    """One set of images: add its parts, then ask for its values."""

    def __init__(self, measure: Measure):
        self._measure, self._count = measure, 0
        self._each: dict[str, list[np.ndarray]] = {}  # values of the parts, by metric
        self._kept: dict[tuple[str, str], Store] = {}  # features and logits, by network

    def add(
        self, images: np.ndarray, targets: np.ndarray, labels=None, gap: Callable | None = None
    ) -> None:
        """The next images.

        Args:
          images: `[N, H, W, 3]` as `protocol.keep` made them. Protocols that measure in batches
            (`ddbm`) see those of a part: give parts of a multiple of 128.
          targets: uint8, of the same shape.
          labels: `[N]`, for the metrics that need them.
          gap: gives `[N]` values for the metric "cons", which is left out without.
        """
        measure = self._measure
        pixels = np.asarray(measure.protocol.pixels(images))
        outputs = functools.cache(lambda network: measure.outputs(network, pixels))
        for name in measure.names:
            if name in _OF_SETS:
                network, kind = _OF_SETS[name].needs(measure.protocol)
                if _OF_SETS[name].targets and not (name == "fid" and measure.reference is not None):
                    measure.targets(network, self._count, targets)
                store = self._kept.setdefault((network, kind), Store())
                if len(store) == self._count:
                    store.add(getattr(outputs(network), kind))
                continue
            values = gap() if name == "cons" and gap is not None else None
            if name != "cons":
                values = self._values(name, images, pixels, targets, labels, outputs)
            if values is not None:
                self._each.setdefault(name, []).append(np.asarray(values))
        self._count += len(images)

    def each(self) -> dict[str, np.ndarray]:
        """metric -> one value an image `[N]`, of the metrics that have one."""
        whole = {name: np.concatenate(parts) for name, parts in self._each.items()}
        return {name: values for name, values in whole.items() if len(values) == self._count}

    def statistic(self, name: str) -> Callable[[np.ndarray | None], float]:
        """`statistic(picks)`: a metric of the whole set, of the images of these numbers (None: of all)."""
        measure, metric = self._measure, _OF_SETS[name]
        network, kind = metric.needs(measure.protocol)
        ours = self._kept[network, kind]
        if name == "fid" and measure.reference is not None:
            return metric.make(measure, ours, measure.reference)
        return metric.make(
            measure, ours, measure.target_features(network) if metric.targets else None
        )

    def values(self) -> dict:
        """metric -> value.

        Returns:
          With `config.bootstrap`, also "intervals": metric -> (low, high), of 95%.
        """
        row, intervals = {}, {}
        resamples, each = self._measure.config.bootstrap, self.each()
        for name in self._measure.names:
            if name in _OF_SETS:
                statistic = self.statistic(name)
                row[name] = statistic(None)
                if resamples:
                    intervals[name] = set_interval(statistic, self._count, resamples=resamples)
            elif name in self._each:
                row[name] = float(np.mean(np.concatenate(self._each[name])))
                if resamples and name in each:
                    intervals[name] = mean_interval(each[name], resamples=resamples)
        return {**row, "intervals": intervals} if intervals else row

    def _values(self, name: str, images, pixels, targets, labels, outputs) -> np.ndarray:
        protocol = self._measure.protocol
        if name in ("psnr", "ssim"):
            return np.asarray(getattr(protocol, name)(images, targets))
        if name.startswith("ca"):
            return hits(outputs("lite0" if name == "ca_lite0" else "resnet").logits, labels)
        net = "alex" if name == "lpips_alex" else "vgg"
        pair, least = (pixels, targets), max(protocol.lpips_size, TRUNKS[net][2])
        if pixels.shape[2] < (256 if protocol.lpips_size else least):
            pair = [
                np.asarray(bilinear_torch(v.astype(np.float32) / 127.5 - 1, least)) for v in pair
            ]
        return lpips(*pair, net, self._measure.weights)


def measure_images(
    config: Any, images: np.ndarray, targets: np.ndarray, labels=None, hole: bool = False
) -> dict:
    """`MeasuredSet.values` of images that are in memory as a whole."""
    row = Measure(config, hole).begin()
    row.add(images, targets, labels)
    return row.values()


class _Logits(NamedTuple):
    logits: np.ndarray


# -- one value of the set --------------------------------------------------------------------------
class _OfSet(NamedTuple):
    """needs: protocol -> (network, "features" or "logits"); targets: whether it compares with them;
    make: `make(measure, ours, theirs) -> statistic(picks)`."""

    needs: Callable
    targets: bool
    make: Callable


def _frechet(measure: Measure, ours: Store, theirs: Store | Moments) -> Callable:
    def statistic(picks) -> float:
        known = isinstance(theirs, Moments)
        other = theirs if known else Moments.of_blocks(theirs.blocks(picks))
        mine = Moments.of_blocks(ours.blocks(picks))
        return frechet_distance(mine, other, measure.config.allow_unequal)

    return statistic


def _kernel(measure: Measure, ours: Store, theirs: Store) -> Callable:
    def statistic(picks) -> float:
        pair = (ours, theirs) if picks is None else (Picked(ours, picks), Picked(theirs, picks))
        return kernel_distance(*pair, subset=min(KID_SUBSET, len(ours)))[0]

    return statistic


def _score(measure: Measure, ours: Store, theirs: None) -> Callable:
    return lambda picks: inception_score(ours if picks is None else Picked(ours, picks))


_OF_SETS = {
    "fd_lite0": _OfSet(lambda protocol: ("lite0", "features"), True, _frechet),
    "kid_lite0": _OfSet(lambda protocol: ("lite0", "features"), True, _kernel),
    "fid": _OfSet(lambda protocol: (protocol.fid, "features"), True, _frechet),
    "kid": _OfSet(lambda protocol: (protocol.fid, "features"), True, _kernel),
    "is": _OfSet(lambda protocol: (protocol.inception, "logits"), False, _score),
}
