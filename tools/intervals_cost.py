"""What intervals of distances cost beside their features: `python -m tools.intervals_cost 2000 20000`.

Features of as many dimensions as FD-Lite0's, drawn at random; CPU seconds of all threads, which other work on
the machine leaves alone.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np

from jax_bridges.measured import markdown_table, measured_here
from jax_bridges.metrics import METRICS, folds_of, lite0_outputs
from jax_bridges.metrics.store import BLOCK, Store

FOLDS, SIZE, SOME = 50, 64, 512  # images of 64 pixels, of which so many are timed


def features(count: int, dimensions: int, shift: float, random: np.random.Generator) -> Store:
    """[count, dimensions], a few of which vary most, as of photographs."""
    store, spread = Store(), np.sqrt(1 / np.arange(1, dimensions + 1))
    for start in range(0, count, BLOCK):
        rows = random.normal(size=(min(BLOCK, count - start), dimensions))
        store.add((rows * spread * (1 + shift) + shift).astype(np.float32))
    return store


def seconds(function: Callable[..., object], *arguments: object) -> float:
    """CPU seconds of one call."""
    begin = time.process_time()
    function(*arguments)
    return time.process_time() - begin


def main() -> None:
    """Prints a table with a row a number of images."""
    parser = argparse.ArgumentParser(prog="python -m tools.intervals_cost", description=__doc__)
    parser.add_argument("images", nargs="+", type=int, help="how many a row of the report has")
    parser.add_argument("--dimensions", type=int, default=1280, help="of a feature (1280)")
    flags = parser.parse_args()
    random, config = np.random.default_rng(0), SimpleNamespace(allow_unequal=False)
    images = random.integers(0, 256, (SOME, SIZE, SIZE, 3), dtype=np.uint8)
    lite0_outputs(images)  # compiles
    each = seconds(lite0_outputs, images) / SOME
    rows = []
    for count in flags.images:
        ours, theirs = (features(count, flags.dimensions, s, random) for s in (0.0, 0.05))
        folds, cells = folds_of(np.arange(count), FOLDS), []
        for name in ("fd_lite0", "kid_lite0"):
            of_set = METRICS[name].of_set
            assert of_set is not None
            cells.append(seconds(of_set.value, ours, theirs, config))
            cells.append(seconds(of_set.without, ours, theirs, folds, config))
        rows.append([f"{count:,}", *(f"{cell:.0f}" for cell in (*cells, each * count))])
        print(*rows[-1], flush=True)
    head = [
        "images",
        "FD",
        f"FD, {FOLDS} folds",
        "KID",
        f"KID, {FOLDS} folds",
        "FD-Lite0's features",
    ]
    print(markdown_table(head, rows, []))
    how = measured_here("tools.intervals_cost")
    print(f"`{how['command']}`, {how['machine']}, {how['date']}, numpy {how['versions']['numpy']}.")


if __name__ == "__main__":
    main()
