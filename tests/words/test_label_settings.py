"""Labels as they are typed, and how a target prompt goes on with them."""

import pytest

from helpers import InputError
from helpers.words.labels import LabelSettings, check_labels, continuations, read_labels, references
from helpers.words.prompts import read_prompts
from helpers.words.target import PAPER_TARGET_PROMPT, TargetPrompt


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("band, person,country", ["band", "person", "country"]),
        ('"Paris, Texas", Paris', ["Paris, Texas", "Paris"]),
        (" a king's, 1984 , , é", ["a king's", "1984", "é"]),
        ("", []),
    ],
)
def test_commas_stand_between_labels(text, labels):
    assert read_labels(text) == labels


def test_labels_are_kept_as_they_are_but_for_spaces():
    assert check_labels("labels", ["rock  band ", "Food"]) == ("rock band", "Food")
    assert check_labels("labels", "rock band, Food") == ("rock band", "Food")


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ("", "labels=\\[\\]: expected 2 to 50 labels to compare"),
        ("band", "expected 2 to 50"),
        ([f"label {i}" for i in range(51)], "labels='51 labels': expected 2 to 50"),
        ("rock  band, food, Rock Band", "labels='Rock Band': given twice"),
        (["band", "  "], "labels='  ': expected a text that is not empty or blank"),
        (["band", 7], "labels=7: expected text, got int"),
        (["band", "x" * 201], "201 letters; at most 200"),
        (5, "labels=\\[5\\]: expected 2 to 50"),
    ],
)
def test_wrong_labels_are_refused(labels, words):
    with pytest.raises(InputError, match=words):
        check_labels("labels", labels)


@pytest.mark.parametrize(
    ("target", "text"),
    [
        (PAPER_TARGET_PROMPT, ": band"),
        (PAPER_TARGET_PROMPT[:-1] + "{x}", ": band"),
        ("cat -> cat, Oslo -> Oslo, x", " -> band"),
        ("cat->cat; Oslo->Oslo; x", "->band"),
        ("My favourite kind of thing is {x}", " band"),
        ("Oslo: a city, {x}:", " band"),
        ("{x} is a kind of ", "band"),
    ],
)
def test_a_target_prompt_goes_on_as_its_form_asks(card, target, text):
    [one, _] = continuations(card, TargetPrompt.of_text(target), ["band", "film"])
    assert one.text == text and card.tokenizer.decode(one.tokens) == text


def test_a_label_that_the_model_can_not_tell_or_read_is_refused(card, monkeypatch):
    with pytest.raises(InputError, match=r"labels='word word.*tokens; smollm2-135m has room for \d+ after the prompt"):
        continuations(card, TargetPrompt(), ["band", "word " * 9000])
    tokenizer = card.tokenizer

    class Deaf:
        """A tokenizer that drops some letters."""

        def __call__(self, text, **more):
            return tokenizer(text.replace("ø", "").replace("é", "e"), **more)

        def __getattr__(self, name):
            return getattr(tokenizer, name)

    monkeypatch.setitem(card.__dict__, "tokenizer", Deaf())
    with pytest.raises(InputError, match="labels='ø': smollm2-135m has no tokens for it"):
        continuations(card, TargetPrompt(), ["band", "ø"])
    with pytest.raises(InputError, match="labels='cafe': smollm2-135m reads it as it reads 'café'"):
        continuations(card, TargetPrompt(), ["café", "cafe"])


def test_chance_leaves_the_prompt_out():
    prompts = read_prompts("data/prompts.csv")
    assert len(references("Titanic", prompts)) == len(prompts) - 1 and "Titanic" not in references("titanic ", prompts)
    assert len(references("Star Trek", prompts)) == len(prompts)
    assert len(references("x", [*prompts, *prompts])) == len(prompts)
    with pytest.raises(InputError, match="prompts='9 other prompts': chance needs at least 10"):
        references("Pink Floyd", prompts[:10])


def test_vectors_go_where_the_paper_puts_them():
    def target(**given):
        return LabelSettings.of(given).plan().target_layers

    assert target() == (0,) and target(component="mlp_output") == ("same",)
    assert target(component="attention_output") == ("same",) and target(target_layer=3) == (3,)
    with pytest.raises(InputError, match="component='guidance': expected one of mlp_output"):
        LabelSettings.of({"component": "guidance"})
