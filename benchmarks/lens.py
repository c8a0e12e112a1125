"""What the logit lens of a sweep's vectors costs, beside the sweep itself.

    python -m benchmarks.lens [--model smollm2-135m] [--prompts 8] [--layers 1-7]

Both in one process, in turns; medians. The share must stay under a tenth. Writes benchmarks/results/lens.csv.
"""

import argparse
import statistics
import time
from pathlib import Path

import pandas as pd

from benchmarks.teacher import processor
from helpers.engine.interpret import run
from helpers.lenses.columns import with_lens
from helpers.models.load import load_model
from helpers.runs.results import save_results
from helpers.runs.sweep import rows_of
from helpers.words.plans import make_plan
from helpers.words.prompts import OUR_PROMPTS, read_prompts

ROUNDS = 2


def main() -> None:
    parser = argparse.ArgumentParser("benchmarks.lens", description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--prompts", default=8, type=int)
    parser.add_argument("--layers", default="1-7")
    parser.add_argument("--out", default=Path(__file__).parent / "results" / "lens.csv", type=Path)
    options = parser.parse_args()
    lm = load_model(options.model)
    plan = make_plan(read_prompts(OUR_PROMPTS, options.prompts), layers=options.layers)
    items = plan.items(lm, lm.identity)
    seconds: dict[str, list[float]] = {"sweep": [], "logit lens": []}
    for _ in range(ROUNDS):
        started = time.perf_counter()
        readings = [reading for batch in run(lm, plan, fused=False) for reading in batch.readings]
        swept = time.perf_counter()
        rows = with_lens(lm, rows_of(items, readings))
        seconds["logit lens"].append(time.perf_counter() - swept)
        seconds["sweep"].append(swept - started)
    middle = {name: statistics.median(some) for name, some in seconds.items()}
    table = pd.DataFrame(
        {"of": name, "rows": len(rows), "seconds": round(value, 2), "share of the sweep": round(value / middle["sweep"], 4)}
        for name, value in middle.items()
    )
    table.attrs = {"model": lm.slug, "dtype": lm.dtype, "processor": processor()}
    save_results(table, options.out)
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
