"""Numbers of more than 8 bits, and what a file says about its numbers: for training and restoring."""

from __future__ import annotations

import io
import itertools
import struct

import numpy as np
import pytest
import tifffile
from PIL import Image

from jax_bridges.data.decode import open_picture
from jax_bridges.data.errors import BadImage
from jax_bridges.data.images import read_images
from jax_bridges.restoring import read_picture
from tests.support.folders import only
from tests.support.restorers import encoded, pixels, png

HEIGHT, WIDTH = 21, 18


def planes(channels, seed=0):
    """uint16 `[H, W, channels]`; rows repeat, so that compression finds something."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 65536, (3, WIDTH, channels)).astype(np.uint16).repeat(7, axis=0)


def tiff(stored, **options) -> bytes:
    """The file that tifffile writes, which knows nothing of how this package reads it."""
    file = io.BytesIO()
    tifffile.imwrite(file, stored, **options)
    return file.getvalue()


def trained_on(data: bytes) -> np.ndarray:
    """uint8 `[H, W, 3]` of a file of HEIGHT x WIDTH."""
    return read_images((data,), (HEIGHT, WIDTH), 4.0)[0]


def byte(wide):
    return np.round(wide / 257).astype(int)


# -- TIFF --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite", "rgb"])
@pytest.mark.parametrize("order", "<>")
def test_tiff_is_read_as_it_is_meant(order, photometric):
    """Byte order x what 0 means x alpha x planes x compression x tiles, each against what was written."""
    colours = 3 if photometric == "rgb" else 1
    seen = 0
    for alpha, planar, (compression, predictor), tile in itertools.product(
        (False, True), ("contig", "separate"), ((None, None), ("zlib", None), ("zlib", True)),
        (None, (16, 16)),
    ):  # fmt: skip
        values = planes(colours + alpha, seen)
        several = values.shape[-1] > 1
        if planar == "separate" and not several:
            continue
        stored = values.transpose(2, 0, 1) if planar == "separate" else values
        data = tiff(
            stored if several else values[..., 0], byteorder=order, photometric=photometric,
            planarconfig=planar if several else None, compression=compression, predictor=predictor,
            tile=tile, rowsperstrip=None if tile else 5, extrasamples=[2] if alpha else None,
        )  # fmt: skip
        colour = values[..., :colours]
        if photometric == "miniswhite":
            colour = 65535 - colour
        picture = read_picture(data)
        np.testing.assert_array_equal(picture.pixels, colour, strict=True)
        assert (picture.alpha is None) == (not alpha)
        if alpha:
            np.testing.assert_array_equal(picture.alpha, values[..., colours:], strict=True)
        else:
            np.testing.assert_array_equal(trained_on(data)[..., 0], byte(colour[..., 0]))
        seen += 1
    assert seen == (24 if colours == 3 else 18)


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "tiff_adobe_deflate"])
@pytest.mark.parametrize("predictor", [1, 2])
def test_tiff_that_libtiff_compressed(compression, predictor):
    """Of Pillow's own writer, which has compressions that tifffile has not without more libraries."""
    gray = planes(1)[..., 0]
    tags = {317: predictor} if compression != "packbits" else {}
    data = encoded(Image.fromarray(gray), "TIFF", compression=compression, tiffinfo=tags)
    np.testing.assert_array_equal(read_picture(data).pixels[..., 0], gray, strict=True)


def test_tiff_of_inks_and_of_alpha_that_is_multiplied_in():
    inks = np.array([[[0, 0, 0, 0], [65535, 0, 0, 0], [0, 0, 0, 65535], [0, 32768, 0, 32768]]])
    data = tiff(inks.astype(np.uint16), photometric="separated")
    colours = read_picture(data).pixels[0]
    assert colours[:3].tolist() == [[65535] * 3, [0, 65535, 65535], [0, 0, 0]]
    np.testing.assert_allclose(colours[3], [32767, 16384, 32767], atol=1)
    whole, alpha = np.array([60000, 300, 7]), np.array([65535, 32768, 0])
    multiplied = np.round(whole[None, :, None] * alpha[None, :, None] / 65535).repeat(3, -1)
    values = np.concatenate([multiplied, alpha[None, :, None]], -1).astype(np.uint16)
    picture = read_picture(tiff(values, photometric="rgb", extrasamples=[1]))
    np.testing.assert_allclose(picture.pixels[0, :2, 0], whole[:2], atol=2)
    assert picture.pixels[0, 2].tolist() == [0, 0, 0]  # nothing can be known
    np.testing.assert_array_equal(picture.alpha[0, :, 0], alpha)


