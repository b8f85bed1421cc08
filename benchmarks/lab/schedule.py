"""Which rows are measured, in which process, and when they are cut."""

from __future__ import annotations

import datetime
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from .record import ROOT, THERE, Record
from .rows import Row

MARGIN = 2.0  # seconds that a process may take to end
POLL, BEAT = 0.02, 30.0  # seconds between looks for an answer, and between signs of life
# What the processes of each kind find in their environment. XLA's tuning is kept, as a run keeps it;
# programs are not, for their compilation is measured.
ENVIRONMENT = {
    "main": {},
    "jax": {
        "JAX_COMPILATION_CACHE_DIR": "{scratch}/jax",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "1000000",
        "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92",
    },
    # JAX makes batches there, and leaves the GPU to PyTorch.
    "torch": {"JAX_PLATFORMS": "cpu", "TORCHINDUCTOR_CACHE_DIR": "{scratch}/inductor"},
}


class Worker:
    """A process that measures rows one after the other, with all the processes that it starts."""

    def __init__(self, kind: str, scratch: Path):
        """Starts it; what it prints goes into `scratch`/KIND.log."""
        self.kind, self.log = kind, scratch / f"{kind}.log"
        self._answer = scratch / "answer.json"
        given = {k: v.format(scratch=scratch) for k, v in ENVIRONMENT[kind].items()}
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        with open(self.log, "a") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.lab.worker"],
                env={**os.environ, **given, "PYTHONPATH": os.pathsep.join(paths)},
                stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, text=True,
                start_new_session=True,
            )  # fmt: skip
        assert self._process.stdin is not None  # a pipe
        self._orders = self._process.stdin

    def measure(self, row: Row, arguments: dict, limit: float, beat: Callable) -> dict:
        """The row's answer, by status "ok", "failed", "left out", or "cut" after `limit` seconds.

        Args:
          beat: `beat(seconds)`, called now and then while it works.
        """
        self._answer.unlink(missing_ok=True)
        request = {"row": row.name, "work": row.work, "arguments": arguments}
        request["answer"] = str(self._answer)
        start = told = time.monotonic()
        try:
            self._orders.write(json.dumps(request) + "\n")
            self._orders.flush()
        except BrokenPipeError:
            pass  # it has died, which is seen below
        while True:
            ended = self._process.poll()  # before the look: what it wrote last counts
            if self._answer.exists():
                return json.loads(self._answer.read_text())
            now = time.monotonic()
            if ended is not None:
                error = f"the process ended with {ended}: {self._last_words()}"
                return {"status": "failed", "error": error, "wall_seconds": round(now - start, 2)}
            if now - start > limit:
                error = f"not done after {limit:.0f} s"
                return {"status": "cut", "error": error, "wall_seconds": round(now - start, 2)}
            if now - told > BEAT:
                told = now
                beat(now - start)
            time.sleep(POLL)

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else "it said nothing"

    def end(self, wait: float = MARGIN) -> None:
        """Lets it end by itself for `wait` seconds, then kills it and all that it started."""
        if wait:
            self._orders.close()
            try:
                self._process.wait(wait)
            except subprocess.TimeoutExpired:
                pass
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # all gone
        self._process.wait()


def run_rows(
    rows: Iterable[Row],
    record: Record,
    about: dict,
    scratch: Path,
    minutes: float,
    retry: bool = False,
    tell: Callable[[str], None] = print,
) -> list[str]:
    """Measures the rows that are not there, each into the record as soon as it is done.

    Args:
      rows: in order; those that follow each other with one worker share a process, unless one fails.
      record: gets a line for every row that was begun.
      about: "size" ("full" or "toy"), "machine" and "versions", part of every line.
      scratch: folder for logs, outputs that are compared, and what compilers keep.
      minutes: after which nothing runs any more.
      retry: rows that failed or were cut once are begun again.

    Returns:
      Names of the rows that were not begun, for lack of time.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * minutes
    left_over, worker = [], None
    try:
        for row in rows:
            old = record.find(row.name, about["size"], about["machine"]["device"])
            if old and old["status"] in (("ok",) if retry else THERE):
                tell(f"{row.name}: there already ({old['status']})")
                continue
            if worker and worker.kind != row.worker:
                worker.end()
                worker = None
            left = end - MARGIN - time.monotonic()
            if left < row.expected:
                tell(f"{row.name}: not begun, it takes about {row.expected:.0f} s")
                left_over.append(row.name)
                continue
            limit = min(row.limit, left)
            tell(f"{row.name}: {row.what}, {limit:.0f} s at most")
            worker = worker or Worker(row.worker, scratch)
            arguments = {"toy": about["size"] == "toy", "scratch": str(scratch), **row.settings}
            found = worker.measure(
                row, arguments, limit, lambda s, name=row.name: tell(f"{name}: {s:.0f} s")
            )
            if found["status"] != "ok":  # its memory, or its device, may be in disorder
                worker.end(wait=0)
                worker = None
            record.add(
                {
                    "row": row.name, "what": row.what, **row.settings, **about, **found,
                    "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
                    "command": command(row.name, about["size"]),
                }
            )  # fmt: skip
            tell(f"{row.name}: {outcome(found)}")
    finally:
        if worker:
            worker.end(wait=0)
    return left_over


def command(name: str, size: str) -> str:
    """That measures one row alone."""
    return f"benchmarks/gpu.sh --rows={name}" + (" --toy" if size == "toy" else "")


def outcome(found: dict) -> str:
    """A row's answer in a few words."""
    if found["status"] != "ok":
        return f"{found['status']}: {found['error']}"
    words = []
    if "seconds" in found:
        long = found["seconds"] >= 10
        words.append(f"{found['seconds']:.4g} s" if long else f"{1e3 * found['seconds']:.4g} ms")
    if "tflops" in found:
        words.append(f"{found['tflops']:.3g} TFLOP/s")
    if found.get("compile_seconds") is not None:
        words.append(f"compiled in {found['compile_seconds']:.0f} s")
    if "difference" in found:
        words.append(f"difference {found['difference']:.2g}")
    return ", ".join(words)
