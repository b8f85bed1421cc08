"""The page in a real browser: a picture dropped, painted by mouse and by fingers, answered, downloaded."""

from __future__ import annotations

import urllib.request

import numpy as np
import pytest
from PIL import Image

from jax_bridges.restoring import read_picture
from jax_bridges.restoring.restorer import Restorer
from tests.support.browser import CHROMIUM, Browser
from tests.support.paint import served
from tests.support.restorers import left_behind, photograph, tiny

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (apt: chromium)"),
    pytest.mark.filterwarnings("ignore::jax_bridges.restoring.notes.RestoreNote"),
]
IMAGE = photograph(120, 200)
EASEL = "document.getElementById('easel')"
SAID = "document.getElementById('say').textContent"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    tasks = ({"name": "inpaint_freeform", "count": 2}, {"name": "superres", "factor": 4})
    restorers = []
    for corruption in tasks:
        folder = tmp_path_factory.mktemp(corruption["name"])
        restorers.append(
            Restorer(left_behind(folder, tiny(corruption=corruption)), nfe=1, batch=64)
        )
    with served(restorers) as server:
        server.desk.warm_up()
        yield server


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture
def page(browser, server, tmp_path):
    """The page with IMAGE dropped on it."""
    Image.fromarray(IMAGE).save(tmp_path / "lake.png")
    browser.requests.clear()
    browser.visit(server.address, 1280)
    drop(browser, tmp_path / "lake.png")
    return browser


def element(name: str) -> str:
    return f"document.getElementById('{name}')"


def drop(browser, file) -> None:
    before = browser.run("picture && picture.id")
    browser.drop(file, 190, 300)
    browser.wait(f"picture && picture.id !== {before!r}".replace("None", "null"))
    browser.wait("easel.width > 300 && !document.getElementById('edit').hidden")


def at(browser, x: float, y: float) -> tuple[float, float]:
    """Where a pixel of the picture is on the screen."""
    left, top = browser.place(EASEL, 0, 0)
    scale, dx, dy = browser.run("[view.scale, view.x, view.y]")
    return left + dx + (x + 0.5) * scale, top + dy + (y + 0.5) * scale


def stroke(browser, *pixels) -> None:
    browser.drag([at(browser, *pixel) for pixel in pixels])


def answer(browser) -> None:
    browser.click(element("go"))
    browser.wait("working === null", 60)
    assert " in " in browser.run(SAID), browser.run(SAID)


def downloaded(browser, kind: str = "png") -> np.ndarray:
    address = browser.run(f"document.querySelector('[data-kind={kind}]').href")
    return read_picture(urllib.request.urlopen(address).read()).pixels


def seen(browser) -> list[str]:
    return browser.run("[...document.querySelectorAll('.stage span')].map(e => e.textContent)")


def test_paint_erase_undo_fill_compare_and_download(page):
    stroke(page, (40, 30), (80, 30), (80, 60))
    stroke(page, (150, 100), (180, 100))  # undone
    page.click(element("undo"))
    stroke(page, (20, 90), (100, 90))  # half of it erased
    page.click("document.querySelector('[data-tool=eraser]')")
    stroke(page, (60, 90), (110, 90))
    shown = page.screenshot()
    x, y = (int(n) for n in at(page, 60, 30))
    clear = IMAGE[30, 60].astype(int)
    assert np.abs(shown[y, x] - (0.6 * np.array([255, 64, 32]) + 0.4 * clear)).max() < 12
    answer(page)
    assert seen(page) == ["before", "answer 1"]
    assert page.run("document.querySelectorAll('.strip')[0].querySelectorAll('img').length") == 5
    done = downloaded(page)
    changed = (done != IMAGE).any(-1)
    for x, y, painted in (
        *((60, 30, True), (80, 45, True), (30, 90, True)),
        *((165, 100, False), (90, 90, False), (120, 60, False)),
    ):
        assert changed[y - 1 : y + 2, x - 1 : x + 2].any() == painted, (x, y)
    # Outside of what any stroke could have covered all is as it was, bit for bit.
    radius = int(np.ceil(page.run("radius() / view.scale"))) + 2
    far = np.ones(IMAGE.shape[:2], bool)
    far[30 - radius : 60 + radius, 40 - radius : 80 + radius] = False
    far[90 - radius : 90 + radius, 20 - radius : 60 + radius] = False
    assert radius < 12 and not changed[far].any()
    # Another answer is another download, and the slider shows it.
    page.click("document.querySelectorAll('.strip:not([hidden]) img')[3]")
    assert seen(page) == ["before", "answer 3"]
    other = downloaded(page)
    assert (other != done).any() and not (other != IMAGE).any(-1)[far].any()
    assert np.abs(downloaded(page, "jpg").astype(int) - other).mean() < 3
    stage = "document.querySelector('.stage')"
    page.drag([page.place(stage, 0.5), page.place(stage, 0.8)])
    cut = page.run(f"parseFloat({stage}.style.getPropertyValue('--cut'))")
    assert abs(cut - 80) < 3
    # Whole: what is on the screen right of the cut is the answer.
    page.click("document.querySelectorAll('[name=region]')[1].parentNode")
    page.drag([page.place(stage, 0.8), page.place(stage, 0.05)])
    x, y = page.place(stage, 60.5 / 200, 30.5 / 120)
    shown = page.screenshot()[int(y), int(x)].astype(int)
    assert np.abs(shown - other[30, 60]).max() <= 2 < np.abs(shown - IMAGE[30, 60]).max()
    fetched = [u for u in page.requests if not u.startswith(("blob:", "data:"))]
    assert fetched and all(u.startswith(page.run("location.href")) for u in fetched)


