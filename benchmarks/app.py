"""What a visitor of the application waits for, in a real browser beside it, against a plain sweep of the same plan.

    python -m benchmarks.app [--model NAME] [--rounds 3]

"Diana, Princess of Wales", 7 layers × 3 vectors × 6 amplifiers, last token; server, browser and sweep share the machine
and take turns. Each round has amplifiers of its own, so that no reading is in memory already. Writes
benchmarks/results/app.csv; the medians of the rounds, and the ratio to the sweep.
"""

import argparse
import statistics
import sys
import time

import pandas as pd

from helpers import ROOT
from helpers.app.desk import Desk
from helpers.app.server import Server
from helpers.models.load import load_model
from helpers.runs.results import save_results
from helpers.runs.sweep import describe, sweep
from helpers.words.settings import DEFAULT_MODEL

sys.path.insert(0, str(ROOT / "tests"))
from browser import ask, browser  # noqa: E402

PROMPT = "Diana, Princess of Wales"
VECTORS = ("pre_mlp_residual", "mlp_output", "hidden_state")


def in_the_page(page, amplifiers: list[float]) -> tuple[float, float, float]:
    """Seconds from the click to the first reading that can be read, to the last, and to the confidence of all."""
    page.locator("#amplifiers").locator("textarea, input").first.fill(", ".join(map(str, amplifiers)))
    page.evaluate("document.querySelectorAll('#table-a table, .status').forEach(one => one.dataset.old = 1)")
    started = time.perf_counter()
    page.click("#interpret")
    page.wait_for_selector("#table-a table:not([data-old]) td button", timeout=120_000)
    first = time.perf_counter() - started
    read = ", ".join(f"#status-a [data-state={state}]:not([data-old])" for state in ("weighing", "done"))
    page.wait_for_selector(read, timeout=120_000)
    page.wait_for_selector("#table-a td.empty", state="detached", timeout=20_000)
    whole = time.perf_counter() - started
    page.wait_for_selector("#status-a [data-state=done]:not([data-old])", timeout=120_000)
    page.wait_for_selector("#table-a td.waiting", state="detached", timeout=20_000)
    return first, whole, time.perf_counter() - started


def stopping(page) -> float:
    """Seconds from Stop to a page that says so, while many readings are computed."""
    ask(page, amplifiers="1:40:0.5")
    page.wait_for_selector("#table-a td button", timeout=60_000)
    started = time.perf_counter()
    page.click("#stop")
    page.wait_for_selector("#status-a [data-state=stopped]", timeout=60_000)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()

    lm = load_model(options.model)
    server = Server(Desk(options.model))
    plain, first, whole, weighed, share = [], [], [], [], []
    try:
        with browser() as chromium:
            page = chromium.new_page(viewport={"width": 1600, "height": 1000})
            page.goto(server.url)
            page.wait_for_selector("#status-a .status.calm", timeout=120_000)
            page.locator("#prompt").locator("textarea, input").first.fill(PROMPT)
            for number in range(options.rounds + 1):
                amplifiers = [one + (number + 1) / 100 for one in (1, 3, 6, 9, 12, 15)]
                started = time.perf_counter()
                rows = sweep(lm, PROMPT, VECTORS, "1-7", amplifiers)
                took = time.perf_counter() - started
                seen = in_the_page(page, amplifiers)
                if number:  # the first round pays what only the first pays
                    plain.append(took), first.append(seen[0]), whole.append(seen[1]), weighed.append(seen[2])
                    job = list(server.desk._jobs.values())[-1]
                    share.append(job.weighing_seconds / job.seconds)
                    print(
                        f"sweep {took:.2f} s, page: first {seen[0]:.2f}, all {seen[1]:.2f}, weighed {seen[2]:.2f} s; "
                        f"weighing takes {share[-1]:.2f} of the time of reading",
                        flush=True,
                    )
                else:
                    cold = seen
            stop = stopping(page)
    finally:
        server.close()

    base = statistics.median(plain)
    lines = [
        ("a plain sweep, one batch", base),
        ("page, first readings", statistics.median(first)),
        ("page, all readings", statistics.median(whole)),
        ("page, all readings with their confidence", statistics.median(weighed)),
        ("page, first readings, first request after the start", cold[0]),
        ("page, all readings, first request after the start", cold[1]),
        ("page, all readings with their confidence, first request after the start", cold[2]),
        ("page, from Stop to stopped", stop),
    ]
    table = pd.DataFrame(lines, columns=["what", "seconds"]).assign(rows=len(rows))
    table["times the sweep"] = (table["seconds"] / base).round(2)
    table["seconds"] = table["seconds"].round(2)
    table.attrs = {
        "model": options.model, "rounds": options.rounds, "machine": describe(lm)["machine"],
        "weighing, share of reading": round(statistics.median(share), 2),
    }  # fmt: skip
    save_results(table, ROOT / "benchmarks" / "results" / "app.csv")
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
