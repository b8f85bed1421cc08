"""python -m jax_bridges.paint without a browser: the desk, and whom its server answers."""

from __future__ import annotations

import configparser
import fnmatch
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from jax_bridges import paint
from jax_bridges.data.errors import BadImage
from jax_bridges.packed import shipped
from jax_bridges.painting import Desk
from jax_bridges.painting.desk import Gone, bounding_box, place
from jax_bridges.restoring import Picture, read_picture
from jax_bridges.restoring.restorer import Restorer
from tests.support import ROOT
from tests.support.paint import ask, said, served
from tests.support.restorers import left_behind, photograph, tiny

pytestmark = pytest.mark.filterwarnings("ignore::jax_bridges.restoring.notes.RestoreNote")
IMAGE = photograph(40, 60, dtype=np.uint16)
PICTURE = Picture(IMAGE).to_png()
PART = np.zeros((9, 11), np.uint8)  # of the mask: a cross
PART[4], PART[:, 5] = 255, 255
LEFT, TOP = 7, 21
HOLE = np.zeros((40, 60), bool)
HOLE[TOP : TOP + 9, LEFT : LEFT + 11] = PART > 0


@pytest.fixture(scope="module")
def restorer(tmp_path_factory):
    return Restorer(left_behind(tmp_path_factory.mktemp("inpaint"), tiny()), nfe=1, batch=8)


@pytest.fixture(scope="module")
def enlarger(tmp_path_factory):
    config = tiny(corruption={"name": "superres", "factor": 4})
    return Restorer(left_behind(tmp_path_factory.mktemp("superres"), config), nfe=1, batch=8)


@pytest.fixture(scope="module")
def server(restorer):
    with served([restorer]) as server:
        yield server


def part() -> tuple[bytes, int, int]:
    return Picture(PART[..., None]).to_png(), LEFT, TOP


def test_what_is_painted_lies_where_it_was(restorer):
    np.testing.assert_array_equal(place((40, 60), *part()), HOLE)
    assert bounding_box(HOLE) == [LEFT, TOP, 11, 9]
    white = Picture(np.full((4, 6, 1), 255, np.uint8)).to_png()
    for size, data, left, top, words in (
        ((40, 60), white, 55, 0, "leaves the picture"),
        ((40, 60), white, 0, -1, "leaves the picture"),
        ((4, 6), white, 0, 0, "all is painted"),
        ((40, 60), Picture(np.zeros((4, 6, 1), np.uint8)).to_png(), 0, 0, "nothing is painted"),
        ((40, 60), b"no picture", 0, 0, "not a picture"),
    ):
        with pytest.raises(BadImage, match=words):
            place(size, data, left, top)


def test_answers_are_those_of_the_restorer_bit_for_bit(restorer):
    desk, told = Desk([restorer], 10**6), []
    known = desk.open(PICTURE, "C:\\photos\\my lake.tif")
    assert {**known, "id": ""} == {
        "id": "", "name": "my lake", "width": 60, "height": 40, "transparent": False,
    }  # fmt: skip
    desk.answer(known["id"], 0, part(), 2, 2, told.append)
    assert [each["answer"] for each in told if "answer" in each] == [2, 3]
    assert {tuple(each["box"]) for each in told if "box" in each} == {(LEFT, TOP, 11, 9)}
    assert told[0]["size"] == [60, 40] and sum(each.get("tiles", 0) for each in told) > 0
    notes = [each["note"] for each in told if "note" in each]
    assert len(notes) == len(set(notes)) and "nothing but maps" in notes[0]
    assert notes[-1] == "its JPEG would lack the lower half of its 16 bits; the PNG keeps that."
    for number in (2, 3):
        data, kind, name = desk.download(known["id"], number, "png")
        assert (kind, name) == ("image/png", "my lake-restored.png")
        done = read_picture(data).pixels
        np.testing.assert_array_equal(done, restorer(IMAGE, HOLE, sample=number).pixels)
        np.testing.assert_array_equal(done[~HOLE], IMAGE[~HOLE])
        shown = read_picture(desk.part(known["id"], number, (LEFT, TOP, 11, 9))[0]).pixels
        np.testing.assert_array_equal(shown, done[TOP : TOP + 9, LEFT : LEFT + 11] >> 8)
    data, kind, name = desk.download(known["id"], 3, "jpg")
    assert Image.open(io.BytesIO(data)).size == (60, 40) and name.endswith(".jpg")
    # An answer becomes the picture, and the one before is put away.
    kept = desk.keep(known["id"], 3)
    np.testing.assert_array_equal(
        read_picture(desk.view(kept["id"])[0]).pixels, restorer(IMAGE, HOLE, sample=3).pixels >> 8
    )
    with pytest.raises(Gone, match="open yours again"):
        desk.view(known["id"])


