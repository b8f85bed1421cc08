"""Folders of small images, made and opened, for the tests of what is read from files."""

from types import SimpleNamespace as Config

import numpy as np
from PIL import Image

from jax_bridges.data import make_source


def ramp(h, w):
    """A smooth image, uint8 [h, w, 3]: red grows to the right, green downwards, blue is 64."""
    y, x = np.mgrid[:h, :w]
    return np.stack(
        [255 * (x + 0.5) / w, 255 * (y + 0.5) / h, np.full((h, w), 64.0)], axis=-1
    ).astype(np.uint8)


def wide_ramp():
    """uint16 [16, 16] from 0 to 65535 with uneven steps, so that rounding shows."""
    return (65535 * np.linspace(0, 1, 256) ** 1.7).astype(np.uint16).reshape(16, 16)


def save(path, array, **settings):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **settings)
    return path


def folder(path, split="train", size=16, **settings):
    settings = {"test_fraction": 1e-9, **settings}
    return make_source(Config(name="folder", path=str(path), size=size, **settings), split)


def only(path, **settings):
    (source,) = [folder(path, **settings)]
    assert len(source) == 1
    return source[0]["x0"].astype(int)


def pairs(a, b, split="train", size=16, **settings):
    settings = {"test_fraction": 1e-9, **settings}
    config = Config(name="pairs", path=str(a), path_xT=str(b), size=size, **settings)
    return make_source(config, split)
