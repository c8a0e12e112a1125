"""What it saves to end a reading with its first list item: `stop_at_item` beside whole readings of the same vectors.

    python -m benchmarks.items [--model NAME] [--prompts 8] [--rounds 3] [--new-tokens 10 30]

Both take turns in one process, in batches of one size; the ratio of processor time is the result, the median of the
rounds. Beside it, how many tokens the model ran for a row, and the same where rows leave earlier or later. Writes
benchmarks/results/items.csv.
"""

import argparse
import statistics
import time

import pandas as pd

from helpers import ROOT
from helpers.engine import prompt as engine
from helpers.engine import writing
from helpers.engine.interpret import run
from helpers.models.load import load_model
from helpers.runs.results import save_results
from helpers.runs.sweep import describe
from helpers.words.plans import make_plan
from helpers.words.prompts import read_prompts
from helpers.words.settings import DEFAULT_MODEL

SHARES = (0, 1 / 4, 1 / 2, 3 / 4)  # of a batch that may still write when its other rows leave; 0: no row leaves


def read(lm, plan, size: int) -> tuple[float, float, list]:
    """Return seconds of processor time, how many tokens the model ran for a row, and the readings."""
    ran, usual = [], engine.PatchedPrompt._next_logits

    def counted(self, ids, cache):
        ran.append(len(ids))
        return usual(self, ids, cache)

    engine.PatchedPrompt._next_logits = counted
    try:
        started = time.process_time()
        readings = [reading for batch in run(lm, plan, size, fused=False) for reading in batch.readings]
        return time.process_time() - started, sum(ran) / len(readings), readings
    finally:
        engine.PatchedPrompt._next_logits = usual


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--new-tokens", type=int, nargs="+", default=[10, 30])
    options = parser.parse_args()

    lm, lines = load_model(options.model), []
    prompts, shared = read_prompts("data/prompts.csv", options.prompts), {"layers": "1-4", "amplifiers": (1, 3, 6, 9)}
    usual_share = writing.LEAVE
    for length in options.new_tokens:
        whole, items = (
            make_plan(prompts, ("hidden_state", "mlp_output"), max_new_tokens=length, stop_at_item=asked, **shared)
            for asked in (False, True)
        )
        rows = len(whole.items(lm))
        rounds = []
        for _ in range(options.rounds):
            found = {None: read(lm, whole, rows)}
            for share in SHARES:
                writing.LEAVE = share
                found[share] = read(lm, items, rows)
            writing.LEAVE = usual_share
            first = [whole.target_prompt.up_to_stop(one.result) for one in found[None][2]]
            assert all([one.result for one in found[share][2]] == first for share in SHARES), "the same texts, cut"
            rounds.append({share: one[:2] for share, one in found.items()})
            print({share: round(one[0], 1) for share, one in rounds[-1].items()}, "s", flush=True)
        lines += [
            {
                "new tokens": length,
                "rows": rows,
                "way": "whole readings" if share is None else "to the end of the first item",
                "rows leave when so many still write": "" if share is None else share,
                "tokens run for a row": round(statistics.median(one[share][1] for one in rounds), 2),
                "x the time of whole readings": round(statistics.median(one[share][0] / one[None][0] for one in rounds), 3),
                "least": round(min(one[share][0] / one[None][0] for one in rounds), 3),
                "most": round(max(one[share][0] / one[None][0] for one in rounds), 3),
            }
            for share in (None, *SHARES)
        ]
    table = pd.DataFrame(lines)
    table.attrs = {"model": options.model, "rounds": options.rounds, "machine": describe(lm)["machine"]}
    save_results(table, ROOT / "benchmarks" / "results" / "items.csv")
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
