"""Rows per second of the engine beside the plain way: one `generate` with one hook per vector.

    python -m benchmarks.speed [--model NAME] [--device cpu] [--rows 256] [--plain 12] [--rounds 3]

Both do the same work on the same vectors in one process, in turns, so that what else the machine does falls on both;
the ratio is the result, the seconds are that day's. Writes benchmarks/results/speed.csv.
"""

import argparse
import statistics
import time

import pandas as pd
import torch

from helpers import ROOT
from helpers.models import load_model
from helpers.plans import PAPER_TARGET_PROMPT
from helpers.results import save_results
from helpers.superscopes import interpret
from tests.reference import plain_interpret


def measure(name: str, dtype: str, device: str, rows: int, plain: int, rounds: int) -> dict:
    """Seconds per row of both ways, medians over the rounds."""
    lm = load_model(name, dtype, device)
    generator = torch.Generator().manual_seed(0)
    vectors = 20 * torch.randn(rows, lm.width, generator=generator)
    layers = torch.randint(lm.num_layers, (rows,), generator=generator)

    def engine(count):
        return interpret(lm, vectors[:count], layers[:count])

    def one_by_one(count):
        return [
            plain_interpret(lm.model, lm.tokenizer, vector.to(lm.device), layer, PAPER_TARGET_PROMPT)
            for vector, layer in zip(vectors[:count], layers[:count].tolist(), strict=True)
        ]

    texts = engine(plain), one_by_one(plain)  # warm up, and see that they agree
    seconds = {engine: [], one_by_one: []}
    for _ in range(rounds):
        for way, count in ((engine, rows), (one_by_one, plain)):
            started = time.perf_counter()
            way(count)
            seconds[way].append((time.perf_counter() - started) / count)
    ours, theirs = (statistics.median(seconds[way]) for way in (engine, one_by_one))
    return {
        "model": lm.slug,
        "dtype": dtype,
        "device": lm.device.type,
        "threads": torch.get_num_threads(),
        "rows": rows,
        "engine, rows per second": round(1 / ours, 2),
        "plain way, rows per second": round(1 / theirs, 2),
        "ratio": round(theirs / ours, 1),
        "same texts": f"{sum(a == b for a, b in zip(*texts, strict=True))} of {plain}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--plain", type=int, default=12, help="vectors per round of the plain way")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    table = pd.DataFrame(
        [
            measure(options.model, dtype, options.device, options.rows, options.plain, options.rounds)
            for dtype in ("float32", "bfloat16")
        ]
    )
    print(table.T.to_string(header=False))
    save_results(table, ROOT / "benchmarks/results/speed.csv")


if __name__ == "__main__":
    main()
