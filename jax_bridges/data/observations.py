"""Observations y = A x_0 + noise in place of images: for learning a prior from corrupted data alone.

    observed = Observations(source, corruption, sigma_y, run.key(Purpose.OBSERVE), numbers)
    observed[i]  # {"y": float32 [h, w, c], "number": uint32 []}; "mask" uint8 [H, W, 1] too if holes differ
    with Loader(observed, (B,), seed).iterate(step) as batches:
        batch = next(batches)  # the same keys [B, ...], and "index" uint32 [B], the number of the draw
    operator = operator_of(corruption, batch)  # A, a LinearOperator; inside a jitted step as well
    y = batch["y"]

It is a `Source`, so every stage can train on it: `Stage.data = lambda run: observed`, or
`dataclasses.replace(run, train_data=observed)`. Mask and noise of an observation follow from the key
and its "number" in `source` alone, so that they are the same in every epoch, round, start, and on every
host; what is to be fresh at each draw takes its keys from "index", as everywhere. x_0 is in no example:
nothing that trains on observations can reach it.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jax_bridges.corruptions import Corruption, LinearOperator
from jax_bridges.data.source import Source
from jax_bridges.keys import Stream, example_keys, fold
from jax_bridges.typing import AnyArray, Array
from jax_bridges.zero_shot import measure


class Observations:
    """What is seen of the images of a source: a `Source` whose examples are "y", "number", "mask"."""

    def __init__(
        self,
        source: Source,
        corruption: Corruption,
        sigma_y: float,
        key: Array,
        numbers: AnyArray | None = None,
    ):
        """
        Args:
          source: of x_0, uint8 `[H, W, 3]`.
          corruption: linear, or linear once its mask is known.
          sigma_y: standard deviation of the noise, in units of images in [-1, 1].
          key: of all masks and noise.
          numbers: `[N]` which of the source's images are observed; None: all.
        """
        self.name = f"{source.name} through {type(corruption).__name__}"
        self.numbers = np.arange(len(source)) if numbers is None else np.asarray(numbers)
        self._source, self._device = source, _host_device()

        def observe(image: Array, number: Array) -> dict[str, Array]:
            keys = example_keys(key, number[None])
            x0 = image[None].astype(jnp.float32) / 127.5 - 1.0
            mask = corruption(x0, fold(keys, Stream.CORRUPT)).mask
            operator = corruption.operator(mask)
            y = measure(operator, x0, sigma_y, fold(keys, Stream.MEASURE))
            seen = {"y": y[0]}
            if corruption.linear or mask is None:  # a linear operator knows its hole
                return seen
            return seen | {"mask": mask[0].astype(jnp.uint8)}

        self._observe = jax.jit(observe)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        number = np.uint32(self.numbers[i])
        with self._device():
            seen = self._observe(self._source[int(number)]["x0"], number)
        return {k: np.asarray(v) for k, v in {**seen, "number": number}.items()}

    def at(self, positions: AnyArray) -> Observations:
        """Those at some positions `[N]` of these."""
        part = copy.copy(self)
        part.numbers = self.numbers[np.asarray(positions)]
        return part


class Estimates:
    """Images that are made and not read, of any source that training takes: {"x0": float32 `[H, W, C]`}.

    Where some of their pixels alone count, "counted" float32 `[H, W, 1]` besides, 1 there and 0 elsewhere.
    """

    def __init__(self, name: str, images: np.ndarray, counted: np.ndarray | None = None):
        """`images`: `[N, H, W, C]`, floats in [-1, 1] or uint8; `counted`: `[N, H, W, 1]`."""
        self.name, self._images, self._counted = name, images, counted

    def counting(self) -> Estimates:
        """The same, and it is said that all pixels count."""
        ones = np.ones((len(self), *self._images.shape[1:3], 1), np.float32)
        return Estimates(self.name, self._images, ones)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        image = self._images[i]
        x0 = image.astype(np.float32)
        if image.dtype == np.uint8:
            x0 = x0 / np.float32(127.5) - 1
        if self._counted is None:
            return {"x0": x0}
        return {"x0": x0, "counted": self._counted[i].astype(np.float32)}


def operator_of(corruption: Corruption, batch: Mapping[str, Array]) -> LinearOperator:
    """A of a batch of observations `[B, ...]`.

    Args:
      corruption: of `Observations`.
      batch: of its examples.
    """
    mask = batch.get("mask")
    return corruption.operator(None if mask is None else jnp.asarray(mask, jnp.float32))


def _host_device():
    """What makes a context within which this host's CPU computes, the same numbers beside any accelerator."""
    try:
        cpu = jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS leaves it out
        return contextlib.nullcontext
    return lambda: jax.default_device(cpu)
