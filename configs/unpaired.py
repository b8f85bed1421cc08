"""Satellite views from relief maps without a single pair: `--config=configs/unpaired.py`.

A Schroedinger bridge by DSBM (arXiv 2303.16852) between two sets of images that do not belong together.
The relief and the satellite view of a training example come from different places; the test pairs do
belong together, so that the report shows how much of the place the bridge keeps.
"""

from jax_bridges.choices import look_up
from jax_bridges.config import base_config


def _dsbm(config) -> None:
    config.bridge = {"name": "brownian", "epsilon": 0.5}
    config.preconditioning = {"name": "i2sb"}
    config.train.mode = "dsbm"
    config.train.rounds = 3  # to x_0, to x_T, to x_0
    config.train.simulation_steps = 8
    config.evaluate.sampler = "sde_euler"  # as in training


def _rectified(config) -> None:
    config.bridge = {"name": "brownian", "deterministic": True, "t_min": 1e-3}
    config.preconditioning = {"name": "velocity"}


def _reflow(config) -> None:
    _rectified(config)
    config.train.mode = "reflow"
    config.teacher.init = "runs/unpaired_rectified"  # the first round


VARIANTS = {"rectified": _rectified, "reflow": _reflow}


def get_config(variant: str = ""):
    """Variants: "" (DSBM), "rectified" (rectified flow) and "reflow" (its second round)."""
    config = base_config()
    config.task = "unpaired"
    config.data.name = "earth_relief"
    config.data.unpaired = True
    config.data.rotate = False  # relief is shaded as if lit from the north-west
    config.data.flip = False
    config.corruption = {"name": "paired"}
    config.network.conditional = False
    config.train.weight = "native"
    if variant:
        look_up("variant of configs/unpaired.py", VARIANTS, variant)(config)
        config.task = f"unpaired_{variant}"
    else:
        _dsbm(config)
    return config
