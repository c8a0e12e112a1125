"""Label scores against a plain computation, one whole pass per vector and label, and what is refused."""

import pytest
import torch
from test_teacher import plainly

from helpers import InputError
from helpers.engine.activations import capture
from helpers.engine.labels import LabelScorer, LabelScores, reference_vectors, score_labels
from helpers.engine.prompt import PatchedPrompt
from helpers.engine.references import last_tokens
from helpers.words.components import Site
from helpers.words.plans import make_plan
from helpers.words.prompts import read_prompts
from helpers.words.target import TargetPrompt

LABELS = ["band", "person", "rock band", "rock music", "a country in Europe", "rock"]
OTHERS = read_prompts("data/prompts.csv")[:12]


def vectors_of(lm, prompts, component="hidden_state", layer=1):
    return torch.stack([capture(lm, prompt)[component][layer, -1] for prompt in prompts])


def plain_odds(lm, vector, layer, labels, target=TargetPrompt(), start=": "):
    """Return Σ_t log D(c_t|vector) − Σ_t log D(c_t|nothing patched) of each label, by two whole passes each."""
    own = capture(lm, target.text)["hidden_state"][layer, target.placeholder]
    return torch.stack([
        plainly(lm, vector, layer, f"{start}{label}", target.text)[0].sum()
        - plainly(lm, own, layer, f"{start}{label}", target.text)[0].sum()
        for label in labels
    ])  # fmt: skip


@pytest.mark.parametrize("layers", [0, [1, 0]])
def test_scores_equal_a_plain_computation(tiny, layers):
    """In batches of any size."""
    vectors = 2 * vectors_of(tiny, ["Titanic", "Star Trek"])
    references = 2 * vectors_of(tiny, OTHERS)
    of = [layers] * 2 if isinstance(layers, int) else layers
    chance = {layer: torch.stack([plain_odds(tiny, one, layer, LABELS) for one in references]) for layer in {*of}}
    plain = [(plain_odds(tiny, vector, layer, LABELS), chance[layer]) for vector, layer in zip(vectors, of, strict=True)]
    for batch_size in (None, 1, 5):
        found = score_labels(tiny, vectors, layers, LABELS, references, batch_size=batch_size)
        for row, (odds, others) in enumerate(plain):
            others = others.softmax(1)
            torch.testing.assert_close(found.log_odds[row], odds, atol=1e-4, rtol=0)
            torch.testing.assert_close(found.probability[row], odds.softmax(0), atol=1e-4, rtol=0)
            torch.testing.assert_close(found.chance[row], others.mean(0), atol=1e-4, rtol=0)
            torch.testing.assert_close(found.as_probable[row], (others >= odds.softmax(0)).float().mean(0))
    assert found.continuations[2] == ": rock band" and found.labels == tuple(LABELS)


def test_probabilities_sum_to_one(tiny):
    found = score_labels(tiny, vectors_of(tiny, ["Titanic"]), 0, "band, person, food", vectors_of(tiny, OTHERS))
    torch.testing.assert_close(found.probability.sum(-1), torch.ones(1))
    torch.testing.assert_close(found.chance.sum(-1), torch.ones(1))


def test_another_target_prompt_goes_on_as_its_items_do(tiny):
    target = TargetPrompt("cat -> cat, Oslo -> Oslo, x")
    vectors = vectors_of(tiny, ["Titanic"])
    found = score_labels(tiny, vectors, 1, ["band", "a person"], vectors_of(tiny, OTHERS), target)
    assert found.continuations == (" -> band", " -> a person")
    torch.testing.assert_close(
        found.log_odds[0], plain_odds(tiny, vectors[0], 1, ["band", "a person"], target, " -> "), atol=1e-4, rtol=0
    )


