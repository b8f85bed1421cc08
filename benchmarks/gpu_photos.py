"""A restorer of photographs trained on one GPU within minutes: `benchmarks/gpu_photos.sh`.

    benchmarks/gpu_photos.sh inpaint PHOTOS OUT --minutes=8     # PHOTOS: a folder with train/ and test/
    benchmarks/gpu_photos.sh inpaint PHOTOS OUT --toy           # in small, on a CPU too
    benchmarks/gpu_photos.sh jpeg PHOTOS OUT --teacher          # half an hour on a CPU, no student

It trains the teacher of configs/photos.py:TASK for its share of the minutes, then the student, and stops by
the clock: how many steps that are is up to the GPU. OUT gets student.safetensors (float16),
teacher.safetensors (float32), config.json, metrics.jsonl and trained.json; the run itself, with its
checkpoints, is in --work. Killed at any moment, the same command goes on from the last checkpoint.

With --teacher or --student there is no clock: that one alone is trained, with batch, steps and rate of the
configuration, and OUT gets it in float16, to be called once, as such models ship with the package.
--init=RUN goes on from the teacher of another run, or --init=photos:TASK from the one that ships, on other
crops, for --steps; a student is of that teacher, by default of the one that ships. --config.KEY=VALUE changes
a key, as of the main job: so parts are left out one at a time (results/photos_ablation.md).
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path

from jax_bridges.starting import begin

BEGAN = time.monotonic()
ROOT = Path(__file__).parent.parent
AGAIN = 75  # EX_TEMPFAIL, as of the main job
TASKS = ("inpaint", "jpeg", "denoise", "superres")
SHARES = {"train": 0.55, "distill": 1.0}  # of the minutes, by which a stage ends
PACKING = 12.0  # seconds
NEVER = 10**6  # steps: the clock comes first


def say(text: str) -> None:
    """A line with the seconds since the start."""
    print(f"[{time.monotonic() - BEGAN:5.0f} s] {text}", flush=True)


def arguments(argv: list[str]) -> argparse.Namespace:
    """The options. Raises a ValueError for those that say nothing, or an OUT that cannot be written to."""
    from jax_bridges.command import Parser
    from jax_bridges.io.atomic import check_writable

    parser = Parser(
        prog="benchmarks/gpu_photos.sh", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("task", choices=TASKS)
    add("data", type=Path, help="folder of photographs, or one with train/ and test/")
    add("out", type=Path, help="folder of the results")
    add("--minutes", type=float, default=9.0, help="from start to saved student (9)")
    add("--work", type=Path, help="folder of the run (runs/photos_TASK; with --toy _toy behind)")
    add("--toy", action="store_true", help="a small network and small pieces, on whatever device")
    add("--teacher", action="store_true", help="the teacher alone, as the configuration says")
    add("--student", action="store_true", help="the student alone, the same, of a teacher there is")
    add("--init", help="with either: that teacher, the folder of a run or a model that ships")
    add("--steps", type=int, help="with either: in place of the configuration's")
    options, rest = parser.parse_known_args(argv)
    options.changes = [word for word in rest if word.startswith("--config.")]
    if len(options.changes) < len(rest):
        parser.parse_args(argv)  # which says what is wrong
    if options.teacher and options.student:
        raise ValueError("--teacher and --student are one alone: leave both out for both.")
    options.alone = "teacher" if options.teacher else "student" if options.student else ""
    if not options.alone and (options.init or options.steps is not None or options.changes):
        raise ValueError(
            "--init, --steps and --config.KEY are for one alone: give --teacher or --student as well."
        )
    if options.steps is not None and options.steps < 1:
        raise ValueError(f"--steps={options.steps}: it must be at least 1.")
    if options.alone and options.toy:
        raise ValueError(
            f"--{options.alone} trains as the configuration says, and --toy in small: leave one out."
        )
    if not options.minutes > 0:
        raise ValueError(f"--minutes={options.minutes:g}: it must be above 0.")
    if not options.data.is_dir():
        raise ValueError(f"There is no folder {options.data}: give one with photographs.")
    check_writable(options.out)
    name = f"runs/photos_{options.task}" + "_toy" * options.toy + "_student" * options.student
    options.work = (options.work or ROOT / name).absolute()
    return options


def configuration(options: argparse.Namespace):
    """That of configs/photos.py with batches for a GPU; at toy size with ones for a test."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("photos", ROOT / "configs/photos.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config(options.task)
    config.data.path = str(options.data.absolute())
    if options.alone:
        stage = config.train if options.teacher else config.distill
        stage.steps = options.steps or stage.steps
        config.log_every = 10  # an update of a student takes seconds on a CPU
        if options.student:
            config.teacher.checkpoint = teacher_of(options.init or f"photos:{options.task}")
        elif options.init:
            config.teacher.init = teacher_of(options.init)
            config.seed = seed_of(config.teacher.init) + 1
        if options.changes:
            change(config, options.changes)
        return config
    config.train.steps = config.distill.steps = NEVER
    # Of a schedule the end would have to be known: the average does what a falling rate would.
    config.train.optimizer.schedule = config.distill.optimizer.schedule = "constant"
    config.distill.bridge_optimizer.schedule = "constant"
    config.distill.optimizer.delay, config.distill.optimizer.warmup = 0.0, 200
    config.train.optimizer.learning_rate = 1e-3
    config.network.dtype = "bfloat16"
    config.train.batch, config.distill.batch = 512, 128
    config.log_every, config.checkpoint_every = 20, 1000
    if options.toy:
        config.network.update(widths=(16, 32, 48), dtype="float32")
        config.data.size = 32
        config.train.batch, config.distill.batch = 32, 8
        config.train.optimizer.warmup = config.distill.optimizer.warmup = 20
        config.log_every, config.checkpoint_every = 5, 50
    return config


