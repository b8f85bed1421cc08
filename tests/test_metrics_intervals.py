"""metrics/intervals.py: closed forms, and how often an interval holds what it should."""

import numpy as np
import pytest
from scipy import stats

from jax_bridges.metrics import (
    Estimate,
    Moments,
    folds_of,
    frechet_distance,
    kernel_distance,
    mean_estimate,
    paired_interval,
    set_estimate,
    sign_test,
)
from jax_bridges.metrics.frechet import (
    PairedFrechet,
    gaussian_distance,
    gaussians_without,
    kernel_without,
)
from jax_bridges.metrics.intervals import kept
from jax_bridges.metrics.store import Store


def blocks_of_neighbours(sizes):
    return np.repeat(np.arange(len(sizes)), sizes)


# -- closed forms ----------------------------------------------------------------------------------
def test_the_interval_of_a_mean_is_students():
    values = np.random.default_rng(3).normal(5, 2, 12)
    want = stats.t.interval(0.95, 11, values.mean(), stats.sem(values))
    assert mean_estimate([*values, np.nan]).interval() == pytest.approx(want, rel=1e-12)
    one_sided = stats.t.interval(0.90, 11, values.mean(), stats.sem(values))
    assert mean_estimate(values).bounds(0.95) == pytest.approx(one_sided, rel=1e-12)
    assert mean_estimate([3.0, 3.0, np.nan]).interval() == (3.0, 3.0)
    for few in ([4.0, np.nan], [np.nan]):  # one value says nothing of the spread
        assert np.isnan(mean_estimate(few).interval()).all()
    with pytest.raises(ValueError, match=r"a level in \(0, 1\), not 1"):
        mean_estimate(values).interval(1.0)


def test_blocks_of_equal_size_are_as_their_means():
    values = np.random.default_rng(4).normal(size=(9, 5)) + np.arange(9)[:, None]
    blocks = np.repeat([7, 1, 3, 2, 11, 5, 8, 0, 4], 5)  # any numbers
    want = stats.t.interval(0.95, 8, values.mean(), stats.sem(values.mean(1)))
    assert mean_estimate(values.ravel(), blocks).interval() == pytest.approx(want, rel=1e-12)
    assert mean_estimate(values.ravel(), np.zeros(45)).value == pytest.approx(values.mean())
    assert np.isnan(mean_estimate(values.ravel(), np.zeros(45)).interval()).all()


def test_a_bias_that_goes_with_the_number_of_images_moves_no_interval():
    """value + c / n: what falls with the number alone is no spread, however unequal the folds are."""
    random = np.random.default_rng(5)
    folds = blocks_of_neighbours([1, 2, 3, 9, 17])
    x = random.normal(size=len(folds))

    def mean(picks):
        return x.mean() if picks is None else x[picks].mean()

    def biased(picks):
        return mean(picks) + 30.0 / (len(x) if picks is None else len(picks))

    plain, lifted = set_estimate(mean, folds), set_estimate(biased, folds)
    assert lifted.error == pytest.approx(plain.error, rel=1e-9)
    assert plain.error == pytest.approx(mean_estimate(x, folds).error, rel=1e-12)
    assert lifted.minus(plain).error == pytest.approx(0, abs=1e-9)
    with pytest.raises(ValueError, match="in the same folds"):
        plain.minus(mean_estimate(x))


def test_folds_are_blocks_joined():
    blocks = np.array([40, 7, 7, 3, 40, 9, 12, 9])
    folds = folds_of(blocks, 8)
    same = blocks[:, None] == blocks
    np.testing.assert_array_equal(folds[:, None] == folds, same)
    joined = folds_of(blocks, 2)
    assert set(joined) == {0, 1} and ((joined[:, None] == joined) | ~same).all()
    np.testing.assert_array_equal(joined, folds_of(blocks, 2))
    sizes = np.bincount(folds_of(np.arange(103), 10))
    assert sorted(sizes) == [10] * 7 + [11] * 3
    assert [list(picks) for picks in kept(np.array([0, 1, 0]))] == [[1], [0, 2]]


def test_paired_differences():
    random = np.random.default_rng(6)
    image = random.normal(0, 10, 150)  # how hard each one is: the same for both rows
    ours, theirs = image + random.normal(0.5, 1, 150), image + random.normal(size=150)
    ours[3] = np.nan
    low, high = paired_interval(ours, theirs)
    want = mean_estimate(ours - theirs).interval()
    assert (low, high) == pytest.approx(want, abs=0.1 * (want[1] - want[0]))
    assert (low, high) == paired_interval(ours, theirs) and 0 < low < 0.5 < high
    few = slice(10, 40)  # Student's t
    want = stats.ttest_rel(ours[few], theirs[few]).confidence_interval()
    assert paired_interval(ours[few], theirs[few]) == pytest.approx(tuple(want))
    assert paired_interval(theirs, theirs) == (0, 0)
    many = np.random.default_rng(7).normal(size=(2, 6000))
    assert paired_interval(*many) == mean_estimate(many[0] - many[1]).interval()
    blocks = np.arange(150) // 10
    assert paired_interval(ours, theirs, blocks) == mean_estimate(ours - theirs, blocks).interval()


