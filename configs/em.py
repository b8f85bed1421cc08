"""A prior learnt from masked images alone: `--config=configs/em.py`.

32x32 pieces of the Earth of which 60% of the pixels are missing at random, with noise .02. Ten clean
ones make the first prior (fifty are all but enough: docs/em.md); then rounds of sampling what is missing
(E-step) and of training on the samples (M-step). The report shows what the rounds learn, beside the same
network trained on clean images. What the run leaves behind is an ordinary prior, for `restore`, zero_shot
and compare.prior.

Variants: "table" (beside Ambient Diffusion and a prior of A^+ y, of as long a training; it goes on with a
run of the first, in the same --workdir), "denoise" (noise
.4 and nothing missing, beside SURE-Score and Ambient-Tweedie), "deblur" (EMDiffusion's
kernel), "gaussian" (no clean image at all), "dps" (EMDiffusion's own E-step, its scale chosen each round),
"bridge" (DiffEM: a network that is told the masked image samples it, without gradients), "cifar10"
(EMDiffusion's sizes and schedule, for accelerators).
"""

from jax_bridges.choices import look_up
from jax_bridges.config import base_config


def _denoise(config):
    config.em.operator, config.em.sigma_y = {"name": "identity"}, 0.4
    config.em.learn_from = "samples"
    config.em.baselines = ("upper", "pinv", "tweedie", "sure")
    config.evaluate.published = "em-denoise"


def _deblur(config):
    config.em.operator = {"name": "blur", "taps": 9, "std": 2.0, "truncated": True}
    config.em.sigma_y, config.em.learn_from = 0.02, "samples"
    config.evaluate.published = "em-deblur"


def _gaussian(config):
    config.em.init = "gaussian"


def _dps(config):
    config.em.method = "dps"


def _bridge(config):
    config.em.method = "bridge"


def _cifar10(config):
    config.data.name, config.data.flip, config.data.rotate = "tfds:cifar10", True, False
    config.network = {
        "name": "adm", "model_channels": 128, "channel_mult": (1, 2, 2, 2), "num_res_blocks": 2,
        "attention_ds": (2,), "conditional": False, "dropout": 0.1, "dtype": "float32",
    }  # fmt: skip
    config.bridge, config.preconditioning = {"name": "ddpm"}, {"name": "epsilon"}
    config.train.batch, config.train.ema = 512, 0.999
    config.train.steps = 1000 * 5000 // 512  # 1000 epochs of a round of phase 1
    config.train.times, config.train.weight = "uniform", "native"
    config.train.optimizer.update(
        {"name": "adamw", "learning_rate": 2e-4, "schedule": "constant", "weight_decay": 1e-2}
    )
    config.em.method, config.em.sigma_y, config.em.learn_from = "dps", 0.0, "samples"
    config.em.settings.dps.nfe = 1000
    config.em.scale_grid = (1.0, 3.0, 7.0, 10.0, 20.0)
    config.em.rounds, config.em.reset_rounds, config.em.observations = 11, 3, 5000
    config.em.clean = 50
    config.evaluate.images, config.evaluate.batch = 250, 250
    # The paper's other two, lpips and fid, need files of weights.
    config.evaluate.metrics = ("psnr", "ssim", "fd_lite0")
    config.em.baselines, config.em.baseline_steps = (), 0


def _table(config):
    config.em.baselines = ("upper", "pinv", "ambient")
    config.task = "em"  # a run of the first variant may go on as this one


VARIANTS = {
    "denoise": _denoise, "deblur": _deblur, "gaussian": _gaussian, "dps": _dps, "bridge": _bridge,
    "cifar10": _cifar10, "table": _table,
}  # fmt: skip


def get_config(variant: str = ""):
    """Variants: "" and those of VARIANTS."""
    config = base_config()
    config.task = "em"
    config.data.rotate = True  # views from above
    config.corruption = {
        "name": "identity"
    }  # of what the prior is trained on: the E-step's samples
    config.keep_known = False
    # EDM's levels, scalings and law of times. Not "wiener": its spectrum is that of clean pieces of the
    # Earth, which nobody has here; and with a law that is denser at no noise the network stays where it is.
    config.bridge = {"name": "edm"}
    config.preconditioning = {"name": "bridge_karras"}
    config.network.conditional = False
    config.train.steps = 1200  # a round
    config.train.times, config.train.weight = "edm_lognormal", "native"
    config.train.optimizer.learning_rate = 2e-3
    config.em.operator, config.em.sigma_y = {"name": "inpaint_random", "share": 0.6}, 0.02
    config.em.learn_from = "measured"  # what a prior made up is no target of the next (docs/em.md)
    config.em.clean = 10
    config.em.reset_rounds = 0  # an E-step of all observations would take most of the time
    config.em.baselines = ("upper",)
    # About as long as the rounds take, E-steps and the first prior included.
    config.em.baseline_steps = 8000
    config.em.ambient.scale = 3.0  # of .5, 1, 2, 3 and 5 the best PSNR on validation tiles
    config.evaluate.images, config.evaluate.batch = 128, 64
    config.evaluate.metrics = ("psnr", "ssim", "fd_lite0")
    config.evaluate.pictures = 8
    config.evaluate.published = "em-inpaint-random-60"
    if variant:
        config.task = f"em_{variant}"
        look_up("variant of configs/em.py", VARIANTS, variant)(config)
    return config