def change(config, words: list[str]) -> None:
    """Sets keys of a configuration by "--config.KEY=VALUE", as the main job reads them; or a ValueError."""
    from absl import flags
    from ml_collections import config_flags

    values, argv = flags.FlagValues(), ["gpu_photos", *words]
    try:
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=argv)
        values(argv)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        said = str(error).splitlines()[0]
        raise ValueError(
            f"{' '.join(words)}: no such key, or no such value of it ({said})."
        ) from error


def seed_of(name: str) -> int:
    """Of a teacher's last training; an import has none, and counts as 0."""
    from jax_bridges.packed import find_model, read_packed
    from jax_bridges.players import recorded_config

    path = find_model(name)
    recorded = recorded_config(path, "teacher") if path.is_dir() else read_packed(path)[1]
    return recorded.get("seed", 0)


def teacher_of(name: str) -> str:
    """A model that ships by its name, another by its whole path; FileNotFoundError if there is none."""
    from jax_bridges.packed import find_model, shipped

    path = find_model(name)
    return name if name in shipped() else str(path.absolute())


class Clock:
    """Ends a stage by the time, in place of the signal that a run listens to, which ends it too.

    Attributes:
      signalled: it was the signal.
    """

    def __init__(self, stop, path: Path, stage: str, minutes: float):
        """
        Args:
          stop: the signal's flag, `is_set()`.
          path: where the seconds that each stage has had are kept for the next start.
          minutes: of the whole, of which the stage may have its share.
        """
        self._stop, self._path, self._stage = stop, path, stage
        self._spent = json.loads(path.read_text()) if path.exists() else {}
        shares = [0.0, *SHARES.values()]
        place = list(SHARES).index(stage)
        share = (shares[place + 1] - shares[place]) * 60 * minutes
        before = self._spent.get(stage, 0.0)
        # The first stage pays for the start, the last one for the packing.
        self._began = (BEGAN if place == 0 and not before else time.monotonic()) - before
        self._end = self._began + share
        if place == len(SHARES) - 1:
            self._end = min(self._end, BEGAN + 60 * minutes) - PACKING
        self._wrote = 0.0

    @property
    def end(self) -> float:
        """Seconds since the start of the program."""
        return self._end - BEGAN

    @property
    def signalled(self) -> bool:
        return self._stop.is_set()

    def is_set(self) -> bool:
        """Whether the stage has had its time."""
        now = time.monotonic()
        if now - self._wrote > 2:
            self._wrote = now
            self.write()
        return self.signalled or now >= self._end

    def write(self) -> None:
        """Keeps the time that the stage has had."""
        from jax_bridges.io.atomic import write_atomic

        spent = {**self._spent, self._stage: time.monotonic() - self._began}
        write_atomic(self._path, json.dumps(spent).encode())


