"""The first seconds of a command: a line at once, Ctrl-C at any moment, and a word on what takes so long.

Nothing heavy is imported here: a command calls `begin` before it imports the rest.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from jax_bridges import __version__

REQUEUE = 75  # EX_TEMPFAIL: stopped by a signal, start again
INTERRUPTED = 128 + signal.SIGINT


class AtOnce:
    """Ends the process as soon as a signal comes, whatever the main thread is at.

    Python's own handlers wait until the main thread is back from where it is, which may be a compiler,
    minutes long. But the signal's number is written to a pipe at once, and a thread reads it.
    """

    def __init__(self):
        self._armed = True
        self._said = ""
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        # The pipe is told of signals that have a handler in Python: one that leaves it all to the thread.
        signal.signal(signal.SIGINT, self._heard)
        threading.Thread(target=self._watch, args=(reader,), daemon=True).start()

    def say(self, sentence: str) -> None:
        """What is said after "stopped" from here on."""
        self._said = sentence

    def release(self) -> None:
        """From here on signals are left to their handlers: there is something to be saved."""
        self._armed = False
        if signal.getsignal(signal.SIGINT) == self._heard:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _heard(self, number: int, frame: object) -> None:
        """Does nothing."""

    def _watch(self, reader: int) -> None:
        while number := os.read(reader, 1)[0]:
            if self._armed and number in (signal.SIGINT, signal.SIGTERM):
                # Not by print, whose buffer the main thread may hold.
                line = "\n" * os.isatty(2) + f"stopped{self._said}\n"  # below ^C
                os.write(2, line.encode())
                _remove_unfinished()  # as no `finally` will
                os._exit(INTERRUPTED if number == signal.SIGINT else REQUEUE)


_at_once: AtOnce | None = None
_unfinished: set[str] = set()


@contextlib.contextmanager
def unfinished(path: str | os.PathLike) -> Iterator[None]:
    """While the block runs, a signal that ends the process at once removes this file or folder first."""
    name = os.fspath(path)
    _unfinished.add(name)
    try:
        yield
    finally:
        _unfinished.discard(name)


def _remove_unfinished() -> None:
    """All of them, as far as the system lets it."""
    for name in list(_unfinished):
        with contextlib.suppress(OSError):
            if os.path.isdir(name):
                import shutil  # which whoever made a folder has loaded

                shutil.rmtree(name, ignore_errors=True)
            else:
                os.unlink(name)


def version() -> str:
    """What `--version` prints: this package's, and those on which a report of a fault depends."""
    from importlib import metadata

    parts = [f"{name} {metadata.version(name)}" for name in ("jax", "flax")]
    return ", ".join([f"jax_bridges {__version__}", *parts, f"Python {platform.python_version()}"])


def one_blas_thread() -> None:
    """Of numpy and scipy, if they are not loaded yet and the user has not said otherwise.

    Their threads wait for each other by spinning. Where anything else runs on the machine, XLA's own threads
    too, that makes the eigenvalues that intervals are made of a hundred times slower (results/house.md).
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def begin() -> None:
    """Of a command, before its imports: says that it starts; Ctrl-C ends it at once, with a word.

    With --quiet it says nothing; with --version that alone, and ends.
    """
    one_blas_thread()
    global _at_once
    if "--version" in sys.argv[1:]:
        print(version())
        raise SystemExit
    if "--quiet" not in sys.argv[1:]:
        print(f"jax_bridges {__version__}: loading", file=sys.stderr, flush=True)
    _at_once = AtOnce()


def stopping_says(sentence: str) -> None:
    """What follows "stopped" where a signal ends a command at once; without `begin`, nothing."""
    if _at_once is not None:
        _at_once.say(sentence)


def release_signals() -> None:
    """Signals no longer end the command at once, but go to who handles them; without `begin`, nothing."""
    if _at_once is not None:
        _at_once.release()


def draws_bars() -> bool:
    """Whether bars of progress can be drawn: on a terminal, or in a notebook; else there are lines."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules


@contextlib.contextmanager
def compiling(name: str, after: float = 1.0, every: float = 10.0) -> Iterator[None]:
    """Says what is being compiled and for how long, while it is: "compiling NAME, 7 s".

    On a terminal one line that counts the seconds; else lines, the first after `after` seconds, then at
    every multiple of `every`.
    """
    terminal = sys.stderr.isatty()
    done, start = threading.Event(), time.perf_counter()

    def tick() -> None:
        pause = after
        while not done.wait(pause):
            spent = time.perf_counter() - start
            text = f"compiling {name}, {spent:.0f} s"
            if terminal:
                print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
                pause = 1.0
            else:
                print(text, flush=True)
                pause = every - spent % every
        if terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    ticker = threading.Thread(target=tick, daemon=True)
    ticker.start()
    try:
        yield
    finally:
        done.set()
        ticker.join()


def first_says(name: str, function: Callable) -> Callable:
    """`function`, to be compiled by its first call, which says so; itself it is `__wrapped__`."""
    calls = itertools.count()

    def call(*args: Any) -> Any:
        with contextlib.nullcontext() if next(calls) else compiling(name):
            return function(*args)

    call.__wrapped__ = function
    return call
