"""The report on a new model: what it says, on a model that can speak and on one that can't."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from helpers import InputError
from helpers.cli import main
from helpers.engine.activations import capture
from helpers.engine.prompt import PatchedPrompt
from helpers.experiments import can_it_speak
from helpers.experiments._speech import (
    cost,
    describe_named,
    judge_named,
    judge_readings,
    norms_by_layer,
    null_readings,
    rho_by_layer,
)
from helpers.experiments.can_it_speak import Found, Settings, layers_above_chance, sentences
from helpers.judging.counts import success_counts
from helpers.judging.judge import Judge, similarity
from helpers.runs.results import read_results
from helpers.runs.sweep import sweep
from helpers.words.prompts import read_gold, read_prompts
from helpers.words.target import TargetPrompt

GOLD = read_gold("data/known_entities.csv")
TARGET = TargetPrompt()


def test_the_known_entities():
    assert list(GOLD) == read_prompts("data/known_entities.csv") and len(GOLD) >= 20
    assert not set(GOLD) & set(read_prompts("data/prompts.csv"))  # none of the evaluations' own


def test_entities_named_in_plain_text_are_written_as_generate_does_it(tiny):
    entities = [*list(GOLD)[:5], "Wales"]
    texts = describe_named(tiny, entities, TARGET, 6)
    for entity, text in zip(entities, texts, strict=True):
        inputs = tiny.tokenizer(TARGET.text.removesuffix("x") + entity, return_tensors="pt")
        tokens = tiny.model.generate(**inputs, do_sample=False, max_new_tokens=6)[0, inputs.input_ids.shape[1] :]
        assert text == tiny.tokenizer.decode(tokens, skip_special_tokens=True)


def test_a_prompt_that_goes_on_after_its_placeholder_is_refused(tiny):
    with pytest.raises(InputError, match="target_prompt='One: two, x: y': expected to end in its placeholder"):
        describe_named(tiny, ["Wales"], TargetPrompt("One: two, x: y", " x"), 4)


def test_named_entities_are_judged_by_their_descriptions():
    texts = [f": {gold}, Tesla: American" for gold in GOLD.values()]
    texts[0], texts[1] = ": Albert Einstein", ": a kind of soup"  # an echo and a miss
    named = judge_named(GOLD, texts, TARGET, Judge())
    assert named["described"].tolist() == [False, False] + [True] * (len(GOLD) - 2)
    assert named["similarity"].iloc[2] == 1 and named["text"].iloc[0] == "Albert Einstein"
    others = [similarity([named["text"].iloc[i]], [list(GOLD.values())[(i + 1) % len(GOLD)]])[0] for i in range(3)]
    assert named.attrs["by_chance"]["mean"] < len(GOLD) / 3 and max(others) < 1


def test_what_follows_a_name_is_judged_beside_it():
    texts = [f": {gold}" for gold in GOLD.values()]
    followed = ["is a kind of soup", *(f": {gold}" for gold in list(GOLD.values())[1:3]), *["nothing of it"] * (len(GOLD) - 3)]
    named = judge_named(GOLD, texts, TARGET, Judge(), followed)
    assert named["continuation described"].tolist()[:3] == [False, True, True] and named["described"].sum() >= 15
    assert named["continuation"].iloc[0] == "is a kind of soup" and named.attrs["continuation_by_chance"]["mean"] < 3
    plain = judge_named(GOLD, texts, TARGET, Judge())
    assert list(plain) == list(named)[:5] and plain.attrs["by_chance"] == named.attrs["by_chance"]


def test_null_readings_are_what_they_are_called(tiny):
    readings = null_readings(tiny, 100.0, TARGET, 5)
    inputs = tiny.tokenizer(TARGET.text, return_tensors="pt")
    unpatched = tiny.model.generate(**inputs, do_sample=False, max_new_tokens=5)[0, inputs.input_ids.shape[1] :]
    assert [component for component, _ in readings] == ["none", "zero", "random", "random", "random"]
    assert readings[0][1] == tiny.tokenizer.decode(unpatched, skip_special_tokens=True)
    assert readings == null_readings(tiny, 100.0, TARGET, 5) and len({text for _, text in readings}) == 5


def test_norms(tiny):
    norms = norms_by_layer(tiny, ["Titanic"], TARGET)
    activations = capture(tiny, "Titanic")
    for name in ("hidden_state", "mlp_output"):
        assert np.allclose(norms[name], activations[name][:, -1].norm(dim=-1), rtol=1e-5)
    assert np.allclose(norms["placeholder"], PatchedPrompt(tiny, TARGET, 1).placeholder_norms)


def test_rho_is_the_rows_own(tiny):
    """What the report says of one prompt's vectors is what a sweep writes in its rows."""
    rho = rho_by_layer(norms_by_layer(tiny, ["Titanic"], TARGET), amplifiers=(1, 6))
    for component, target in (("mlp_output", "same"), ("hidden_state", 0)):
        settings = {"layers": "1,2", "amplifiers": (1, 6), "target_layer": target, "max_new_tokens": 1}
        rows = sweep(tiny, "Titanic", component, **settings).sort_values(["amplification value", "layer"])
        told = rho[(rho["component"] == component) & rho["layer"].isin([1, 2])]
        assert np.allclose(rows["rho"], told["rho"], rtol=1e-3)


