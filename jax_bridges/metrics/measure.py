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
from jax_bridges.metrics.frechet import Moments
from jax_bridges.metrics.inception import FEATURES, inception_outputs
from jax_bridges.metrics.intervals import Estimate, folds_of, mean_estimate
from jax_bridges.metrics.lite0 import lite0_outputs
from jax_bridges.metrics.metric import METRICS, Part
from jax_bridges.metrics.protocols import PROTOCOLS
from jax_bridges.metrics.reference import load_statistics, statistics_resize
from jax_bridges.metrics.resnet import resnet_logits
from jax_bridges.metrics.store import Store
from jax_bridges.metrics.weights import file_sha256, weights_path
from jax_bridges.schema import FLAG, TEXT, Choice, Each, Either, Only, Setting, check, whole

_TARGETS = "the targets of the same images"

# fmt: off
# The keys of `config.evaluate` that say what is measured.
SETTINGS = (
    Setting("metrics", ("psnr", "ssim", "fd_lite0", "kid_lite0"), Each(Choice(METRICS), least=1, unique=True),
            "What is measured; fid to lpips_alex need weights, ca and ca_lite0 labels too."),
    Setting("protocol", "own", Choice(PROTOCOLS), "Whose pixels, resizing and units: ours, or a paper's."),
    Setting("weights", "", TEXT, "Folder of the feature networks' files; \"\": the usual caches."),
    Setting("reference", "", TEXT, "fid: .npz of statistics; \"\": the targets of the same images."),
    Setting("allow_unequal", False, FLAG, "fid: against a reference of another number of images."),
    Setting("folds", 50, Either((Only(0), whole(least=2))), "Parts of the images that are left out in turn "
            "for the 95% intervals of distances, at most; 0: no intervals."),
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
        metric = METRICS[name]
        for need in metric.needs:
            weights_path(need, config.weights or None)
        if metric.labels and not labels:
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

    def __init__(self, config: Any, hole: bool = False, blocks: np.ndarray | None = None):
        """For `config.evaluate`; `hole` says that the images are cut-outs around a hole, which limits
        the metrics to those that make sense there; `blocks` `[N]` are numbers of the blocks of neighbours
        that they lie in, None where each image is a stranger to the others."""
        self.config, self.blocks = config, blocks
        self.protocol = look_up("protocol", PROTOCOLS, config.protocol)
        self.names = [n for n in config.metrics if not hole or METRICS[n].of_hole]
        self.weights = config.weights or None
        self._targets: dict[str, Store] = {}  # features by network: the first set fills them

    def begin(self) -> MeasuredSet:
        """A set of images to be measured."""
        return MeasuredSet(self)

    def how(self) -> dict[str, str]:
        """What the report says of it: the protocol, the reference, and the weights' checksums."""
        said = {"protocol": f"{self.config.protocol}: {self.protocol.about}"}
        needs = {need for name in self.names for need in METRICS[name].needs}
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

    def known(self, metric: str) -> Moments | None:
        """What stands in for the targets of this metric; None: nothing does."""
        of_set = METRICS[metric].of_set
        return self.reference if of_set is not None and of_set.reference else None

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
        self,
        images: np.ndarray,
        targets: np.ndarray,
        labels=None,
        gap: Callable | None = None,
        again: np.ndarray | None = None,
    ) -> None:
        """The next images.

        Args:
          images: `[N, H, W, 3]` as `protocol.keep` made them. Protocols that measure in batches
            (`ddbm`) see those of a part: give parts of a multiple of 128.
          targets: uint8, of the same shape.
          labels: `[N]`, for the metrics that need them.
          gap: gives `[N]` values for the metric "cons", which is left out without.
          again: further answers, as `images`, for the metric "diversity", which is left out without.
        """
        measure = self._measure
        pixels = np.asarray(measure.protocol.pixels(images))
        outputs = functools.cache(lambda network: measure.outputs(network, pixels))
        another = None
        if again is not None:
            others = np.asarray(measure.protocol.pixels(again))
            another = functools.partial(measure.outputs, pixels=others)
        part = Part(
            images,
            pixels,
            targets,
            labels,
            gap,
            outputs,
            measure.protocol,
            measure.weights,
            another,
        )
        for name in measure.names:
            of_set = METRICS[name].of_set
            if of_set is None:
                each = METRICS[name].each
                values = None if each is None else each(part)
                if values is not None:
                    self._each.setdefault(name, []).append(np.asarray(values))
                continue
            network = of_set.network(measure.protocol)
            if of_set.paired and measure.known(name) is None:
                measure.targets(network, self._count, targets)
            store = self._kept.setdefault((network, of_set.kind), Store())
            if len(store) == self._count:
                store.add(getattr(outputs(network), of_set.kind))
        self._count += len(images)

    def each(self) -> dict[str, np.ndarray]:
        """metric -> one value an image `[N]`, of the metrics that have one."""
        whole = {name: np.concatenate(parts) for name, parts in self._each.items()}
        return {name: values for name, values in whole.items() if len(values) == self._count}

    def estimates(self) -> dict[str, Estimate]:
        """metric -> its value and what tells how sure it is; without `config.folds` the value alone."""
        measure, found = self._measure, {}
        each, folds = self.each(), None
        if measure.config.folds:
            blocks = np.arange(self._count) if measure.blocks is None else measure.blocks
            folds = folds_of(blocks, measure.config.folds)
        for name in measure.names:
            if METRICS[name].of_set:
                found[name] = self._of_set(name, folds)
            elif name in each:
                found[name] = mean_estimate(each[name], measure.blocks)
            elif name in self._each:  # a protocol's, one a batch
                value = float(np.mean(np.concatenate(self._each[name])))
                found[name] = Estimate(value, np.empty(0), np.empty(0))
        return found

    def _of_set(self, name: str, folds: np.ndarray | None) -> Estimate:
        measure, of_set = self._measure, METRICS[name].of_set
        assert of_set is not None
        network = of_set.network(measure.protocol)
        ours, theirs = self._kept[network, of_set.kind], measure.known(name)
        if of_set.paired and theirs is None:
            theirs = measure.target_features(network)
        value = of_set.value(ours, theirs, measure.config)
        if folds is None or self._count - np.bincount(folds).max() < 2:
            return Estimate(value, np.empty(0), np.empty(0))
        without = of_set.without(ours, theirs, folds, measure.config)
        return Estimate(value, without, np.bincount(folds))

    def values(self) -> dict:
        """metric -> value.

        Returns:
          With `config.folds`, also "intervals": metric -> (low, high), of 95%.
        """
        found = self.estimates()
        row = {name: estimate.value for name, estimate in found.items()}
        if not self._measure.config.folds:
            return row
        intervals = {n: e.interval() for n, e in found.items() if len(e.sizes) > 1}
        return {**row, "intervals": intervals} if intervals else row


def measure_images(
    config: Any, images: np.ndarray, targets: np.ndarray, labels=None, hole: bool = False
) -> dict:
    """`MeasuredSet.values` of images that are in memory as a whole."""
    row = Measure(config, hole).begin()
    row.add(images, targets, labels)
    return row.values()


class _Logits(NamedTuple):
    logits: np.ndarray
