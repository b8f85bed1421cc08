"""Train a bridge, distil it, evaluate both: `python -m jax_bridges.main --config=inpaint`.

--config is the name of a configuration that comes with the package, with or without a :VARIANT
("inpaint:long"), or a Python file of the same kind (configs/inpaint.py); --config.KEY=VALUE changes a key.
--version says which version this is.
"""

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
from typing import Any

import jax
from absl import app, flags

from jax_bridges import hosts
from jax_bridges.acts import choose_act
from jax_bridges.acts.longer import check_longer, is_longer
from jax_bridges.acts.seeds import (
    check_layout,
    folder_of,
    is_taken_in,
    of_seed,
    portable,
    run_seeds,
    seed_to_take_in,
    take_in,
)
from jax_bridges.command import keep_compiled, run_command
from jax_bridges.command_line import ERRORS, define_config, given_keys, read_command_line, sentence
from jax_bridges.config import changed, differences, migrate, record
from jax_bridges.configurations import named
from jax_bridges.data import Source, check_classes, has_validation, make_source
from jax_bridges.io.atomic import check_writable, is_writable, write_atomic
from jax_bridges.io.bucket import is_bucket, place
from jax_bridges.report.html import build_report
from jax_bridges.report.table import format_table
from jax_bridges.stages.evaluate import earlier_results
from jax_bridges.stages.log import Callback, MetricsLog, NoLog, check_callbacks
from jax_bridges.stages.run import Diverged, Run, Stopped, StopSignal
from jax_bridges.stages.teacher import check_teacher, take_teacher
from jax_bridges.starting import REQUEUE, stopping_says
from jax_bridges.training.parallel import Parallel
from jax_bridges.training.system import System
from jax_bridges.validation import check_evaluation, check_given, validate


def run(config, workdir: str | os.PathLike, callbacks: Iterable[Callback] = ()) -> Path:
    """Everything from a configuration to report.html; goes on where an earlier start stopped.

        config = jb.get_config("inpaint")
        config.train.steps = 2000
        jb.run(config, "runs/mine", [lambda stage, step, metrics: print(stage, step, metrics["loss"])])
        jb.load("runs/mine", "teacher").sample(xT, sampler="dbim", nfe=10)

    Args:
      config: a complete configuration (jax_bridges/config.py).
      workdir: folder for config.json, metrics.jsonl, checkpoints/, samples/, results.json, report.html.
      callbacks: each is called as `callback(stage, step, metrics)` after every line of metrics.jsonl, every
        `config.log_every` steps: "train" or "distill" (in a comparison "distill_METHOD"), the steps that the
        stage has made, and its numbers by name, unrounded. Of several hosts each calls its own. What one
        raises ends the run and passes as it is: the last checkpoint stays, from which the next start goes on.

    Returns:
      The path of the report.

    Raises:
      ValueError: a configuration that cannot run, or one that differs from the folder's; a callback that
        is no function.
      Stopped, Diverged: see stages/run.py.
    """
    workdir, callbacks = place(workdir), check_callbacks(callbacks)
    check_layout(config, workdir)
    if config.seeds:
        return _run_seeds(config, workdir, callbacks)
    with contextlib.ExitStack() as ends:  # signals and logs, whichever way it ends
        return _run(config, workdir, ends, lambda: begin_workdir(workdir, config), callbacks)


def _run_seeds(config, workdir: Path, callbacks: tuple[Callback, ...]) -> Path:
    validate(config)
    first = of_seed(config, config.seeds[0], workdir)
    alone = seed_to_take_in(config, workdir)
    if alone is None:
        check_workdir(workdir, json.loads(config.to_json_best_effort()))
    else:
        _take_in(alone, config, workdir)
    if not is_writable(workdir):
        return show_finished(workdir, first)

    def run_seed(its, folder: Path) -> None:
        def begin() -> None:
            begin_workdir(workdir, config)
            begin_workdir(folder, its)

        with contextlib.ExitStack() as ends:
            _run(its, folder, ends, begin, callbacks)

    run_seeds(config, workdir, run_seed)
    if hosts.is_chief():
        print(f"report: {build_report(workdir)}", flush=True)
    hosts.barrier("reported")
    return workdir / "report.html"


def _take_in(seed: int, config, workdir: Path) -> None:
    """Makes the run of one seed that lies in the folder one of several, once nothing is to be refused."""
    own = of_seed(config, seed, workdir)
    if not is_taken_in(seed, workdir):
        check_workdir(workdir, json.loads(own.to_json_best_effort()))
    check_writable(workdir)
    validate(own, Parallel.create(own.parallel.mode, own.parallel.fsdp).devices)
    _open_data(own)
    hosts.barrier("taking in")  # all have looked
    if hosts.is_chief():
        print(f"{workdir}: its run of seed {seed} moves to {workdir / folder_of(seed)}", flush=True)
        take_in(seed, workdir, lambda: write_config(workdir, config))
    hosts.barrier("taken in")


