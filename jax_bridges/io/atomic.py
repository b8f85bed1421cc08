"""Atomic file writing: a reader sees the old file or the new one, never half of one."""

import os
from pathlib import Path


def check_writable(folder: str | os.PathLike) -> None:
    """Refuses, before the work, a folder that could not be made or written to after it.

    Raises:
      ValueError: it, or the first of its parents that is there, is no folder that can be written to.
    """
    whole = Path(folder).absolute()
    parent = next(p for p in (whole, *whole.parents) if p.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise ValueError(f"{folder} cannot be made: {parent} is no folder that can be written to.")


def write_atomic(path: str | os.PathLike, data: bytes) -> Path:
    """Write `data` to `path` through a temporary file beside it and `os.replace`.

    Missing parent folders are made. On any error the temporary file is removed and an older
    `path` stays as it was. Returns the path.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
