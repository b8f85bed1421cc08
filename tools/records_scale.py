"""What a source of images costs at a scale: starting, memory, and images a second of one core.

python -m tools.records_scale make 1300000 OUT --shards=128   # tiny records, to be opened
python -m tools.records_scale files 20000 OUT                 # as many tiny files, for the folder
python -m tools.records_scale open array_record OUT           # each in a process of its own
python -m tools.records_scale speed folder IMAGES --size=256
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

from jax_bridges.data import Loader, make_source
from jax_bridges.data.records import FORMAT, INDEX, encode, shard_name
from jax_bridges.pack import OPTIONS, runs_of


def tiny(i: int) -> bytes:
    """A PNG of 8 x 8 pixels that is the image of its number."""
    file = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), i % 251, np.uint8)).save(file, "PNG")
    return file.getvalue()


def make(count: int, out: Path, shards: int) -> None:
    """A packed set of tiny images, nine tenths for training."""
    out.mkdir(parents=True)
    pictures = [tiny(i) for i in range(251)]
    records = {}
    for split, n in (("train", count - count // 10), ("test", count // 10)):
        parts = runs_of(n, shards)
        records[split] = [len(part) for part in parts]
        for number, part in enumerate(parts):
            writer = ArrayRecordWriter(str(out / shard_name(split, number, len(parts))), OPTIONS)
            for i in part:
                writer.write(encode({"image": pictures[i % 251]}, f"{i}.png"))
            writer.close()
    index = {"format": FORMAT, "views": ["image"], "classes": 0, "records": records}
    (out / INDEX).write_text(json.dumps(index))


def make_files(count: int, out: Path) -> None:
    """A folder of tiny images, a thousand in each of its sub-folders."""
    pictures = [tiny(i) for i in range(251)]
    for i in range(count):
        path = out / str(i // 1000) / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pictures[i % 251])


def peak() -> float:
    """Of the resident memory, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def open_source(name: str, path: str) -> None:
    """Prints what it takes to open a source of 8 pixels, and to have its first batch of 256."""
    before, begin = peak(), time.perf_counter()
    source = make_source(SimpleNamespace(name=name, path=path, size=8), "train")
    opened, memory = time.perf_counter() - begin, peak() - before
    with Loader(source, (256,), cache_mb=0, threads=1).iterate() as batches:
        next(batches)
    print(
        f"{name}, {len(source)} images: opened in {opened:.2f} s and {memory:.0f} MiB; with the first "
        f"batch {time.perf_counter() - begin:.2f} s and {peak() - before:.0f} MiB"
    )


def speed(name: str, path: str, size: int, images: int) -> None:
    """Prints the images a second of one thread, in the order of an epoch, and how many it was of."""
    source = make_source(SimpleNamespace(name=name, path=path, size=size), "train")
    loader = Loader(source, (64,), cache_mb=0, threads=1)
    loader.batch_at(0)
    cpu, begin = time.process_time(), time.perf_counter()
    steps = -(-images // 64)
    for step in range(1, steps + 1):
        loader.batch_at(step)
    spent, cpu = time.perf_counter() - begin, time.process_time() - cpu
    print(
        f"{name}, {size} pixels, {64 * steps} images: {64 * steps / spent:.0f} a second, "
        f"{64 * steps / cpu:.0f} a second of a core's own time"
    )


def main() -> None:
    """Does what the first argument says."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.records_scale",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=("make", "files", "open", "speed"))
    parser.add_argument("of", help="how many (make, files), or data.name (open, speed)")
    parser.add_argument("path")
    parser.add_argument("--shards", type=int, default=128)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--images", type=int, default=640)
    flags = parser.parse_args()
    if flags.what == "make":
        make(int(flags.of), Path(flags.path), flags.shards)
    elif flags.what == "files":
        make_files(int(flags.of), Path(flags.path))
    elif flags.what == "open":
        open_source(flags.of, flags.path)
    else:
        speed(flags.of, flags.path, flags.size, flags.images)


if __name__ == "__main__":
    main()
