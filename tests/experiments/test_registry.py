"""One description of each experiment: what the command announces, what the notebook reads, what the cell says."""

import ast
import json
import random
import subprocess
import sys

import pandas as pd
import pytest

from helpers import ROOT, InputError
from helpers.experiments import EXPERIMENTS, get, names, parameters_cell, write_parameters_cells
from helpers.judging.judge import is_echo
from helpers.models.load import read_model
from helpers.words.components import FINE_GRID, GRIDS, MLP_GRID
from helpers.words.decoding import PAPERS_SAMPLING
from helpers.words.prompts import read_categories, read_gold
from helpers.words.settings import read_settings
from helpers.words.target import TARGET_PROMPTS

GOLD = read_gold("data/prompts.csv")
ELSEWHERE = read_gold("data/entities.csv")
DRAWN = {  # settings that a user may give, drawn at random
    "num_prompts": ["0", "1", "8"], "layers": ["1,4,7", "2", "all", "depth:0.2"], "amplifiers": ["1:3:0.5", "1,2"],
    "token": ["-1", "-2", "every 2nd"], "continue_tokens": ["0", "3"], "target_layer": ["same", "0"], "target_component": ["block_input"], "way": ["norm"], "stop_at_item": ["true"], "seeds": ["1", "2"], "every": ["1", "5"], "max_new_tokens": ["3"],
    "temperature": ["0", "0.7"], "sums": ["", "mlp_sum[1-2]"], "walkthrough_layers": ["0-2"], "mlp_amplifiers": ["", "2"],
    "target_prompt": ["", "a: b, {x} and"], "target_prompts": ["1", "5"], "hidden_walkthroughs": ["Alexander the Great"],
}  # fmt: skip


def cells(name):
    return json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text())["cells"]


def code(name):
    return "\n".join("".join(cell["source"]) for cell in cells(name) if cell["cell_type"] == "code")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_has_all_its_parts(name):
    experiment = get(name)
    for part in ("PLACE", "WHEN", "QUESTION", "PAPER", "TABLE", "NEEDS", "Settings", "plans", "gold", "tables"):
        assert hasattr(experiment, part), part
    assert experiment.WHEN in ("default", "paper", "study", "check") and experiment.__doc__
    assert bool(experiment.TABLE) == bool(experiment.plans(experiment.Settings()))
    if not name.endswith("_evaluation"):
        assert all(hasattr(experiment, part) for part in ("sentences", "caption", "figure", "save"))


def test_places_are_distinct_and_an_unknown_name_is_refused():
    assert len({experiment.PLACE for experiment in EXPERIMENTS.values()}) == len(EXPERIMENTS)
    assert names("default") == ("mlp_output_evaluation", "hidden_state_evaluation", "layer_success_plots")
    with pytest.raises(InputError, match="--only='figure3': expected one of mlp_output_evaluation, "):
        get("figure3")


@pytest.mark.parametrize(
    ("name", "given", "why"),
    [
        ("stability", {"num_prompts": 4}, "every=4: leaves 1 of the prompts; chance needs two"),
        ("before_context", {"num_prompts": 1}, "num_prompts='1 of data/prompts.csv': chance needs at least two"),
        ("elsewhere", {"num_prompts": 1}, "chance within a category needs two entities"),
    ],
)
def test_what_chance_cannot_be_made_of_is_refused_before_anything_is_read(name, given, why):
    with pytest.raises(InputError, match=why):
        get(name).plans(get(name).Settings.of(given))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_notebook_is_the_experiment_and_holds_no_outputs(name):
    """What it reads is `Readings.read(experiment)`, whose plans are those that the command announces."""
    experiment, source = get(name), code(name)
    [parameters] = [cell for cell in cells(name) if "parameters" in cell["metadata"].get("tags", [])]
    assert "".join(parameters["source"]) == parameters_cell(experiment), "./runme.sh docs writes it"
    assert f"settings = {name}.Settings.of_notebook(globals())" in source
    assert (f"readings.read({name})" in source) == bool(experiment.TABLE)
    assert "make_plan" not in source and "def " not in source
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in cells(name))
    values = {line.targets[0].id: ast.literal_eval(line.value) for line in ast.parse(parameters_cell(experiment)).body}
    assert experiment.Settings.of(values) == experiment.Settings(), "the literals are the defaults"


def test_parameters_cells_are_written_where_they_are_out_of_date():
    assert write_parameters_cells(check=True) == []