def _run(
    config,
    workdir: Path,
    ends: contextlib.ExitStack,
    begin: Callable[[], None],
    callbacks: tuple[Callback, ...],
) -> Path:
    # -- check -------------------------------------------------------------------------------------
    parallel = Parallel.create(config.parallel.mode, config.parallel.fsdp)
    validate(config, parallel.devices)
    resolved = json.loads(config.to_json_best_effort())
    check_workdir(workdir, resolved)
    if not is_writable(workdir):
        return show_finished(workdir, config)
    check_teacher(resolved)

    # -- data, system --------------------------------------------------------------------------------
    train_data, test_data = _open_data(config)
    watched = None
    if config.evaluate.every and has_validation(config.data):
        watched = make_source(config.data, "validation")
    system = System.create(config)
    stop = StopSignal()
    stop.listen()
    ends.callback(stop.leave)
    log = MetricsLog(workdir) if hosts.is_chief() else NoLog()  # writes nothing yet
    ends.callback(log.close)
    this = Run(
        config, workdir, system, parallel, train_data, test_data, log, stop,
        watched=watched, callbacks=callbacks,
    )  # fmt: skip

    # -- plan, act, report ---------------------------------------------------------------------------
    choose_act(config).do(this, begin)
    if hosts.is_chief():
        log.flush()
        report = build_report(workdir)
        print(f"report: {report}", flush=True)
    hosts.barrier("done")  # the first to leave would end the others
    return workdir / "report.html"


def _open_data(config) -> tuple[Source, Source]:
    """What is trained and evaluated on. Raises ValueError: it does not fit the configuration."""
    splits = ("train", config.evaluate.split)
    train_data, test_data = (make_source(config.data, split) for split in splits)
    check_classes(config.network.get("num_classes", 0), config.data, train_data, test_data)
    check_evaluation(config, test_data)
    return train_data, test_data


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
    """Writes config.json, once all hosts have found nothing to refuse; results of a shorter run go."""
    hosts.barrier("checked")
    if hosts.is_chief():
        if check_workdir(workdir, json.loads(config.to_json_best_effort())):
            (workdir / "results.json").unlink(missing_ok=True)
        write_config(workdir, config)
    hosts.barrier("begun")  # all see the same results, or none


def write_config(workdir: Path, config) -> None:
    """Writes config.json."""
    text = json.dumps(portable(record(config), workdir), indent=1) + "\n"
    write_atomic(workdir / "config.json", text.encode())


def check_workdir(workdir: Path, resolved: dict) -> bool:
    """Refuses a folder whose run had another configuration, naming the keys that differ.

    Returns:
      Whether the configuration differs in that stages have more steps, with which they can go on.
    """
    path = workdir / "config.json"
    if not is_bucket(workdir) and str(workdir).split("/")[0].endswith(":"):  # a Path has one slash
        raise ValueError(
            f"--workdir={workdir} is no folder: name gs://BUCKET/FOLDER, or a folder that another "
            "bucket is mounted on."
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
        return False
    try:
        recorded = json.loads(path.read_text("utf-8-sig"))
        if not isinstance(recorded, dict):
            raise ValueError("it is no configuration")
    except ValueError as error:
        raise ValueError(
            f"{path} cannot be read ({error}): put it back, or give a new folder with --workdir."
        ) from None
    old, new = (portable(each, workdir) for each in (migrate(recorded), resolved))
    found = changed(old, new)
    longer = {key: pair for key, pair in found.items() if is_longer(key, *pair)}
    if len(longer) < len(found):
        raise ValueError(
            f"{workdir} holds a run with another configuration; go on with that one, or give another "
            "--workdir. These keys differ:\n  " + "\n  ".join(differences(old, new))
        )
    if longer:
        check_longer(resolved, workdir, longer)
        check_writable(workdir)
    return bool(longer)


def define_flags() -> None:
    """The command's, once. Not the module's: a program with flags of its own may import `run`."""
    if "config" in flags.FLAGS:
        return
    names = ", ".join(named())
    about = f"Configuration, NAME or FILE.py, with :VARIANT: {names}; --helpfull lists its keys."
    define_config(flags.FLAGS, about)
    about = "Folder the run leaves behind; runs/TASK by default. Several hosts share it."
    flags.DEFINE_string("workdir", None, about)
    about = "So many runs in one folder, of config.seed and the seeds after it, averaged."
    flags.DEFINE_integer("seeds", None, about, 1)
    define = {str: flags.DEFINE_string, int: flags.DEFINE_integer}
    for name, (like, about) in hosts.FLAGS.items():
        define[type(like)](name, like, about)


def parse_flags(argv: list[str]) -> list[str]:
    """The flags; what is wrong with them, or with the configuration file, is one sentence and exit code 1."""

    def work() -> None:
        read_command_line(flags.FLAGS, argv)
        if flags.FLAGS.config is None:
            names = ", ".join(named())
            raise ValueError(
                f"Say what to run: --config=inpaint, one of {names}, or a file of yours."
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
    given_flags = flags.FLAGS
    config = given_flags.config
    keep_compiled()

    def work() -> None:
        asked: list[Any] = [given_flags[name].value for name in hosts.FLAGS]
        hosts.join(*asked)
        hosts.only_chief_prints()
        given = given_keys(given_flags)
        if given_flags.seeds:
            config.seeds = seeds_from(config, given_flags.seeds, given)
        check_given(config, given)
        take_teacher(config, given)
        try:
            run(config, given_flags.workdir or f"runs/{config.task}")
        except jax.errors.JaxRuntimeError as error:
            hosts.outlive(error)
            raise

    try:
        code = run_command(work, (ValueError, OSError, Diverged))
    except Stopped as stopped:
        print(f"{stopped}; the same command goes on from there", flush=True)
        code = REQUEUE
    if code:
        sys.exit(code)


def entry() -> None:
    """The command, once it has said that it starts (`starting.begin`)."""
    define_flags()
    stopping_says(" before the first step: nothing is lost, the same command starts again")
    app.run(main, flags_parser=parse_flags)


if __name__ == "__main__":
    entry()
