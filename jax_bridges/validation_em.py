"""Refuses configurations of EM that cannot learn a prior, each in a sentence."""

from __future__ import annotations

from ml_collections import ConfigDict

from jax_bridges.bridges import Bridge
from jax_bridges.corruptions import check_noise, make_corruption
from jax_bridges.corruptions.check import check_task
from jax_bridges.data import is_paired
from jax_bridges.report.published import published_tasks
from jax_bridges.schema import Setting, check_known, whole
from jax_bridges.training.methods import PRIOR_METHODS
from jax_bridges.training.methods.prior import Task, hides_pixels
from jax_bridges.training.system import image_size
from jax_bridges.zero_shot import make_method


def check_em(config: ConfigDict, bridge: Bridge) -> None:
    """What goes together in `config.em`, whose values the table has checked.

    Raises:
      ValueError: one sentence that names the key, what was expected and what to do.
    """
    em = config.em
    if not bridge.prior:
        raise ValueError(
            f"em.operator needs a diffusion prior, but bridge.name is '{config.bridge.name}': set it to ddpm "
            "or edm."
        )
    for key, why in (
        ("zero_shot.tasks", "the prior that a run of EM leaves takes any task later"),
        ("compare.students", "a diffusion prior has no student"),
        ("teacher.checkpoint", "EM trains the teacher"),
        ("teacher.init", "em.init says where the first prior comes from"),
    ):
        part, name = key.split(".")
        if config[part][name]:
            raise ValueError(f"em.operator and {key} are given, but {why}: leave one of them out.")
    if config.seeds_of == "distill" and config.seeds:
        raise ValueError("seeds_of is 'distill', but EM distils nothing: set it to 'all'.")
    if config.train.mode != "bridge":
        raise ValueError(f"train.mode is '{config.train.mode}': an M-step needs 'bridge'.")
    _check_operator(config)
    published, tasks = config.evaluate.published, published_tasks()
    if published and f"{published}-samples" not in tasks:
        known = ", ".join(name for name in tasks if f"{name}-samples" in tasks)
        raise ValueError(
            f"evaluate.published is '{published}', which tells of no prior's samples: take one of {known}."
        )
    check_noise("em.sigma_y", em.sigma_y)
    if em.reset_rounds > em.rounds:
        raise ValueError(
            f"em.reset_rounds is {em.reset_rounds}, but em.rounds is {em.rounds}: it counts the last of them."
        )
    methods = ("mmps", "dps", "bridge")
    for name in em.settings:
        if name not in methods:
            raise ValueError(f"em.settings has '{name}': it may have {', '.join(methods)}.")
        if name == "bridge":
            check_known(
                "method", name, (Setting("nfe", 20, whole(least=2), ""),), em.settings[name]
            )
            continue
        own = dict(em.settings[name])
        if name == "dps" and "scale" in own:
            raise ValueError(
                "em.settings.dps.scale is chosen anew each round: give its values in em.scale_grid."
            )
        make_method(name, bridge, own, config.zero_shot.nfe)
    task = Task(make_corruption(**em.operator), em.sigma_y, image_size(config.data.size))
    if em.learn_from == "measured" and not hides_pixels(task):
        raise ValueError(
            f"em.learn_from is 'measured', but em.operator '{em.operator.name}' does not measure pixels of "
            "the image, a part of them: take 'inpaint_random', or learn_from 'samples'."
        )
    for name in em.baselines:
        if name in PRIOR_METHODS:
            PRIOR_METHODS[name].check(em.get(name), task)


def _check_operator(config: ConfigDict) -> None:
    name = config.em.operator.get("name", "")
    if not name:
        raise ValueError(
            "em.operator has no name: give one, as {'name': 'inpaint_random', 'share': 0.6}."
        )
    corruption = make_corruption(**config.em.operator)
    if corruption.noisy or corruption.noise:
        raise ValueError(
            f"em.operator is '{name}', which brings noise of its own: take 'identity' (or leave its noise "
            "out), and say the noise in em.sigma_y."
        )
    if not (corruption.linear or corruption.masks == "needed"):
        raise ValueError(f"em.operator: '{name}' is no linear operator, which an E-step needs.")
    if corruption.hole_box(*image_size(config.data.size)):
        raise ValueError(
            f"em.operator: '{name}' hides the same pixels of every image, and nothing can be learnt of what "
            "is never seen: take 'inpaint_random' or 'inpaint_freeform'."
        )
    if is_paired(config.data) or config.data.unpaired:
        raise ValueError(
            "em.operator makes the observations itself, but the data are pairs: take data without."
        )
    check_task(corruption, False, *image_size(config.data.size))
