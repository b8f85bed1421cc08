"""The papers' experiments: what the rows of IBMD's Table 7 and their teachers share.

A function here turns a base configuration into one row; the files of configs/ hand them out as
variants.

Published, here, is what a paper or its official code states; inferred is what nobody states and had
to be chosen. Of IBMD (arXiv 2502.01362) are published: task, data, teacher, calls N, ratio L,
learning rate, updates K, whether there is z (Table 7), batch 256, EMA 0.99, the start from the
teacher, and how x_0 is generated with several calls (app. B). Inferred, for every row:

- lambda(t) is the teacher's own and the loss is not normalised: Algorithm 1 as printed;
- the optimiser is the teacher's (AdamW after I2SB, RAdam after DDBM and DBIM), for both players,
  with its own momenta, at a constant rate and without clipping;
- times are drawn as in the teacher's training; no dropout; mirror images as in its training;
- the student's N times are evenly spaced; only the last of a chain's calls has a gradient;
- precision is that of the teacher's training, with bfloat16 where that had float16;
- `microbatches` and `remat` change memory and time, not the result: set them for your machine.

Images are resized by this library's filter, bicubic with antialiasing (I2SB's is bilinear).
"""

from __future__ import annotations

from ml_collections import ConfigDict

from jax_bridges.models.adm import ADM_PRESETS


# -- the rows of Table 7 -------------------------------------------------------------------------
def i2sb_superres(config: ConfigDict, kind: str) -> None:
    """4x super-resolution, `kind` "bicubic" or "pool": I2SB teacher, one call, K = 3000."""
    i2sb_teacher(config, beta_max=0.3)
    config.corruption = {"name": "superres", "kind": kind, "factor": 4}
    config.evaluate.images = 50_000  # I2SB's protocol: the whole validation set
    config.evaluate.published = f"sr4x-{kind}"
    ibmd(config, calls=1, updates=3000, learning_rate=5e-5)


def i2sb_jpeg(config: ConfigDict, quality: int, updates: int) -> None:
    """JPEG of quality 5 (K = 2000) or 10 (K = 3000): I2SB teacher, one call."""
    i2sb_teacher(config, beta_max=0.3)
    config.corruption = {"name": "jpeg", "quality": quality}
    config.evaluate.published = f"jpeg-{quality}"
    ibmd(config, calls=1, updates=updates, learning_rate=5e-5)


def i2sb_inpaint(config: ConfigDict) -> None:
    """The centre 128 x 128 of 256 x 256: I2SB teacher, four calls, K = 2000, no z.

    x_T holds noise in the hole, which is all the randomness there is: the bridge is I2SB's OT-ODE.
    Known pixels are copied from x_T and the losses count the hole alone (I2SB's code, IBMD B.1).
    """
    i2sb_teacher(config, beta_max=1.0, deterministic=True)
    config.corruption = {"name": "inpaint_center", "fill": "noise"}
    config.evaluate.published = "inpaint-center-128"
    config.keep_known = True
    ibmd(config, calls=4, updates=2000, learning_rate=5e-5, roll_out="chain", noise=False)


def dbim_inpaint(config: ConfigDict) -> None:
    """The centre 128 x 128 of 256 x 256: DBIM's teacher, four calls, L = 1, rate 3e-6, K = 3000.

    x_T holds zeros in the hole, and the networks see x_T and the class, by the sub-folder of the
    image: train/WNID/ and val/WNID/ (for a part of ImageNet, data.classes must be a file with all
    1000 WNIDs). Known pixels are put back after every call (DBIM sec. 4); the losses then count
    the hole alone, as IBMD's do here, while DBIM trained its teacher on all pixels.
    """
    dbim_teacher(config)
    config.corruption = {"name": "inpaint_center", "fill": "zero"}
    config.evaluate.published = "inpaint-center-128"
    config.keep_known = True
    config.data.classes = "subfolders"  # sorted WNIDs are ADM's order
    ibmd(config, calls=4, updates=3000, learning_rate=3e-6, bridge_updates=1, roll_out="random")


def ddbm_handbags(config: ConfigDict, calls: int, updates: int) -> None:
    """Edges -> handbags at 64 x 64: DDBM teacher (VP), rate 1e-5; K = 300 (two calls), 14000 (one).

    The papers measure on the training pairs; `evaluate` measures on the set's 200 others.
    """
    ddbm_teacher(config, "ddbm_e2h64", steps=420_000, batch=192)
    config.data.name = "edges2handbags"
    config.evaluate.published = "edges2handbags"
    config.data.size = 64
    ibmd(config, calls=calls, updates=updates, learning_rate=1e-5, roll_out="random")


def ddbm_diode(config: ConfigDict, calls: int, updates: int) -> None:
    """DIODE outdoor, normals -> photographs at 256 x 256: DDBM teacher (VP), rate 1e-5.

    K = 500 with two calls, 3700 with one.
    The papers measure on the training pairs; `evaluate` measures on the validation pairs.
    """
    ddbm_teacher(config, "ddbm_diode256", steps=440_000, batch=16)
    config.data.name = "diode_normals"
    config.evaluate.published = "normals-to-image"
    config.data.size = 256
    ibmd(config, calls=calls, updates=updates, learning_rate=1e-5, roll_out="random")


