"""The target prompt: its placeholder by index, by text or by braces, and where its first item ends."""

import pytest

from helpers import InputError
from helpers.words.plans import locate
from helpers.words.target import PAPER_TARGET_PROMPT, TARGET_PROMPTS, TargetPrompt


def test_names_tell_prompts_apart():
    assert TargetPrompt().name == "paper" and TargetPrompt(name="mine").name == "mine"
    names = {TargetPrompt("a, x").name, TargetPrompt("b, x").name, TargetPrompt("a, x", 0).name}
    assert len(names) == 3 and all(name.startswith("custom-") for name in names)
    assert len({prompt.name for prompt in TARGET_PROMPTS}) == len(TARGET_PROMPTS)


def test_without_braces_the_last_token_is_the_placeholder():
    assert TargetPrompt.of_text("") == TargetPrompt()
    assert TargetPrompt.of_text("Oslo: Capital of Norway, x") == TargetPrompt("Oslo: Capital of Norway, x")
    assert TargetPrompt.of_text(PAPER_TARGET_PROMPT).name == "paper"


@pytest.mark.parametrize("marked", ["Oslo: {Capital} of x", "Oslo: { Capital } of x", "Oslo:{ Capital} of x"])
def test_braces_mark_a_token_anywhere(card, marked):
    prompt = TargetPrompt.of_text(marked).located(card)
    text = marked.replace("{", "").replace("}", "")
    assert prompt.text == text and prompt.mark is None
    decoded = card.decoded_tokens(text)
    assert decoded[locate("placeholder", prompt.placeholder, text, card)].strip() == "Capital"


def test_a_mark_at_the_end_is_the_same_prompt_as_none(card):
    """So that its rows have the same ids."""
    marked = TargetPrompt.of_text(f"{PAPER_TARGET_PROMPT[:-1]}{{x}}")
    assert marked.located(card) == TargetPrompt()
    assert TargetPrompt().located(card) == TargetPrompt()


@pytest.mark.parametrize("text", ["{x} and {y", "{x", "x}", "{}", "{ }", "}x{", "{{x}}", "a {b {c} d}"])
def test_marks_that_are_no_marks(text):
    with pytest.raises(InputError, match="target_prompt=.*mark its placeholder, one word, with braces"):
        TargetPrompt.of_text(text)


@pytest.mark.parametrize("text", ["Oslo: {Cap}ital of x", "Oslo: {Capital of} x", "{Oslo: Capital of x}"])
def test_a_mark_around_another_number_of_tokens_lists_the_tokens(card, text):
    with pytest.raises(InputError, match="target_prompt=.*mark one whole token; they are .*' Capital'"):
        TargetPrompt.of_text(text).located(card)


@pytest.mark.parametrize("text", ["", "  ", "nul\0", 3, None])
def test_a_target_prompt_is_a_text(text):
    with pytest.raises(InputError, match="target_prompt="):
        TargetPrompt(text)


def test_first_item():
    target = TargetPrompt()
    assert target.first_item(": British rock band, Tesla: American") == "British rock band"
    assert target.first_item("British rock band") == "British rock band"
    assert target.first_item("-box: Chinese console, x") == "-box: Chinese console"
    assert TargetPrompt("a; x", stop="; ").first_item(" : one, two; three") == "one, two"
    assert TargetPrompt(stop="<a>…</a>").first_item("so <a> one</a> two</a> three") == "one</a> two"
    assert TargetPrompt(stop="<a>…").first_item("so <a> one, two ") == "one, two"
    assert TargetPrompt(stop="…").first_item(" one, two") == "one, two"


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"stop": ""}, "stop='': expected the text that ends an item"),
        ({"stop": None}, "stop=None"),
        ({"placeholder": 1.5}, "placeholder=1.5: expected the index of a token"),
        ({"placeholder": True}, "placeholder=True"),
        ({"placeholder": None}, "placeholder=None"),
        ({"placeholder": ""}, "placeholder=''"),
        ({"placeholder": (0, None)}, "placeholder=None"),
        ({"placeholder": ()}, r"placeholder=\(\): expected at least one"),
    ],
)
def test_what_no_reading_could_be_made_with_is_refused_at_once(given, why):
    with pytest.raises(InputError, match=why):
        TargetPrompt(**given)


def test_a_name_that_was_given_is_kept_when_placeholders_are_located(card):
    several = TargetPrompt("Oslo: x, Bergen: x", placeholder=(" x",), name="mine").located(card)
    assert several.name == "mine" and len(several.placeholder) == 2
    made = TargetPrompt("Oslo: x, Bergen: x", placeholder=(" x",)).located(card)
    assert made.name == TargetPrompt("Oslo: x, Bergen: x", placeholder=made.placeholder).name != several.name
    assert TargetPrompt.of_text("selfie").located(card).name == "selfie"
