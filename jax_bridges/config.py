"""The base configuration, every key with its default and meaning, and how two of them differ."""

from __future__ import annotations

import inspect
from collections.abc import Collection

from ml_collections import ConfigDict, FieldReference

from jax_bridges.bridges import BRIDGES
from jax_bridges.choices import parse_choice
from jax_bridges.corruptions import CORRUPTIONS
from jax_bridges.models import MODELS
from jax_bridges.preconditioning import PRECONDITIONINGS


# fmt: off
def _optimizer(**changes) -> ConfigDict:
    config = ConfigDict()
    config.name = "adam"  # adam | adamw | radam
    config.learning_rate = 1e-3  # peak
    config.schedule = "cosine"  # constant | cosine (to 0 at the last step) | i2sb (x 0.99 every 1000)
    config.delay = 0.0  # share of the stage's steps at a rate of 0, before the warm-up
    config.warmup = 50  # steps of linear warm-up
    config.b1 = 0.9  # decay of the mean gradient; 0 for the two players of IBMD
    config.b2 = 0.99  # decay of the mean squared gradient
    config.eps = 1e-8  # added to the root mean squared gradient
    config.weight_decay = 0.0  # adamw only
    config.clip = 1.0  # global gradient norm; 0: no clipping
    config.moment_dtype = "float32"  # adam, adamw: the mean gradient is kept in float32 | bfloat16
    config.update(changes)
    return config


def _consistency(**changes) -> ConfigDict:
    # CDBM publishes none of these. Measured on the default task (FD-Lite0 of the hole): with a rate of
    # 3e-4 the students drift away within 50 steps (1 call: from 32 to over 120), for little but the
    # last t holds them. dt: the teacher's ODE in such steps is off by 6% of the spread of the paths'
    # ends at 0.05 and by 3% at 0.02 (Gaussian pair, I2SB).
    config = ConfigDict()
    config.steps = 200  # updates
    config.z_scale = 1.0  # of what the noise input is fed here: the bridge's own noise in x_t
    # students are trained and start at T - gamma, in units of T: at T paths meet. The start lacks x_0's
    # share, and a student learns to read the mean colour from it: at 0.05 it missed that by 5% of 255
    config.gamma = 0.01
    config.boot = False  # with 2 calls or more the first is spent on x_0's share of the start
    config.times = "uniform"  # of t: uniform | towards_source
    config.gap = "constant"  # between t and its neighbour r: constant (dt) | shrinking
    config.dt = 0.05  # constant: t - r, in units of T
    config.halvings = 6  # shrinking: t - r ends at 2^-halvings t
    config.gap_k = 8.0  # shrinking: the gap is larger by 1 + k sigmoid(-b t / T)
    config.gap_b = 10.0  # shrinking: b
    config.gap_weight = "one"  # lambda: one | inverse_gap
    config.distance = "pseudo_huber"  # l2 | pseudo_huber
    config.distance_scale = 0.03  # pseudo_huber: root mean square above which errors count once
    config.target = "copy"  # theta-: copy (of theta) | ema (its average)
    config.optimizer = _optimizer(learning_rate=3e-5)
    config.update(changes)
    return config


