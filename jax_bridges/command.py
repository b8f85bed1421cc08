"""What the commands share: a parser, quiet libraries, a compilation cache, and one sentence for an error."""

from __future__ import annotations

import argparse
import contextlib
import errno
import io
import itertools
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from absl import logging

from jax_bridges.starting import version


class Parser(argparse.ArgumentParser):
    """One whose errors are ValueErrors of one sentence, like those of the work behind it."""

    def __init__(self, **options):
        super().__init__(**options)
        about = "the version, and ends"
        self.add_argument("--version", action="version", version=version(), help=about)

    def parse_known_args(self, args=None, namespace=None):
        """As its parent; a name of a file that would be taken for a flag is refused as such."""
        for word in itertools.takewhile("--".__ne__, sys.argv[1:] if args is None else args):
            if self._looks_like_a_name(word):
                self.error(f"{word} begins with - as flags do: for a name, write ./{word}")
        return super().parse_known_args(args, namespace)

    def parse_intermixed_args(self, args=None, namespace=None):
        """Flags may stand between names; but not with --, which its parent would lose on the way."""
        args = sys.argv[1:] if args is None else args
        if "--" in args:
            return self.parse_args(args, namespace)
        return super().parse_intermixed_args(args, namespace)

    def _looks_like_a_name(self, word: str) -> bool:
        """Whether it begins as a flag does, and is none, but a file that is there or that has a suffix."""
        if not word.startswith("-") or word in self._option_string_actions or "=" in word:
            return False
        suffixed = word[1:2] != "-" and Path(word).suffix[1:2].isalpha()  # and no number: -0.5
        return suffixed or (len(word) > 1 and os.path.lexists(word))

    def error(self, message: str) -> None:
        raise ValueError(f"{message[:1].upper()}{message[1:]}; --help lists the flags.")


def time_left(seconds: float) -> str:
    """As a line of progress ends: "1:05 left"."""
    return "{}:{:02d} left".format(*divmod(int(seconds), 60))


def keep_compiled() -> None:
    """Keeps compiled programs in ~/.cache/jax_bridges, unless JAX has been told another folder.

    There, small ones too, which JAX would compile anew at every start: they add up on a GPU.
    """
    # JAX adds its settings at run time.
    if jax.config.jax_compilation_cache_dir is None:  # pyright: ignore[reportAttributeAccessIssue]
        folder = os.path.expanduser("~/.cache/jax_bridges")
        jax.config.update("jax_compilation_cache_dir", folder)
        if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def one_sentence(error: Exception) -> str:
    """An error's message; of the system's own, the file first and then what is wrong with it."""
    if not (isinstance(error, OSError) and error.errno and error.filename):
        return str(error)
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    mend = ": make room there, and start again" if full else ""
    return f"{error.filename}: {error.strerror}{mend}."


def print_any_name() -> None:
    """Lets names of files be printed that the terminal's encoding, or any other, cannot say."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what stands in for them need not have it
            stream.reconfigure(errors="backslashreplace")


def _tell_unraisable(unraisable) -> None:
    """Python's own, but for what writers say that were cancelled, since another could not write."""
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


@contextlib.contextmanager
def warnings_as_notes() -> Iterator[None]:
    """What our own modules warn of is printed as "note: ...", without a line of source."""
    ours, show = os.path.dirname(os.path.abspath(__file__)), warnings.showwarning

    def note(message: Any, category: type, filename: str, *rest: Any, **more: Any) -> None:
        if category is UserWarning and os.path.abspath(filename).startswith(ours + os.sep):
            print(f"note: {message}", file=sys.stderr, flush=True)
        else:
            show(message, category, filename, *rest, **more)

    warnings.showwarning = note
    try:
        yield
    finally:
        warnings.showwarning = show


def run_command(
    work: Callable[[], object],
    errors: tuple[type[Exception], ...] = (ValueError, OSError),
    sentence: Callable[[Exception], str] = one_sentence,
) -> int:
    """Does `work()`; the exit code: 0, or 1 after one sentence on stderr.

    Args:
      work: everything, parsing included.
      errors: what a user can mend. Others are raised; with JAX_BRIDGES_DEBUG in the environment, all.
      sentence: makes the message.
    """
    if not os.environ.get("JAX_BRIDGES_DEBUG"):
        # orbax reports every save in a dozen lines, and a failed one in hundreds; it raises as well.
        logging.set_verbosity(logging.FATAL)
        sys.unraisablehook = _tell_unraisable
    print_any_name()
    try:
        with warnings_as_notes():
            work()
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except errors as error:
        if os.environ.get("JAX_BRIDGES_DEBUG"):
            raise
        print(f"error: {sentence(error)}", file=sys.stderr, flush=True)
        return 1
    return 0
