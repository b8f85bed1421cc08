"""What every stage of a run shares, and the loop that trains."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from tqdm.auto import tqdm

from jax_bridges import hosts
from jax_bridges.checkpoints import Checkpoints, NotSaved
from jax_bridges.command import one_sentence, time_left
from jax_bridges.config import record
from jax_bridges.data import Loader, Source
from jax_bridges.io.bucket import Mirror
from jax_bridges.keys import Purpose
from jax_bridges.stages.log import Callback, MetricsLog, NoLog
from jax_bridges.starting import draws_bars, first_says, release_signals
from jax_bridges.training.parallel import Parallel
from jax_bridges.training.state import State
from jax_bridges.training.system import System
from jax_bridges.typing import Array, PyTree


class Stopped(Exception):
    """The run was asked to stop (SIGTERM, Ctrl-C) and has saved; the same command goes on."""


class Diverged(RuntimeError):
    """Gradients stayed non-finite; the last good checkpoint is kept."""


class StopSignal:
    """Turns SIGTERM and SIGINT into a flag that the loop reads between steps; a second Ctrl-C kills.

    A command ends at once until its first step is made (starting.py): there is nothing to be saved yet.

    Of several hosts a signal to any one stops all, at the same step.
    """

    def __init__(self):
        self._event = threading.Event()
        self._asked = 0
        self._before: dict[int, Any] = {}  # signal -> who had it

    def listen(self) -> None:
        """Installs the handlers; in another thread than the main one, which alone may, does nothing."""
        if threading.current_thread() is not threading.main_thread():
            return
        numbers = [signal.SIGINT]
        if jax.process_count() == 1:  # else JAX listens for SIGTERM, since it was started
            numbers.append(signal.SIGTERM)
        self._before = {number: signal.signal(number, self._handle) for number in numbers}

    def leave(self) -> None:
        """Gives the signals back to whoever had them: the caller's program may go on."""
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}

    def _handle(self, number: int, frame: Any) -> None:
        if jax.process_count() == 1:
            self._event.set()
        else:
            signal.raise_signal(signal.SIGTERM)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def is_set(self) -> bool:
        """Whether to stop now; all hosts must ask at the same places, and get the same answer."""
        if jax.process_count() > 1 and not self._event.is_set():
            self._asked += 1
            if hosts.all_reached_stop(self._asked):
                self._event.set()
        return self._event.is_set()


class Profile:
    """Records a few steps of a stage, to be looked at with xprof; of several hosts the first's."""

    def __init__(self, folder: Path, first: int, steps: int):
        """`steps` steps after the `first` ones of this start; 0: none."""
        self._folder, self._first, self._running = folder, first, False
        self._steps = steps if hosts.is_chief() else 0

    def before(self, step: int, state: PyTree) -> None:
        """Starts or ends the recording before the step of this number, counted from this start."""
        if self._steps and step == self._first:
            jax.block_until_ready(state)
            self._mirror = Mirror(self._folder)
            jax.profiler.start_trace(str(self._mirror.folder))
            self._running = True
        elif step == self._first + self._steps:
            self.close(state)

    def close(self, state: PyTree = None) -> None:
        """Ends a recording that is running, once `state` has been computed."""
        if self._running:
            self._running = False
            jax.block_until_ready(state)
            jax.profiler.stop_trace()
            self._mirror.send(now=True)
            self._mirror.close()
            print(f"profile: {self._folder}", flush=True)


