"""Refuses configurations that cannot run, before anything is built or compiled.

What each key may be is the table's (`settings.check`); here is what goes together.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jax_bridges import settings
from jax_bridges.bridges import Bridge, make_bridge
from jax_bridges.corruptions import check_noise, make_corruption
from jax_bridges.corruptions.check import check_task
from jax_bridges.data import Source, has_labels, has_validation, is_paired
from jax_bridges.metrics import METRICS, hole_crop
from jax_bridges.metrics.check_data import check_test_data
from jax_bridges.metrics.measure import check_metrics
from jax_bridges.models import DTYPES, network_settings
from jax_bridges.models.attention import check_attention
from jax_bridges.preconditioning import make_preconditioning
from jax_bridges.report.published import published_rows
from jax_bridges.samplers import make_sampler
from jax_bridges.times import training_times
from jax_bridges.training.couplings import check_mode
from jax_bridges.training.methods import METHODS, PAIR_METHODS, PRIOR_METHODS, check_method
from jax_bridges.training.methods.pairs import of_pair_method, why_not_here
from jax_bridges.training.optimizers import check_optimizer
from jax_bridges.training.settings import distill_settings, placed
from jax_bridges.training.system import image_size
from jax_bridges.validation_em import check_em
from jax_bridges.zero_shot import make_method


def validate(config: ConfigDict, devices: int = 1) -> None:
    """Refuses what cannot run, before anything is built or compiled.

    Args:
      config: the resolved configuration.
      devices: number of accelerators; batches must divide by it.

    Raises:
      ValueError: one sentence that names the key, what was expected and what to do.
    """
    settings.check(config)
    trained = (config.train,) if not config.teacher.checkpoint else ()  # else its keys are not read
    if config.teacher.checkpoint and config.teacher.init:
        raise ValueError(
            "teacher.checkpoint is used as it is and teacher.init is trained further: give one."
        )
    if config.seeds_of == "distill" and config.seeds and config.zero_shot.tasks:
        raise ValueError(
            "seeds_of is 'distill', but a zero-shot run distils nothing: set it to 'all'."
        )
    sampler = make_sampler(config.evaluate.sampler)
    for stage in trained:
        check_optimizer(stage.optimizer, "train.optimizer")
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
    _check_network(config)
    if config.data.rotate and len(set(image_size(config.data.size))) > 1:
        raise ValueError(
            "data.rotate turns squares only: set it to False, or data.size to one number."
        )
    corruption = make_corruption(**config.corruption)
    check_task(corruption, is_paired(config.data), *image_size(config.data.size))
    check_metrics(config.evaluate, has_labels(config.data))
    _check_best(config)
    if config.evaluate.published:
        published_rows(config.evaluate.published, data=config.evaluate.published_data)
    bridge = make_bridge(**config.bridge)
    _check_zero_shot(config, bridge)
    _check_bridge(config, bridge)
    for law in {config.distill.get("times", "uniform"), *(stage.times for stage in trained)}:
        training_times(law, bridge, jnp.zeros(1))  # not every bridge has every law
    if trained:
        check_mode(config, bridge, corruption, is_paired(config.data))
        if network_settings(config.network)["dropout"] and config.train.mode != "bridge":
            raise ValueError(
                f"network.dropout is {config.network.dropout}, which train.mode {config.train.mode} does not "
                "use: set it to 0."
            )
    for nfe in config.evaluate.teacher_nfe:
        reason = "" if bridge.prior else sampler.why_not(bridge, nfe)
        if reason:
            raise ValueError(f"evaluate.teacher_nfe is {config.evaluate.teacher_nfe}. {reason}")
    for name in config.compare.samplers:
        make_sampler(name)
    if config.compare.prior:
        _check_compared_prior(config, corruption)
    methods = tuple(config.compare.students) or (config.distill.method,)
    for method in methods:
        asked = tuple(config.evaluate.student_nfe)
        check_method(config.distill, method, bridge, corruption, asked)
    for name in config.compare.baselines:
        _check_baseline(config, name, corruption, devices)


def _check_baseline(config: ConfigDict, name: str, corruption, devices: int) -> None:
    """What a baseline of a comparison cannot be trained with, where the task suits it."""
    method, part = PAIR_METHODS[name], f"baselines.{name}"
    if why_not_here(method, config):
        return
    its = of_pair_method(method, config)
    settings, bridge = distill_settings(its.distill), make_bridge(**its.bridge)
    parts = devices * settings.microbatches
    if settings.batch % parts:
        key = f"{part}.batch" if "batch" in config.baselines[name] else "baselines.batch"
        raise ValueError(
            f"{key} is {settings.batch}: it must be a multiple of {parts} ({devices} devices x "
            f"{settings.microbatches} microbatches)."
        )
    for key in method.optimizers(settings):
        check_optimizer(settings[key], f"{part}.{key}")
    method.check(settings, bridge, corruption)
    _check_network(its)
    _check_bridge(its, bridge)


def _check_network(config: ConfigDict) -> None:
    """Sizes that the network's levels, groups and heads do not divide; classes without labels."""
    network = ConfigDict(network_settings(config.network))
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
        for level in network.attention:
            if level >= len(network.widths):
                raise ValueError(
                    f"network.attention has {level}: the levels are 0 to {len(network.widths) - 1}."
                )
    if network.name == "adm":
        levels = len(network.channel_mult)
        _divides(config.data.size, 2 ** (levels - 1), f"{levels} levels")
        check_attention(network.attention, DTYPES[network.dtype], key="network.attention")
    if network.get("sees_mask") and make_corruption(**config.corruption).masks == "none":
        none = f"the corruption '{config.corruption.name}' makes no hole that is known"
        if teacher := config.teacher.checkpoint or config.teacher.init:
            raise ValueError(
                f"The teacher in {teacher} sees where the hole is (network.sees_mask), but {none}: take "
                "another teacher, or a corruption with a hole."
            )
        raise ValueError(f"network.sees_mask is True, but {none}: set it to False.")
    if network.get("num_classes", 0) and not has_labels(config.data):
        raise ValueError(
            f"network.num_classes is {network.num_classes}, but the data have no labels: set "
            "data.classes to 'subfolders' or a file with their names (folder, pairs, edges), or "
            "data.label_key (tfds, arrays)."
        )


