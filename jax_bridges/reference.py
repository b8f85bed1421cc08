"""Statistics of a data set for the FID: `python -m jax_bridges.reference OUT --config=FILE`.

OUT, an .npz file, is then what `--config.evaluate.reference=OUT` takes: mean and covariance of the
Inception features of the clean images of `config.data`, at their size and resized as
`config.evaluate.protocol` says. Only the sums are kept, so that a training set of any size will do;
of several hosts each reads its share.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports, which take seconds
    from jax_bridges.starting import begin

    begin()

import argparse
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from jax_bridges import hosts
from jax_bridges.command import Parser, keep_compiled, run_command, time_left
from jax_bridges.command_line import read_config
from jax_bridges.data import make_source
from jax_bridges.data.source import SPLITS, Source
from jax_bridges.io.atomic import check_writable
from jax_bridges.io.bucket import place
from jax_bridges.metrics import PROTOCOLS, check_metrics, inception_outputs, over_hosts
from jax_bridges.metrics.frechet import Moments
from jax_bridges.metrics.inception import FEATURES
from jax_bridges.metrics.reference import save_statistics

CHUNK = 64  # images a device that are read at once
EVERY = 10.0  # seconds between two lines of progress


def chunks(source: Source, mine: range, size: int) -> Iterator[np.ndarray]:
    """The x0 of some examples, uint8 `[<= size, H, W, 3]` at a time; the next ones are read meanwhile."""
    parts = [mine[i : i + size] for i in range(0, len(mine), size)]
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        read = [pool.submit(source.__getitem__, i) for part in parts[:1] for i in part]
        for following in [*parts[1:], range(0)]:
            ahead = [pool.submit(source.__getitem__, i) for i in following]
            yield np.stack([each.result()["x0"] for each in read])
            read = ahead


def measure(source: Source, images: int, resize: str, weights: str | None) -> Moments:
    """Moments of the Inception features of the first images of a source.

    Args:
      source: of the images.
      images: how many, at least 2.
      resize: of `inception.RESIZES`.
      weights: of `weights_path`.

    Returns:
      The same on all hosts.
    """
    first, last = (images * (jax.process_index() + k) // jax.process_count() for k in (0, 1))
    begin = said = time.perf_counter()
    moments, done = None, 0
    for part in chunks(source, range(first, last), CHUNK * jax.local_device_count()):
        these = Moments.of(inception_outputs(part, resize, weights, shared=False).features)
        moments, done = moments.joined(these) if moments else these, done + len(part)
        now = time.perf_counter()
        if now - said > EVERY or done == last - first:
            rate, said = done / (now - begin), now
            progress = f"reference {done}/{last - first} of this host's images"
            left = time_left((last - first - done) / rate)
            print(f"{progress}  {rate:.1f} img/s  {left}", flush=True)
    return over_hosts(moments, FEATURES)


def make_reference(out: str | os.PathLike, config: Any, split: str = "train", images: int = 0):
    """Writes the statistics of a configuration's data set, whole or not at all.

    Args:
      out: the .npz file.
      config: a complete configuration; `data` and `evaluate` are read.
      split: a name of `data.source.SPLITS`.
      images: use the first so many (the order is shuffled once and for all); 0: all.

    Returns:
      The moments.

    Raises:
      ValueError, FileNotFoundError: data or weights that are not there, or too few images.
    """
    evaluate = config.evaluate.copy_and_resolve_references()
    evaluate.metrics, evaluate.reference = ("fid",), ""
    check_metrics(evaluate)
    source = make_source(config.data, split)
    images = images or len(source)
    if not 2 <= images <= len(source):
        raise ValueError(
            f"--images is {images}: it must be 2 to {len(source)}, as many as {source.name} has."
        )
    resize = PROTOCOLS[evaluate.protocol].fid
    moments = measure(source, images, resize, evaluate.weights or None)
    if hosts.is_chief():
        save_statistics(out, moments, resize=resize, data=source.name, split=split)
    hosts.barrier("reference")
    return moments


def arguments() -> tuple[argparse.Namespace, list[str]]:
    """The flags, and what is left: --config and --config.KEY=VALUE."""
    parser = Parser(
        prog="python -m jax_bridges.reference",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        epilog="--config=FILE[:VARIANT] [--config.KEY=VALUE ...]: whose data, protocol and weights.",
    )
    add = parser.add_argument
    add("out", help="the .npz file that is written")
    add("--split", choices=list(SPLITS), default="train", help="of the data set (train)")
    add("--images", type=int, default=0, help="so many of them; 0: all")
    add("--force", action="store_true", help="overwrite OUT")
    for name, (like, about) in hosts.FLAGS.items():
        add(f"--{name}", type=type(like), default=like, help=about)
    return parser.parse_known_args()


def main() -> int:
    """The command; its exit code."""

    def work() -> None:
        flags, rest = arguments()
        config = read_config(rest)
        if config is None:
            raise ValueError("Say whose data: --config=superres, for example.")
        if place(flags.out).exists() and not flags.force:
            raise ValueError(f"{flags.out} is there already: give another name, or --force.")
        check_writable(place(flags.out).parent)
        hosts.join(*(getattr(flags, name) for name in hosts.FLAGS))
        hosts.only_chief_prints()
        keep_compiled()
        moments = make_reference(flags.out, config, flags.split, flags.images)
        print(f"{flags.out}: {moments.count} images; --config.evaluate.reference={flags.out}")

    return run_command(work)


if __name__ == "__main__":
    sys.exit(main())
