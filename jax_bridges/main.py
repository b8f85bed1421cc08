"""Train a bridge, distil it, evaluate both: `python -m jax_bridges.main --config=configs/inpaint.py`."""

from __future__ import annotations

if __name__ == "__main__":  # before the imports, which take seconds
    from jax_bridges.starting import begin

    begin()

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from absl import app, flags
from ml_collections import config_flags

from jax_bridges import hosts
from jax_bridges.acts import choose_act
from jax_bridges.acts.seeds import check_layout, of_seed, run_seeds
from jax_bridges.command import keep_compiled, run_command
from jax_bridges.command_line import ERRORS, given_keys, read_command_line, sentence
from jax_bridges.config import differences, migrate, record
from jax_bridges.data import check_classes, make_source
from jax_bridges.io.atomic import check_writable, is_writable, write_atomic
from jax_bridges.report.html import build_report
from jax_bridges.report.table import format_table
from jax_bridges.stages.evaluate import earlier_results
from jax_bridges.stages.run import (
    Diverged,
    MetricsLog,
    NoLog,
    Run,
    Stopped,
    StopSignal,
)
from jax_bridges.stages.train import check_teacher, take_teacher
from jax_bridges.starting import REQUEUE, stopping_says
from jax_bridges.training.parallel import Parallel
from jax_bridges.training.system import System
from jax_bridges.validation import check_evaluation, check_given, validate

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Configuration file, e.g. configs/inpaint.py; --helpfull lists its keys."
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder the run leaves behind; runs/TASK by default. Several hosts share it."
)
_SEEDS = flags.DEFINE_integer(
    "seeds", None, "So many runs in one folder, of config.seed and the seeds after it, averaged.", 1
)
_DEFINE = {str: flags.DEFINE_string, int: flags.DEFINE_integer}
_HOSTS = [_DEFINE[type(like)](name, like, about) for name, (like, about) in hosts.FLAGS.items()]


def run(config, workdir: str | os.PathLike) -> Path:
    """Everything from a configuration to report.html; goes on where an earlier start stopped.

    Args:
      config: a complete configuration (jax_bridges/config.py).
      workdir: folder for config.json, metrics.jsonl, checkpoints/, samples/, results.json, report.html.

    Returns:
      The path of the report.

    Raises:
      ValueError: a configuration that cannot run, or one that differs from the folder's.
      Stopped, Diverged: see stages/run.py.
    """
    workdir = Path(workdir)
    check_layout(config, workdir)
    if config.seeds:
        return _run_seeds(config, workdir)
    with contextlib.ExitStack() as ends:  # signals and logs, whichever way it ends
        return _run(config, workdir, ends, lambda: begin_workdir(workdir, config))


def _run_seeds(config, workdir: Path) -> Path:
    validate(config)
    first = of_seed(config, config.seeds[0], workdir)
    check_workdir(workdir, json.loads(config.to_json_best_effort()))
    if not is_writable(workdir):
        return show_finished(workdir, first)

    def run_seed(its, folder: Path) -> None:
        def begin() -> None:
            begin_workdir(workdir, config)
            begin_workdir(folder, its)

        with contextlib.ExitStack() as ends:
            _run(its, folder, ends, begin)

    run_seeds(config, workdir, run_seed)
    if hosts.is_chief():
        print(f"report: {build_report(workdir)}", flush=True)
    hosts.barrier("reported")
    return workdir / "report.html"


def _run(config, workdir: Path, ends: contextlib.ExitStack, begin: Callable[[], None]) -> Path:
    # -- check -------------------------------------------------------------------------------------
    parallel = Parallel.create(config.parallel.mode, config.parallel.fsdp)
    validate(config, parallel.devices)
    resolved = json.loads(config.to_json_best_effort())
    check_workdir(workdir, resolved)
    if not is_writable(workdir):
        return show_finished(workdir, config)
    check_teacher(resolved)

    # -- data, system --------------------------------------------------------------------------------
    splits = ("train", config.evaluate.split)
    train_data, test_data = (make_source(config.data, split) for split in splits)
    check_classes(config.network.get("num_classes", 0), config.data, train_data, test_data)
    check_evaluation(config, test_data)
    system = System.create(config)
    stop = StopSignal()
    stop.listen()
    ends.callback(stop.leave)
    log = MetricsLog(workdir) if hosts.is_chief() else NoLog()  # writes nothing yet
    ends.callback(log.close)
    this = Run(config, workdir, system, parallel, train_data, test_data, log, stop)

    # -- plan, act, report ---------------------------------------------------------------------------
    choose_act(config).do(this, begin)
    if hosts.is_chief():
        report = build_report(workdir)
        print(f"report: {report}", flush=True)
    hosts.barrier("done")  # the first to leave would end the others
    return workdir / "report.html"


