"""How sure a number is: 95% intervals of means and of distances of sets, paired differences, sign tests.

Whatever is measured of N images, their mean or a distance of the whole set, is an `Estimate`: its value,
and its values without each block of images (the jackknife). A block is what is left out together: images
that are neighbours, of which a few hundred say less than as many strangers would; one image where all are
strangers.

    psnr = mean_estimate(values, blocks)
    psnr.interval()                       # (low, high)
    psnr.minus(other).interval()          # of two rows that saw the same images

Why a jackknife: it repeats no image, as a bootstrap's resamples do, which lifts a Fréchet distance of few
images; and it is the same at every start. How often the intervals hold the truth: results/coverage.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from scipy import special, stats

from jax_bridges.keys import HostStream, host_generator

LEVEL = 0.95
# Values of so many images that are all strangers are resampled one by one, as they are. Of fewer, or of
# blocks, Student's t covers better (results/coverage.md); of more, whose mean is as good as Gaussian, it says
# the same in no time.
ENOUGH, MANY = 100, 5000
RESAMPLES = 2000  # of a paired bootstrap


def folds_of(blocks: np.ndarray, most: int) -> np.ndarray:
    """Numbers 0 .. G - 1 `[N]` of what is left out together, G at most `most`.

    Args:
      blocks: `[N]` numbers of blocks, any integers.
      most: how many folds there may be, 2 or more; blocks are joined at random, always alike.
    """
    numbers = np.unique(np.asarray(blocks), return_inverse=True)[1]
    count = int(numbers.max()) + 1
    if count <= most:
        return numbers
    order = host_generator(HostStream.FOLDS).permutation(count)
    return order[numbers] % most


def kept(folds: np.ndarray) -> Iterator[np.ndarray]:
    """The numbers of the images that are left without each fold."""
    for fold in range(int(folds.max()) + 1):
        yield np.flatnonzero(folds != fold)


class Estimate(NamedTuple):
    """A number of a set of images, and what tells how it would vary.

    value: of all images; without: `[G]`, without each fold; sizes: `[G]`, images of each fold.

    The standard error is the jackknife's for clusters ("CV3" in MacKinnon, Nielsen and Webb 2023, Journal of
    Econometrics 232), of pseudo-values for folds of unequal sizes (Busing, Meijer and van der Leeden 1999,
    Statistics and Computing 9): the value of a distance falls with the number of images, by which all
    pseudo-values are moved alike. So the interval tells how much the value would vary with other images, as
    many as there are, and not how biased it is.
    """

    value: float
    without: np.ndarray
    sizes: np.ndarray

    @property
    def error(self) -> float:
        """Standard error; NaN of fewer than two folds."""
        share = self.sizes / self.sizes.sum()
        if len(share) < 2:
            return math.nan
        pseudo = (self.value - (1 - share) * self.without) / share  # of a mean: those of the folds
        moved = share / (1 - share) * (pseudo - share @ pseudo)
        return math.sqrt((len(share) - 1) / len(share) * float(np.square(moved).sum()))

    @property
    def freedom(self) -> float:
        """Degrees of freedom: one less than the folds, if these are equal, and fewer if not (Kish 1965)."""
        return float(self.sizes.sum() ** 2 / np.square(self.sizes).sum()) - 1

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """(low, high), `value +- t error`; NaN of fewer than two folds. ValueError: no level in (0, 1)."""
        half = self._half((1 + level) / 2, level)
        return self.value - half, self.value + half

    def bounds(self, level: float = LEVEL) -> tuple[float, float]:
        """(lower, upper), each of which alone holds with `level`."""
        half = self._half(level, level)
        return self.value - half, self.value + half

    def minus(self, other: Estimate) -> Estimate:
        """The paired difference to a number of the same images. ValueError: of other folds."""
        if not np.array_equal(self.sizes, other.sizes):
            raise ValueError("Only numbers of the same images, in the same folds, are paired.")
        return Estimate(self.value - other.value, self.without - other.without, self.sizes)

    def _half(self, probability: float, level: float) -> float:
        if not 0 < level < 1:
            raise ValueError(f"An interval needs a level in (0, 1), not {level}.")
        if len(self.sizes) < 2:
            return math.nan
        return float(special.stdtrit(self.freedom, probability)) * self.error


def mean_estimate(values, blocks=None) -> Estimate:
    """The mean of one value an image, `[N]`; without blocks its interval is Student's own.

    NaN values (an image without the region a metric looks at) are left out.

    Args:
      blocks: `[N]` numbers of blocks; None: each image is one.
    """
    values = np.asarray(values, np.float64)
    there = np.isfinite(values)
    values = values[there]
    if not len(values):
        return Estimate(math.nan, np.empty(0), np.empty(0))
    if blocks is None:
        folds = np.arange(len(values))
    else:
        folds = np.unique(np.asarray(blocks)[there], return_inverse=True)[1]
    sizes, sums = np.bincount(folds), np.bincount(folds, values)
    total, count = sums.sum(), len(values)
    rest = np.where(sizes < count, count - sizes, 1)
    return Estimate(float(total / count), (total - sums) / rest, sizes)


def set_estimate(statistic: Callable[[np.ndarray | None], float], folds: np.ndarray) -> Estimate:
    """A statistic of the whole set, such as an FID.

    Args:
      statistic: called with numbers of images, and with None for all.
      folds: `[N]`, from `folds_of`.
    """
    without = np.array([statistic(picks) for picks in kept(folds)])
    return Estimate(statistic(None), without, np.bincount(folds))


def paired_interval(ours, theirs, blocks=None, level: float = LEVEL) -> tuple[float, float]:
    """(low, high) of the mean of `ours - theirs`, `[N]` each, of the same images.

    Of ENOUGH strangers, and not too MANY, by scipy's paired bootstrap (bias-corrected and accelerated, Efron
    1987), which follows skewed differences; else by Student's t over blocks.
    """
    differences = np.asarray(ours, np.float64) - np.asarray(theirs, np.float64)
    there = np.isfinite(differences)
    strangers = blocks is None or len(np.unique(blocks)) == len(differences)
    if not strangers or not ENOUGH <= there.sum() <= MANY or np.ptp(differences[there]) == 0:
        return mean_estimate(differences, blocks).interval(level)
    found = stats.bootstrap(
        (differences[there],), np.mean, n_resamples=RESAMPLES, confidence_level=level, method="BCa",
        rng=host_generator(HostStream.BOOTSTRAP), batch=200,
    )  # fmt: skip
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def sign_test(ours, theirs, blocks=None) -> float:
    """p of the two-sided sign test: how likely so uneven a count of who is larger is by chance alone.

    Blocks of neighbours count once, by the sign of their sum; ties not at all. 1.0 where all are ties.
    """
    differences = np.asarray(ours, np.float64) - np.asarray(theirs, np.float64)
    there = np.isfinite(differences)
    differences = differences[there]
    if blocks is not None and len(differences):
        differences = np.bincount(
            np.unique(np.asarray(blocks)[there], return_inverse=True)[1], differences
        )
    larger, smaller = int((differences > 0).sum()), int((differences < 0).sum())
    if larger + smaller == 0:
        return 1.0
    return float(stats.binomtest(larger, larger + smaller).pvalue)
