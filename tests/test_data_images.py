"""One file becomes uint8 [H, W, 3]: modes, depths, transparency, orientation, size."""

import numpy as np
import pytest
from PIL import Image

from tests.support.folders import folder, only, ramp, save, wide_ramp

# What modes become -------------------------------------------------------------------------------


def test_rgb_of_the_right_size_is_untouched(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
    save(tmp_path / "a.png", array)
    np.testing.assert_array_equal(only(tmp_path, size=(16, 24)), array)


def test_gray_is_repeated(tmp_path):
    gray = ramp(16, 16)[..., 0]
    save(tmp_path / "a.png", gray)
    np.testing.assert_array_equal(only(tmp_path), np.repeat(gray[..., None], 3, -1))


def test_16_bits_become_8_by_division_not_by_clipping(tmp_path):
    wide = wide_ramp()
    save(tmp_path / "a.png", wide)
    expected = np.round(wide / 257).astype(int)
    np.testing.assert_array_equal(only(tmp_path), np.repeat(expected[..., None], 3, -1))


@pytest.mark.parametrize("suffix", ["pgm", "tif"])
def test_16_bits_in_other_formats(tmp_path, suffix):
    wide = wide_ramp()
    if suffix == "pgm":
        header = b"P5 16 16 65535\n"
        (tmp_path / "a.pgm").write_bytes(header + wide.astype(">u2").tobytes())
    else:
        save(tmp_path / "a.tif", wide)
    np.testing.assert_array_equal(only(tmp_path)[..., 1], np.round(wide / 257))


def test_transparent_parts_become_white(tmp_path):
    array = np.dstack([ramp(16, 16), np.full((16, 16), 255, np.uint8)])
    array[:8, :, 3] = 0
    array[8:12, :, 3] = 51  # a fifth
    save(tmp_path / "a.png", array)
    found = only(tmp_path)
    assert (found[:8] == 255).all()
    np.testing.assert_array_equal(found[12:], array[12:, :, :3])
    np.testing.assert_allclose(found[8:12], 0.2 * array[8:12, :, :3] + 0.8 * 255, atol=1)


def test_gray_with_alpha(tmp_path):
    array = np.zeros((16, 16, 2), np.uint8)
    array[:, 8:, 1] = 255
    save(tmp_path / "a.png", array)
    found = only(tmp_path)
    assert (found[:, :8] == 255).all() and (found[:, 8:] == 0).all()


def test_palette_and_its_transparent_colour(tmp_path):
    image = Image.new("P", (16, 16), 1)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.paste(0, (0, 0, 8, 16))
    image.save(tmp_path / "a.png")
    found = only(tmp_path)
    assert (found[:, :8] == [10, 20, 30]).all() and (found[:, 8:] == [200, 100, 50]).all()
    image.save(tmp_path / "a.png", transparency=0)
    found = only(tmp_path)
    assert (found[:, :8] == 255).all() and (found[:, 8:] == [200, 100, 50]).all()


def test_cmyk(tmp_path):
    Image.new("CMYK", (16, 16), (0, 255, 0, 0)).save(tmp_path / "a.jpg", quality=95)
    np.testing.assert_allclose(only(tmp_path)[8, 8], [255, 0, 255], atol=6)


def test_one_bit(tmp_path):
    Image.fromarray(ramp(16, 16)[..., 0] > 127).save(tmp_path / "a.png")
    found = only(tmp_path)
    assert (found[:, :8] == 0).all() and (found[:, 8:] == 255).all()


@pytest.mark.parametrize(
    "orientation, turns, mirrored", [(6, 3, False), (3, 2, False), (2, 0, True)]
)
def test_exif_orientation_is_applied(tmp_path, orientation, turns, mirrored):
    array = ramp(32, 48)
    exif = Image.Exif()
    exif[274] = orientation
    save(tmp_path / "a.png", array, exif=exif)
    upright = array[:, ::-1] if mirrored else np.rot90(array, turns)
    np.testing.assert_array_equal(only(tmp_path, size=upright.shape[:2]), upright)


def test_exif_turns_before_the_size_is_judged(tmp_path):
    # 10 x 80 on disk is 80 x 10 upright: to become 80 x 10 it need not grow at all.
    exif = Image.Exif()
    exif[274] = 6
    save(tmp_path / "a.jpg", ramp(10, 80), exif=exif)
    assert only(tmp_path, size=(80, 10), max_upscale=1).shape == (80, 10, 3)
    with pytest.raises(ValueError, match="grow 8.0 times"):
        folder(tmp_path, size=(10, 80), max_upscale=1)


# Size --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("h, w, size", [(64, 96, (16, 16)), (50, 30, (24, 40)), (20, 20, (40, 24))])
def test_centre_crop_and_resize_follow_the_closed_form(tmp_path, h, w, size):
    save(tmp_path / "a.png", ramp(h, w))
    found = only(tmp_path, size=size)
    part = min(h / size[0], w / size[1])  # pixels of the file a pixel of the result
    x = w / 2 + part * (np.arange(size[1]) + 0.5 - size[1] / 2)
    y = h / 2 + part * (np.arange(size[0]) + 0.5 - size[0] / 2)
    inner = (slice(2, -2), slice(2, -2))  # bicubic bends the ramp at its ends
    red, green = np.broadcast_to(255 * x / w, size), np.broadcast_to(255 * y[:, None] / h, size)
    np.testing.assert_allclose(found[..., 0][inner], red[inner], atol=1.6)
    np.testing.assert_allclose(found[..., 1][inner], green[inner], atol=1.6)


def test_shrinking_is_antialiased(tmp_path):
    checker = (np.indices((128, 128)).sum(0) % 2 * 255).astype(np.uint8)
    save(tmp_path / "a.png", checker)
    assert np.abs(only(tmp_path) - 127.5)[1:-1, 1:-1].max() <= 2
