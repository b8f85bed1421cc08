"""The base configuration, every key with its default and meaning, and `validate`."""

from __future__ import annotations

import inspect

from ml_collections import ConfigDict, FieldReference

from jax_bridges.bridges import BRIDGES, make_bridge
from jax_bridges.choices import look_up
from jax_bridges.corruptions import CORRUPTIONS
from jax_bridges.models import ADM, MODELS
from jax_bridges.preconditioning import PRECONDITIONINGS
from jax_bridges.samplers import SAMPLERS
from jax_bridges.times import TRAINING_TIMES
from jax_bridges.training.optimizers import OPTIMIZERS, SCHEDULES
from jax_bridges.training.parallel import MODES
from jax_bridges.training.steps import ROLL_OUTS, WEIGHTS
from jax_bridges.training.system import System, image_size


# fmt: off
def _optimizer(**changes) -> ConfigDict:
    config = ConfigDict()
    config.name = "adam"  # adam | adamw | radam
    config.learning_rate = 1e-3  # peak
    config.schedule = "cosine"  # constant | cosine (to 0 at the last step) | i2sb (x 0.99 every 1000)
    config.warmup = 50  # steps of linear warm-up
    config.b1 = 0.9  # decay of the mean gradient; 0 for the two players of IBMD
    config.b2 = 0.99  # decay of the mean squared gradient
    config.eps = 1e-8  # added to the root mean squared gradient
    config.weight_decay = 0.0  # adamw only
    config.clip = 1.0  # global gradient norm; 0: no clipping
    config.update(changes)
    return config


