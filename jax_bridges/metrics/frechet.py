"""Distances between two sets of features: Fréchet (Gaussian) and kernel (MMD), in float64 numpy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy import linalg

from jax_bridges.keys import HostStream, host_generator


@dataclass(frozen=True)
class Moments:
    """Count, mean [D] and covariance of a set of features, the latter as a factor: `root` [R, D]
    with root^T root = sum of (x - mean)(x - mean)^T.

    The factor is what the Fréchet distance needs, and stays exact where the covariance is singular
    (fewer features than dimensions). It has a row a feature until it is reduced to at most D.
    `count` None: published statistics that do not say of how many images; `root` is then a factor
    of the covariance itself.
    """

    count: int | None
    mean: np.ndarray
    root: np.ndarray

    @classmethod
    def of(cls, features) -> Moments:
        """Of features [N, D], N >= 1. Raises ValueError for another shape or values not finite."""
        x = np.asarray(features, np.float64)
        if x.ndim != 2 or not len(x):
            raise ValueError(f"Features must be [N, D] with N at least 1, not {x.shape}.")
        if not np.isfinite(x).all():
            raise ValueError("Features hold NaN or infinity: look at the images they come from.")
        mean = x.mean(0)
        return cls(len(x), mean, _reduced(x - mean))

    @classmethod
    def of_blocks(cls, blocks: Iterable[np.ndarray]) -> Moments:
        """Of features that come as blocks [n, D], with memory for one block and D^2.

        Raises ValueError as `of` does, and for none.
        """
        whole = None
        for block in blocks:
            part = cls.of(block)
            whole = part if whole is None else whole.joined(part)
        if whole is None:
            raise ValueError("Features must be [N, D] with N at least 1, not none.")
        return whole

    def joined(self, other: Moments) -> Moments:
        """Of both sets together; their counts must be known.

        Mean and scatter by Chan, Golub and LeVeque (1979), with the scatter kept as its factor, so that
        nothing is squared and nothing is lost to cancellation, however often it is done.
        """
        if len(self.mean) != len(other.mean):
            raise ValueError(
                f"Features of {len(self.mean)} and of {len(other.mean)} numbers are no set together."
            )
        assert self.count is not None and other.count is not None  # see above
        count, shift = self.count + other.count, other.mean - self.mean
        between = shift * np.sqrt(self.count * other.count / count)
        root = _reduced(np.vstack([self.root, other.root, between]))
        return Moments(count, self.mean + shift * (other.count / count), root)

    @classmethod
    def from_covariance(cls, count: int | None, mean, covariance) -> Moments:
        """From published statistics: mean [D] and sample covariance [D, D] (divided by N - 1)."""
        values, vectors = linalg.eigh(np.asarray(covariance, np.float64))
        # What is below rounding is zero: its root would not be.
        values[values < values[-1] * len(values) * np.finfo(np.float64).eps] = 0
        root = vectors * np.sqrt(values * (1 if count is None else count - 1))
        return cls(count, np.asarray(mean, np.float64), root.T)

    @property
    def covariance(self) -> np.ndarray:
        """[D, D], divided by N - 1."""
        return self.root.T @ self.root / self._divisor

    def square(self) -> np.ndarray:
        """A factor with D rows at most, followed by rows of zeros where there are fewer: [D, D]."""
        root = _reduced(self.root)
        return np.pad(root, ((0, root.shape[1] - len(root)), (0, 0)))

    @property
    def _divisor(self) -> int:
        return 1 if self.count is None else self.count - 1


def _reduced(root: np.ndarray) -> np.ndarray:
    """A factor of the same scatter with at most D rows."""
    if len(root) <= root.shape[1]:
        return root
    return linalg.qr(root, mode="r", check_finite=False)[0][: root.shape[1]]


def frechet_distance(a: Moments, b: Moments, allow_unequal: bool = False) -> float:
    """Squared Fréchet distance of the Gaussians with these moments (Dowson and Landau 1982, eq. 4):

        |m_a - m_b|^2 + tr C_a + tr C_b - 2 tr (C_a C_b)^(1/2)

    With C = R^T R the last trace is the nuclear norm of R_a R_b^T, so no matrix root is taken and
    singular covariances lose nothing. Estimates fall with the number of samples, so figures of
    different counts do not compare.

    Raises ValueError for other dimensions, for fewer than 2 samples, and for unequal counts unless
    `allow_unequal`; a count that is not known passes.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"Features of {len(a.mean)} and {len(b.mean)} dimensions do not compare.")
    counts = [m.count for m in (a, b) if m.count is not None]
    if min(counts, default=2) < 2:
        raise ValueError(
            f"A Fréchet distance needs 2 samples or more, not {a.count} and {b.count}."
        )
    if len(set(counts)) > 1 and not allow_unequal:
        raise ValueError(
            f"Sets of {a.count} and {b.count} samples have a different bias: use as many of each, "
            "or pass allow_unequal=True."
        )
    # Scaled so that root^T root is the covariance itself.
    root_a, root_b = (_reduced(m.root) / np.sqrt(m._divisor) for m in (a, b))
    cross = linalg.svdvals(root_a @ root_b.T, overwrite_a=True, check_finite=False).sum()
    spread = np.square(root_a).sum() + np.square(root_b).sum() - 2 * cross
    return float(np.square(a.mean - b.mean).sum() + max(spread, 0.0))


