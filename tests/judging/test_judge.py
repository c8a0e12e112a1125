"""The judge against values derived without it, and what it takes for an echo."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from helpers import InputError
from helpers.judging.judge import Judge, is_echo, similarity
from helpers.words.prompts import other_prompts

TEXTS = ["Pink Floyd", ": British rock band, Tesla:", "", "Diana, Princess of Wales", "皇家 🎸", "NA"]


@pytest.fixture(scope="module")
def another(tmp_path_factory):
    """The paper's judge, but for its pooling: the first token's state, not the mean."""
    paper, folder = Judge().folder, tmp_path_factory.mktemp("judges") / "first-token"
    (folder / "1_Pooling").mkdir(parents=True)
    for file in paper.iterdir():
        if file.is_file():
            (folder / file.name).symlink_to(file)
    pooling = json.loads((paper / "1_Pooling" / "config.json").read_text())
    pooling |= {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return folder


def plain_states(text):
    """Hidden states of all-MiniLM-L6-v2, of one text at a time."""
    tokenizer, model = (kind.from_pretrained(Judge().folder) for kind in (AutoTokenizer, AutoModel))
    with torch.inference_mode():
        return model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]


def unit(vector):
    return (vector / vector.norm()).numpy()


def test_similarity_equals_the_judge_by_hand():
    """As the model's card describes it: mean of the last hidden states, normalised."""
    truth = [unit(plain_states(text).mean(0)) for text in TEXTS]
    values = similarity(TEXTS, TEXTS[::-1])
    assert values.dtype == np.float32 and values.shape == (len(TEXTS),)
    expected = [a @ b for a, b in zip(truth, truth[::-1], strict=True)]
    np.testing.assert_allclose(values, expected, atol=2e-6)
    np.testing.assert_allclose(similarity(TEXTS, TEXTS), 1, atol=2e-6)


def test_embeddings_keep_order_and_repeats():
    for embed in (Judge().embed, Judge().embedded):
        vectors = embed(["b", "a", "b"])
        assert (vectors[0] == vectors[2]).all() and not (vectors[0] == vectors[1]).all()


def test_texts_kept_in_memory_are_as_embedded_first():
    judge = Judge()
    first = judge.embedded(["a text that no other test has", "b"])
    assert (judge.embedded(["b", "another text", "a text that no other test has"])[[2, 0]] == first).all()
    np.testing.assert_allclose(first, judge.embed(["a text that no other test has", "b"]), atol=2e-6)


def test_another_judge_judges_differently(another):
    paper, first_token = Judge(), Judge(another)
    assert first_token.name == "first-token" and paper.name == "all-MiniLM-L6-v2"
    assert first_token.fingerprint != paper.fingerprint, "the weights are the same, the judgement isn't"
    np.testing.assert_allclose(first_token.embed(["Titanic"])[0], unit(plain_states("Titanic")[0]), atol=2e-6)
    assert paper.embedded(["Titanic"])[0] @ first_token.embedded(["Titanic"])[0] < 0.99


@pytest.mark.parametrize("folder", ["runs/nowhere", "helpers"])
def test_what_is_no_judge_is_refused(folder):
    with pytest.raises(InputError, match="judge=.*sentence-transformers"):
        Judge(folder)


@pytest.mark.parametrize("threshold", ["0.3", 2, None, float("nan"), True])
def test_a_threshold_is_a_cosine(threshold):
    with pytest.raises(InputError, match="threshold=.*cosine"):
        Judge(threshold=threshold)


@pytest.mark.parametrize(
    "first_item, echo",
    [("Star Wars", True), ("the star of wars", True), ("STAR  wars!", True), ("", True), ("Star Wars, film", False)],
)
def test_an_echo_says_nothing_beyond_its_prompt(first_item, echo):
    assert is_echo(first_item, "Star Wars") == echo


def test_other_prompts_are_told_by_their_words():
    assert other_prompts("Star  Wars", ["star wars", "Star Trek"]) == ["Star Trek"]


def test_texts_that_are_no_pairs_are_refused():
    with pytest.raises(InputError, match="texts_a='rock band': expected a list of texts"):
        similarity("rock band", ["a band"])
    with pytest.raises(InputError, match="texts_b='1 texts': expected as many as texts_a, 2"):
        similarity(["a", "b"], ["a"])
    assert similarity([], []).shape == (0,)
