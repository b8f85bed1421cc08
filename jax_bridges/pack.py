"""Packs a folder of images into few large files that are read at random: for a bucket, or for millions.

    python -m jax_bridges.pack IMAGES OUT --shards=128
    python -m jax_bridges.pack IMAGES gs://BUCKET/OUT --shards=1024 --classes=subfolders
    python -m jax_bridges.pack CLEAN OUT --shards=16 --xT=CORRUPTED

and then --config.data.name=array_record --config.data.path=OUT (and data.xT_key=xT, data.label_key=label).
Files are packed as they are, in the order and the splits that data.name=folder (or pairs) gives them, so
that a run of OUT is the run of the folder.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports, which take seconds
    from jax_bridges.starting import begin

    begin()

import argparse
import json
import os
import re
import sys
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from jax_bridges.command import Parser, one_sentence, run_command
from jax_bridges.data import FILES
from jax_bridges.data.files import FileSource
from jax_bridges.data.records import FORMAT, INDEX, LABEL, VIEWS, encode, shard_name
from jax_bridges.data.source import resolve
from jax_bridges.io.atomic import check_writable, open_atomic, write_atomic
from jax_bridges.io.bucket import place, remove_folder
from jax_bridges.stages.run import Stopped, StopSignal
from jax_bridges.starting import REQUEUE, release_signals

# A shard's records are read one by one, and are images, which do not get smaller.
OPTIONS = "group_size:1,uncompressed"
# The keys of `data` that messages name, as this command's flags.
FLAGS = {
    "path": "FOLDER", "path_xT": "--xT", "classes": "--classes", "test_fraction": "--test-fraction",
    "on_bad_file": "--on-bad-file",
}  # fmt: skip


def pack(
    folder: str | os.PathLike,
    out: str | os.PathLike,
    shards: int,
    *,
    corrupted: str = "",
    classes: str = "",
    test_fraction: float = 0.1,
    on_bad_file: str = "refuse",
) -> dict[str, Any]:
    """Writes the images of a folder as records; OUT/index.json, written last, makes them a set.

    Args:
      folder: of clean images x_0, as `data.name=folder` takes it.
      out: a folder, of a disk or a bucket, that does not exist or is empty.
      shards: files a split; at most as many as it has images.
      corrupted: of corrupted images x_T, matched by name as `data.name=pairs` does; "": none.
      classes, test_fraction, on_bad_file: those of `data`.

    Returns:
      The index: format, views, classes, and the number of records of each shard by split.

    Raises:
      ValueError, OSError: one sentence; nothing is left behind.
      Stopped: a signal came (SIGTERM, Ctrl-C); nothing is left behind.
    """
    import array_record.python.array_record_module  # noqa: F401  (says that it is not installed)

    out = place(out)
    if shards < 1:
        raise ValueError(f"--shards is {shards}: it must be at least 1.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is not an empty folder: give a new one, or delete it.")
    check_writable(out)
    kind = "pairs" if corrupted else "folder"
    given = SimpleNamespace(
        name=kind, path=str(folder), path_xT=corrupted, classes=classes, size=1,
        test_fraction=test_fraction, on_bad_file=on_bad_file,
    )  # fmt: skip
    sources = {split: FILES[kind](resolve(given, split)) for split in ("train", "test")}
    parts = {split: runs_of(len(source), shards) for split, source in sources.items()}

    failed, stop = threading.Event(), StopSignal()

    def write(split: str, number: int) -> None:
        records = _records(sources[split], parts[split][number])
        path = out / shard_name(split, number, len(parts[split]))
        _write_shard(path, records, lambda: failed.is_set() or stop.is_set())

    first = sources["train"]
    index = {
        "format": FORMAT,
        "views": list(VIEWS[: len(first.paths[0])]),
        "classes": first.classes,
        "records": {split: [len(part) for part in its] for split, its in parts.items()},
    }
    made, pool = not out.exists(), ThreadPoolExecutor(os.cpu_count())
    stop.listen()
    release_signals()  # to `stop`: from here on there is something to be removed
    try:
        jobs = [pool.submit(write, s, n) for s, its in parts.items() for n in range(len(its))]
        for done, job in enumerate(jobs, 1):
            job.result()
            print(f"pack: {done} of {len(jobs)} shards", file=sys.stderr, flush=True)
        write_atomic(out / INDEX, (json.dumps(index) + "\n").encode())
    except BaseException:
        failed.set()
        pool.shutdown(cancel_futures=True)  # a shard that is written later would stay behind
        for each in [] if made else list(out.iterdir()):
            each.unlink(missing_ok=True)
        if made:
            remove_folder(out)
        raise
    finally:
        pool.shutdown()
        stop.leave()
    return index


def _write_shard(path: Path, records: Iterable[bytes], stopping: Callable[[], bool]) -> None:
    """Raises Stopped once `stopping()`; an OSError of one sentence where they cannot be written."""
    from array_record.python.array_record_module import ArrayRecordWriter

    with open_atomic(path) as file:
        try:
            writer = ArrayRecordWriter(file.name, OPTIONS)
            try:
                for record in records:
                    if stopping():
                        raise Stopped(f"stopped: nothing is left of {path.parent}")
                    writer.write(record)
            finally:
                writer.close()
        except RuntimeError as error:  # the writer's, in C++
            raise OSError(
                f"{path} cannot be written ({error}): make room in {Path(file.name).parent}, and start again."
            ) from error


def runs_of(count: int, shards: int) -> list[range]:
    """Numbers 0 .. count - 1 in so many runs, as equal as can be, none of them empty."""
    shards = min(shards, count)
    ends = [count * number // shards for number in range(shards + 1)]
    return [range(start, end) for start, end in zip(ends[:-1], ends[1:], strict=True)]


def _records(source: FileSource, part: range) -> Iterable[bytes]:
    for i in part:
        views = {v: Path(p).read_bytes() for v, p in zip(VIEWS, source.paths[i], strict=False)}
        label = None if source.labels is None else int(source.labels[i])
        yield encode(views, source.names[i], label)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m jax_bridges.pack",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("folder", help="of clean images; of train/ and test/, or all in one")
    add("out", help="the folder that is written; it may be gs://BUCKET/FOLDER")
    add("--shards", type=int, required=True, help="files a split; 100 MB to 1 GB each is usual")
    add("--xT", dest="corrupted", default="", help="folder of corrupted images, matched by name")
    add("--classes", default="", help=f"as data.classes: each record has a {LABEL}")
    add("--test-fraction", type=float, default=0.1, help="as data.test_fraction (0.1)")
    add("--on-bad-file", choices=("refuse", "skip"), default="refuse", help="as data.on_bad_file")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Exit code: 0, or 1 after one sentence on stderr."""

    def work() -> None:
        flags = vars(_parser().parse_args(sys.argv[1:] if argv is None else argv))
        index = pack(**flags)
        counts = ", ".join(
            f"{sum(its)} for {split} in {len(its)} shards"
            for split, its in index["records"].items()
        )
        print(f"{flags['out']}: {counts}")

    try:
        return run_command(work, (ValueError, OSError, ModuleNotFoundError), _in_flags)
    except Stopped as stopped:
        print(f"{stopped}; the same command starts again", file=sys.stderr, flush=True)
        return REQUEUE


def _in_flags(error: Exception) -> str:
    """An error's message, with the flags of this command in place of the keys of a run."""
    keys = "|".join(sorted(FLAGS, key=len, reverse=True))
    return re.sub(rf"\bdata\.({keys})\b", lambda found: FLAGS[found[1]], one_sentence(error))


if __name__ == "__main__":
    sys.exit(main())