class PairedFrechet:
    """`frechet_distance` of the rows `picks` of two sets, for many picks of few rows.

    All that it depends on are inner products of rows, which are taken once: a pick then costs the singular
    values of a matrix of its rows, whatever the dimension. They are roots of eigenvalues, which takes a third
    of the time and keeps half of the digits of the smallest ones: of 2000 rows 8 digits of their sum.
    """

    def __init__(self, a, b):
        """Of features [N, D] and [N, D], the same N."""
        a, b = (np.asarray(x, np.float64) for x in (a, b))
        origin = b.mean(0)  # near the means that are subtracted: so fewer digits are lost
        a, b = a - origin, b - origin
        self._aa, self._ab, self._bb = a @ a.T, a @ b.T, b @ b.T

    def __call__(self, picks: np.ndarray) -> float:
        """The distance of these rows, 2 or more, none of them twice."""
        square = np.ix_(picks, picks)
        aa, ab, bb = self._aa[square], self._ab[square], self._bb[square]
        means = aa.mean() + bb.mean() - 2 * ab.mean()
        spread = np.trace(aa) + np.trace(bb) - len(picks) * (aa.mean() + bb.mean())
        cross = ab - ab.mean(0) - ab.mean(1)[:, None] + ab.mean()
        squares = linalg.eigvalsh(cross.T @ cross, overwrite_a=True, check_finite=False)
        spread -= (
            2 * np.sqrt(np.maximum(squares[1:], 0.0)).sum()
        )  # one is 0: what is centred has no mean
        return float(means + max(spread, 0.0) / (len(picks) - 1))


Gaussian = tuple[np.ndarray, np.ndarray]  # mean [D] and covariance [D, D]


def gaussians_without(features, folds: np.ndarray) -> Iterator[Gaussian]:
    """Mean and covariance of the rows that are left without each fold.

    Sums over a fold are taken off those over all rows: memory is for D^2, and each row is squared twice.

    Args:
      features: [N, D], with `take` and `blocks` (metrics/store.py).
      folds: `[N]` numbers 0 .. G - 1 of rows that are left out together.
    """
    origin = np.asarray(features.take(np.arange(1)), np.float64)[0]  # any that is near the mean

    def sums(picks: np.ndarray | None) -> list:
        found = [0, 0.0, 0.0]
        for block in features.blocks(picks):
            x = block - origin
            found = [have + new for have, new in zip(found, (len(x), x.sum(0), x.T @ x))]
        return found

    whole = sums(None)
    for fold in range(int(folds.max()) + 1):
        parts = zip(whole, sums(np.flatnonzero(folds == fold)))
        count, total, squares = (all_rows - its for all_rows, its in parts)
        yield origin + total / count, (squares - np.outer(total, total) / count) / (count - 1)


