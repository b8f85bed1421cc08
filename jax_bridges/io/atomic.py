"""Atomic file writing: a reader sees the old file or the new one, never half of one."""

import contextlib
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from jax_bridges.io.bucket import Bucket, check_bucket, open_whole, place
from jax_bridges.starting import unfinished


def _there(place: Path) -> Path:
    """It, or the first of its parents that is there."""
    return next(p for p in (place, *place.parents) if os.path.exists(p))


def is_writable(folder: str | os.PathLike) -> bool:
    """Whether the folder, or the first of its parents that is there, can be written to."""
    if isinstance(bucket := place(folder), Bucket):
        with contextlib.suppress(ValueError):
            check_bucket(bucket)
            return True
        return False
    there = _there(Path(folder).absolute())
    effective = {"effective_ids": True} if os.access in os.supports_effective_ids else {}
    return there.is_dir() and os.access(there, os.W_OK, **effective)


def check_writable(folder: str | os.PathLike) -> None:
    """Refuses, before the work, a folder that could not be made or written to after it.

    Raises:
      ValueError: it, or the first of its parents that is there, is no folder that can be written to; or
        the bucket is not there, or cannot be written to.
    """
    if isinstance(bucket := place(folder), Bucket):
        check_bucket(bucket)
        return
    if is_writable(folder):
        return
    whole = Path(folder).absolute()
    there = _there(whole)
    if there == whole and whole.is_dir():
        raise ValueError(f"{folder} cannot be written to.")
    if there == whole:
        raise ValueError(f"{folder} is no folder that can be written to.")
    raise ValueError(f"{folder} cannot be made: {there} is no folder that can be written to.")


def check_name(path: str | os.PathLike, source: str | os.PathLike) -> None:
    """Refuses, before the work, a name that the disk does not take, or too long a path.

    A bucket takes any of those that are asked here.

    Args:
      path: what will be written.
      source: what its name was made from.

    Raises:
      ValueError: one sentence.
    """
    if isinstance(target := place(path), Bucket):
        return
    whole = target.absolute()
    parent = _there(whole.parent)
    for what, text, limit, usual in (
        ("name", whole.name, "PC_NAME_MAX", 255),
        ("path", max(str(whole), str(beside(whole)), key=len), "PC_PATH_MAX", 4096),
    ):
        most = usual
        with contextlib.suppress(AttributeError, OSError, ValueError):  # a system that does not say
            most = os.pathconf(parent, limit)
        most -= what == "path"  # whose end counts
        long = len(os.fsencode(text))
        if long > most > 0:
            raise ValueError(
                f"The {what} to write for {source} would have {long} bytes, and {most} is the most: "
                f"give it a shorter {what}."
            )


def beside(path: Path) -> Path:
    """A hidden name of this process's own in the same folder, short whatever the length of `path`'s."""
    return path.with_name(f".{zlib.crc32(os.fsencode(path.name)):08x}.{os.getpid()}.tmp")


@contextlib.contextmanager
def naming(path: str | os.PathLike) -> Iterator[None]:
    """Gives the system's errors in the block, which may name no file or another, the name of `path`."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # a sentence of ours
            raise
        raise type(error)(error.errno, error.strerror, str(path)) from error


@contextlib.contextmanager
def open_atomic(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """A file that becomes `path` when the block ends; missing parent folders are made.

    It is written beside its place and moved there by `os.replace`; or in a bucket sent there whole. On
    any error, or Ctrl-C, it is removed and an older `path` stays as it was.

    Raises:
      OSError: with the name of `path`: the disk is full, the folder may not be written to, ...
    """
    path = place(path)
    if isinstance(path, Bucket):
        with open_whole(path) as file:
            yield cast(BinaryIO, file)
        return
    temporary = beside(path)
    with naming(path), unfinished(temporary):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def write_atomic(path: str | os.PathLike, data: bytes) -> Path:
    """Writes `data` to `path` as `open_atomic` does; the path."""
    with open_atomic(path) as file:
        file.write(data)
    return place(path)
