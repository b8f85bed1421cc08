"""Every sampler and every student of one teacher, on one set of held-out images:

    python -m jax_bridges.main --config=configs/compare.py --config.teacher.checkpoint=runs/inpaint

Without `teacher.checkpoint` the teacher is trained first. The variant names the task, a file of
configs/ and, after a second colon, its variant: `configs/compare.py:superres`. With `all` before it there are
baselines too, which learn the task without the teacher, each in the time that its training takes here:
`configs/compare.py:all`, `configs/compare.py:all:superres`.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from jax_bridges.config import base_config
from jax_bridges.training.methods import PAIR_METHODS

FOLDER = Path(__file__).parent
# Samplers of a teacher that are newer than DBIM; guidance costs two calls for one.
NEWER = (
    "dbmsolver", "ecsi", "ode_heun:booted=True", "dbim:pg=1.5", "dbim:pg=(1.0,1.5)",
)  # fmt: skip


def get_config(variant: str = ""):
    """Variants: "" (inpaint), or another file of configs/ with its own variant; "all" before either."""
    first, _, after = variant.partition(":")
    variant = after if first == "all" else variant
    task, _, rest = (variant or "inpaint").partition(":")
    known = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "compare")
    if task not in known:
        raise ValueError(
            f"configs/compare.py has no variant '{task}': choose {', '.join(known)}, or all."
        )
    spec = importlib.util.spec_from_file_location(task, FOLDER / f"{task}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config(rest)
    plain = config.task
    config.task = f"compare_{'all_' * (first == 'all')}{plain}"
    if first == "all":
        config.compare.equal = "seconds"
        config.compare.baselines = tuple(PAIR_METHODS)
    config.compare.students = ("ibmd", "cbd", "cbt")
    config.compare.samplers = (*config.compare.samplers, *NEWER)
    # A second answer to each x_T, which doubles the time of the evaluation.
    config.evaluate.metrics = (*config.evaluate.metrics, "diversity")
    if config.distill.steps == base_config().distill.steps:
        config.distill.steps = 200  # as many as of the others
    return config
