"""PSNR, SSIM, quantisation and the hole's crop, against closed forms and scikit-image."""

import dm_pix
import jax.numpy as jnp
import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from jax_bridges.corruptions.inpaint import InpaintCenter
from jax_bridges.metrics import hole_crop, psnr, ssim, to_uint8


def pictures(seed, shape=(3, 24, 30, 3)):
    """Smooth uint8 images and a noisy copy of them."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[1], : shape[2]]
    clean = 120 + 90 * np.sin(x / 5 + random.uniform(0, 6, (shape[0], 1, 1))) * np.cos(y / 7)
    clean = np.repeat(clean[..., None], shape[3], -1) + 20 * np.arange(shape[3])
    noisy = clean + random.normal(size=shape) * np.array([3, 15, 60])[:, None, None, None]
    return (np.clip(v, 0, 255).astype(np.uint8) for v in (clean, noisy))


def test_to_uint8_truncates_clips_and_keeps_pixels():
    levels = np.arange(256, dtype=np.uint8)
    for scaled in (levels / np.float32(127.5) - 1, levels / np.float32(255) * 2 - 1):
        np.testing.assert_array_equal(to_uint8(scaled.astype(np.float32)), levels)
    between = (levels[:-1] + np.float32(0.99)) / np.float32(127.5) - 1
    np.testing.assert_array_equal(to_uint8(between), levels[:-1])
    extreme = np.array([-1.5, -np.inf, np.nan, 1.0, 1.5, np.inf], np.float32)
    assert to_uint8(extreme).tolist() == [0, 0, 0, 255, 255, 255]
    assert to_uint8(levels).dtype == jnp.uint8
    with pytest.raises(ValueError, match="int32"):
        to_uint8(np.zeros(3, np.int32))


def test_psnr_closed_form_and_skimage():
    clean, noisy = pictures(0)
    flat = np.full((2, 4, 4, 3), 100, np.uint8)
    off = flat + np.array([1, 10], np.uint8)[:, None, None, None]
    np.testing.assert_allclose(psnr(off, flat), 20 * np.log10([255, 25.5]), rtol=1e-6)
    want = [
        peak_signal_noise_ratio(a, b, data_range=255) for a, b in zip(clean, noisy, strict=True)
    ]
    np.testing.assert_allclose(psnr(noisy, clean), want, rtol=1e-5)
    scaled = noisy.astype(np.float32) / 127.5 - 1
    np.testing.assert_allclose(psnr(scaled, clean), want, rtol=1e-5)
    assert psnr(clean, clean).tolist() == [100.0] * 3


def test_psnr_of_the_hole_alone():
    clean, noisy = pictures(1)
    random = np.random.default_rng(2)
    mask = (random.random((3, 24, 30, 1)) < 0.3).astype(np.float32)
    error = ((clean.astype(float) - noisy) ** 2).mean(-1)
    mse = [e[m[..., 0] > 0].mean() for e, m in zip(error, mask, strict=True)]
    np.testing.assert_allclose(
        psnr(noisy, clean, mask), 10 * np.log10(255**2 / np.array(mse)), 1e-5
    )
    shared = psnr(noisy, clean, mask[:1])
    np.testing.assert_allclose(shared[0], psnr(noisy, clean, mask)[0], rtol=1e-6)
    # Known pixels do not count: the figure stays when they are all made right.
    kept = np.where(mask > 0, noisy, clean)
    np.testing.assert_allclose(psnr(kept, clean, mask), psnr(noisy, clean, mask), rtol=1e-6)
    assert (psnr(kept, clean) > psnr(kept, clean, mask) + 3).all()
    mask[1] = 0
    assert np.isnan(psnr(noisy, clean, mask)).tolist() == [False, True, False]


def test_ssim_is_skimage_s_and_dm_pix_s():
    clean, noisy = pictures(3)
    want = [
        structural_similarity(
            a / 255.0,
            b / 255.0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=1.0,
            channel_axis=-1,
        )
        for a, b in zip(clean, noisy, strict=True)
    ]
    got = ssim(noisy, clean)
    np.testing.assert_allclose(got, want, atol=1e-4)
    assert got[0] > 0.8 > 0.5 > got[2]  # the case spans the scale
    np.testing.assert_allclose(got, dm_pix.ssim(clean / 255.0, noisy / 255.0), atol=1e-4)
    np.testing.assert_allclose(ssim(clean, clean), 1, atol=1e-5)
    np.testing.assert_allclose(ssim(noisy.astype(np.float32) / 127.5 - 1, clean), got, atol=1e-6)


def test_ssim_of_a_large_picture_is_taken_by_blocks():
    """Windows of two blocks are counted once, a large picture takes no memory of its size squared."""
    rng = np.random.default_rng(0)
    clean = rng.integers(0, 256, (1, 533, 1100, 1), np.uint8)
    noisy = np.clip(clean + rng.integers(-90, 90, clean.shape), 0, 255).astype(np.uint8)
    noisy[:, :200] = clean[:, :200]  # unlike in its parts
    want = structural_similarity(
        clean[0, ..., 0] / 255.0, noisy[0, ..., 0] / 255.0, gaussian_weights=True, sigma=1.5,
        use_sample_covariance=False, data_range=1.0,
    )  # fmt: skip
    np.testing.assert_allclose(ssim(noisy, clean), [want], atol=1e-4)


def test_metrics_refuse_what_does_not_match():
    image = np.zeros((1, 12, 12, 3), np.float32)
    for metric in (psnr, ssim):
        with pytest.raises(ValueError, match="must both be"):
            metric(image, image[:, 1:])
        with pytest.raises(ValueError, match="must both be"):
            metric(image[0], image[0])
    with pytest.raises(ValueError, match="11 x 11"):
        ssim(image[:, :10], image[:, :10])


def test_hole_crop():
    box = InpaintCenter().hole_box(32, 48)
    image = np.arange(2 * 32 * 48).reshape(2, 32, 48, 1)
    np.testing.assert_array_equal(hole_crop(image, box), image[:, 8:24, 12:36])
    np.testing.assert_array_equal(hole_crop(image, box, 2), image[:, 6:26, 10:38])
    np.testing.assert_array_equal(hole_crop(image, (0, 40, 3, 48), 5), image[:, :8, 35:])
    for wrong in ((8, 8, 8, 20), (0, 0, 33, 4), (-1, 0, 4, 4)):
        with pytest.raises(ValueError, match="32 x 48"):
            hole_crop(image, wrong)
    with pytest.raises(ValueError, match="margin"):
        hole_crop(image, box, -1)