# -- teachers ------------------------------------------------------------------------------------
def i2sb_teacher(config: ConfigDict, beta_max: float, deterministic: bool = False) -> None:
    """I2SB on ImageNet 256 (arXiv 2302.05872 and its code's defaults), float32.

    Published: all but `steps`, of which the code only gives the upper limit. 32 images are in work
    at once, as on their 16 devices. Official training starts from ADM's unconditional network.
    """
    _imagenet(config)
    config.bridge = {"name": "i2sb", "beta_max": beta_max, "deterministic": deterministic}
    config.preconditioning = {"name": "i2sb"}
    _network(config, "i2sb256", dtype="float32")
    _train(config, steps=1_000_000, batch=256, microbatches=8, ema=0.99)
    _optimizer(config.train, name="adamw", learning_rate=5e-5, schedule="i2sb")
    config.evaluate.protocol = "i2sb"
    config.evaluate.sampler = "ancestral"
    config.evaluate.teacher_nfe = (1, 10, 100, 999)


def dbim_teacher(config: ConfigDict) -> None:
    """DBIM's ImageNet 256 inpainting (arXiv 2405.15885 and its scripts), class-conditional.

    Published: all but bfloat16, where they had float16, and the warm-up of the average. Official
    training starts from ADM's class-conditional network with its input convolution doubled.
    """
    _imagenet(config)
    config.bridge = {"name": "i2sb_ddbm", "beta_max": 1.0}
    config.preconditioning = {"name": "i2sb"}
    _network(config, "dbim_inpaint256", dtype="bfloat16")
    _train(config, steps=400_000, batch=256, microbatches=8, ema=0.9999)
    config.evaluate.protocol = "dbim"
    _radam(config)


def ddbm_teacher(config: ConfigDict, preset: str, steps: int, batch: int) -> None:
    """DDBM's image translation (arXiv 2309.16948 and its scripts), VP bridge, dropout 0.1.

    Published: all but bfloat16, where they had float16, the warm-up of the average, and how many
    processes of `batch` images there were: one here.
    """
    config.corruption = {"name": "paired"}
    config.data.flip = True
    config.data.rotate = False
    config.bridge = {"name": "vp", "beta_d": 2.0, "beta_min": 0.1}
    config.preconditioning = {"name": "bridge_karras"}
    _network(config, preset, dtype="bfloat16")
    _train(config, steps=steps, batch=batch, microbatches=1, ema=0.9999)
    config.evaluate.protocol = "ddbm"
    _radam(config)


def _radam(config: ConfigDict) -> None:
    _optimizer(config.train, name="radam", learning_rate=1e-4, schedule="constant")
    config.evaluate.sampler = "dbim"
    config.evaluate.teacher_nfe = (10, 50, 100)


# -- distillation --------------------------------------------------------------------------------
def ibmd(
    config: ConfigDict,
    *,
    calls: int,
    updates: int,
    learning_rate: float,
    bridge_updates: int = 5,
    roll_out: str = "chain",
    noise: bool = True,
) -> None:
    """IBMD of the teacher that `config` already describes.

    Args:
      calls: N, the student's calls (NFE).
      updates: K, of the generator.
      learning_rate: of both players; Table 7 lists one.
      bridge_updates: L for each of them.
      roll_out: "chain" after I2SB teachers (app. B.1), "random" after DDBM's (app. B.2).
      noise: whether the generator takes z.
    """
    distill, teacher = config.distill, config.train
    distill.steps = updates
    distill.batch = 256
    distill.microbatches = 16 if config.data.size == 256 else 1
    distill.bridge_updates = bridge_updates
    distill.student_steps = calls
    distill.roll_out = roll_out
    distill.first_call = 1.0 / calls  # t_n uniform (app. B.2)
    distill.first_time = 1.0
    distill.bridge_net_sees_call = False  # one bridge net for all calls
    distill.z_channels = 3 if noise else 0
    distill.z_scale = 1.0
    distill.times = teacher.times
    distill.weight = distill.bridge_weight = "native"
    distill.weight_max = distill.bridge_weight_max = 0.0
    distill.normalize = False
    distill.ema = 0.99
    distill.bridge_ema = 0.0
    for optimizer in ("optimizer", "bridge_optimizer"):
        name = teacher.optimizer.name
        _optimizer(distill, optimizer, name=name, learning_rate=learning_rate, schedule="constant")
    config.evaluate.student_nfe = tuple(n for n in (1, 2, 4) if n <= calls)
    # An update takes most of a minute on eight A100 (Table 9).
    config.log_every = 10
    config.checkpoint_every = min(500, updates // 5)


# -- parts ---------------------------------------------------------------------------------------
def _imagenet(config: ConfigDict) -> None:
    """ImageNet at 256 x 256: a folder with train/ and val/, mirrored; 10 000 of val/ measured."""
    config.data.name = "folder"
    config.data.size = 256
    config.data.max_upscale = 64.0  # the set has images of a few pixels
    config.data.flip = True
    config.data.rotate = False
    config.evaluate.images = 10_000


def _network(config: ConfigDict, preset: str, dtype: str) -> None:
    defaults = {"name": "adm", "conditional": False, "num_classes": 0, "dropout": 0.0}
    config.network = {**defaults, "remat": False, **ADM_PRESETS[preset], "dtype": dtype}


def _train(config: ConfigDict, *, steps: int, batch: int, microbatches: int, ema: float) -> None:
    """What all three have in common: times uniform, the loss in units of the network's output."""
    config.train.update(
        steps=steps, batch=batch, microbatches=microbatches, ema=ema,
        times="uniform", weight="native", weight_max=0.0,
    )  # fmt: skip


def _optimizer(stage: ConfigDict, key: str = "optimizer", **settings) -> None:
    """The official code's: PyTorch's momenta, no warm-up, no decay, no clipping, and `settings`."""
    common = dict(delay=0.0, warmup=0, b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.0, clip=0.0)
    stage[key].update(common, **settings)
