"""What the proof at load costs, beside the load that it is part of, for each catalogue model that is here.

    python -m benchmarks.load [--dtype bfloat16]

Each load is a process of its own, as for a user, since checksums and pages of memory are kept within one; the median of
three. Writes benchmarks/results/load.csv.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd

from helpers import ROOT, InputError
from helpers.models.catalogue import CATALOGUE, find_file
from helpers.runs.results import save_results

ROUNDS = 3


def load_once(alias: str, dtype: str) -> dict[str, float]:
    """Seconds of one load in this process, and of its two checks."""
    from helpers.models import load

    seconds = {}
    for name in ("check_architecture", "find_parts"):

        def timed(*arguments, checked=getattr(load, name), name=name):
            started = time.perf_counter()
            result = checked(*arguments)
            seconds[name] = time.perf_counter() - started
            return result

        setattr(load, name, timed)
    started = time.perf_counter()
    load.load_model(alias, dtype)
    return seconds | {"load": time.perf_counter() - started}


def measure(alias: str, dtype: str) -> dict:
    """The row of one model: medians over processes, after one that pays what only the first load pays."""
    rounds = []
    for _ in range(ROUNDS + 1):
        command = [sys.executable, "-m", "benchmarks.load", "--once", alias, "--dtype", dtype]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        rounds.append(json.loads(done.stdout.splitlines()[-1]))
    load, before, proof = (
        statistics.median(one[name] for one in rounds[1:]) for name in ("load", "check_architecture", "find_parts")
    )
    return {
        "model": alias,
        "dtype": dtype,
        "load, seconds": round(load, 2),
        "proof, seconds": round(proof, 3),
        "proof, share of load": round(proof / load, 3),
        "check before weights, seconds": round(before, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser("benchmarks.load", description=__doc__)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--once", metavar="MODEL", help="one load, in this process")
    parser.add_argument("--out", default=Path(__file__).parent / "results" / "load.csv", type=Path)
    options = parser.parse_args()
    if options.once:
        print(json.dumps(load_once(options.once, options.dtype)))
        return
    rows = []
    for alias in CATALOGUE:
        try:
            find_file(alias)
        except InputError:
            print(f"{alias}: not here")
            continue
        rows.append(measure(alias, options.dtype))
        print(rows[-1], flush=True)
    save_results(pd.DataFrame(rows), options.out)


if __name__ == "__main__":
    main()
