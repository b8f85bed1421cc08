"""report/: pictures and curves."""

import io
import math
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image

from jax_bridges.report import (
    Row,
    chart,
    grid,
    quality_chart,
    save_png,
    save_svg,
    step_chart,
    to_png_bytes,
)
from jax_bridges.report.curves import Series, _axis, has_outliers, quality_series, step_series
from jax_bridges.report.pictures import GAP, MARGIN, OUTLINE, _fit_labels
from tests.support.reports import colour, read

# ---------------------------------------------------------------- pictures


def test_grid_pixels_are_exact_squares():
    rng = np.random.default_rng(0)
    columns = {name: rng.integers(0, 256, (2, 6, 5, 3), np.uint8) for name in ("source", "target")}
    columns["source"][0] = (7, 8, 9)
    picture = np.asarray(grid(columns, scale=4))
    top = picture.shape[0] - MARGIN - 2 * 24 - GAP
    for column, images in enumerate(columns.values()):
        for row, image in enumerate(images):
            y, x = top + row * (24 + GAP), MARGIN + column * (20 + GAP)
            expected = np.kron(image, np.ones((4, 4, 1), np.uint8))
            np.testing.assert_array_equal(picture[y : y + 24, x : x + 20], expected)
    assert picture.shape[1] == 2 * MARGIN + 2 * 20 + GAP
    assert picture[:top].min() < 100  # labels are there
    assert (picture[-MARGIN + 1 :] == 255).all()


@pytest.mark.parametrize("box", [(2, 1, 3, 4), (0, 0, 8, 8), (5, 5, 3, 3)])
def test_grid_outlines_the_hole_on_the_source_without_covering_it(box):
    columns = {"source": colour((10, 20, 30), 8), "target": colour((10, 20, 30), 8)}
    plain, outlined = np.asarray(grid(columns, 6)), np.asarray(grid(columns, 6, box=box))
    changed = (plain != outlined).any(-1)
    y0, x0 = plain.shape[0] - MARGIN - 48, MARGIN
    top, left, height, width = (value * 6 for value in box)
    assert not changed[y0 + top : y0 + top + height, x0 + left : x0 + left + width].any()
    frame = np.zeros_like(changed)  # 6 // 3 = 2 pixels thick
    frame[y0 + top - 2 : y0 + top + height + 2, x0 + left - 2 : x0 + left + width + 2] = True
    frame[y0 + top : y0 + top + height, x0 + left : x0 + left + width] = False
    np.testing.assert_array_equal(changed, frame)
    assert (outlined[frame] == OUTLINE).all()


def test_grid_takes_long_labels_and_picks_a_scale():
    image = colour((0, 0, 0), 32)
    assert grid({"a": image}).size[0] == 2 * MARGIN + 128
    tall, short = grid({"a b c d e f": image}, 1), grid({"a": image}, 1)
    assert tall.size[1] > short.size[1] and tall.size[0] == short.size[0]
    labels, font = _fit_labels(["incomprehensibilities", "a"], 32)
    assert labels[0].endswith("…") and labels[0][:3] == "inc" and labels[1] == "a"
    assert font.getlength(labels[0]) <= 32 + GAP


@pytest.mark.parametrize(
    "columns, scale, words",
    [
        ({}, 1, "at least one column"),
        ({"a": colour((0, 0, 0)).astype(np.float32)}, 1, "column 'a' must be uint8"),
        (
            {"a": colour((0, 0, 0))[0]},
            1,
            "column 'a' must be uint8 [N, H, W, 3], not uint8 [4, 4, 3]",
        ),
        ({"a": colour((0, 0, 0)), "b": colour((0, 0, 0), 5)}, 1, "column 'b' has shape"),
        ({"a": colour((0, 0, 0))}, 0, "scale must be a whole number"),
        ({"a": colour((0, 0, 0))[:0]}, 1, "holds no pixels"),
    ],
)
def test_grid_refuses_bad_input(columns, scale, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        grid(columns, scale)


def test_png_round_trip(tmp_path):
    pixels = np.random.default_rng(1).integers(0, 256, (7, 5, 3), np.uint8)
    path = save_png(tmp_path / "samples" / "a.png", pixels)
    np.testing.assert_array_equal(np.asarray(Image.open(path)), pixels)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(to_png_bytes(pixels)))), pixels)
    with pytest.raises(ValueError, match="uint8"):
        to_png_bytes(pixels / 255)


# ---------------------------------------------------------------- curves


