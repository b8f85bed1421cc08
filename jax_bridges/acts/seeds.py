"""Several seeds of one configuration: a run a seed, in a sub-folder each, and what they say together.

Seeds redraw what is trained: first weights, the data's order, corruptions and noise; with
`seeds_of="distill"` those of the student alone, from the first seed's teacher. The split, the held-out
images, their corruptions and the noise of sampling are the same for all (`evaluate.seed`), so that rows
of different seeds differ by the training alone, and rows of one seed are paired image by image.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jax_bridges import hosts
from jax_bridges.io.atomic import write_atomic
from jax_bridges.io.bucket import is_bucket
from jax_bridges.measured import measured_here
from jax_bridges.report.differences import Measured, read_values
from jax_bridges.report.results import read_results, write_results
from jax_bridges.report.table import format_table

ALL, DISTILL = "all", "distill"  # what seeds redraw
_MOVING = ".moving"  # of a sub-folder that a run of one seed is being moved into


def folder_of(seed: int) -> str:
    """The sub-folder of a seed's run."""
    return f"seed{seed}"


def check_layout(config: ConfigDict, workdir: Path) -> None:
    """Refuses a folder of one seed for several that it is none of, and one of several for one.

    Raises:
      ValueError: a sentence that says which it is.
    """
    several = any(workdir.glob("seed*/config.json")) or any(workdir.glob(f"seed*{_MOVING}"))
    own = _seed_of(workdir) if config.seeds and not several else None
    if own is not None and (own not in config.seeds or is_bucket(workdir)):
        raise ValueError(
            f"{workdir} holds a run of one seed, {own}, and config.seeds asks for several, "
            f"{tuple(config.seeds)}: give another --workdir."
        )
    if several and not config.seeds:
        raise ValueError(
            f"{workdir} holds runs of several seeds: give --seeds=N (or config.seeds), or another --workdir."
        )


def _seed_of(workdir: Path) -> int | None:
    """The seed of a folder's run, where it is a run of one seed."""
    if not (workdir / "checkpoints").exists():
        return None
    try:
        return int(json.loads((workdir / "config.json").read_text("utf-8-sig"))["seed"])
    except (OSError, ValueError, TypeError, KeyError):
        return None  # an import, or what `check_workdir` will refuse


def seed_to_take_in(config: ConfigDict, workdir: Path) -> int | None:
    """The seed of a run that lies in the folder of all itself, begun as one of one seed; None: there is none.

    `check_layout` comes first.
    """
    begun = [int(path.name[4 : -len(_MOVING)]) for path in workdir.glob(f"seed*{_MOVING}")]
    return begun[0] if begun else _seed_of(workdir) if config.seeds else None


def is_taken_in(seed: int, workdir: Path) -> bool:
    """Whether an earlier call of `take_in`, killed since, had all but ended."""
    return (workdir / (folder_of(seed) + _MOVING) / "config.json").exists()


def take_in(seed: int, workdir: Path, write: Callable[[], None]) -> None:
    """Moves the run that lies in `workdir` into its sub-folder; killed anywhere, the next call goes on.

    Args:
      seed: the run's.
      workdir: the folder of all.
      write: writes config.json of all.
    """
    moving = workdir / (folder_of(seed) + _MOVING)
    moving.mkdir(exist_ok=True)
    recorded = workdir / "config.json"
    for path in list(workdir.iterdir()):
        if path not in (moving, recorded):
            path.rename(moving / path.name)
    if not is_taken_in(seed, workdir):
        write_atomic(moving / "config.json", recorded.read_bytes())
    write()
    moving.rename(workdir / folder_of(seed))


def of_seed(config: ConfigDict, seed: int, workdir: Path) -> ConfigDict:
    """The configuration of one seed's run in the folder of all, `workdir`."""
    own = config.copy_and_resolve_references()
    own.seeds, own.seed = (), seed
    if own.evaluate.seed < 0:
        own.evaluate.seed = config.seed
    first = config.seeds[0]
    if config.seeds_of == DISTILL and seed != first and not config.teacher.checkpoint:
        own.teacher.checkpoint = str(workdir / folder_of(first))
    return own


def portable(recorded: dict[str, Any], workdir: Path) -> dict[str, Any]:
    """A configuration as config.json of `workdir` has it: the teacher of another seed of the same folder is
    named from there, "../seed0", so that the folder of all can be moved."""
    path = recorded.get("teacher", {}).get("checkpoint")
    if not path or not all(re.fullmatch(r"seed\d+", Path(p).name) for p in (path, workdir)):
        return recorded
    teacher, own = (Path(os.path.abspath(p)) for p in (path, workdir))
    if teacher.parent != own.parent:
        return recorded
    return recorded | {"teacher": recorded["teacher"] | {"checkpoint": f"../{teacher.name}"}}


def run_seeds(config: ConfigDict, workdir: Path, run: Callable[[ConfigDict, Path], object]) -> None:
    """Runs each seed, and writes results.json of them all.

    Args:
      config: with `seeds`.
      workdir: the folder of all.
      run: `run(config, folder)` of one seed; it goes on where an earlier start stopped.
    """
    for number, seed in enumerate(config.seeds, 1):
        folder = workdir / folder_of(seed)
        print(f"seed {seed} ({number} of {len(config.seeds)}): {folder}", flush=True)
        run(of_seed(config, seed, workdir), folder)
    if hosts.is_chief():
        merge(config.seeds, workdir)
    hosts.barrier("merged")


def merge(seeds: tuple[int, ...], workdir: Path) -> dict:
    """Writes the results of all seeds, rows that are means with intervals over images and seeds.

    Raises:
      ValueError: the seeds' results have not the same rows.
    """
    folders = [folder_of(seed) for seed in seeds]
    found = [read_results(workdir / folder / "results.json") for folder in folders]
    names = [
        [(row.task, row.model, row.sampler, row.nfe) for row in each["rows"]] for each in found
    ]
    for folder, its in zip(folders, names, strict=True):
        if its != names[0]:
            raise ValueError(
                f"The rows of {folder} are not those of {folders[0]}: delete {folder}/results.json and start "
                "the same command again."
            )
    values = [read_values(workdir / folder) for folder in folders]
    measured = Measured(list(zip([each["rows"] for each in found], values, strict=True)))
    first, home = found[0], folders[0]
    results = {k: v for k, v in first.items() if k != "values"} | {
        "rows": measured.told(),
        "differences": measured.compared(),
        "seeds": [{"seed": s, "folder": f} for s, f in zip(seeds, folders, strict=True)],
        "measured": first["measured"] | measured_here("jax_bridges.main"),
        "pictures": [f"{home}/{path}" for path in first.get("pictures", [])],
        "comparisons": [
            item | {"images": {name: f"{home}/{path}" for name, path in item["images"].items()}}
            for item in first.get("comparisons", [])
        ],
    }
    write_results(workdir / "results.json", results)
    print(format_table(results["rows"]), flush=True)
    return results
