"""Native crops: where they lie, what they hold, epochs, resuming, the cache, and what is refused."""

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace as Config

import numpy as np
import pytest
from PIL import Image

from jax_bridges.data import Loader, blocks_of, first, make_source
from jax_bridges.data import crops as crops_module
from jax_bridges.data.crops import PictureCache, RandomCrops

SIZES = ((20, 31), (16, 16), (40, 24), (17, 50))  # of the pictures, (H, W)


def picture(number, size):
    """Every pixel says where it is, and of what: red its row, green its column, blue the picture."""
    y, x = np.mgrid[: size[0], : size[1]].astype(np.uint8)
    return np.stack([y, x, np.full_like(y, number)], -1)


@pytest.fixture
def photographs(tmp_path):
    """A folder with train/ and test/ of pictures of SIZES."""
    for split in ("train", "test"):
        (tmp_path / "clean" / split).mkdir(parents=True)
        for number, size in enumerate(SIZES):
            Image.fromarray(picture(number, size)).save(
                tmp_path / "clean" / split / f"{number}.png"
            )
    return tmp_path / "clean"


def opened(path, split="train", **settings):
    return make_source(Config(name="folder", path=str(path), size=16, **settings), split)


def positions(x0):
    """(number, row, column) `[B, 3]` of crops `[B, 16, 16, 3]`, after a check that they are whole."""
    corner = x0[:, :1, :1].astype(int)
    y, x = np.mgrid[:16, :16]
    np.testing.assert_array_equal(x0[..., 0], corner[..., 0] + y)
    np.testing.assert_array_equal(x0[..., 1], corner[..., 1] + x)
    np.testing.assert_array_equal(x0[..., 2], np.broadcast_to(corner[..., 2], x0.shape[:3]))
    return corner[:, 0, 0][:, [2, 0, 1]]


def test_random_crops_are_native_and_everywhere(photographs):
    source = opened(photographs, crop="random", crops=50)
    assert len(source) == 50 * len(SIZES)
    batch = Loader(source, (1600,), seed=1).batch_at(0)
    found = positions(batch["x0"])
    for number, (height, width) in enumerate(SIZES):
        rows, columns = found[found[:, 0] == number][:, 1:].T
        assert len(rows) == 400  # 50 an epoch, eight epochs
        assert set(rows) == set(range(height - 15)) and set(columns) == set(range(width - 15))
    rows, columns = found[found[:, 0] == 0][:, 1:].T  # 5 times 16 places, evenly
    expected = 400 / (5 * 16)
    counts = np.histogram2d(rows, columns, (5, 16))[0]
    assert ((counts - expected) ** 2 / expected).sum() < 118  # chi-square, 79 degrees: 0.3%
    assert (source[7]["x0"] == source[7]["x0"]).all() and source[7]["x0"].shape == (16, 16, 3)
    np.testing.assert_array_equal(source[-1]["x0"], source[199]["x0"])
    with pytest.raises(IndexError, match="no number 200"):
        source[200]


def test_a_crop_is_a_function_of_seed_and_draw(photographs):
    """Whatever the shape of the batch, the number of hosts, the cache, and where it goes on."""
    source = opened(photographs, crop="random", crops=8)
    whole = Loader(source, (96,), seed=5).batch_at(0)["x0"]
    parts = [
        Loader(source, (2, 12), seed=5).batch_at(k)["x0"].reshape(24, 16, 16, 3) for k in range(4)
    ]
    np.testing.assert_array_equal(whole, np.concatenate(parts))
    hosts = [
        Loader(source, (2, 12), 5, process_index=h, process_count=3).batch_at(2)["x0"]
        for h in range(3)
    ]
    np.testing.assert_array_equal(np.concatenate(hosts, 1).reshape(24, 16, 16, 3), parts[2])
    for cache_mb in (0, 0.004):  # nothing, two pictures
        small = RandomCrops(source.pictures, (16, 16), cache_mb, crops=8, least_scale=1)
        with Loader(small, (24,), seed=5, threads=3).iterate(1) as batches:
            for part in parts[1:]:
                np.testing.assert_array_equal(next(batches)["x0"], part)
    epochs = positions(whole).reshape(3, 32, 3)
    assert len({epoch.tobytes() for epoch in epochs}) == 3
    assert len(np.unique(epochs.reshape(96, 3), axis=0)) > 60  # others every epoch
    assert (Loader(source, (96,), seed=6).batch_at(0)["x0"] != whole).mean() > 0.5