def base_config() -> ConfigDict:
    """A complete configuration: centre inpainting of 32x32 pieces of the Earth. Tasks change a few keys."""
    config = ConfigDict()
    config.task = "inpaint"  # names the run; runs/TASK is the default work directory
    config.seed = 0  # of initial weights, data order, corruptions and noise

    # Data -----------------------------------------------------------------------------------------
    config.data = ConfigDict()
    config.data.name = "earth"  # earth | earth_relief (pairs) | folder | pairs | arrays | tfds:NAME
    # pixels; one number, or (height, width)
    config.data.size = FieldReference(32, field_type=object)
    config.data.downscale = 1  # earth: average blocks of the map first; 2 shows twice the area a tile
    config.data.path = ""  # folder: of images; pairs: of clean images x_0; arrays: .npz file; tfds: data_dir
    config.data.path_xT = ""  # pairs: folder of corrupted images x_T, matched by name
    config.data.image_key = "image"  # tfds, arrays: feature that holds x_0
    config.data.xT_key = ""  # tfds, arrays: feature that holds x_T, for paired sets
    config.data.edge_sigma = 1.0  # edges: pixels of smoothing before the detector; 2 suits 256 pixels
    config.data.label_key = ""  # tfds, arrays: feature that holds the class, for network.num_classes > 0
    # folder, pairs, edges: "subfolders" (the sub-folder is the class, numbered in sorted order), or
    # a text file that lists the sub-folders in the order of their class numbers; "": no labels
    config.data.classes = ""
    config.data.unpaired = False  # training x_0 and x_T come from different examples (train.mode dsbm)
    config.data.test_fraction = 0.1  # held out where there are no train/ and test/ folders
    config.data.on_bad_file = "refuse"  # refuse: stop and name it | skip: leave it out and name it
    config.data.crop = "center"  # shorter side resized to size, then the centre is cut out
    config.data.max_upscale = 4.0  # an image that would have to grow by more is a bad file
    config.data.max_images = 0  # use only the first so many; 0: all
    config.data.cache_mb = 512  # decoded images kept in memory
    config.data.flip = True  # random mirror image, shared by the pair
    config.data.rotate = False  # random quarter turns, shared by the pair (for views from above)

    # Task and bridge: on the command line --config.bridge.name=brownian:epsilon=0.5, and so for the
    # corruption and the preconditioning ----------------------------------------------------------
    config.corruption = ConfigDict(
        {"name": "inpaint_center", "fill": "zero"}, allow_dotted_keys=True
    )
    config.keep_known = True  # known pixels are returned unchanged; the loss counts the hole alone
    config.bridge = ConfigDict({"name": "i2sb", "beta_max": 0.3})
    # "none": after 1500 steps FD-Lite0 of the hole at 100 calls is 31; unit_variance 69, i2sb 117 (small
    # networks let the noise pass that a skip brings to their answer)
    config.preconditioning = ConfigDict({"name": "none"})

    # Network: of teacher and bridge net; the generator's adds an input for z ----------------------
    config.network = ConfigDict()
    config.network.name = "unet"  # a key of models.MODELS
    config.network.widths = (32, 64, 64)  # of each level; every level halves height and width
    config.network.blocks = 1  # residual blocks a level, down and up
    config.network.patch = 2  # pixel-unshuffle of the stem
    config.network.attention = ()  # levels (0 = finest) with self-attention
    config.network.heads = 4  # of self-attention
    config.network.groups = 8  # of GroupNorm
    config.network.dropout = 0.0  # in the residual blocks, of the teacher in training only
    config.network.conditional = True  # the network also sees x_T
    config.network.dtype = "float32"  # of the computation: float32 | bfloat16; parameters stay float32

    # Teacher --------------------------------------------------------------------------------------
    config.teacher = ConfigDict()
    config.teacher.checkpoint = ""  # WORKDIR of an import or a run: take its teacher, train none
    config.teacher.init = ""  # WORKDIR of an import or a run: the training starts from its teacher

    config.train = ConfigDict()
    # bridge: bridge matching on the data's pairs (augmented where network.conditional) | reflow: on pairs
    # (x_T, ODE(x_T)) of teacher.init | dsbm: Schroedinger bridge between x_0 and x_T, pairs or not
    config.train.mode = "bridge"
    config.train.rounds = 1  # dsbm: to x_0 and to x_T in turn, in equal parts of the steps; an odd number
    config.train.simulation_steps = 10  # reflow, dsbm: network calls that make a pair
    config.train.steps = 1500  # updates
    config.train.batch = 32  # images a step, over all devices
    config.train.microbatches = 1  # the batch in so many parts, one after the other
    config.train.times = "uniform"  # uniform | towards_source | towards_clean | edm_lognormal
    # lambda(t): native to the preconditioning | one | inverse_sigma (1 / sigma_t: errors at small t
    # count more, or they add up over 100 calls: FD-Lite0 of the hole 27.7 instead of 37.0)
    config.train.weight = "inverse_sigma"
    config.train.weight_max = 0.0  # upper bound of lambda; 0: none
    config.train.ema = 0.99  # decay of the average that is sampled from, with warm-up
    config.train.max_skipped = 20  # stop if gradients of more updates in a row are not finite
    config.train.optimizer = _optimizer()

    # IBMD -----------------------------------------------------------------------------------------
    config.distill = ConfigDict()
    config.distill.method = "ibmd"  # ibmd | cbd | cbt; the latter have keys of their own below
    config.distill.steps = 125  # generator updates
    config.distill.batch = 32  # images an update
    config.distill.microbatches = 1  # as of train
    config.distill.bridge_updates = 3  # L: bridge-net updates a generator update
    config.distill.student_steps = 4  # N: calls the student is trained for; any fewer work too
    # How x_0 is made: random (by one of the N calls, at what those before it lead to) | chain (by all N,
    # gradient of the last) | chain_through (gradient of all)
    config.distill.roll_out = "random"
    config.distill.first_call = 0.75  # random: share of examples at the first call, the hardest one
    # Share of T where the first call is made; below 1 it sees x_T under the bridge's noise, and the student
    # starts with texture, not with its teacher's blur (1.0: x_T itself, as in the paper)
    config.distill.first_time = 0.97
    config.distill.bridge_net_sees_call = True  # random: it is told which call made x_0
    config.distill.z_channels = 3  # of the generator's noise input; 0: the noise of x_T is all it has
    config.distill.z_scale = 4.0  # its standard deviation: the input's weights start at 0 and must grow
    config.distill.times = "uniform"  # of both losses: uniform | towards_source
    # lambda(t) of the generator's loss, as of train. inverse_sigma gains 7% on a teacher of 6000 steps and
    # loses half on one of 1800: it weighs the teacher's own errors at small t (FD-Lite0 of the hole, 1 call)
    config.distill.weight = "one"
    config.distill.weight_max = 0.0  # its upper bound; 0: none
    config.distill.normalize = True  # divide the generator's loss by its detached |x0* - x0|
    config.distill.bridge_weight = "inverse_sigma"  # lambda(t) of the bridge net's loss
    config.distill.bridge_weight_max = 0.0  # its upper bound; 0: none
    config.distill.ema = 0.99  # as of train, of the generator
    # of the bridge net, whose average the generator's loss sees: 0 is the net itself, as in Alg. 1
    config.distill.bridge_ema = 0.95
    config.distill.max_skipped = 20  # as of train, of either player
    # What the bridge net misses of the generator's answers, the generator takes for a reward of diversity:
    # so it waits until the bridge net knows them, and moves less. FD-Lite0 of the hole at 1 call after
    # 100 steps: 35.6; with 1e-3 for the bridge net 49.0, with 2e-4 for the generator too 59.3
    config.distill.optimizer = _optimizer(
        learning_rate=5e-5, delay=0.2, warmup=20, b1=0.0, b2=0.95
    )
    config.distill.bridge_optimizer = _optimizer(learning_rate=3e-4, b1=0.0, warmup=60)
    config.distill.cbd = _consistency()  # consistency bridge distillation, by the teacher's ODE
    config.distill.cbt = _consistency(  # consistency bridge training, by the data
        gap="shrinking", gap_weight="inverse_gap"
    )

    # Evaluation -----------------------------------------------------------------------------------
    config.evaluate = ConfigDict()
    config.evaluate.images = 256  # held-out images
    # images at a time, over all devices; as many as of a step: a GPU tries kernels for each size of its own
    config.evaluate.batch = 32
    config.evaluate.sampler = "ancestral"  # of the teacher; with knobs: "dbim:eta=1", "heun:churn=None"
    config.evaluate.teacher_nfe = (1, 10, 100)  # network calls an image
    config.evaluate.student_nfe = (1, 2, 4)  # at most distill.student_steps
    config.evaluate.pictures = 12  # images in the picture and in the report's slider
    config.evaluate.margin = 2  # pixels around the hole that its own metrics include
    # of metrics.measure.METRIC_NEEDS: psnr, ssim, fd_lite0, kid_lite0, ca_lite0, fid, kid, is, ca,
    # lpips, lpips_alex, cons; those from fid to lpips_alex need weights, ca and ca_lite0 labels too
    config.evaluate.metrics = ("psnr", "ssim", "fd_lite0")
    config.evaluate.protocol = "own"  # own | i2sb | ddbm | dbim | ddnm: pixels, resizing, units
    config.evaluate.weights = ""  # folder of the feature networks' files; "": the usual caches
    config.evaluate.reference = ""  # fid: .npz of statistics; "": the targets of the same images
    config.evaluate.allow_unequal = False  # fid: against a reference of another number of images
    config.evaluate.bootstrap = 0  # resamples for 95% intervals; 0: none (slow for distances: try 50)
    config.evaluate.published = ""  # task of published.csv whose rows stand beside ours
    config.evaluate.published_data = ""  # what our images are, in its words: you vouch for it

    # Comparison (configs/compare.py): every sampler and several students of one teacher ------------
    config.compare = ConfigDict()
    config.compare.students = ()  # methods of distillation; none: one student, by distill.method
    config.compare.samplers = ("ancestral", "dbim", "dbim2", "dbim3", "heun")  # of the teacher
    config.compare.teacher_nfe = (1, 2, 5, 10, 20, 100)  # its calls; students: evaluate.student_nfe
    # WORKDIR of a diffusion prior (configs/zero_shot.py, --as=adm) of the same size: its rows as well
    config.compare.prior = ""
    config.compare.prior_methods = (  # of zero_shot.SOLVERS; those that do not suit the task are spared
        "pinv", "ddnm", "ddnm_plus", "ddrm", "pigdm", "dps", "repaint",
    )  # fmt: skip
    config.compare.prior_nfe = 50  # noise levels they visit, where the prior's run does not say

    # Zero-shot restoration (configs/zero_shot.py): one diffusion prior instead of teacher and student --
    config.zero_shot = ConfigDict()
    # name -> {operator: a linear corruption, sigma_y: noise of y in units of [-1, 1], and, if it is there,
    # published: a task of published.csv whose rows stand beside ours}; none: a bridge run
    config.zero_shot.tasks = ConfigDict()
    config.zero_shot.methods = (  # of zero_shot.SOLVERS; a task is spared those that do not apply
        "pinv", "ddnm", "ddnm_plus", "ddrm", "pigdm", "dps", "repaint", "ilvr", "sdedit",
    )  # fmt: skip
    config.zero_shot.nfe = 50  # noise levels that a method visits
    config.zero_shot.classifier = ""  # file of OpenAI's classifier of noisy images: guides to data labels
    config.zero_shot.classifier_scale = 1.0  # of its guidance; 1: Bayes' rule
    # method -> its solver's knobs, its own nfe, and start: sdedit's share of the time
    config.zero_shot.settings = ConfigDict(
        {
            "ddrm": {"nfe": 20},  # as published
            "dps": {"scale": 1.0},
            "repaint": {"nfe": 40, "travel": (10, 2)},
            "sdedit": {"nfe": 25, "start": 0.5},
        }
    )

    # The run --------------------------------------------------------------------------------------
    config.parallel = ConfigDict()
    config.parallel.mode = "auto"  # auto | pmap (replicated) | fsdp (sharded)
    config.parallel.fsdp = 1  # devices over which large leaves are sharded
    config.parallel.device_gib = 0.0  # memory of a device; 0: as it says itself, if it does
    config.profile = ConfigDict()  # a recording of a few steps of each stage, in WORKDIR/profile
    config.profile.first = 10  # steps of this start before it
    config.profile.steps = 0  # length; 0: none
    config.log_every = 50  # steps between lines of metrics.jsonl
    config.checkpoint_every = 250  # steps
    config.checkpoints_kept = 2  # of each stage, the newest
    config.pictures_every = 0  # steps between pictures of a stage; 0: at its end
    return config