def base_config() -> ConfigDict:
    """A complete configuration: centre inpainting of 32x32 pieces of the Earth. Tasks change a few keys."""
    config = ConfigDict()
    config.task = "inpaint"  # names the run; runs/TASK is the default work directory
    config.seed = 0  # of initial weights, data order, corruptions and noise

    # Data -----------------------------------------------------------------------------------------
    config.data = ConfigDict()
    config.data.name = "earth"  # earth | earth_relief (pairs) | folder | pairs | tfds:NAME
    # pixels; one number, or (height, width)
    config.data.size = FieldReference(32, field_type=object)
    config.data.downscale = 1  # earth: average blocks of the map first; 2 shows twice the area a tile
    config.data.path = ""  # folder: of images; pairs: of clean images x_0; tfds: data_dir
    config.data.path_xT = ""  # pairs: folder of corrupted images x_T, matched by name
    config.data.image_key = "image"  # tfds: feature that holds x_0
    config.data.xT_key = ""  # tfds: feature that holds x_T, for paired sets
    config.data.test_fraction = 0.1  # held out where there are no train/ and test/ folders
    config.data.on_bad_file = "refuse"  # refuse: stop and name it | skip: leave it out and name it
    config.data.crop = "center"  # shorter side resized to size, then the centre is cut out
    config.data.max_upscale = 4.0  # an image that would have to grow by more is a bad file
    config.data.max_images = 0  # use only the first so many; 0: all
    config.data.cache_mb = 512  # decoded images kept in memory
    config.data.flip = True  # random mirror image, shared by the pair
    config.data.rotate = False  # random quarter turns, shared by the pair (for views from above)

    # Task and bridge ------------------------------------------------------------------------------
    config.corruption = ConfigDict(
        {"name": "inpaint_center", "fill": "zero"}, allow_dotted_keys=True
    )
    config.keep_known = True  # known pixels are returned unchanged; the loss counts the hole alone
    config.bridge = ConfigDict({"name": "i2sb", "beta_max": 0.3})
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
    config.train.steps = 1500  # updates
    config.train.batch = 32  # images a step, over all devices
    config.train.microbatches = 1  # the batch in so many parts, one after the other
    config.train.times = "uniform"  # uniform | towards_source
    config.train.weight = "one"  # lambda(t): native to the preconditioning | one
    config.train.weight_max = 0.0  # upper bound of lambda; 0: none
    config.train.ema = 0.99  # decay of the average that is sampled from, with warm-up
    config.train.max_skipped = 20  # stop after so many steps in a row with a non-finite gradient
    config.train.optimizer = _optimizer()

    # IBMD -----------------------------------------------------------------------------------------
    config.distill = ConfigDict()
    config.distill.method = "ibmd"  # the only one so far
    config.distill.steps = 320  # generator updates
    config.distill.batch = 32  # images an update
    config.distill.microbatches = 1  # as of train
    config.distill.bridge_updates = 3  # L: bridge-net updates a generator update
    config.distill.student_steps = 4  # N: calls the student is trained for; any fewer work too
    config.distill.roll_out = "random"  # random (one of the N calls) | chain | chain_through (all)
    config.distill.first_call = 0.5  # random: share of examples at the first call, the hardest one
    config.distill.bridge_net_sees_call = True  # random: it is told which call made x_0
    config.distill.z_channels = 3  # of the generator's noise input; 0: the noise of x_T is all it has
    config.distill.z_scale = 4.0  # its standard deviation: the input's weights start at 0 and must grow
    config.distill.times = "uniform"  # of both losses: uniform | towards_source
    config.distill.weight = "one"  # lambda(t) of the generator's loss: native | one
    config.distill.weight_max = 0.0  # its upper bound; 0: none
    config.distill.normalize = True  # divide the generator's loss by its detached |x0* - x0|
    config.distill.bridge_weight = "one"  # lambda(t) of the bridge net's loss
    config.distill.bridge_weight_max = 0.0  # its upper bound; 0: none
    config.distill.ema = 0.99  # as of train, for both players
    config.distill.max_skipped = 20  # as of train, for either player
    config.distill.optimizer = _optimizer(learning_rate=2e-4, b1=0.0, warmup=20)
    config.distill.bridge_optimizer = _optimizer(
        learning_rate=1e-3, schedule="constant", b1=0.0, warmup=60
    )

    # Evaluation -----------------------------------------------------------------------------------
    config.evaluate = ConfigDict()
    config.evaluate.images = 256  # held-out images
    config.evaluate.batch = 64  # images at a time, over all devices
    config.evaluate.sampler = "ancestral"  # of the teacher
    config.evaluate.teacher_nfe = (1, 10, 100)  # network calls an image
    config.evaluate.student_nfe = (1, 2, 4)  # at most distill.student_steps
    config.evaluate.pictures = 12  # images in the picture and in the report's slider
    config.evaluate.margin = 2  # pixels around the hole that its own metrics include

    # The run --------------------------------------------------------------------------------------
    config.parallel = ConfigDict()
    config.parallel.mode = "auto"  # auto | pmap (replicated) | fsdp (sharded)
    config.parallel.fsdp = 1  # devices over which large leaves are sharded
    config.log_every = 50  # steps between lines of metrics.jsonl
    config.checkpoint_every = 250  # steps
    config.checkpoints_kept = 2  # of each stage, the newest
    config.pictures_every = 0  # steps between pictures of a stage; 0: at its end
    return config
# fmt: on


# Keys that may change between two starts of the same run: they do not alter what is trained.
FREE_KEYS = (
    "evaluate.", "parallel.", "log_every", "checkpoint_every", "checkpoints_kept", "pictures_every",
    "data.cache_mb",
)  # fmt: skip


