"""How likely given texts are: the batched pass against a plain one, one row at a time."""

import pytest
import torch
from reference import blocks_of

from helpers import InputError
from helpers.engine.activations import capture
from helpers.engine.prompt import PatchedPrompt
from helpers.engine.teacher import score_texts
from helpers.words.components import Site
from helpers.words.target import PAPER_TARGET_PROMPT, TargetPrompt

TEXTS = [": English rock band", ": British passenger ship that sank in 1912, Concorde", ": x", ": a river"]


@torch.no_grad()
def plainly(lm, vector, layer, text, target=PAPER_TARGET_PROMPT):
    """Return a text's log-probabilities and the first token's entropy, by one whole pass with one hook."""
    prompt = lm.tokenizer(target, return_tensors="pt").input_ids
    tokens = lm.tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
    place = prompt.shape[1] - 1

    def overwrite(module, args, output):
        hidden = output[0] if isinstance(output, tuple) else output
        hidden[0, place] = vector

    handle = blocks_of(lm.model)[layer].register_forward_hook(overwrite)
    try:
        scores = lm.model(torch.cat([prompt, tokens], 1)).logits[0].log_softmax(-1)
    finally:
        handle.remove()
    of_tokens = scores[place:-1].gather(1, tokens[0][:, None]).squeeze(1)
    return of_tokens, -(scores[place].exp() * scores[place]).sum()


def assert_equals_plain_pass(lm, batch_size=None):
    states = [capture(lm, prompt)["mlp_output"] for prompt in ("Pink Floyd", "Titanic", "Star Wars")]
    vectors = torch.stack([alpha * state[layer, -1] for state in states for layer in (1, 5) for alpha in (1, 6)])
    layers = [layer for _ in states for layer in (1, 5) for _ in (1, 6)]
    texts = [TEXTS[row % len(TEXTS)] for row in range(len(vectors))]
    found = score_texts(lm, vectors, layers, texts, batch_size=batch_size)
    for row, (vector, layer, text) in enumerate(zip(vectors, layers, texts, strict=True)):
        scores, entropy = plainly(lm, vector, layer, text)
        torch.testing.assert_close(found.log_probs[row], scores, atol=1e-4, rtol=0)
        assert found.entropy[row].item() == pytest.approx(entropy.item(), abs=1e-4)
        assert found.log_prob[row].item() == pytest.approx(scores.mean().item(), abs=1e-4)


@pytest.mark.parametrize("batch_size", [None, 1, 5])
def test_scores_equal_a_plain_pass(lm, batch_size):
    assert_equals_plain_pass(lm, batch_size)


def test_nothing_patched_is_the_model_itself(lm):
    prompt = PatchedPrompt(lm, TargetPrompt(), 1)
    found = score_texts(lm, None, 3, TEXTS)
    for text, scores in zip(TEXTS, found.log_probs, strict=True):
        expected, _ = plainly(lm, prompt.placeholder_states[Site("hidden_state", 3)], 3, text)
        torch.testing.assert_close(scores, expected, atol=1e-4, rtol=0)


def test_the_greedy_reading_is_likelier_than_another(lm):
    from helpers.engine.interpret import interpret

    vector = capture(lm, "Diana, Princess of Wales")["hidden_state"][3, -1][None]
    [written] = interpret(lm, vector, 0)
    own, other = score_texts(lm, vector.expand(2, -1), 0, [written, ": a kind of soup"]).log_prob
    assert own > other


def test_wrong_input_is_refused(lm):
    vectors = torch.zeros(2, lm.width)
    with pytest.raises(InputError, match="texts='': expected a text with at least one token"):
        score_texts(lm, vectors, 0, ["a", ""])
    with pytest.raises(InputError, match="texts=1: expected as many as vectors, 2"):
        score_texts(lm, vectors, 0, ["a"])
    with pytest.raises(InputError, match="target_layers=99"):
        score_texts(lm, vectors, 99, ["a", "b"])
    with pytest.raises(InputError, match="vectors="):
        score_texts(lm, torch.zeros(2, 3), 0, ["a", "b"])
    with pytest.raises(InputError, match="batch_size=0"):
        score_texts(lm, vectors, 0, ["a", "b"], batch_size=0)
    assert score_texts(lm, None, 0, []).log_probs == []
