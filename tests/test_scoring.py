"""The judge against values derived without it, and the counts against a slow count by hand."""

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from helpers import InputError
from helpers.scoring import embed, judge_folder, null_range, other_prompts, score, similarity, success_counts

TEXTS = ["Pink Floyd", ": British rock band, Tesla:", "", "Diana, Princess of Wales", "皇家 🎸", "NA"]


def plain_embedding(text):
    """all-MiniLM-L6-v2 as its card describes it: mean of the last hidden states, one text at a time."""
    tokenizer, model = (kind.from_pretrained(judge_folder()) for kind in (AutoTokenizer, AutoModel))
    with torch.inference_mode():
        hidden = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0)
    return (hidden / hidden.norm()).numpy()


def test_similarity_equals_the_judge_by_hand():
    truth = [plain_embedding(text) for text in TEXTS]
    values = similarity(TEXTS, TEXTS[::-1])
    assert values.dtype == np.float32 and values.shape == (len(TEXTS),)
    expected = [a @ b for a, b in zip(truth, truth[::-1], strict=True)]
    np.testing.assert_allclose(values, expected, atol=2e-6)
    np.testing.assert_allclose(similarity(TEXTS, TEXTS), 1, atol=2e-6)


def test_embed_keeps_order_and_repeats():
    vectors = embed(["b", "a", "b"])
    assert (vectors[0] == vectors[2]).all() and not (vectors[0] == vectors[1]).all()


def rows_of(table):
    columns = ["source prompt", "layer", "amplification value", "result"]
    rows = pd.DataFrame(table, columns=columns)
    return rows.assign(component="mlp_output", status="ok")


def test_score_columns():
    rows = rows_of([("Pink Floyd", 1, 1, ": rock band, Tesla"), ("Titanic", 1, 1, "ship"), ("Titanic", 1, 3, "")])
    rows.loc[2, "status"] = "nonfinite"
    scored = score(rows, gold={"Titanic": "A ship that sank in 1912"})
    assert scored["score"].tolist()[:2] == [
        round(float(similarity([a], [b])[0]), 6) for a, b in ((": rock band, Tesla", "Pink Floyd"), ("ship", "Titanic"))
    ]
    np.testing.assert_allclose(scored["score first item"][0], similarity(["rock band"], ["Pink Floyd"])[0], atol=2e-6)
    np.testing.assert_allclose(
        scored["score gold"][1], similarity(["ship"], ["A ship that sank in 1912"])[0], atol=2e-6
    )
    assert scored[["score", "score first item", "score gold"]].isna().values.tolist()[2] == [True] * 3
    assert np.isnan(scored["score gold"][0])
    assert "score" not in rows


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
    return rows_of(table)


def test_counts_equal_a_count_by_hand():
    rows, threshold = made_up(), 0.3
    per_layer, overall = success_counts(rows, threshold)
    prompts = list(dict.fromkeys(rows["source prompt"]))
    for counted in per_layer.to_dict("records"):
        plain = counted["method"] == "Patchscopes"
        own = rows[(rows["layer"] == counted["layer"]) & ((rows["amplification value"] == 1) == plain)]
        by_rotation = []
        for k in range(5):
            hits = 0
            for i, prompt in enumerate(prompts):
                results = own.loc[own["source prompt"] == prompt, "result"]
                hits += any(similarity([text], [prompts[(i + k) % 5]])[0] > threshold for text in results)
            by_rotation.append(hits)
        assert counted["interpreted"] == by_rotation[0]
        assert counted["null_mean"] == np.mean(by_rotation[1:])
        assert counted["null_high"] == max(by_rotation[1:])  # 97.5 % of four rotations is all of them
        assert counted["tries"] == own.groupby("source prompt").size().max()
        assert counted["low"] <= counted["interpreted"] <= counted["high"]
    by_method = per_layer.groupby("method")["interpreted"].sum()
    assert overall.set_index("method")["interpreted"].to_dict() == by_method.to_dict()
    assert by_method["Superscopes"] >= 5  # the fits are read as fits
    assert overall["p_value"].between(0.2, 1).all()  # one of five rotations at the least


def test_failed_rows_never_count():
    rows = made_up().assign(status="nonfinite")
    assert success_counts(rows)[0]["interpreted"].sum() == 0


@pytest.mark.parametrize("threshold", ["0.3", 2, None])
def test_threshold_is_a_cosine(threshold):
    with pytest.raises(InputError, match="threshold"):
        success_counts(made_up(), threshold)


def test_a_null_needs_two_prompts():
    with pytest.raises(InputError, match="at least two"):
        success_counts(made_up().iloc[:6])


def test_a_single_prompt_is_judged_beside_others():
    rows = made_up().iloc[:6]  # of Pink Floyd; layer 2 reads like Titanic
    others = ["pink  floyd", "Titanic", "King Kong", "Star Wars"]  # the first is the same
    per_layer, overall = success_counts(rows, others=others)
    cosines = embed(rows["result"].tolist()) @ embed(["Pink Floyd", *others[1:]]).T > 0.3
    for counted in per_layer.to_dict("records"):
        plain = (rows["amplification value"] == 1) == (counted["method"] == "Patchscopes")
        hits = cosines[(plain & (rows["layer"] == counted["layer"])).to_numpy()].any(0)
        assert (counted["prompts"], counted["interpreted"]) == (1, hits[0])
        assert counted["null_mean"] == round(hits[1:].mean(), 2)
    assert per_layer["interpreted"].sum() and per_layer["null_mean"].sum() and (overall["pairs"] == 2).all()


def test_the_null_of_a_best_has_as_many_tries():
    cosines = np.array([[0.1, 0.5, 0.2], [0.3, 0.0, 0.2]])
    assert null_range(cosines) == (0.2, 0.5) and null_range(cosines[:1]) == (0.1, 0.5)
    assert other_prompts("Star  Wars", ["star wars", "Star Trek"]) == ["Star Trek"]


def test_mixed_target_layers_are_refused():
    rows = made_up().assign(**{"target layer": 0, "target prompt": "paper"})
    assert (success_counts(rows)[0]["target"] == "0").all()
    rows.loc[0, "target layer"] = 5
    with pytest.raises(InputError, match="one target layer"):
        success_counts(rows)
