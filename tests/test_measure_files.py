"""What `tools.measure_files` measures, and of what."""

import importlib.util
import json

import numpy as np
import pytest
from PIL import Image

from tests.support.restorers import photograph
from tools.measure_files import TASKS, Condition, above, as_jpeg, cut, main, noisy
from tools.measure_holes import by_picture, decibels, read, source_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("photographs")
    for number in range(4):
        Image.fromarray(photograph(140, 150, number)).save(made / f"{number}.png")
    return made


def test_tiles_are_those_of_the_holes_cut_out_of_whole_files(folder):
    pictures = source_of(str(folder)).pictures
    truth, owner = cut(pictures, Condition(""), 9)
    tiles, of = read(str(folder), 9)
    np.testing.assert_array_equal(truth, tiles)
    np.testing.assert_array_equal(owner, of)
    lost = cut(pictures, TASKS["jpeg"][0], 9)[0]
    whole = as_jpeg(np.asarray(pictures[int(owner[0])]["x0"]), 10, "4:2:0")
    places = [(y, x) for y in range(77) for x in range(87)]
    assert any((whole[y : y + 64, x : x + 64] == lost[0]).all() for y, x in places)
    assert not (as_jpeg(truth[0], 10, "4:2:0") == lost[0]).all()  # its blocks begin elsewhere
    whole, of = cut(pictures, TASKS["superres"][0], 0)
    assert {image.shape for image in whole} == {(140, 148, 3)} and list(of) == [0, 1, 2, 3]


def test_noise_is_of_its_strength_and_each_photographs_own():
    gray = np.full((64, 64, 3), 128, np.uint8)
    noise = noisy(gray, 0, 25).astype(float) - 128
    assert np.std(noise) == pytest.approx(25, rel=0.02)
    np.testing.assert_array_equal(noisy(gray, 0, 25), noisy(gray, 0, 25))
    assert abs(np.corrcoef(noise.ravel(), noisy(gray, 1, 25).ravel())[0, 1]) < 0.05


def test_gains_are_of_means_over_photographs():
    owner = np.array([0, 0, 1, 2])
    ours = np.array([[1e-3, 3e-3, 4e-3, 1e-3], [1.0, 1.0, 2.0, 1.0]])
    estimate = by_picture(ours, owner)
    assert estimate.value == pytest.approx(decibels(np.array([2e-3, 2e-3, 1e-3])))
    assert estimate.without[2] == pytest.approx(decibels(2e-3))
    theirs = ours * np.array([[10.0, 10.0, 10.0, 10.0], [1.0, 1.0, 1.0, 1.0]])
    said = above("over", ours, theirs, owner)
    assert list(said.values()) == pytest.approx([10.0, 10.0, 10.0])


def test_it_measures_files_as_they_are_and_the_best_filter(folder, tmp_path, capsys):
    out = tmp_path / "files.json"
    with pytest.raises(SystemExit):
        main([str(folder), str(out), "--tasks=blur"])
    assert "there are jpeg, denoise, superres" in capsys.readouterr().err
    flags = ["--models=", "--tasks=denoise,superres", "--tiles=4", "--tune=4", "--no-fd"]
    if importlib.util.find_spec("skimage") is None:
        flags.append("--no-classical")
    main([str(folder), str(out), *flags])
    rows = {(row["condition"], row["method"]): row for row in json.loads(out.read_text())["rows"]}
    noise = rows["noise of 25", "the file"]
    assert noise["pooled"] == pytest.approx(decibels((25 / 255) ** 2), abs=0.5)
    assert noise["picture_gain"] == noise["gain"] == 0
    assert rows["2 times", "bicubic"]["pooled"] > rows["4 times", "bicubic"]["pooled"]
    assert not any("FD" in key for row in rows.values() for key in row)
    filtered = [row for (_, name), row in rows.items() if name.startswith("scikit-image")]
    assert len(filtered) == 3 * ("--no-classical" not in flags)
    assert all(row["picture_gain"] > 0 for row in filtered)
