"""The engine beside what it is compared with, in one process, in turns, on the same vectors.

    python -m benchmarks.speed [--model NAME | --shape llama-2-13b] [--device cuda] [--dtypes float32 bfloat16]
                               [--rows 1024] [--rounds 3] [--no-peers] [--no-growth]

The ratio is the result; the seconds are that day's. Writes benchmarks/results/: speed.csv (a row per way and dtype),
growth.csv (time and memory from 256 rows to 16,384), speed.png (both, drawn). nnsight and TransformerLens are installed
into benchmarks/.venv, a layer above this environment, which stays as it is.
"""

import argparse
import gc
import importlib.util
import os
import statistics
import subprocess
import sys
import sysconfig
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

from benchmarks import ways
from benchmarks.chart import draw
from benchmarks.growth import measure_growth
from helpers import ROOT
from helpers.batches import timed
from helpers.engine import PatchedPrompt
from helpers.models import LanguageModel, load_model
from helpers.plans import TargetPrompt
from helpers.results import save_results
from helpers.superscopes import find_size

RESULTS = ROOT / "benchmarks/results"
PEERS = Path(__file__).parent / ".venv"
COMPARED = 128  # rows whose texts are compared with the plain way's
SHAPES = {  # of random weights, for speed alone
    "llama-2-7b": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "heads": 32},
    "llama-2-13b": {"hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40, "heads": 40},
}
# way -> (its function, what it builds first, share of the rows that it is given, sizes that it may choose from)
WAYS = {
    "bare matrix products": (ways.floor, ways.prepare_floor, 1, None),
    "this engine": (ways.engine, None, 1, None),
    "batched generate": (ways.batched_generate, None, 1 / 2, (64, 128, 256)),
    "nnsight": (ways.nnsight, ways.prepare_nnsight, 1 / 2, (64, 128, 256)),
    "TransformerLens": (ways.transformer_lens, ways.prepare_transformer_lens, 1 / 4, (64, 128, 256)),
    "plain, one by one": (ways.plain, None, 1 / 64, None),
}
PACKAGES = {"nnsight": "nnsight", "TransformerLens": "transformer_lens"}


