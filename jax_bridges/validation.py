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
from jax_bridges.training.distillers import DISTILLERS, check_method
from jax_bridges.training.optimizers import check_optimizer
from jax_bridges.training.parallel import MODES
from jax_bridges.training.settings import distill_keys
from jax_bridges.training.steps import WEIGHTS
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
            value = _get(config, key)
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
        check_optimizer(stage.optimizer)

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
    averages = ("distill.ema", "distill.bridge_ema") + ("train.ema",) * bool(trained)
    for key in averages:
        if not 0 <= _get(config, key) < 1:
            raise ValueError(
                f"{key} is {_get(config, key)}: the decay of an average is at least 0 and below 1."
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
    if config.compare.prior:
        _check_compared_prior(config, corruption)
    methods = tuple(config.compare.students) or (config.distill.method,)
    if len(set(methods)) < len(methods):
        raise ValueError(f"compare.students is {methods}: name each method once.")
    for method in methods:
        look_up("method of distillation", DISTILLERS, method)
        asked = tuple(config.evaluate.student_nfe)
        check_method(config.distill, method, bridge, corruption, asked)


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
    if config.network.get("out_channels", 3) != 3 and not config.teacher.checkpoint:
        raise ValueError(
            f"network.out_channels is {config.network.out_channels}, a prior with a learned variance, which "
            "can be used (teacher.checkpoint) but not trained here: set it to 3."
        )
    if config.corruption.name != "identity":
        raise ValueError(
            f"corruption.name is '{config.corruption.name}': a diffusion prior trains on clean images, "
            "set it to 'identity' and name the corruptions in zero_shot.tasks."
        )
    if config.zero_shot.classifier and not (
        has_labels(config.data) and config.bridge.name == "ddpm"
    ):
        raise ValueError(
            "zero_shot.classifier guides a prior with DDPM's noise levels to the data's labels: set "
            "bridge.name to ddpm, and data.classes or data.label_key."
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


def _check_compared_prior(config: ConfigDict, corruption) -> None:
    """Zero-shot rows beside the bridges': a comparison, of a task that such solvers know."""
    if not config.compare.students:
        raise ValueError(
            "compare.prior adds rows to a comparison: name its students in compare.students "
            "(configs/compare.py)."
        )
    if not (corruption.linear or config.corruption.name == "inpaint_freeform"):
        raise ValueError(
            f"compare.prior: '{config.corruption.name}' is no linear operator, which zero-shot solvers need: "
            "leave it out."
        )
    for method in config.compare.prior_methods:
        look_up("zero-shot solver", SOLVERS, method)
    if config.compare.prior_nfe < 2:
        raise ValueError(f"compare.prior_nfe is {config.compare.prior_nfe}: it must be at least 2.")


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
