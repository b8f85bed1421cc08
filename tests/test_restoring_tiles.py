"""restoring/: holes, tiles and jobs, without a network."""

from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image

from jax_bridges.data.images import BadImage
from jax_bridges.restoring import find_hole, parse_box, seam_jump
from jax_bridges.restoring.jobs import fill_box, fill_free, restore_whole, run_jobs, widest_part
from jax_bridges.tiling import positions, smooth_fill, window

RNG = np.random.default_rng(0)


# ---------------------------------------------------------------- holes


def test_holes_from_masks_and_boxes(tmp_path):
    mask = np.zeros((6, 8), np.uint8)
    mask[1:3, 2:5], mask[5, 5] = 255, 127
    expected = np.zeros((6, 8), bool)
    expected[1:3, 2:5] = True
    Image.fromarray(mask).save(tmp_path / "m.png")
    np.testing.assert_array_equal(find_hole((6, 8), tmp_path / "m.png"), expected)
    np.testing.assert_array_equal(find_hole((6, 8), mask.astype(np.uint16) * 257), expected)
    np.testing.assert_array_equal(find_hole((6, 8), mask, invert=True), ~expected)
    expected[3:6, 0:2] = True
    np.testing.assert_array_equal(find_hole((6, 8), mask, [(0, 3, 2, 3)]), expected)
    np.testing.assert_array_equal(find_hole((6, 8), expected), expected)


@pytest.mark.parametrize(
    "mask, boxes, words",
    [
        (np.zeros((8, 6), np.uint8), (), "is 6x8, and the upright picture 8x6"),
        (np.zeros((6, 8), np.uint8), (), "marks no pixel"),
        (np.ones((6, 8), bool), (), "marks every pixel"),
        (None, [(5, 0, 4, 1)], "box 5,0,4,1 leaves the picture, which is 8x6"),
        ("nowhere.png", (), "its mask nowhere.png: there is no such file"),
    ],
)
def test_holes_that_cannot_be(mask, boxes, words):
    with pytest.raises(BadImage, match=re.escape(words)):
        find_hole((6, 8), mask, boxes)


def test_boxes_as_text():
    assert parse_box("1,2,3,4") == (1, 2, 3, 4)
    for text in ("1,2,3", "a,b,c,d", "1,2,3,4.5", "", "-1,0,2,2", "0,0,0,2"):
        with pytest.raises(ValueError, match=re.escape(f"--box={text}: ")):
            parse_box(text)


# ---------------------------------------------------------------- tiles


