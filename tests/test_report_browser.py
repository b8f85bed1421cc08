"""The report in a real browser: sorted, wiped, looked at, wide and narrow, without a network."""

from __future__ import annotations

import numpy as np
import pytest

from jax_bridges.report import build_report
from tests.support.browser import CHROMIUM, Browser
from tests.support.reports import finished_run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (apt: chromium)"),
]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return build_report(finished_run(tmp_path_factory.mktemp("run")))


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


def column(browser, index):
    cells = f"[...document.querySelectorAll('table.results tbody tr')].map(r => r.cells[{index}]"
    return browser.run(f"{cells}.textContent)")


def head(name):
    return (
        "[...document.querySelectorAll('th button')]"
        f".find(each => each.textContent.startsWith('{name}'))"
    )


def test_a_click_on_a_header_sorts(browser, report):
    browser.open(report, 1280)
    browser.click(head("FD-Lite0"))
    assert column(browser, 3) == ["12.3", "12.8", "17.8", "310.0", "–"]
    assert browser.run(f"{head('FD-Lite0')}.parentNode.getAttribute('aria-sort')") == "ascending"
    browser.click(head("FD-Lite0"))
    assert column(browser, 3) == ["310.0", "17.8", "12.8", "12.3", "–"]  # missing stays last
    browser.click(head("PSNR"))
    assert column(browser, 4) == ["32.25", "31.50", "30.12", "12.00", "–"]
    browser.click(head("Model"))
    assert column(browser, 0) == ["I2SB †", "source", "student", "teacher", "teacher"]


def badges(browser):
    return browser.run("[...document.querySelectorAll('.stage span')].map(e => e.textContent)")


STAGE = "document.querySelector('.stage')"


def test_dragging_wipes_from_one_version_to_the_other(browser, report):
    """What is on the screen left and right of the cut is the source (black) and the student."""
    browser.open(report, 1280)
    assert badges(browser) == ["source", "student"]
    for share in (0.3, 0.8):
        browser.mouse("mousePressed", *browser.place(STAGE, 0.5))
        browser.mouse("mouseMoved", *browser.place(STAGE, share))
        browser.mouse("mouseReleased", *browser.place(STAGE, share))
        cut = browser.run(f"parseFloat({STAGE}.style.getPropertyValue('--cut'))")
        assert abs(cut - 100 * share) < 3
        shown = browser.screenshot()
        for at, red in ((share - 0.1, 0), (share + 0.1, 128)):
            x, y = browser.place(STAGE, at, 0.8)
            assert abs(int(shown[int(y), int(x), 0]) - red) <= 2, (share, at)
    before = browser.run(f"parseFloat({STAGE}.style.getPropertyValue('--cut'))")
    browser.key("ArrowLeft")
    after = browser.run(f"parseFloat({STAGE}.style.getPropertyValue('--cut'))")
    assert after == before - 1


def test_any_two_versions_of_any_image_are_compared(browser, report):
    browser.open(report, 1280)
    browser.run(
        "(s => { s.value = 'target'; s.dispatchEvent(new Event('change')); })"
        "(document.querySelectorAll('#compare select')[1])"
    )
    assert badges(browser) == ["source", "target"]
    assert browser.run(
        "document.querySelector('.stage [data-role=back]').src === "
        "document.querySelector('.strip img[data-name=target]').src"
    )
    browser.click("document.querySelectorAll('.picker label')[1]")
    assert browser.run("[...document.querySelectorAll('.strip')].map(e => e.hidden)") == [
        True,
        False,
    ]
    assert badges(browser) == ["source", "source"]


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_fits_its_window_and_asks_for_nothing(browser, report, width):
    browser.requests.clear()
    browser.open(report, width)
    fetched = [url for url in browser.requests if not url.startswith("data:")]
    assert fetched == [report.as_uri()]
    assert browser.run("document.documentElement.scrollWidth") == width
    images = "[...document.images].filter(e => e.getAttribute('src'))"
    assert browser.run(f"{images}.every(e => e.complete && e.naturalWidth > 0)")
    # No text is cut off or printed over its neighbour in the charts.
    overlaps = browser.run(
        "[...document.querySelectorAll('svg[role=img]')].map(svg => {"
        " const b = [...svg.querySelectorAll('text')].map(t => t.getBoundingClientRect())"
        "  .filter(r => r.width);"
        " const s = svg.getBoundingClientRect();"
        " return b.filter((r, i) => r.left < s.left - 1 || r.right > s.right + 1 || b.some((q, j) =>"
        "  j > i && r.left < q.right - 1 && q.left < r.right - 1 && r.top < q.bottom - 3 &&"
        "  q.top < r.bottom - 3)).length; })"
    )
    assert overlaps and sum(overlaps) == 0, overlaps
    shown = browser.screenshot()
    assert shown.shape == (900, width, 3)
    assert (shown == 255).all(-1).mean() > 0.5  # a white page ...
    assert 0.01 < (shown.max(-1) < 120).mean() < 0.3  # ... with text on it


def test_a_model_stays_in_sight_when_a_narrow_table_is_scrolled(browser, report):
    browser.open(report, 390)
    left = "document.querySelector('.results tbody td').getBoundingClientRect().left"
    before = browser.run(left)
    scroll = "document.querySelector('.scroll')"
    assert browser.run(f"({scroll}.scrollLeft = 200, {scroll}.scrollLeft)") == 200
    assert abs(browser.run(left) - before) < 1
    np.testing.assert_allclose(browser.run("document.documentElement.scrollLeft"), 0)
