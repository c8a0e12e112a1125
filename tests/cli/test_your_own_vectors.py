"""The notebook on vectors of one's own: how it is written, and that it runs from end to end."""

import ast
import os
import subprocess
import sys

import nbformat
import pandas as pd
import pytest

from helpers import ROOT
from helpers.runs.results import read_about

SOURCE = ROOT / "notebooks" / "your_own_vectors.ipynb"


def test_it_keeps_the_house_rules():
    cells = nbformat.read(SOURCE, as_version=4).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert cells[0].source.startswith("# ") and code[0].metadata.tags == ["parameters"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert all("  # " in line for line in code[0].source.splitlines())
    tree = ast.parse("\n".join(cell.source for cell in code))
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Lambda)]


@pytest.mark.slow
def test_it_runs_from_end_to_end(tiny_folder, tmp_path):
    """Through papermill, on a small model: three tables, their figure, and the same neuron from a file and by name."""
    given = {"model": str(tiny_folder), "layer": 1, "neurons": 2, "layers": "1", "random": 2, "folder": str(tmp_path / "out")}
    options = [text for name, value in given.items() for text in ("-r" if isinstance(value, str) else "-p", name, str(value))]
    command = [sys.executable, "-m", "papermill", SOURCE, tmp_path / "done.ipynb", "-k", "python3", *options]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr[-3000:]
    for name, rows in {"features": 2, "steering": 2, "arithmetic": 3}.items():
        table = pd.read_csv(tmp_path / "out" / f"{name}.csv")
        assert len(table) == rows and (table["random"] <= 2).all(), name
        assert read_about(tmp_path / "out" / f"{name}.csv")["settings"]["random"] == 2
    assert (tmp_path / "out" / "contrast.png").stat().st_size > 5000
    said = [str(output.get("data", {}).get("text/plain", output.get("text", "")))
            for cell in nbformat.read(tmp_path / "done.ipynb", as_version=4).cells if cell.cell_type == "code"
            for output in cell.outputs]  # fmt: skip
    assert "True" in said and any("of 7 vectors say something that none of 2 random directions reach" in text for text in said)
