"""What a visitor sees first, in headless Chromium: kept readings, before any model is loaded, on a laptop and on a phone."""

import socket

import pytest
from browser import CHROMIUM, browser, eventually

from helpers.app.desk import Desk
from helpers.app.server import Server
from helpers.words.settings import DEFAULT_MODEL

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine; apt-get install chromium")
BOXES = """names => names.map(name => [...document.querySelectorAll(name)].filter(one => one.offsetParent).map(one => {
  const {left, right, top, bottom, height} = one.getBoundingClientRect(); return {left, right, top, bottom, height}; }))"""


@pytest.fixture(scope="module")
def page():
    """The usual model's page. Its model is never loaded."""
    with pytest.MonkeyPatch.context() as patch, browser() as chromium:
        patch.setattr(Desk, "_get_ready", lambda desk: None)
        with socket.socket() as probe:  # other servers may begin at the same time
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        server = Server(Desk(DEFAULT_MODEL), port)
        page = chromium.new_page(viewport={"width": 1440, "height": 900})
        page.set_default_timeout(120_000)  # a machine may be busy
        page.url_ = server.url
        yield page
        server.close()


@pytest.fixture
def opened(page):
    """Return a function that opens the page on a screen of some size."""

    def open_page(width: int, height: int):
        page.set_viewport_size({"width": width, "height": height})
        page.goto(page.url_)
        page.wait_for_selector("#table-a td button")
        page.wait_for_function("document.querySelector('#tokens').innerText.includes('Wales')")
        return page

    return open_page


def boxes(page, *names: str) -> list[list[dict]]:
    """Return where the visible elements of each selector are in the window."""
    return page.evaluate(BOXES, list(names))


def open_ladder(page, row: int, column: int) -> None:
    page.locator("#table-a tbody tr:not(.opened)").nth(row).locator("td button").nth(column).click()
    page.wait_for_selector("#ladder-a .ladder")
    page.wait_for_function("document.querySelector('.frame').className.includes('ladder-')")
    page.wait_for_selector("#labels-a")


def test_on_a_laptop_the_papers_example_is_read_and_interpret_is_in_sight(opened):
    page = opened(1440, 900)

    def is_in_sight() -> None:
        [[go], cells, [table]] = boxes(page, "#interpret", "#table-a td", "#table-a table")
        assert go["top"] >= 0 and go["bottom"] <= 900 and len(cells) == 21
        assert page.evaluate("document.documentElement.scrollWidth") <= 1440 and table["right"] <= 1440
        assert sum(cell["bottom"] <= 900 for cell in cells) >= 18, "not one corner of the table"

    eventually(is_in_sight)
    said = page.inner_text("#table-a .caption")
    assert said.startswith("Each cell is what the model writes about one of its own vectors: that of “Wales” in the row's")
    assert "126 readings, kept" in page.inner_text("#status-a") and "%" in page.inner_text("#table-a td.believed")


@pytest.mark.parametrize("width, where", [(1440, "beside"), (1100, "under")])
def test_headings_stay_and_the_ladder_is_beside_its_table_or_under_its_row(opened, width, where):
    page = opened(width, 500)
    open_ladder(page, 6, 1)
    assert f"ladder-{where}" in page.get_attribute(".frame", "class")

    def is_where_it_belongs() -> None:
        [[box], [table], rows] = boxes(page, ".opened-box", "#table-a table", "#table-a tbody tr:not(.opened)")
        if where == "beside":
            assert box["left"] >= table["right"] and abs(box["top"] - rows[6]["top"]) < 500 and rows[6]["bottom"] <= 501
        else:
            assert 0 <= box["top"] - rows[6]["bottom"] <= 16 and box["bottom"] <= table["bottom"] + 1
        assert box["right"] <= width and page.evaluate("document.documentElement.scrollWidth") <= width

    eventually(is_where_it_belongs)  # it has scrolled there by then

    def stays() -> None:
        page.evaluate("window.scrollBy(0, document.querySelector('#table-a tbody').getBoundingClientRect().top + 150)")
        [[head], rows] = boxes(page, "#table-a thead", "#table-a tbody tr:not(.opened)")
        assert abs(head["top"]) <= 1 and rows[0]["bottom"] < 0

    eventually(stays)


def test_on_a_phone_everything_fits_and_can_be_touched(opened):
    page = opened(375, 812)
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    touched = boxes(page, ".chips label", ".gallery-item", "#interpret", "#stop", ".small button", "#table-a td button")
    assert all(touched) and min(box["height"] for some in touched for box in some) >= 40
    open_ladder(page, 2, 2)

    def fits() -> None:
        scores, scales, texts, rows = boxes(
            page, ".ladder [data-head=score]", ".ladder .scale", ".ladder .whole", "#table-a tbody tr:not(.opened)"
        )
        assert len(scores) == len(scales) == len(texts) == 6
        assert all(0 <= box["left"] < box["right"] <= 375 and box["height"] > 0 for box in (*scores, *scales, *texts))
        [[box]] = boxes(page, ".opened-box")
        assert 0 <= box["top"] - rows[2]["bottom"] <= 16 and box["right"] <= 375

    eventually(fits)

    page.locator("#choice-a label", has_text="chosen by similarity").click()  # six columns are wider than a phone
    page.wait_for_selector("#table-a table.similarity")
    page.wait_for_function("document.querySelector('.frame').classList.contains('is-wide')")
    page.evaluate("() => { const frame = document.querySelector('.frame'); frame.scrollTo(120, 500); }")

    def stays() -> None:
        [[frame], [head], layers, [box]] = boxes(page, ".frame", "#table-a thead", "#table-a tbody th", ".opened-box")
        assert abs(head["top"] - frame["top"]) <= 1 and all(abs(layer["left"] - frame["left"]) <= 1 for layer in layers)
        assert abs(box["left"] - frame["left"]) <= 1 and box["right"] <= 375

    eventually(stays)
    assert page.evaluate("document.documentElement.scrollWidth") <= 375


def test_the_map_has_words_where_there_is_room_and_the_colours_of_the_table(opened):
    page = opened(1440, 900)
    page.get_by_role("tab", name="Map").click()
    page.wait_for_selector("#map-a .map.blind td button")
    words, listed = boxes(page, "#map-a td button span", "#map-a .strongest li")
    assert len(words) == 21 and not listed
    legend = page.inner_text("#map-a .legend")
    assert "probability that the reading describes its vector; of the reading" in legend and "rank" not in legend
    assert "250 entities (residuals before the MLP, MLP outputs and hidden states into the same layer)" in legend
    page.set_viewport_size({"width": 375, "height": 812})
    words, listed = boxes(page, "#map-a td button span", "#map-a .strongest li button")
    assert not words and 3 <= len(listed) <= 12 and min(box["height"] for box in listed) >= 40
    page.get_by_role("tab", name="Readings").click()
    page.locator("#choice-a label", has_text="chosen by similarity").click()
    page.wait_for_selector("#table-a table.similarity")
    page.get_by_role("tab", name="Map").click()
    page.wait_for_selector("#map-a .map.similarity")
    assert "0.8 similarity of the best reading to the prompt" in page.inner_text("#map-a .legend")
