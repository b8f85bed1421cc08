"""Baselines of a comparison: models of other kinds that learn the run's task without its teacher."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from jax_bridges.players import BASELINE
from jax_bridges.report.results import read_metrics
from jax_bridges.stages.run import Run
from jax_bridges.stages.teacher import teacher_record
from jax_bridges.training.methods import PAIR_METHODS
from jax_bridges.training.methods.pairs import of_pair_method, why_not_here
from jax_bridges.training.system import System

MODEL = "baseline"  # in the table, where the sampler's column says which


def baseline_runs(run: Run) -> tuple[dict[str, Run], list[str]]:
    """The run of each of `compare.baselines` by the name of its stage, and a sentence for each left out.

    A baseline's run is the run itself with the bridge, preconditioning and network that it needs: the same
    images, pairs and masks.

    Raises:
      ValueError: it is to cost as much as a teacher of which nobody knows what it has cost.
    """
    runs, reasons = {}, []
    for name in run.config.compare.baselines:
        method = PAIR_METHODS[name]
        reason = why_not_here(method, run.config)
        if reason:
            reasons.append(f"{name}: {reason}.")
            continue
        config = baseline_config(run.config, name)
        runs[f"{BASELINE}_{name}"] = dataclasses.replace(
            run, config=config, system=System.create(config), programs={}
        )
    return runs, reasons


def baseline_config(config: ConfigDict, name: str) -> ConfigDict:
    """What a baseline is trained with; raises as `baseline_runs`."""
    train = config.train
    if not config.baselines[name].steps:
        train = taught(config)
        if train is None:
            raise ValueError(
                f"baselines.{name}.steps is 0, as long as the teacher's training, but "
                f"{config.teacher.checkpoint} was imported and does not say how long that was: give a number "
                "of updates."
            )
    return of_pair_method(PAIR_METHODS[name], config, train)


def taught(config: ConfigDict) -> ConfigDict | None:
    """How the teacher was trained: `config.train`, or what is recorded beside `teacher.checkpoint`.

    None: it is an import, which does not say.
    """
    path = config.teacher.checkpoint
    if not path:
        return config.train
    recorded = teacher_record(path)[0]
    return ConfigDict(recorded["train"]) if "train" in recorded else None


def seconds_of(workdir: Path) -> str:
    """What each stage of a run has taken by the clock, but for compiling and saving; "" if unknown."""
    path = workdir / "metrics.jsonl"
    if not path.is_file():  # of several hosts the first has it
        return ""
    told = []
    for stage, lines in read_metrics(path)[0].items():
        steps = np.diff([0, *(line["step"] for line in lines)])
        each = [line.get("seconds_per_step", 0.0) for line in lines]
        told.append(f"{stage} {float(steps @ np.array(each)):.3g} s")
    return ", ".join(told)
