"""Rows of a file of vectors, read beside as many rows of a sweep, in turns; and the memory that a large file takes.

python -m benchmarks.given [--rows 100] [--rounds 2]

Writes benchmarks/results/given.csv: way, rows, rows per second, MB more than before. Sweep and file are read in turns
with the default model, at one batch size. The large file has 10,000 rows (and 100,000 beside them that are not asked for);
a small random model reads it, so that the time is the file's.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from helpers import load_model, make_plan, run
from helpers.models.load import read_model
from helpers.models.vector_files import VectorFile
from helpers.words.files import in_repository
from helpers.words.plans import Plan
from helpers.words.prompts import OUR_PROMPTS, read_prompts
from helpers.words.vectors import FileSource, make_vector_plan

LARGE, BESIDE = 10_000, 100_000
BATCH = 64


def seconds_of(lm, plan: Plan) -> float:
    """Read a plan; return how long it took."""
    started = time.monotonic()
    for batch in run(lm, plan, BATCH, fused=False):
        assert {reading.status for reading in batch.readings} == {"ok"}
    return time.monotonic() - started


def peak() -> float:
    """Return the most memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def file_plan(path: Path, rows: int, **settings) -> Plan:
    file = VectorFile(FileSource(str(path)))
    return make_vector_plan(file.vectors(f"0-{rows - 1}"), amplifiers=1, width=file.width, **settings)


def side_by_side(folder: Path, rows: int, rounds: int) -> list[tuple]:
    """Read a sweep's rows and a file's in turns."""
    lm = load_model("smollm2-135m")
    prompts = read_prompts(in_repository(OUR_PROMPTS))
    layers = -(-rows // len(prompts))
    sweep = make_plan(prompts, "norm[hidden_state]", f"0-{layers - 1}", 1, target_layer=0)
    count = len(sweep.items(lm))
    save_file({"v": torch.randn(count, lm.width)}, folder / "some.safetensors")
    seconds_of(lm, make_plan("Titanic", "hidden_state", 1, 1))  # the first pass of all is slow
    made = []
    for _ in range(rounds):
        made.append(("a sweep", count, seconds_of(lm, sweep)))
        started = time.monotonic()
        seconds_of(lm, file_plan(folder / "some.safetensors", count))
        made.append(("a file", count, time.monotonic() - started))  # its rows looked up and digested, too
    return made


def large(folder: Path) -> list[tuple]:
    """Read many rows of a large file; return how long it took, and how much more memory than for few rows."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49152, hidden_size=128, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder / "tiny")
    read_model("smollm2-135m").tokenizer.save_pretrained(folder / "tiny")
    tiny = load_model(str(folder / "tiny"))
    path = folder / "large.npy"
    table = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(LARGE + BESIDE, tiny.width))
    for start in range(0, LARGE, 1000):
        table[start : start + 1000] = np.random.default_rng(start).normal(size=(1000, tiny.width))
    del table
    seconds_of(tiny, file_plan(path, BATCH, max_new_tokens=1))
    before = peak()
    started = time.monotonic()
    seconds_of(tiny, file_plan(path, LARGE, max_new_tokens=1))
    return [("a large file, small model", LARGE, time.monotonic() - started, peak() - before)]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rows", type=int, default=100)
    options.add_argument("--rounds", type=int, default=2)
    options.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    given = options.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        alone = large(Path(name))  # first, while the process has had little memory
        made = side_by_side(Path(name), given.rows, given.rounds)
        found = pd.DataFrame(made, columns=["way", "rows", "seconds"]).groupby(["way", "rows"], sort=False)["seconds"].median().reset_index()
        found = pd.concat([found, pd.DataFrame(alone, columns=["way", "rows", "seconds", "MB more"])])
    found["rows per second"] = (found["rows"] / found["seconds"]).round(1)
    found["MB more"] = found["MB more"].round(1)
    found = found[["way", "rows", "seconds", "rows per second", "MB more"]].round({"seconds": 2})
    given.out.mkdir(parents=True, exist_ok=True)
    found.to_csv(given.out / "given.csv", index=False)
    print(found.to_string(index=False))


if __name__ == "__main__":
    main()