def validate(config: ConfigDict, devices: int = 1) -> None:
    """Refuses what cannot run, before anything is built or compiled.

    Args:
      config: the resolved configuration.
      devices: number of accelerators; batches must divide by it.

    Raises:
      ValueError: one sentence that names the key, what was expected and what to do.
    """

    def positive(*keys: str) -> None:
        for key in keys:
            value = config.get_ref(key).get() if "." not in key else _get(config, key)
            if value < 1:
                raise ValueError(f"{key} is {value}: it must be at least 1.")

    trained = (config.train,) if not config.teacher.checkpoint else ()  # else its keys are not read
    if config.teacher.checkpoint and config.teacher.init:
        raise ValueError(
            "teacher.checkpoint is used as it is and teacher.init is trained further: give one."
        )
    if trained:
        positive("train.steps", "train.batch", "train.microbatches")
    positive(
        "distill.steps", "distill.batch", "distill.microbatches", "distill.bridge_updates",
        "distill.student_steps",
        "evaluate.images", "evaluate.batch", "evaluate.pictures", "log_every", "checkpoint_every",
        "checkpoints_kept",
    )  # fmt: skip
    look_up("corruption", CORRUPTIONS, config.corruption.name)
    look_up("bridge", BRIDGES, config.bridge.name)
    look_up("preconditioning", PRECONDITIONINGS, config.preconditioning.name)
    look_up("network", MODELS, config.network.name)
    look_up("sampler", SAMPLERS, config.evaluate.sampler)
    look_up("method of distillation", {"ibmd": None}, config.distill.method)
    look_up("parallel mode", dict.fromkeys(MODES), config.parallel.mode)
    look_up("roll-out", ROLL_OUTS, config.distill.roll_out)
    for stage in (*trained, config.distill):
        look_up("distribution of training times", TRAINING_TIMES, stage.times)
        look_up("loss weight", WEIGHTS, stage.weight)
    look_up("loss weight", WEIGHTS, config.distill.bridge_weight)
    for optimizer in (
        *(stage.optimizer for stage in trained),
        config.distill.optimizer,
        config.distill.bridge_optimizer,
    ):
        look_up("optimiser", OPTIMIZERS, optimizer.name)
        look_up("learning-rate schedule", SCHEDULES, optimizer.schedule)

    for name, batch, parts in (
        *(("train", stage.batch, stage.microbatches) for stage in trained),
        ("distill", config.distill.batch, config.distill.microbatches),
        ("evaluate", config.evaluate.batch, 1),
    ):
        if batch % (devices * parts):
            raise ValueError(
                f"{name}.batch is {batch}: it must be a multiple of {devices * parts} "
                f"({devices} devices x {parts} microbatches)."
            )
    network = config.network
    if network.name == "unet":
        multiple = network.patch * 2 ** (len(network.widths) - 1)
        shape = f"network.patch {network.patch} and {len(network.widths)} levels"
        _divides(config.data.size, multiple, shape)
        for each in network.widths:
            if each % network.groups:
                raise ValueError(
                    f"network.widths has {each}: it must be a multiple of network.groups, {network.groups}."
                )
            if network.attention and each % network.heads:
                raise ValueError(
                    f"network.widths has {each}: it must be a multiple of network.heads, {network.heads}."
                )
    if network.name == "adm":
        levels = len(network.get("channel_mult", ADM.channel_mult))
        _divides(config.data.size, 2 ** (levels - 1), f"{levels} levels")
    if config.data.rotate and len(set(image_size(config.data.size))) > 1:
        raise ValueError(
            "data.rotate turns squares only: set it to False, or data.size to one number."
        )
    if not config.evaluate.teacher_nfe or not config.evaluate.student_nfe:
        raise ValueError("evaluate.teacher_nfe and evaluate.student_nfe must have a number each.")
    bridge = make_bridge(**config.bridge)
    for nfe in config.evaluate.teacher_nfe:
        SAMPLERS[config.evaluate.sampler].grid(bridge, nfe)  # refuses what the sampler cannot do
    if not 0 < config.distill.first_call <= 1:
        raise ValueError(
            f"distill.first_call is {config.distill.first_call}: it is a share, above 0 and at most 1."
        )
    most = max(config.evaluate.student_nfe, default=1)
    if most > config.distill.student_steps or min(config.evaluate.student_nfe, default=1) < 1:
        raise ValueError(
            f"evaluate.student_nfe is {tuple(config.evaluate.student_nfe)}: the student is trained for 1 to "
            f"{config.distill.student_steps} calls (distill.student_steps)."
        )
    if config.distill.z_channels not in (0, System.channels):
        raise ValueError(
            f"distill.z_channels is {config.distill.z_channels}: it must be 0 (no noise input) or "
            f"{System.channels}, one for each channel of an image."
        )
    if not config.distill.z_channels and config.corruption.get("fill") != "noise":
        raise ValueError(
            "A student without z has no randomness at its first call: set distill.z_channels to 3, "
            "or corruption.fill to 'noise' for inpainting."
        )


def _divides(size, multiple: int, shape: str) -> None:
    height, width = image_size(size)
    if height % multiple or width % multiple:
        raise ValueError(
            f"data.size is {height}x{width}: with {shape} it must be a multiple of {multiple}."
        )


def _get(config: ConfigDict, path: str):
    for part in path.split("."):
        config = config[part]
    return config


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