@dataclasses.dataclass
class Run:
    """One run: its configuration, the folder it leaves behind, and what all stages use.

    Attributes:
      watched: the split for validation, where there is one and stages are watched on it (held_out.py).
      callbacks: told of every line of metrics.jsonl, on every host.
      theirs: what a callback has raised.
    """

    config: Any
    workdir: Path
    system: System
    parallel: Parallel
    train_data: Source
    test_data: Source
    log: MetricsLog | NoLog
    stop: StopSignal
    programs: dict[str, Callable] = dataclasses.field(default_factory=dict)
    watched: Source | None = None
    callbacks: tuple[Callback, ...] = ()
    theirs: BaseException | None = None

    def program(self, name: str, make: Callable[[], Callable]) -> Callable:
        """`make()`, once under this name: what one stage has compiled is not compiled for another.

        Its first call says that it compiles, by the name.
        """
        if name not in self.programs:
            self.programs[name] = first_says(name, make())
        return self.programs[name]

    def tell(self, stage: str, step: int, **values: float) -> None:
        """Writes a line of metrics.jsonl, and tells the callbacks, whose exceptions pass."""
        self.log.write(stage, step, **values)
        try:
            for callback in self.callbacks:
                callback(stage, step, dict(values))
        except BaseException as error:
            self.theirs = error
            raise

    def key(self, purpose: Purpose, number: int = 0) -> Array:
        """Base key of a purpose, and of a round of it; those of held-out images may have their own seed."""
        held_out = purpose in (Purpose.EVALUATE, Purpose.WATCH)
        its = self.config.evaluate.seed if held_out else -1
        key = jax.random.fold_in(jax.random.key(its if its >= 0 else self.config.seed), purpose)
        return jax.random.fold_in(key, number) if number else key

    def done(self, stage: str) -> int:
        """Step of a stage's newest checkpoint; 0 without one. Nothing is created."""
        folder = self.workdir / "checkpoints" / stage
        if not folder.is_dir():
            return 0
        with Checkpoints(folder, read_only=True) as checkpoints:
            return checkpoints.latest() or 0

    def checkpoints(self, stage: str) -> Checkpoints:
        """The checkpoints of a stage."""
        return Checkpoints(self.workdir / "checkpoints" / stage, self.config.checkpoints_kept)


@dataclasses.dataclass
class Stage:
    """A stage that trains: what the loop needs to know, and what the plan prints.

    Attributes:
      name: of the folder under checkpoints/ and of the lines in metrics.jsonl.
      init, draws: purposes of the base keys, of its first parameters and of what its steps draw.
      make_state: `make_state(key, frozen) -> State` at step 0.
      step: wrapped by `parallel.step`.
      batch_shape: (B,), or (G, B) for a step that makes G updates.
      steps: length of the stage.
      max_skipped: steps in a row with a non-finite gradient before the run stops; looked at every so
        many and one, and whenever a line is logged.
      player: whose average the stage is for.
      frozen: parameters the step reads but does not train; shapes until they are known.
      raw: makes what `make_state` takes besides, when the stage begins: the teacher's raw weights.
      data: `data(run) -> Source`, asked when the stage begins; the run's training data by default.
      loss: `loss(params, batch, key) -> [B]` of held-out images, where they tell more by it than by metrics.
      number: of stages of one kind that follow each other: from 1 on each has random numbers of its own.
    """

    name: str
    init: Purpose
    draws: Purpose
    make_state: Callable[[Array, PyTree], State]
    step: Callable
    batch_shape: tuple[int, ...]
    steps: int
    max_skipped: int
    player: str
    frozen: PyTree = None
    raw: Callable[[], PyTree] | None = None
    data: Callable[[Run], Source] | None = None
    loss: Callable[[PyTree, PyTree, Array], Array] | None = None
    number: int = 0

    @property
    def images(self) -> int:
        """Images that one step sees."""
        return int(np.prod(self.batch_shape))

    @property
    def batch_axis(self) -> int:
        """The axis that is split over devices."""
        return len(self.batch_shape) - 1


class Watch(Protocol):
    """What looks at held-out images while a stage trains (held_out.py)."""

    every: int

    def __call__(self, state: State, step: int) -> dict[str, float]: ...

    def close(self) -> None: ...


