"""Feature moments, the Fréchet distance and KID, against closed forms and matrix roots."""

import numpy as np
import pytest
from scipy import linalg

from jax_bridges.metrics import Moments, fd_lite0, frechet_distance, kernel_distance
from jax_bridges.metrics.reference import load_statistics, save_statistics


def features(seed, count, dimensions=6, shift=0.0):
    random = np.random.default_rng(seed)
    mix = random.normal(size=(dimensions, dimensions))
    return random.normal(size=(count, dimensions)) @ mix + shift


def by_matrix_root(a, b):
    root = linalg.sqrtm(np.cov(a.T) @ np.cov(b.T)).real
    gap = np.square(a.mean(0) - b.mean(0)).sum()
    return gap + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root)


def test_closed_form_of_diagonal_and_commuting_gaussians():
    random = np.random.default_rng(0)
    u, v = random.uniform(0, 3, (2, 8))
    u[2] = v[3] = v[5] = 0  # singular
    mean_a, mean_b = random.normal(size=(2, 8))
    want = ((mean_a - mean_b) ** 2).sum() + ((np.sqrt(u) - np.sqrt(v)) ** 2).sum()
    basis = linalg.qr(random.normal(size=(8, 8)))[0]
    for axes in (np.eye(8), basis):
        a = Moments.from_covariance(50, mean_a, (axes * u) @ axes.T)
        b = Moments.from_covariance(50, mean_b, (axes * v) @ axes.T)
        np.testing.assert_allclose(frechet_distance(a, b), want, rtol=1e-10)
        np.testing.assert_allclose(a.covariance, (axes * u) @ axes.T, atol=1e-12)


def test_samples_against_the_matrix_root():
    a, b = features(1, 300), features(2, 300, shift=0.5)
    assert fd_lite0(a, b) == pytest.approx(by_matrix_root(a, b), rel=1e-9)
    assert fd_lite0(a, b) == pytest.approx(fd_lite0(b, a), rel=1e-12)
    assert fd_lite0(a, a) < 1e-9
    assert fd_lite0(a, a + 2) == pytest.approx(4 * 6, rel=1e-9)


def test_fewer_samples_than_dimensions_is_exact():
    """512 features of 1280 dimensions: covariances of rank 511, where matrix roots lose digits."""
    random = np.random.default_rng(3)
    a = random.normal(size=(512, 1280))
    a -= a.mean(0)
    # Scaled by s about the same mean: (1 - s)^2 tr C, exactly.
    want = 0.3**2 * np.square(a).sum() / 511
    assert fd_lite0(a, 0.7 * a) == pytest.approx(want, rel=1e-9)
    # Rotated into dimensions that the first set does not have: the traces add up.
    left, right = np.zeros((2, 40, 1280))
    left[:, :600], right[:, 600:1200] = random.normal(size=(2, 40, 600))
    want = np.square(left.mean(0) - right.mean(0)).sum() + left.var(0, ddof=1).sum()
    assert fd_lite0(left, right) == pytest.approx(want + right.var(0, ddof=1).sum(), rel=1e-9)


def test_saved_moments(tmp_path):
    moments = Moments.of(features(5, 30))
    save_statistics(tmp_path / "m.npz", moments)
    again = load_statistics(tmp_path / "m.npz")
    assert frechet_distance(moments, again) < 1e-10 and again.count == 30
    assert [p.name for p in tmp_path.iterdir()] == ["m.npz"]


def test_what_is_refused():
    a, b = Moments.of(features(6, 20)), Moments.of(features(7, 21))
    with pytest.raises(ValueError, match="20 and 21 samples"):
        frechet_distance(a, b)
    assert frechet_distance(a, b, allow_unequal=True) > 0
    with pytest.raises(ValueError, match="dimensions"):
        frechet_distance(a, Moments.of(features(6, 20, 5)))
    with pytest.raises(ValueError, match="2 samples"):
        frechet_distance(Moments.of(np.ones((1, 3))), Moments.of(np.ones((1, 3))))
    with pytest.raises(ValueError, match="NaN"):
        Moments.of(np.array([[np.nan, 1.0]]))
    with pytest.raises(ValueError, match=r"\[N, D\]"):
        Moments.of(np.zeros((0, 3)))


def test_kernel_distance_is_unbiased_and_its_definition():
    random = np.random.default_rng(8)
    a, b = random.normal(size=(400, 4)), random.normal(size=(400, 4))
    mean, deviation = kernel_distance(a, b, subset=50, subsets=400)
    assert abs(mean) < 0.3 * deviation  # same distribution: zero, of either sign
    shifted, _ = kernel_distance(a, b + 1, subset=50)
    assert shifted > 10 * deviation
    x, y = random.normal(size=(2, 5, 3))
    kernel = [[(u @ v / 3 + 1) ** 3 for v in (*x, *y)] for u in (*x, *y)]
    within = sum(kernel[i][j] + kernel[5 + i][5 + j] for i in range(5) for j in range(5) if i != j)
    across = sum(kernel[i][5 + j] for i in range(5) for j in range(5))
    want = within / 20 - 2 * across / 25
    assert kernel_distance(x, y, subset=5, subsets=3)[0] == pytest.approx(want, rel=1e-10)
    with pytest.raises(ValueError, match="subsets of 100"):
        kernel_distance(x, y)
