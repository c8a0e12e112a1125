"""Does a long sweep stay as cheap per row as a short one, and as small in memory?

python -m benchmarks.growth MODEL DEVICE ROWS      # one length, in a process of its own; prints a line of JSON
"""

import json
import re
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch

from helpers import ROOT
from helpers.engine.interpret import run
from helpers.models.load import load_model
from helpers.words.plans import make_plan
from helpers.words.prompts import read_prompts

SIZES = (256, 1024, 4096, 16384)
BATCH_SIZE = 256  # the same for all, and nothing compiled, so that only the length differs


def measure_growth(name: str, device: str, size: int, dtype: str = "bfloat16") -> dict:
    """Milliseconds per row of a plan of so many rows, and the most memory held after its first batch and at its end.

    The batches are thrown away as they come, as a ledger would that writes them.
    """
    lm = load_model(name, dtype, device)
    prompts = [
        f"{prompt}{suffix}" for suffix in ("", ", the", ", a", " and") for prompt in read_prompts("data/prompts.csv")
    ]
    layers = list(range(min(lm.num_layers, 32)))
    amplifiers = (1, 2, 4, 8)
    wanted = -(-size // (len(layers) * len(amplifiers)))
    next(run(lm, make_plan(prompts[:wanted], "mlp_output", layers, amplifiers), 32, fused=False))  # warms up
    plan = make_plan(prompts[:wanted], "mlp_output", layers, amplifiers)
    batches = run(lm, plan, BATCH_SIZE, fused=False)  # reads the prefix: a fifth of a second, whatever the length
    rows, peaks, started = 0, [], time.perf_counter()
    for batch in batches:
        rows += len(batch.items)
        peaks.append(peak_mib(lm.device))
        if rows >= size:
            break
    seconds = time.perf_counter() - started
    return {
        "model": lm.slug,
        "dtype": dtype,
        "rows": rows,
        "ms per row": round(1000 * seconds / rows, 3),
        "peak MiB after the first batch": peaks[0],
        "peak MiB at the end": peaks[-1],
    }


def peak_mib(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) >> 20
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count what the parent process held
        return int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1]) >> 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 20  # macOS counts bytes


def measure_in_own_process(name: str, device: str, size: int) -> dict:
    command = [sys.executable, "-m", "benchmarks.growth", name, device, str(size)]
    return json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout)


if __name__ == "__main__":
    print(json.dumps(measure_growth(*sys.argv[1:3], int(sys.argv[3]))))