def _check_bridge(config: ConfigDict, bridge: Bridge) -> None:
    """Settings for which there is no such bridge or scaling, whatever it is: their numbers must be finite."""

    def said(part: ConfigDict) -> str:
        settings = ", ".join(f"{k}={v}" for k, v in part.items() if k != "name")
        return f"'{part.name}'" + (f" with {settings}" if settings else "")

    if not 0 <= bridge.t_min < bridge.T:
        raise ValueError(
            f"The bridge {said(config.bridge)} runs from t_min {bridge.t_min:g} to T {bridge.T:g}: t_min "
            "must be at least 0 and below T."
        )
    preconditioning = make_preconditioning(**config.preconditioning)
    with jax.ensure_compile_time_eval():
        # Each in one program: an accelerator would compile one for every operation.
        t = np.linspace(bridge.t_min, bridge.T, 33)[1:]
        numbers = jax.jit(lambda t: jnp.stack([*bridge.coefficients(t), bridge.sigma(t)]))(t)
        numbers = np.asarray(numbers)
        if not np.isfinite(numbers).all() or numbers[3, -1] <= 0:
            raise ValueError(
                f"The bridge {said(config.bridge)} has no noise, or coefficients that are not finite: "
                "change its settings."
            )
        scalings = jax.jit(
            lambda t: jnp.stack(
                [*preconditioning.scalings(bridge, t), preconditioning.weight(bridge, t)]
            )
        )(t)
        if not np.isfinite(scalings).all():
            raise ValueError(
                f"The preconditioning {said(config.preconditioning)} is not finite on the bridge "
                f"{said(config.bridge)}: change its settings, or take another one."
            )


def _check_best(config: ConfigDict) -> None:
    """Weights that are the best by what is not measured, or by the images that are reported."""
    best, every = config.evaluate.best, config.evaluate.every
    if best == "none":
        return
    said = f"evaluate.best is '{best}', but "
    if not every:
        raise ValueError(
            f"{said}evaluate.every is 0, no look at held-out images: set it to some steps."
        )
    if not has_validation(config.data):
        raise ValueError(
            f"{said}'{config.data.name}' has no split validation, and what is chosen by test images cannot "
            "be reported on them: leave it out."
        )
    if best != "loss" and (best not in config.evaluate.metrics or config.zero_shot.tasks):
        among = "a prior has its loss alone" if config.zero_shot.tasks else "it is not measured"
        raise ValueError(f"{said}{among}: set it to 'loss', or add it to evaluate.metrics.")
    if best == "loss" and (config.teacher.checkpoint or config.train.mode != "bridge"):
        raise ValueError(
            f"{said}only a teacher that is trained here by bridge matching has a loss to be held out from: "
            "name one of evaluate.metrics."
        )


def _check_zero_shot(config: ConfigDict, bridge) -> None:
    """Tasks, methods and their settings; a prior without tasks, and tasks without a prior."""
    tasks, prior = config.zero_shot.tasks, bridge.prior
    if config.em.operator:
        check_em(config, bridge)
    elif prior != bool(tasks):
        raise ValueError(
            f"bridge.name is '{config.bridge.name}', a diffusion prior, which no student can be "
            "distilled from: name what it restores in zero_shot.tasks (configs/zero_shot.py), or what it "
            "is learnt through in em.operator (configs/em.py)."
            if prior
            else f"zero_shot.tasks need a diffusion prior, but bridge.name is '{config.bridge.name}': "
            "set it to ddpm or edm."
        )
    if not (tasks or config.em.operator):
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
        if not {"operator", "sigma_y"} <= set(task) <= {"operator", "sigma_y", "published"}:
            raise ValueError(
                f"zero_shot.tasks.{name} must have operator and sigma_y, and may have published."
            )
        check_noise(f"zero_shot.tasks.{name}.sigma_y", task.sigma_y)
        if task.get("published"):
            published_rows(task.published, data=config.evaluate.published_data)
        operator = make_corruption(**task.operator)
        if not (operator.linear or operator.masks == "needed"):
            raise ValueError(
                f"zero_shot.tasks.{name}: '{task.operator.name}' is no linear operator."
            )
        check_task(operator, is_paired(config.data), *image_size(config.data.size))
    chosen, settings = config.zero_shot.methods, config.zero_shot.settings
    for method in dict.fromkeys((*chosen, *settings)):  # refuses what there is not
        make_method(method, bridge, settings.get(method, {}), config.zero_shot.nfe)


