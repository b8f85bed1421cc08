"""Packs a folder of images into few large files that are read at random: for a bucket, or for millions.

    python -m jax_bridges.pack IMAGES OUT --shards=128
    python -m jax_bridges.pack IMAGES gs://BUCKET/OUT --shards=1024 --classes=subfolders
    python -m jax_bridges.pack CLEAN OUT --shards=16 --xT=CORRUPTED

and then --config.data.name=array_record --config.data.path=OUT (and data.xT_key=xT, data.label_key=label).
Files are packed as they are, in the order and the splits that data.name=folder (or pairs) gives them, so
that a run of OUT is the run of the folder.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from jax_bridges.command import Parser, run_command
from jax_bridges.data import FILES
from jax_bridges.data.files import FileSource
from jax_bridges.data.records import FORMAT, INDEX, LABEL, VIEWS, encode, shard_name
from jax_bridges.data.source import resolve
from jax_bridges.io.atomic import check_writable, open_atomic, write_atomic
from jax_bridges.io.bucket import place, remove_folder

# A shard's records are read one by one, and are images, which do not get smaller.
OPTIONS = "group_size:1,uncompressed"


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
      ValueError, FileNotFoundError: one sentence; nothing is left behind.
    """
    from array_record.python.array_record_module import ArrayRecordWriter

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

    def write(split: str, number: int) -> None:
        with open_atomic(out / shard_name(split, number, len(parts[split]))) as file:
            writer = ArrayRecordWriter(file.name, OPTIONS)
            try:
                for record in _records(sources[split], parts[split][number]):
                    writer.write(record)
            finally:
                writer.close()

    first = sources["train"]
    index = {
        "format": FORMAT,
        "views": list(VIEWS[: len(first.paths[0])]),
        "classes": first.classes,
        "records": {split: [len(part) for part in its] for split, its in parts.items()},
    }
    made = not out.exists()
    try:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            jobs = [pool.submit(write, s, n) for s, its in parts.items() for n in range(len(its))]
            try:
                for done, job in enumerate(jobs, 1):
                    job.result()
                    print(f"pack: {done} of {len(jobs)} shards", file=sys.stderr, flush=True)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        write_atomic(out / INDEX, (json.dumps(index) + "\n").encode())
    except BaseException:
        for each in [] if made else list(out.iterdir()):
            each.unlink(missing_ok=True)
        if made:
            remove_folder(out)
        raise
    return index


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

    return run_command(work, (ValueError, OSError, ModuleNotFoundError))


if __name__ == "__main__":
    sys.exit(main())
