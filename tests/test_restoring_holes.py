"""restoring/holes.py: boxes from the command line and from Python."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from jax_bridges.data.errors import BadImage
from jax_bridges.restore import Restorer
from jax_bridges.restoring.holes import find_hole, parse_box
from jax_bridges.restoring.notes import lines, wide_hole_notes
from tests.support.restorers import left_behind, photograph, tiny

SIZE = (80, 96)
BAD = [
    *((-20, 0, 10, 10), (0, -1, 10, 10), (5, 3, -4, 4), (5, 3, 4, -4), (5, 3, 0, 4), (5, 3, 4, 0)),
    *((5.5, 3, 4, 4), (5.0, 3, 4, 4), ("5", 3, 4, 4), (5, 3, 4), (5, 3, 4, 4, 4), 5, None),
]


@pytest.mark.parametrize("box", BAD, ids=str)
def test_a_box_that_is_none_is_refused_alone_and_beside_another(box):
    for boxes in ([box], [(1, 1, 2, 2), box]):
        with pytest.raises(BadImage, match="a box is .left, top, width, height. in whole") as bad:
            find_hole(SIZE, None, boxes)
        assert str(bad.value).endswith(f"not {box}")


def test_boxes_of_any_kind_of_whole_number_are_where_they_say():
    expected = np.zeros(SIZE, bool)
    expected[70:80, 86:96] = expected[0, 0] = True
    boxes = [(86, 70, 10, 10), (0, 0, 1, 1)]
    for each in (boxes, np.array(boxes), np.array(boxes, np.uint16), [list(b) for b in boxes]):
        np.testing.assert_array_equal(find_hole(SIZE, None, each), expected)
    for box in ((87, 70, 10, 10), (86, 71, 10, 10)):
        with pytest.raises(BadImage, match="leaves the picture, which is 96x80"):
            find_hole(SIZE, None, [box])


def test_the_command_refuses_the_same_boxes():
    assert parse_box("86,70,10,10") == (86, 70, 10, 10)
    for box in BAD[:6]:
        with pytest.raises(ValueError, match="left and top must be at least 0, width and height"):
            parse_box(",".join(map(str, box)))


@pytest.mark.filterwarnings("ignore::jax_bridges.restoring.notes.RestoreNote")
def test_a_restorer_takes_boxes_as_an_array_and_refuses_negative_ones(tmp_path):
    restorer = Restorer(left_behind(tmp_path, tiny()), nfe=1, batch=4)
    image = photograph(20, 30)
    boxes = [(4, 4, 8, 8), (14, 2, 3, 3)]
    one = restorer(image, boxes=boxes).pixels
    np.testing.assert_array_equal(restorer(image, boxes=np.array(boxes)).pixels, one)
    with pytest.raises(BadImage, match=r"not \(-20, 0, 10, 10\)"):
        restorer(image, boxes=[(-20, 0, 10, 10)])


def test_a_wide_hole_is_told_of_where_one_call_is_a_mean():
    def told(hole, path="photos:inpaint", **model):
        model = {"varies": False, "varies_by_calls": True} | model
        return wide_hole_notes(SimpleNamespace(**model), path, hole)

    thin, wide = np.zeros(SIZE, bool), np.zeros(SIZE, bool)
    thin[10:14, 5:90], wide[40:61, 0:30] = True, True  # 4 and 21 pixels across
    (note,) = told(wide)
    assert "up to 21 pixels wide" in note.text and str(note).endswith("Texture: photos:fill")
    said = lines([(note, "a.jpg")], ["photos:inpaint", "a.jpg", "b.png", "--mask=m.png"])
    again = "restore photos:fill a.jpg b.png --mask=m.png --force"
    assert said[-1].endswith(again) and len(said) == 2
    (note,) = told(wide | thin, "runs/mine")
    assert "up to 21 pixels wide" in note.text and note.add == "--nfe=10"
    for quiet in (
        told(thin),
        told(None),
        told(wide, varies=True),
        told(wide, varies_by_calls=False),
    ):
        assert quiet == []