def test_the_sign_test_is_the_binomial_s():
    ours, theirs = np.array([3, 2, 5, 1, 4, 9.0]), np.array([1, 1, 1, 1, 5, 2.0])
    assert sign_test(ours, theirs) == pytest.approx(2 * (1 + 5) / 2**5)  # 4 of 5, one tie
    assert sign_test(ours, ours) == 1
    assert sign_test(np.arange(10) + 1.0, np.zeros(10)) == pytest.approx(2 / 2**10)
    assert sign_test([*ours, np.nan], [*theirs, 1]) == sign_test(ours, theirs)
    # Ten neighbours are one witness.
    assert sign_test(np.ones(30), np.zeros(30), np.arange(30) // 10) == pytest.approx(2 / 2**3)


# -- distances without some of the images ----------------------------------------------------------
def test_distances_without_a_fold_are_those_of_the_images_that_are_left():
    random = np.random.default_rng(7)
    a = random.normal(size=(40, 90)) + 5
    b = 0.8 * a + random.normal(size=(40, 90))
    folds = folds_of(np.arange(40), 6)
    frechet, kernel = PairedFrechet(a, b), kernel_without(a, b, folds, rows=16)
    assert frechet(np.arange(40)) == pytest.approx(frechet_distance(Moments.of(a), Moments.of(b)))
    for fold, picks in enumerate(kept(folds)):
        want = frechet_distance(Moments.of(a[picks]), Moments.of(b[picks]))
        assert frechet(picks) == pytest.approx(want, rel=1e-9)
        want = kernel_distance(a[picks], b[picks], subset=len(picks), subsets=1)[0]
        assert kernel[fold] == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize("constant", [0, 2])
def test_moments_without_a_fold_are_those_of_the_rows_that_are_left(constant):
    """And the distance by them; with features that never change, too, which make a covariance singular."""
    random, store = np.random.default_rng(8), Store()
    rows = random.normal(size=(300, 6)) @ random.normal(size=(6, 6)) + 40
    rows[:, :constant] = 3.0
    other = Moments.of(1.3 * rows + random.normal(size=rows.shape))
    for part in np.array_split(rows, 7):
        store.add(part)
    folds = folds_of(np.arange(300), 4)
    for found, picks in zip(gaussians_without(store, folds), kept(folds), strict=True):
        want = Moments.of(rows[picks])
        np.testing.assert_allclose(found[0], want.mean, rtol=1e-12)
        np.testing.assert_allclose(found[1], want.covariance, rtol=1e-9, atol=1e-9)
        distance = frechet_distance(want, other, allow_unequal=True)
        theirs = (other.mean, other.covariance)
        for pair in ((found, theirs), (theirs, found)):
            assert gaussian_distance(*pair) == pytest.approx(distance, rel=1e-6)


# -- coverage --------------------------------------------------------------------------------------
SETS = 1500
# 95 of 100, give or take three standard errors of so many sets.
NEAR = 0.95 + 3 * np.array([-1, 1]) * np.sqrt(0.95 * 0.05 / SETS)


@pytest.mark.parametrize("sizes", [[1] * 60, [4] * 15, [1, 2, 3, 4, 6] * 5])
def test_intervals_hold_the_truth_in_95_of_100_sets(sizes):
    """Of a mean, a paired difference and a squared distance, of strangers and of neighbours.

    tools/coverage.py does so for more sets, and for blocks as the tiles of the Earth have them.
    """
    random = np.random.default_rng(len(sizes))
    blocks = blocks_of_neighbours(sizes)
    held = np.zeros(3)
    share = np.square(sizes).sum() / len(blocks) ** 2
    for _ in range(SETS):
        x, y = (
            random.normal(size=len(sizes))[blocks] + random.normal(size=len(blocks)) for _ in "xy"
        )
        x, y = 5 + x, 5 + x + 0.3 * y
        # mean(x)^2 has the expectation 25 + its variance: that of the sets, not of all images there are.
        variance = share + 1 / len(blocks)
        square = set_estimate(lambda p, x=x: (x if p is None else x[p]).mean() ** 2, blocks)
        found = (mean_estimate(x, blocks), mean_estimate(y - x, blocks), square)
        for k, (estimate, truth) in enumerate(zip(found, (5, 0, 25 + variance))):
            low, high = estimate.interval()
            held[k] += low <= truth <= high
    assert (held / SETS >= NEAR[0]).all() and (held / SETS <= NEAR[1]).all(), held / SETS


@pytest.mark.parametrize("sizes", [[1] * 60, [2, 3, 5, 7, 9] * 4])
def test_intervals_of_frechet_distances_hold_it_too(sizes):
    """And of their paired difference, to which the folds in common add nothing."""
    sets, random = 300, np.random.default_rng(2)
    blocks = blocks_of_neighbours(sizes)
    folds, everyone = folds_of(blocks, 20), np.arange(len(blocks))

    def distance(a, b):
        return lambda picks: frechet_distance(
            *(Moments.of(x[everyone if picks is None else picks]) for x in (a, b))
        )

    def noise():
        common, own = (random.normal(size=(n, 2)) for n in (len(sizes), len(blocks)))
        return common[blocks] + own

    values, ends = np.zeros((sets, 2)), np.zeros((sets, 2, 2))
    for k in range(sets):
        target, error, other = noise(), noise(), noise()
        one, two = target + 0.6 * error + 1, target + 0.5 * error + 0.4 * other + 1.2
        pair = [set_estimate(distance(row, target), folds) for row in (one, two)]
        difference = pair[1].minus(pair[0])
        for j, estimate in enumerate((pair[0], difference)):
            values[k, j], ends[k, j] = estimate.value, estimate.interval()
    truth = values.mean(0)
    held = ((ends[..., 0] <= truth) & (truth <= ends[..., 1])).mean(0)
    near = 0.95 + 3.5 * np.array([-1, 1]) * np.sqrt(0.95 * 0.05 / sets)
    assert (held >= near[0]).all() and (held <= min(near[1], 0.99)).all(), held


def test_an_estimate_of_nothing_is_nan():
    assert np.isnan(Estimate(1.0, np.empty(0), np.empty(0)).interval()).all()
