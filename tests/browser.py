"""Drive the page in Debian's headless Chromium."""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = (  # as root in a container; and it asks its maker for nothing
    "--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--no-first-run", "--disable-gpu", "--disable-quic",
)  # fmt: skip


@contextmanager
def browser() -> Iterator:
    """Playwright's browser, closed at the end."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        try:
            yield started
        finally:
            started.close()


def eventually(check: Callable[[], None], seconds: float = 30) -> None:
    """Repeat assertions until they hold: a page shows a moment later what it was told."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return check()
        except AssertionError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.05)


def ask(page, **settings: str) -> None:
    """Type settings into the inputs of these ids, interpret, and wait until the page answers."""
    for name, value in settings.items():
        page.locator(f"#{name.replace('_', '-')}").locator("textarea, input").first.fill(value)
    before = page.evaluate(
        """() => [...document.querySelectorAll('.status')].map(one => { one.dataset.old = 1; return one.dataset.job; })"""
    )
    page.click("#interpret")
    answered = """before => [...document.querySelectorAll('.status:not([data-old])')].some(
        one => !one.dataset.job || !before.includes(one.dataset.job))"""
    page.wait_for_function(answered, arg=before, timeout=60_000)


def wait_until_over(page, panel: str = "a") -> str:
    """Wait for a request of the panel to end, "b" is the one beside it, and its table to be whole and weighed; what its
    status says then.
    """
    over = ", ".join(f"#status-{panel} [data-state={state}]" for state in ("done", "stopped", "failed"))
    page.wait_for_selector(over, timeout=120_000)
    said = page.inner_text(f"#status-{panel} .status").strip()
    if page.get_attribute(f"#status-{panel} .status", "data-state") == "done":
        page.wait_for_function(
            "document.querySelector('#table-a td') && !document.querySelector('#table-a :is(.empty, .waiting)')",
            timeout=60_000,
        )
    page.wait_for_timeout(300)  # Gradio loses what it's asked in the moment in which it closes a stream
    return said