def show_finished(workdir: Path, config) -> Path:
    """Says again what a finished run has found, in a folder that cannot be written to; its report.

    Raises:
      ValueError: there is something left to do, which cannot be written.
    """
    report, results = workdir / "report.html", earlier_results(workdir / "results.json")
    settings = choose_act(config).settings(config)
    if not results or results["measured"].get("settings") != settings or not report.is_file():
        check_writable(workdir)  # says what is wrong with it
    assert results is not None
    print(f"evaluate: already done\n{format_table(results['rows'])}", flush=True)
    print(f"report: {report}", flush=True)
    return report


def begin_workdir(workdir: Path, config) -> None:
    """Writes config.json, once all hosts have found nothing to refuse."""
    hosts.barrier("checked")
    if hosts.is_chief():
        write_atomic(
            workdir / "config.json", (json.dumps(record(config), indent=1) + "\n").encode()
        )


def check_workdir(workdir: Path, resolved: dict) -> None:
    """Refuses a folder whose run had another configuration, naming the keys that differ."""
    path = workdir / "config.json"
    if str(workdir).split("/")[0].endswith(":"):  # a Path has one slash of gs://
        raise ValueError(
            f"--workdir={workdir} is no folder: mount the bucket (gcsfuse) or a shared disk, and name "
            "the folder it is mounted on."
        )
    try:
        str(workdir).encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"--workdir={workdir}: its name is no UTF-8, and checkpoints can only be written where it "
            "is: give another one."
        ) from None
    if not path.exists():
        check_writable(workdir)
        if workdir.exists() and any(workdir.iterdir()):
            raise ValueError(
                f"{workdir} is not empty and holds no config.json: give a new folder with --workdir."
            )
        return
    try:
        recorded = json.loads(path.read_text("utf-8-sig"))
        if not isinstance(recorded, dict):
            raise ValueError("it is no configuration")
    except ValueError as error:
        raise ValueError(
            f"{path} cannot be read ({error}): put it back, or give a new folder with --workdir."
        ) from None
    changed = differences(migrate(recorded), resolved)
    if changed:
        raise ValueError(
            f"{workdir} holds a run with another configuration; go on with that one, or give another "
            "--workdir. These keys differ:\n  " + "\n  ".join(changed)
        )


def parse_flags(argv: list[str]) -> list[str]:
    """The flags; what is wrong with them, or with the configuration file, is one sentence and exit code 1."""

    def work() -> None:
        read_command_line(flags.FLAGS, argv)
        if _CONFIG.value is None:
            raise ValueError(
                "Say what to run: --config=configs/inpaint.py (or another file of configs/)."
            )

    code = run_command(work, ERRORS, sentence)
    if code:
        sys.exit(code)
    return argv[:1]


def seeds_from(config, count: int, given: Iterable[str]) -> tuple[int, ...]:
    """The seeds of `--seeds=COUNT`. Raises ValueError: `config.seeds` was given as well."""
    if "seeds" in given:
        raise ValueError(
            "--seeds and --config.seeds were given, which say the same: leave one out."
        )
    return tuple(range(config.seed, config.seed + count))


def main(argv: list[str]) -> None:
    """Entry point: a compilation cache, exit codes."""
    del argv
    config = _CONFIG.value
    keep_compiled()

    def work() -> None:
        hosts.start(hosts.find_hosts(*(flag.value for flag in _HOSTS)))
        hosts.only_chief_prints()
        given = given_keys(flags.FLAGS)
        if _SEEDS.value:
            config.seeds = seeds_from(config, _SEEDS.value, given)
        check_given(config, given)
        take_teacher(config, given)
        run(config, _WORKDIR.value or f"runs/{config.task}")

    try:
        code = run_command(work, (ValueError, OSError, Diverged))
    except Stopped as stopped:
        print(f"{stopped}; the same command goes on from there", flush=True)
        code = REQUEUE
    if code:
        sys.exit(code)


def entry() -> None:
    """The command, once it has said that it starts (`starting.begin`)."""
    stopping_says(" before the first step: nothing is lost, the same command starts again")
    app.run(main, flags_parser=parse_flags)


if __name__ == "__main__":
    entry()
