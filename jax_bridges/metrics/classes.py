"""ImageNet's 1000 classes: the number that a classifier gives to a folder's WordNet id."""

from __future__ import annotations

import functools
from importlib import resources


@functools.cache
def imagenet_classes() -> dict[str, int]:
    """WordNet id ("n01440764") -> class number 0 to 999 of the usual 1000-way classifiers.

    The number is the rank of the id among the 1000 sorted ids of ImageNet-1k.
    """
    text = resources.files("jax_bridges.metrics").joinpath("imagenet_wnids.txt").read_text("utf-8")
    return {wnid: number for number, wnid in enumerate(text.split())}