def random_model(shape: str, dtype: str, device: str) -> LanguageModel:
    """Random weights of a known shape, with the default model's tokenizer and vocabulary."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    small, sizes = load_model("smollm2-135m", device="cpu"), dict(SHAPES[shape])
    heads = sizes.pop("heads")
    tokens = {name: getattr(small.config, name) for name in ("vocab_size", "bos_token_id", "eos_token_id")}
    config = LlamaConfig(**sizes, **tokens, num_attention_heads=heads, num_key_value_heads=heads)
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).eval()
    card = {"name": shape, "folder": small.folder, "gguf_file": None, "config": config, "tokenizer": small.tokenizer}
    return LanguageModel(**card, model=model, dtype=dtype, fingerprint="random")


def measure(lm: LanguageModel, rows: int, rounds: int) -> tuple[pd.DataFrame, dict[str, list[str]]]:
    """A row per way, and the texts of the rows that are compared."""
    generator = torch.Generator().manual_seed(0)
    vectors = 20 * torch.randn(rows, lm.width, generator=generator)
    layers = torch.randint(lm.num_layers, (rows,), generator=generator)
    size = min(rows, find_size(PatchedPrompt(lm, TargetPrompt(), ways.NEW_TOKENS), 1 << 20))  # as for a long plan
    everything, work, texts = ways.Work(lm, vectors, layers, size), {}, {}
    for name, (way, prepare, share, sizes) in WAYS.items():
        if name in PACKAGES and importlib.util.find_spec(PACKAGES[name]) is None:
            print(f"{name}: not installed, left out")
            continue
        mine = replace(everything, peer=prepare(everything)) if prepare else everything
        texts[name] = way(mine.first(COMPARED))
        if sizes:  # its best
            trial = {n: timed(lambda n=n: way(replace(mine.first(n), batch_size=n)), lm.device) / n for n in sizes}
            mine = replace(mine, batch_size=min(trial, key=trial.get))
        work[name] = mine.first(max(1, round(share * rows)))
    seconds = {name: [] for name in work}
    for _ in range(rounds):
        for name, mine in work.items():
            seconds[name].append(timed(lambda name=name, mine=mine: WAYS[name][0](mine), lm.device) / len(mine.vectors))
        print({name: round(1000 * all_[-1], 2) for name, all_ in seconds.items()}, "ms per row", flush=True)
    medians = {name: statistics.median(all_) for name, all_ in seconds.items()}
    table = [
        {
            "model": lm.slug,
            "device": torch.cuda.get_device_name() if lm.device.type == "cuda" else f"{torch.get_num_threads()} CPU cores",
            "dtype": lm.dtype,
            "way": name,
            "rows": len(work[name].vectors),
            "batch size": 1 if name == "plain, one by one" else work[name].batch_size,
            "ms per row": round(1000 * median, 3),
            "rows per second": round(1 / median, 2),
            "times the matrix products": round(median / medians["bare matrix products"], 2),
            "engine is faster by": round(median / medians["this engine"], 2),
        }
        for name, median in medians.items()
    ]
    return pd.DataFrame(table), texts


def equal_texts(table: pd.DataFrame, texts: dict, plain: list[str], column: str) -> None:
    """Add how many of the compared rows read as they do in the plain way."""
    count = {name: sum(a == b for a, b in zip(some, plain, strict=True)) for name, some in texts.items() if some}
    table[column] = [f"{count[name]} of {len(plain)}" if name in count else "" for name in table["way"]]


def in_peers_environment() -> bool:
    """Install the peers into benchmarks/.venv, above this environment; False where that can't be done."""
    python = PEERS / "bin/python"
    wanted = (Path(__file__).parent / "requirements.txt").read_text()
    stamp = PEERS / ".ready"
    if not (stamp.exists() and stamp.read_text() == wanted):
        print("installing the peers into benchmarks/.venv", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", PEERS], check=True)
        below = PEERS / f"lib/python3.{sys.version_info.minor}/site-packages/below.pth"
        below.write_text(sysconfig.get_path("purelib") + "\n")  # pip finds torch and transformers there
        command = [python, "-m", "pip", "install", "--quiet", "-r", Path(__file__).parent / "requirements.txt"]
        if subprocess.run(command).returncode:
            return False
        stamp.write_text(wanted)
    return True


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
    if not options.no_peers and Path(sys.prefix) != PEERS and in_peers_environment():
        os.execv(PEERS / "bin/python", [PEERS / "bin/python", "-m", "benchmarks.speed", *sys.argv[1:]])

    tables, exact = [], None
    for dtype in options.dtypes:
        if options.shape:
            device = "cuda" if options.device == "auto" and torch.cuda.is_available() else options.device
            lm = random_model(options.shape, dtype, "cpu" if device == "auto" else device)
        else:
            lm = load_model(options.model, dtype, options.device)
        table, texts = measure(lm, options.rows, options.rounds)
        plain = texts["plain, one by one"]
        equal_texts(table, texts, plain, "same texts as plain")
        if dtype == "float32":
            exact = plain
        if exact:
            equal_texts(table, texts, exact, "same texts as plain float32")
        tables.append(table)
        del lm, texts
        gc.collect()
    table = pd.concat(tables, ignore_index=True)
    print(table.drop(columns=["model", "device"]).to_string(index=False))
    options.out.mkdir(parents=True, exist_ok=True)
    save_results(table, options.out / "speed.csv")
    if not options.no_growth:
        growth = measure_growth(options.model, options.device)
        print(growth.to_string(index=False))
        save_results(growth, options.out / "growth.csv")
        draw(table, growth, options.out / "speed.png")


if __name__ == "__main__":
    main()
