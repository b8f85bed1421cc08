"""The papers' experiments: what the rows of IBMD's Table 7 and their teachers share.

A function here turns a base configuration into one row; the files of configs/ hand them out as
variants.

Of IBMD (arXiv 2502.01362) there are the paper, of which Table 7 gives task, data, teacher, calls N, ratio
L, learning rate, updates K and whether there is z, and its released code (ngushchin/IBMD, January 2026).
A row has Table 7's numbers and the code's ways; where these contradict the paper its docstring says so.
All have in common, by the code: batch 256, the average of decay 0.99 without a warm-up is sampled from,
the generator's loss sees the bridge net itself, losses are not normalised, gradients not clipped, the
teacher is its average there and back (the code's backward pass of I2SB's inpainting sees raw weights: a
slip). Three things are this library's own, in all rows:

- microbatches and `remat` change memory and time, not the result, but for the calls of DDBM's rows, of
  which each microbatch draws one: set them for your machine;
- precision is that of the teacher's training, with bfloat16 where that had float16 (IBMD: float32);
- images are resized by this library's filter, bicubic with antialiasing (I2SB's is bilinear), and mirrored
  (DDBM's code crops at random besides).

Of teachers, published is what a paper or its official code states; what nobody states is said.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from jax_bridges.models.adm import ADM_PRESETS


# -- the rows of Table 7 -------------------------------------------------------------------------
def i2sb_superres(config: ConfigDict, kind: str) -> None:
    """4x super-resolution, `kind` "bicubic" or "pool": I2SB teacher, one call, K = 3000; see `ibmd_i2sb`."""
    i2sb_teacher(config, beta_max=0.3)
    config.corruption = {"name": "superres", "kind": kind, "factor": 4}
    config.evaluate.images = 50_000  # I2SB's protocol: the whole validation set
    config.evaluate.published = f"sr4x-{kind}"
    ibmd_i2sb(config, updates=3000)


def i2sb_jpeg(config: ConfigDict, quality: int, updates: int) -> None:
    """JPEG of quality 5 (K = 2000) or 10 (K = 3000): I2SB teacher, one call; see `ibmd_i2sb`.

    (The code's README trains all but inpainting on JPEG of quality 5: a slip.)
    """
    i2sb_teacher(config, beta_max=0.3)
    config.corruption = {"name": "jpeg", "quality": quality}
    config.evaluate.published = f"jpeg-{quality}"
    ibmd_i2sb(config, updates=updates)


def i2sb_inpaint(config: ConfigDict) -> None:
    """The centre 128 x 128 of 256 x 256: I2SB teacher, four calls, K = 2000, no z.

    x_T holds noise in the hole, which is all the randomness there is: the bridge is I2SB's OT-ODE.
    Known pixels are copied from x_T and the losses count the hole alone (I2SB's code, IBMD B.1).

    Not as in the paper, whose app. B.1 takes x_0 from the whole chain and x_t from the bridge: by the
    code x_0 is the answer of one call, at one of four times and a point of the bridge to what the
    averaged generator's chain leads to from another noise in the hole; x_t lies between x_0 and that
    point, and is attached; the generator's loss has the weight 10^(2 (1 - t)), the bridge net's 1. Both
    start from raw weights.
    """
    i2sb_teacher(config, beta_max=1.0, deterministic=True)
    config.corruption = {"name": "inpaint_center", "fill": "noise"}
    config.evaluate.published = "inpaint-center-128"
    config.keep_known = True
    ibmd_i2sb(config, updates=2000)
    distill = config.distill
    distill.update(
        student_steps=4, first_call=1 / 4, roll_out="renoised", chain_ema=True, xt_from="call",
        detach_xt=False, weight_tilt=2.0, z_channels=0, start="raw",
    )  # fmt: skip
    config.evaluate.student_nfe = (1, 2, 4)


def dbim_inpaint(config: ConfigDict) -> None:
    """The centre 128 x 128 of 256 x 256: DBIM's teacher, four calls, L = 1, rate 3e-6, K = 3000.

    x_T holds zeros in the hole, and the networks see x_T and the class, by the sub-folder of the image:
    train/WNID/ and val/WNID/ (for a part of ImageNet, data.classes must be a file with all 1000 WNIDs).
    Known pixels are put back after every call (DBIM sec. 4); the losses then count the hole alone, as
    IBMD's do here, while DBIM trained its teacher on all pixels. See `ibmd_ddbm`, whose tilt here goes by
    the table's entries, within a five hundredth of the code's.
    """
    dbim_teacher(config)
    config.corruption = {"name": "inpaint_center", "fill": "zero"}
    config.evaluate.published = "inpaint-center-128"
    config.keep_known = True
    config.data.classes = "subfolders"  # sorted WNIDs are ADM's order
    ibmd_ddbm(config, calls=4, updates=3000, learning_rate=3e-6, bridge_updates=1)


def ddbm_handbags(config: ConfigDict, calls: int, updates: int) -> None:
    """Edges -> handbags at 64 x 64: DDBM teacher (VP), rate 1e-5; K = 300 (two calls), 14000 (one).

    See `ibmd_ddbm`.
    The papers measure on the training pairs; `evaluate` measures on the set's 200 others.
    """
    ddbm_teacher(config, "ddbm_e2h64", steps=420_000, batch=192)
    config.data.name = "edges2handbags"
    config.evaluate.published = "edges2handbags"
    config.data.size = 64
    ibmd_ddbm(config, calls=calls, updates=updates, learning_rate=1e-5)


def ddbm_diode(config: ConfigDict, calls: int, updates: int) -> None:
    """DIODE outdoor, normals -> photographs at 256 x 256: DDBM teacher (VP), rate 1e-5.

    K = 500 with two calls, 3700 with one.
    The papers measure on the training pairs; `evaluate` measures on the validation pairs.
    """
    ddbm_teacher(config, "ddbm_diode256", steps=440_000, batch=16)
    config.data.name = "diode_normals"
    config.evaluate.published = "normals-to-image"
    config.data.size = 256
    ibmd_ddbm(config, calls=calls, updates=updates, learning_rate=1e-5)


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
def ibmd_i2sb(config: ConfigDict, *, updates: int) -> None:
    """IBMD of an I2SB teacher that `config` already describes: one call, K = `updates`, rate 5e-5, L = 5.

    By the code, where the paper does not say: lambda is 1 for both players; AdamW whose rate falls by 1%
    every 1000 updates; the generator starts from the teacher's average, the bridge net from its raw
    weights; z has three channels, anew at each call; answers are the sampler's state at index 0. It adds
    up the losses of 32 microbatches of two images, ours are averaged: AdamW then is the same with a 32nd
    of its eps.

    Not as in the paper: x_t is detached, which Alg. 1 and the Limitations say it is not (attached:
    `distill.detach_xt=False`). Not as in the code: t is drawn from all 1000 entries, not from the
    first 999.
    """
    _ibmd(config, calls=1, updates=updates, learning_rate=5e-5, schedule="i2sb", eps=1e-8 / 32)
    config.distill.update(
        weight="one", bridge_weight="one", detach_xt=True, ancestral=True, bridge_start="raw"
    )


def ibmd_ddbm(
    config: ConfigDict, *, calls: int, updates: int, learning_rate: float, bridge_updates: int = 5
) -> None:
    """IBMD of a DDBM teacher that `config` already describes (app. B.2).

    By the code, where the paper does not say: lambda is the teacher's 1 / c_out^2 for both players, and
    the generator's is multiplied by 10^(1 - t); RAdam at a constant rate; all start from the teacher's
    average; the trained call is drawn for a microbatch at a time; z has one channel, one for all calls of
    a chain; generator and bridge net have the network's dropout (handbags and DIODE: 0.1), each in its
    own updates. x_t is attached, as in the paper. The one script of the code is for two calls, L = 5 and
    a rate of 3e-6: Table 7's are taken.

    Args:
      calls: N, the student's calls (NFE).
      updates: K, of the generator.
      learning_rate: of both players; Table 7 lists one.
      bridge_updates: L for each of them.
    """
    _ibmd(config, calls=calls, updates=updates, learning_rate=learning_rate, schedule="constant")
    config.distill.update(
        bridge_updates=bridge_updates, weight="native", bridge_weight="native", weight_tilt=1.0,
        call_per="microbatch", z_channels=1, z_per="chain", dropout=True, bridge_dropout=True,
    )  # fmt: skip


def rsd(config: ConfigDict) -> None:
    """RSD (arXiv 2503.13358), which is IBMD on ResShift's bridge, of a teacher that sees x_T: N = 4, L = 5.

    Published: the normaliser |x0* - x_0|, AdamW with momenta 0.9 and 0.95 and a constant rate 5e-5, batch 64,
    K = 3000, the average's decay 0.999, one channel of z, weight 3e-3 of the critic's term. Not as published:
    its term of weight 2 in LPIPS is left out; the four times are evenly spaced; the critic is
    `models/patch.py` on x_t, and clean images are used by it alone.
    """
    config.bridge = {"name": "resshift"}
    config.preconditioning = {"name": "unit_variance"}
    config.network.conditional = True
    config.train.optimizer.name = "adamw"
    _ibmd(config, calls=4, updates=3000, learning_rate=5e-5, schedule="constant", b2=0.95)
    config.distill.update(
        batch=64, microbatches=1, ema=0.999, weight="one", bridge_weight="one", normalize=True,
        z_channels=1, gan_weight=3e-3, critic_sees="xt",
    )  # fmt: skip
    _optimizer(
        config.distill, "critic_optimizer",
        name="adamw", learning_rate=5e-5, schedule="constant", b2=0.95,
    )  # fmt: skip


def _ibmd(config: ConfigDict, *, calls: int, updates: int, **optimizer) -> None:
    """What all rows have in common, and that nothing else of the base is inherited."""
    distill, teacher = config.distill, config.train
    distill.update(
        steps=updates, batch=256, microbatches=16 if config.data.size == 256 else 4, bridge_updates=5,
        student_steps=calls, roll_out="random", first_call=1.0 / calls, first_time=1.0,
        call_per="example", chain_ema=False, ancestral=False, bridge_net_sees_call=False,
        z_channels=3, z_per="call", z_scale=1.0, z_fade=0.0, temperature=1.0, start="average",
        inner_weight=1.0, bridge_start="average", dropout=False, bridge_dropout=False, times=teacher.times,
        xt_from="source", detach_xt=False, weight_tilt=0.0, weight_max=0.0,
        bridge_weight_max=0.0, normalize=False, real_alpha=1.0, real_beta=1.0, gan_weight=0.0,
        ema=0.99, ema_warmup=False, bridge_ema=0.0,
    )  # fmt: skip
    for player in ("optimizer", "bridge_optimizer"):
        _optimizer(distill, player, name=teacher.optimizer.name, **optimizer)
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
    common: dict = dict(delay=0.0, warmup=0, b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.0, clip=0.0)
    stage[key].update(common | settings)