def test_big_tiff_and_channels_that_are_no_picture():
    values = planes(3)
    data = tiff(values, photometric="rgb", bigtiff=True)
    np.testing.assert_array_equal(read_picture(data).pixels, values, strict=True)
    with pytest.raises(BadImage, match="has 2 channels, where gray, RGB or one of them with alpha"):
        read_picture(tiff(planes(2), photometric="minisblack", planarconfig="contig"))
    picture = read_picture(tiff(planes(5), photometric="rgb", extrasamples=[2, 0]))
    np.testing.assert_array_equal(picture.alpha, planes(5)[..., 3:4])
    assert picture.left_out == ("its further channels",)
    data = tiff(planes(5).astype(np.uint8), photometric="rgb", extrasamples=[2, 0])
    assert read_picture(data).left_out == ("its further channels",)


def test_bytes_in_planes_and_white_is_zero():
    """8 bits, which Pillow reads."""
    values = pixels(HEIGHT, WIDTH)
    data = tiff(values.transpose(2, 0, 1), photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(read_picture(data).pixels, values, strict=True)
    data = tiff(values[..., 0], photometric="miniswhite")
    np.testing.assert_array_equal(read_picture(data).pixels[..., 0], 255 - values[..., 0])


@pytest.mark.parametrize(
    "dtype, options, words",
    [
        ("i2", {"photometric": "minisblack"}, "16-bit signed pixels have no known range"),
        ("i1", {"photometric": "minisblack"}, "8-bit signed pixels"),
        ("f4", {"photometric": "minisblack"}, "32-bit floating pixels"),
        ("u4", {"photometric": "minisblack"}, "32-bit pixels have no known range"),
        ("u2", {"photometric": "cfa"}, "neither gray, RGB nor CMYK"),
        ("u2", {"photometric": "palette", "colormap": np.zeros((3, 65536), "u2")}, "neither gray"),
    ],
)
def test_tiff_of_unknown_range_is_refused_by_both(dtype, options, words):
    data = tiff(np.zeros((HEIGHT, WIDTH), dtype), **options)
    for read in (read_picture, trained_on):
        with pytest.raises(BadImage, match=words):
            read(data)


def test_tiff_of_12_bits_is_refused_and_one_that_is_cut_too():
    data = bytearray(encoded(Image.fromarray(planes(1)[..., 0]), "TIFF"))
    at = data.index(struct.pack("<HHI", 258, 3, 1)) + 8  # BitsPerSample
    data[at : at + 2] = struct.pack("<H", 12)
    for read in (read_picture, trained_on):
        with pytest.raises(BadImage, match="12-bit pixels have no known range"):
            read(bytes(data))
    values = planes(3)
    for compression in (None, "zlib"):
        data = tiff(values, photometric="rgb", compression=compression, metadata=None)
        at = data.index(struct.pack("<HHI", 279, 4, 1)) + 8  # StripByteCounts, made too small
        cut = data[:at] + struct.pack("<I", 100) + data[at + 4 :]
        with pytest.raises(BadImage, match="cannot be decoded"):
            read_picture(cut)


@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
def test_wide_tiff_is_turned_upright_and_its_size_judged_so(orientation):
    gray = planes(1)[..., 0]
    data = tiff(gray, photometric="minisblack", extratags=[(274, "H", 1, orientation, True)])
    turned = {1: gray, 3: gray[::-1, ::-1], 6: np.rot90(gray, -1), 7: gray[::-1, ::-1].T}
    with open_picture(data) as picture:
        assert picture.size == turned[orientation].shape
    np.testing.assert_array_equal(read_picture(data).pixels[..., 0], turned[orientation])


# -- PNG, PPM ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bits, row, key, values",
    [
        (1, bytes([0b1010_0000]), 1, [255, 0, 255, 0]),
        (2, bytes([0b0001_1011]), 2, [0, 85, 170, 255]),
        (4, bytes([0x0F, 0x3A]), 3, [0, 255, 51, 170]),
        (8, bytes([0, 15, 3, 200]), 3, [0, 15, 3, 200]),
        (16, struct.pack(">4H", 0, 1300, 300, 65535), 1300, [0, 1300, 300, 65535]),
    ],
)
def test_gray_png_with_one_clear_value(bits, row, key, values, tmp_path):
    """It stays gray, with alpha, whatever its bits; for training it is white there."""
    data = png(4, 1, bits, 0, row, tRNS=struct.pack(">H", key))
    picture, top = read_picture(data), 65535 if bits == 16 else 255
    assert picture.pixels.shape == (1, 4, 1) and picture.pixels[0, :, 0].tolist() == values
    clear = {1: (0, 2), 2: (2,), 4: (2,), 8: (2,), 16: (1,)}[bits]
    assert picture.alpha[0, :, 0].tolist() == [0 if i in clear else top for i in range(4)]
    (image,) = read_images((data,), (1, 4), 4.0)
    shown = np.round(np.array(values) * 255 / top).astype(int)
    shown[list(clear)] = 255
    np.testing.assert_array_equal(image[0], shown[:, None].repeat(3, -1))