# fmt: on


# Parts of a configuration that are a name and its settings.
_NAMED = {"bridge": BRIDGES, "preconditioning": PRECONDITIONINGS, "corruption": CORRUPTIONS}


def take_names(config: ConfigDict, given: Collection[str]) -> None:
    """Lets `bridge.name`, `preconditioning.name` and `corruption.name` be changed on the command line.

    A name that was given brings its settings with it, "brownian:epsilon=0.5,t_min=1e-3"; of those of the
    configuration that it replaces it keeps what it takes.

    Args:
      config: changed in place.
      given: keys that were given by hand.

    Raises:
      ValueError: settings that are not written as KEY=VALUE.
    """
    for part, table in _NAMED.items():
        if f"{part}.name" not in given:
            continue
        name, settings = parse_choice(config[part].name)
        kept = {k: v for k, v in config[part].items() if k != "name"}
        if name in table:  # else `validate` says so
            known = inspect.signature(table[name]).parameters
            kept = {k: v for k, v in kept.items() if k in known or f"{part}.{k}" in given}
        config[part] = ConfigDict({"name": name, **kept, **settings}, allow_dotted_keys=True)


# Keys that may change between two starts of the same run: they do not alter what is trained.
FREE_KEYS = (
    "evaluate.", "compare.", "zero_shot.", "parallel.", "profile.", "log_every", "checkpoint_every",
    "checkpoints_kept", "pictures_every", "data.cache_mb",
)  # fmt: skip


