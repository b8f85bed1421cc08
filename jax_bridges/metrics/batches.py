"""Networks over many images: in batches of one shape, so that each image size is compiled once."""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np


def in_batches(run: Callable, images, batch_size: int | None, who: str) -> list[np.ndarray]:
    """`run(batch)` -> a tuple of arrays [batch, ...], for uint8 images [N, H, W, 3]: each [N, ...].

    Batches of `batch_size` (default 4 on a CPU, else 64); the last is padded with black. Raises
    ValueError, naming `who`, for anything but uint8 RGB images, or none.
    """
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3 or not len(images):
        raise ValueError(
            f"{who} needs one or more uint8 RGB images [N, H, W, 3], not {images.dtype} "
            f"{images.shape}."
        )
    batch_size = batch_size or (4 if jax.default_backend() == "cpu" else 64)
    outputs = []
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        padding = [(0, batch_size - len(batch)), (0, 0), (0, 0), (0, 0)]
        outputs.append([np.asarray(o)[: len(batch)] for o in run(np.pad(batch, padding))])
    return [np.concatenate(parts) for parts in zip(*outputs, strict=True)]
