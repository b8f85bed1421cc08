"""Features of many images: what is read from the disk is what an array would have given."""

from __future__ import annotations

import numpy as np
import pytest

from jax_bridges.metrics import Moments, frechet_distance, inception_score, kernel_distance
from jax_bridges.metrics.store import BLOCK, IN_MEMORY, Picked, Store


def filled(rows: np.ndarray, part: int = 700) -> Store:
    store = Store()
    for start in range(0, len(rows), part):
        store.add(rows[start : start + part])
    return store


def test_a_store_reads_as_an_array_does():
    rows = np.random.default_rng(0).normal(size=(4 * BLOCK + 5, 300)).astype(np.float32)
    store = filled(rows)
    assert rows.nbytes > IN_MEMORY and len(store) == len(rows)
    for picks in (np.arange(7, 90), np.array([5, 2, 2, len(rows) - 1]), np.array([], int)[:0]):
        if len(picks):
            np.testing.assert_array_equal(store.take(picks), rows.take(picks, 0))
    np.testing.assert_array_equal(np.concatenate(list(store.blocks())), rows)
    picks = np.random.default_rng(1).integers(len(rows), size=len(rows))
    drawn = np.concatenate(list(store.blocks(picks)))
    np.testing.assert_array_equal(np.sort(drawn[:, 0]), np.sort(rows[picks, 0]))
    np.testing.assert_array_equal(Picked(store, picks).take([3, 1]), rows[picks[[3, 1]]])
    with pytest.raises(ValueError, match="holds rows of 300 float32, not float64"):
        store.add(rows[:2].astype(np.float64))


def test_statistics_of_a_store_are_those_of_the_array():
    """Moments by blocks equal those at once, and so do the distances, at more and fewer rows than D."""
    random = np.random.default_rng(2)
    for count in (2 * BLOCK + 100, 40):
        a, b = random.normal(1.0, 2.0, (2, count, 48)).astype(np.float32)
        blocks = Moments.of_blocks(a[i : i + 37] for i in range(0, count, 37))
        whole = Moments.of(a)
        assert blocks.count == count
        np.testing.assert_allclose(blocks.mean, whole.mean, rtol=1e-12)
        np.testing.assert_allclose(blocks.covariance, whole.covariance, rtol=1e-9, atol=1e-12)
        far, near = frechet_distance(Moments.of(b), whole), frechet_distance(Moments.of(b), blocks)
        assert near == pytest.approx(far, rel=1e-9)
        assert kernel_distance(filled(a), filled(b), 20) == kernel_distance(a, b, 20)
        assert inception_score(filled(a), split_size=50) == inception_score(a, split_size=50)
    with pytest.raises(ValueError, match="not none"):
        Moments.of_blocks([])
