"""Refuses metrics for which the held-out images or the reference do not do, before any training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jax_bridges.metrics.classes import imagenet_classes
from jax_bridges.metrics.metric import METRICS
from jax_bridges.metrics.reference import load_statistics


def check_test_data(config: Any, test_data: Any) -> None:
    """What `check_metrics` cannot know without the data: their classes, and how many images there are.

    Args:
      config: the configuration, validated.
      test_data: the source of the images to evaluate on.

    Raises:
      ValueError: see `check_labels` and `check_count`.
    """
    check_labels(config.evaluate.metrics, config.data, test_data)
    if config.evaluate.reference:
        check_count(config.evaluate, min(config.evaluate.images, len(test_data)))


def check_labels(metrics: tuple[str, ...], data: Any, test_data: Any) -> None:
    """Refuses CA of labels that are not numbered as the classifiers' 1000 classes.

    Args:
      metrics: `evaluate.metrics`.
      data: `config.data`.
      test_data: its source, with `classes`, the number of its classes, if it has any.

    Raises:
      ValueError: the labels are of more or fewer classes than ImageNet has.
    """
    asked = [name for name in metrics if METRICS[name].labels]
    found, known = getattr(test_data, "classes", 0), len(imagenet_classes())
    # Arrays do not say how many classes there are: theirs is the highest that occurs, plus one.
    partial = str(data.name).partition(":")[0] == "arrays" and found < known
    if not asked or found in (0, known) or partial:
        return
    file = Path(__file__).with_name("imagenet_wnids.txt")
    mend = (
        f"if the sub-folders are WordNet ids, give data.classes={file}"
        if data.classes
        else "give labels of ImageNet's numbers"
    )
    raise ValueError(
        f"evaluate.metrics has '{asked[0]}', whose classifier knows ImageNet's {known} classes by "
        f"number, but the labels of {test_data.name} are of {found}: {mend}, or leave "
        f"{' and '.join(asked)} out."
    )


def check_count(config: Any, images: int) -> None:
    """Refuses reference statistics of another number of images than will be measured.

    Args:
      config: `config.evaluate`, with a reference.
      images: how many will be measured.

    Raises:
      ValueError: the reference says of how many it is, and it is not as many; not with
        `evaluate.allow_unequal`.
    """
    count = load_statistics(config.reference).count
    if count is not None and count < 2:
        raise ValueError(
            f"evaluate.reference={config.reference} is of {count} image: the FID needs statistics of 2 "
            "or more."
        )
    if count not in (None, images) and not config.allow_unequal:
        raise ValueError(
            f"evaluate.reference={config.reference} is of {count} images and {images} will be measured, "
            f"which biases the FID differently: set evaluate.images to {count} if there are as many "
            "test images, give other statistics, or set evaluate.allow_unequal=True."
        )
