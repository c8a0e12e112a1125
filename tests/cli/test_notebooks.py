"""The notebooks: how they are written, the parameters that they take, and that they read what the command announces."""

import ast
import random
import subprocess
import sys

import nbformat
import pytest
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from helpers import ROOT, InputError
from helpers.cli.notebooks import parameters_of
from helpers.cli.reproduce import settle
from helpers.experiments import EXPERIMENTS


def notebook(name: str) -> nbformat.NotebookNode:
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_notebooks_keep_the_house_rules(name):
    """Sources without outputs; literals first; no functions, no path tricks; each parameter explained."""
    cells = notebook(name).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert cells[0].cell_type == "markdown" and cells[0].source.startswith("# ")
    assert code[0].metadata.tags == ["parameters"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert all("  # " in line for line in code[0].source.splitlines())
    tree = ast.parse("\n".join(cell.source for cell in code))
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Lambda)]
    assert "sys.path" not in "".join(cell.source for cell in code)
    assert code[1].source.strip().splitlines()[-1].endswith(f"{name}.Settings.of_notebook(globals())")


CHOICES = {  # settings, and values to draw from
    "num_prompts": ["3", "7"],
    "layers": ["1", "0-2,5", "depth:0.2,0.5", "all"],
    "amplifiers": ["1,2", "1:3:0.5", "0.1, 7"],
    "fine_amplifiers": ["1:2:0.25"],
    "mlp_amplifiers": ["2,5.5", ""],
    "target_layer": ["same", "3"],
    "target_prompt": ["Syria: Country, {x} is", "a \\\"b\\\": c, x"],
    "token": ["-1", "0", "every 3rd"],
    "continue_tokens": ["2"],
    "seeds": ["2"],
    "seed": ["5"],
    "temperature": ["0.7"],
    "top_p": ["1", "0.5"],
    "max_new_tokens": ["4"],
    "prompt": ["Diana, Princess of Wales", "Zoë's \"Café\""],
    "sums": ["mlp_sum[1-2]", "mlp_sum[0-1],mlp_sum[1-3]"],
    "walkthrough_layers": ["0-3"],
    "every": ["3"],
    "batch_size": ["16"],
    "revision": ["v1.0"],
    "dtype": ["bfloat16"],
    "threshold": ["0.4"],
}


def arrived(name: str, settings) -> dict:
    """Return what a notebook's first cells hold when papermill has put settings into it."""
    source = load_notebook_node(str(ROOT / "notebooks" / f"{name}.ipynb"))
    given = parameterize_notebook(source, parameters_of(settings), kernel_name="python3", language="python")
    tags = ("parameters", "injected-parameters")
    cells = [cell.source for cell in given.cells if set(tags) & set(cell.metadata.get("tags", []))]
    values: dict = {}
    exec("\n".join(cells), values)
    values.pop("__builtins__")
    return values | {"In": [], "Out": {}, "get_ipython": print, "_": 1}


def plans_or_refusal(experiment, settings):
    try:
        return experiment.plans(settings)
    except InputError as error:
        return str(error)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_notebook_reads_what_the_command_announces(name):
    """Settings arrive in the notebook as they are, through papermill's text; so do the plans that they make."""
    experiment, draw = EXPERIMENTS[name], random.Random(name)
    known = experiment.Settings.model_fields
    fields = sorted({*known, *(["revision"] if "source_options" in known else [])} & set(CHOICES))
    for number in range(12):
        texts = [f"{field}={draw.choice(CHOICES[field])}" for field in fields if draw.random() < 0.5]
        settings = settle([name], texts, quick=bool(number % 2)).settings[name]
        theirs = experiment.Settings.of_notebook(arrived(name, settings))
        assert theirs == settings, texts
        if experiment.TABLE:
            assert plans_or_refusal(experiment, theirs) == plans_or_refusal(experiment, settings), texts


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"modle": "x"}, "modle='x': unknown; did you mean 'model'? known: model, source_options"),
        ({"batch_size": "007"}, "batch_size='007': expected a whole number"),
        ({"seed": True}, "seed=True: expected a whole number"),
        ({"dtype": 16}, "dtype=16: expected one of float32"),
        ({"temperature": "hot"}, "temperature='hot': expected a number"),
    ],
)
def test_a_notebook_refuses_parameters_that_it_does_not_have(given, words):
    """As papermill gives them to it, with what IPython puts there; names of the user's own are no parameters later."""
    record = EXPERIMENTS["mlp_output_evaluation"].Settings
    theirs = {"In": [], "Out": {}, "get_ipython": print, "_": 1}
    assert record.of_notebook(theirs | {"ast": ast, "mine": 3, "temperature": 1, "In": [""] * 9}).temperature == 1
    with pytest.raises(ValueError) as refused:
        record.of_notebook(theirs | given)
    assert str(refused.value).startswith(words)


@pytest.mark.slow
def test_papermill_alone_is_refused_a_misspelt_name(tmp_path):
    source = ROOT / "notebooks" / "layer_success_plots.ipynb"
    command = [sys.executable, "-m", "papermill", source, tmp_path / "out.ipynb", "-k", "python3"]
    run = subprocess.run([*command, "-p", "treshold", "0.4"], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 1 and "treshold=0.4: unknown; did you mean 'threshold'?" in run.stderr
