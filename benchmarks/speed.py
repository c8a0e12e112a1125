"""The engine beside what it is compared with, in one process, in turns, on the same vectors.

    python -m benchmarks.speed [--model NAME | --shape llama-2-13b] [--device cuda] [--dtypes float32 bfloat16]
                               [--rows 1024] [--rounds 3] [--no-peers] [--no-growth] [--out FOLDER]

The ratio is the result; the seconds are that day's. Writes benchmarks/results/: speed.csv (a row per way and dtype),
growth.csv (time and memory from 256 rows to 16,384), speed.png (both, drawn). nnsight and TransformerLens are installed
into benchmarks/.venv, a layer above this environment, which stays as it is.
"""

import argparse
import gc
import importlib.util
import os
import platform
import statistics
import subprocess
import sys
import sysconfig
import time
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pandas as pd
import torch

from benchmarks import ways
from benchmarks.chart import draw
from benchmarks.growth import SIZES, measure_in_own_process
from helpers import ROOT
from helpers.engine.batches import is_out_of_memory, timed
from helpers.engine.interpret import find_size
from helpers.engine.prompt import PatchedPrompt
from helpers.models.load import LanguageModel, check_hardware, load_model
from helpers.runs.results import save_results
from helpers.words.target import TargetPrompt

RESULTS = ROOT / "benchmarks/results"
PEERS = Path(__file__).parent / ".venv"
PLAIN, FLOOR, ENGINE, SHORT = "plain, one by one", "bare matrix products", "this engine", "this engine, not compiled"
COMPARED = 128  # rows whose texts are compared with the plain way's
SIZES_TRIED = (64, 128, 256, 512, 1024)
SHAPES = {  # of random weights, for speed alone
    "llama-2-7b": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "heads": 32},
    "llama-2-13b": {"hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40, "heads": 40},
}
# way -> (its function, what it builds first, share of the rows that it is given, whether it picks its batch size)
WAYS = {
    FLOOR: (ways.floor, ways.prepare_floor, 1, False),
    ENGINE: (ways.engine, ways.prepare_compiled_engine, 1, False),
    SHORT: (ways.engine, ways.prepare_engine, 1, False),
    "batched generate": (ways.batched_generate, None, 1 / 2, True),
    "nnsight": (ways.nnsight, ways.prepare_nnsight, 1 / 2, True),
    "TransformerLens": (ways.transformer_lens, ways.prepare_transformer_lens, 1 / 4, True),
    PLAIN: (ways.plain, None, 1 / 64, False),
}
PACKAGES = {"nnsight": "nnsight", "TransformerLens": "transformer_lens"}


def random_model(shape: str, dtype: str, device: torch.device) -> LanguageModel:
    """Random weights of a known shape, with the default model's tokenizer and vocabulary."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    small, sizes = load_model("smollm2-135m", device="cpu"), dict(SHAPES[shape])
    heads = sizes.pop("heads")
    tokens = {name: getattr(small.config, name) for name in ("vocab_size", "bos_token_id", "eos_token_id")}
    config = LlamaConfig(**sizes, **tokens, num_attention_heads=heads, num_key_value_heads=heads)
    torch.manual_seed(0)
    with device:
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).eval()
    card = {"source": replace(small.source, name=shape), "config": config, "tokenizer": small.tokenizer}
    return LanguageModel(**card, model=model, dtype=dtype, fingerprint="random")


def vectors_of(lm: LanguageModel, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows, width) random vectors, the first ones the same however many, and (rows,) the blocks they are put at."""
    generator = torch.Generator().manual_seed(0)
    vectors = 20 * torch.randn(rows, lm.width, generator=generator)
    return vectors, 7 * torch.arange(rows) % lm.num_layers


