"""Files of photographs: JPEG to the bit as Pillow's libjpeg, its grid's place, noise, sizes, and what is drawn."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import stats

from jax_bridges import keys as random
from jax_bridges.corruptions import PhotoFile, SuperResolution
from jax_bridges.corruptions.codec import DCT8, round_trip
from jax_bridges.corruptions.jpeg import DCT
from jax_bridges.corruptions.superres import bicubic_enlarge
from tests.support.pictures import make_keys

ROUND_TRIP = jax.jit(round_trip)


def scene(height, width, seed=0):
    """uint8 `[H, W, 3]` with edges, ramps, texture and colours beyond what JPEG can keep."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width].astype(float)
    out = np.zeros((height, width, 3))
    for k in range(3):
        a, b, c = rng.uniform(0.02, 0.4, 3)
        out[..., k] = 127 + 90 * np.sin(a * y + b * x) + 60 * np.sign(np.sin(c * (y - x)))
    out[: height // 3] += rng.normal(0, 40, (height // 3, width, 3))
    return np.clip(np.round(out), 0, 255).astype(np.uint8)


def by_pillow(image, quality, halved):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling=2 if halved else 0)
    return np.asarray(Image.open(file))


def to_float(image):
    return jnp.asarray(image, jnp.float32) / 127.5 - 1


def to_bytes(x):
    return np.round((np.asarray(x) + 1) * 127.5).astype(int)


@pytest.mark.parametrize("shape", [(48, 64), (33, 42), (17, 31)])
def test_a_round_trip_is_pillows_to_the_bit(shape):
    """Sides that are no multiples of a block, too, and noise that clips everywhere."""
    noise = np.random.default_rng(1).integers(0, 2, (*shape, 3), np.uint8) * 255
    for image in (scene(*shape), noise):
        for quality in (1, 5, 23, 50, 77, 95, 100):
            both = np.stack([image, image]).astype(np.int32)
            found = ROUND_TRIP(both, np.array([quality] * 2), np.array([False, True]))
            for one, halved in zip(found, (False, True), strict=True):
                np.testing.assert_array_equal(one, by_pillow(image, quality, halved))


def test_the_transform_is_a_cosine_transform():
    np.testing.assert_allclose(DCT8 / 2**13 / np.sqrt(8), DCT, atol=1e-4)


def test_each_example_has_its_quality_and_colours():
    image = scene(48, 64)
    x, keys = to_float(np.stack([image] * 150)), make_keys(150)
    xT = to_bytes(jax.jit(PhotoFile(quality=(5, 50), phase="corner"))(x, keys).xT)
    quality = 5 + np.asarray(random.randint(keys, random.CorruptDraw.QUALITY, 46))
    halved = np.asarray(random.randint(keys, random.CorruptDraw.SUBSAMPLING, 2)) == 1
    for i in range(0, 150, 15):
        np.testing.assert_array_equal(xT[i], by_pillow(image, int(quality[i]), bool(halved[i])))
    assert min(quality) == 5 and max(quality) == 50 and 0.35 < halved.mean() < 0.65
    for name, expected in (("4:4:4", False), ("4:2:0", True)):
        one = PhotoFile(quality=(30, 30), subsampling=name, phase="corner")(x[:1], keys[:1]).xT
        np.testing.assert_array_equal(to_bytes(one[0]), by_pillow(image, 30, expected))


