"""Answers are kept as near to a JPEG file as its original can be."""

import io

import numpy as np
import pytest
from PIL import Image
from scipy import fft

from jax_bridges.packed import find_model
from jax_bridges.restoring.jpeg_steps import JPEGSteps, reach
from jax_bridges.restoring.pictures import read_picture
from jax_bridges.restoring.restorer import Restorer
from tests.support.restorers import photograph

ORIENTATION = 0x0112


def written(pixels, orientation=1, **options):
    """The bytes of a JPEG whose upright picture has these pixels turned by the orientation."""
    file, exif = io.BytesIO(), Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(pixels).save(file, "JPEG", exif=exif, **options)
    return file.getvalue()


def brightness_off(answer, read):
    """By how much coefficients of Y differ, [h, 8, w, 8], in levels, by the definition."""
    y = (answer - read) @ (127.5 * np.array([0.299, 0.587, 0.114]))
    blocks = y.reshape(y.shape[0] // 8, 8, y.shape[1] // 8, 8)
    return fft.dctn(blocks, axes=(1, 3), norm="ortho")


def test_what_differs_by_little_stays_and_what_differs_by_more_is_clipped():
    """A single coefficient of one block, by hand."""
    read = np.full((16, 24, 3), 128, np.uint8)
    jpeg = JPEGSteps((np.full((8, 8), 10.0), np.full((8, 8), 20.0), np.full((8, 8), 20.0)))
    known = read / 127.5 - 1
    wave = fft.idctn(np.eye(64)[10].reshape(8, 8), norm="ortho")  # coefficient (1, 2), of length 1
    most = 35.0 / 22  # 0.35 of a step of 10, times 10 / (10 + 12)
    for size, kept in ((1.0, 1.0), (1.5, 1.5), (3.0, most), (-80.0, -most)):
        answer, want = known.copy(), known.copy()
        answer[8:, 16:] += size / 127.5 * wave[..., None]  # gray: of Y alone
        want[8:, 16:] += kept / 127.5 * wave[..., None]
        np.testing.assert_allclose(jpeg.narrow(answer, read), want, atol=2e-6)


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("size", [(64, 96), (50, 61), (300, 19)])
def test_an_answer_ends_within_steps_of_the_file_and_nearer_to_what_lies_there(subsampling, size):
    rng = np.random.default_rng(1)
    picture = read_picture(written(photograph(*size, 3), quality=60, subsampling=subsampling))
    jpeg, known = picture.jpeg, picture.pixels / np.float32(127.5) - 1
    assert jpeg.coarse == {"4:4:4": (1, 1), "4:2:2": (1, 2), "4:2:0": (2, 2)}[subsampling]
    np.testing.assert_array_equal(jpeg.narrow(known, picture.pixels), known)
    answer = known + rng.normal(0, 0.3, known.shape).astype(np.float32)
    near = jpeg.narrow(answer, picture.pixels)
    assert near.dtype == np.float32
    assert np.square(near - known).mean() < 0.95 * np.square(answer - known).mean()
    height, width = (n // 16 * 16 for n in size)
    again = jpeg.narrow(near, picture.pixels)  # a projection, but where a block is not whole
    np.testing.assert_allclose(again[:height, :width], near[:height, :width], atol=1e-5)
    off = brightness_off(near[:height, :width], known[:height, :width])
    ratio = np.abs(off) / reach(jpeg.steps[0])[None, :, None, :]
    # Colours that are shared by several pixels leave brightness as it is.
    assert 0.99 < ratio.max() < 1.0 + 1e-3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_that_lies_on_its_side_is_treated_as_it_is_stored(orientation):
    pixels = photograph(40, 64, 5)
    flat = read_picture(written(pixels, quality=30))
    turned = read_picture(written(pixels, orientation, quality=30))
    assert turned.jpeg.orientation == orientation
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.2, flat.pixels.shape)
    want = flat.jpeg.narrow(flat.pixels / 127.5 - 1 + noise, flat.pixels)

    def upright(a):  # by Pillow
        step = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}.get(orientation)
        planes = [Image.fromarray(np.ascontiguousarray(a[..., c], np.float32)) for c in range(3)]
        planes = [p if step is None else p.transpose(Image.Transpose(step)) for p in planes]
        return np.dstack([np.asarray(p) for p in planes])

    np.testing.assert_array_equal(upright(flat.pixels), turned.pixels)
    got = turned.jpeg.narrow(turned.pixels / 127.5 - 1 + upright(noise), turned.pixels)
    np.testing.assert_allclose(got, upright(want), atol=1e-6)


def test_only_files_of_their_own_pixels_have_steps(tmp_path):
    pixels = photograph(24, 32, 1)
    data = written(pixels, quality=75)
    assert len(read_picture(data).jpeg.steps) == 3
    gray = read_picture(written(pixels[..., 0], quality=75))
    assert len(gray.jpeg.steps) == 1 and gray.pixels.shape == (24, 32, 1)
    noisy = np.random.default_rng(0).normal(0, 0.3, (24, 32, 3))
    assert np.abs(gray.jpeg.narrow(noisy, gray.pixels)).max() < 2
    # A Pillow image that has been decoded may have been drawn into; other colours are not YCbCr.
    image = Image.open(io.BytesIO(data))
    assert read_picture(image).jpeg is not None
    image.load()
    assert read_picture(image).jpeg is None
    assert read_picture(written(pixels, keep_rgb=True)).jpeg is None
    assert read_picture(pixels).jpeg is None
    one = read_picture(data)
    assert one.compose(one.to_float(), None, True).jpeg is None
    assert one.enlarged(2).jpeg is None


def test_restore_keeps_files_of_high_quality_as_good_as_they_are():
    """Beside the same pixels without their file, of which the model alone must say what was lost."""
    restorer = Restorer(find_model("photos:jpeg"), batch=4)
    pixels = photograph(96, 96, 2)
    picture = read_picture(written(pixels, quality=92, subsampling="4:4:4"))

    def off(result):
        return float(np.square(result.astype(float) - pixels).mean())

    kept, alone = restorer(picture).pixels, restorer(picture.pixels).pixels
    assert off(kept) < 0.75 * off(alone)
    difference = kept / 127.5 - 1 - picture.to_float()
    limit = reach(picture.jpeg.steps[0])[None, :, None, :]
    assert (np.abs(brightness_off(difference, 0)) <= limit + 3).all()  # 8 bits and clipping
