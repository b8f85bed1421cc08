"""Feature networks over many images: in batches of one shape, on all devices of all hosts."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jax_bridges import hosts
from jax_bridges.platforms import target
from jax_bridges.starting import first_says
from jax_bridges.typing import PyTree


def check_images(images, who: str) -> np.ndarray:
    """The images as numpy. Raises ValueError, naming `who`, for anything but uint8 RGB, or none."""
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3 or not len(images):
        raise ValueError(
            f"{who} needs one or more uint8 RGB images [N, H, W, 3], not {images.dtype} "
            f"{images.shape}."
        )
    return images


def device_batch(batch_size: int | None, on_cpu: int, elsewhere: int = 64) -> int:
    """Images a device takes at once: as asked for, else by its kind."""
    return batch_size or (on_cpu if target() == "cpu" else elsewhere)


def in_batches(
    steps: Sequence[Callable[..., tuple]],
    variables: PyTree,
    inputs: Sequence[np.ndarray],
    batch_size: int,
    shared: bool = True,
) -> list[np.ndarray]:
    """What a network gives of all images, on the host, in their order.

    A device always computes `batch_size` images at once, the last ones padded with zeros: an image
    size is compiled once whatever N is, and no result depends on the number of devices.

    Args:
      steps: functions `(variables, *arrays [B, ...]) -> tuple of arrays [B, ...]`, each of which takes
        what the one before gave. Each is compiled by itself and kept under its identity.
      variables: of the network, the same for all steps.
      inputs: arrays `[N, ...]`, N >= 1.
      batch_size: images a device takes at once.
      shared: all hosts call it with the same images; each takes its share, and has all results. If
        False, the images are this host's own.
    """
    count, sharing = len(inputs[0]), jax.process_count() if shared else 1
    batches = -(-count // (batch_size * sharing))  # of this host
    first = batches * batch_size * (jax.process_index() if shared else 0)
    devices = jax.local_devices()[:batches]
    mesh = Mesh(np.asarray(devices), ("data",))
    variables = jax.device_put(variables, NamedSharding(mesh, PartitionSpec()))
    size, outputs = batch_size * len(devices), []
    for start in range(first, first + batches * batch_size, size):
        arrays = [_padded(v[start : start + size], size) for v in inputs]
        for step in steps:
            arrays = on_each(step, mesh, *(a.shape for a in arrays))(variables, *arrays)
        outputs.append([np.asarray(a) for a in arrays])
    found = [np.concatenate(parts)[: batches * batch_size] for parts in zip(*outputs, strict=True)]
    return [(hosts.gather(part) if shared else part)[:count] for part in found]


def _padded(array: np.ndarray, size: int) -> np.ndarray:
    return np.pad(array, [(0, size - len(array))] + [(0, 0)] * (array.ndim - 1))


@functools.cache
def on_each(step: Callable, mesh: Mesh, *shapes: tuple[int, ...]) -> Callable:
    """The step, to be compiled for such arrays; each device of the mesh sees its own part alone."""
    del shapes

    def local(variables, *arrays):
        with jax.default_matmul_precision("highest"):
            return step(variables, *arrays)

    def run(variables, *arrays):
        specs = (PartitionSpec(), *(PartitionSpec("data") for _ in arrays))
        return jax.shard_map(
            local, mesh=mesh, in_specs=specs, out_specs=PartitionSpec("data"), check_vma=False
        )(variables, *arrays)

    return first_says(f"a network of {step.__module__.rpartition('.')[2]}", jax.jit(run))
