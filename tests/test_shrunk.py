"""Answers to small pictures, shrunk again, are those pictures."""

import copy
import io

import numpy as np
import pytest
from PIL import Image

from jax_bridges.corruptions import make_corruption
from jax_bridges.corruptions.superres import bicubic_enlarge, bicubic_matrix, bicubic_pinv
from jax_bridges.restoring.files import Task
from jax_bridges.restoring.pictures import Picture, read_picture
from jax_bridges.restoring.restorer import Restorer
from jax_bridges.restoring.shrunk import Line, agree
from tests.support.restorers import freed, left_behind, photograph, tiny


def picture(height, width, seed=0, dtype=np.uint8, channels=3):
    top = np.iinfo(dtype).max
    noise = np.random.default_rng(seed).random((height, width, channels))
    return Picture((noise * top).astype(dtype))


def shrunk(x, kind, factor):
    rows, columns = (Line(kind, n, factor).matrix for n in x.shape[:2])
    return np.stack([rows @ x[..., c] @ columns.T for c in range(3)], -1)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_line_is_the_matrix_of_the_corruption(factor):
    for count in (1, 2, 5, 9):
        n = count * factor
        np.testing.assert_allclose(
            Line("bicubic", n, factor).matrix.toarray(), bicubic_matrix(n, factor), atol=1e-7
        )
        ones = Line("bicubic", n, factor)
        pinv = ones.matrix.T @ ones.solve(np.eye(count))
        np.testing.assert_allclose(pinv, bicubic_pinv(n, factor), atol=1e-5)
    image = np.random.default_rng(1).random((1, 8 * factor, 6 * factor, 3), np.float32)
    pool = make_corruption("superres", kind="pool", factor=factor)
    np.testing.assert_allclose(shrunk(image[0], "pool", factor), pool.forward(image)[0], atol=1e-6)


@pytest.mark.parametrize("kind", ["bicubic", "pool"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_answers_keep_what_the_file_says_and_no_more_is_changed(kind, dtype):
    small = picture(11, 300, dtype=dtype)  # more rows than a band has, when enlarged
    small = Picture(small.pixels.swapaxes(0, 1).copy())
    answer = np.random.default_rng(2).random((600, 22, 3), np.float32) - 0.5
    new = agree(answer, small, kind)
    half = 1 / np.iinfo(dtype).max
    low = shrunk(new, kind, 2)
    assert np.abs(low - small.to_float()).max() < half + 2e-6
    # The nearest such answer: nothing was changed that A does not see.
    change = new - answer
    off = shrunk(change, kind, 2)
    rows, columns = (Line(kind, n, 2) for n in (600, 22))
    for c in range(3):
        inner = columns.solve(rows.solve(off[..., c]).T).T
        back = rows.matrix.T @ inner @ columns.matrix
        np.testing.assert_allclose(change[..., c], back, atol=2e-4)
    # What agrees already stays.
    np.testing.assert_allclose(agree(new, small, kind), new, atol=2e-5)
    new[7, 7] = np.nan  # refused later, in words
    assert np.isnan(agree(new, small, kind)).any()


def test_of_a_jpeg_its_steps_are_kept():
    rng = np.random.default_rng(3)
    smooth = np.asarray(Image.fromarray(picture(4, 5, 4).pixels).resize((40, 32)))
    file = io.BytesIO()
    Image.fromarray(smooth).save(file, "JPEG", quality=50, subsampling="4:4:4")
    small = read_picture(file.getvalue())
    answer = small.enlarged(2, True).to_float() + 0.2 * rng.standard_normal((64, 80, 3), np.float32)
    low = shrunk(agree(answer, small, "bicubic"), "bicubic", 2)
    np.testing.assert_allclose(small.jpeg.narrow(low, small.pixels), low, atol=1e-4)
    assert np.abs(low - small.to_float()).max() > 2 / 255  # freer than a PNG's
    # Of another lossy format nothing is known.
    file = io.BytesIO()
    Image.fromarray(smooth).save(file, "WEBP", quality=50)
    assert agree(answer, read_picture(file.getvalue()), "bicubic") is answer


def test_restore_makes_a_picture_that_shrinks_to_the_file():
    restorer = Restorer("photos:superres", enlarge=2, batch=4)
    smooth = np.asarray(Image.fromarray(picture(5, 6, 5).pixels // 2 + 64).resize((48, 40)))
    large = restorer(smooth)
    assert large.size == (80, 96) and large.small is None
    low = shrunk(large.to_float(), "bicubic", 2)
    assert np.abs(low - read_picture(smooth).to_float()).max() < 2.1 / 255  # both in 8 bits
    gray = restorer(smooth[..., 0])
    assert gray.pixels.shape == (80, 96, 1)
    # One that has been enlarged before says nothing of what it was.
    assert Restorer("photos:superres", enlarge=1, batch=4)(smooth).size == (40, 48)


def test_small_files_are_interpolated_by_the_factor_that_is_given(tmp_path):
    corruption = {"name": "photo_file", "factors": (2, 4)}
    path = left_behind(tmp_path, tiny(corruption=corruption))
    small = photograph(11, 19, channels=4)
    assert Restorer(path, nfe=1)(small).size == (44, 76)  # the largest, by default
    twice = Restorer(path, nfe=1, enlarge=2)
    columns, rows = (bicubic_enlarge(2 * n, 2) for n in (19, 11))
    expected = np.einsum("Yy,yxc,Xx->YXc", rows, small.astype(float), columns).clip(0, 255)
    before = twice.before(Task(small))[0]
    given = np.concatenate([before.pixels, before.alpha], -1)
    assert np.abs(given - expected).max() <= 0.5
    done = twice(small)
    np.testing.assert_array_equal(done.alpha, before.alpha)
    # Tiles begin with whole pixels of the file, as the pieces that the model has learned from.
    corners, answer = [], twice.model.answer
    twice.model.answer = lambda tiles, *more: corners.append(tiles.origin) or answer(tiles, *more)
    twice(photograph(33, 47))
    twice.model.answer = answer
    assert len(np.unique(np.concatenate(corners))) > 3 and not (np.concatenate(corners) % 4).any()
    ready = copy.copy(twice)
    ready.enlarge = 1
    np.testing.assert_array_equal(ready(before.pixels).pixels, freed(twice)(small).pixels)
    with pytest.raises(ValueError, match="--enlarge=3: this model takes 1 or 2 or 4"):
        Restorer(path, enlarge=3)