def test_axes_map_ends_and_ticks():
    ticks, pixel = _axis(1, 100, True, 0.0, 200.0, 5)
    assert [text for _, text in ticks] == ["1", "10", "100"]
    assert [pixel(value) for value in (1, 10, 100)] == pytest.approx([0, 100, 200])
    ticks, pixel = _axis(0.021, 0.069, False, 300.0, 0.0, 5)  # upside down, as y axes are
    assert [text for _, text in ticks] == ["0.02", "0.03", "0.04", "0.05", "0.06", "0.07"]
    assert (pixel(0.02), pixel(0.07)) == pytest.approx((300, 0))
    ticks, _ = _axis(-2.0, 2.0, False, 0.0, 1.0, 4)
    assert [text for _, text in ticks] == ["−2", "−1", "0", "1", "2"]
    ticks, _ = _axis(1e-4, 1e-4, False, 0.0, 1.0, 5)
    assert [text for _, text in ticks] == ["9e−5", "9.5e−5", "1e−4", "1.05e−4", "1.1e−4"]
    ticks, _ = _axis(0.0021, 0.0086, True, 0.0, 360.0, 6)
    assert [text for _, text in ticks] == ["0.003", "0.004", "0.005", "0.007"]
    for low, high, log in (
        (5.0, 5.0, False),
        (0.0, 0.0, False),
        (1, 1, True),
        (0.3, 0.1 + 0.2, False),
    ):
        ticks, pixel = _axis(low, high, log, 0.0, 1.0, 5)
        assert 0 < pixel(low) < 1 and 2 <= len(ticks) <= 12


def test_quality_chart_holds_each_series_and_point_once():
    series = quality_series(read(), "nfe", "fd_lite0_hole")
    assert [(each.label, each.x, each.y) for each in series] == [
        ("teacher, ode", (1, 100), (17.8, 12.81)),
        ("student, few_step", (1,), (12.3,)),
    ]
    root = ElementTree.fromstring(quality_chart(read(), "nfe", "fd_lite0_hole"))
    assert [title.text for title in root.iter("title")] == [
        "teacher, ode: 17.8 at 1 network calls per image",
        "teacher, ode: 12.81 at 100 network calls per image",
        "student, few_step: 12.3 at 1 network calls per image",
    ]
    assert {"teacher, ode", "student, few_step", "1", "10", "100"} <= {
        t.text for t in root.iter("text")
    }
    assert quality_chart(read(), "nfe", "ssim") == ""
    with pytest.raises(ValueError, match="positive"):
        chart([Series("a", (0.0, 1.0), (1.0, 1.0), "red")], "t", "x", x_log=True)


@pytest.mark.parametrize("key, sign", [("fd_lite0", 1), ("psnr", -1)])
def test_hopeless_values_do_not_flatten_the_others(key, sign):
    """Two of 14 lie far off: triangles on the edge, and the axis is that of the other twelve."""
    good = [30.0 + 0.5 * k for k in range(12)]
    values = {n + 1: v if sign > 0 else 60.0 - v for n, v in enumerate(good)}
    values |= {40: 30.0 + 230.0 * sign, 50: 30.0 + 180.0 * sign}
    rows = [Row("teacher", "heun", n, 8, metrics={key: v}) for n, v in values.items()]
    root = ElementTree.fromstring(quality_chart(rows, "nfe", key))
    ticks = [
        float(t.text)
        for t in root.iter("text")
        if t.get("text-anchor") == "end" and t.text[0].isdigit()
    ]
    low, high = (30.0, 36.0) if sign > 0 else (24.0, 30.0)
    assert min(ticks) >= low - 1 and max(ticks) <= high + 1 and len(ticks) >= 4
    dots = [c for c in root.iter("circle") if c.get("r") == "4"]
    triangles = [p for p in root.iter("path") if p.get("d").endswith("z")]
    assert len(dots) == 12 and len(triangles) == 2 and has_outliers(rows, key)
    # They stand where the far end of the axis is, and still tell their value.
    far = min if sign > 0 else max
    at = [float(re.match(r"M[\d.]+ ([\d.]+)h12l-6 (-?\d+)z", p.get("d"))[1]) for p in triangles]
    assert at[0] == at[1] and far([at[0], *(float(c.get("cy")) for c in dots)]) == at[0]
    assert f"heun: {values[40]:.4g} at 40" in " ".join(t.text for t in root.iter("title"))
    # Fewer than eight, or nothing hopeless: all points as they are.
    for few in (rows[:3] + rows[-1:], rows[:12]):
        plain = ElementTree.fromstring(quality_chart(few, "nfe", key))
        assert not [p for p in plain.iter("path") if p.get("d").endswith("z")]
        assert not has_outliers(few, key)


def test_loss_curve_averages_long_runs_and_leaves_out_nan():
    records = [{"step": s, "loss": float(s % 5)} for s in range(1, 1201)] + [{"step": 1201}]
    series = step_series(records, "loss", "red")
    assert len(series.x) == 240 and series.x[0] == 3.0
    assert set(series.y) == {2.0} and set(series.band) == {(0.0, 4.0)}
    records = [{"step": 1, "loss": 1.0}, {"step": 2, "loss": math.nan}, {"step": 3, "loss": 2.0}]
    assert step_series(records, "loss", "red").x == (1.0, 3.0)
    assert step_chart(records[:2], "loss") == ""
    ElementTree.fromstring(step_chart([{"step": s, "loss": 1 / s} for s in range(1, 999)], "loss"))


def test_a_saved_svg_stands_alone(tmp_path):
    path = save_svg(tmp_path / "a.svg", quality_chart(read(), "seconds_per_image", "psnr"))
    root = ElementTree.parse(path).getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert path.read_text().count("http") == 1  # the namespace only
