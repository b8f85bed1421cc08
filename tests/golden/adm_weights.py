"""Weights of the ADM test networks, drawn from the names: only results need storing."""

import math
import zlib

import numpy as np


def weight(name: str, shape: tuple) -> np.ndarray:
    """Seeded by the name; every layer matters, those that training starts at zero too."""
    draw = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if name.endswith("bias"):
        draw = 0.1 * draw
    elif len(shape) == 1:
        draw = 1 + 0.1 * draw
    elif name != "label_emb.weight":
        draw = draw / math.sqrt(math.prod(shape[1:]))
    return draw.astype(np.float32)
