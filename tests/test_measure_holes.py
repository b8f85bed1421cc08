"""What `tools.measure_holes` says of a method."""

import json

import numpy as np
import pytest
from PIL import Image

from tools.measure_holes import decibels, errors_of, main, pooled, row, squared_error


def test_its_figures_are_of_the_holes_pixels():
    truth = [np.full((16, 16, 3), 100, np.uint8)] * 3
    holes = [np.zeros((16, 16), bool) for _ in truth]
    for hole, rows in zip(holes, (1, 2, 4), strict=True):
        hole[:rows] = True
    filled = [truth[0] + np.uint8(k) for k in (1, 2, 4)]  # known pixels are wrong too: not counted
    assert squared_error(filled[1], truth[1], holes[1]) == pytest.approx((96 * (2 / 255) ** 2, 96))
    owner = np.array([0, 0, 1])
    base = errors_of(truth, [image + np.uint8(4) for image in truth], holes)
    said = row(truth, filled, holes, owner, None, base)
    assert said["gain"] == pytest.approx(10 * np.log10(16 * 7 / (1 + 2 * 4 + 4 * 16)))
    assert pooled(base, owner).minus(pooled(errors_of(truth, filled, holes), owner)).without == (
        pytest.approx([0.0, 10 * np.log10(3) - 20 * np.log10(4)])
    )
    assert said["low"] < said["gain"] < said["high"]
    level = decibels(1 / 255**2)
    assert said["mean"] == pytest.approx(level - 20 * np.log10([1, 2, 4]).mean())
    assert said["pooled"] == pytest.approx(level - 10 * np.log10((1 + 2 * 4 + 4 * 16) / 7))
    first = 10 * np.log10((1 + 2 * 4) / 3)
    assert said["by_picture"] == pytest.approx(level - (first + 20 * np.log10(4)) / 2)
    assert decibels(0.0) == 60


@pytest.mark.slow
def test_it_measures_native_tiles_and_whole_pictures(tmp_path):
    y, x = np.mgrid[-1:1:128j, -1:1:128j]
    for name, wave in (("a", x * y), ("b", x**2 - y), ("c", x**3)):
        pixels = np.rint(127.5 + 120 * np.stack([wave, 0.5 * wave, -wave], -1) / 2)
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{name}.png")
    for tiles in ("4", "0"):
        out = tmp_path / f"{tiles}.json"
        flags = ["--models=", "--kinds=boxes", f"--tiles={tiles}", "--no-fd"]
        main([str(tmp_path), str(out), *flags])
        found = json.loads(out.read_text())
        first = found["rows"][0]
        assert first["kind"] == "boxes" and first["method"] == "biharmonic"
        assert first["pooled"] > 35  # cubics, but for the rounding and holes at the border
        assert "tools.measure_holes" in found["measured"]["command"]
