"""Refuses configurations that cannot run, before anything is built or compiled."""

from __future__ import annotations

import inspect
from collections.abc import Iterable

from ml_collections import ConfigDict

from jax_bridges.bridges import BRIDGES, Diffusion, make_bridge
from jax_bridges.choices import look_up
from jax_bridges.corruptions import CORRUPTIONS, make_corruption
from jax_bridges.corruptions.check import check_task
from jax_bridges.data import has_labels, is_paired
from jax_bridges.metrics.measure import check_metrics
from jax_bridges.models import ADM, MODELS
from jax_bridges.preconditioning import PRECONDITIONINGS
from jax_bridges.report.published import published_rows
from jax_bridges.samplers import SAMPLERS
from jax_bridges.times import TRAINING_TIMES
from jax_bridges.training.couplings import check_mode
from jax_bridges.training.distillers import DISTILLERS, make_distiller
from jax_bridges.training.optimizers import MOMENTS, OPTIMIZERS, SCHEDULES
from jax_bridges.training.parallel import MODES
from jax_bridges.training.settings import distill_keys
from jax_bridges.training.steps import ROLL_OUTS, WEIGHTS
from jax_bridges.training.system import System, image_size
from jax_bridges.zero_shot import SOLVERS


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
        "distill.batch", "distill.microbatches",
        "evaluate.images", "evaluate.batch", "evaluate.pictures", "log_every", "checkpoint_every",
        "checkpoints_kept",
    )  # fmt: skip
    look_up("corruption", CORRUPTIONS, config.corruption.name)
    look_up("bridge", BRIDGES, config.bridge.name)
    look_up("preconditioning", PRECONDITIONINGS, config.preconditioning.name)
    look_up("network", MODELS, config.network.name)
    look_up("sampler", SAMPLERS, config.evaluate.sampler)
    look_up("parallel mode", dict.fromkeys(MODES), config.parallel.mode)
    for stage in trained:
        look_up("distribution of training times", TRAINING_TIMES, stage.times)
        look_up("loss weight", WEIGHTS, stage.weight)
        _check_optimizer(stage.optimizer)

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
    if config.parallel.device_gib < 0 or min(config.profile.first, config.profile.steps) < 0:
        raise ValueError(
            f"parallel.device_gib is {config.parallel.device_gib}, profile.first "
            f"{config.profile.first} and profile.steps {config.profile.steps}: none may be negative."
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
    if network.get("num_classes", 0) and not has_labels(config.data):
        raise ValueError(
            f"network.num_classes is {network.num_classes}, but the data have no labels: set "
            "data.classes to 'subfolders' or a file with their names (folder, pairs, edges), or "
            "data.label_key (tfds)."
        )
    if config.data.rotate and len(set(image_size(config.data.size))) > 1:
        raise ValueError(
            "data.rotate turns squares only: set it to False, or data.size to one number."
        )
    corruption = make_corruption(**config.corruption)
    check_task(corruption, is_paired(config.data), *image_size(config.data.size))
    check_metrics(config.evaluate, has_labels(config.data))
    if config.evaluate.published:
        published_rows(config.evaluate.published, data=config.evaluate.published_data)
    if not config.evaluate.teacher_nfe or not config.evaluate.student_nfe:
        raise ValueError("evaluate.teacher_nfe and evaluate.student_nfe must have a number each.")
    bridge = make_bridge(**config.bridge)
    if trained:
        check_mode(config, bridge, is_paired(config.data))
    for nfe in config.evaluate.teacher_nfe:
        SAMPLERS[config.evaluate.sampler].grid(bridge, nfe)  # refuses what the sampler cannot do
    if config.distill.z_channels not in (0, System.channels):
        raise ValueError(
            f"distill.z_channels is {config.distill.z_channels}: it must be 0 (no noise input) or "
            f"{System.channels}, one for each channel of an image."
        )
    _check_zero_shot(config, bridge)
    for name in config.compare.samplers:
        look_up("sampler", SAMPLERS, name)
    methods = tuple(config.compare.students) or (config.distill.method,)
    if len(set(methods)) < len(methods):
        raise ValueError(f"compare.students is {methods}: name each method once.")
    for method in methods:
        look_up("method of distillation", DISTILLERS, method)
        _check_method(config, method, bridge, positive)


def _check_zero_shot(config: ConfigDict, bridge) -> None:
    """Tasks, methods and their settings; a prior without tasks, and tasks without a prior."""
    tasks, prior = config.zero_shot.tasks, isinstance(bridge, Diffusion)
    if prior != bool(tasks):
        raise ValueError(
            f"bridge.name is '{config.bridge.name}', a diffusion prior, which no student can be "
            "distilled from: name what it restores in zero_shot.tasks (configs/zero_shot.py)."
            if prior
            else f"zero_shot.tasks need a diffusion prior, but bridge.name is '{config.bridge.name}': "
            "set it to ddpm or edm."
        )
    if not tasks:
        return
    if config.network.get("conditional") or config.keep_known:
        raise ValueError(
            "A diffusion prior sees no x_T: set network.conditional and keep_known to False."
        )
    if config.corruption.name != "identity":
        raise ValueError(
            f"corruption.name is '{config.corruption.name}': a diffusion prior trains on clean images, "
            "set it to 'identity' and name the corruptions in zero_shot.tasks."
        )
    for name, task in tasks.items():
        if set(task) != {"operator", "sigma_y"} or task.sigma_y < 0:
            raise ValueError(
                f"zero_shot.tasks.{name} must have operator and sigma_y (at least 0), nothing else."
            )
        operator = make_corruption(**task.operator)
        if not operator.linear:
            raise ValueError(
                f"zero_shot.tasks.{name}: '{task.operator.name}' is no linear operator."
            )
        check_task(operator, is_paired(config.data), *image_size(config.data.size))
    for method in config.zero_shot.methods:
        look_up("zero-shot solver", SOLVERS, method)
    for method, settings in config.zero_shot.settings.items():
        known = inspect.signature(look_up("zero-shot solver", SOLVERS, method).solve).parameters
        knobs = [k for k, p in known.items() if p.kind is p.KEYWORD_ONLY] + ["nfe", "start"]
        for key in settings:
            if key not in knobs:
                raise ValueError(
                    f"zero_shot.settings.{method} has no setting '{key}': it takes {', '.join(knobs)}."
                )
        if not 0 < settings.get("start", 0.5) <= 1:
            raise ValueError(f"zero_shot.settings.{method}.start must be a share in (0, 1].")
        bridge.levels(settings.get("nfe", config.zero_shot.nfe))  # refuses what there is not
    bridge.levels(config.zero_shot.nfe)


def check_given(config: ConfigDict, given: Iterable[str]) -> None:
    """Refuses keys of `distill` that were given by hand and that no method of this run reads.

    Args:
      config: validated.
      given: the keys, as on the command line.

    Raises:
      ValueError: names the key, the method, and what it reads instead.
    """
    methods = tuple(config.compare.students) or (config.distill.method,)
    read = set().union(*(distill_keys(config.distill, method) for method in methods))
    for key in given:
        key = key.removeprefix("distill.") if key.startswith("distill.") else None
        if key is None or any(key == k or key.startswith(f"{k}.") for k in read):
            continue
        instead = [k for k in sorted(read) if k.split(".")[-1] == key.split(".")[-1]]
        hint = f"give {' or '.join(f'distill.{k}' for k in instead)}" if instead else "leave it out"
        raise ValueError(
            f"distill.{key} was given, but the method {' or '.join(methods)} does not read it: {hint}, "
            "or choose another distill.method."
        )


def _check_method(config: ConfigDict, method: str, bridge, positive) -> None:
    """The keys that a method of distillation reads."""
    part = "distill" if method == "ibmd" else f"distill.{method}"
    distill = config.distill.copy_and_resolve_references()
    distill.method = method
    distiller, settings = make_distiller(distill)
    positive(f"{part}.steps")
    _check_optimizer(settings.optimizer)
    if method == "ibmd":
        _check_ibmd(config, positive)
    distiller.check(settings, bridge)
    if min(config.evaluate.student_nfe) < 1:
        raise ValueError(
            f"evaluate.student_nfe is {tuple(config.evaluate.student_nfe)}: each must be at least 1."
        )
    for nfe in config.evaluate.student_nfe:
        distiller.grid(bridge, nfe, settings)  # refuses what the student cannot do


def _check_ibmd(config: ConfigDict, positive) -> None:
    positive("distill.bridge_updates", "distill.student_steps")
    look_up("roll-out", ROLL_OUTS, config.distill.roll_out)
    bridge = make_bridge(**config.bridge)
    if config.distill.roll_out != "random" and (bridge.needs_source or not bridge.pinned):
        raise ValueError(
            f"distill.roll_out is '{config.distill.roll_out}': the steps of the bridge "
            f"'{config.bridge.name}' depend on x_T or start from a noisy one, which a chain leaves out: "
            "set it to 'random'."
        )
    look_up("distribution of training times", TRAINING_TIMES, config.distill.times)
    look_up("loss weight", WEIGHTS, config.distill.weight)
    look_up("loss weight", WEIGHTS, config.distill.bridge_weight)
    _check_optimizer(config.distill.bridge_optimizer)
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
    fill = getattr(make_corruption(**config.corruption), "fill", None)
    if not config.distill.z_channels and fill != "noise":
        raise ValueError(
            "A student without z has no randomness at its first call: set distill.z_channels to 3, "
            "or corruption.fill to 'noise' for inpainting."
        )


def _check_optimizer(optimizer: ConfigDict) -> None:
    look_up("optimiser", OPTIMIZERS, optimizer.name)
    look_up("learning-rate schedule", SCHEDULES, optimizer.schedule)
    look_up("dtype of moments", MOMENTS, optimizer.moment_dtype)
    if optimizer.name == "radam" and optimizer.moment_dtype != "float32":
        raise ValueError(
            "The radam optimiser keeps its moments in float32: set moment_dtype so, or name to adam."
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
