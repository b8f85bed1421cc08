"""Runs of EM at toy size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from tests.support.runs import tiny


def make_tiles(folder: Path) -> Path:
    """Smooth images of 16x16 pixels: 40 in train/ and 8 in test/ of the folder."""
    rng = np.random.default_rng(0)
    for i in range(48):
        low = rng.uniform(0, 255, (2, 2, 3)).astype(np.uint8)
        place = folder / ("test" if i % 6 == 0 else "train")
        place.mkdir(exist_ok=True)
        Image.fromarray(low).resize((16, 16), Image.Resampling.BILINEAR).save(place / f"{i:02}.png")
    return folder


def em_config(tiles: Path, **changes) -> ConfigDict:
    """The smallest run in rounds: half of the pixels missing, four clean images, two rounds."""
    config = tiny(tiles)
    config.corruption, config.keep_known = {"name": "identity"}, False
    config.bridge, config.preconditioning = {"name": "ddpm"}, {"name": "unit_variance"}
    config.network.conditional = False
    config.em.operator = {"name": "inpaint_random", "share": 0.5}
    config.em.update(
        dict(sigma_y=0.05, clean=4, rounds=2, observations=8, validation=4, baselines=("upper",))
    )
    config.em.settings.mmps = {"nfe": 3}
    config.evaluate.metrics = ("psnr",)
    config.train.steps = 4
    config.update_from_flattened_dict(changes)
    return config