def test_nothing_patched_has_no_odds(tiny):
    scorer = LabelScorer(tiny, LABELS, TargetPrompt())
    own = scorer.prompt.placeholder_states[Site("hidden_state", 2)][None]
    torch.testing.assert_close(
        scorer.log_odds(own, [Site("hidden_state", 2)]), torch.zeros(1, len(LABELS)), atol=1e-4, rtol=0
    )


def test_a_prompt_that_was_read_is_used_if_it_has_room(tiny):
    long, short = PatchedPrompt(tiny, TargetPrompt(), 10), PatchedPrompt(tiny, TargetPrompt(), 1)
    assert LabelScorer(tiny, LABELS, TargetPrompt(), long).prompt is long
    assert LabelScorer(tiny, LABELS, TargetPrompt(), short).prompt is not short
    assert LabelScorer(tiny, LABELS, TargetPrompt("Oslo: a city, x"), long).prompt is not long


@pytest.mark.parametrize("component", ["hidden_state", "mlp_output", "pre_mlp_residual", "attention_output"])
def test_references_are_other_prompts_last_tokens(tiny, component):
    [item] = make_plan("Titanic", component, 1, 3, target_layer=0).items(tiny)
    found = reference_vectors(item, last_tokens(tiny, OTHERS), {item.target: torch.zeros(tiny.width)})
    torch.testing.assert_close(found, 3 * vectors_of(tiny, OTHERS, component), atol=1e-4, rtol=1e-4)


def test_failed_rows_have_no_probability():
    odds = torch.tensor([[0.0, 1.0], [torch.nan, 1.0]])
    some, few = torch.zeros(2, 12, 2), torch.zeros(2, 12, 2)
    some[:, :2], few[:, :3] = torch.nan, torch.nan
    found = LabelScores(("a", "b"), (": a", ": b"), odds, some)
    assert found.chance.tolist() == [[0.5, 0.5]] * 2 and found.as_probable[0].tolist() == [1.0, 0.0]
    assert found.probability[1].isnan().all() and found.as_probable[1].isnan().all()
    assert LabelScores(("a", "b"), (": a", ": b"), odds, few).chance.isnan().all()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"labels": "band"}, r"labels=\['band'\]: expected 2 to 50 labels"),
        ({"labels": ["band", " BAND "]}, "labels='BAND': given twice"),
        ({"labels": ["band", 5]}, "labels=5: expected text"),
        ({"target_layers": 9}, "target_layers=9"),
        ({"vectors": torch.zeros(1, 3)}, "vectors="),
        ({"references": torch.zeros(9, 32)}, "references='9 vectors': chance needs at least 10"),
        ({"references": torch.zeros(12, 31)}, r"references=\(1, 12, 31\): expected shape \(r, 32\), or \(1, r, 32\)"),
        ({"references": torch.zeros(2, 12, 32)}, r"references=\(2, 12, 32\): expected shape"),
        ({"references": torch.zeros(32)}, r"references=\(32,\): expected shape"),
        ({"batch_size": 0}, "batch_size=0"),
    ],
)
def test_wrong_input_is_refused(tiny, given, words):
    usual = {
        "vectors": torch.zeros(1, 32), "target_layers": 0, "labels": ["a", "b"], "references": torch.zeros(12, 32)
    }  # fmt: skip
    with pytest.raises(InputError, match=words):
        score_labels(tiny, **usual | given)


@pytest.mark.slow
def test_a_real_model_knows_what_wales_and_diana_are(lm):
    """SmolLM2: at the token Wales the country comes first, the person five blocks later."""
    references = {layer: vectors_of(lm, OTHERS, layer=layer) for layer in (2, 5)}
    diana = capture(lm, "Diana, Princess of Wales")["hidden_state"]
    for layer, wanted in ((2, "country"), (5, "person")):
        found = score_labels(lm, diana[layer, -1:], 0, ["person", "country", "band", "food"], references[layer])
        best = found.probability[0].argmax()
        assert found.labels[best] == wanted
        assert found.probability[0, best] > 0.7 > found.chance[0, best] + 0.1
