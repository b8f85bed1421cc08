"""Freeform masks: Palette's file to the bit, and the generator's promises."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_bridges.corruptions import (
    InpaintFreeform,
    InpaintRandom,
    freeform_masks,
    read_masks,
    write_masks,
)
from jax_bridges.corruptions.masks import mask_bank, unpack_masks

GOLDEN = np.load(pathlib.Path(__file__).parent / "golden" / "corruptions_64.npz")


def test_bits_are_palettes():
    np.testing.assert_array_equal(unpack_masks(GOLDEN["bits"], 16, 16), GOLDEN["bits_masks"])
    np.testing.assert_array_equal(np.packbits(GOLDEN["bits_masks"]), GOLDEN["bits"])
    with pytest.raises(ValueError, match="not a whole number of 15 x 15"):
        unpack_masks(GOLDEN["bits"], 15, 15)
    with pytest.raises(ValueError, match="not a whole number of 256 x 256"):
        unpack_masks(GOLDEN["bits"], 256, 256)


@pytest.mark.parametrize("size", [(16, 16), (11, 13)])
def test_a_written_file_reads_back(tmp_path, size):
    path = tmp_path / "masks.npz"
    bands = {area: freeform_masks(7, *size, area) for area in ((10, 20), (20, 30))}
    write_masks(path, bands)
    assert sorted(np.load(path).files) == ["10-20% freeform", "20-30% freeform"]
    for area, masks in bands.items():
        np.testing.assert_array_equal(read_masks(path, area, *size), masks)
    assert [p.name for p in tmp_path.iterdir()] == ["masks.npz"]
    with pytest.raises(ValueError, match="no masks '30-40% freeform'; it has 10-20% freeform"):
        read_masks(path, (30, 40), *size)
    with pytest.raises(FileNotFoundError, match="Palette"):
        read_masks(tmp_path / "none.npz", (10, 20))


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "masks.npz"
    write_masks(path, {(10, 20): GOLDEN["bits_masks"]})

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(OSError, match="disk full"):
        write_masks(path, {(10, 20): np.zeros((1, 16, 16))})
    assert [p.name for p in tmp_path.iterdir()] == ["masks.npz"]
    np.testing.assert_array_equal(read_masks(path, (10, 20), 16, 16), GOLDEN["bits_masks"])


@pytest.mark.parametrize("area", [(10, 20), (20, 30), (1, 5), (60, 70)])
def test_generated_holes_fill_the_band_and_never_leave_it(area):
    ratio = 100 * freeform_masks(200, 32, 48, area).mean((1, 2))
    assert area[0] <= ratio.min() and ratio.max() <= area[1]
    # Uniform in the band: its mean and spread, within five standard errors.
    width = area[1] - area[0]
    assert abs(ratio.mean() - sum(area) / 2) < 5 * width / np.sqrt(12 * 200)
    assert abs(ratio.std() - width / np.sqrt(12)) < 0.05 * width


def test_generated_masks_are_fixed_by_seed_and_number():
    masks = freeform_masks(6, 32, 32, seed=3)
    np.testing.assert_array_equal(freeform_masks(2, 32, 32, seed=3), masks[:2])
    assert (freeform_masks(6, 32, 32, seed=4) != masks).any((1, 2)).all()
    assert len({m.tobytes() for m in masks}) == 6
    with pytest.raises(ValueError, match="0 <= low <= high"):
        freeform_masks(1, 8, 8, (20, 10))
    assert freeform_masks(1, 8, 8, (0, 0)).sum() == 0
    assert freeform_masks(1, 8, 8, (100, 100)).sum() == 64


def test_generated_holes_are_strokes_not_specks():
    masks = freeform_masks(20, 256, 256).astype(int)
    inner = masks[:, 1:-1, 1:-1]
    lonely = inner & ~(masks[:, :-2, 1:-1] | masks[:, 2:, 1:-1])
    lonely &= ~(masks[:, 1:-1, :-2] | masks[:, 1:-1, 2:])
    assert (lonely == 1).sum() == 0
    edges = np.abs(np.diff(masks, axis=1)).sum() + np.abs(np.diff(masks, axis=2)).sum()
    assert edges < 0.25 * masks.sum()


def test_the_graph_takes_masks_of_the_bank_evenly():
    corruption = InpaintFreeform(count=8, fill="zero")
    bank = freeform_masks(8, 30, 30)  # 900 pixels are not whole bytes
    x, keys = jnp.ones((256, 30, 30, 1)), jax.random.split(jax.random.key(0), 256)
    xT, mask = jax.jit(corruption)(x, keys)
    same = (np.asarray(mask)[:, None, ..., 0] == bank[None]).all((2, 3))
    np.testing.assert_array_equal(same.sum(1), 1)
    assert same.sum(0).min() >= 15
    np.testing.assert_array_equal(xT, 1 - mask)


def test_evaluation_names_its_masks_and_a_file_replaces_the_generator(tmp_path):
    path = tmp_path / "masks.npz"
    write_masks(path, {(10, 20): GOLDEN["bits_masks"]})
    corruption = InpaintFreeform(path=str(path))
    x, keys = jnp.zeros((3, 16, 16, 3)), jax.random.split(jax.random.key(0), 3)
    mask = jax.jit(corruption)(x, keys, jnp.array([0, 4, 6])).mask
    np.testing.assert_array_equal(mask[..., 0], GOLDEN["bits_masks"][[0, 4, 1]])
    with pytest.raises(ValueError, match="not a whole number of 32 x 32"):
        corruption(jnp.zeros((3, 32, 32, 3)), keys)


def test_the_bank_is_made_once_and_read_only():
    bank = mask_bank(None, 4, (10, 20), 0, 16, 16)
    assert mask_bank(None, 4, (10, 20), 0, 16, 16) is bank
    assert bank.shape == (4, 32) and bank.dtype == np.uint8
    with pytest.raises(ValueError, match="read-only"):
        bank[0] = 0


def test_random_pixels_are_missing_exactly_or_each_by_itself():
    """int(H W share) of every image; or Bernoulli, whose numbers have the binomial's mean and variance."""
    x, keys = jnp.zeros((400, 6, 5, 3)), jax.random.split(jax.random.key(1), 400)
    for share, count in ((0.7, 21), (0.6, 18), (0.5, 15), (0.99, 29)):
        mask = InpaintRandom(share=share)(x, keys).mask
        assert mask.shape == (400, 6, 5, 1)
        np.testing.assert_array_equal(mask.sum((1, 2, 3)), count)
    where = np.asarray(InpaintRandom(share=0.5)(x, keys).mask).mean(0)
    assert abs(where - 0.5).max() < 4.5 * 0.5 / 20  # every pixel alike
    single = np.asarray(InpaintRandom(share=0.3, exact=False)(x, keys).mask).sum((1, 2, 3))
    assert abs(single.mean() - 9) < 4 * (6.3 / 400) ** 0.5
    assert abs(single.var() / 6.3 - 1) < 4 * (2 / 400) ** 0.5
