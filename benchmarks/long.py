"""What a long run costs beside the reading itself: the ledger, the workers, the driver; and what 10⁶ and 10⁹ rows need.

    python -m benchmarks.long

The same plan is swept plainly, through a ledger, and by one and by two Dask workers on this machine's cores, in turns;
the median of three. Then what the driver alone can take: readings that are sent by a worker which doesn't read, and
put on the disk. Writes benchmarks/results/long.csv.
"""

import pickle
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from helpers import ROOT
from helpers.engine.interpret import Batch, run
from helpers.judging.judge import Judge
from helpers.models.load import load_model
from helpers.runs import ledger
from helpers.runs.ledger import Ledger, header
from helpers.runs.readings import Readings
from helpers.runs.results import save_results
from helpers.runs.session import Session
from helpers.runs.sweep import sweep
from helpers.words.plans import make_plan
from helpers.words.prompts import read_prompts
from helpers.words.rows import Reading
from helpers.words.settings import ReadSettings

MODEL, ROUNDS = "smollm2-135m", 3
BATCH, CHUNKS = 128, 200
MILLION = 10**6


def seconds_of(work) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def ways(place: Path) -> dict[str, tuple[float, float]]:
    """Rows per second of each way, start-up and scoring left out, and as a multiple of the plain sweep beside it."""
    ledger.WORK = place / "work"
    lm = load_model(MODEL)
    plan = make_plan(read_prompts("data/prompts.csv"))  # the paper's MLP evaluation
    rows = len(plan.items(lm))
    times = {"plain": [], "ledger": [], "1 worker": [], "2 workers": []}
    for _ in tqdm(range(ROUNDS), desc="rounds"):
        for way, workers in zip(times, (None, 0, 1, 2), strict=True):
            if workers is None:
                seconds = sweep(lm, plan, batch_size=BATCH).attrs["seconds"]["run"]
            else:
                given = {"out_dir": str(place / "out"), "batch_size": BATCH, "new": True, "workers": workers}
                settings = ReadSettings.of({"model": MODEL} | given)
                session = Session(settings)
                session.lm = lm  # loaded already
                seconds = Readings(settings, session).of("x.csv", [plan]).attrs["seconds"]["run"]
            times[way].append(rows / seconds)
    ratios = {
        way: statistics.median(one / plain for one, plain in zip(some, times["plain"], strict=True))
        for way, some in times.items()
    }
    return {way: (statistics.median(some), ratios[way]) for way, some in times.items()}


def canned(columns: list[tuple]) -> list[tuple]:
    """Return what a worker would send: readings that were made before."""
    return columns


def driver(place: Path) -> dict[str, float]:
    """Rows per second that come from a worker's process and are put on the disk, and their sizes."""
    import distributed

    lm = load_model(MODEL)
    plan = make_plan(
        read_prompts("data/prompts.csv"), "hidden_state", layers="1-7", amplifiers=(1, 2, 3), target_layer=0
    )
    batch = next(run(lm, plan, 512))
    columns = list(zip(*batch.readings, strict=True))
    items = plan.items(lm, lm.identity)
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, dashboard_address=None, host="127.0.0.1"
        ) as cluster,
        distributed.Client(cluster) as client,
        Ledger(place / "canned", header([plan], [items], lm.identity)) as kept,
    ):

        def take(chunks: int) -> None:
            ready = distributed.as_completed(client.submit(canned, columns, pure=False) for _ in range(chunks))
            for future in ready:
                readings = [Reading(*values) for values in zip(*future.result(), strict=True)]
                kept.append(0, Batch(batch.items, readings, batch.made), 1.0)

        take(10)
        came = CHUNKS * len(batch.items) / seconds_of(lambda: take(CHUNKS))
        kept_alone = 50 * len(batch.items) / seconds_of(lambda: [kept.append(0, batch, 1.0) for _ in range(50)])
        size = (place / "canned" / "rows.jsonl").stat().st_size / (CHUNKS + 60) / len(batch.items)
    many = make_plan([f"Prompt number {i}" for i in range(MILLION // 84)], layers="1-7", amplifiers=tuple(range(1, 13)))
    texts = sorted({reading.result for reading in batch.readings})
    return {
        "driver": came,
        "disk": kept_alone,
        "bytes a row on the disk": size,
        "bytes a row in a message": len(pickle.dumps(columns)) / len(batch.items),
        "seconds to lay out 10^6 rows": seconds_of(lambda: many.items(lm, lm.identity)),
        "seconds to score 10^6 texts": seconds_of(lambda: Judge().embed(texts)) / len(texts) * MILLION,
    }


def main() -> None:
    place = Path(tempfile.mkdtemp(dir=ROOT / "runs"))
    try:
        speeds, sizes = ways(place), driver(place)
    finally:
        shutil.rmtree(place)
    table = [
        {"what": way, "value": round(speed, 1), "× plain": round(ratio, 2)} for way, (speed, ratio) in speeds.items()
    ]
    table += [{"what": name, "value": round(value, 1), "× plain": None} for name, value in sizes.items()]
    frame = pd.DataFrame(table)
    frame.attrs = {"model": MODEL, "rows": 48 * 7 * 6, "batch_size": BATCH, "rounds": ROUNDS}
    save_results(frame, ROOT / "benchmarks" / "results" / "long.csv")
    print(frame.to_string(index=False))


if __name__ == "__main__":
    main()