def test_what_is_transparent_is_taken_for_the_hole(restorer):
    desk, told = Desk([restorer], 10**6), []
    alpha = np.where(HOLE, 100, 255).astype(np.uint8)
    picture = photograph(40, 60)
    known = desk.open(Picture(picture, alpha[..., None]).to_png(), "a.png")
    assert known["transparent"]
    mask = desk.transparent(known["id"])
    np.testing.assert_array_equal(read_picture(mask).pixels[..., 0] > 0, HOLE)
    desk.answer(known["id"], 0, (mask, 0, 0), 0, 1, told.append, opaque=True)
    done = read_picture(desk.download(known["id"], 0, "png")[0])
    assert done.alpha is None
    np.testing.assert_array_equal(done.pixels, restorer(picture, HOLE).pixels)
    # Other paint, after that was undone, leaves it transparent; of half of it half becomes opaque.
    desk.answer(known["id"], 0, (mask, 0, 0), 0, 1, told.append)
    done = read_picture(desk.download(known["id"], 0, "png")[0])
    np.testing.assert_array_equal(done.alpha[..., 0], alpha)
    half = HOLE & (np.arange(60) < LEFT + 5)
    white = Picture(half[..., None].astype(np.uint8) * 255).to_png()
    desk.answer(known["id"], 0, (white, 0, 0), 0, 1, told.append, opaque=True)
    done = read_picture(desk.download(known["id"], 0, "png")[0])
    np.testing.assert_array_equal(done.alpha[..., 0], np.where(half, 255, alpha))


def test_transparency_outlives_the_paint_that_took_it(server, enlarger):
    alpha = np.where(HOLE, 0, 255).astype(np.uint8)
    clear = Picture(photograph(40, 60), alpha[..., None]).to_png()
    with served([server.desk.tabs[0].restorer, enlarger]) as two:
        key = json.loads(ask(two, "POST", "picture?name=a.png", clear)[2])["id"]
        mask = ask(two, "POST", f"transparent?id={key}")[2]
        place = f"id={key}&first=0&count=1&left=0&top=0"
        for asked, body, kept in (
            ("tab=1&opaque=1", None, True),  # a tab without paint
            ("tab=0&opaque=1", mask, False),
            ("tab=0&opaque=0", mask, True),
            ("tab=1", None, True),
        ):
            assert ask(two, "POST", f"answers?{place}&{asked}", body)[0] == 200
            done = read_picture(ask(two, "GET", f"download?id={key}&number=0")[2])
            assert (done.alpha is not None) == kept, asked


def test_tabs_say_what_models_do_and_small_pictures_are_enlarged(restorer, enlarger):
    desk, told = Desk([restorer, enlarger, enlarger], 10_000), []
    names = [tab.name for tab in desk.tabs]
    assert names[:2] == ["Fill holes", "Enlarge 4 times"] and len(set(names)) == 3
    assert [tab.facts()["masks"] for tab in desk.tabs[:2]] == ["needed", "none"]
    small = photograph(10, 20)
    known = desk.open(Picture(small).to_png(), "a.png")
    desk.answer(known["id"], 1, None, 0, 1, told.append)
    assert {"answer": 0, "box": [0, 0, 80, 40]} in told
    done = read_picture(desk.download(known["id"], 0, "png")[0]).pixels
    np.testing.assert_array_equal(done, enlarger(small).pixels)
    known = desk.open(Picture(photograph(40, 60)).to_png(), "a.png")
    with pytest.raises(BadImage, match="240x160, 0 megapixels, and the page takes 0.01"):
        desk.answer(known["id"], 1, None, 0, 1, told.append)
    with pytest.raises(BadImage, match="would be 200x100"):
        desk.open(Picture(np.zeros((100, 200, 1), np.uint8)).to_png(), "a.png")
    with pytest.raises(BadImage, match="this model fills holes"):
        desk.answer(known["id"], 0, None, 0, 1, told.append)


