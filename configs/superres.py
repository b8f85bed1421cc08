"""Enlarge an image 4 times: `--config=configs/superres.py`.

The variant rsd has RSD's distillation, on ResShift's bridge. The variants imagenet256_* are rows of IBMD's
Table 7, with I2SB's teacher: ImageNet at 256 x 256, to be given as `--config.data.path=FOLDER` with train/
and val/. What is published of them, and what is not: jax_bridges/papers.py.
"""

from functools import partial

from jax_bridges import papers
from jax_bridges.choices import look_up
from jax_bridges.config import base_config

VARIANTS = {
    "pool": lambda config: config.corruption.update(kind="pool"),
    "rsd": papers.rsd,
    "imagenet256_bicubic": partial(papers.i2sb_superres, kind="bicubic"),
    "imagenet256_pool": partial(papers.i2sb_superres, kind="pool"),
}


def get_config(variant: str = ""):
    """Variants: "" (bicubic, 32x32 pieces of the Earth, minutes on a laptop), VARIANTS."""
    config = base_config()
    config.task = "superres"
    config.data.rotate = True  # views from above
    config.corruption = {"name": "superres", "kind": "bicubic", "factor": 4}
    if variant in ("", "pool"):
        # The first call makes all the detail, and learns it sooner of louder noise (results/distilling.md).
        config.distill.steps, config.distill.first_call = 600, 0.6
        config.distill.z_scale, config.distill.z_fade = 16.0, 2.0
        config.distill.temperature = 0.85
    if variant:
        look_up("variant of configs/superres.py", VARIANTS, variant)(config)
        config.task = f"superres_{variant}"
    return config