def _check_compared_prior(config: ConfigDict, corruption) -> None:
    """Zero-shot rows beside the bridges': a comparison, of a task that such solvers know."""
    if not (config.compare.students or config.compare.baselines):
        raise ValueError(
            "compare.prior adds rows to a comparison: name its students in compare.students "
            "(configs/compare.py)."
        )
    if not (corruption.linear or corruption.masks == "needed"):
        raise ValueError(
            f"compare.prior: '{config.corruption.name}' is no linear operator, which zero-shot solvers need: "
            "leave it out."
        )


def check_evaluation(config: ConfigDict, test_data: Source) -> None:
    """Refuses metrics that the held-out images cannot have: told before the training, not after it.

    Args:
      config: validated.
      test_data: the images to evaluate on.

    Raises:
      ValueError: distances of sets that are one image; regions smaller than SSIM's window.
    """
    check_test_data(config, test_data)
    metrics, size = config.evaluate.metrics, image_size(config.data.size)
    of_sets = [name for name in metrics if (found := METRICS[name].of_set) and found.paired]
    if of_sets and min(config.evaluate.images, len(test_data)) < 2:
        raise ValueError(
            f"{test_data.name} leaves 1 image to evaluate, but {' and '.join(of_sets)} compare sets of "
            "2 or more: add test images (data.test_fraction, evaluate.images), or leave these out of "
            "evaluate.metrics."
        )
    regions, box = {"an image": size}, make_corruption(**config.corruption).hole_box(*size)
    if box:
        cut = hole_crop(np.zeros((1, *size, 1), np.uint8), box, config.evaluate.margin)
        regions["the hole with evaluate.margin"] = cut.shape[1:3]
    for name, (height, width) in regions.items():
        for metric in metrics:
            window = METRICS[metric].window
            if min(height, width) < window:
                raise ValueError(
                    f"evaluate.metrics has '{metric}', whose window is {window}x{window}, but {name} is "
                    f"{height}x{width}: enlarge data.size or evaluate.margin, or leave '{metric}' out."
                )


def check_given(config: ConfigDict, given: Iterable[str]) -> None:
    """Refuses keys that were given by hand and that this run does not read.

    Args:
      config: validated.
      given: the keys, as on the command line.

    Raises:
      ValueError: names the key, why it is not read, and what to do.
    """
    unread = {  # prefix: why
        "train.": config.teacher.checkpoint and "teacher.checkpoint is a finished teacher",
        "compare.": not (config.compare.students or config.compare.baselines)
        and "compare.students is empty",
        "baselines.": not config.compare.baselines and "compare.baselines is empty",
        "zero_shot.": not config.zero_shot.tasks and "zero_shot.tasks is empty",
        "em.": not config.em.operator and "em.operator is empty",
        "distill.": (config.zero_shot.tasks and "a zero-shot run has no student")
        or (config.em.operator and "a prior that is learnt from observations has no student"),
    }
    for key in given:
        for prefix, why in unread.items():
            if why and key.startswith(prefix) and config.get(prefix[:-1]) is not None:
                raise ValueError(f"{key} was given, but {why}: leave one of them out.")
    for act, part, names in (
        ("em", "em", PRIOR_METHODS),
        ("compare", "baselines", PAIR_METHODS),
    ):
        for name, key in itertools.product(names, given):
            if key.startswith(f"{part}.{name}.") and name not in config[act].baselines:
                raise ValueError(
                    f"{key} was given, but {act}.baselines has no '{name}', which alone reads it: add it "
                    "there, or leave the key out."
                )
    methods = tuple(config.compare.students) or (config.distill.method,)
    read = {row.key for method in methods for row in placed(method, METHODS[method].settings)}
    for key in given:
        if not key.startswith("distill.") or key == "distill.method":
            continue
        if any(k == key or k.startswith(f"{key}.") for k in read):
            continue
        instead = [k for k in sorted(read) if k.split(".")[-1] == key.split(".")[-1]]
        hint = f"give {' or '.join(instead)}" if instead else "leave it out"
        raise ValueError(
            f"{key} was given, but the method {' or '.join(methods)} does not read it: {hint}, "
            "or choose another distill.method."
        )


def _divides(size, multiple: int, shape: str) -> None:
    height, width = image_size(size)
    if height % multiple or width % multiple:
        raise ValueError(
            f"data.size is {height}x{width}: with {shape} it must be a multiple of {multiple}."
        )
