"""Does a long sweep stay as cheap per row as a short one, and as small in memory?"""

import resource
import time

import pandas as pd

from helpers.models import load_model
from helpers.plans import make_plan
from helpers.results import read_prompts
from helpers.superscopes import run

SIZES = (256, 1024, 4096, 16384)
BATCH_SIZE = 256  # the same for all, so that only the length differs


def measure_growth(name: str, device: str, dtype: str = "bfloat16") -> pd.DataFrame:
    """A row per length of a plan, in rising order: milliseconds per row, and the most memory that the process has held.

    The batches are thrown away as they come, as a ledger would that writes them.
    """
    lm = load_model(name, dtype, device)
    prompts = [f"{prompt}{suffix}" for suffix in ("", ", the", ", a", " and") for prompt in read_prompts("data/prompts.csv")]
    table = []
    for size in (SIZES[0], *SIZES):  # the first one warms up
        layers = list(range(min(lm.num_layers, 30)))
        amplifiers = (1, 3, 6)
        plan = make_plan(prompts[: -(-size // (len(layers) * len(amplifiers)))], ("mlp_output",), layers, amplifiers)
        rows, peaks, started = 0, [], time.perf_counter()
        for batch in run(lm, plan, BATCH_SIZE):
            rows += len(batch)
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)  # MiB
            if rows >= size:
                break
        seconds = time.perf_counter() - started
        table.append(
            {
                "model": lm.slug,
                "dtype": dtype,
                "rows": rows,
                "ms per row": round(1000 * seconds / rows, 3),
                "peak MiB after the first batch": round(peaks[0]),
                "peak MiB at the end": round(peaks[-1]),
            }
        )
    return pd.DataFrame(table[1:])
