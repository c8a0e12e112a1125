"""Prompts interpreted per layer, against a slow count by hand."""

import numpy as np
import pandas as pd
import pytest

from helpers import InputError
from helpers.judging.counts import counts_by_rule, success_counts
from helpers.judging.judge import Judge, similarity


def made_up():
    """Five prompts, two layers; readings that fit their own prompt, or the next one's."""
    prompts = ["Pink Floyd", "Titanic", "George Washington", "King Kong", "Star Wars"]
    fits = [": British rock band", ": ship that sank", ": first US president", ": giant ape", ": space film"]
    table = []
    for i, prompt in enumerate(prompts):
        table.append((prompt, 1, 1, fits[i] if i == 0 else "x"))
        table.append((prompt, 2, 1, fits[(i + 1) % 5]))
        for amplifier in (3, 6):
            table.append((prompt, 1, amplifier, fits[i] if amplifier == 6 else "nothing"))
            table.append((prompt, 2, amplifier, "nothing at all"))
    table.append(("Titanic", 2, 3, ": ship that sank"))  # a repeat counts too
    rows = pd.DataFrame(table, columns=["source prompt", "layer", "amplification value", "result"])
    return rows.assign(component="mlp_output", status="ok")


@pytest.mark.parametrize("threshold", [0.3, 0.15])
def test_counts_equal_a_count_by_hand(threshold):
    rows = made_up()
    per_layer, overall = success_counts(rows, Judge(threshold=threshold))
    prompts = list(dict.fromkeys(rows["source prompt"]))
    pairs = [(text, prompt) for text in rows["result"].unique() for prompt in prompts]
    fits = dict(zip(pairs, similarity(*map(list, zip(*pairs, strict=True))) > threshold, strict=True))
    for counted in per_layer.to_dict("records"):
        plain = counted["method"] == "Patchscopes"
        at_layer = rows[(rows["layer"] == counted["layer"]) & ((rows["amplification value"] == 1) == plain)]
        by_rotation = []
        for k in range(5):
            hits = 0
            for i, prompt in enumerate(prompts):
                results = at_layer.loc[at_layer["source prompt"] == prompt, "result"]
                hits += any(fits[text, prompts[(i + k) % 5]] for text in results)
            by_rotation.append(hits)
        assert counted["interpreted"] == by_rotation[0]
        assert counted["null_mean"] == pytest.approx(np.mean(by_rotation[1:]), abs=5e-3)
        assert counted["null_high"] == max(by_rotation[1:])  # 97.5 % of four rotations is all of them
        assert counted["tries"] == at_layer.groupby("source prompt").size().max()
        assert counted["low"] <= counted["interpreted"] <= counted["high"]
    by_method = per_layer.groupby("method")["interpreted"].sum()
    assert overall.set_index("method")["interpreted"].to_dict() == by_method.to_dict()
    assert by_method["Superscopes"] >= 5  # the fits are read as fits
    assert overall["p_value"].between(0.2, 1).all()  # one of five rotations at the least


def test_failed_rows_never_count():
    rows = made_up().assign(status="nonfinite")
    assert success_counts(rows)[0]["interpreted"].sum() == 0


def test_a_method_without_readings_is_not_counted():
    rows = made_up()
    per_layer, overall = success_counts(rows[rows["amplification value"] == 1])
    assert set(per_layer["method"]) == set(overall["method"]) == {"Patchscopes"}


def test_a_null_needs_two_prompts():
    with pytest.raises(InputError, match="at least two"):
        success_counts(made_up().iloc[:6])


def test_a_single_prompt_is_judged_beside_others():
    rows = made_up().iloc[:6]  # of Pink Floyd; layer 2 reads like Titanic
    others = ["pink  floyd", "Titanic", "King Kong", "Star Wars"]  # the first is the same
    per_layer, overall = success_counts(rows, others=others)
    embed = Judge().embed
    cosines = embed(rows["result"].tolist()) @ embed(["Pink Floyd", *others[1:]]).T > 0.3
    for counted in per_layer.to_dict("records"):
        plain = (rows["amplification value"] == 1) == (counted["method"] == "Patchscopes")
        hits = cosines[(plain & (rows["layer"] == counted["layer"])).to_numpy()].any(0)
        assert (counted["prompts"], counted["interpreted"]) == (1, hits[0])
        assert counted["null_mean"] == round(hits[1:].mean(), 2)
    assert per_layer["interpreted"].sum() and per_layer["null_mean"].sum() and (overall["pairs"] == 2).all()


def test_readings_can_be_judged_by_descriptions():
    rows = made_up()
    gold = dict.fromkeys(rows["source prompt"], "a meal of soup and bread") | {"King Kong": ": giant ape"}
    per_layer = success_counts(rows, gold=gold)[0]
    at = per_layer.set_index(["method", "layer"])["interpreted"]
    assert at["Superscopes", 1] == 1 and at["Patchscopes", 1] == 0


def test_mixed_target_layers_are_refused():
    rows = made_up().assign(**{"target layer": 0, "target prompt": "paper"})
    assert (success_counts(rows)[0]["target"] == "0").all()
    rows.loc[0, "target layer"] = 5
    with pytest.raises(InputError, match="one target layer"):
        success_counts(rows)


def test_chance_of_the_category_is_counted_beside():
    """Four prompts of two categories; one has the same description as another, which is then no chance for it."""
    prompts = ["Pink Floyd", "Led Zeppelin", "Titanic", "Star Wars"]
    gold = dict(zip(prompts, ["English rock band", "English rock band", "film about a ship", "space film"], strict=True))
    categories = dict(zip(prompts, ["band", "band", "film", "film"], strict=True))
    rows = pd.DataFrame({"source prompt": prompts, "layer": 1, "amplification value": 3, "result": ": American film"})
    rows = rows.assign(component="mlp_output", status="ok")
    counted = success_counts(rows, gold=gold, categories=categories)[0].iloc[0]
    fits = {prompt: similarity([": American film"], [gold[prompt]])[0] > 0.3 for prompt in prompts}
    assert counted["interpreted"] == sum(fits.values()) == 2
    of_bands, of_films = [fits["Titanic"], fits["Star Wars"]], [fits["Pink Floyd"], fits["Led Zeppelin"]]
    by_hand = [np.mean(of_bands)] * 2 + [np.mean([*of_films, fits["Star Wars"]]), np.mean([*of_films, fits["Titanic"]])]
    assert counted["null_mean"] == pytest.approx(sum(by_hand), abs=5e-3)
    assert counted["same_mean"] == 4, "the bands have nobody to judge them; of films, the other fits"


def test_both_rules_stand_in_one_table():
    rows = made_up()
    gold = dict(zip(rows["source prompt"].unique(), ["band", "ship", "president", "ape", "film"], strict=True))
    per_layer, overall = counts_by_rule(rows, descriptions=gold)
    assert list(per_layer["judged by"].unique()) == list(overall["judged by"].unique()) == ["description", "prompt"]
    by_prompt = per_layer[per_layer["judged by"] == "prompt"].drop(columns="judged by").reset_index(drop=True)
    pd.testing.assert_frame_equal(by_prompt, success_counts(rows)[0])
    assert list(counts_by_rule(rows, descriptions={"Titanic": "ship"})[0]["judged by"].unique()) == ["prompt"]
