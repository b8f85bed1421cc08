"""What a picture says about how to show its pixels is in the PNG that is written, or is named."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import ExifTags, Image, ImageCms

from jax_bridges.restoring import read_picture
from tests.support.restorers import encoded, pixels, png

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GRAY = SRGB[:16] + b"GRAY" + SRGB[20:]  # only what it is for is looked at
METRE = struct.pack(">IIB", 23622, 11811, 1)  # 600 and 300 dots an inch


def chunks(picture) -> dict[bytes, bytes]:
    """Those of the PNG, checked: each with its sum, and all before the pixels."""
    data, place, found = picture.to_png(), 8, {}
    while place < len(data):
        length, name = struct.unpack_from(">I4s", data, place)
        content = data[place + 8 : place + 8 + length]
        assert struct.unpack_from(">I", data, place + 8 + length)[0] == zlib.crc32(name + content)
        found[name], place = content, place + 12 + length
    assert list(found)[0] == b"IHDR" and list(found)[-2:] == [b"IDAT", b"IEND"]
    return {name: content for name, content in found.items() if name[:1] != b"I"}


def exif_of(picture) -> Image.Exif:
    return Image.open(io.BytesIO(picture.to_png())).getexif()


def test_png_keeps_its_colours_and_its_print_size():
    said = {
        "gAMA": struct.pack(">I", 100000),
        "cHRM": struct.pack(">8I", *range(31270, 31278)),
        "sRGB": b"\1",
        "cICP": bytes([9, 16, 0, 1]),
        "pHYs": METRE,
    }
    picture = read_picture(png(2, 1, 8, 2, bytes(6), **said, tEXt=b"Title\0x"))
    assert chunks(picture) == {name.encode(): content for name, content in said.items()}
    assert picture.left_out == ()
    image = Image.open(io.BytesIO(picture.to_png()))
    assert image.info["gamma"] == 1.0 and image.info["srgb"] == 1
    # The answer keeps them; enlarged, there are more pixels on the same paper.
    assert chunks(picture.compose(picture.to_float(), None, False)) == chunks(picture)
    assert chunks(picture.enlarged(2))[b"pHYs"] == struct.pack(">IIB", 2 * 23622, 2 * 11811, 1)
    shape = struct.pack(">IIB", 3, 2, 0)  # of a pixel
    assert chunks(read_picture(png(2, 1, 8, 2, bytes(6), pHYs=shape)).enlarged(4))[b"pHYs"] == (
        struct.pack(">IIB", 3000, 2000, 0)
    )


@pytest.mark.parametrize("kind", ["JPEG", "TIFF", "PNG", "BMP"])
def test_print_size_of_every_format(kind):
    picture = read_picture(encoded(Image.fromarray(pixels()), kind, dpi=(600, 300)))
    assert chunks(picture)[b"pHYs"] == METRE


def sized(x: int, y: int, unit: int = 1) -> bytes:
    return png(2, 1, 8, 2, bytes(6), pHYs=struct.pack(">IIB", x, y, unit))


def test_a_print_size_too_large_for_a_png_is_named():
    most = 2**31 - 1
    picture = read_picture(sized(most // 4, 11811))
    assert picture.left_out == picture.enlarged(4).left_out == ()
    for x, y in ((most // 4 + 1, 11811), (11811, most // 2)):
        large = read_picture(sized(x, y)).enlarged(4)
        assert large.left_out == ("its print size",) and not chunks(large)
        assert Image.open(io.BytesIO(large.to_png())).size == (8, 4)
    shape = read_picture(sized(most, most - 1, 0))  # of a pixel, which stays what it is
    assert chunks(shape.enlarged(4)) == chunks(shape) != {}
    for x, y in ((2**32 - 1, 5), (2**31, 2**31)):
        assert read_picture(sized(x, y)).left_out == ("its print size",)
    assert read_picture(sized(0, 0)).left_out == ()  # which says nothing
    tall = encoded(Image.fromarray(pixels()), "TIFF", dpi=(10**8, 300))
    assert read_picture(tall).left_out == ("its print size",)


@pytest.mark.parametrize(
    ("x", "y", "unit", "dpi"),
    [
        *((11811, 23622, 1, (300, 600)), (2_580_118, 100, 1, None), (100, 100, 1, None)),
        *((2_580_118, 11811, 1, (65535, 300)), (2_580_158, 11811, 1, None)),
        *((4_000_000, 4_000_000, 1, None), (2, 1, 0, None), (19, 11811, 1, None)),
    ],
)
def test_a_jpeg_has_the_print_size_or_names_it(x, y, unit, dpi):
    picture = read_picture(sized(x, y, unit))
    assert picture.jpeg_lacks == (("its print size",) if dpi is None else ())
    assert Image.open(io.BytesIO(picture.to_jpeg())).info.get("dpi") == dpi


def test_print_size_is_turned_with_the_picture_and_found_in_exif():
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    data = encoded(Image.fromarray(pixels()), "JPEG", dpi=(600, 300), exif=exif)
    assert chunks(read_picture(data)) == {b"pHYs": struct.pack(">IIB", 11811, 23622, 1)}
    exif = Image.Exif()
    exif[ExifTags.Base.XResolution], exif[ExifTags.Base.YResolution] = 600, 300
    exif[ExifTags.Base.ResolutionUnit] = 2
    data = encoded(Image.fromarray(pixels()), "WEBP", lossless=True, exif=exif)
    assert chunks(read_picture(data)) == {b"pHYs": METRE}
    assert not chunks(read_picture(encoded(Image.fromarray(pixels()), "WEBP", lossless=True)))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_is_kept_without_what_is_no_longer_so(kind):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation], exif[ExifTags.Base.Make] = 3, "Maker"
    exif[ExifTags.Base.Copyright] = "someone"
    exif[ExifTags.IFD.Exif] = {ExifTags.Base.ColorSpace: 1, ExifTags.Base.ExifImageWidth: 7}
    read = Image.Exif()
    read.load(exif.tobytes())  # what Pillow's writer of TIFF wants
    data = encoded(Image.fromarray(pixels()), kind, exif=read)
    found = exif_of(read_picture(data))
    assert dict(found) | {ExifTags.IFD.Exif: 0} == {
        ExifTags.Base.Make: "Maker", ExifTags.Base.Copyright: "someone", ExifTags.IFD.Exif: 0,
    }  # fmt: skip
    assert found.get_ifd(ExifTags.IFD.Exif) == {ExifTags.Base.ColorSpace: 1}


def test_damaged_exif_is_named():
    data = encoded(Image.fromarray(pixels()), "PNG", exif=b"Exif\0\0no such thing")
    picture = read_picture(data)
    assert picture.left_out == ("its EXIF, which is damaged",) and not chunks(picture)


def test_wide_tiff_says_as_much_as_any():
    planes = pixels(channels=3, dtype=np.uint16)
    file = io.BytesIO()
    tifffile.imwrite(
        file, planes, photometric="rgb", planarconfig="contig", resolution=(600, 300),
        resolutionunit="INCH", iccprofile=SRGB, metadata=None, software="Scanner 1",
        extratags=[(318, "2I", 2, (1, 3, 1, 3), True), (301, "H", 3, (0, 1, 2), True)],
    )  # fmt: skip
    picture = read_picture(file.getvalue())
    found = chunks(picture)
    assert found[b"pHYs"] == METRE and zlib.decompress(found[b"iCCP"][5:]) == SRGB
    assert exif_of(picture)[ExifTags.Base.Software] == "Scanner 1"
    assert picture.left_out == ("its TransferFunction", "its WhitePoint")


def test_profiles_that_do_not_fit_are_named():
    cmyk = SRGB[:16] + b"CMYK" + SRGB[20:]
    picture = read_picture(encoded(Image.new("CMYK", (4, 3)), "TIFF", icc_profile=cmyk))
    assert not chunks(picture) and picture.left_out == (
        "its profile, which is for CMYK and not for RGB",
    )
    gray = read_picture(encoded(Image.new("L", (4, 3)), "PNG", icc_profile=GRAY))
    assert list(chunks(gray)) == [b"iCCP"] and gray.left_out == ()
    done = gray.compose(gray.to_float(), None, True)
    assert done.pixels.shape == (3, 4, 3) and not chunks(done)
    assert done.left_out == ("its profile of grays, since it becomes a picture in colours",)
    assert gray.compose(gray.to_float(), None, False).left_out == ()


def test_colours_of_avif_and_jpeg_2000():
    """By number in the first, a profile in a box in the second; Pillow looks for neither."""
    image = Image.fromarray(pixels(16, 16))
    data = encoded(image, "AVIF")
    at = data.index(b"colrnclx") + 8
    assert not chunks(read_picture(data))  # sRGB, as everything that says nothing
    wide = data[:at] + struct.pack(">HH", 12, 16) + data[at + 4 :]
    assert chunks(read_picture(wide)) == {b"cICP": bytes([12, 16, 0, 1])}
    data = encoded(image, "JPEG2000", no_jp2=False)
    at = data.index(b"colr") - 4
    (length,) = struct.unpack_from(">I", data, at)
    box = struct.pack(">I", 11 + len(SRGB)) + b"colr\x02\0\0" + SRGB
    head = data.index(b"jp2h") - 4
    (whole,) = struct.unpack_from(">I", data, head)
    data = data[:at] + box + data[at + length :]
    data = data[:head] + struct.pack(">I", whole - length + len(box)) + data[head + 4 :]
    assert zlib.decompress(chunks(read_picture(data))[b"iCCP"][5:]) == SRGB
