"""What only a GPU can show: python -m benchmarks.gpu TOKENIZER_FOLDER

Whether every family of the tests, small and random, writes on the GPU what it writes on the CPU in float32; and rows per
second in bfloat16 of random weights in two shapes, beside the bare matrix products of the same tokens and the plain way.
Writes benchmarks/results/gpu.csv. Needs no weights: the folder holds a tokenizer of 49,152 tokens, SmolLM2's.
"""

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from benchmarks import ways
from helpers import ROOT
from helpers.engine.interpret import interpret
from helpers.models.load import LanguageModel
from helpers.models.sources import Source
from helpers.runs.results import save_results
from helpers.words.settings import SourceOptions
from helpers.words.target import TargetPrompt

sys.path.append(str(ROOT / "tests"))
from families import FAMILIES, small_model  # noqa: E402

SHAPES = {
    "1.5B (1536 × 28)": {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
                         "num_key_value_heads": 2},
    "llama-2-13b": {"hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40, "num_attention_heads": 40,
                    "num_key_value_heads": 40},
}  # fmt: skip
SIZES, ROUNDS, VECTORS = (256, 512, 1024, 2048), 3, 24


def same_texts(tokenizer) -> tuple[int, int]:
    """Count the texts that the GPU writes as the CPU does, over all families, and all texts."""
    same = total = 0
    for name in FAMILIES:
        lm = small_model(name, tokenizer)
        vectors = 3 * torch.randn(VECTORS, lm.width, generator=torch.Generator().manual_seed(0))
        layers = [row % lm.num_layers for row in range(VECTORS)]
        texts = []
        for device in ("cpu", "cuda"):
            lm.model.to(device)
            texts.append(interpret(lm, vectors, layers, TargetPrompt("Syria: Country, x"), 6))
        same += sum(map(str.__eq__, *texts))
        total += VECTORS
    return same, total


def random_model(shape: str, tokenizer) -> LanguageModel:
    """Return a model of random bfloat16 weights on the GPU."""
    config = LlamaConfig(**SHAPES[shape], vocab_size=49152, bos_token_id=1, eos_token_id=2, max_position_embeddings=4096)
    torch.manual_seed(0)
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    source = Source(shape, Path(), None, SourceOptions())
    return LanguageModel(source, config, tokenizer, model=model, dtype="bfloat16", fingerprint="")


def rows_per_second(way: Callable, work: ways.Work) -> float:
    """Return the median speed of a way over several rounds, after one that warms up."""
    way(work)
    seconds = []
    for _ in range(ROUNDS):
        torch.cuda.synchronize()
        started = time.perf_counter()
        way(work)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return len(work.vectors) / statistics.median(seconds)


def measure(shape: str, tokenizer) -> list[dict]:
    """Return a row per batch size."""
    lm, lines, plain = random_model(shape, tokenizer), [], 0.0
    products = 2 * ways.NEW_TOKENS * sum(m.weight.numel() for m in lm.model.modules() if isinstance(m, torch.nn.Linear))
    for rows in SIZES:
        torch.cuda.reset_peak_memory_stats()
        vectors = 20 * torch.randn(rows, lm.width, generator=torch.Generator().manual_seed(0))
        work = ways.Work(lm, vectors, 7 * torch.arange(rows) % lm.num_layers, rows)
        engine = rows_per_second(ways.engine, replace(work, peer=ways.prepare_engine(work)))
        floor = rows_per_second(ways.floor, replace(work, peer=ways.prepare_floor(work)))
        plain = plain or rows_per_second(ways.plain, work.first(4))
        lines.append(
            {
                "shape": shape,
                "rows at a time": rows,
                "rows per second": round(engine, 1),
                "times the matrix products": round(floor / engine, 2),
                "TFLOP/s": round(engine * products / 1e12, 1),
                "the products' TFLOP/s": round(floor * products / 1e12, 1),
                "times the plain way": round(engine / plain),
                "peak GiB": round(torch.cuda.max_memory_allocated() / 2**30, 1),
            }
        )
        print(lines[-1], flush=True)
    return lines


def main(folder: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    same, total = same_texts(tokenizer)
    print(f"{same} of {total} texts are the CPU's, float32", flush=True)
    table = pd.DataFrame([line for shape in SHAPES for line in measure(shape, tokenizer)])
    table.attrs = {
        "device": torch.cuda.get_device_name(), "torch": torch.__version__, "transformers": transformers.__version__,
        "families": len(FAMILIES), "texts as on the CPU": f"{same} of {total}",
    }  # fmt: skip
    save_results(table, ROOT / "benchmarks" / "results" / "gpu.csv")


if __name__ == "__main__":
    main(sys.argv[1])