def train_stage(
    run: Run, stage: Stage, show: Callable[[State, int], None], watch: Watch | None = None
) -> PyTree:
    """Trains a stage from where it stopped to its end; a finished one is only read.

    Args:
      show: `show(state, step)` saves a picture; called at the end and every `pictures_every` steps.
      watch: its numbers join the line of the step; asked every `watch.every` steps and at the end.

    Returns:
      The averaged parameters of `stage.player` at the last step.

    Raises:
      Stopped: a signal came; everything is saved.
      Diverged: gradients stayed non-finite.
      OSError: something could not be written; the text says what, and where the stage goes on.
    """
    config, checkpoints = run.config, run.checkpoints(stage.name)
    done = checkpoints.latest() or 0
    if done >= stage.steps:
        print(f"{stage.name}: already done ({done} steps)", flush=True)
        with checkpoints:
            try:
                return checkpoints.restore_ema(_average(run, stage))[stage.player]
            except ValueError as error:
                raise checkpoints.damaged(done, error.__cause__ or error) from error
    raw = [stage.raw()] if stage.raw and not done else []
    init = run.key(stage.init, stage.number)
    state = run.parallel.init(stage.make_state, init, stage.frozen, *raw)
    del raw
    if done:
        state = checkpoints.restore(state)
    if done:
        print(f"{stage.name}: going on at step {done} of {stage.steps}", flush=True)

    source = stage.data(run) if stage.data else run.train_data
    loader = Loader(
        source, stage.batch_shape, config.seed, jax.process_index(), run.parallel.hosts,
        cache_mb=config.data.cache_mb,
    )  # fmt: skip
    key = run.key(stage.draws, stage.number)
    profile = Profile(run.workdir / "profile" / stage.name, **config.profile)
    meta = {"stage": stage.name, "config": record(config)}
    bar = tqdm(
        total=stage.steps, initial=done, desc=stage.name, unit="step", mininterval=1.0,
        dynamic_ncols=True, disable=not (draws_bars() and hosts.is_chief()),
    )  # fmt: skip
    try:
        with loader.iterate(done) as batches:
            since, at = time.perf_counter(), done
            for step in range(done, stage.steps):
                batch = run.parallel.put(next(batches), stage.batch_axis)
                profile.before(step - done, state)
                with jax.profiler.StepTraceAnnotation(stage.name, step_num=step):
                    state, metrics = stage.step(state, stage.frozen, batch, key)
                if step == done:
                    release_signals()  # to `run.stop`, which saves
                now = step + 1
                bar.update()
                last = now == stage.steps
                if now % (stage.max_skipped + 1) == 0:
                    _skipped(run, stage, state, checkpoints)
                watched = watch is not None and (now % watch.every == 0 or last)
                if now % config.log_every == 0 or last or watched:
                    checkpoints.check()
                    values = {k: float(v) for k, v in metrics.items()}  # waits for the device
                    seconds = time.perf_counter() - since
                    rate = (now - at) * stage.images / seconds
                    skipped = _skipped(run, stage, state, checkpoints)
                    run.tell(
                        stage.name, now, **values, skipped=skipped,
                        images_per_second=rate, seconds_per_step=seconds / (now - at),
                        **(watch(state, now) if watch is not None and watched else {}),
                    )  # fmt: skip
                    _tell(
                        bar,
                        stage,
                        now,
                        values["loss"],
                        rate,
                        (stage.steps - now) * seconds / (now - at),
                    )
                    since, at = time.perf_counter(), now
                stopping = run.stop.is_set() and not last
                if now % config.checkpoint_every == 0 or last or stopping:
                    run.log.flush()  # what it says of the steps that are saved
                    checkpoints.save(state, meta)
                if stopping:
                    raise Stopped(f"{stage.name}: saved at step {now} of {stage.steps}")
                if last or (config.pictures_every and now % config.pictures_every == 0):
                    show(state, now)
                    since, at = time.perf_counter(), now
    except OSError as error:
        if isinstance(error, NotSaved) or error is run.theirs:
            raise
        with contextlib.suppress(NotSaved):  # what is said is the first
            checkpoints.wait()
        step = checkpoints.latest()
        on = f"at step {step}" if step else "from its beginning"
        said = one_sentence(error).rstrip(".")
        raise OSError(f"{said}; the same command then goes on with {stage.name} {on}.") from error
    finally:
        bar.close()
        profile.close()
        checkpoints.close()
    if watch is not None:
        watch.close()
    return state.players[stage.player].ema


def _average(run: Run, stage: Stage) -> dict[str, PyTree]:
    """The shapes of what a stage is for, each leaf where it belongs."""
    key = run.key(stage.init)
    shapes = jax.eval_shape(stage.make_state, key, stage.frozen).players[stage.player].ema
    return {stage.player: run.parallel.placed(shapes)}


def _tell(bar: tqdm, stage: Stage, step: int, loss: float, rate: float, left: float) -> None:
    if bar.disable:
        progress = f"{stage.name} {step}/{stage.steps}  loss {loss:.4g}  {rate:.0f} img/s"
        print(f"{progress}  {time_left(left)}", flush=True)
    else:
        bar.set_postfix_str(f"loss {loss:.4g}, {rate:.0f} img/s")


def _skipped(run: Run, stage: Stage, state: State, checkpoints: Checkpoints) -> int:
    """Steps skipped so far over all players; stops the run if they have not ended."""
    for name, player in state.players.items():
        in_a_row = int(player.skipped_in_a_row)
        if in_a_row > stage.max_skipped:
            saved = checkpoints.latest()
            kept = f"The checkpoint of step {saved} is kept. " if saved else ""
            raise Diverged(
                f"{stage.name}: the last {in_a_row} gradients of the {name} were not finite, more than "
                f"max_skipped = {stage.max_skipped}. {kept}Lower its learning rate, or use dtype float32."
            )
    return sum(int(player.skipped) for player in state.players.values())