def test_pairs_and_labels_are_cut_alike(photographs):
    for split in ("train", "test"):
        for number, size in enumerate(SIZES):
            path = photographs.parent / "bad" / split / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(255 - picture(number, size)).save(path)
    names = dict(
        name="pairs", path=str(photographs), path_xT=str(photographs.parent / "bad"), size=16
    )
    for split in ("train", "test"):
        batch = first(make_source(Config(**names, crop="random"), split), 7)
        np.testing.assert_array_equal(batch["x0"], 255 - batch["xT"])
    batch = first(make_source(Config(**names, crop="random", crop_scale=0.5), "train"), 40)
    assert np.abs(batch["x0"] - (255.0 - batch["xT"])).max() <= 1  # rounded
    wrong = Image.fromarray(picture(0, (20, 30)))
    wrong.save(photographs.parent / "bad" / "train" / "0.png")
    with pytest.raises(
        ValueError, match="x0 is 20x31 and xT 20x30: native crops need the same size"
    ):
        make_source(Config(**names, crop="random"), "train")
    (photographs / "train" / "cat").mkdir()
    (photographs / "train" / "dog").mkdir()
    for number, place in enumerate(("cat", "dog", "cat", "dog")):
        (photographs / "train" / f"{number}.png").rename(
            photographs / "train" / place / f"{number}.png"
        )
    source = opened(photographs, crop="random", crops=3, classes="subfolders")
    batch = Loader(source, (12,)).batch_at(0)
    assert source.classes == 2 and batch["label"].dtype == np.int32
    np.testing.assert_array_equal(batch["label"], positions(batch["x0"])[:, 0] % 2)


def test_the_grid_is_every_tile_once(photographs):
    for settings in (dict(crop="grid"), dict(crop="random")):
        source = opened(photographs, "test", **settings)
        batch = first(source, len(source))
        found = positions(batch["x0"])
        expected = [
            (0, 2, 7),
            (1, 0, 0),
            (2, 4, 4),
            (2, 20, 4),
            *((3, 0, 1 + 16 * k) for k in range(3)),
        ]
        assert sorted(map(tuple, found)) == expected
        assert list(map(tuple, found)) != expected  # in random order, the same again
        np.testing.assert_array_equal(
            first(opened(photographs, "test", **settings), 7)["x0"], batch["x0"]
        )
        names = [int(source.pictures.names[k].removesuffix(".png")) for k in blocks_of(source, 7)]
        assert names == found[:, 0].tolist()  # what a resample by picture is of
    assert len(opened(photographs, crop="grid")) == 7


def test_scales(photographs):
    """A ramp stays a ramp whose slope says how much it was shrunk: by each of five shares alike."""
    for number in range(4):
        y, x = np.mgrid[:80, :100].astype(np.uint8)
        Image.fromarray(np.stack([2 * y, 2 * x, 0 * y], -1)).save(
            photographs / "train" / f"{number}.png"
        )
    source = opened(photographs, crop="random", crops=200, crop_scale=0.5)
    x0 = Loader(source, (800,)).batch_at(0)["x0"].astype(float)
    # Clear of the borders, where there is nothing to filter with.
    slope = 2 / ((x0[:, 12, 8, 0] - x0[:, 4, 8, 0]) / 8)
    near = np.abs(slope[:, None] - 0.5 ** (np.arange(5) / 4)).argmin(1)
    assert np.abs(slope - 0.5 ** (near / 4)).max() < 0.08
    assert np.abs(np.bincount(near, minlength=5) / 800 - 0.2).max() < 0.06
    # One that would be smaller than a crop is shrunk no further.
    y, x = np.mgrid[:20, :100].astype(np.uint8)
    for number in range(4):
        Image.fromarray(np.stack([2 * y, 2 * x, 0 * y], -1)).save(
            photographs / "train" / f"{number}.png"
        )
    batch = Loader(opened(photographs, crop="random", crops=9, crop_scale=0.1), (36,)).batch_at(0)
    assert batch["x0"].shape == (36, 16, 16, 3)


