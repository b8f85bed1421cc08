"""Weights that are functions of a tensor's name and shape alone, and images: the same everywhere."""

import zlib

import numpy as np


def make(layout: dict) -> dict[str, np.ndarray]:
    """A state dict for a layout, name -> shape, that keeps activations of order one."""
    state = {}
    for name, shape in layout.items():
        random = np.random.default_rng(zlib.crc32(name.encode()))
        if name.startswith("lin"):  # LPIPS's heads are non-negative
            value = random.uniform(0, 2 / shape[1], shape)
        elif name.endswith("running_var"):
            value = random.uniform(0.6, 1.4, shape)
        elif len(shape) == 1 and name.endswith("weight"):  # of a norm: Inception has no shortcuts
            value = random.uniform(0.9, 1.4, shape) * (1.0 if ".bn." in name else 0.6)
        elif len(shape) == 1:
            value = random.normal(0, 0.1, shape)
        else:
            value = random.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
        state[name] = value.astype(np.float32)
    return state


def images(count: int, side: int) -> np.ndarray:
    """Uint8 [count, side, side, 3]: waves, edges and noise."""
    random = np.random.default_rng(side)
    y, x, c = np.meshgrid(np.arange(side), np.arange(side), np.arange(3), indexing="ij")
    out = []
    for n in range(count):
        wave = 90 * np.sin((x * (n + 1) + 5 * c) / 9) + 40 * np.cos((y + x * n) / 5)
        out.append(127 + wave + 30 * ((x // 11 + y // 7) % 2) + random.normal(0, 9, wave.shape))
    return np.clip(np.stack(out), 0, 255).astype(np.uint8)
