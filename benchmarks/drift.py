"""How far bfloat16 readings are from float32 ones: python -m benchmarks.drift [MODEL …]

On a sample of the study (12 prompts, source layers 2 and 5, both evaluations' settings): the share of equal texts, and
what rounding does to the numbers that are published, the shares of interpreted (prompt, layer) pairs above chance.
"""

import sys
from dataclasses import replace

import pandas as pd
from tqdm import tqdm

from helpers import ROOT
from helpers.cli.reproduce import STUDY_DTYPES
from helpers.experiments import elsewhere
from helpers.judging.effects import by_method, judge_rows
from helpers.models.load import load_model
from helpers.runs.sweep import sweep
from helpers.words.methods import METHODS
from helpers.words.plans import Plan
from helpers.words.prompts import read_prompts

RESULTS = ROOT / "benchmarks" / "results" / "drift.csv"


def plans_for(prompts: list[str]) -> list[Plan]:
    """Return the plans of `elsewhere`, on these prompts."""
    return [replace(plan, prompts=tuple(prompts)) for plan in elsewhere.plans(elsewhere.Settings(num_prompts=1))]


def readings(model: str, dtype: str, prompts: list[str]) -> pd.DataFrame:
    lm, plans = load_model(model, dtype), plans_for(prompts)
    with tqdm(total=sum(len(plan.items(lm)) for plan in plans), unit="row", desc=f"{model} {dtype}") as bar:
        return sweep(lm, plans, progress=lambda done, total: bar.update(done - bar.n))


def main(models: list[str]) -> None:
    prompts, lines = read_prompts("data/prompts.csv")[::4], []
    for model in models:
        rows = {dtype: readings(model, dtype, prompts) for dtype in ("float32", "bfloat16")}
        for component, exact in rows["float32"].groupby("component", sort=False):
            rounded = rows["bfloat16"].loc[exact.index]
            effects = {dtype: by_method(judge_rows(some.loc[exact.index])) for dtype, some in rows.items()}
            for method in effects["float32"]:
                of_method = METHODS[method].choose(exact)
                lines.append(
                    {
                        "model": model,
                        "component": component,
                        "method": method,
                        "readings": int(of_method.sum()),
                        "same text": int((exact["result"] == rounded["result"])[of_method].sum()),
                        "score differs by (mean)": round(
                            float((exact["score"] - rounded["score"])[of_method].abs().mean()), 4
                        ),
                        "effect in float32": effects["float32"][method]["effect"],
                        "effect in bfloat16": effects["bfloat16"][method]["effect"],
                        "interval in float32": f"{effects['float32'][method]['low']} to {effects['float32'][method]['high']}",
                    }
                )
    table = pd.DataFrame(lines)
    print(table.to_string(index=False))
    table.to_csv(RESULTS, index=False, lineterminator="\n")


if __name__ == "__main__":
    main(sys.argv[1:] or list(STUDY_DTYPES))
