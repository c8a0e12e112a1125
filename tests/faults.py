"""Real faults on a real run: processes killed at random moments, and what is there afterwards.

.venv/bin/python tests/faults.py 20            # a table; the last line says whether anything was lost
.venv/bin/python tests/faults.py 20 --workers 2
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
from pathlib import Path

import psutil

from helpers import ROOT

SWEEP = """
import sys
from pathlib import Path
from helpers import ledger
from helpers.plans import make_plan
from helpers.readings import Readings
from helpers.results import read_prompts

if __name__ == "__main__":
    model, place, workers, size = sys.argv[1:]
    ledger.WORK = Path(place) / "work"
    plan = make_plan(read_prompts("data/prompts.csv", 24), "hidden_state", layers="1-7", amplifiers=(1, 2, 3, 4))
    workers = int(workers) if workers.isdigit() else workers
    Readings(model, out_dir=Path(place) / "results", batch_size=int(size), workers=workers).of("sweep.csv", [plan])
"""
ROWS = 24 * 7 * 4


class Run:
    """One sweep, in a process of its own; what it keeps is under `place`."""

    def __init__(self, place: Path, model: str = "smollm2-135m", batch_size: int = 32):
        self.place, self.model, self.batch_size = place, model, batch_size
        self.script = place / "sweep.py"
        place.mkdir(parents=True, exist_ok=True)
        self.script.write_text(SWEEP)

    def start(self, workers: int | str = 0) -> subprocess.Popen:
        command = [sys.executable, self.script, self.model, self.place, str(workers), str(self.batch_size)]
        options = {"cwd": ROOT, "env": os.environ | {"PYTHONPATH": str(ROOT)}, "start_new_session": True}
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **options)

    def begin(self, workers: int | str = 0, rows: int = 64) -> subprocess.Popen:
        """Start, and wait for so many rows on the disk."""
        run = self.start(workers)
        self.wait_for(rows, run)
        return run

    def finish(self, workers: int | str = 0) -> bytes:
        """Run to the end; the bytes of its CSV."""
        run = self.start(workers)
        _, said = run.communicate(timeout=600)
        assert run.returncode == 0, said[-3000:]
        return (self.place / "results" / "sweep.csv").read_bytes()

    @property
    def file(self) -> Path:
        return next((self.place / "work").glob("*/sweep/rows.jsonl"), self.place / "none")

    @property
    def lines(self) -> bytes:
        """The whole lines of its ledger."""
        text = self.file.read_bytes() if self.file.is_file() else b""
        return text[: text.rfind(b"\n") + 1]

    @property
    def rows(self) -> int:
        """Rows that are on the disk."""
        return sum(len(json.loads(line)["id"]) for line in self.lines.splitlines())

    def wait_for(self, rows: int, run: subprocess.Popen) -> None:
        """Until so many rows are on the disk."""
        while self.rows < rows:
            assert run.poll() is None, run.communicate()[1][-3000:]
            time.sleep(0.05)

    def forget(self) -> None:
        for folder in ("work", "results"):
            shutil.rmtree(self.place / folder, ignore_errors=True)


def end(run: subprocess.Popen) -> None:
    """SIGKILL to a process; those that it started end by themselves."""
    children = psutil.Process(run.pid).children(recursive=True) if run.poll() is None else []
    run.send_signal(signal.SIGKILL)
    run.wait()
    run.stderr.close()
    psutil.wait_procs(children, timeout=30)


def kill_at_random(
    run: Run, kills: int, whole: bytes, seconds: float, workers: int | str = 0, seed: int = 0
) -> list[dict]:
    """Kill a sweep at a random moment, start it again, and so on; each time it is through, begin a new one.

    Args:
        whole: its CSV when nothing happens, in `seconds`.

    Returns:
        Of each kill: after how many seconds, the rows on the disk, and whether those of before were still there; of
        each sweep that got through, whether its CSV was the same bytes.
    """
    draw, table = random.Random(seed), []
    while sum("killed after" in one for one in table) < kills:
        before, started, moment = run.lines, time.monotonic(), draw.uniform(0, seconds)
        process = run.start(workers)
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            end(process)
            lines = run.lines
            table.append(
                {
                    "killed after": round(time.monotonic() - started, 2),
                    "rows": run.rows,
                    "lost": not lines.startswith(before),
                }
            )
        else:
            assert process.returncode == 0, process.stderr.read()[-3000:]
            process.stderr.close()
            table.append({"through": True, "same": (run.place / "results" / "sweep.csv").read_bytes() == whole})
            run.forget()
    table.append({"through": True, "same": run.finish(workers) == whole})
    run.forget()
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kills", type=int)
    parser.add_argument("--workers", type=int, default=0, help="processes of this machine; 0: the driver itself reads")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder))
        started = time.monotonic()
        whole = run.finish(options.workers)
        seconds = time.monotonic() - started
        run.forget()
        print(f"uninterrupted: {ROWS} rows in {seconds:.1f} s", flush=True)
        table = kill_at_random(run, options.kills, whole, seconds, options.workers)
    for one in table:
        print(json.dumps(one))
    killed, through = ([one for one in table if key in one] for key in ("lost", "through"))
    lost, other = sum(one["lost"] for one in killed), sum(not one["same"] for one in through)
    print(f"{len(killed)} kills, {lost} lost rows; {len(through)} CSVs in the end, {other} not the same bytes")
    return bool(lost or other)


if __name__ == "__main__":
    sys.exit(main())
