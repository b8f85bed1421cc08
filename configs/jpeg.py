"""Undo JPEG compression: `--config=configs/jpeg.py`.

The variants are the rows of IBMD's Table 7 with quality 5 and 10 and I2SB's teacher: ImageNet at
256 x 256, to be given as `--config.data.path=FOLDER` with train/ and val/. Published and inferred
settings: jax_bridges/papers.py.
"""

from functools import partial

from jax_bridges import papers
from jax_bridges.choices import look_up
from jax_bridges.config import base_config

VARIANTS = {
    "imagenet256_qf5": partial(papers.i2sb_jpeg, quality=5, updates=2000),
    "imagenet256_qf10": partial(papers.i2sb_jpeg, quality=10, updates=3000),
}


def get_config(variant: str = ""):
    """Variants: "" (quality 10, 32x32 pieces of the Earth, minutes on a laptop), VARIANTS."""
    config = base_config()
    config.task = "jpeg"
    config.data.rotate = True  # views from above
    config.corruption = {"name": "jpeg", "quality": 10}
    if variant:
        look_up("variant of configs/jpeg.py", VARIANTS, variant)(config)
        config.task = f"jpeg_{variant}"
    return config