def test_wide_colours_are_rounded_for_training(tmp_path):
    """By x / 257, as gray is, not by leaving the low byte out."""
    values = planes(3)
    row = b"".join(b"\0" + line.astype(">u2").tobytes() for line in values)[1:]
    np.testing.assert_array_equal(trained_on(png(WIDTH, HEIGHT, 16, 2, row)), byte(values))


@pytest.mark.parametrize("white", [65535, 4095])
@pytest.mark.parametrize("kind", ["P2", "P3", "P5", "P6"])
def test_wide_ppm(kind, white):
    """Gray and colour, binary and plain: both readers agree, and white becomes white."""
    values = (planes(3 if kind in ("P3", "P6") else 1).astype(int) * white // 65535).astype(int)
    values[0, 0], values[0, 1] = 0, white
    head = f"{kind}\n# made here\n{WIDTH} {HEIGHT}\n{white}\n".encode()
    if kind in ("P5", "P6"):
        body = values.astype(">u2").tobytes()
    else:
        body = b"# body\n" + " ".join(map(str, values.ravel())).encode()
    wide = np.rint(values * 65535 / white).astype(np.uint16)
    np.testing.assert_array_equal(read_picture(head + body).pixels, wide, strict=True)
    shown = byte(wide) if wide.shape[-1] == 3 else byte(wide).repeat(3, -1)
    np.testing.assert_array_equal(trained_on(head + body), shown)
    with pytest.raises(BadImage, match="cannot be decoded"):
        read_picture((head + body)[:-60])


# -- bits that Pillow drops ----------------------------------------------------------------------------


def test_bits_that_pillow_drops_are_not_restored_in_silence():
    """JPEG 2000 and AVIF: what comes back would not be what was given; for training 8 bits will do."""
    data = bytearray(encoded(Image.fromarray(pixels(HEIGHT, WIDTH)), "JPEG2000", no_jp2=True))
    np.testing.assert_array_equal(read_picture(bytes(data)).pixels, trained_on(bytes(data)))
    at = data.index(b"\xff\x4f\xff\x51") + 42
    assert list(data[at : at + 9 : 3]) == [7, 7, 7]  # bits - 1 of each channel
    data[at : at + 9 : 3] = bytes([9, 9, 9])
    with pytest.raises(BadImage, match="10 bits a channel, of which 8 are read"):
        read_picture(bytes(data))
    data[at : at + 9 : 3] = bytes([0x87] * 3)
    for read in (read_picture, trained_on):
        with pytest.raises(BadImage, match="signed pixels have no known range"):
            read(bytes(data))


def test_gray_jpeg_2000_of_12_bits_reaches_white():
    """Pillow moves the 12 bits to the top of 16, where white is 65520."""
    gray = np.linspace(0, 65535, HEIGHT * WIDTH).astype(np.uint16).reshape(HEIGHT, WIDTH)
    data = encoded(Image.fromarray(gray), "JPEG2000", no_jp2=True)
    np.testing.assert_array_equal(read_picture(data).pixels[..., 0], gray)


def test_folders_of_wide_pictures(tmp_path):
    (tmp_path / "a.tif").write_bytes(tiff(planes(3), photometric="rgb", planarconfig="contig"))
    np.testing.assert_array_equal(only(tmp_path, size=(HEIGHT, WIDTH)), byte(planes(3)))