@pytest.mark.parametrize("halved", [False, True])
def test_a_piece_of_a_larger_file(halved):
    """x_T is a cropped file's: blocks that lie in it whole are those of the photograph's file."""
    large, keys = scene(160, 160), make_keys(40, seed=3)
    places = [
        random.randint(keys, p, 16) for p in (random.CorruptDraw.DOWN, random.CorruptDraw.ACROSS)
    ]
    places = np.stack(places, -1)
    file = by_pillow(large, 20, halved)
    pieces = [large[32 + y : 96 + y, 48 + x : 112 + x] for y, x in places]
    corruption = PhotoFile(quality=(20, 20), subsampling="4:2:0" if halved else "4:4:4")
    xT = to_bytes(jax.jit(corruption)(to_float(np.stack(pieces)), keys).xT)
    for one, (y, x) in zip(xT, places, strict=True):
        whole = file[32 + y : 96 + y, 48 + x : 112 + x]
        # From the first block that begins inside on, to the last that ends there; colours look one on.
        first_y, first_x = (16 - y) % 16 + 2 * halved, (16 - x) % 16 + 2 * halved
        last_y, last_x = 64 - y % 16 - 2 * halved, 64 - x % 16 - 2 * halved
        here = np.s_[first_y:last_y, first_x:last_x]
        np.testing.assert_array_equal(one[here], whole[here])
    counts = np.bincount(np.asarray(random.randint(make_keys(1600), random.CorruptDraw.DOWN, 16)))
    assert stats.chisquare(counts).pvalue > 1e-3
    # Beyond x_0 there is its mirror image, so the border is a file's as well.
    y, x = places[0]
    wide = np.pad(pieces[0], ((15, 16), (15, 16), (0, 0)), mode="symmetric")
    wide = wide[15 - y : 15 - y + 80, 15 - x : 15 - x + 80]
    expected = by_pillow(np.ascontiguousarray(wide), 20, halved)[y : y + 64, x : x + 64]
    np.testing.assert_array_equal(xT[0], expected)


def test_noise_before_the_file():
    """Of the strength drawn, in 8 bits, clipped; a share of the files is JPEG."""
    x, keys = jnp.zeros((600, 16, 16, 3)), make_keys(600)
    corruption = PhotoFile(noise=(0.1, 0.4), written=0.0)
    xT = jax.jit(corruption)(x, keys).xT
    drawn = np.asarray(random.uniform(keys, random.CorruptDraw.STRENGTH))
    strength = 0.1 + 0.3 * drawn
    noise = strength[:, None, None, None] * random.normal(keys, random.CorruptDraw.NOISE, x)
    np.testing.assert_array_equal(to_bytes(xT), np.round(np.clip((noise + 1) * 127.5, 0, 255)))
    assert stats.kstest(drawn, "uniform").pvalue > 1e-3
    assert np.corrcoef(strength, np.asarray(xT).std((1, 2, 3)))[0, 1] > 0.95
    mixed = jax.jit(PhotoFile(noise=(0.1, 0.4), written=0.25))(x, keys).xT
    same = (mixed == xT).all((1, 2, 3))
    np.testing.assert_array_equal(same, random.uniform(keys, random.CorruptDraw.WRITTEN) >= 0.25)
    assert 0.18 < 1 - same.mean() < 0.32


def test_smaller_files():
    """Each example by one of the factors: bicubic both ways, in whole steps; JPEG is of the small one."""
    image = scene(64, 64)
    x, keys = to_float(np.stack([image] * 64)), make_keys(64)
    xT = to_bytes(jax.jit(PhotoFile(factors=(2, 4), written=0.0))(x, keys).xT)
    choice = np.asarray(random.randint(random.fold(keys, 2), random.CorruptDraw.CHOICE, 2))
    assert 0.3 < choice.mean() < 0.7
    for factor in (2, 4):
        small = to_bytes(SuperResolution(factor=factor).forward(x[:1])[0]).clip(0, 255)
        enlarge = bicubic_enlarge(64, factor)
        expected = np.einsum("Yy,yxc,Xx->YXc", enlarge, small, enlarge).clip(0, 255)
        for one in xT[choice == (2, 4).index(factor)]:
            assert np.abs(one - expected).max() <= 0.502  # rounded, in single precision
    with_jpeg = PhotoFile(factors=(2,), quality=(10, 10), phase="corner", subsampling="4:4:4")
    small = to_bytes(SuperResolution(factor=2).forward(x[:1])[0]).clip(0, 255).astype(np.uint8)
    enlarge = bicubic_enlarge(64, 2)
    expected = np.einsum("Yy,yxc,Xx->YXc", enlarge, by_pillow(small, 10, False), enlarge)
    found = to_bytes(jax.jit(with_jpeg)(x[:1], keys[:1]).xT[0])
    assert np.abs(found - expected.clip(0, 255)).max() <= 0.502


def test_what_it_says_of_itself():
    file = PhotoFile(factors=[2, 4])
    assert (file.enlarges, file.enlargements, file.raster) == (4, (1, 2, 4), 1)
    assert (PhotoFile().enlargements, PhotoFile(phase="corner").raster) == ((1,), 16)
    assert SuperResolution().enlargements == (1, 4)
    assert file.masks == "none" and file.interpolates and not SuperResolution().interpolates