def measure(lm: LanguageModel, rows: int, rounds: int) -> tuple[pd.DataFrame, dict[str, list[str]]]:
    """A row per way, and the texts of the rows that are compared."""
    vectors, layers = vectors_of(lm, rows)
    size = min(rows, find_size(PatchedPrompt(lm, TargetPrompt(), ways.NEW_TOKENS), 1 << 20))  # as for a long plan
    everything, work, once = ways.Work(lm, vectors, layers, size), {}, {}
    for name, (way, prepare, share, picks) in WAYS.items():
        if name in PACKAGES and importlib.util.find_spec(PACKAGES[name]) is None:
            print(f"{name}: not installed, left out")
            continue
        started = time.perf_counter()
        mine = replace(everything, peer=prepare(everything)) if prepare else everything
        once[name] = time.perf_counter() - started
        mine = mine.first(max(1, round(share * rows)))
        if picks:
            mine = replace(mine, batch_size=best_size(way, mine))
        way(mine.first(mine.batch_size if way is not ways.plain else 1))  # warm
        work[name] = mine
    seconds, texts = {name: [] for name in work}, {}
    for _ in range(rounds):
        for name, mine in work.items():
            started = time.perf_counter()
            texts[name] = WAYS[name][0](mine)
            if lm.device.type == "cuda":
                torch.cuda.synchronize()
            seconds[name].append((time.perf_counter() - started) / len(mine.vectors))
        print({name: round(1000 * all_[-1], 2) for name, all_ in seconds.items()}, "ms per row", flush=True)
    texts[PLAIN] = ways.plain(everything.first(COMPARED))
    medians = {name: statistics.median(all_) for name, all_ in seconds.items()}
    cuda = lm.device.type == "cuda"
    table = [
        {
            "model": lm.slug,
            "device": torch.cuda.get_device_name() if cuda else f"{torch.get_num_threads()} CPU cores",
            "dtype": lm.dtype,
            "way": name,
            "rows": len(work[name].vectors),
            "batch size": 1 if name == PLAIN else work[name].batch_size,
            "seconds once": round(once[name], 1),
            "ms per row": round(1000 * median, 3),
            "rows per second": round(1 / median, 2),
            "times the matrix products": round(median / medians[FLOOR], 2),
            "engine is faster by": round(median / medians[ENGINE], 2),
        }
        for name, median in medians.items()
    ]
    return pd.DataFrame(table), {name: some[:COMPARED] for name, some in texts.items() if some}


def best_size(way, work: ways.Work) -> int:
    """The batch size at which a way is fastest per row; larger ones are tried until that gets worse."""
    best, cost = SIZES_TRIED[0], torch.inf
    for size in SIZES_TRIED:
        if size > len(work.vectors):
            break
        try:
            trial = replace(work.first(size), batch_size=size)
            seconds = timed(lambda trial=trial: way(trial), work.lm.device) / size
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            break
        if seconds > cost:
            break
        best, cost = size, seconds
    return best


def compare(table: pd.DataFrame, texts: dict[str, list[str]], plain: list[str], column: str) -> None:
    """Add how many of the compared rows that a way was given read as they do in the plain way."""
    same = {name: sum(map(str.__eq__, some, plain)) for name, some in texts.items()}
    table[column] = [f"{same[name]} of {len(texts[name])}" if name in texts else "" for name in table["way"]]


def has_peers() -> bool:
    """Install the peers into benchmarks/.venv, above this environment; False where that can't be done."""
    wanted = (Path(__file__).parent / "requirements.txt").read_text()
    stamp = PEERS / ".ready"
    if not (stamp.exists() and stamp.read_text() == wanted):
        print("installing the peers into benchmarks/.venv", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", PEERS], check=True)
        below = PEERS / f"lib/python3.{sys.version_info.minor}/site-packages/below.pth"
        below.write_text(sysconfig.get_path("purelib") + "\n")  # pip finds torch and transformers there
        command = [PEERS / "bin/python", "-m", "pip", "install", "-q", "-r", Path(__file__).parent / "requirements.txt"]
        if subprocess.run(command).returncode:
            return False
        stamp.write_text(wanted)
    return True


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("torch", "transformers", "nnsight", "transformer-lens"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--shape", choices=SHAPES, help="random weights of this shape instead of a model")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--no-growth", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if not options.no_peers and Path(sys.prefix) != PEERS and has_peers():
        os.execv(PEERS / "bin/python", [PEERS / "bin/python", "-m", "benchmarks.speed", *sys.argv[1:]])

    tables, exact = [], None
    for dtype in options.dtypes:
        device = check_hardware(dtype, options.device)
        lm = (
            random_model(options.shape, dtype, device)
            if options.shape
            else load_model(options.model, dtype, str(device))
        )
        table, texts = measure(lm, options.rows, options.rounds)
        compare(table, texts, texts[PLAIN], "same texts as plain")
        if dtype == "float32":
            exact = texts[PLAIN]
        if exact:
            compare(table, texts, exact, "same texts as plain float32")
        if device.type != "cpu" and dtype == "float32" and not options.shape:
            on_cpu = ways.Work(load_model(options.model, dtype, "cpu"), *vectors_of(lm, COMPARED), COMPARED)
            compare(
                table, texts, ways.engine(replace(on_cpu, peer=ways.prepare_engine(on_cpu))), "same texts as on the CPU"
            )
        tables.append(table)
        del lm, texts
        gc.collect()
    table = pd.concat(tables, ignore_index=True)
    table.attrs = {"versions": versions(), "new_tokens": ways.NEW_TOKENS, "rounds": options.rounds}
    print(table.drop(columns=["model", "device"]).to_string(index=False))
    options.out.mkdir(parents=True, exist_ok=True)
    save_results(table, options.out / "speed.csv")
    if options.no_growth or options.shape:
        return
    growth = pd.DataFrame([measure_in_own_process(options.model, options.device, rows) for rows in SIZES])
    growth.attrs = {"versions": versions()}
    print(growth.to_string(index=False))
    save_results(growth, options.out / "growth.csv")
    draw(table, growth, options.out / "speed.png")


if __name__ == "__main__":
    main()
