"""What a server holds in memory after each of many requests, a prompt of 19,900 letters among them.

    python -m benchmarks.memory_of_requests [--model NAME] [--requests 500]

A server process and a client beside it. Each request has a prompt of its own, so that nothing is in memory already. The
model is a random one of 16 blocks and width 256, quick enough for 500 requests on a busy machine, unless one is named.
Writes benchmarks/results/memory_of_requests.csv and .png.
"""

import argparse
import json
import tempfile
import time
from contextlib import closing

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd

from benchmarks.chart import MEMORY, OURS
from benchmarks.serving import random_model, served
from helpers import ROOT
from helpers.runs.results import save_results
from helpers.words.machine import cores

RESULTS = ROOT / "benchmarks" / "results"
LETTERS = 19_900
SMALL = {"components": ["hidden_state"], "layers": "1-3", "amplifiers": "1, 2, 3", "max_new_tokens": 4}


def long_prompt() -> str:
    words = (f"item {number} of a long list that somebody has pasted;" for number in range(1000))
    return " ".join(words)[:LETTERS]


def ask_one_by_one(model: str, requests: int) -> pd.DataFrame:
    """Return a row per request: its number, letters of its prompt, seconds, and the server's MiB after it."""
    long_at, lines = requests // 5, []
    with served(model) as server, closing(server.client()) as client:
        for number in range(requests + 1):  # the first pays what only the first pays
            prompt = long_prompt() if number == long_at else f"The {number}th thing that somebody asks about"
            started = time.perf_counter()
            rows = client.predict(prompt=prompt, api_name="/interpret", **SMALL)
            assert len(rows) == 9 and {row["source prompt"] for row in rows} == {prompt}
            took = round(time.perf_counter() - started, 2)
            lines.append({"request": number, "letters": len(prompt), "seconds": took, "MiB": round(server.mib, 1)})
            if number % 20 == 0 or number == long_at:
                print(json.dumps(lines[-1]), flush=True)
    return pd.DataFrame(lines)


def told(table: pd.DataFrame) -> dict:
    """Return what the chart shows in numbers."""
    long_at = int(table["letters"].idxmax())
    small = table[1:][table["letters"][1:] < LETTERS]
    last = small["MiB"].iloc[-len(small) // 5 :]
    return {
        "MiB after the first request": table["MiB"][1],
        "MiB that the long prompt left": round(table["MiB"][long_at] - table["MiB"][long_at - 1], 1),
        "MiB at the end": table["MiB"].iloc[-1],
        "MiB at most": table["MiB"].max(),
        "KiB per request in the last fifth": round(1024 * (last.iloc[-1] - last.iloc[0]) / (len(last) - 1), 1),
    }


def draw(table: pd.DataFrame, model: str) -> None:
    figure, axis = plt.subplots(figsize=(8.4, 3.2), constrained_layout=True)
    axis.plot(table["request"], table["MiB"], color=OURS, linewidth=1.5)
    long_at = int(table["letters"].idxmax())
    axis.axvline(long_at, color=MEMORY, linewidth=1, linestyle=":")
    axis.annotate(
        f"a prompt of {LETTERS:,} letters", (long_at, 0), xytext=(5, 8), textcoords="offset points", color=MEMORY, fontsize=9.5
    )
    axis.set_ylim(0, 1.25 * table["MiB"].max())
    axis.set_xlim(0, table["request"].max())
    axis.set_xlabel("requests served, one after another", fontsize=9.5)
    axis.set_ylabel("MiB that the server holds", fontsize=9.5)
    axis.set_title(f"{model}, 9 readings each", fontsize=11, loc="left")
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=9.5)
    figure.savefig(RESULTS / "memory_of_requests.png", dpi=140, metadata={"Software": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="")
    parser.add_argument("--requests", type=int, default=500)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        table = ask_one_by_one(options.model or random_model(folder), options.requests)
    model = options.model or "a random Llama of 16 blocks, width 256"
    table.attrs = {"model": model, "cores": cores(), **told(table)}
    print(json.dumps(table.attrs, indent=1))
    save_results(table, RESULTS / "memory_of_requests.csv")
    draw(table, model)


if __name__ == "__main__":
    main()