def differences(old: dict, new: dict) -> list[str]:
    """Lines `key: old -> new` for keys that differ and may not (see FREE_KEYS), sorted."""
    flat_old, flat_new = _flatten(old), _flatten(new)
    lines = []
    for key in sorted(flat_old.keys() | flat_new.keys()):
        before, after = flat_old.get(key, "(absent)"), flat_new.get(key, "(absent)")
        if before != after and not key.startswith(FREE_KEYS):
            lines.append(f"{key}: {before} -> {after}")
    return lines


# Settings of a network that leave the meaning of its weights alone.
_FREE_SETTINGS = {
    "unet": ("dropout", "dtype"),
    "adm": ("dropout", "dtype", "param_dtype", "remat", "attention"),
}


def model_differences(old: dict, new: dict, parts: tuple[str, ...] = ()) -> list[str]:
    """Lines `key: old -> new` where a teacher's weights would mean something else, sorted.

    Compared are network, bridge, preconditioning (both with all defaults filled in: they say how the
    network's input, output and time are scaled), keep_known, and what fills a hole; or `parts` alone.
    """
    old, new = _model(old), _model(new)
    if None in (old["corruption"]["fill"], new["corruption"]["fill"]):
        del old["corruption"], new["corruption"]  # another task, or one without a hole
    kept = parts or tuple(old | new)
    return differences(
        {k: v for k, v in old.items() if k in kept}, {k: v for k, v in new.items() if k in kept}
    )


def _model(config: dict) -> dict:
    full = {}
    tables = {
        "network": MODELS, "bridge": BRIDGES, "preconditioning": PRECONDITIONINGS,
        "corruption": CORRUPTIONS,
    }  # fmt: skip
    for kind, table in tables.items():
        settings = dict(config.get(kind, {}))
        make = table.get(settings.get("name"))
        known = inspect.signature(make).parameters if make else {}
        defaults = {k: p.default for k, p in known.items() if k not in ("name", "parent")}
        full[kind] = defaults | settings
    for key in _FREE_SETTINGS.get(full["network"].get("name"), ()):
        full["network"].pop(key, None)
    full["corruption"] = {"fill": full["corruption"].get("fill")}
    return full | {"keep_known": config.get("keep_known", True)}


def _flatten(tree: dict, prefix: str = "") -> dict:
    flat = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat
