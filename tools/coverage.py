"""Do 95% intervals hold the truth 95 times of 100? `python -m tools.coverage --out=results/coverage.md`.

Sets of images are drawn again and again from a law that is known, each with its intervals
(jax_bridges/metrics/intervals.py). The truth is the expectation for sets of as many images: of a distance,
which falls with their number, the mean over all sets. Images are strangers, or lie in blocks as the first
test tiles of the data `earth` do, alike within a block. Beside the intervals of the reports stand others,
of the same sets: of bootstrap resamples, and of a jackknife that takes neighbours for strangers.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from scipy import stats

from jax_bridges.data import blocks_of, make_source
from jax_bridges.data.earth import SECTOR, open_earth
from jax_bridges.data.source import resolve
from jax_bridges.io.atomic import write_atomic
from jax_bridges.measured import markdown_table, measured_here
from jax_bridges.metrics import (
    Moments,
    folds_of,
    frechet_distance,
    lite0_outputs,
    mean_estimate,
    paired_interval,
    set_estimate,
)
from jax_bridges.metrics.frechet import PairedFrechet

IMAGES, DIMENSIONS, FOLDS, RESAMPLES = 256, 32, 50, 50
ALIKE = 0.5  # share of the variance that a block has in common
HEIGHTS = (32, 64, 128, 256, 512, 2700)  # of blocks, in map pixels
SPREAD = np.sqrt(
    1 / np.arange(1, DIMENSIONS + 1)
)  # of features, as a photograph's: a few tell most


class Tally:
    """How often intervals held the truth, once that is known: the mean over all sets."""

    def __init__(self):
        self._values: dict[str, list[float]] = {}
        self._ends: dict[tuple[str, str], list[tuple[float, float]]] = {}

    def add(self, what: str, value: float, **ends: tuple[float, float]) -> None:
        """A set's number, and its interval by each way of making one."""
        self._values.setdefault(what, []).append(value)
        for way, pair in ends.items():
            self._ends.setdefault((what, way), []).append(pair)

    def shares(self, truths: dict[str, float]) -> dict[tuple[str, str], float]:
        """(what, way) -> the share of the intervals that hold the truth, in percent."""
        found = {}
        for (what, way), pairs in self._ends.items():
            low, high = np.transpose(pairs)
            truth = truths.get(what, np.mean(self._values[what]))
            found[what, way] = 100 * float(np.mean((low <= truth) & (truth <= high)))
        return found


def by_moments(a: np.ndarray, b: np.ndarray) -> Callable[[np.ndarray], float]:
    """`distance(picks)` of features of few dimensions."""
    return lambda picks: frechet_distance(Moments.of(a[picks]), Moments.of(b[picks]))


def bootstrapped(distances: list[Callable], blocks: np.ndarray, random) -> list[tuple]:
    """Intervals of numbers of sets, and of the last one minus the first, by resamples of whole blocks."""
    numbers = np.unique(blocks, return_inverse=True)[1]
    members = [np.flatnonzero(numbers == i) for i in range(numbers.max() + 1)]
    drawn, everyone = [], np.arange(len(blocks))
    for _ in range(RESAMPLES):
        order = random.integers(len(members), size=len(blocks))
        picks = np.concatenate([members[i] for i in order])[: len(blocks)]
        drawn.append([distance(picks) for distance in distances])
    values = np.array([distance(everyone) for distance in distances])
    drawn = np.array(drawn)
    values, drawn = (
        np.append(values, values[-1] - values[0]),
        np.c_[drawn, drawn[:, -1] - drawn[:, 0]],
    )
    half = stats.t.ppf(0.975, RESAMPLES - 1) * drawn.std(0, ddof=1)
    return list(zip(values - half, values + half))


def features(blocks: np.ndarray, random) -> list[np.ndarray]:
    """Of targets, and of two rows that restore them, [N, D] each; neighbours are alike."""
    numbers = np.unique(blocks, return_inverse=True)[1]
    share = ALIKE if numbers.max() + 1 < len(blocks) else 0.0

    def noise() -> np.ndarray:
        common = random.normal(size=(numbers.max() + 1, DIMENSIONS))[numbers]
        own = random.normal(size=(len(blocks), DIMENSIONS))
        return SPREAD * (np.sqrt(share) * common + np.sqrt(1 - share) * own)

    target, error, other = noise(), noise(), noise()
    one = 0.9 * target + 0.35 * error + 0.1
    two = 0.85 * target + 0.36 * error + 0.27 * other + 0.12
    return [target, one, two]


def add_set(
    tally: Tally, distance: Callable, sets: list[np.ndarray], blocks, random, others
) -> None:
    """Of one set: the distances of both rows to the targets, and their difference."""
    target, *rows = sets
    ways = {"report": folds_of(blocks, FOLDS)}
    if others and len(np.unique(blocks)) < len(blocks):
        ways["strangers"] = folds_of(np.arange(len(blocks)), FOLDS)
    distances, everyone = [distance(row, target) for row in rows], np.arange(len(blocks))
    found = {
        way: [
            set_estimate(lambda p, d=d: d(everyone if p is None else p), folds) for d in distances
        ]
        for way, folds in ways.items()
    }
    ends = {
        way: [e.interval() for e in (*pair, pair[1].minus(pair[0]))] for way, pair in found.items()
    }
    if others:
        ends["bootstrap"] = bootstrapped(distances, blocks, random)
    one, two = found["report"]
    numbers = {"FD": one.value, "difference of FD": two.value - one.value}
    for what, value in numbers.items():
        at = 0 if what == "FD" else -1
        tally.add(what, value, **{way: pairs[at] for way, pairs in ends.items()})


def add_means(tally: Tally, blocks: np.ndarray, sets: list[np.ndarray]) -> None:
    """Of one set: the mean of a number an image, and the paired difference of two rows'; both skewed."""
    ours, theirs = (np.exp(0.5 * row[:, 0]) for row in sets[1:])
    for what, values in (("mean", ours), ("difference of means", theirs - ours)):
        zeros = np.zeros(len(values))
        tally.add(
            what, values.mean(), report=mean_estimate(values, blocks).interval(),
            strangers=mean_estimate(values).interval(),
            BCa=paired_interval(values, zeros, np.arange(len(values))),
        )  # fmt: skip


def lite0_pools(tiles: int, random) -> list[np.ndarray]:
    """FD-Lite0's features of clean tiles and of noisier and noisier ones, [N, D] each."""
    source = make_source(SimpleNamespace(name="earth"), "train")
    images = np.stack([source[i]["x0"] for i in range(min(tiles, len(source)))])
    noisy = [np.clip(images + random.normal(0, s, images.shape), 0, 255) for s in (4, 6)]
    return [lite0_outputs(each.astype(np.uint8)).features for each in (images, *noisy)]


