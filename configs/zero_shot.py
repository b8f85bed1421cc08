"""One diffusion prior, any linear corruption: `--config=configs/zero_shot.py`.

Trains a small unconditional model of 32x32 pieces of the Earth and restores six corruptions it has
never seen by every method of `jax_bridges.zero_shot`; minutes on a laptop. The variant "edm" trains
with EDM's noise levels instead of DDPM's.

"adm256" and "adm256_cond" take OpenAI's networks for ImageNet at 256 x 256 (the latter is told the
class) with their learned variance, as imported by

    python -m jax_bridges.import_torch 256x256_diffusion_uncond.pt --as=adm --out-channels=6 priors/adm

and given as `--config.teacher.checkpoint=priors/adm --config.data.path=FOLDER` (train/ and val/).
"""

from jax_bridges.choices import look_up
from jax_bridges.config import base_config
from jax_bridges.models.adm import ADM_PRESETS

# Our tasks -> those of report/published.csv, whose numbers then stand beside ours.
PUBLISHED = {
    "sr4": "sr4x", "inpaint": "inpaint", "deblur": "deblur", "colour": "colorization", "cs25": "cs-25",
}  # fmt: skip


def _edm(config):
    config.bridge = {"name": "edm"}
    config.train.times = "edm_lognormal"


def _adm256(config, preset="adm256_uncond"):
    defaults = {"conditional": False, "num_classes": 0, "dropout": 0.0, "dtype": "float32"}
    config.network = {"name": "adm", **defaults, **ADM_PRESETS[preset]}
    config.preconditioning = {"name": "epsilon"}
    config.data.name, config.data.size, config.data.rotate = "folder", 256, False
    config.teacher.checkpoint = "priors/adm"
    config.evaluate.images, config.evaluate.batch, config.evaluate.protocol = 1000, 4, "ddnm"
    config.zero_shot.tasks.deblur.operator = {"name": "blur", "truncated": True}
    for name, published in PUBLISHED.items():
        config.zero_shot.tasks[name].published = published
    config.zero_shot.nfe = 100  # as published, as are the next five
    config.zero_shot.settings.ddnm = config.zero_shot.settings.ddnm_plus = {"eta": 0.85}
    config.zero_shot.settings.repaint = {"nfe": 250, "travel": (10, 10)}
    config.zero_shot.settings.dps = {"nfe": 1000, "scale": 0.3}
    config.zero_shot.settings.daps = {"nfe": 200}
    # Its gradient goes through several calls of the network at once, more than a device holds.
    config.zero_shot.methods = tuple(m for m in config.zero_shot.methods if m != "latent_search")


def _adm256_cond(config):
    _adm256(config, "adm256_cond")
    config.data.classes = "subfolders"


VARIANTS = {"edm": _edm, "adm256": _adm256, "adm256_cond": _adm256_cond}


def get_config(variant: str = ""):
    """Variants: "" (DDPM's noise levels) and those of VARIANTS."""
    config = base_config()
    config.task = "zero_shot"
    config.data.rotate = True  # views from above
    config.corruption = {"name": "identity"}  # the prior sees clean images alone
    config.keep_known = False
    config.bridge = {"name": "ddpm"}
    # Asked for x_0 or the noise itself ("unit_variance", "epsilon") the small network is far from done
    # after as many steps as "wiener" needs (results/README.md).
    config.preconditioning = {"name": "wiener"}
    config.network.conditional = False
    config.train.steps = 2400
    config.train.times, config.train.weight = "towards_clean", "native"
    config.train.optimizer.learning_rate = 1.5e-3
    config.evaluate.images = 128
    config.evaluate.metrics = ("psnr", "ssim", "fd_lite0", "cons")
    config.zero_shot.nfe = 20
    config.zero_shot.methods = (*config.zero_shot.methods, "diffpir", "daps", "latent_search")
    # As published, with eta = 0.85, a sample keeps more noise of its own and PSNR is lower.
    config.zero_shot.settings.ddnm = {"eta": 1.0}
    config.zero_shot.settings.ddnm_plus = {"eta": 1.0}
    config.zero_shot.tasks = {
        "sr4": {"operator": {"name": "superres", "kind": "pool", "factor": 4}, "sigma_y": 0.0},
        "inpaint": {"operator": {"name": "inpaint_center", "fill": "zero"}, "sigma_y": 0.0},
        # EMDiffusion's kernel: of DDNM's box of 5 taps A^+ y alone restores all but 2% of the energy
        "deblur": {
            "operator": {"name": "blur", "taps": 9, "std": 2.0, "truncated": True}, "sigma_y": 0.0,
        },
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
