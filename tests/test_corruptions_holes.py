"""Holes of photographs: their sizes in pixels, and what is drawn of them for each example."""

import jax
import numpy as np
import pytest
from scipy import ndimage

from jax_bridges.corruptions import InpaintHoles, fill_hole, hole_masks
from jax_bridges.corruptions.holes import KINDS, draw_line, hole_bank
from tests.support.pictures import images, make_keys


@pytest.mark.parametrize("angle", [0, 0.4, np.pi / 4, 2])
@pytest.mark.parametrize("width", [3.0, 5.5, 8.0])
def test_a_line_has_its_width_and_rounded_ends(angle, width):
    """Its area is that of a rectangle and a disc, and no pixel is further off than half the width."""
    rng, areas = np.random.default_rng(0), []
    for _ in range(40):  # where it begins in a pixel matters
        mask = np.zeros((160, 170), bool)
        start = rng.uniform(80, 81, 2)
        end = start + 60 * np.array([np.sin(angle), np.cos(angle)])
        draw_line(mask, start, end, width)
        areas.append(mask.sum())
        thickest = ndimage.distance_transform_edt(mask).max()  # to the next pixel outside
        assert width / 2 - 0.5 <= thickest <= width / 2 + 1
    assert abs(np.mean(areas) / (60 * width + np.pi * width**2 / 4) - 1) < 0.04


def test_a_line_may_leave_the_image():
    mask = np.zeros((8, 8), bool)
    draw_line(mask, np.array([-3.0, -5.0]), np.array([-3.0, 20.0]), 4)  # beyond
    draw_line(mask, np.array([30.0, 4.0]), np.array([40.0, 4.0]), 4)
    assert not mask.any()
    draw_line(mask, np.array([-5.0, 4.0]), np.array([20.0, 4.0]), 2)
    np.testing.assert_array_equal(mask, np.broadcast_to(abs(np.arange(8) - 3.5) < 1, (8, 8)))


@pytest.mark.parametrize("kind", KINDS)
def test_masks_of_each_kind(kind):
    masks = hole_masks(kind, 40, 48, 64, seed=3)
    assert masks.dtype == np.uint8 and masks.shape == (40, 48, 64)
    shares = masks.mean((1, 2))
    assert shares.min() >= 0.01 and shares.max() <= 0.75
    assert len({mask.tobytes() for mask in masks}) == 40
    np.testing.assert_array_equal(hole_masks(kind, 3, 48, 64, seed=3), masks[:3])
    assert (hole_masks(kind, 1, 48, 64, seed=4) != masks[:1]).any()


def test_what_the_kinds_look_like():
    """Scratches and writing are as thin as they should be, boxes are whole."""
    thick = {
        kind: [
            2 * ndimage.distance_transform_edt(m).max() - 1 for m in hole_masks(kind, 30, 64, 64)
        ]
        for kind in ("scratches", "writing")
    }
    # Where two cross, a hole is wider than either.
    assert 3 <= np.min(thick["scratches"]) and np.median(thick["scratches"]) <= 9
    assert 1 <= np.min(thick["writing"]) and np.median(thick["writing"]) <= 7
    for mask in hole_masks("boxes", 30, 64, 64):
        parts, _ = ndimage.label(mask)
        sides = [[s.stop - s.start for s in part] for part in ndimage.find_objects(parts)]
        # Of two that touch the hull is larger than either, so one of a kind is what can be told.
        if len(sides) == 1 and mask.sum() == np.prod(sides[0]):
            assert 6 <= min(sides[0]) and max(sides[0]) <= 64


def test_every_example_has_a_hole_of_its_own_and_kinds_come_evenly():
    corruption = InpaintHoles(kinds=("boxes", "writing"), count=4, seed=1)
    bank = hole_bank(("boxes", "writing"), 4, 1, 32, 32)
    mask = np.asarray(jax.jit(lambda keys: corruption.mask(keys, 32, 32))(make_keys(400)))[..., 0]
    # A mask is moved and mirrored, which leaves its pixels as many as they were.
    counts = np.unpackbits(bank, axis=1).sum(1)
    found = mask.sum((1, 2))
    assert set(found) == set(counts) and len({m.tobytes() for m in mask}) > 390
    shares = [np.isin(found, counts[i : i + 4]).mean() for i in (0, 4)]
    assert set(counts[:4]).isdisjoint(counts[4:]) and np.abs(np.subtract(shares, 0.5)).max() < 0.09
    assert np.abs(mask.mean(0) / mask.mean() - 1).max() < 1  # anywhere


def test_the_hole_is_filled_and_the_rest_kept():
    corruption, x, keys = InpaintHoles(fill="zero", count=5), images(3, 32, 32), make_keys(3)
    xT, mask = jax.jit(corruption)(x, keys)
    assert mask is not None and set(np.unique(mask)) == {0, 1}
    np.testing.assert_array_equal(xT, fill_hole(x, mask, keys, "zero"))
    np.testing.assert_array_equal(corruption.operator(mask).forward(x), xT)
    with pytest.raises(ValueError, match="1 x 1 pixels are too small for boxes"):
        hole_masks("boxes", 1, 1, 1)