def test_a_browser_that_goes_away_stops_the_work_and_frees_the_model(restorer):
    desk, told = Desk([restorer], 10**6), []
    known = desk.open(PICTURE, "a.png")

    def leave(event):
        told.append(event)
        if "tiles" in event:
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        desk.answer(known["id"], 0, part(), 0, 4, leave)
    assert not any("answer" in each for each in told)
    desk.answer(known["id"], 0, part(), 0, 1, told.append)
    assert told[-1]["note"] and any("answer" in each for each in told)


def test_a_picture_through_the_server(server, restorer):
    status, headers, page = ask(server, "GET", "")
    assert status == 200 and headers["Content-Type"].startswith("text/html")
    policy = headers["Content-Security-Policy"]
    assert (
        policy.startswith("default-src 'none'; ") and "unsafe" not in policy and "*" not in policy
    )
    nonce = re.search(r"script-src 'nonce-([\w-]+)'", policy)[1]
    assert page.decode().count(f'nonce="{nonce}"') == 2
    assert nonce not in ask(server, "GET", "")[2].decode()
    assert not re.search(
        r"(src|href)=|url\(|@import|https?://", page.decode().replace('href="data:,"', "")
    )
    known = json.loads(ask(server, "POST", "picture?name=a.png", PICTURE)[2])
    query = f"id={known['id']}&tab=0&first=0&count=1&left={LEFT}&top={TOP}"
    status, headers, lines = ask(server, "POST", f"answers?{query}", part()[0])
    events = [json.loads(line) for line in lines.splitlines()]
    assert status == 200 and {"answer": 0, "box": [LEFT, TOP, 11, 9]} in events
    status, headers, data = ask(server, "GET", f"download?id={known['id']}&number=0&kind=png")
    assert headers["Content-Disposition"] == "attachment; filename*=UTF-8''a-restored.png"
    assert headers["Cache-Control"] == "no-store" and headers["Referrer-Policy"] == "no-referrer"
    np.testing.assert_array_equal(read_picture(data).pixels, restorer(IMAGE, HOLE).pixels)
    # What goes wrong after the answer has begun is its last line; a new picture puts the old away.
    lines = ask(server, "POST", f"answers?{query.replace('count=1', 'count=9')}", part()[0])
    assert said(lines) == (400, "The page asks for what there is not: open it again.")
    ask(server, "POST", "picture?name=b.png", PICTURE)
    for name in (f"picture?id={known['id']}", f"download?id={known['id']}&number=0"):
        status, sentence = said(ask(server, "GET", name))
        assert status == 410 and "open yours again" in sentence


def test_a_part_is_one_of_the_answer(server):
    key = json.loads(ask(server, "POST", "picture?name=a.png", PICTURE)[2])["id"]
    asked = f"id={key}&tab=0&first=0&count=1&left={LEFT}&top={TOP}"
    assert ask(server, "POST", f"answers?{asked}", part()[0])[0] == 200

    def piece(left, top, width, height):
        box = f"left={left}&top={top}&width={width}&height={height}"
        return ask(server, "GET", f"answer?id={key}&number=0&{box}")

    assert read_picture(piece(58, 39, 2, 1)[2]).size == (1, 2)
    for box, sentence in (
        ((-5, 0, 9, 9), "The request's left is -5, and must be at least 0."),
        ((0, -1, 9, 9), "The request's top is -1, and must be at least 0."),
        ((0, 0, 0, 9), "The request's width is 0, and must be at least 1."),
        ((0, 0, 9, -9), "The request's height is -9, and must be at least 1."),
        ((55, 0, 9, 9), "The box 55,0,9,9 leaves the picture, which is 60x40."),
        ((0, 60, 9, 9), "The box 0,60,9,9 leaves the picture, which is 60x40."),
        ((0, 0, 9, "x"), "The request lacks a number, height."),
    ):
        assert said(piece(*box)) == (400, sentence)
    status, sentence = said(ask(server, "POST", f"answers?{asked.replace('first=0', 'first=-1')}"))
    assert (status, sentence) == (400, "The request's first is -1, and must be at least 0.")


