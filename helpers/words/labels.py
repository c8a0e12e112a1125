"""Labels, hypotheses about a vector ("band, person, country, food"), and how a target prompt goes on with them."""

import re
from collections.abc import Sequence
from typing import Annotated, NamedTuple

from .. import InputError
from . import grammar
from .components import COMPONENTS, EVALUATED
from .grammar import listed, read_number, token_slice
from .plans import Plan, make_plan, placeholders_of
from .prompts import LEAST_REFERENCES, other_prompts, read_prompts
from .settings import (
    PROMPTS,
    Amplifiers,
    Count,
    FilePath,
    Form,
    Layers,
    ModelSettings,
    TargetText,
    Text,
    setting,
)
from .target import TargetPrompt

MOST_LABELS, LONGEST_LABEL = 50, 200  # letters
SEPARATORS = (": ", " -> ", "->", " → ", " = ", "=")  # between a name and its description, in a target prompt


class Continuation(NamedTuple):
    """How a target prompt goes on with a label.

    Attributes:
        text: with what stands before the label, as in ": band".
        tokens: the model's, of this text alone.
    """

    text: str
    tokens: list[int]


def read_labels(text: str) -> list[str]:
    """Read labels that are separated by commas; inside double quotes a comma separates nothing."""
    found = re.findall(r'\s*(?:"([^"]*)"|([^,]+))', text)
    return [label for quoted, plain in found if (label := (quoted or plain).strip())]


def check_labels(parameter: str, values: object) -> tuple[str, ...]:
    """Return labels with single spaces, in their order; a single text is a list of them.

    Raises:
        InputError: fewer than two, too many, a blank or a very long one, or one that is given twice (whatever its case
            and spaces).
    """
    given = read_labels(values) if isinstance(values, str) else listed(values)
    if not 2 <= len(given) <= MOST_LABELS:
        why = f"expected 2 to {MOST_LABELS} labels to compare, like band, person, country, food"
        raise InputError(parameter, given if len(given) < 2 else f"{len(given)} labels", why)
    labels: dict[str, str] = {}
    for label in given:
        label = " ".join(grammar.check_text(parameter, label).split())
        if len(label) > LONGEST_LABEL:
            raise InputError(parameter, f"{label[:20]}…", f"{len(label):,} letters; at most {LONGEST_LABEL}")
        if label.lower() in labels:
            raise InputError(parameter, label, "given twice")
        labels[label.lower()] = label
    return tuple(labels.values())


def continuations(card, target_prompt: TargetPrompt, labels: Sequence[str]) -> list[Continuation]:
    """Return how a target prompt goes on with each label, as this model would read it.

    The paper's target prompt is a list, "Syria: Country in the Middle East, …, x", that ends with its placeholder: it
    goes on with ": band". In a list of another form, "cat -> cat, …, x", it goes on with " -> band", as its items do.
    Where something follows the placeholder, or there are no such items, a label follows after a space, if the prompt
    doesn't end in one.

    Raises:
        InputError: a label without tokens, one with the same tokens as another, or one that is too long for the model.
    """
    target_prompt = target_prompt.located(card)
    text, before = target_prompt.text, card.token_ids(target_prompt.text)
    is_last = placeholders_of(target_prompt, card)[-1] == len(before) - 1
    usual = "" if text[-1].isspace() else " "
    start = next((one for one in SEPARATORS if one in text), usual) if is_last else usual
    found: dict[tuple[int, ...], Continuation] = {}
    for label in labels:
        whole = card.token_ids(f"{text}{start}{label}")
        if whole[: len(before)] == before:  # else they would join the prompt's last token
            tokens = whole[len(before) :]
        else:
            tokens = card.tokenizer(f"{start}{label}", add_special_tokens=False).input_ids
        if not tokens or not card.tokenizer(label, add_special_tokens=False).input_ids:
            raise InputError("labels", label, f"{card.name} has no tokens for it")
        if same := found.get(tuple(tokens)):
            raise InputError("labels", label, f"{card.name} reads it as it reads {same.text.removeprefix(start)!r}")
        if len(tokens) > (room := card.context_length - len(before)):
            raise InputError("labels", label, f"{len(tokens)} tokens; {card.name} has room for {room} after the prompt")
        found[tuple(tokens)] = Continuation(f"{start}{label}", tokens)
    return list(found.values())


def references(prompt: str, prompts: Sequence[str]) -> list[str]:
    """Return the prompts whose vectors chance is made of: each once, without the prompt itself.

    Raises:
        InputError: too few of them.
    """
    others = list(dict.fromkeys(other_prompts(prompt, prompts)))
    if len(others) < LEAST_REFERENCES:
        raise InputError("prompts", f"{len(others)} other prompts", f"chance needs at least {LEAST_REFERENCES}")
    return others


# What a command or a page asks for


def check_component(parameter: str, value: object) -> str:
    if value not in COMPONENTS:
        raise InputError(parameter, value, f"expected one of {', '.join(COMPONENTS)}")
    return value


def _check_target_layer(parameter: str, value: object) -> object:
    return value if value == "" else grammar.check_target_layers(parameter, value)


def _check_token(parameter: str, value: object) -> tuple[int | str, ...]:
    tokens = grammar.check_tokens(parameter, value)
    if len(tokens) > 1 or token_slice(tokens[0]):
        raise InputError(parameter, value, "expected a single token: an index, or its text")
    return tokens


class LabelSettings(ModelSettings):
    """Which vectors of a prompt are asked for which labels."""

    prompt: Text = setting("Diana, Princess of Wales", "what the vectors are taken from")
    labels: Annotated[tuple[str, ...], Form(check_labels, read_labels)] = setting(
        ("band", "person", "country", "food"), 'what they may be, with commas between; "a, b" in double quotes is one'
    )
    component: Annotated[str, Form(check_component)] = setting(
        "hidden_state", f"which vector: {', '.join(COMPONENTS)}"
    )
    layers: Layers = setting("1-7", 'source layers, like "1-7", "1-3,9" or "all"')
    amplifiers: Amplifiers = setting((1, 2), "numbers and ranges, like 1,1.5,2:6:0.5; 1 is plain Patchscopes")
    token: Annotated[tuple[int | str, ...], Form(_check_token, read_number)] = setting(-1, "the inspected token: an index, negative from the end, or its text")
    target_layer: Annotated[object, Form(_check_target_layer, read_number)] = setting(
        "", "the patched layer: a number, or same; empty is the paper's: 0 for hidden states, same for others"
    )
    target_prompt: TargetText = setting("", "the prompt that asks for a description; {braces} mark its placeholder")
    prompts: FilePath = PROMPTS
    batch_size: Count = setting(0, "rows at a time; 0 is a good number", changes_results=False)

    def plan(self) -> Plan:
        """Return which vectors are asked for; the model isn't needed."""
        target = EVALUATED.get(self.component, "same") if self.target_layer == "" else self.target_layer
        asks = TargetPrompt.of_text(self.target_prompt)
        return make_plan(
            self.prompt, self.component, self.layers, self.amplifiers, self.token, target, asks, max_new_tokens=1
        )

    def references(self) -> list[str]:
        """Read the prompts whose vectors chance is made of."""
        return references(self.prompt, read_prompts(self.prompts))
