"""Fill the centre of an image: `--config=configs/inpaint.py`.

`--config=configs/inpaint.py:long` trains for a quarter of an hour instead of five minutes. The other
variants are rows of IBMD's Table 7, with the teachers of I2SB and DBIM: ImageNet at 256 x 256, to be given
as `--config.data.path=FOLDER` with train/ and val/. Published and inferred settings: jax_bridges/papers.py.
"""

from jax_bridges import papers
from jax_bridges.choices import look_up
from jax_bridges.config import base_config


def _settled(config):
    # Else a student drifts at its later calls unseen by the bridge net, and with it a rate is borne at which
    # the first call learns its texture (results/distilling.md).
    config.distill.inner_weight = 0.85
    config.distill.optimizer.learning_rate = 2.5e-4


def _long(config):
    _settled(config)
    config.train.steps, config.distill.steps = 6000, 600


VARIANTS = {
    "long": _long,
    "imagenet256_i2sb": papers.i2sb_inpaint,
    "imagenet256_ddbm": papers.dbim_inpaint,
}


def get_config(variant: str = ""):
    """Variants: "" (32x32 pieces of the Earth, minutes on a laptop), and those of VARIANTS."""
    config = base_config()
    config.task = "inpaint"
    config.data.rotate = True  # views from above
    if not variant:
        _settled(config)
        # z's full spread is too much after so short a training (results/distilling.md).
        config.distill.temperature = 0.5
    else:
        look_up("variant of configs/inpaint.py", VARIANTS, variant)(config)
        config.task = f"inpaint_{variant}"
    return config