def test_many_pictures_come_in_groups(photographs, monkeypatch):
    """Each is read once an epoch if a group fits into the cache, and groups differ from epoch to epoch."""
    monkeypatch.setattr(crops_module, "GROUP", 2)
    pictures = opened(photographs, crop="grid").pictures
    source = RandomCrops(pictures, (16, 16), 0.0085, crops=16, least_scale=1)  # room for any two
    read, lock = [], threading.Lock()
    inner = source._cache._read

    def counted(number):
        with lock:
            read.append(number)
        return inner(number)

    source._cache._read = counted
    orders = [source.order(0, epoch) // 16 for epoch in range(16)]
    for order in orders:
        assert sorted(order) == sorted([*range(4)] * 16)
        assert len(set(order[:32])) == len(set(order[32:])) == 2
        assert len(set(order[:8])) == 2  # mixed in a group
    assert len({frozenset(order[:32]) for order in orders}) > 3  # of six
    loader = Loader(source, (16,), seed=0)
    read.clear()
    for step in range(4):
        loader.batch_at(step)
    assert len(read) <= 4


def test_the_cache_keeps_what_was_used_last_and_reads_once():
    reads, lock = [], threading.Lock()
    gate = threading.Barrier(4, timeout=20)

    def read(number):
        with lock:
            reads.append(number)
        return {"x0": np.full((2**18,), number, np.uint8), "label": np.int32(number)}

    cache = PictureCache(read, 1.1)  # four
    with ThreadPoolExecutor(4) as pool:  # all at once

        def ask(_):
            gate.wait()
            return cache[7]

        assert all(found["label"] == 7 for found in pool.map(ask, range(4)))
    assert reads == [7]
    for number in (1, 2, 3, 7, 4, 7, 2):  # 4 puts out 1
        assert cache[number]["x0"][0] == number
    assert reads == [7, 1, 2, 3, 4]
    cache[1]
    assert reads == [7, 1, 2, 3, 4, 1]
    cache[3]  # put out by 1
    assert reads[-1] == 3
    nothing = PictureCache(read, 0)
    nothing[5], nothing[5]
    assert reads[-2:] == [5, 5]


def test_a_failed_read_is_raised_each_time():
    def read(number):
        raise ValueError(f"number {number} is broken")

    cache = PictureCache(read, 1)
    for _ in range(2):
        with pytest.raises(ValueError, match="number 3 is broken"):
            cache[3]


def test_a_cache_that_is_too_small_is_said_with_the_number_that_is_not(photographs, recwarn):
    for number in range(4):
        Image.fromarray(picture(number, (250, 256))).save(photographs / "train" / f"{number}.png")
    message = (  # 4 pictures of 3 * 250 * 256 bytes at 1, 2^-0.25, ... 1/2 of their size: 2.5 MiB
        r"of 4 pictures at a time, 1 MB each .*data.cache_mb=2 holds 3: .* Set data.cache_mb=3,"
    )
    with pytest.warns(UserWarning, match=message):
        opened(photographs, crop="random", crop_scale=0.5, cache_mb=2)
    recwarn.clear()
    opened(photographs, crop="random", crop_scale=0.5, cache_mb=3)
    opened(photographs, crop="random", cache_mb=1)
    assert not recwarn.list


def test_what_is_refused(photographs):
    Image.fromarray(picture(9, (15, 40))).save(photographs / "train" / "small.png")
    with pytest.raises(ValueError, match="small.png: 15x40 pixels are less than a crop of 16x16"):
        opened(photographs, crop="random")
    with pytest.warns(UserWarning, match="small.png"):
        assert len(opened(photographs, crop="random", crops=2, on_bad_file="skip")) == 8
    with pytest.raises(
        ValueError, match="data.crop=grid is for folder and pairs, but data.name is 'earth'"
    ):
        make_source(Config(name="earth", size=16, crop="grid"), "train")
    with pytest.raises(ValueError, match="data.unpaired mixes whole examples"):
        opened(photographs, crop="random", unpaired=True)
    with pytest.raises(ValueError, match="crop"):
        opened(photographs, crop="middle")
    with pytest.raises(ValueError, match="crop_scale"):
        opened(photographs, crop="random", crop_scale=1.5)
