"""The logit lens is the model's own last norm and head."""

import pytest
import torch
from families import each, small_model
from reference import blocks_of

from helpers import InputError
from helpers.engine.activations import capture
from helpers.lenses import logit
from helpers.lenses.logit import first_token, logits_of, ranks, vocabulary
from helpers.words.components import COMPONENTS

PROMPT = "Diana, Princess of Wales"
WRITTEN_OUT = {  # family -> its last norm and head, and what it does to the logits, by its names
    "Llama": lambda model, v: model.lm_head(model.model.norm(v)),
    "GPT-2": lambda model, v: model.lm_head(model.transformer.ln_f(v)),
    "Gemma 2": lambda model, v: 30 * torch.tanh(model.lm_head(model.model.norm(v)) / 30),
    "Cohere": lambda model, v: 0.0625 * model.lm_head(model.model.norm(v)),
    "Granite": lambda model, v: model.lm_head(model.model.norm(v)) / model.config.logits_scaling,
}


@torch.no_grad()
def plain_lens(model, ids, vector):
    """Return the logits after an ordinary pass in which the last block's output at the last token is the vector."""

    def overwrite(module, args, output):
        (output[0] if isinstance(output, tuple) else output)[0, -1] = vector

    handle = blocks_of(model)[-1].register_forward_hook(overwrite)
    try:
        return model(ids, use_cache=False).logits[0, -1].float()
    finally:
        handle.remove()


def vectors_of(lm):
    """Return a vector of each component and layer, (components × layers, width)."""
    activations = capture(lm, PROMPT)
    return torch.cat([activations[component][:, -1] for component in COMPONENTS])


@pytest.mark.parametrize("family", each())
def test_it_is_what_the_model_does_behind_its_last_block(lm, family):
    small = small_model(family, lm.tokenizer)
    vectors = vectors_of(small)
    ids = torch.tensor([small.token_ids(PROMPT)])
    wanted = torch.stack([plain_lens(small.model, ids, vector) for vector in vectors])
    torch.testing.assert_close(torch.cat(list(logits_of(small, vectors))), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", WRITTEN_OUT)
def test_it_is_the_formula(lm, family):
    small = small_model(family, lm.tokenizer)
    vectors = vectors_of(small)
    with torch.no_grad():
        wanted = WRITTEN_OUT[family](small.model, vectors)
    torch.testing.assert_close(torch.cat(list(logits_of(small, vectors))), wanted, rtol=1e-4, atol=1e-4)


def test_words_probabilities_and_ranks(lm, monkeypatch):
    vectors = torch.cat([vectors_of(lm)[::7], torch.full((1, lm.width), torch.nan)])
    with torch.no_grad():
        probabilities = lm.model.lm_head(lm.model.model.norm(vectors)).softmax(-1)
    wanted = probabilities[:-1].topk(5)
    found = vocabulary(lm, vectors, k=5)
    assert found[-1] == [] and len(found) == len(vectors)
    for row, values, tokens in zip(found, *wanted, strict=False):
        assert [text for text, _ in row] == [lm.tokenizer.decode([token]) for token in tokens]
        assert [p for _, p in row] == pytest.approx(values.tolist(), rel=1e-3)
    words = ["princess", "Antarctica", "the"]
    ids = [lm.tokenizer(" " + word, add_special_tokens=False).input_ids[0] for word in words]
    orders = probabilities[:-1].argsort(-1, descending=True).tolist()
    told = ranks(lm, vectors, words)
    assert told[:-1].tolist() == [[order.index(token) + 1 for token in ids] for order in orders]
    assert told[-1].tolist() == [0, 0, 0]
    monkeypatch.setattr(logit, "MOST_BYTES", 4 * 49152 * 3)
    assert [len(block) for block in logits_of(lm, vectors)][0] == 3 and (ranks(lm, vectors, words) == told).all()


def test_the_last_hidden_state_is_what_the_model_says_next(lm):
    last = capture(lm, "The capital of France is")["hidden_state"][-1, -1:]
    assert vocabulary(lm, last, 1)[0][0][0] == lm.tokenizer.decode(
        lm.model(torch.tensor([lm.token_ids("The capital of France is")])).logits[0, -1].argmax()
    )
    assert ranks(lm, last, [vocabulary(lm, last, 1)[0][0][0]]).item() == 1
    assert [word for word, _ in vocabulary(lm, last, 8)[0]] == [word for word, _ in vocabulary(lm, 7 * last, 8)[0]]


def test_a_words_first_token_follows_a_space(lm):
    assert lm.tokenizer.decode([first_token(lm, "Antarctica")]) == lm.tokenizer.decode(
        lm.tokenizer("a Antarctica").input_ids[1]
    )
    assert first_token(lm, " band") == first_token(lm, "band") == lm.tokenizer(" band").input_ids[0]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda lm: vocabulary(lm, torch.zeros(2, 5)), r"vectors=\(2, 5\): expected shape \(n, 32\)"),
        (lambda lm: vocabulary(lm, torch.zeros(2, 32), k=0), "k=0: expected a whole number from 1 to 49152"),
        (lambda lm: ranks(lm, torch.zeros(2, 32), [" "]), "words=' ': expected a word"),
    ],
)
def test_wrong_input_is_refused(tiny, call, words):
    with pytest.raises(InputError, match=words):
        call(tiny)


def test_no_vectors_are_no_words(tiny):
    assert vocabulary(tiny, torch.zeros(0, 32)) == [] and ranks(tiny, torch.zeros(0, 32), ["band"]).shape == (0, 1)
