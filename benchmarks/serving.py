"""A real server process for the benchmarks, what it holds in memory, and clients that ask it."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from gradio_client import Client

from helpers import ROOT

PATIENCE = 900  # seconds, for a start on a machine that does other work too


class Served:
    """A server process.

    Attributes:
        url: where it is.
    """

    def __init__(self, process: subprocess.Popen, url: str):
        self.url, self._process = url, psutil.Process(process.pid)

    @property
    def mib(self) -> float:
        """Return the MiB of memory that it holds."""
        return self._process.memory_info().rss / 2**20

    @property
    def cpu_seconds(self) -> float:
        """Return the seconds that its threads have run."""
        times = self._process.cpu_times()
        return times.user + times.system

    def client(self) -> Client:
        """Return a new visitor."""
        return Client(
            self.url, verbose=False, download_files=False, analytics_enabled=False, httpx_kwargs={"timeout": PATIENCE}
        )


@contextmanager
def served(model: str) -> Iterator[Served]:
    """Serve a model by the command line, with its usual settings, on a free port; the process ends with the block."""
    with socket.socket() as probe:  # of any number, so that no other server is asked
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "helpers.cli", "app", "--model", model, "--port", str(port)]
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}/"
    try:
        deadline = time.monotonic() + PATIENCE
        while not _answers(url):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"no server at {url}; exit code {process.poll()}")
            time.sleep(0.5)
        if process.poll() is not None:
            raise RuntimeError(f"another server is at {url}")
        yield Served(process, url)
    finally:
        process.terminate()
        process.wait(60)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=30):
            return True
    except (urllib.error.URLError, OSError):
        return False


def random_model(folder: Path) -> str:
    """Write a random Llama of 16 blocks of width 256, which reads 8,192 tokens, with the default model's tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from helpers.models.load import read_model

    tokenizer = read_model("smollm2-135m").tokenizer
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=256, intermediate_size=256, num_hidden_layers=16, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=8192, bos_token_id=1, eos_token_id=2, initializer_range=0.1,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
