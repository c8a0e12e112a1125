"""Real faults on a real run: processes killed at random moments, and what is there afterwards.

.venv/bin/python tests/runs/faults.py 20              # a table; the last line says whether anything was lost
.venv/bin/python tests/runs/faults.py 20 --workers 2
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

import psutil
from tables import assert_same_but_for_rounding

from helpers import ROOT
from helpers.words.settings import DEFAULT_MODEL

SWEEP = """
import sys
from pathlib import Path
from helpers.runs import ledger
from helpers.runs.session import Session
from helpers.words.plans import make_plan
from helpers.words.prompts import read_prompts
from helpers.words.settings import ModelSettings
from tables import QuickJudge, make_readings

if __name__ == "__main__":
    model, place, workers, size, layers, amplifiers = sys.argv[1:]
    ledger.WORK = Path(place) / "work"
    judge = QuickJudge() if Path(model).is_dir() else None
    if judge and workers != "0":
        from helpers.runs import cluster
        cluster.CHUNK = 0.3  # seconds: a chunk is a small part of a small model's plan, too
    session = Session(ModelSettings.of({"model": model}), judge)
    plan = make_plan(read_prompts("data/prompts.csv", 24), "hidden_state", layers, amplifiers)
    workers = int(workers) if workers.isdigit() else workers
    readings = make_readings(model, Path(place) / "results", None, session, batch_size=int(size), workers=workers)
    readings.of("sweep.csv", [plan])
"""


class Run:
    """A sweep in a process of its own.

    Args:
        folder: where it keeps everything.
        model: the default model, or the folder of a small one, which gets more and smaller batches.

    Attributes:
        total: how many rows it reads.
    """

    def __init__(self, folder: Path, model: str | Path = DEFAULT_MODEL, batch_size: int = 0):
        self.folder, self.model = folder, str(model)
        is_small = self.model != DEFAULT_MODEL
        self.batch_size = batch_size or (8 if is_small else 32)
        self.grid = ("all", "1:20:1") if is_small else ("1-7", "1:4:1")
        self.total = 24 * 3 * 20 if is_small else 24 * 7 * 4
        self.script = folder / "sweep.py"
        folder.mkdir(parents=True, exist_ok=True)
        self.script.write_text(SWEEP)

    def start(self, workers: int | str = 0) -> subprocess.Popen:
        command = [sys.executable, self.script, self.model, self.folder, str(workers), str(self.batch_size), *self.grid]
        path = os.pathsep.join(map(str, (ROOT, Path(__file__).parent)))
        options = {"cwd": ROOT, "env": os.environ | {"PYTHONPATH": path}, "start_new_session": True}
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **options)

    def begin(self, workers: int | str = 0, rows: int = 64) -> subprocess.Popen:
        """Start it, and wait for so many rows on the disk."""
        run = self.start(workers)
        self.wait_for(rows, run)
        return run

    def finish(self, workers: int | str = 0) -> bytes:
        """Run it to the end, and return the bytes of its CSV."""
        run = self.start(workers)
        _, said = run.communicate(timeout=600)
        assert run.returncode == 0, said[-3000:]
        return self.results

    @property
    def results(self) -> bytes:
        return (self.folder / "results" / "sweep.csv").read_bytes()

    @property
    def file(self) -> Path:
        return next((self.folder / "work").glob("*/sweep/rows.jsonl"), self.folder / "none")

    @property
    def lines(self) -> bytes:
        """Return the whole lines of its ledger."""
        text = self.file.read_bytes() if self.file.is_file() else b""
        return text[: text.rfind(b"\n") + 1]

    @property
    def rows(self) -> int:
        """Count the rows that are on the disk."""
        return sum(len(json.loads(line)["id"]) for line in self.lines.splitlines())

    def wait_for(self, rows: int, run: subprocess.Popen) -> None:
        """Wait for so many rows on the disk."""
        while self.rows < rows:
            assert run.poll() is None, run.communicate()[1][-3000:]
            time.sleep(0.05)

    def forget(self) -> None:
        for folder in ("work", "results"):
            shutil.rmtree(self.folder / folder, ignore_errors=True)


@cache
def uninterrupted(model: str | Path) -> tuple[bytes, float]:
    """Return the CSV of a sweep that nothing happens to, and how many seconds it takes."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        return Run(Path(folder), model).finish(), time.monotonic() - started


def end(run: subprocess.Popen) -> None:
    """Send SIGKILL to a process; those that it started end by themselves."""
    children = psutil.Process(run.pid).children(recursive=True) if run.poll() is None else []
    run.send_signal(signal.SIGKILL)
    run.wait()
    run.stderr.close()
    psutil.wait_procs(children, timeout=30)


def is_same(first: bytes, second: bytes) -> bool:
    """Tell whether two CSVs are the same, but for a last digit of what is measured."""
    try:
        assert_same_but_for_rounding(first, second)
    except AssertionError:
        return False
    return True


def kill_at_random(
    run: Run, kills: int, whole: bytes, seconds: float, workers: int | str = 0, seed: int = 0
) -> list[dict]:
    """Kill a sweep at a random moment, start it again, and so on; each time it is through, begin a new one.

    Args:
        whole: its CSV when nothing happens, in `seconds`.

    Returns:
        For each kill: after how many seconds, the rows on the disk, and whether those of before were lost; for each
        sweep that got through, whether its CSV was the same but for a last digit of what is measured.
    """
    draw, table = random.Random(seed), []
    while sum("killed after" in entry for entry in table) < kills:
        before, started, moment = run.lines, time.monotonic(), draw.uniform(0, seconds)
        process = run.start(workers)
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            end(process)
            after = round(time.monotonic() - started, 2)
            table.append({"killed after": after, "rows": run.rows, "lost": not run.lines.startswith(before)})
        else:
            assert process.returncode == 0, process.stderr.read()[-3000:]
            process.stderr.close()
            table.append({"through": True, "same": is_same(run.results, whole)})
            run.forget()
    table.append({"through": True, "same": is_same(run.finish(workers), whole)})
    run.forget()
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kills", type=int)
    parser.add_argument("--workers", type=int, default=0, help="processes of this machine; 0: the driver itself reads")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder))
        started = time.monotonic()
        whole = run.finish(options.workers)
        seconds = time.monotonic() - started
        run.forget()
        print(f"uninterrupted: {run.total} rows in {seconds:.1f} s", flush=True)
        table = kill_at_random(run, options.kills, whole, seconds, options.workers)
    for entry in table:
        print(json.dumps(entry))
    killed, through = ([entry for entry in table if key in entry] for key in ("lost", "through"))
    lost, other = sum(entry["lost"] for entry in killed), sum(not entry["same"] for entry in through)
    print(f"{len(killed)} kills, {lost} lost rows; {len(through)} CSVs in the end, {other} not the same")
    return bool(lost or other)


if __name__ == "__main__":
    sys.exit(main())