def test_nobody_else_is_answered(server):
    """No token, another site's page, another name for this machine, and what a form of theirs can send."""
    assert server.server_address[0] == "127.0.0.1"
    port = server.server_port
    for path in (
        "/",
        "/picture?id=x",
        f"/{server.token[:-1]}/",
        f"/{server.token}",
        "//",
        "/a/b/c",
    ):
        assert said(ask(server, "GET", "", path=path))[0] == 404
    assert said(ask(server, "GET", "picture2")) == (404, "There is no such page.")
    for headers in (
        {"Host": "evil.example"},
        {"Host": f"evil.example:{port}"},
        {"Host": "127.0.0.1"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": f"http://127.0.0.1:{port + 1}"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ):
        status, sentence = said(ask(server, "POST", "picture?name=a.png", PICTURE, **headers))
        assert status == 403 and sentence.startswith("This page answers"), headers
    ours = {"Host": f"localhost:{port}", "Origin": f"http://localhost:{port}"}
    ours["Sec_Fetch_Site"] = "same-origin"
    assert ask(server, "POST", "picture?name=a.png", PICTURE, **ours)[0] == 200
    assert ask(server, "GET", "", Sec_Fetch_Site="cross-site")[0] == 200  # a link in a terminal
    assert ask(server, "PUT", "picture", PICTURE)[0] == 501


def test_what_is_too_large_or_no_picture_is_one_sentence(server):
    def refused(body, **headers):
        status, sentence = said(ask(server, "POST", "picture?name=a.png", body, **headers))
        assert sentence.endswith(".") and "\n" not in sentence
        return status, sentence

    assert refused(b"", Content_Length="9000001") == (
        413,
        "This file has 9 MB, more than this page takes.",
    )
    for length in ("-1", "-5", "many", ""):
        words = "The request does not say how long it is."
        assert refused(b"", Content_Length=length) == (411, words)
    assert refused(b"hello") == (400, "Not a picture that Pillow can read.")
    assert refused(b"") == (400, "The file is empty.")
    large = Picture(np.zeros((1001, 1000, 1), np.uint8)).to_png()
    status, sentence = refused(large)
    assert (
        status == 400 and "1000x1001, 1 megapixels, and the page takes 1 (--megapixels)" in sentence
    )
    assert said(ask(server, "GET", "download?id=x"))[0] == 400  # no number


def test_the_command_refuses_in_a_sentence(restorer, capsys):
    for argv, words in (
        ([restorer.path, "--megapixels=0"], "--megapixels=0: it must be above 0"),
        ([restorer.path, "--megapixels=nan"], "--megapixels=nan: it must be above 0"),
        ([restorer.path, "--megapixels=inf"], "--megapixels=inf: it must be above 0"),
        ([restorer.path, "--megapixels=-inf"], "--megapixels=-inf: it must be above 0"),
        ([restorer.path, "--port=70000"], "--port=70000: it must lie between 0 and 65535"),
        (["nowhere"], "There is no nowhere"),
    ):
        assert paint.main(argv) == 1
        shown = capsys.readouterr()
        assert words in shown.err and shown.err.count("\n") == 1, shown.err
    server, desk, flags = paint.prepare([restorer.path, "--nfe=1"])
    with server:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{32}/", server.address)
        assert paint.main([restorer.path, f"--port={server.server_port}"]) == 1
        assert "leave it out for any that is free" in capsys.readouterr().err


def test_without_a_model_it_is_what_comes_with_the_package():
    server, desk, _ = paint.prepare([])
    with server:
        assert {tab.restorer.path for tab in desk.tabs} == set(shipped())
        names = [tab.name for tab in desk.tabs]
        assert names == [
            "Fill holes",
            "Mend scratches",
            "Remove noise",
            "Undo JPEG",
            "Enlarge 4 times",
        ]
        for tab in desk.tabs:  # a student; the others make one call from an x_T without noise
            facts = tab.facts()
            assert facts["varies"] == (tab.name == "Fill holes")
            assert facts["masks"] == ("needed" if tab.name in names[:2] else "none")
    assert Restorer("photos:inpaint", nfe=2).model.varies


def test_the_page_is_in_the_wheel():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    patterns = config["options.package_data"]["jax_bridges.painting"].split(", ")
    folder = ROOT / "jax_bridges" / "painting"
    found = [p.name for p in folder.iterdir() if p.is_file() and p.suffix != ".py"]
    assert found and all(any(fnmatch.fnmatch(n, p) for p in patterns) for n in found)
