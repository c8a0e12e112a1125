"""What the paper's experiments ask for, what the prompt files hold, and readings that are taken instead of made again."""

import gzip

import pandas as pd
import pytest

from helpers import ROOT, InputError
from helpers.experiments import EXPERIMENTS, FINE_GRID, GRIDS, MLP_GRID, TARGET_PROMPTS
from helpers.models import read_model
from helpers.plans import make_plan
from helpers.readings import Readings
from helpers.reproduce import NOTEBOOKS, PAPER, STUDY_DTYPES, plans_of, read_parameters
from helpers.results import json_of, read_categories, read_gold, read_prompts, read_results
from helpers.scoring import is_echo

GOLD = read_gold("data/prompts.csv")
ELSEWHERE = read_gold("data/entities.csv")


def test_every_prompt_has_a_description_that_is_no_echo():
    assert len(GOLD) == 48
    for prompt, gold in (GOLD | ELSEWHERE | read_gold("data/known_entities.csv")).items():
        assert gold == gold.strip() and not gold.endswith(".") and len(gold.split()) <= 12, prompt
        assert not is_echo(gold, prompt), prompt


def test_the_second_set_is_large_varied_and_other_than_the_first():
    categories = read_categories("data/entities.csv")
    counts = pd.Series(categories).value_counts()
    assert len(ELSEWHERE) >= 240 and len(counts) >= 8 and counts.min() >= 20
    named = {prompt.lower() for prompt in ELSEWHERE}
    assert len(named) == len(ELSEWHERE) and not named & {prompt.lower() for prompt in GOLD}
    asked = " ".join(one.text for one in TARGET_PROMPTS)
    assert not [prompt for prompt in [*GOLD, *ELSEWHERE] if prompt in asked], (
        "a target prompt names an inspected entity"
    )


def test_a_file_without_descriptions_has_none(tmp_path):
    (tmp_path / "p.csv").write_text("prompt\nTitanic\n")
    assert read_gold(tmp_path / "p.csv") == {}
    (tmp_path / "p.csv").write_text("prompt,gold\nTitanic,\n")
    with pytest.raises(InputError, match="row 1 has no gold"):
        read_gold(tmp_path / "p.csv")
    with pytest.raises(InputError, match="no column 'category'"):
        read_categories(tmp_path / "p.csv")


def test_the_target_prompts_have_one_form():
    names = [one.name for one in TARGET_PROMPTS]
    assert len(TARGET_PROMPTS) == 5 == len(set(names)) and names[0] == "paper"
    for one in TARGET_PROMPTS:
        items = one.text.split(", ")
        assert len(items) == 4 and items[-1] == "x" and all(": " in item for item in items[:-1]) and one.stop == ", "


def test_grids_give_the_same_number_of_tries():
    assert {len(grid) for grid in GRIDS.values()} == {6} and all(1 in grid for grid in GRIDS.values())
    assert GRIDS["mlp_output"] == MLP_GRID and set(GRIDS["hidden_state"]) <= set(FINE_GRID)


@pytest.mark.parametrize("model", ["smollm2-135m"])
def test_everything_for_one_model_is_at_most_40000_rows(model):
    card = read_model(model)
    plans = {}
    for notebook in NOTEBOOKS + PAPER:
        parameters = read_parameters(notebook)
        if "dtype" in parameters:
            plans[notebook] = plans_of(notebook, parameters)
    assert set(EXPERIMENTS) <= set(plans)
    rows = {name: sum(len(plan.items(card)) for plan in some) for name, some in plans.items()}
    assert 30_000 < sum(rows.values()) <= 40_000, rows
    assert set(STUDY_DTYPES.values()) == {"bfloat16"}
    for name, some in plans.items():
        ids = pd.concat([plan.items(card) for plan in some])
        keys = ["source prompt", "component", "layer", "amplification value", "target layer", "target prompt", "seed"]
        assert not ids.duplicated(keys).any(), name


def readings(folder, reuse="", **options):
    return Readings("smollm2-135m", out_dir=str(folder), reuse=str(reuse), **options)


@pytest.mark.usefixtures("no_runs")
def test_readings_are_made_once_and_taken_after_that(tmp_path, monkeypatch):
    plans = [make_plan(["Titanic", "King Kong"], layers=2, amplifiers=[1, 3]), make_plan(["Titanic"], "zero", 2)]
    first = readings(tmp_path / "a").of("some.csv.gz", plans, GOLD)
    file = tmp_path / "a" / "some.csv.gz"
    assert len(first) == 5 == len(read_results(file)) and first["score gold"].notna().all()

    monkeypatch.setattr("helpers.readings.load_model", lambda *args, **options: pytest.fail("weights are not needed"))
    again = readings(tmp_path / "b", tmp_path / "a").of("some.csv.gz", plans, GOLD)
    assert (tmp_path / "b" / "some.csv.gz").read_bytes() == file.read_bytes()
    assert json_of(tmp_path / "b" / "some.csv.gz").read_text() == json_of(file).read_text()
    assert again.attrs["model"] == first.attrs["model"] and len(again.attrs["plans"]) == 2
    other = readings(tmp_path / "c", tmp_path / "a").of("some.csv.gz", plans, GOLD | {"Titanic": "Ship"})
    assert other["score gold"].tolist() != first["score gold"].tolist(), "scores are computed anew"
    assert b"score gold" in gzip.decompress(file.read_bytes())


@pytest.mark.parametrize(
    "change", [{"amplifiers": [1, 4]}, {"max_new_tokens": 9}, {"target_layer": 0}, {"layers": 3}, "dtype", "cut"]
)
@pytest.mark.usefixtures("no_runs")
def test_readings_that_would_come_out_otherwise_are_made(tmp_path, change, monkeypatch):
    settings = {"prompts": ["Titanic"], "layers": 2, "amplifiers": [1, 3]}
    readings(tmp_path / "a").of("some.csv.gz", [make_plan(**settings)])
    if change == "cut":  # a file that lost a row
        lines = gzip.decompress((tmp_path / "a" / "some.csv.gz").read_bytes()).splitlines(keepends=True)
        (tmp_path / "a" / "some.csv.gz").write_bytes(gzip.compress(b"".join(lines[:-1])))
    options = {"dtype": "bfloat16"} if change == "dtype" else {}
    wanted = [make_plan(**settings | (change if isinstance(change, dict) else {}))]
    asked = []
    monkeypatch.setattr("helpers.runs.finish", lambda *args, **kwargs: asked.append(1) or pytest.skip("made"))
    with pytest.raises(pytest.skip.Exception):
        readings(tmp_path / "b", tmp_path / "a", **options).of("some.csv.gz", wanted)
    assert asked


def test_prompts_can_be_cut_to_a_sample():
    parameters = read_parameters("stability")
    [first, *_] = plans_of("stability", parameters)
    assert first.prompts == tuple(read_prompts(ROOT / "data/prompts.csv")[::4]) and len(first.prompts) == 12
