"""Restore photographs at their own size: `--config=configs/photos.py:TASK --config.data.path=FOLDER`.

TASK is inpaint, jpeg, denoise or superres. FOLDER holds photographs of any size, of which 64x64 pieces are
cut in their own pixels. The bridge starts where a classical method ends, and the untrained network answers
with just that. `benchmarks/gpu_photos.sh` trains a teacher and its student on one GPU in minutes.
"""

from jax_bridges.choices import look_up
from jax_bridges.config import base_config


def _inpaint(config):
    config.corruption = {"name": "inpaint_holes", "fill": "smooth"}
    config.network.sees_mask = True
    config.train.hole_mean = config.distill.hole_mean = True


def _file(config):
    """All of a picture is restored, so the network must be fast: one core trains it in half an hour."""
    # 1.2M parameters, 2.5 MB in float16.
    config.network.update(patch=2, widths=(48, 64, 96))
    config.train.batch, config.train.steps = 16, 4000
    config.train.optimizer.learning_rate = 2e-3
    # The answer of one call, at t = T, is what is shipped.
    config.train.times = "half_at_source"
    config.preconditioning.centred = True
    config.train.ema = 0.998  # of a rate that falls to 0


def _jpeg(config):
    _file(config)
    # Above 75 there is little to undo, and a model that has not seen such files would harm them.
    config.corruption = {"name": "photo_file", "quality": (5, 95)}
    # What is lost, in units of what is seen: of training crops, so that the loss begins at 1.
    config.preconditioning.update(scale=0.8, floor=0.03)
    config.data.crop_scale = 0.5  # shrunk, photographs lose what their own compression left


def _denoise(config):
    _file(config)
    noise = {"noise": (0.02, 0.45), "written": 0.5, "quality": (30, 95)}
    config.corruption = {"name": "photo_file", **noise}
    config.preconditioning.update(scale=0.7, floor=0.02)
    config.data.crop_scale = 0.5


def _superres(config):
    _file(config)
    files = {"factors": (2, 4), "written": 0.5, "quality": (50, 95)}
    config.corruption = {"name": "photo_file", **files}
    config.preconditioning.update(scale=1.6, floor=0.02)


VARIANTS = {"inpaint": _inpaint, "jpeg": _jpeg, "denoise": _denoise, "superres": _superres}


def get_config(variant: str = ""):
    """Variants: those of VARIANTS; "" is inpaint."""
    variant = variant or "inpaint"
    config = base_config()
    task = look_up("variant of configs/photos.py", VARIANTS, variant)
    config.task = f"photos_{variant}"
    config.data.name, config.data.size = "folder", 64
    config.data.crop, config.data.crops, config.data.cache_mb = "random", 256, 2048
    config.data.on_bad_file = "skip"
    # All of the first level's layers see the image's own pixels. 1.9M parameters: 3.8 MB in float16.
    config.network.update(patch=1, widths=(32, 64, 96, 112), blocks=1, groups=8)
    # Its noise is about what there is to add: with much more, x_t would say nothing of x_0 but at its end.
    config.bridge = {"name": "brownian", "epsilon": 0.15}
    config.preconditioning = {"name": "residual"}
    config.keep_known = variant == "inpaint"
    # Shrinking takes away what JPEG has left in the photographs themselves.
    config.data.crop_scale = 1.0 if variant == "inpaint" else 0.5
    config.train.batch, config.train.steps = 64, 20_000
    # In units of the network's output: calm images count as much as busy ones.
    config.train.weight = "native"
    config.train.ema = 0.999
    config.train.optimizer.warmup = 200
    config.distill.student_steps = 1
    config.distill.batch, config.distill.steps = 16, 450
    config.distill.bridge_weight = "native"
    # With so little noise x_t hides what is wrong of an image as a whole only near T: under uniform times
    # students drift to white (results/distilling.md).
    config.distill.update(times="even_levels", clamp=True, inner_weight=0.85)
    config.distill.optimizer.learning_rate, config.distill.optimizer.delay = 1e-4, 0.05
    config.evaluate.teacher_nfe, config.evaluate.student_nfe = (1, 10), (1,)
    config.evaluate.metrics = ("psnr", "ssim", "fd_lite0")
    task(config)
    return config
