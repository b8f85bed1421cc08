"""Folders and pairs of images: bad files, splits, alignment, mismatches."""

import warnings
from types import SimpleNamespace as Config

import numpy as np
import pytest
from PIL import Image

from jax_bridges.data import files as files_module
from jax_bridges.data import make_source
from tests.support.folders import folder, pairs, ramp, save

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
    assert "the file is empty" in text and "not a picture" in text and "2 frames" in text
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
    text = str(error.value).replace(str(tmp_path), "")  # which has numbers of its own
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