@pytest.mark.parametrize("name", [name for name, experiment in EXPERIMENTS.items() if experiment.TABLE])
def test_the_command_and_the_notebook_plan_the_same(name):
    """Settings as the shell gives them, and as papermill gives what differs from the defaults to the notebook."""
    from helpers.cli.notebooks import parameters_of

    experiment, draw = get(name), random.Random(name)
    known = [setting for setting in DRAWN if setting in experiment.Settings.model_fields]
    for _ in range(20):
        chosen = draw.sample(known, min(len(known), draw.randint(0, 4)))
        given = read_settings([f"{one}={draw.choice(DRAWN[one])}" for one in chosen], [experiment.Settings])
        command = experiment.Settings.of(given)
        defaults = {line.targets[0].id: ast.literal_eval(line.value) for line in ast.parse(parameters_cell(experiment)).body}
        notebook = experiment.Settings.of_notebook(defaults | parameters_of(command) | {"In": [""], "get_ipython": print})
        try:
            announced = experiment.plans(command)
        except InputError:
            with pytest.raises(InputError):
                experiment.plans(notebook)
        else:
            assert experiment.plans(notebook) == announced and experiment.gold(notebook) == experiment.gold(command)


def test_everything_for_one_model_is_at_most_40000_rows():
    card, rows = read_model("smollm2-135m"), {}
    for name in names("default", "paper"):
        items = [item for plan in get(name).plans(get(name).Settings()) for item in plan.items(card)]
        assert len(set(items)) == len(items), f"{name} reads something twice"
        rows[name] = len(items)
    assert 30_000 < sum(rows.values()) <= 40_000, rows


def test_importing_all_experiments_imports_nothing_heavy():
    heavy = ("torch", "transformers", "pandas", "numpy", "scipy", "matplotlib")
    script = f"import sys, helpers.experiments as e; e.EXPERIMENTS; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_prompt_has_a_description_that_is_no_echo():
    assert len(GOLD) == 48
    for prompt, gold in (GOLD | ELSEWHERE | read_gold("data/known_entities.csv")).items():
        assert gold == gold.strip() and not gold.endswith(".") and len(gold.split()) <= 12, prompt
        assert not is_echo(gold, prompt), prompt


def test_the_second_set_is_large_varied_and_other_than_the_first():
    counts = pd.Series(read_categories("data/entities.csv")).value_counts()
    assert len(ELSEWHERE) >= 240 and len(counts) >= 8 and counts.min() >= 20
    named = {prompt.lower() for prompt in ELSEWHERE}
    assert len(named) == len(ELSEWHERE) and not named & {prompt.lower() for prompt in GOLD}
    asked = " ".join(prompt.text for prompt in TARGET_PROMPTS)
    mentioned = [prompt for prompt in [*GOLD, *ELSEWHERE] if prompt in asked]
    assert not mentioned, "a target prompt names an inspected entity"


def test_the_target_prompts_have_one_form():
    known = [prompt.name for prompt in TARGET_PROMPTS]
    assert len(TARGET_PROMPTS) == 5 == len(set(known)) and known[0] == "paper"
    for prompt in TARGET_PROMPTS:
        items = prompt.text.split(", ")
        assert len(items) == 4 and items[-1] == "x" and all(": " in item for item in items[:-1]) and prompt.stop == ", "


def test_grids_give_the_same_number_of_tries():
    assert {len(grid) for grid in GRIDS.values()} == {6} and all(1 in grid for grid in GRIDS.values())
    assert GRIDS["mlp_output"] == MLP_GRID and set(GRIDS["hidden_state"]) <= set(FINE_GRID)


def test_captions_follow_the_settings():
    """Sampling, tries and threshold are not typed into labels."""
    stability, tries, empty = get("stability"), get("amplification_or_tries"), pd.DataFrame()
    found = stability.Found("m", 12, "2, 5", {"Superscopes": 7}, ["prompt"], empty)
    caption = stability.caption(stability.Settings(threshold=0.4), found)
    assert str(PAPERS_SAMPLING) in caption and "above 0.4" in caption and "best of 7" in caption
    several = pd.DataFrame({"way": ["samples"]})
    found = tries.Found("m", 48, "1, 3", ["description", "prompt"], empty, empty, several, empty, {})
    caption = tries.caption(tries.Settings(threshold=0.25), found)
    assert "description above 0.25; as in the paper: similarity to the prompt" in caption and str(PAPERS_SAMPLING) in caption
