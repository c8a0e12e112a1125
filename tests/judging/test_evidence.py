"""What the model tells of its readings, against a plain way, one reading at a time.

On the small random model; the slow tests are the same ones on the real model.
"""

import numpy as np
import pytest
import torch

from helpers import InputError
from helpers.engine.activations import capture
from helpers.engine.references import References
from helpers.engine.teacher import score_texts
from helpers.judging.evidence import EVIDENCE, Witness, round_trip
from helpers.runs.sweep import sweep
from helpers.words.prompts import read_prompts
from helpers.words.target import TargetPrompt

REFERENCES = read_prompts("data/prompts.csv", 12)


@pytest.fixture(scope="module", params=["tiny", pytest.param("lm", marks=pytest.mark.slow)])
def model(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def read(model):
    """Readings of one prompt that is a reference and one that isn't, in two layers and components; some say nothing."""
    prompts = [REFERENCES[0], "Diana, Princess of Wales"]
    return sweep(model, prompts, ["mlp_output", "hidden_state"], [2, model.num_layers // 6], [1, 4], target_layer=0)


@pytest.fixture(scope="module")
def witness(model):
    return Witness(model, REFERENCES)


@pytest.fixture(scope="module")
def found(witness, read):
    return witness.of(read)


def last(lm, prompt, component, layer, known={}):
    if (lm.name, prompt) not in known:
        known[lm.name, prompt] = capture(lm, prompt)
    return known[lm.name, prompt][component][layer, -1].float()


def cosine(first, second):
    return torch.nn.functional.cosine_similarity(first, second, dim=0).item()


def test_the_evidence_equals_a_plain_way(model, read, found):
    assert list(found) == list(EVIDENCE) and found.index.equals(read.index)
    says = read["first item"] != ""
    assert found[says].notna().all(axis=None) and found[~says].isna().all(axis=None) and says.sum() > 8
    for index in read.index[says][::4]:
        row = read.loc[index]
        prompt, component, layer = row["source prompt"], row["component"], row["layer"]
        vector = last(model, prompt, component, layer)
        written = row["result"][: row["result"].index(row["first item"]) + len(row["first item"])]
        scores = score_texts(model, row["amplification value"] * vector[None], 0, [written])
        unpatched = score_texts(model, None, 0, [written])
        assert found.loc[index, "entropy"] == pytest.approx(row["entropy"], abs=1e-3), "as the reading itself says"
        assert found.loc[index, "item_log_prob"] == pytest.approx(scores.log_prob.item(), abs=1e-3)
        assert found.loc[index, "pmi"] == pytest.approx((scores.log_prob - unpatched.log_prob).item(), abs=1e-3)
        others = [last(model, other, component, layer) for other in REFERENCES if other != prompt]
        assert len(others) == 12 - (prompt in REFERENCES)
        mean, back = sum(others) / len(others), last(model, row["first item"], component, layer)
        expected = cosine(back - mean, vector - mean) - np.mean([cosine(back - mean, other - mean) for other in others])
        assert found.loc[index, "round_trip"] == pytest.approx(expected, abs=1e-3)


def test_references_that_are_at_hand_serve_as_well(model, read, found):
    assert Witness(model, References(model, REFERENCES)).of(read).equals(found)


def test_it_never_sees_a_score(read, witness, found):
    other = read.assign(score=0.5, **{"score gold": 0.1, "score first item": -0.2})
    assert witness.of(other).equals(found)


def test_order_and_company_do_not_matter(read, witness, found):
    mixed = read.sample(frac=0.5, random_state=0)
    assert np.allclose(witness.of(mixed), found.loc[mixed.index], atol=2e-3, equal_nan=True)


def test_what_has_no_reading_has_no_evidence(model, read, witness):
    rows = read[:4].copy()
    rows.loc[0, ["status", "result", "first item"]] = ["nonfinite", "", ""]
    rows.loc[1, ["result", "first item"]] = [", and", ""]
    found = witness.of(rows)
    assert found.loc[[0, 1]].isna().all(axis=None) and found.loc[[2, 3]].notna().all(axis=None)
    random = sweep(model, "Titanic", ["random[mlp_output]"], 2, 1, target_layer=0)
    [row] = witness.of(random).to_dict("records")
    assert np.isnan(row["round_trip"]) and np.isfinite(row["pmi"]), "no text has a random vector"


def test_a_vector_that_is_read_right_comes_back():
    generator = torch.Generator().manual_seed(0)
    references, vectors = torch.randn(20, 8, generator=generator), torch.randn(3, 8, generator=generator)
    assert (round_trip(vectors, vectors, references) > 0.6).all()
    shared = round_trip(vectors, references.mean(0) + 1e-3 * torch.randn(3, 8, generator=generator), references)
    assert (shared.abs() < 0.9).all() and not torch.allclose(shared, round_trip(vectors, vectors, references))


def test_wrong_input_is_refused(model, read, witness):
    with pytest.raises(InputError, match="references=10: evidence needs at least 10 other prompts"):
        Witness(model, REFERENCES[:10])
    with pytest.raises(InputError, match="expected readings of the target prompt 'custom"):
        Witness(model, REFERENCES, TargetPrompt("Paris: a city, x")).of(read)
    with pytest.raises(InputError, match="there is no evidence of centred components yet"):
        witness.of(read.assign(component="centred[mlp_output]"))


def test_where_nothing_is_patched_the_pmi_is_nothing(model, witness):
    """A reading of the placeholder's own state tells nothing beyond the prompt."""
    rows = sweep(model, "Titanic", ["none"], 2, 1, target_layer=0)
    [row] = witness.of(rows).to_dict("records")
    assert row["pmi"] == pytest.approx(0, abs=1e-3)


def test_the_evidence_is_of_where_a_vector_was_put(tiny):
    """At each place, and with several placeholders, it is as sure as the reading itself was."""
    two = TargetPrompt("Oslo: Capital of Norway, x x", placeholder=("x",))
    span = TargetPrompt("Oslo: Capital of Norway, x x", placeholder=("x",), span=True)
    prompt, places = "Diana, Princess of Wales", ["hidden_state", "block_input", "mlp_output", "embedding"]
    shared = {"layers": 2, "amplifiers": [1, 9], "target_layer": 1, "max_new_tokens": 4}
    for target_prompt in (TargetPrompt(), two, span):
        rows = sweep(tiny, [prompt], ["mlp_output", "random[mlp_output]"], target_prompt=target_prompt, target_component=places, **shared)
        rows = rows[rows["first item"] != ""]
        assert set(rows["target component"]) == {"", *places[1:]} and rows["entropy"].nunique() > 4
        found = Witness(tiny, REFERENCES, target_prompt).of(rows)
        assert np.allclose(found["entropy"], rows["entropy"], atol=1e-3)
    row = rows[rows["target component"] == "mlp_output"].iloc[0]
    assert row["component"] == "mlp_output"
    written = row["result"][: row["result"].index(row["first item"]) + len(row["first item"])]
    vectors = capture(tiny, prompt)["mlp_output"][2, -2:].float()[None]
    scores = score_texts(tiny, vectors, 1, [written], span, target_component="mlp_output")
    assert found.loc[row.name, "item_log_prob"] == pytest.approx(scores.log_prob.item(), abs=1e-3)


def test_of_what_the_model_writes_on_there_is_no_evidence(tiny):
    rows = sweep(tiny, ["Titanic"], "hidden_state", 1, 1, token="written", continue_tokens=2, max_new_tokens=4)
    with pytest.raises(InputError, match="rows='Titanic': token .* is none of the prompt's"):
        Witness(tiny, REFERENCES).of(rows)
