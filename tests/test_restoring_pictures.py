"""restoring/: pictures of every kind, in and out."""

from __future__ import annotations

import io
import os
import re

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from jax_bridges.data.images import BadImage
from jax_bridges.restoring import Picture, read_picture
from jax_bridges.restoring import pictures as pictures_module
from jax_bridges.restoring.sheets import before_and_after, sample_sheet
from tests.support.restorers import bad_files, encoded, pixels, png

RNG = np.random.default_rng(0)


# ---------------------------------------------------------------- pictures


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png_in_and_out_is_exact(dtype, channels):
    planes = pixels(9, 13, channels, dtype)
    colours = 1 if channels < 3 else 3
    alpha = planes[..., colours:] if channels > colours else None
    png = Picture(planes[..., :colours], alpha).to_png()
    back = read_picture(png)
    np.testing.assert_array_equal(back.pixels, planes[..., :colours], strict=True)
    if alpha is None:
        assert back.alpha is None
    else:
        np.testing.assert_array_equal(back.alpha, alpha, strict=True)
    seen = np.asarray(Image.open(io.BytesIO(png))).reshape(9, 13, -1)  # Pillow reads it as well
    if dtype == np.uint8 or channels == 1:
        np.testing.assert_array_equal(seen, planes)
    elif channels > 2:
        np.testing.assert_array_equal(seen, planes >> 8)


def test_16_bit_png_with_one_clear_colour():
    planes = pixels(1, 5, 3, np.uint16)
    key = planes[0, 2].astype(">u2").tobytes()
    picture = read_picture(png(5, 1, 16, 2, planes.astype(">u2").tobytes(), tRNS=key))
    np.testing.assert_array_equal(picture.pixels, planes)
    assert picture.alpha[0, :, 0].tolist() == [65535, 65535, 0, 65535, 65535]  # one clear colour


