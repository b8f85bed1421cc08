"""What `tools.measure_files` measures, and of what."""

import importlib.util
import json

import numpy as np
import pytest
from PIL import Image

from tests.support.restorers import photograph
from tools.measure_files import TASKS, above, as_jpeg, main, middle, noisy, pixels, tiles
from tools.measure_holes import by_picture, decibels


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("photographs")
    for number in range(4):
        Image.fromarray(photograph(140, 150, number)).save(made / f"{number}.png")
    return made


def test_the_middle_of_a_photograph_in_whole_tiles_becomes_the_file():
    image = photograph(150, 280, 1)
    np.testing.assert_array_equal(middle(image, 100), image[43:107, 108:172])
    np.testing.assert_array_equal(middle(image, 0), image[11:139, 12:268])
    cut = tiles([middle(image, 0), middle(image, 64)])
    assert cut.shape == (9, 64, 64, 3)
    np.testing.assert_array_equal(cut[5], image[75:139, 76:140])
    np.testing.assert_array_equal(cut[8], middle(image, 64))
    data = TASKS["jpeg"][0].file(image, 0)
    assert data == as_jpeg(image, 10, "4:2:0")
    assert 25 < decibels(np.square((pixels(data) - image.astype(float)) / 255).mean()) < 40
    assert pixels(TASKS["superres"][1].file(middle(image, 0), 0)).shape == (32, 64, 3)


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
    flags = ["--models=", "--tasks=denoise,superres", "--no-fd"]
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
