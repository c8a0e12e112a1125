"""How fast given texts are scored (`score_texts`), beside reading as many vectors, by the length of the texts.

    python -m benchmarks.teacher [--model smollm2-135m] [--dtype float32] [--rows 512]

A reading writes ten tokens one after another; a text of n tokens is scored in one pass of n tokens. Rounds take turns,
in one process; medians. Writes benchmarks/results/teacher.csv.
"""

import argparse
import platform
import statistics
import time
from pathlib import Path

import pandas as pd
import torch

from helpers.engine.interpret import interpret
from helpers.engine.teacher import score_texts
from helpers.models.load import load_model
from helpers.runs.results import save_results

LENGTHS, ROUNDS, WRITTEN = (1, 2, 3, 5, 10), 3, 10


def processor() -> str:
    """Name the processor, as Linux does."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())


def main() -> None:
    parser = argparse.ArgumentParser("benchmarks.teacher", description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rows", default=512, type=int)
    parser.add_argument("--out", default=Path(__file__).parent / "results" / "teacher.csv", type=Path)
    options = parser.parse_args()
    lm = load_model(options.model, options.dtype)
    vectors = torch.randn(options.rows, lm.width, generator=torch.Generator().manual_seed(0))
    text = " the" * WRITTEN  # a token each
    assert len(lm.tokenizer(text, add_special_tokens=False).input_ids) == WRITTEN
    ways = {f"scoring texts of {n} tokens": lambda n=n: score_texts(lm, vectors, 3, [" the" * n] * len(vectors)) for n in LENGTHS}
    ways |= {f"reading {WRITTEN} tokens": lambda: interpret(lm, vectors, 3, max_new_tokens=WRITTEN, fused=False)}
    seconds = {way: [] for way in ways}
    for _ in range(ROUNDS + 1):  # the first warms up
        for way, work in ways.items():
            started = time.perf_counter()
            work()
            seconds[way].append(time.perf_counter() - started)
    speed = {way: len(vectors) / statistics.median(some[1:]) for way, some in seconds.items()}
    reading = speed[f"reading {WRITTEN} tokens"]
    table = pd.DataFrame(
        {"way": way, "rows per second": round(rate, 1), "times reading": round(rate / reading, 2)} for way, rate in speed.items()
    )
    table.attrs = {"model": lm.slug, "dtype": options.dtype, "rows": options.rows, "processor": processor()}
    save_results(table, options.out)
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