@pytest.mark.parametrize("kind", ["JPEG", "TIFF", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(kind, orientation):
    image = Image.fromarray(pixels(8, 16).repeat(2, 0).repeat(2, 1))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(image, kind, exif=exif, **options)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    picture = read_picture(data)
    np.testing.assert_array_equal(picture.pixels, upright)
    assert picture.size == ((32, 16) if orientation > 4 else (16, 32))
    assert Image.open(io.BytesIO(picture.to_png())).getexif().get(0x0112, 1) == 1


def test_other_modes_become_gray_or_colour():
    colour = Image.fromarray(pixels())
    gray = colour.convert("L")
    np.testing.assert_array_equal(read_picture(gray).pixels[..., 0], np.asarray(gray))
    bits = gray.convert("1")
    assert set(np.unique(read_picture(bits).pixels)) <= {0, 255}
    palette = colour.quantize(8)
    np.testing.assert_array_equal(read_picture(palette).pixels, np.asarray(palette.convert("RGB")))
    clear = encoded(palette, "PNG", transparency=3)
    picture = read_picture(clear)
    np.testing.assert_array_equal(picture.alpha[..., 0] == 0, np.asarray(palette) == 3)
    cmyk = colour.convert("CMYK")
    np.testing.assert_array_equal(
        read_picture(encoded(cmyk, "TIFF")).pixels, np.asarray(cmyk.convert("RGB"))
    )
    wide = read_picture(pixels(3, 4, 4, np.uint16))
    assert wide.pixels.shape == (3, 4, 3) and wide.alpha.dtype == np.uint16


def test_a_colour_profile_is_carried_along():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture = read_picture(encoded(Image.fromarray(pixels()), "JPEG", icc_profile=profile))
    assert Image.open(io.BytesIO(picture.to_png())).info["icc_profile"] == profile


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_composing_changes_the_hole_alone(dtype):
    picture = Picture(pixels(dtype=dtype), pixels(channels=1, dtype=dtype))
    np.testing.assert_array_equal(
        picture.compose(picture.to_float(), None, False).pixels, picture.pixels
    )  # there and back
    hole = RNG.random((11, 7)) < 0.4
    done = picture.compose(np.full((11, 7, 3), 1.5, np.float32), hole, False)
    assert (done.pixels[hole] == np.iinfo(dtype).max).all() and done.alpha is picture.alpha
    np.testing.assert_array_equal(done.pixels[~hole], picture.pixels[~hole])
    gray = Picture(pixels(channels=1, dtype=dtype))
    np.testing.assert_array_equal(gray.compose(gray.to_float(), hole, False).pixels, gray.pixels)
    assert gray.compose(gray.to_float(), None, True).pixels.shape == (11, 7, 3)


def test_an_answer_that_is_no_number_is_not_written():
    picture, hole = Picture(pixels(4, 5)), np.zeros((4, 5), bool)
    hole[1, 2] = True
    answer = np.full((4, 5, 3), np.nan)
    with pytest.raises(ValueError, match="answer holds NaN or infinity, so nothing of it is kept"):
        picture.compose(answer, hole, False)
    answer[1, 2] = 1.0  # elsewhere it is not looked at
    assert (picture.compose(answer, hole, False).pixels[1, 2] == 255).all()


@pytest.mark.parametrize("size", [(1, 1), (3, 4000), (4000, 1), (40, 50)])
def test_sheets_of_odd_pictures_have_a_sensible_size(size):
    picture, hole = pixels(*size), np.zeros(size, bool)
    hole[size[0] // 2] = True
    for sheet in (before_and_after(picture, picture, hole), sample_sheet(picture, [picture] * 3)):
        assert max(sheet.size) < 4 * 1024 + 200 and min(sheet.size) > 30


def test_files_are_written_whole_and_never_over_others(tmp_path):
    picture, path = Picture(pixels()), tmp_path / "a.png"
    picture.save(path)
    with pytest.raises(FileExistsError, match="exists already"):
        Picture(pixels()).save(path)
    np.testing.assert_array_equal(read_picture(path).pixels, picture.pixels)
    with pytest.raises(ValueError, match="written as PNG, which keeps .* ends in .png or .jpg"):
        picture.save(tmp_path / "a.webp")
    with pytest.raises(ValueError, match="a PNG loses nothing and has no quality"):
        picture.save(tmp_path / "b.png", quality=90)
    with pytest.raises(ValueError, match="quality = 0: of a JPEG it is 1 to 100"):
        picture.save(tmp_path / "b.jpg", quality=0)
    assert os.listdir(tmp_path) == ["a.png"]


def test_a_jpeg_keeps_what_a_jpeg_can(tmp_path):
    """Profile, print size and EXIF with its folders; what it cannot keep is named."""
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Maker", 6
    exif.get_ifd(0x8769)[0x829A] = 0.01  # exposure
    exif.get_ifd(0x8825)[2] = (47.0, 30.0, 0.0)  # latitude
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    smooth = np.add.outer(np.arange(24), np.arange(32)).astype(np.uint8) * 4
    source = Image.fromarray(np.dstack([smooth, smooth[::-1], smooth]))
    data = encoded(source, "JPEG", exif=exif, icc_profile=profile, dpi=(300, 150), quality=95)
    picture = read_picture(data)
    back = Image.open(picture.save(tmp_path / "a.JPG"))
    assert back.format == "JPEG" and back.size == (24, 32)  # upright
    assert back.info["icc_profile"] == profile and back.info["dpi"] == (150, 300)
    kept = back.getexif()
    assert kept[0x010F] == "Maker" and 0x0112 not in kept
    assert kept.get_ifd(0x8769)[0x829A] == 0.01 and kept.get_ifd(0x8825)[2] == (47.0, 30.0, 0.0)
    assert back.layers == 3 and all(layer[1:3] == (1, 1) for layer in back.layer)  # 4:4:4
    error = np.abs(np.asarray(back).astype(int) - picture.pixels)
    assert error.max() <= 8 and picture.jpeg_lacks == ()
    small = picture.save(tmp_path / "b.jpg", quality=20)
    assert small.stat().st_size < (tmp_path / "a.JPG").stat().st_size
    gray = Picture(
        pixels(9, 8, 1, np.uint16), np.zeros((9, 8, 1), np.uint16), ((b"gAMA", b"1234"),)
    )
    with pytest.warns(UserWarning, match="c.jpg lacks the lower half of its 16 bits and its trans"):
        again = Image.open(gray.save(tmp_path / "c.jpg"))
    assert again.mode == "L" and (np.asarray(again) == 255).all()  # all transparent: white
    lost = ("the lower half of its 16 bits", "its transparency", "its gamma")
    assert gray.jpeg_lacks == lost
    with pytest.raises(BadImage, match="a JPEG has at most 65500 pixels a side"):
        Picture(np.zeros((1, 65501, 3), np.uint8)).to_jpeg()


def test_every_bad_file_gets_its_reason(tmp_path):
    seen = 0
    for name, path, words in bad_files(tmp_path):
        with pytest.raises(BadImage) as error:
            read_picture(path)
        assert re.search(words, str(error.value)), (name, str(error.value))
        assert "\n" not in str(error.value)
        seen += 1
    assert seen == 12
    with pytest.raises(BadImage, match="float64"):
        read_picture(np.zeros((4, 4, 3)))


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can step down")
def test_a_file_that_may_not_be_read(tmp_path):
    path = tmp_path / "a.png"
    Picture(pixels()).save(path)
    path.chmod(0)
    parents = [p for p in tmp_path.parents if p.stat().st_mode & 0o777 == 0o700] + [tmp_path]
    modes = [(p, p.stat().st_mode) for p in parents]
    try:
        for p, mode in modes:
            p.chmod(mode | 0o055)
        os.seteuid(65534)
        with pytest.raises(BadImage, match="permission denied"):
            read_picture(path)
    finally:
        os.seteuid(0)
        for p, mode in modes:
            p.chmod(mode)


def test_the_size_limit_counts_what_would_be_made(monkeypatch):
    monkeypatch.setattr(pictures_module, "MAX_PIXELS", 100)
    pictures_module.check_size((10, 10))
    with pytest.raises(BadImage, match="would be 11x10"):
        pictures_module.check_size((10, 11))
