"""Many visitors at once, each with a client of their own: how long each waits, and whether anybody sees another's rows.

    python -m benchmarks.visitors [--model NAME] [--visitors 50] [--seconds 120]

A server process and its clients on one machine. Each visitor asks for readings of a prompt that nobody else has, waits
for them with their confidence, checks that they are of this prompt and complete, and asks again until the time is over.
Writes benchmarks/results/visitors.csv, a row per request, and .png.
"""

import argparse
import json
import threading
import time
from contextlib import closing

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd

from benchmarks.chart import MEMORY, OURS
from benchmarks.serving import Served, served
from helpers import ROOT
from helpers.runs.results import save_results
from helpers.words.machine import cores
from helpers.words.settings import DEFAULT_MODEL

RESULTS = ROOT / "benchmarks" / "results"
ASKED = {"components": ["hidden_state"], "layers": "1-2", "amplifiers": "1, 3"}
ROWS = 4
SUBJECTS = ("Pink Floyd", "Titanic", "Diana, Princess of Wales", "Star Wars", "George Washington")


class Visitor(threading.Thread):
    """Asks until the time is over.

    Attributes:
        requests: of each, when it was asked, how long it took, and what was wrong with the answer ("" if nothing).
    """

    def __init__(self, number: int, client, begin: threading.Barrier, seconds: float):
        super().__init__(name=f"visitor {number}")
        self.number, self._client, self._begin, self._seconds = number, client, begin, seconds
        self.requests: list[dict] = []

    def run(self) -> None:
        self._begin.wait()
        opened = time.monotonic()
        while (asked := time.monotonic() - opened) < self._seconds:
            prompt = f"Visitor {self.number}, question {len(self.requests)}: {SUBJECTS[self.number % len(SUBJECTS)]}"
            wrong = self._ask(prompt)
            took = time.monotonic() - opened - asked
            line = {"visitor": self.number, "asked after": round(asked, 2), "seconds": round(took, 2), "wrong": wrong}
            self.requests.append(line)

    def _ask(self, prompt: str) -> str:
        """Return what is wrong with the answer; "" if nothing."""
        try:
            rows = self._client.predict(prompt=prompt, api_name="/interpret", **ASKED)
        except Exception as error:  # whatever a visitor meets is what is measured
            return f"{type(error).__name__}: {error}"[:200]
        if {row["source prompt"] for row in rows} != {prompt}:
            return f"rows of {sorted({row['source prompt'] for row in rows})}"[:200]
        if len({row["id"] for row in rows}) != ROWS or {row["status"] for row in rows} != {"ok"}:
            return f"{len(rows)} rows, {sorted({row['status'] for row in rows})}"
        return ""


def watch(server: Served, over: threading.Event) -> list[tuple[float, float]]:
    """Return (seconds, MiB) pairs of the server, each second until it is over."""
    seen, opened = [], time.monotonic()
    while True:
        seen.append((round(time.monotonic() - opened, 2), round(server.mib, 1)))
        if over.wait(1):
            return seen


def visit(model: str, count: int, seconds: float) -> tuple[pd.DataFrame, list[tuple[float, float]]]:
    """Return a row per request, and the server's memory."""
    with served(model) as server:
        with closing(server.client()) as first:  # waits for the model, and pays what only the first pays
            first.predict(prompt="The first visitor", api_name="/interpret", **ASKED)
        begin, over, memory = threading.Barrier(count), threading.Event(), []
        visitors = [Visitor(number, server.client(), begin, seconds) for number in range(count)]
        watcher = threading.Thread(target=lambda: memory.extend(watch(server, over)))
        watcher.start()
        for one in visitors:
            one.start()
        for one in visitors:
            one.join()
        over.set()
        watcher.join()
    return pd.DataFrame([line for one in visitors for line in one.requests]), memory


def told(table: pd.DataFrame, memory: list[tuple[float, float]]) -> dict:
    """Return what the chart shows in numbers."""
    half = memory[len(memory) // 2 :]
    return {
        "requests": len(table),
        "wrong": int((table["wrong"] != "").sum()),
        "seconds, median": round(table["seconds"].median(), 2),
        "seconds, 95 of 100": round(table["seconds"].quantile(0.95), 2),
        "seconds, longest": table["seconds"].max(),
        "least and most requests of a visitor": table["visitor"].value_counts().agg(["min", "max"]).tolist(),
        "MiB at the start": memory[0][1],
        "MiB at half time": half[0][1],
        "MiB at the end": memory[-1][1],
    }


def draw(table: pd.DataFrame, memory: list[tuple[float, float]], title: str) -> None:
    figure, (waits, held) = plt.subplots(2, figsize=(8.4, 5.6), constrained_layout=True, height_ratios=(2, 1))
    for is_wrong, some in table.groupby(table["wrong"] != ""):
        waits.scatter(some["visitor"], some["seconds"], s=12, color=MEMORY if is_wrong else OURS, linewidths=0)
    medians = table.groupby("visitor")["seconds"].median()
    waits.plot(medians.index, medians, "_", color="#222222", markersize=7)
    waits.set_ylim(0, 1.1 * table["seconds"].max())
    waits.set_xlabel("visitor (each dot a request; the bar is the visitor's median)", fontsize=9.5)
    waits.set_ylabel("seconds until all is there", fontsize=9.5)
    waits.set_title(title, fontsize=11, loc="left")
    held.plot(*zip(*memory, strict=True), color=OURS)
    held.set_ylim(0, 1.25 * max(mib for _, mib in memory))
    held.set_xlabel("seconds", fontsize=9.5)
    held.set_ylabel("MiB of the server", fontsize=9.5)
    for axis in (waits, held):
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=9.5)
    figure.savefig(RESULTS / "visitors.png", dpi=140, metadata={"Software": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--visitors", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=120)
    options = parser.parse_args()
    table, memory = visit(options.model, options.visitors, options.seconds)
    table.attrs = {
        "model": options.model, "visitors": options.visitors, "seconds": options.seconds, "cores": cores(),
        **told(table, memory),
    }  # fmt: skip
    print(json.dumps(table.attrs, indent=1))
    for wrong, times in table["wrong"][table["wrong"] != ""].value_counts().items():
        print(f"{times} times: {wrong}")
    save_results(table, RESULTS / "visitors.csv")
    draw(table, memory, f"{options.visitors} visitors of {options.model} at once, {ROWS} readings a request")


if __name__ == "__main__":
    main()