def neighbours() -> str:
    """How much less sure means over the test tiles are than if tiles were strangers, by height of a block."""
    source = open_earth(resolve(SimpleNamespace(), "test"))
    tiles = np.stack([source[i]["x0"] for i in range(len(source))]).astype(np.float64)
    numbers = {
        "mean of red": tiles[..., 0].mean((1, 2)),
        "standard deviation of the pixels": tiles.std((1, 2)).mean(1),
        "log of 1 + mean step to the next row": np.log1p(
            np.abs(np.diff(tiles, axis=1)).mean((1, 2, 3))
        ),
    }
    top, sector = source.corners[:, 0], source.corners[:, 1] // SECTOR
    blocks = [sector * 1000 + top // height for height in HEIGHTS]
    rows = [
        [name, *(f"{mean_estimate(v, b).error / mean_estimate(v).error:.1f}" for b in blocks)]
        for name, v in numbers.items()
    ]
    rows.append(["blocks", *(str(len(np.unique(b))) for b in blocks)])
    return markdown_table(["of a tile", *map(str, HEIGHTS)], rows, ["of a tile"])


def main() -> None:
    """Prints the tables, and writes them to a file."""
    parser = argparse.ArgumentParser(prog="python -m tools.coverage", description=__doc__)
    parser.add_argument("--out", type=Path, help="Markdown file (it is printed as well)")
    parser.add_argument("--sets", type=int, default=2000, help="of each law (2000)")
    parser.add_argument(
        "--others", type=int, default=400, help="of them with other intervals (400)"
    )
    parser.add_argument(
        "--lite0", type=int, default=400, help="sets of FD-Lite0's features (400; 0: none)"
    )
    parser.add_argument(
        "--tiles", type=int, default=4500, help="from which FD-Lite0's sets are drawn (4500)"
    )
    flags = parser.parse_args()
    random = np.random.default_rng(0)
    earth = blocks_of(make_source(SimpleNamespace(name="earth"), "test"), IMAGES)
    rows, ways = [], ("report", "BCa", "bootstrap", "strangers")

    def tell(law: str, count: int, tally: Tally, truths: dict[str, float]) -> None:
        shares = tally.shares(truths)
        for what in dict.fromkeys(name for name, _ in shares):
            cells = [f"{shares[what, way]:.1f}" if (what, way) in shares else "–" for way in ways]
            rows.append([law, what, count, *cells])
            print(*rows[-1], flush=True)

    for law, blocks in (("strangers", np.arange(IMAGES)), ("blocks of the test tiles", earth)):
        tally = Tally()
        for k in range(flags.sets):
            sets = features(blocks, random)
            add_means(tally, blocks, sets)
            add_set(tally, by_moments, sets, blocks, random, k < flags.others)
        one, two = (np.exp(0.125 * v) for v in (0.81 + 0.35**2, 0.85**2 + 0.36**2 + 0.27**2))
        one, two = one * np.exp(0.05), two * np.exp(0.06)
        tell(law, flags.sets, tally, {"mean": one, "difference of means": two - one})
    if flags.lite0:
        pools = lite0_pools(flags.tiles, random)
        tally, blocks = Tally(), np.arange(IMAGES)
        for _ in range(flags.lite0):
            picks = random.choice(
                len(pools[0]), IMAGES, replace=False
            )  # none twice, as in a report
            sets = [pool[picks] for pool in pools]
            add_set(tally, PairedFrechet, sets, blocks, random, others=False)
        tell("strangers, FD-Lite0's features", flags.lite0, tally, {})

    real = (
        f", or FD-Lite0's own features: {IMAGES} at a time of {flags.tiles} training tiles, and of the same "
        "tiles with noise of 4 and of 6 of 255"
    )
    head = ["images", "of", "sets", "in the reports", "BCa", "bootstrap", "as strangers"]
    how = measured_here("tools.coverage")
    text = f"""# Do 95% intervals hold the truth 95 times of 100?

Share, in percent, of {IMAGES} images a set; of 95% in {flags.sets} sets a standard error is {np.sqrt(0.0475 / flags.sets):.2%}
(of the bootstrap's {flags.others} sets {np.sqrt(0.0475 / max(flags.others, 1)):.1%}).

{markdown_table(head, rows, head[:2])}

"In the reports": the jackknife over blocks with Student's t, {FOLDS} folds at most for distances. "BCa": scipy's bootstrap
of single images, which the reports take for paired differences of strangers. "Bootstrap": {RESAMPLES} resamples of blocks,
each cut to {IMAGES} images, and t. "As strangers": the jackknife over images, as if neighbours were none. Means are of a
log-normal number an image; distances are of Gaussian features of {DIMENSIONS} dimensions, of which blocks have {ALIKE:.0%} in
common{real if flags.lite0 else ""}.

# How far neighbours are alike

The standard error of the mean over all test tiles of 32 pixels, over what it were if tiles were strangers, by
the height of a block in map pixels; blocks are as wide as a test strip. `data/earth.py` takes 256.

{neighbours()}

`{how["command"]}`, {how["machine"]}, {how["date"]}, numpy {how["versions"]["numpy"]}; seed 0.
"""  # noqa: E501
    print(text)
    if flags.out:
        write_atomic(flags.out, text.encode())


if __name__ == "__main__":
    main()
