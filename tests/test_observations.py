"""Observations: fixed by number, linear, noisy as they say, and without a way back to x_0."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_bridges.corruptions import make_corruption
from jax_bridges.data import Loader, Observations, operator_of
from jax_bridges.keys import Stream, example_keys, fold

KEY = jax.random.key(5)
MASKS = make_corruption("inpaint_random", share=0.6)


class Images:
    """`count` random images; with `junk`, those of another seed wherever a mask is 1."""

    name = "images"

    def __init__(self, count=12, size=8, junk=None):
        draw = np.random.default_rng(0)
        self.x0 = draw.integers(0, 256, (count, size, size, 3), np.uint8)
        if junk is not None:
            other = draw.integers(0, 256, self.x0.shape, np.uint8)
            self.x0 = np.where(junk > 0, other, self.x0)

    def __len__(self):
        return len(self.x0)

    def __getitem__(self, i):
        return {"x0": self.x0[i]}


def masks_of(count=12, size=8):
    keys = fold(example_keys(KEY, jnp.arange(count)), Stream.CORRUPT)
    return np.asarray(MASKS(jnp.zeros((count, size, size, 3)), keys).mask)


def test_an_observation_follows_from_its_number_alone():
    images = Images()
    whole, part = (
        Observations(images, MASKS, 0.1, KEY, n) for n in (None, np.array([7, 2, 5, 11]))
    )
    for i, number in enumerate((7, 2, 5, 11)):
        jax.tree.map(np.testing.assert_array_equal, part[i], whole[number])
        assert part[i]["number"] == number and set(part[i]) == {"y", "mask", "number"}
        np.testing.assert_array_equal(part[i]["mask"], masks_of()[number])
    loader = Loader(part, (4,), seed=3)
    first, later = loader.batch_at(0), loader.batch_at(9)  # the same four in another order
    order, again = np.argsort(first["number"]), np.argsort(later["number"])
    for name in ("y", "mask", "number"):
        np.testing.assert_array_equal(first[name][order], later[name][again])
    assert set(later["index"]) == {36, 37, 38, 39}  # of the draws, for what is fresh


def test_y_is_the_operators_and_its_noise_in_its_range():
    images = Images(200)
    x0 = images.x0 / np.float32(127.5) - 1
    for corruption, share in ((MASKS, 26 / 64), (make_corruption("identity"), 1.0)):
        batch = Loader(Observations(images, corruption, 0.3, KEY), (200,)).batch_at(0)
        operator = operator_of(corruption, {k: jnp.asarray(v) for k, v in batch.items()})
        assert ("mask" in batch) == (share < 1)
        noise = batch["y"] - np.asarray(operator.forward(x0[batch["number"]]))
        count = 200 * 64 * 3 * share
        assert np.isclose((noise != 0).mean(), share, atol=1e-3)
        assert abs((noise**2).sum() / count / 0.09 - 1) < 4 * (2 / count) ** 0.5
    blur = make_corruption("blur", taps=3, std=1.0)
    batch = Loader(Observations(images, blur, 0.0, KEY), (200,)).batch_at(0)
    assert set(batch) == {"y", "number", "index"}
    np.testing.assert_allclose(batch["y"], blur.forward(x0[batch["number"]]), atol=1e-6)


@pytest.mark.parametrize("sigma_y", [0.0, 0.2])
def test_nothing_of_what_is_hidden_is_left(sigma_y):
    """x_0 + (1 - A^+ A) junk: the same observations, bit for bit."""
    one, two = (Observations(Images(junk=junk), MASKS, sigma_y, KEY) for junk in (None, masks_of()))
    assert (Images().x0 != Images(junk=masks_of()).x0).mean() > 0.5
    for i in range(len(one)):
        jax.tree.map(np.testing.assert_array_equal, one[i], two[i])