def test_an_answer_becomes_the_picture_and_others_follow(page):
    stroke(page, (40, 30), (80, 30))
    answer(page)
    kept = downloaded(page)
    page.click("document.querySelector('[data-do=others]')")
    page.wait("working === null && !document.getElementById('result').hidden", 60)
    assert seen(page) == ["before", "answer 5"]
    assert (downloaded(page) != kept).any()
    fifth = downloaded(page)
    page.click("document.querySelector('[data-do=keep]')")
    page.wait("!document.getElementById('edit').hidden")
    assert page.run("strokes.length") == 0
    stroke(page, (150, 100), (180, 100))
    answer(page)
    done = downloaded(page)
    np.testing.assert_array_equal(done[:80], fifth[:80])
    assert (done[95:105, 150:180] != fifth[95:105, 150:180]).any()


def test_fingers_paint_and_zoom(page):
    before = page.run("view.scale")
    page.touch([at(page, 60, 60)], [at(page, 100, 60)])
    assert page.run("strokes.length") == 1
    a, b = at(page, 80, 60), at(page, 120, 60)
    page.touch([a], [a, b], [(a[0] - 60, a[1]), (b[0] + 60, b[1])])
    assert page.run("strokes.length") == 1  # what the first of two fingers began is no paint
    assert page.run("view.scale") > 1.2 * before
    page.click(element("fit"))
    assert abs(page.run("view.scale") - before) < 1e-6
    page.click(element("in"))
    x, y = at(page, 100, 60)
    page.call("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=-300)
    page.wait(f"view.scale > {1.6 * before}")
    np.testing.assert_allclose(at(page, 100, 60), (x, y), atol=1)  # it stays under the pointer
    page.click("document.querySelector('[data-tool=move]')")
    page.drag([(x, y), (x + 30, y + 20)])
    np.testing.assert_allclose(at(page, 100, 60), (x + 30, y + 20), atol=1)
    assert page.run("strokes.length") == 1


def test_a_tab_that_enlarges_and_what_it_says(page):
    assert page.run("[...document.querySelectorAll('#tabs button')].map(e => e.textContent)") == [
        "Fill holes",
        "Enlarge 4 times",
    ]
    page.click("document.querySelectorAll('#tabs button')[1]")
    assert page.run(SAID) == "200 × 120 pixels, 800 × 480 afterwards."
    assert page.run(f"{element('undo')}.offsetParent === null")  # nothing to paint
    answer(page)
    assert seen(page) == ["before", "after"] and downloaded(page).shape == (480, 800, 3)
    page.click("document.querySelectorAll('#tabs button')[0]")
    page.click(element("go"))
    page.wait("working === null")
    assert page.run(SAID) == "Paint over what is missing first."


def test_each_tab_of_the_models_that_ship_answers(browser, tmp_path):
    """One call of a picture without noise says the same each time: there is one answer, to compare with."""
    Image.fromarray(IMAGE).save(tmp_path / "lake.png")
    tabs = "document.querySelectorAll('#tabs button')"
    with served([Restorer(f"photos:{task}") for task in ("denoise", "jpeg", "superres")]) as server:
        browser.visit(server.address, 1280)
        drop(browser, tmp_path / "lake.png")
        names = browser.run(f"[...{tabs}].map(e => e.textContent)")
        assert names == ["Remove noise", "Undo JPEG", "Enlarge 4 times"]
        for number, scale in enumerate((1, 1, 4)):
            browser.click(f"{tabs}[{number}]")
            assert browser.run("document.getElementById('count').disabled")
            browser.click(element("go"))
            browser.wait("working === null", 120)  # its program is compiled
            assert " in " in browser.run(SAID), browser.run(SAID)
            assert seen(browser) == ["before", "after"]
            made = downloaded(browser)
            assert made.shape == (120 * scale, 200 * scale, 3)
            assert scale > 1 or 0.5 < np.abs(made.astype(int) - IMAGE).mean() < 20


def test_what_is_transparent_and_what_is_no_picture(page, tmp_path):
    alpha = np.full((120, 200), 255, np.uint8)
    alpha[40:60, 50:90] = 0
    Image.fromarray(np.dstack([IMAGE, alpha])).save(tmp_path / "clear.png")
    drop(page, tmp_path / "clear.png")
    page.click(element("transparent"))
    page.wait("strokes.length === 1")
    answer(page)
    done = downloaded(page)
    assert done.shape == (120, 200, 3)
    np.testing.assert_array_equal(done[alpha > 0], IMAGE[alpha > 0])
    assert (done != IMAGE).any(-1)[alpha == 0].mean() > 0.9
    (tmp_path / "no.png").write_text("no picture")
    page.drop(tmp_path / "no.png", 640, 300)
    page.wait(f"{SAID}.startsWith('Not a picture')")
    page.click("document.querySelector('[data-do=back]')")  # what was there before still is
    answer(page)


def test_what_is_transparent_is_so_again_once_its_paint_is_gone(page, tmp_path):
    alpha = np.full((120, 200), 255, np.uint8)
    alpha[40:60, 50:90] = 0
    Image.fromarray(np.dstack([IMAGE, alpha])).save(tmp_path / "clear.png")
    drop(page, tmp_path / "clear.png")
    hidden = f"{element('transparent')}.hidden"
    for away, back in (("undo", "redo"), ("clear", "undo")):
        if away == "undo":
            page.click(element("transparent"))
        page.wait(f"strokes.length === 1 && {hidden}")
        page.click(element(away))
        page.wait(f"!{hidden}")
        page.click(element(back))
        page.wait(f"{hidden}")
    page.click(element("undo"))
    page.click("document.querySelectorAll('#tabs button')[1]")
    answer(page)
    address = page.run("document.querySelector('[data-kind=png]').href")
    done = read_picture(urllib.request.urlopen(address).read())
    assert (done.alpha[::4, ::4, 0] == alpha).all()
    page.click("document.querySelectorAll('#tabs button')[0]")
    assert not page.run(hidden)


def test_another_tab_while_it_works_neither_renames_stop_nor_takes_the_answer(page):
    tabs, chosen = "document.querySelectorAll('#tabs button')", "[aria-selected=true]"
    stroke(page, (40, 30), (80, 30))
    # At once, for the answer may come before a click on another tab does.
    turn = f"{element('count')}.value = '2'; {element('go')}.click(); {tabs}[1].click(); "
    assert page.run(f"{turn} {element('go')}.textContent") == "Stop"
    page.wait("working === null", 60)
    assert page.run(f"document.querySelector('#tabs {chosen}').textContent") == "Fill holes"
    assert page.run(f"{element('go')}.textContent") == "Fill the hole"
    assert page.run("document.querySelector('[data-do=others]').textContent") == "2 others"
    # The others are of the same tab, and as many.
    page.run("tab = 1; document.querySelector('[data-do=others]').click(); 0")
    page.wait("working === null && !document.getElementById('result').hidden", 60)
    assert page.run("[shown.tab, shown.answers.map(each => each.answer)]") == [0, [2, 3]]
    # Stopped there, it is that tab's.
    page.click("document.querySelector('[data-do=back]')")
    page.run(f"{turn} {element('go')}.click(); 0")
    page.wait("working === null")
    assert page.run(SAID) == "Stopped."
    assert page.run(f"{element('go')}.textContent") == "Enlarge"


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_fits_its_window(page, server, tmp_path, width):
    page.visit(server.address, width, 800)
    fits = "document.documentElement.scrollWidth"
    assert page.run(fits) == width
    drop(page, tmp_path / "lake.png")
    assert page.run(fits) == width
    assert page.place(element("go"))[1] < 800  # in sight, below the picture
    stroke(page, (40, 30), (80, 30))
    answer(page)
    assert page.run(fits) == width
    assert page.place("document.querySelector('.stage')", 0, 1)[1] < 800
