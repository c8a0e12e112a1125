"""What a visitor asks for: the page's record of settings; as a plan, as a link, as lines of Python."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated
from urllib.parse import urlencode

from .. import InputError
from ..words import grammar
from ..words.components import COMPONENTS, MLP_GRID
from ..words.grammar import check_string, listed, parse_layers, read_list, read_number
from ..words.plans import Plan, make_plan, positions
from ..words.settings import THRESHOLD, Cosine, Form, ModelSettings, Positive, Record, Text, setting
from ..words.target import PAPER_TARGET_PROMPT, TargetPrompt

PAPERS_COLUMNS = ("pre_mlp_residual", "mlp_output", "hidden_state")  # of its Figures 5 and 6, from left to right
COLUMNS = (*PAPERS_COLUMNS, *(name for name in COMPONENTS if name not in PAPERS_COLUMNS))
MARKED = re.sub(r"x$", "{x}", PAPER_TARGET_PROMPT)  # braces mark the placeholder
LONGEST = {  # characters
    "prompt": 20_000, "target_prompt": 20_000, "amplifiers": 2_000, "layers": 2_000, "labels": 12_000, "tokens": 2_000,
}  # fmt: skip
MOST_ROWS = 20_000  # readings of one request; the command line has no limit
MOST_TOKENS = 200_000  # new ones, of all its readings together
MOST_TEXT = 20_000_000  # characters of the prompt in all rows together
SYNONYMS = {"token": "tokens"}  # names that a link may use, too


class Beyond(InputError):
    """Report a request that is too large for the page."""


def in_words(amplifiers: Sequence[float]) -> str:
    """Write amplifiers as a person does."""
    return ", ".join(map(str, amplifiers))


def check_length(name: str, text: str) -> str:
    """Return a text that somebody may have typed.

    Raises:
        InputError: it is longer.
    """
    if len(text) > LONGEST[name]:
        raise InputError(name, f"{text[:20]}…", f"{len(text):,} characters; at most {LONGEST[name]:,}")
    return text


def _check_prompt(name: str, text: object) -> str:
    if isinstance(text, str) and not text.strip():
        raise InputError(name, text, "type a prompt first")
    return grammar.check_text(name, check_length(name, check_string(name, text)))


def _check_tokens(name: str, values: object) -> tuple[int, ...]:
    tokens = listed(values)
    if not tokens or not all(map(grammar.is_whole, tokens)):
        raise InputError(name, tokens, "choose at least one token of the prompt, by its position")
    return tuple(dict.fromkeys(tokens))


def _check_columns(name: str, values: object) -> tuple[str, ...]:
    given = listed(values)
    if not given or not all(component in COLUMNS for component in given):
        raise InputError(name, given, f"choose at least one of {', '.join(COLUMNS)}")
    return tuple(component for component in COLUMNS if component in given)


def _check_layers(name: str, value: object) -> str:
    """Return layers as they were typed; a list of them is written as a text."""
    text = check_length(name, value if isinstance(value, str) else ",".join(map(str, listed(value)))).strip()
    return grammar.check_layers(name, text)


def _check_target_layer(name: str, value: object) -> str:
    targets = grammar.check_target_layers(name, read_number(value.strip()) if isinstance(value, str) else value)
    if len(targets) > 1:
        raise InputError(name, value, "the page patches into one layer at a time")
    return str(targets[0])


def _check_amplifiers(name: str, value: object) -> str:
    """Return amplifiers as they were typed; numbers are written as a text."""
    text = value if isinstance(value, str) else in_words(grammar.check_amplifiers(name, value))
    grammar.check_amplifiers(name, check_length(name, text))
    return text


def _check_target_prompt(name: str, text: object) -> str:
    TargetPrompt.of_text(check_length(name, check_string(name, text)))
    return text


class PageSettings(Record):
    """The settings of one request, as a person writes them: the page shows them again, and a link has them."""

    prompt: Annotated[str, Form(_check_prompt)] = setting("Diana, Princess of Wales", "what the vectors are taken from")
    model: Text = ModelSettings.model_fields["model"]
    tokens: Annotated[tuple[int, ...], Form(_check_tokens, read_list)] = setting(
        (-1,), "positions in the prompt; negative from the end"
    )
    components: Annotated[tuple[str, ...], Form(_check_columns, read_list)] = setting(
        PAPERS_COLUMNS, f"which vectors are read: {', '.join(COLUMNS)}"
    )
    layers: Annotated[str, Form(_check_layers)] = setting("1-7", 'source layers, like "1-7", "1-3,9" or "all"')
    target_layer: Annotated[str, Form(_check_target_layer)] = setting("same", 'the patched layer: "same", or a number')
    amplifiers: Annotated[str, Form(_check_amplifiers)] = setting(
        in_words(MLP_GRID), 'numbers and ranges, like "1, 1.5, 2:6:0.5"; 1 is plain Patchscopes'
    )
    target_prompt: Annotated[str, Form(_check_target_prompt)] = setting(
        MARKED, "the prompt that asks for a description; braces mark its placeholder"
    )
    max_new_tokens: Positive = setting(10, "length of a reading")
    threshold: Cosine = THRESHOLD

    def replace(self, **changes) -> PageSettings:
        """Return these settings with some changes.

        Raises:
            InputError: names the setting, what was given and what is allowed.
        """
        return self.of({**dict(self), **changes})

    def plan(self, card) -> Plan:
        """Make the plan for a model.

        Raises:
            Beyond: too many readings.
            InputError: names the setting, what was given and what is allowed.
        """
        plan = make_plan(
            self.prompt, self.components, self.layers, self.amplifiers, self.tokens, read_number(self.target_layer),
            TargetPrompt.of_text(self.target_prompt).located(card), self.max_new_tokens,
        )  # fmt: skip
        layers = parse_layers(plan.layers, card.num_layers)
        rows = len(plan.tokens) * len(plan.components) * len(layers) * len(plan.amplifiers)
        most = min(MOST_ROWS, MOST_TEXT // len(self.prompt), MOST_TOKENS // self.max_new_tokens)
        if rows > most:
            raise Beyond.saying(f"{rows:,} readings; at most {most:,} here. ./runme.sh has no limit.")
        return plan

    def at(self, text: str, card) -> PageSettings:
        """Return these settings with the tokens that a text means: "-5:, 3-7, every 10th, 12".

        Raises:
            InputError: not of that form, or no token there.
        """
        asked = grammar.check_tokens("tokens", grammar.read_list(check_length("tokens", text)))
        return self.replace(tokens=[place for one in asked for place in positions("tokens", one, self.prompt, card)])

    def link(self) -> str:
        """Write the settings as the query of a link; defaults are left out."""
        given = {"prompt": self.prompt, "model": self.model} | self.changed  # the usual model depends on the server
        return "?" + urlencode(
            {name: ",".join(map(str, value)) if isinstance(value, tuple) else value for name, value in given.items()}
        )

    @classmethod
    def asks(cls, query: Mapping[str, str]) -> bool:
        """Return whether a link's query names a setting: then it asks for readings, not for the page alone."""
        return any(SYNONYMS.get(name, name) in cls.model_fields for name in query)

    @classmethod
    def of_link(cls, query: Mapping[str, str], **usual) -> PageSettings:
        """Read the settings of a link's query; names that are no settings are passed over.

        Raises:
            InputError: names the setting, what was given and what is allowed.
        """
        given = {SYNONYMS.get(name, name): text for name, text in query.items()}
        read = {name: cls.read(name, text) for name, text in given.items() if name in cls.model_fields}
        return cls.of(usual | read)

    def python(self, card, dtype: str) -> str:
        """Write the lines that give the same rows with `helpers`."""
        target = TargetPrompt.of_text(self.target_prompt).located(card)
        names, line, chosen = ["believe", "load_model", "sweep"], "", "chosen = believe(lm, rows)  # one per vector, without the prompt\n"
        if target.name != "paper":
            names, chosen = ["TargetPrompt", "load_model", "sweep"], ""
            span = ", span=True" if target.span else ""
            line = f"\n    target_prompt=TargetPrompt({target.text!r}, placeholder={target.placeholder!r}{span}),"
        return f"""from helpers import {", ".join(names)}

lm = load_model({self.model!r}, dtype={dtype!r})
rows = sweep(
    lm,
    {self.prompt!r},
    components={list(self.components)!r},
    layers={self.layers!r},
    amplifiers={self.amplifiers!r},
    token={list(self.tokens)!r},
    target_layer={read_number(self.target_layer)!r},{line}
    max_new_tokens={self.max_new_tokens},
)
{chosen}"""


def same_tokens(prompt: str, tokens: tuple[int, ...], card, other) -> tuple[int, ...]:
    """Find the same pieces of a prompt among another model's tokens.

    Args:
        tokens: positions in the tokens of `card`.

    Returns:
        Positions in the tokens of `other`.

    Raises:
        InputError: the other model splits the prompt elsewhere.
    """
    ends, others = _ends(prompt, card), _ends(prompt, other)
    found = []
    for position in tokens:
        end = ends[position]
        if end not in others:
            listing = " ".join(map(repr, other.decoded_tokens(prompt)))
            raise InputError("tokens", list(tokens), f"{other.name} splits the prompt elsewhere: {listing}"[:400])
        found.append(len(others) - 1 - others[::-1].index(end))
    return tuple(found)


def _ends(prompt: str, card) -> list[int]:
    """Return where each token ends, in bytes of the prompt without spaces; a special token adds none."""
    special, end, ends = set(card.tokenizer.all_special_ids), 0, []
    for id, piece in zip(card.token_ids(prompt), card.pieces(prompt), strict=True):
        end += 0 if id in special else len(b"".join(piece.data.split()))
        ends.append(end)
    return ends
