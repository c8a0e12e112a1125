"""The benchmark runs, and its ways do the same work."""

import subprocess
import sys

import pandas as pd
import pytest

from helpers import ROOT


@pytest.mark.slow
def test_the_benchmark_writes_its_table(tmp_path):
    command = [sys.executable, "-m", "benchmarks.speed", "--no-peers", "--no-growth", "--rows", "16", "--rounds", "1"]
    run = subprocess.run([*command, "--out", tmp_path], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    table = pd.read_csv(tmp_path / "speed.csv").set_index(["way", "dtype"])
    for way in ("this engine", "this engine, not compiled", "batched generate", "plain, one by one"):
        assert table.loc[(way, "float32"), "same texts as plain"].split(" of ")[0] in ("8", "16"), (
            "all that it was given"
        )
        assert table.loc[(way, "bfloat16"), "rows per second"] > 0
    assert (table["times the matrix products"] > 0).all()
