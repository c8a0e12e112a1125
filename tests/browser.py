"""Drive the page in Debian's headless Chromium."""

import shutil
from collections.abc import Iterator
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


def ask(page, **settings: str) -> None:
    """Type settings into the inputs of these ids, interpret, and wait until the page answers."""
    for name, value in settings.items():
        page.locator(f"#{name.replace('_', '-')}").locator("textarea, input").first.fill(value)
    page.evaluate("document.querySelectorAll('.status').forEach(one => one.dataset.old = 1)")
    page.click("#interpret")
    page.wait_for_selector(".status:not([data-old])", timeout=60_000)


def wait_until_over(page, panel: str = "a") -> str:
    """Wait for the panel's request to end, and its table to be whole; what its status says then."""
    over = ", ".join(f"#status-{panel} [data-state={state}]" for state in ("done", "stopped", "failed"))
    page.wait_for_selector(over, timeout=120_000)
    said = page.inner_text(f"#status-{panel} .status").strip()
    if page.get_attribute(f"#status-{panel} .status", "data-state") == "done":
        page.wait_for_function(
            f"document.querySelector('#table-{panel} td') && !document.querySelector('#table-{panel} td.empty')",
            timeout=10_000,
        )
    return said
