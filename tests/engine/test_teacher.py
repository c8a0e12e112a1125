"""How likely given texts are: the batched pass against a plain one, one row at a time."""

import pytest
import torch
from reference import blocks_of

from helpers import InputError
from helpers.engine.activations import capture
from helpers.engine.interpret import interpret, run
from helpers.engine.prompt import PatchedPrompt
from helpers.engine.teacher import score_texts
from helpers.words.components import Site
from helpers.words.plans import make_plan
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


@pytest.mark.parametrize("model", ["tiny", pytest.param("lm", marks=pytest.mark.slow)])
def test_scores_equal_a_plain_pass(model, request):
    """In batches of any size."""
    lm = request.getfixturevalue(model)
    states = [capture(lm, prompt)["mlp_output"] for prompt in ("Pink Floyd", "Titanic")]
    vectors = torch.stack([alpha * state[layer, -1] for state in states for layer in (0, 2) for alpha in (1, 6)])
    layers = [layer for _ in states for layer in (0, 2) for _ in (1, 6)]
    texts = [TEXTS[row % len(TEXTS)] for row in range(len(vectors))]
    plain = [plainly(lm, *row) for row in zip(vectors, layers, texts, strict=True)]
    for batch_size in (None, 1, 5):
        found = score_texts(lm, vectors, layers, texts, batch_size=batch_size)
        for row, (scores, entropy) in enumerate(plain):
            torch.testing.assert_close(found.log_probs[row], scores, atol=1e-4, rtol=1e-4)  # float32, by the processor
            assert found.entropy[row].item() == pytest.approx(entropy.item(), abs=1e-4)
            assert found.log_prob[row].item() == pytest.approx(scores.mean().item(), abs=1e-4)


def test_a_prompt_that_was_read_already_serves_again(tiny, monkeypatch):
    """With room enough it is not read again; with less, it is, and the scores are the same."""
    vectors = torch.stack([capture(tiny, "Titanic")["mlp_output"][layer, -1] for layer in (0, 1, 2, 0)])
    wanted = score_texts(tiny, vectors, 2, TEXTS)
    long, short = PatchedPrompt(tiny, TargetPrompt(), 30), PatchedPrompt(tiny, TargetPrompt(), 1)
    made = []
    monkeypatch.setattr("helpers.engine.teacher.PatchedPrompt.__init__", lambda self, *given: made.append(given))
    torch.testing.assert_close(score_texts(tiny, vectors, 2, TEXTS, long).log_prob, wanted.log_prob, atol=1e-4, rtol=0)
    assert not made
    monkeypatch.undo()
    torch.testing.assert_close(score_texts(tiny, vectors, 2, TEXTS, short).log_prob, wanted.log_prob, atol=1e-4, rtol=0)


def written_plainly(lm, vector, layer, target=PAPER_TARGET_PROMPT):
    """Return, of one `generate` with one hook, the first distribution's entropy and the tokens' mean log-probability."""
    prompt = lm.tokenizer(target, return_tensors="pt").input_ids
    passes = []

    def overwrite(module, args, output):
        hidden = output[0] if isinstance(output, tuple) else output
        if not passes:
            hidden[0, prompt.shape[1] - 1] = vector
        passes.append(1)

    handle = blocks_of(lm.model)[layer].register_forward_hook(overwrite)
    try:
        made = lm.model.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=10, do_sample=False,
            output_logits=True, return_dict_in_generate=True, eos_token_id=sorted(lm.stop_tokens), pad_token_id=0,
        )  # fmt: skip
    finally:
        handle.remove()
    scores = torch.cat(made.logits).log_softmax(-1)
    tokens = made.sequences[0, prompt.shape[1] :]
    return -(scores[0].exp() * scores[0]).sum().item(), scores.gather(1, tokens[:, None]).mean().item()


def test_how_sure_the_model_was_equals_a_plain_generate(tiny):
    """The columns `entropy` and `log_prob`; the readings end by themselves, or at the limit."""
    plan = make_plan(["Pink Floyd", "Titanic"], "mlp_output", [0, 2], [1, 6, 30])
    [batch] = run(tiny, plan)
    states = {prompt: capture(tiny, prompt)["mlp_output"] for prompt in plan.prompts}
    for item, reading in zip(batch.items, batch.readings, strict=True):
        vector = item.amplifier * states[item.source_prompt][item.layer, -1]
        entropy, log_prob = written_plainly(tiny, vector, item.target_layer)
        assert reading.entropy == pytest.approx(entropy, abs=1e-3)
        assert reading.log_prob == pytest.approx(log_prob, abs=1e-3)


def test_log_prob_counts_the_end_of_the_text_and_nothing_after(lm):
    """A row that ends early beside one that doesn't."""
    text = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\nThe capital is Paris"
    vectors = torch.stack([capture(lm, text)["hidden_state"][5, -1], torch.ones(lm.width)])  # its own state, and another
    written = PatchedPrompt(lm, TargetPrompt(text), 10).continue_from(vectors, [Site("hidden_state", 5)] * 2)
    assert len(written.tokens[0]) < len(written.tokens[1])
    for row, vector in enumerate(vectors):
        entropy, log_prob = written_plainly(lm, vector, 5, text)
        assert written.entropy[row] == pytest.approx(entropy, abs=1e-3)
        assert written.log_prob[row] == pytest.approx(log_prob, abs=1e-3)


def test_nothing_patched_is_the_model_itself(tiny):
    prompt = PatchedPrompt(tiny, TargetPrompt(), 1)
    found = score_texts(tiny, None, 1, TEXTS)
    for text, scores in zip(TEXTS, found.log_probs, strict=True):
        expected, _ = plainly(tiny, prompt.placeholder_states[Site("hidden_state", 1)], 1, text)
        torch.testing.assert_close(scores, expected, atol=1e-4, rtol=0)


def test_the_greedy_reading_is_likelier_than_another(tiny):
    vector = capture(tiny, "Diana, Princess of Wales")["hidden_state"][1, -1][None]
    [written] = interpret(tiny, vector, 0)
    own, other = score_texts(tiny, vector.expand(2, -1), 0, [written, ": a kind of soup"]).log_prob
    assert own > other


def test_wrong_input_is_refused(tiny):
    vectors = torch.zeros(2, tiny.width)
    with pytest.raises(InputError, match="texts='': expected a text with at least one token"):
        score_texts(tiny, vectors, 0, ["a", ""])
    with pytest.raises(InputError, match="texts=1: expected as many as vectors, 2"):
        score_texts(tiny, vectors, 0, ["a"])
    with pytest.raises(InputError, match="target_layers=99"):
        score_texts(tiny, vectors, 99, ["a", "b"])
    with pytest.raises(InputError, match="vectors="):
        score_texts(tiny, torch.zeros(2, 3), 0, ["a", "b"])
    with pytest.raises(InputError, match="batch_size=0"):
        score_texts(tiny, vectors, 0, ["a", "b"], batch_size=0)
    assert score_texts(tiny, None, 0, []).log_probs == []
