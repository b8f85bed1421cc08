"""Folders and pairs of images: odd files, bad files, splits, alignment, mismatches."""

import warnings
from types import SimpleNamespace as Config

import numpy as np
import pytest
from PIL import Image

from jax_bridges.data import files as files_module
from jax_bridges.data import make_source


def ramp(h, w):
    """A smooth image, uint8 [h, w, 3]: red grows to the right, green downwards, blue is 64."""
    y, x = np.mgrid[:h, :w]
    return np.stack(
        [255 * (x + 0.5) / w, 255 * (y + 0.5) / h, np.full((h, w), 64.0)], axis=-1
    ).astype(np.uint8)


def wide_ramp():
    """uint16 [16, 16] from 0 to 65535 with uneven steps, so that rounding shows."""
    return (65535 * np.linspace(0, 1, 256) ** 1.7).astype(np.uint16).reshape(16, 16)


def save(path, array, **settings):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **settings)
    return path


def folder(path, split="train", size=16, **settings):
    settings = {"test_fraction": 1e-9, **settings}
    return make_source(Config(name="folder", path=str(path), size=size, **settings), split)


def only(path, **settings):
    (source,) = [folder(path, **settings)]
    assert len(source) == 1
    return source[0]["x0"].astype(int)


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


# Bad files ---------------------------------------------------------------------------------------