def train_both(options: argparse.Namespace, config) -> None:
    """The two stages, each until its time is over; raises Stopped if a signal came."""
    from jax_bridges.data import make_source
    from jax_bridges.main import begin_workdir, check_workdir
    from jax_bridges.players import DISTILL, TRAIN
    from jax_bridges.stages.distill import distill
    from jax_bridges.stages.log import MetricsLog
    from jax_bridges.stages.run import Run, Stopped, StopSignal, train_stage
    from jax_bridges.stages.teacher import check_teacher, load_teacher
    from jax_bridges.stages.train import train
    from jax_bridges.training.parallel import Parallel
    from jax_bridges.training.system import System
    from jax_bridges.validation import validate

    parallel = Parallel.create(config.parallel.mode, config.parallel.fsdp)
    validate(config, parallel.devices)
    resolved = json.loads(config.to_json_best_effort())
    check_teacher(resolved)
    check_workdir(options.work, resolved)
    data, held_out = (make_source(config.data, split) for split in ("train", "test"))
    say(f"{len(data)} pieces an epoch of {options.data}")
    stop, log = StopSignal(), MetricsLog(options.work)
    stop.listen()
    run = Run(config, options.work, System.create(config), parallel, data, held_out, log, stop)
    begin_workdir(options.work, config)
    try:
        alone = {"teacher": (TRAIN,), "student": (DISTILL,)}
        for name in alone.get(options.alone, (TRAIN, DISTILL)):
            done = options.work / f"{name}.done"
            if done.exists():
                say(f"{name}: already done")
                continue
            if name == TRAIN:
                stage = train(run)
            else:
                teacher = config.teacher.checkpoint or str(options.work)
                stage = distill(run, load_teacher(run, teacher))
            if options.alone:
                steps = config[name].steps
                say(f"{name}: compiling its step, then {steps} of {stage.images} pieces")
                train_stage(run, stage, lambda state, step: None)
                continue
            clock = Clock(stop, options.work / "clock.json", name, options.minutes)
            say(
                f"{name}: compiling its step, then training on {stage.images} pieces a step "
                f"until {clock.end:.0f} s"
            )
            run.stop = clock  # pyright: ignore[reportAttributeAccessIssue]
            try:
                train_stage(run, stage, lambda state, step: None)
            except Stopped as stopped:
                clock.write()
                if clock.signalled:
                    raise
                say(str(stopped))
            done.write_text("")
    finally:
        log.close()
        stop.leave()


def seconds(options: argparse.Namespace) -> dict[str, float]:
    """What each stage took, over all starts; of one alone that of its steps."""
    if not options.alone:
        return json.loads((options.work / "clock.json").read_text())
    lines = map(json.loads, (options.work / "metrics.jsonl").read_text().splitlines())
    at, spent = 0, 0.0
    for line in lines:
        spent += (line["step"] - at) * line["seconds_per_step"]
        at = line["step"]
    return {"train" if options.teacher else "distill": spent}


def steps_made(work: Path, player: str) -> int:
    """The steps of the checkpoint that holds a player's weights."""
    from jax_bridges.players import open_player

    with open_player(work, player)[0] as checkpoints:
        return checkpoints.meta()["step"]


def pack(options: argparse.Namespace) -> None:
    """The averaged weights of both, and what is known of them, as a few files in OUT."""
    from benchmarks.lab.record import machine, versions
    from jax_bridges.packed import write_packed
    from jax_bridges.players import PLAYERS, read_player
    from jax_bridges.stages.teacher import teacher_record

    options.out.mkdir(parents=True, exist_ok=True)
    recorded = json.loads((options.work / "config.json").read_text())
    made = {"teacher": "float32", "student": "float16"}
    if options.alone:
        made, recorded["data"]["path"] = {options.alone: "float16"}, ""
        recorded["teacher"]["init"], recorded["evaluate"][f"{options.alone}_nfe"] = "", [1]
    if options.student:  # how its teacher was trained, which is wherever it was
        recorded["train"] = teacher_record(recorded["teacher"]["checkpoint"])[0]["train"]
        recorded["teacher"]["checkpoint"] = ""
    for player in made:  # a stage that the clock has ended was given more steps than it made
        stage = PLAYERS[player][0]
        recorded[stage]["steps"] = steps_made(options.work, player)
    for player, dtype in made.items():
        params = read_player(options.work, player)[1]
        path = write_packed(options.out / f"{player}.safetensors", player, recorded, params, dtype)
        say(f"{path}: {path.stat().st_size / 1e6:.2f} MB")
    for name in ("config.json", "metrics.jsonl"):
        shutil.copy(options.work / name, options.out / name)
    how = f"--{options.alone}" if options.alone else f"--minutes={options.minutes:g}"
    init = options.init if str(options.init).startswith("photos:") else "RUN"
    how += " --toy" * options.toy + f" --init={init}" * (options.init is not None)
    how += f" --steps={options.steps}" * (options.steps is not None)
    how += "".join(f" {word}" for word in options.changes)
    about = {
        "command": f"benchmarks/gpu_photos.sh {options.task} PHOTOS OUT {how}",
        "date": time.strftime("%Y-%m-%d"),
        "seconds": seconds(options),
        "machine": machine(),
        "versions": versions(),
    }
    (options.out / "trained.json").write_text(json.dumps(about, indent=1) + "\n")


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    from jax_bridges.command import keep_compiled, run_command
    from jax_bridges.stages.run import Diverged, Stopped

    def work() -> None:
        options = arguments(sys.argv[1:] if argv is None else argv)
        most = "" if options.alone else f" {options.minutes:g} minutes at most,"
        say(f"{options.task}:{most} in {options.work}")
        keep_compiled()
        train_both(options, configuration(options))
        pack(options)
        say("done")

    try:
        return run_command(work, (ValueError, OSError, Diverged))
    except Stopped as stopped:
        say(f"{stopped}; the same command goes on from there")
        return AGAIN


if __name__ == "__main__":
    begin()
    sys.exit(main())