def readings(read):
    """A row per entity and layer: its description where `read` says so, else nothing about it."""
    rows = [
        {"source prompt": entity, "layer": layer, "amplification value": 1.0, "component": "hidden_state",
         "result": f": {gold}, x: y" if read(number, layer) else ": qwerty", "status": "ok",
         "first item": gold if read(number, layer) else "qwerty"}
        for number, (entity, gold) in enumerate(GOLD.items()) for layer in range(6)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_readings_are_counted_per_layer_and_echoes_are_not():
    rows = readings(lambda number, layer: layer in (1, 2, 4) and number < 12)
    counts = judge_readings(rows, GOLD, Judge())
    assert counts["interpreted"].tolist() == [0, 12, 12, 0, 12, 0]
    assert layers_above_chance(counts) == "1–2, 4"
    counts.loc[0, "null_high"] = 12  # what luck can do in one layer, it can do in any
    assert layers_above_chance(counts) == ""
    rows["first item"] = rows["source prompt"]
    assert judge_readings(rows, GOLD, Judge())["interpreted"].sum() == 0


def test_success_counts_score_against_gold_where_there_is_one():
    rows = readings(lambda number, layer: layer == 0)
    assert success_counts(rows, gold=GOLD)[0]["interpreted"].tolist() == [24, 0, 0, 0, 0, 0]
    of_others = dict(zip(GOLD, reversed(GOLD.values()), strict=True))
    assert success_counts(rows, gold=of_others)[0]["interpreted"].iloc[0] < 12


@pytest.mark.parametrize(
    ("described", "read", "words"),
    [
        (24, lambda number, layer: layer > 0, "It can speak, and its hidden states can be read: worth a sweep."),
        (24, lambda number, layer: layer > 3 and number < 9, "It can speak, but little of what it could say is read"),
        (24, lambda number, layer: layer == 0 and number < 20, "It can speak, but little of what it could say is read"),
        (24, lambda number, layer: False, "It can speak, but plain readings of its hidden states are within chance"),
        (3, lambda number, layer: layer > 0, "It can hardly speak"),
    ],
)
def test_the_verdict(described, read, words):
    texts = [f": {gold}" if number < described else ": qwerty" for number, gold in enumerate(GOLD.values())]
    named, counts = judge_named(GOLD, texts, TARGET, Judge()), judge_readings(readings(read), GOLD, Judge())
    norms = pd.DataFrame({"layer": range(6), "hidden_state": 20.0, "mlp_output": 5.0, "placeholder": 10.0})
    costs = {"rows per second": 37.0, "GiB at most": 3.2}
    found = Found("m", pd.DataFrame(), named, norms, pd.DataFrame(), [], counts, costs)
    said = sentences(Settings(), found)
    assert said[0].startswith(words)
    assert f"it describes {described} of 24 entities" in said[1]
    assert "an MLP output is 0.5 times" in said[3] and "about 2 min here, at 37 a second" in said[4]


def test_cost(tiny):
    costs = cost(tiny, rows=500, seconds=10.0)
    weights = sum(weight.numel() for weight in tiny.model.parameters()) * 4 / 2**30
    assert costs["rows per second"] == 50 and costs["GiB at most"] > weights


def test_a_target_prompt_that_goes_on_is_refused_before_a_model_is_there():
    with pytest.raises(InputError, match="expected to end in its placeholder"):
        can_it_speak.plans(Settings(target_prompt="One: two, {x}: y"))


@pytest.mark.slow
def test_check_makes_a_page_and_prints_the_verdict(tmp_path, capfd):
    assert main(["check", "layers=0,4", "max_new_tokens=6", f"out_dir={tmp_path}"]) == 0
    said = capfd.readouterr().out
    assert "48 can_it_speak interpretations" in said and "It can speak" in said and "of 24 entities" in said
    rows = read_results(tmp_path / "can_it_speak.csv")
    assert len(rows) == 48 and rows["score gold"].notna().all() and set(rows["target layer"]) == {0}
    about = json.loads((tmp_path / "can_it_speak.json").read_text())
    assert about["verdict"][0] in said and len(about["named"]) == 24 and len(about["norms"]) == 30
    assert len(about["rho"]) == 2 * 6 * 30
    page = tmp_path / "can_it_speak.png"
    assert page.read_bytes().startswith(b"\x89PNG") and page.stat().st_size <= 300 << 10
    assert (tmp_path / "can_it_speak.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.slow
def test_a_model_that_knows_nothing_is_told_so(tiny_folder, tmp_path, capfd):
    """Random weights."""
    torch.manual_seed(0)
    settings = ["max_new_tokens=4", f"out_dir={tmp_path}"]
    assert main(["check", str(tiny_folder), *settings]) == 0
    assert "It can hardly speak" in capfd.readouterr().out


def test_entities_with_one_description_are_no_chance_for_each_other():
    band = "English rock band"
    named = judge_named({"Pink Floyd": band, "Queen": band, "Mount Fuji": "Volcano in Japan"}, [f": {band}"] * 2 + [": a soup"], TARGET, Judge())
    assert named["described"].tolist() == [True, True, False] and named.attrs["by_chance"] == {"mean": 0, "high": 0}


def test_a_single_description_is_refused_before_a_model_is_there(tmp_path):
    (tmp_path / "one.csv").write_text("prompt,gold\nPink Floyd,English rock band\nQueen,English rock band\n")
    with pytest.raises(InputError, match="prompts=.*chance needs two entities with different descriptions"):
        can_it_speak.plans(can_it_speak.Settings.of({"prompts": str(tmp_path / "one.csv")}))
