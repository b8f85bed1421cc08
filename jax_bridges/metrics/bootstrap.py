"""How sure a number is: intervals by Student's t, for a set's own statistics by bootstrap (Efron 1979)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import special

from jax_bridges.keys import HostStream, host_generator


def mean_interval(values, level: float = 0.95) -> tuple[float, float]:
    """(low, high) of the mean of one value an image, [N]: Student's, `mean +- t_{N - 1} std / sqrt N`.

    NaN values (an image without the region a metric looks at) are left out; with fewer than two
    values the interval is (NaN, NaN). Raises ValueError for a level outside (0, 1).
    """
    values = np.asarray(values, np.float64)
    values = values[np.isfinite(values)]
    quantile = _quantile(level, len(values))
    if len(values) < 2:
        return float("nan"), float("nan")
    return _around(values.mean(), quantile * values.std(ddof=1) / np.sqrt(len(values)))


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
    the value: the interval tells how much the value would vary, not how biased it is. That is
    `value +- t_{resamples - 1} std`: percentiles of 50 resamples are too close together, and t makes
    up for what so few know of the spread.
    Raises ValueError for a level outside (0, 1) or fewer than 2 resamples.
    """
    quantile = _quantile(level, resamples)
    if resamples < 2:
        raise ValueError(f"An interval needs 2 resamples or more, not {resamples}.")
    random = host_generator(HostStream.BOOTSTRAP, seed)
    value = statistic(np.arange(count))
    drawn = [statistic(random.integers(count, size=count)) for _ in range(resamples)]
    return _around(value, quantile * np.std(drawn, ddof=1))


def _quantile(level: float, samples: int) -> float:
    """Of Student's t with samples - 1 degrees of freedom: within it, either way, lies `level`."""
    if not 0 < level < 1:
        raise ValueError(f"An interval needs a level in (0, 1), not {level}.")
    return float(special.stdtrit(samples - 1, (1 + level) / 2))


def _around(value: float, half: float) -> tuple[float, float]:
    return float(value - half), float(value + half)
