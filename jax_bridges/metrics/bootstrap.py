"""How sure a number is: bootstrap percentile intervals over images (Efron 1979)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from jax_bridges.keys import HostStream, host_generator


def mean_interval(
    values, level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """(low, high) of the mean of one value an image, [N]: percentiles of the resampled means.

    NaN values (an image without the region a metric looks at) are left out; without any value the
    interval is (NaN, NaN). Raises ValueError for a level outside (0, 1).
    """
    values = np.asarray(values, np.float64)
    values = values[np.isfinite(values)]
    if not len(values):
        return float("nan"), float("nan")
    _check(level, resamples)
    random = host_generator(HostStream.BOOTSTRAP, seed)
    # Resampling N of N is a multinomial draw of how often each counts, in blocks of bounded size.
    means, block = [], max(1, 2**22 // len(values))
    for start in range(0, resamples, block):
        picks = random.integers(len(values), size=(min(block, resamples - start), len(values)))
        means.append(values[picks].mean(1))
    return _percentiles(np.concatenate(means), level)


def set_interval(
    statistic: Callable[[np.ndarray], float],
    count: int,
    level: float = 0.95,
    resamples: int = 50,
    seed: int = 0,
) -> tuple[float, float]:
    """(low, high) of a statistic of the whole set, such as an FID, around its own value.

    Args:
      statistic: called with image numbers [count], drawn with repetition.
      count: images of the set.

    A resample repeats images, which lifts every distance (and lowers an inception score) about as
    much again as a finite sample does. So the resamples' spread about their own mean is laid around
    the value: the interval tells how much the value would vary, not how biased it is.
    Raises ValueError for a level outside (0, 1).
    """
    _check(level, resamples)
    random = host_generator(HostStream.BOOTSTRAP, seed)
    value = statistic(np.arange(count))
    drawn = np.array([statistic(random.integers(count, size=count)) for _ in range(resamples)])
    low, high = _percentiles(drawn - drawn.mean(), level)
    return value + low, value + high


def _check(level: float, resamples: int) -> None:
    if not 0 < level < 1 or resamples < 2:
        raise ValueError(
            f"An interval needs a level in (0, 1) and 2 resamples or more, not {level}, {resamples}."
        )


def _percentiles(values: np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
