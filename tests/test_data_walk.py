"""Which pictures a folder holds: links, hidden files, other files, names in two Unicode forms."""

from __future__ import annotations

import os
import unicodedata
import warnings
from pathlib import Path

import numpy as np
import pytest

from jax_bridges.data.walk import find_pictures, listed, name_key, stem_key
from jax_bridges.restoring.files import find_orders
from tests.support.folders import folder, pairs, ramp, save


def touch(base: Path, *names: str) -> Path:
    for name in names:
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).touch()
    return base


def link(base: Path, **links: str) -> None:
    for name, target in links.items():
        (base / name).symlink_to(target)


def names(found, part="pictures"):
    return [path.relative_to(found.base).as_posix() for path in getattr(found, part)]


def both(base: Path, **settings):
    """The names that training takes and those that are restored: the same."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = find_pictures(base)
        orders = find_orders(base, base.parent / "out")
    assert [order.source for order in orders] == found.pictures
    return names(found)


# -- what counts -------------------------------------------------------------------------------------


def test_order_hidden_files_and_other_files(tmp_path, capsys):
    base = touch(
        tmp_path / "in", "b.PNG", "a/z.jpg", "a.tif", "Z.webp", ".hidden.png", ".thumbs/t.png",
        "a/._z.jpg", "notes.txt", "IMG_1.HEIC", "folder.png/c.png",
    )  # fmt: skip
    os.mkfifo(base / "pipe.png")  # reading it would wait for ever
    found = find_pictures(base)
    assert names(found) == ["Z.webp", "a/z.jpg", "a.tif", "b.PNG", "folder.png/c.png"]
    assert names(found, "other") == ["IMG_1.HEIC", "notes.txt", "pipe.png"] and not found.again
    assert both(base) == names(found)
    said = capsys.readouterr().err
    assert said == f"note: {base}: 3 files have no image suffix: IMG_1.HEIC, notes.txt, pipe.png.\n"


def test_long_lists_are_cut():
    assert listed(list("abcdefghij")) == "a, b, c, d, e, f, g, h, i, j"
    assert listed(list("abcdefghijkl"), "; ") == "a; b; c; d; e; f; g; h; i; j; and 2 more"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can step down")
def test_a_folder_that_may_not_be_read_is_an_error(tmp_path):
    base = touch(tmp_path / "in", "a.png", "locked/b.png")
    (base / "locked").chmod(0)
    parents = [p for p in tmp_path.parents if p.stat().st_mode & 0o777 == 0o700] + [tmp_path]
    modes = [(p, p.stat().st_mode) for p in parents]
    try:
        for p, mode in modes:
            p.chmod(mode | 0o055)
        os.seteuid(65534)
        with pytest.raises(ValueError, match="locked may not be read"):
            find_pictures(base)
    finally:
        os.seteuid(0)
        for p, mode in modes:
            p.chmod(mode)


# -- links -------------------------------------------------------------------------------------------


def test_links_to_folders_that_hold_them_end_at_once(tmp_path):
    base = touch(tmp_path / "in", "1.png", "deep/2.png")
    link(base, a=".", b=".", up="..", itself="itself")
    link(base / "deep", root="..")
    found = find_pictures(base)
    assert names(found) == ["1.png", "deep/2.png"]
    assert names(found, "again") == ["a", "b", "deep/root", "up/in"]
    assert names(found, "other") == ["itself"]
    assert both(base) == names(found)
    assert names(find_pictures(base, once=False))[:2] == ["1.png", "deep/2.png"]


def test_every_file_counts_once_by_the_name_that_needs_no_link(tmp_path):
    """`a` comes before `z` but is a link, so that adding it renames nothing."""
    base = touch(tmp_path / "in", "z/1.png", "z/2.png", "3.png")
    assert names(find_pictures(base)) == ["3.png", "z/1.png", "z/2.png"]
    link(base, a="z")
    (base / "0.png").symlink_to("3.png")
    os.link(base / "3.png", base / "4.png")
    touch(tmp_path / "album", "c.png", "more/d.png")
    link(base, linked="../album", other="../album/more")
    found = find_pictures(base)
    album = ["linked/c.png", "linked/more/d.png"]
    assert names(found) == ["3.png", *album, "z/1.png", "z/2.png"]
    assert names(found, "again") == ["0.png", "4.png", "a", "other"]
    assert both(base) == names(found)
    assert len(names(find_pictures(base, once=False))) == 3 + 2 + 2 + 2 + 1  # by every name


def test_a_link_to_nothing_is_a_bad_file_not_a_missing_one(tmp_path):
    base = touch(tmp_path / "in")
    base.mkdir()
    save(base / "a.png", ramp(16, 16))
    link(base, gone="nowhere")
    (base / "gone.png").symlink_to("nowhere.png")
    with pytest.raises(ValueError, match="gone.png: there is no such file"):
        folder(base)


def test_no_picture_is_for_training_and_for_test(tmp_path):
    base = tmp_path / "in"
    for i in range(20):
        save(base / f"{i}.png", np.full((16, 16, 3), i, np.uint8))
    link(base, self=".")
    for i in range(10):
        os.link(base / f"{i}.png", base / f"copy{i}.png")
    with pytest.warns(UserWarning, match="11 links lead to what is there already: "):
        splits = [folder(base, s, test_fraction=0.3) for s in ("train", "test")]
    files = [{os.path.realpath(p[0]) for p in s.paths} for s in splits]
    assert len(splits[0]) + len(splits[1]) == 20 and not files[0] & files[1]
    shown = [{int(s[i]["x0"][0, 0, 0]) for i in range(len(s))} for s in splits]
    assert shown[0] | shown[1] == set(range(20)) and not shown[0] & shown[1]


@pytest.mark.parametrize("how", ["folder", "file", "hard", "below"])
def test_split_folders_that_share_images_are_refused(tmp_path, how):
    save(tmp_path / "train/x/0.png", ramp(16, 16))
    save(tmp_path / "train/1.png", ramp(16, 16))
    if how == "folder":
        link(tmp_path, test="train")
    else:
        save(tmp_path / "test/2.png", ramp(16, 16))
        if how == "file":
            (tmp_path / "test/3.png").symlink_to("../train/1.png")
        elif how == "hard":
            os.link(tmp_path / "train/1.png", tmp_path / "test/3.png")
        else:
            link(tmp_path / "test", more="../train/x")
    with pytest.raises(ValueError, match="by links, in .*train as well, so the test would be of"):
        folder(tmp_path, "test")


def test_classes_do_not_count_links_back(tmp_path):
    for name in ("cat", "dog"):
        save(tmp_path / name / "0.png", ramp(16, 16))
    link(tmp_path, again=".")
    with pytest.warns(UserWarning, match="1 links lead to what is there already: again"):
        source = folder(tmp_path, classes="subfolders")
    assert source.classes == 2
    assert {source.names[i]: int(source[i]["label"]) for i in range(2)} == {
        "cat/0.png": 0,
        "dog/0.png": 1,
    }


def test_pairs_count_once_and_stay_in_one_split(tmp_path):
    """One corrupted image for many is fine; one clean image in two pairs is for one split."""
    clean, corrupted = tmp_path / "clean", tmp_path / "corrupted"
    for i in range(12):
        save(clean / f"{i:02}.png", np.full((16, 16, 3), i, np.uint8))
        (clean / f"{i:02}b.png").symlink_to(f"{i:02}.png")
    save(corrupted / "00.png", ramp(16, 16))
    for i in range(12):
        for name in (f"{i:02}.png", f"{i:02}b.png"):
            if name == "00b.png":
                save(corrupted / name, ramp(16, 16))
            elif name != "00.png":
                (corrupted / name).symlink_to("00.png" if i % 2 else "00b.png")
    with pytest.warns(UserWarning, match="11 pairs are links to others and are left out"):
        splits = [pairs(clean, corrupted, s, test_fraction=0.4).names for s in ("train", "test")]
    assert sorted(splits[0] + splits[1]) == ["00", "00b", *(f"{i:02}" for i in range(1, 12))]
    assert splits[1] and any({"00", "00b"} <= set(split) for split in splits)


# -- Unicode -----------------------------------------------------------------------------------------

NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


def test_names_of_two_unicode_forms_match(tmp_path):
    assert NFC != NFD
    for i in range(6):
        save(tmp_path / f"clean/{NFC}/{NFC}{i}.png", np.full((16, 16, 3), i, np.uint8))
        save(tmp_path / f"corrupted/{NFD}/{NFD}{i}.png", np.full((16, 16, 3), i, np.uint8))
    (tmp_path / "classes.txt").write_bytes(b"\xef\xbb\xbfdog\r\n" + NFD.encode() + b"\r\n")
    source = pairs(
        tmp_path / "clean", tmp_path / "corrupted", classes=str(tmp_path / "classes.txt")
    )
    assert len(source) == 6 and source.classes == 2
    for i in range(6):
        example = source[i]
        assert (example["x0"] == example["xT"]).all() and example["label"] == 1
    orders = find_orders(tmp_path / "clean", tmp_path / "out", tmp_path / "corrupted")
    assert [(o.mask.name, o.wrong) for o in orders] == [(f"{NFD}{i}.png", "") for i in range(6)]
    # The same images are for test, whatever the form: copied to a Mac and back.
    splits = [
        [stem_key(p[0], tmp_path / side) for p in folder(tmp_path / side, "test", test_fraction=0.5).paths]
        for side in ("clean", "corrupted")
    ]  # fmt: skip
    assert splits[0] == splits[1]


def test_names_that_differ_in_case_alone_are_said(tmp_path):
    for i in range(3):
        save(tmp_path / f"A/IMG_{i}.JPG", ramp(16, 16))
        save(tmp_path / f"B/img_{i}.jpg", ramp(16, 16))
    with pytest.raises(
        ValueError, match="3 differ in upper and lower case alone, such as IMG_0 and img_0"
    ):
        pairs(tmp_path / "A", tmp_path / "B")
    order = find_orders(tmp_path / "A", tmp_path / "out", tmp_path / "B")[0]
    assert (
        "holds no mask for IMG_0.JPG" in order.wrong
        and "img_0 differs in upper and lower" in order.wrong
    )


def test_names_that_are_no_text_have_an_order_too(tmp_path):
    base = touch(tmp_path / "in", "a.png", "z.png")
    (Path(os.fsdecode(os.fsencode(base) + b"/caf\xe9.png"))).touch()
    found = find_pictures(base)
    assert [os.fsencode(p.name) for p in found.pictures] == [b"a.png", b"caf\xe9.png", b"z.png"]
    assert name_key(found.pictures[1], base) == ("caf\udce9.png",)
