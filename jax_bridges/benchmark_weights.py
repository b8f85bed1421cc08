"""Weights and inputs to time a network with: random everywhere, and the same in every framework.

A freshly initialised network has convolutions of zeros. Its output is 0, so that two implementations
of it agree whatever they do; its gradients are 0 too, and products of zeros take a GPU less time.
"""

from __future__ import annotations

import zlib
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np

from jax_bridges.planning.abstract import abstract_params
from jax_bridges.stages.run import Run
from jax_bridges.typing import PyTree


def random_params(shapes: PyTree, seed: int = 0) -> PyTree:
    """Parameters of these shapes as float32 numpy arrays, not one leaf of them zero.

    Kernels are N(0, 1 / fan-in), tables of embeddings N(0, 1), scales of norms N(1, 0.01), and all
    else N(0, 0.01). A leaf's values depend on its name and the seed alone: a network and the same
    one with an input more share all others.

    Args:
      shapes: a tree of arrays or shapes, such as `jax.eval_shape` of an initialiser gives.
      seed: of the draws.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(shapes)

    def draw(named) -> np.ndarray:
        path, leaf = named
        words = [str(getattr(part, "key", part)) for part in path]
        rng = np.random.default_rng([seed, zlib.crc32("/".join(words).encode())])
        values = rng.standard_normal(leaf.shape, np.float32)
        if words[-1] == "embedding":
            return values
        if len(leaf.shape) > 1:
            return values * np.float32(np.prod(leaf.shape[:-1]) ** -0.5)
        return np.float32(0.1) * values + np.float32(words[-1] == "scale")

    with ThreadPoolExecutor() as pool:  # numpy draws without the interpreter's lock
        return jax.tree.unflatten(structure, list(pool.map(draw, leaves)))


def place_random(run: Run, player: str) -> PyTree:
    """Random parameters of a player's network on the devices, as a run has them."""
    params = random_params(abstract_params(run.system, player))
    return jax.device_put(params, run.parallel.shardings(params))


def random_inputs(net, size: tuple[int, int], channels: int, batch: int) -> tuple[np.ndarray, ...]:
    """x, network time, xT and label of a call of `net` on `batch` images, as numpy arrays.

    Returns:
      x, xT `[B, H, W, C]` standard normal; times `[B]` over most of 0 .. 1000; labels `[B]` int32, of
      the network's classes if it has any.
    """
    x, xT = np.random.default_rng(0).standard_normal((2, batch, *size, channels), np.float32)
    label = np.arange(batch, dtype=np.int32) % max(getattr(net, "num_classes", 0), 1)
    return x, np.linspace(1.0, 900.0, batch, dtype=np.float32), xT, label