def bad_files(path):
    """Nine good files and one of each kind of bad; returns the names of the bad."""
    for i in range(9):
        save(path / f"good{i}.png", np.full((16, 16, 3), 20 * i, np.uint8))
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    whole = save(path / "cut.jpg", noise).read_bytes()
    (path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    whole = save(path / "deep/cut.png", noise).read_bytes()
    (path / "deep/cut.png").write_bytes(whole[: len(whole) // 2])
    whole = bytearray(save(path / "flipped.png", noise).read_bytes())
    whole[len(whole) // 2] ^= 0xFF
    (path / "flipped.png").write_bytes(whole)
    (path / "empty.jpg").write_bytes(b"")
    (path / "text.png").write_text("this is no image")
    save(path / "tiny.png", ramp(3, 3))
    frames = [Image.new("L", (16, 16), v) for v in (0, 255)]
    frames[0].save(path / "moving.gif", save_all=True, append_images=frames[1:])
    save(path / "float.tif", np.ones((16, 16), np.float32))
    return [
        "cut.jpg", "deep/cut.png", "empty.jpg", "flipped.png", "float.tif", "moving.gif",
        "text.png", "tiny.png",
    ]  # fmt: skip


def test_refuse_names_every_bad_file(tmp_path):
    names = bad_files(tmp_path)
    with pytest.raises(ValueError) as error:
        folder(tmp_path, on_bad_file="refuse")
    text = str(error.value)
    assert "8 of 17 are bad" in text and "on_bad_file='skip'" in text
    for name in names:
        assert name in text
    assert "good" not in text
    assert "the file is empty" in text and "not an image" in text and "2 frames" in text
    assert "3x3 pixels would have to grow 5.3 times to 16x16" in text and "32-bit" in text


def test_skip_warns_of_every_bad_file_and_keeps_the_good(tmp_path):
    names = bad_files(tmp_path)
    with pytest.warns(UserWarning, match="8 of 17 are bad") as record:
        source = folder(tmp_path, on_bad_file="skip")
    assert all(name in str(record[0].message) for name in names)
    assert len(source) == 9
    assert sorted(source[i]["x0"][0, 0, 0] for i in range(9)) == [20 * i for i in range(9)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        alone = tmp_path / "alone"
        for i in range(9):
            save(alone / f"good{i}.png", np.full((16, 16, 3), 20 * i, np.uint8))
        clean = folder(alone, on_bad_file="skip")
    assert clean.names == source.names  # bad files do not change the order of the others


def test_long_lists_are_cut(tmp_path):
    for i in range(14):
        (tmp_path / f"{i:02}.png").write_bytes(b"")
    with pytest.raises(ValueError, match="14 of 14 are bad.*and 4 more"):
        folder(tmp_path)
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="no usable image"):
        folder(tmp_path, on_bad_file="skip")


def test_files_that_turn_bad_later(tmp_path):
    for i in range(6):
        save(tmp_path / f"{i}.png", np.full((16, 16, 3), 20 * i, np.uint8))
    refuse, skip = folder(tmp_path), folder(tmp_path, on_bad_file="skip")
    before = [skip[i]["x0"] for i in range(6)]
    (tmp_path / skip.names[2]).write_bytes(b"")
    (tmp_path / skip.names[3]).unlink()
    with pytest.raises(ValueError, match=f"bad image {skip.names[2]}: the file is empty"):
        refuse[2]
    with pytest.warns(UserWarning, match="bad image") as record:
        for _ in range(3):  # named once, then the same example again and again
            np.testing.assert_array_equal(skip[2]["x0"], before[4])
    assert len(record) == 2
    assert all(f"bad image {skip.names[2 + k]}" in str(record[k].message) for k in (0, 1))
    np.testing.assert_array_equal(skip[1]["x0"], before[1])
    assert len(skip) == 6


def test_large_folders_are_checked_by_header(tmp_path, monkeypatch):
    monkeypatch.setattr(files_module, "FULL_CHECK", 3)
    bad_files(tmp_path)
    with pytest.warns(UserWarning) as record:
        source = folder(tmp_path, on_bad_file="skip")
    text = str(record[0].message)
    assert all(n in text for n in ("empty.jpg", "text.png", "tiny.png", "moving.gif"))
    assert "cut.jpg" not in text and "cut.jpg" in source.names
    with pytest.warns(UserWarning, match="bad image cut.jpg"):
        assert source[source.names.index("cut.jpg")]["x0"].shape == (16, 16, 3)


def test_other_files_are_named_and_hidden_ones_are_not(tmp_path):
    save(tmp_path / "a.png", ramp(16, 16))
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / ".DS_Store").write_text("x")
    with pytest.warns(UserWarning, match="1 files have no image suffix: notes.txt"):
        assert len(folder(tmp_path)) == 1


# Splits ------------------------------------------------------------------------------------------


def test_split_by_name_is_stable(tmp_path):
    for i in range(200):
        save(tmp_path / f"{i % 3}/{i}.png", np.full((4, 4, 3), i, np.uint8))
    sources = {s: folder(tmp_path, s, 4, test_fraction=0.2) for s in ("train", "test")}
    assert set(sources["train"].names).isdisjoint(sources["test"].names)
    assert len(sources["train"]) + len(sources["test"]) == 200
    assert 25 <= len(sources["test"]) <= 55  # 40 +- 2.6 standard deviations
    before = {s: list(source.names) for s, source in sources.items()}
    assert before["train"] != sorted(before["train"])
    assert len({name[0] for name in before["test"][:10]}) == 3  # first ones from all subfolders
    for i in range(200, 260):
        save(tmp_path / f"{i % 3}/{i}.png", np.full((4, 4, 3), i % 256, np.uint8))
    (tmp_path / before["train"][0]).unlink()
    for split, names in before.items():
        after = folder(tmp_path, split, 4, test_fraction=0.2).names
        kept = [name for name in after if name in names]
        assert kept == [n for n in names if n != before["train"][0]]
    more = folder(tmp_path, "test", 4, test_fraction=0.5).names
    assert set(before["test"]) < set(more)


@pytest.mark.parametrize("test_name", ["test", "val"])
def test_own_split_folders(tmp_path, test_name):
    for i in range(5):
        save(tmp_path / f"train/x/{i}.png", np.full((16, 16, 3), i, np.uint8))
    save(tmp_path / f"{test_name}/0.png", np.full((16, 16, 3), 99, np.uint8))
    assert len(folder(tmp_path, "train")) == 5
    test = folder(tmp_path, "test")
    assert len(test) == 1 and (test[0]["x0"] == 99).all()


def test_half_a_split_is_refused(tmp_path):
    save(tmp_path / "train/0.png", ramp(16, 16))
    assert len(folder(tmp_path, "train")) == 1
    with pytest.raises(ValueError, match="train/ but no test/"):
        folder(tmp_path, "test")


def test_max_images(tmp_path):
    for i in range(8):
        save(tmp_path / f"{i}.png", ramp(16, 16))
    (tmp_path / "bad.png").write_bytes(b"")
    with pytest.warns(UserWarning, match="bad.png"):
        every = folder(tmp_path, on_bad_file="skip")
        few = folder(tmp_path, on_bad_file="skip", max_images=3)
    assert few.names == every.names[:3]


def test_nothing_there(tmp_path):
    with pytest.raises(ValueError, match="data.path is empty"):
        make_source(Config(name="folder"), "train")
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        folder(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="No images below"):
        folder(tmp_path)
    save(tmp_path / "a.png", ramp(16, 16))
    with pytest.raises(ValueError, match="no usable image"):
        folder(tmp_path, "test")
    with pytest.raises(IndexError, match="no number 1"):
        folder(tmp_path)[1]


# Pairs -------------------------------------------------------------------------------------------


def pairs(a, b, split="train", size=16, **settings):
    settings = {"test_fraction": 1e-9, **settings}
    config = Config(name="pairs", path=str(a), path_xT=str(b), size=size, **settings)
    return make_source(config, split)


def test_pairs_match_by_name_at_any_size(tmp_path):
    a, b = tmp_path / "A", tmp_path / "B"
    for i in range(7):
        save(a / f"s/{i}.png", ramp(64, 96) // 8 * 4 + i)
        save(b / f"s/{i}.bmp", np.full((32 + i, 48 + i, 3), i, np.uint8))
    source = pairs(a, b)
    assert len(source) == 7
    for i in range(7):
        example = source[i]
        number = int(source.names[i][2:])
        assert (example["xT"] == number).all() and example["xT"].shape == (16, 16, 3)
        assert abs(int(example["x0"][8, 8, 2]) - (32 + number)) <= 1


@pytest.mark.parametrize("size", [16, (24, 16)])
def test_pairs_stay_aligned_when_cropped(tmp_path, size):
    # The same scene at 120 x 180 and at 61 x 90 (a rounding of half of it).
    save(tmp_path / "A/0.png", ramp(120, 180))
    save(tmp_path / "B/0.png", ramp(61, 90))
    example = pairs(tmp_path / "A", tmp_path / "B", size=size)[0]
    x0, xT = example["x0"].astype(int), example["xT"].astype(int)
    assert np.abs(x0 - xT)[1:-1, 1:-1].max() <= 2
    assert x0[..., 0].max() - x0[..., 0].min() > 60  # not for want of contrast


def test_frames_of_different_shape_are_bad_pairs(tmp_path):
    for i in range(2):
        save(tmp_path / f"A/{i}.png", ramp(32, 32))
        save(tmp_path / f"B/{i}.png", ramp(32, 32 + 16 * i))
    with pytest.raises(ValueError, match="1: x0 is 32x32 and xT 32x48"):
        pairs(tmp_path / "A", tmp_path / "B")
    with pytest.warns(UserWarning, match="1 of 2 are bad"):
        assert pairs(tmp_path / "A", tmp_path / "B", on_bad_file="skip").names == ["0"]


def test_mismatches_are_listed(tmp_path):
    for i in range(30):
        save(tmp_path / f"A/{i:02}.png", ramp(16, 16))
        if i < 18:
            save(tmp_path / f"B/{i:02}.jpg", ramp(16, 16))
    save(tmp_path / "B/stray.png", ramp(16, 16))
    with pytest.raises(ValueError) as error:
        pairs(tmp_path / "A", tmp_path / "B")
    text = str(error.value)
    assert "18 pairs match" in text and "12 of " in text and "1 of " in text
    assert "18, 19, 20" in text and "27, and 2 more" in text and "28" not in text
    assert "stray" in text and "on_bad_file='skip'" in text
    with pytest.warns(UserWarning, match="18 pairs match.*stray"):
        assert len(pairs(tmp_path / "A", tmp_path / "B", on_bad_file="skip")) == 18


def test_no_match_at_all_is_an_error_either_way(tmp_path):
    save(tmp_path / "A/0.png", ramp(16, 16))
    save(tmp_path / "B/1.png", ramp(16, 16))
    for choice in ("skip", "refuse"):
        with pytest.raises(ValueError, match="0 pairs match"):
            pairs(tmp_path / "A", tmp_path / "B", on_bad_file=choice)


def test_two_files_of_one_name(tmp_path):
    save(tmp_path / "A/0.png", ramp(16, 16))
    save(tmp_path / "A/0.jpg", ramp(16, 16))
    save(tmp_path / "B/0.jpg", ramp(16, 16))
    with pytest.raises(ValueError, match="same name"):
        pairs(tmp_path / "A", tmp_path / "B")


def test_a_bad_side_drops_the_pair(tmp_path):
    for i in range(3):
        save(tmp_path / f"A/{i}.png", ramp(16, 16))
        save(tmp_path / f"B/{i}.png", ramp(16, 16))
    (tmp_path / "B/1.png").write_bytes(b"")
    with pytest.raises(ValueError, match="1: xT: the file is empty"):
        pairs(tmp_path / "A", tmp_path / "B")
    with pytest.warns(UserWarning, match="1 of 3 are bad"):
        assert sorted(pairs(tmp_path / "A", tmp_path / "B", on_bad_file="skip").names) == ["0", "2"]


def test_splits_of_pairs(tmp_path):
    for i in range(60):
        save(tmp_path / f"A/{i}.png", ramp(16, 16))
        save(tmp_path / f"B/{i}.jpg", ramp(16, 16))
    a, b = tmp_path / "A", tmp_path / "B"
    names = [pairs(a, b, s, test_fraction=0.3).names for s in ("train", "test")]
    assert sorted(names[0] + names[1], key=int) == [str(i) for i in range(60)]
    # A folder of A alone splits in the same way: hashes are of names without suffix.
    alone = folder(a, "test", test_fraction=0.3).names
    assert [name.removesuffix(".png") for name in alone] == names[1]
    save(a / "train/x.png", ramp(16, 16))
    with pytest.raises(ValueError, match="Only one of"):
        pairs(a, b)
    for side in "AB":
        save(tmp_path / f"{side}/test/y.png", ramp(16, 16))
        save(tmp_path / f"{side}/train/x.png", ramp(16, 16))
    assert pairs(a, b, "train").names == ["x"] and pairs(a, b, "test").names == ["y"]
