"""One diffusion prior, any linear corruption: `--config=configs/zero_shot.py`.

Trains a small unconditional model of 32x32 pieces of the Earth and restores six corruptions it has
never seen by every method of `jax_bridges.zero_shot`; minutes on a laptop. The variant "edm" trains
with EDM's noise levels instead of DDPM's.
"""

from jax_bridges.choices import look_up
from jax_bridges.config import base_config


def _edm(config):
    config.bridge = {"name": "edm"}
    config.preconditioning = {"name": "bridge_karras"}
    config.train.times = "edm_lognormal"


VARIANTS = {"edm": _edm}


def get_config(variant: str = ""):
    """Variants: "" (DDPM's noise levels) and those of VARIANTS."""
    config = base_config()
    config.task = "zero_shot"
    config.data.rotate = True  # views from above
    config.corruption = {"name": "identity"}  # the prior sees clean images alone
    config.keep_known = False
    config.bridge = {"name": "ddpm"}
    config.preconditioning = {"name": "unit_variance"}
    config.network.conditional = False
    config.train.steps = 2400
    config.train.weight = "native"
    config.train.optimizer.learning_rate = 1.5e-3
    config.evaluate.images = 128
    config.zero_shot.tasks = {
        "sr4": {"operator": {"name": "superres", "kind": "pool", "factor": 4}, "sigma_y": 0.0},
        "inpaint": {"operator": {"name": "inpaint_center", "fill": "zero"}, "sigma_y": 0.0},
        "deblur": {"operator": {"name": "blur", "truncated": True}, "sigma_y": 0.0},
        "colour": {"operator": {"name": "colorize"}, "sigma_y": 0.0},
        "cs25": {"operator": {"name": "walsh_hadamard", "ratio": 0.25}, "sigma_y": 0.0},
        # 0.1 of images in [0, 1] is 0.2 of images in [-1, 1]
        "sr4_noisy": {
            "operator": {"name": "superres", "kind": "pool", "factor": 4}, "sigma_y": 0.2,
        },
    }  # fmt: skip
    if variant:
        look_up("variant of configs/zero_shot.py", VARIANTS, variant)(config)
        config.task = f"zero_shot_{variant}"
    return config