def gaussian_distance(a: Gaussian, b: Gaussian) -> float:
    """`frechet_distance` from covariances, in a third of its time; small variances keep half of their digits.

    tr (C_a C_b)^(1/2) is the sum of roots of the eigenvalues of L^T C_b L, where C_a = L L^T.
    """
    (mean_a, cov_a), (mean_b, cov_b) = a, b
    try:
        root = linalg.cholesky(cov_a, lower=True, check_finite=False)
    except linalg.LinAlgError:  # it is singular
        values, vectors = linalg.eigh(cov_a, check_finite=False)
        root = vectors * np.sqrt(np.maximum(values, 0.0))
    squares = linalg.eigvalsh(root.T @ cov_b @ root, overwrite_a=True, check_finite=False)
    cross = np.sqrt(np.maximum(squares, 0.0)).sum()
    spread = np.trace(cov_a) + np.trace(cov_b) - 2 * cross
    return float(np.square(mean_a - mean_b).sum() + max(spread, 0.0))


def kernel_without(a, b, folds: np.ndarray, rows: int = 2048) -> np.ndarray:
    """KID `[G]` without the rows of each fold, over all pairs of those that are left.

    All pairs rather than subsets, whose chance would be multiplied by the number of folds. Each pair is
    seen once, `rows` times `rows` of them at a time; of one set, the kernel is the same both ways round.

    Args:
      a, b: features [N, D], arrays or read as such.
      folds: `[N]` numbers 0 .. G - 1 of rows that are left out together.
    """
    member = np.eye(int(folds.max()) + 1)[folds]  # [N, G]
    parts = [np.arange(start, min(start + rows, len(a))) for start in range(0, len(a), rows)]

    def without(x, y, same: bool) -> np.ndarray:
        between = np.zeros(())  # sums over pairs [G, G]
        alone = np.zeros(())  # and over a row with itself [G]
        for i, p in enumerate(parts):
            first = np.asarray(x.take(p, 0), np.float64)
            for q in parts[i:] if same else parts:
                kernel = _kernel(first, np.asarray(y.take(q, 0), np.float64))
                if same and p is q:
                    alone = alone + np.diag(kernel) @ member[p]
                part = member[p].T @ kernel @ member[q]
                between = between + part + (part.T if same and p is not q else 0)
        left = between.sum() - between.sum(0) - between.sum(1) + np.diag(between)
        return left - np.sum(alone) + alone if same else left

    count = len(a) - np.bincount(folds)
    within = without(a, a, True) + without(b, b, True)
    return within / (count * (count - 1)) - 2 * without(a, b, False) / count**2


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    base = x @ y.T / x.shape[1] + 1
    return base * base * base  # a seventh of the time of a power


def kernel_distance(a, b, subset: int = 100, subsets: int = 50, seed: int = 0):
    """KID, (mean, standard deviation over subsets), of features [N, D] and [M, D].

    The unbiased squared MMD of the kernel (x.y / D + 1)^3 on random subsets (Binkowski et al. 2018,
    arXiv 1801.01401, section 4): unlike a Fréchet distance, its expectation does not depend on the
    number of samples, which makes it the figure to trust for a few hundred images.

    Sets are arrays, or read as such (metrics/store.py): rows are taken by `take`.
    Raises ValueError when a set is smaller than `subset` or `subset` is below 2.
    """
    if not 2 <= subset <= min(len(a), len(b)):
        raise ValueError(f"KID's subsets of {subset} need 2 to {min(len(a), len(b))} samples.")
    random = host_generator(HostStream.SUBSETS, seed)
    values = []
    for _ in range(subsets):
        picks = (random.choice(len(s), subset, replace=False) for s in (a, b))
        x, y = (np.asarray(s.take(p, 0), np.float64) for s, p in zip((a, b), picks))
        xx, yy, xy = _kernel(x, x), _kernel(y, y), _kernel(x, y)
        within = (xx.sum() - np.trace(xx) + yy.sum() - np.trace(yy)) / (subset * (subset - 1))
        values.append(within - 2 * xy.mean())
    return float(np.mean(values)), float(np.std(values))
