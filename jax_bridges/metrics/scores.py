"""Scores of a set of images from a classifier's logits: IS and CA."""

from __future__ import annotations

import numpy as np


def inception_score(logits, split_size: int = 5000, splits: int | None = None) -> float:
    """IS (Salimans et al. 2016, arXiv 1606.03498, sec. 4): exp of the mean KL of p(y|x) from p(y).

    Args:
      logits: [N, K], an array or read as one (metrics/store.py).
      split_size: images a split, in order; the last may have fewer (ADM, DDBM and DBIM: 5000).
      splits: so many splits of equal size instead (the original and torch-fidelity: 10).

    Returns:
      The mean over the splits, in [1, K].

    Raises:
      ValueError: another shape, values not finite, or fewer images than splits.
    """
    count = len(logits)
    if splits is not None:
        if not 1 <= splits <= count:
            raise ValueError(f"IS cannot split {count} images {splits} times.")
        edges = [i * count // splits for i in range(splits + 1)]
    else:
        edges = [*range(0, count, split_size), count]
    scores = []
    for start, stop in zip(edges, edges[1:], strict=False):
        x = np.asarray(logits.take(np.arange(start, stop), 0), np.float64)
        if x.ndim != 2 or not np.isfinite(x).all():
            raise ValueError(f"IS needs finite logits [N, K] with N at least 1, not {x.shape}.")
        x = x - x.max(1, keepdims=True)
        logs = x - np.log(np.exp(x).sum(1, keepdims=True))
        part = np.exp(logs)
        mean = np.log(np.maximum(part.mean(0, keepdims=True), np.finfo(float).tiny))
        scores.append(np.exp((part * (logs - mean)).sum(1).mean()))
    if not scores:
        raise ValueError("IS needs finite logits [N, K] with N at least 1, not none.")
    return float(np.mean(scores))


def hits(logits, labels) -> np.ndarray:
    """[N] of 0 or 100: whether the largest logit [N, K] is that of the label [N]; their mean is CA."""
    logits, labels = np.asarray(logits), np.asarray(labels)
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(
            f"CA needs logits [N, K] and one label each, not {logits.shape} and {labels.shape}."
        )
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise ValueError(
            f"Labels are {labels.min()} to {labels.max()}, and the classifier knows 0 to "
            f"{logits.shape[1] - 1}: number the classes as ImageNet does "
            "(jax_bridges/metrics/imagenet_wnids.txt)."
        )
    return 100.0 * (logits.argmax(-1) == labels)
