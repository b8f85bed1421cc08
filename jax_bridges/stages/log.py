"""What a run tells while it trains: metrics.jsonl and TensorBoard beside it."""

from __future__ import annotations

import contextlib
import io
import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TextIO

import numpy as np

from jax_bridges.io.atomic import naming, write_atomic
from jax_bridges.io.bucket import Mirror

# `callback(stage, step, metrics)`, of a line of metrics.jsonl: the stage's name, the steps it has made, and
# its numbers as they were measured, by name.
Callback = Callable[[str, int, dict[str, float]], object]


def check_callbacks(callbacks: Iterable[Callback]) -> tuple[Callback, ...]:
    """The callbacks as a tuple. Raises ValueError: one is no function."""
    callbacks = tuple(callbacks)
    for each in callbacks:
        if not callable(each):
            raise ValueError(
                f"callbacks has {each!r}: each must be a function that takes (stage, step, metrics)."
            )
    return callbacks


class MetricsLog:
    """Appends JSON lines to metrics.jsonl, and the same numbers to a TensorBoard file beside it.

    Both are made by the first line. What cannot be written raises at once, where it can be said:
    tensorboardX's own writer has a thread, which on a full disk ends in a traceback, and then hangs. In a
    bucket, where nothing can be appended to, both are sent whole, now and then (`Mirror`).
    """

    def __init__(self, workdir: Path):
        self._workdir: Path = workdir
        self._lines: TextIO | None = None
        self._mirror = Mirror(workdir)

    def _open(self) -> TextIO:
        from tensorboardX.event_file_writer import EventsWriter

        board = self._mirror.folder / "tensorboard"
        board.mkdir(parents=True, exist_ok=True)
        path = self._mirror.folder / "metrics.jsonl"
        self._mirror.fetch(path.name)
        cut = path.exists() and path.read_bytes()[-1:] not in (b"", b"\n")
        self._lines = lines = open(path, "a", buffering=1)
        if cut:  # a killed run left half a line: the next one must not join it
            lines.write("\n")
        self._board = EventsWriter(str(board / "events"))
        return lines

    def write(self, stage: str, step: int, **values: float) -> None:
        """One line; numbers are rounded to 6 digits, and null where they are not finite (JSON has no NaN)."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        short = {k: float(f"{v:.6g}") if np.isfinite(v) else None for k, v in values.items()}
        with naming(self._workdir / "metrics.jsonl"):
            lines = self._open() if self._lines is None else self._lines
            lines.write(json.dumps({"stage": stage, "step": step, **short}) + "\n")
        with naming(self._workdir / "tensorboard"):
            for name, value in short.items():
                if value is not None:
                    summary = scalar(f"{stage}/{name}", value)
                    self._board.write_event(
                        Event(wall_time=time.time(), step=step, summary=summary)
                    )
            self._board.flush()
        self._mirror.send()

    def flush(self) -> None:
        """Returns when everything is where it belongs."""
        self._mirror.send(now=True)

    def picture(self, stage: str, step: int, name: str, png: bytes) -> None:
        """samples/NAME-STAGE-STEP.png, and the same in TensorBoard; after the line of the step or before."""
        from PIL import Image
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import image

        if self._lines is None:
            with naming(self._workdir / "metrics.jsonl"):
                self._open()
        write_atomic(self._workdir / "samples" / f"{name}-{stage}-{step}.png", png)
        array = np.asarray(Image.open(io.BytesIO(png)))
        with naming(self._workdir / "tensorboard"):
            summary = image(f"{stage}/{name}", array, dataformats="HWC")
            self._board.write_event(Event(wall_time=time.time(), step=step, summary=summary))
            self._board.flush()

    def close(self) -> None:
        """Closes both.

        Raises:
          OSError: what is left of them could not be sent.
        """
        try:
            if self._lines is not None:
                for file in (self._lines, self._board):
                    with contextlib.suppress(OSError):  # said by `write`
                        file.close()
                self._lines = None
                self._mirror.send(now=True)
        finally:
            self._mirror.close()


class NoLog:
    """In place of `MetricsLog` on all hosts but the first."""

    def write(self, stage: str, step: int, **values: float) -> None:
        """Does nothing."""

    def picture(self, stage: str, step: int, name: str, png: bytes) -> None:
        """Does nothing."""

    def flush(self) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""