@pytest.mark.parametrize("length", [32, 33, 64, 100, 1021])
@pytest.mark.parametrize("overlap, align", [(0, 1), (8, 1), (24, 1), (8, 4), (8, 32)])
def test_tiles_cover_and_overlap(length, overlap, align):
    length = -(-length // align) * align
    places = positions(length, 32, overlap, align)
    assert places[0] == 0 and places[-1] == length - 32 and (places % align == 0).all()
    steps = np.diff(places)
    assert (steps > 0).all() and (steps <= max(32 - overlap, align)).all()
    if align == 1 and length > 32:  # no more tiles than needed
        assert len(places) == int(np.ceil((length - 32) / (32 - overlap))) + 1


def test_windows_fade_and_never_vanish():
    w = window(16, 4)
    assert (w > 0).all() and (w[4:12] == 1).all() and (np.diff(w[:5]) > 0).all()
    np.testing.assert_allclose(w, w[::-1])
    np.testing.assert_allclose(w[:4] + w[12:], 1, atol=1e-6)  # neighbours add up to one


def test_the_smooth_fill_is_exact_where_it_can_be():
    known = RNG.random((37, 21)) < 0.3
    constant = np.full((37, 21, 3), 0.25, np.float32)
    np.testing.assert_allclose(smooth_fill(np.where(known[..., None], constant, 9), known), 0.25)
    ramp = np.broadcast_to(np.linspace(-1, 1, 64, dtype=np.float32)[:, None, None], (64, 64, 3))
    hole = np.zeros((64, 64), bool)
    hole[24:40, 24:40] = True
    filled = smooth_fill(np.where(hole[..., None], 5, ramp), ~hole)
    np.testing.assert_array_equal(filled[~hole], ramp[~hole])
    assert np.abs(filled - ramp)[hole].max() < 0.2
    thin = smooth_fill(np.where(hole[32:33, :, None], 5, ramp[32:33]), ~hole[32:33])  # one line
    assert np.abs(thin - ramp[32:33])[hole[32:33]].max() < 0.2


def test_seams_are_measured_as_they_were_made():
    base = RNG.normal(0, 1, (64, 96, 3))
    rows, columns = positions(64, 32, 0), positions(96, 32, 0)
    assert seam_jump(base, rows, columns) == pytest.approx(1, abs=0.1)
    stepped = np.zeros((64, 96, 3))
    stepped += np.arange(96)[None, :, None] + np.arange(64)[:, None, None]  # every step is 1
    stepped[:, 32:] += 2
    stepped[:, 64:] += 2  # 3 across two of the three borders; 64 and 96 pixels long
    expected = (3 * 2 * 64 + 1 * 96) / (2 * 64 + 96)
    assert seam_jump(stepped, rows, columns) == pytest.approx(expected)
    where = np.zeros((64, 96), bool)
    where[:20, :60] = True
    assert seam_jump(stepped, rows, columns, where) == pytest.approx(3)


# ---------------------------------------------------------------- jobs


def solve(job, answer):
    """Runs one job; the picture and all questions."""
    questions = [next(job)]
    while True:
        try:
            questions.append(job.send(answer(questions[-1])))
        except StopIteration as done:
            return done.value, questions


@pytest.mark.parametrize("size", [(16, 16), (5, 40), (37, 53), (1, 1)])
@pytest.mark.parametrize("align", [1, 4])
def test_a_model_that_changes_nothing_changes_nothing(size, align):
    image = RNG.normal(0, 0.5, (*size, 3)).astype(np.float32)
    done, questions = solve(
        restore_whole(image, (16, 16), (4, 4), align, chunk=3), lambda tiles: tiles.image
    )
    np.testing.assert_allclose(done, image, atol=1e-6)
    for tiles in questions:
        assert 0 < len(tiles) <= 3 and tiles.image.shape[1:] == (16, 16, 3)
        assert (tiles.origin % align == 0).all() and tiles.mask is None


def odd_hole(size=(61, 83)):
    hole = np.zeros(size, bool)
    hole[3:7, 50:80] = True  # a scratch
    hole[20:60, 10:48] = True  # larger than any tile
    hole[0, 0] = hole[-1, -1] = hole[30, -1] = True  # corners and edges
    hole ^= (RNG.random(size) < 0.02) & hole
    return hole


@pytest.mark.parametrize("kind", ["box", "free"])
def test_an_oracle_fills_any_hole_exactly(kind):
    """Every pixel of the hole is asked for, at its place, and nothing else is touched."""
    truth = RNG.normal(0, 0.5, (61, 83, 3)).astype(np.float32)
    hole = odd_hole()
    given = np.where(hole[..., None], 7, truth)
    wide = np.pad(truth, ((32, 32), (32, 32), (0, 0)), mode="symmetric")

    def oracle(tiles):
        out = [wide[y + 32 : y + 48, x + 32 : x + 48] for y, x in tiles.origin]
        return np.stack(out)

    if kind == "box":
        job = fill_box(given, hole, (16, 16), (4, 4, 12, 12), (2, 2), chunk=5)
    else:
        job = fill_free(given, hole, (16, 16), (4, 4), chunk=5)
    done, questions = solve(job, oracle)
    np.testing.assert_allclose(done[hole], truth[hole], atol=1e-5)
    np.testing.assert_array_equal(done[~hole], truth[~hole])
    for tiles in questions:
        assert np.abs(tiles.image).max() < 5  # the 7s are never shown
        assert tiles.mask.any((1, 2)).all()
        if kind == "box":  # as in training: the whole box and nothing but the box
            inside = np.zeros((16, 16), bool)
            inside[4:12, 4:12] = True
            assert (tiles.blank == inside).all() and not (tiles.mask & ~inside).any()
        else:
            assert tiles.mask.mean((1, 2)).max() <= 1


def test_a_hole_that_fits_is_filled_once_and_centred():
    hole = np.zeros((40, 40), bool)
    hole[10:14, 20:26] = True
    image = np.zeros((40, 40, 3), np.float32)
    job = fill_box(image, hole, (16, 16), (4, 4, 12, 12), (2, 2))
    _, (tiles,) = solve(job, lambda tiles: tiles.image)
    assert tiles.origin.tolist() == [[8 - 4, 19 - 4]]
    assert widest_part(hole) == (4, 6)


@pytest.mark.parametrize("kind", ["box", "free"])
def test_large_holes_are_filled_from_their_border_inward(kind):
    """Each pass sees what the passes before it made, and the middle comes last."""
    hole = np.zeros((64, 64), bool)
    hole[8:56, 8:56] = True
    image = np.zeros((64, 64, 3), np.float32)
    seen = []

    def answer(tiles):
        seen.append(tiles)
        return np.ones_like(tiles.image)

    if kind == "box":
        job = fill_box(image, hole, (16, 16), (4, 4, 12, 12), (2, 2), chunk=10**6)
    else:
        job = fill_free(image, hole, (16, 16), (4, 4), chunk=10**6)
    done, _ = solve(job, answer)
    np.testing.assert_allclose(done[hole], 1)
    assert len(seen) > 2
    centre = [np.abs(tiles.origin + 8 - 32).max(1) for tiles in seen]
    assert centre[0].min() > centre[-1].max()
    assert seen[0].image.max() == 0 and seen[-1].image.max() == 1


def test_jobs_share_batches_and_end_one_by_one():
    images = [RNG.normal(0, 1, (n, 30, 3)).astype(np.float32) for n in (8, 60, 9, 8)]
    together = []

    def answer(questions):
        together.append([name for name, _ in questions])
        return [tiles.image for _, tiles in questions]

    jobs = ((i, restore_whole(image, (8, 8), (2, 2), chunk=6)) for i, image in enumerate(images))
    done = dict(run_jobs(jobs, answer, batch=4))
    assert sorted(done) == [0, 1, 2, 3]
    for i, image in enumerate(images):
        np.testing.assert_allclose(done[i], image, atol=1e-6)
    assert any(len(names) > 1 for names in together)
    assert list(run_jobs(iter(()), answer, batch=4)) == []


def test_tiles_that_disagree_are_blended_without_a_seam():
    """Every tile answers with a shift of its own: steps at its borders, or a ramp if tiles overlap."""
    image = RNG.normal(0, 0.1, (64, 96, 3)).astype(np.float32)
    jumps = {}
    for overlap in (0, 4, 8):
        shifts = np.random.default_rng(1)

        def answer(tiles, shifts=shifts):
            return tiles.image + shifts.normal(0, 0.3, (len(tiles), 1, 1, 1)).astype(np.float32)

        job = restore_whole(image, (16, 16), (overlap, overlap))
        done, _ = solve(job, answer)
        jumps[overlap] = seam_jump(done, *(positions(n, 16, overlap) for n in (64, 96)))
    print(f"steps at tile borders against elsewhere, by overlap: {jumps}")
    assert jumps[0] > 1.8 and jumps[4] < 1.1 and jumps[8] < 1.05
