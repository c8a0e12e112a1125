"""Pictures of the application's main states, to be looked at; one of them is in the README.

python tests/screenshots.py [FOLDER]        (runs/screenshots; --readme renews data/app/app.png)
"""

import sys
from pathlib import Path

from browser import ask, browser, wait_until_over

from helpers import ROOT
from helpers.app.desk import Desk
from helpers.app.server import Server
from helpers.figures.style import with_palette

DESKTOP, NOTEBOOK, LAPTOP, PHONE = (
    {"width": width, "height": height} for width, height in ((1600, 1000), (1440, 900), (1280, 800), (375, 812))
)


def take(url: str, folder: Path) -> None:
    """Every picture, from one visit on each kind of screen."""
    with browser() as chromium:

        def visit(size: dict, scheme: str = "light", **more):
            page = chromium.new_context(viewport=size, color_scheme=scheme, **more).new_page()
            page.goto(url)
            page.wait_for_selector("#status-a .status.calm", timeout=60_000)
            page.wait_for_timeout(700)
            return page

        def save(page, name: str, full: bool = True) -> None:
            page.wait_for_timeout(700)
            page.screenshot(path=folder / f"{name}.png", full_page=full)

        def is_it(page) -> None:
            field = page.locator("#labels-a").locator("textarea, input")
            field.fill("film, person, country, band, food")
            field.press("Enter")
            page.wait_for_selector("#answer-a .answer", timeout=120_000)

        page = visit(NOTEBOOK)  # for the README: the first view, as it opens
        page.wait_for_selector("#table-a td button")
        page.mouse.move(0, 0)
        save(page, "readme", full=False)
        ask(page, layers="all", amplifiers="1, 3, 6")
        wait_until_over(page)
        page.locator("#table-a tbody tr").nth(20).locator("td button").nth(1).click()
        page.wait_for_selector(".ladder")
        save(page, "all-layers", full=False)
        page.context.close()

        page = visit(NOTEBOOK)
        page.get_by_text("Side by side").click()
        page.get_by_label("Read a second time").check()
        page.wait_for_timeout(500)
        ask(page, other_amplifiers="1")
        wait_until_over(page), wait_until_over(page, "b")
        save(page, "side-by-side", full=False)
        page.context.close()

        page = visit(DESKTOP)
        save(page, "desktop-start")
        ask(page, prompt="Back to the Future")
        page.wait_for_selector("#table-a td button")
        save(page, "desktop-reading")
        wait_until_over(page)
        page.locator("#table-a td button").nth(10).click()
        page.wait_for_selector(".ladder")
        page.mouse.move(0, 0)
        save(page, "desktop-ladder")
        is_it(page)
        save(page, "desktop-is-it")
        page.get_by_text("chosen by similarity to the prompt").first.click()
        page.wait_for_selector("#table-a table.similarity")
        save(page, "desktop-similarity")
        page.get_by_text("all amplified").click()
        save(page, "desktop-all")
        page.get_by_role("tab", name="Map").click()
        page.click("#rest-a")
        page.wait_for_timeout(1500)
        save(page, "desktop-map-reading")
        page.wait_for_selector("#status-a .status.busy", state="detached", timeout=300_000)
        page.wait_for_selector("#map-a span.missing", state="detached", timeout=20_000)
        save(page, "desktop-map")
        page.get_by_role("tab", name="Export").click()
        save(page, "desktop-export")
        with page.expect_download() as download:
            page.click("#report-a")
        download.value.save_as(folder / "report.html")
        page.context.close()

        page = visit(LAPTOP, "dark")
        page.get_by_text("Side by side").click()
        page.get_by_label("Read a second time").check()
        page.wait_for_timeout(500)
        ask(page, prompt="Red Hot Chili Peppers", layers="3-6", other_amplifiers="1, 1.5, 2")
        wait_until_over(page), wait_until_over(page, "b")
        save(page, "dark-side-by-side")
        page.context.close()

        page = visit(DESKTOP, "dark")
        ask(page, prompt="Diana, Princess of Wales")
        wait_until_over(page)
        save(page, "dark")
        page.get_by_role("tab", name="Map").click()
        save(page, "dark-map")
        page.context.close()

        page = visit(PHONE, has_touch=True, is_mobile=True, device_scale_factor=2)
        save(page, "phone-start")
        ask(page, prompt="Diana, Princess of Wales")
        wait_until_over(page)
        page.locator("#table-a td button").nth(2).tap()
        page.wait_for_selector(".ladder")
        is_it(page)
        save(page, "phone-ladder")
        ask(page, prompt="Diana, Princess of Wales", layers="99")
        page.wait_for_selector("#problem .error")
        save(page, "phone-error", full=False)
        page.context.close()

        for scheme in ("light", "dark"):
            page = chromium.new_context(viewport=DESKTOP, color_scheme=scheme).new_page()
            page.goto((folder / "report.html").absolute().as_uri())
            page.screenshot(path=folder / f"report-{scheme}.png")
            page.context.close()


if __name__ == "__main__":
    given = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    folder = Path(given[0]) if given else ROOT / "runs" / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    server = Server(Desk("smollm2-135m"))
    try:
        take(server.url, folder)
    finally:
        server.close()
    if "--readme" in sys.argv:
        target = ROOT / "data" / "app" / "app.png"
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(with_palette((folder / "readme.png").read_bytes()))
    print(*sorted(folder.glob("*.png")), sep="\n")
