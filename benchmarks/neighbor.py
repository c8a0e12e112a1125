"""A short sweep alone and beside a neighbour that keeps all cores busy, for each way in which idle threads can wait.

    python -m benchmarks.neighbor [--spin]

torch's threads wait for each other at the end of every operation. By default they spin, which is fast on an idle machine
and slow on a busy one: the thread that is waited for has no core, since the others spin on it. Ways take turns within
each round, in processes of their own; ratios are to the default of the same round, alone; medians of the rounds. A fair
share beside as many busy processes as there are cores is twice the time alone. Writes benchmarks/results/neighbor.csv.

--spin measures only how long a thread runs while it waits, in processor time, which a busy machine doesn't lengthen: what
single products cost when a pause follows each, less what they cost without. Writes benchmarks/results/spin.csv.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

import pandas as pd

from helpers import ROOT
from helpers.runs.results import save_results
from helpers.words.machine import cores

ROUNDS, ROWS = 2, 32
WAYS = {  # what is set before torch is imported; "spin 100,000" is what helpers/__init__.py sets
    "torch's default": {"GOMP_SPINCOUNT": "300000"},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "spin 1,000": {"GOMP_SPINCOUNT": "1000"},
    "spin 10,000": {"GOMP_SPINCOUNT": "10000"},
    "spin 100,000": {"GOMP_SPINCOUNT": "100000"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
SWEEP = """
import time
from helpers import load_model
from helpers.runs.sweep import sweep
from helpers.engine.interpret import run
from helpers.words.plans import make_plan
lm = load_model("smollm2-135m")
plan = make_plan(["Titanic", "Star Wars"], "hidden_state", "1-4", (1, 2, 3, 4))
seconds = []
for _ in range(3):
    started = time.perf_counter()
    for batch in run(lm, plan, 32): pass
    seconds.append(time.perf_counter() - started)
print(min(seconds[1:]))
"""
SPIN = """
import time, torch
x = torch.randn(512, 512)
def cpu(pause):
    started = time.process_time()
    for _ in range(30):
        x @ x
        time.sleep(pause)
    return (time.process_time() - started) / 30
cpu(0)
print(1000 * (cpu(0.05) - cpu(0)))
"""
BUSY = "while True: sum(range(100_000))"


def once(way: dict[str, str], code: str = SWEEP) -> float:
    """Return what code measures in a process of its own: the seconds of a sweep of 32 rows, the better of two after a
    first one.
    """
    env = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "MKL_"))}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=env | way, capture_output=True, text=True, check=True
    )
    return float(done.stdout.splitlines()[-1])


def spin() -> None:
    rounds = [{name: once(way, SPIN) for name, way in WAYS.items()} for _ in range(ROUNDS)]
    medians = {name: statistics.median(one[name] for one in rounds) for name in WAYS}
    table = pd.DataFrame({"way": name, "ms that threads run while they wait": round(ms, 2)} for name, ms in medians.items())
    table.attrs = {"rounds": ROUNDS, "cores": cores(), "machine": "busy with other work"}
    save_results(table, ROOT / "benchmarks" / "results" / "spin.csv")
    print(table.to_string(index=False))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spin", action="store_true")
    if parser.parse_args().spin:
        return spin()
    rounds = []
    for _ in range(ROUNDS):
        alone = {name: once(way) for name, way in WAYS.items()}
        neighbors = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(cores())]
        try:
            time.sleep(1)
            beside = {name: once(way) for name, way in WAYS.items()}
        finally:
            for neighbor in neighbors:
                neighbor.kill()
                neighbor.wait()
        usual = alone["torch's default"]
        rounds.append({name: (alone[name] / usual, beside[name] / usual, alone[name]) for name in WAYS})
        print(json.dumps(rounds[-1]), flush=True)
    table = pd.DataFrame(
        {
            "way": name,
            "alone, x the default alone": round(statistics.median(one[name][0] for one in rounds), 2),
            "beside a busy neighbor, x the default alone": round(statistics.median(one[name][1] for one in rounds), 2),
            "beside it, x a fair share": round(statistics.median(one[name][1] for one in rounds) / 2, 2),
            "alone, seconds": round(statistics.median(one[name][2] for one in rounds), 2),
        }
        for name in WAYS
    )
    table.attrs = {"rows": ROWS, "rounds": ROUNDS, "cores": cores(), "neighbors": cores()}
    save_results(table, ROOT / "benchmarks" / "results" / "neighbor.csv")
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
