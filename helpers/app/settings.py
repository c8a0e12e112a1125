"""What a visitor asked for: as a plan, as a link, as Python."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from urllib.parse import urlencode

from .. import InputError
from ..catalogue import DEFAULT_MODEL
from ..experiments import MLP_GRID
from ..plans import PAPER_TARGET_PROMPT, Plan, TargetPrompt, make_plan, parse_layers
from ..scoring import THRESHOLD

COLUMNS = ("pre_mlp_residual", "mlp_output", "hidden_state", "attention_output")  # the paper's order, and one more
MARKED = re.sub(r"x$", "{x}", PAPER_TARGET_PROMPT)  # braces mark the placeholder
LONGEST = {"prompt": 20_000, "target_prompt": 20_000, "amplifiers": 2_000, "layers": 2_000}  # characters
MOST_ROWS = 20_000  # readings of one request; a longer sweep is a command's
MOST_TEXT = 20_000_000  # characters of its prompt in all rows


def in_words(amplifiers: Sequence[float]) -> str:
    """Amplifiers as a person writes them."""
    return ", ".join(map(str, amplifiers))


@dataclass(frozen=True)
class Settings:
    """Settings of one request, in the form in which a person writes them.

    Attributes:
        tokens: positions in the prompt; negative from the end.
        layers: as in `make_plan`; so are the amplifiers.
        target_layer: "same" or a number.
        target_prompt: its placeholder in braces.
        threshold: a reading more similar than that to the prompt is marked; no reading depends on it.
    """

    prompt: str
    model: str = DEFAULT_MODEL
    tokens: tuple[int, ...] = (-1,)
    components: tuple[str, ...] = COLUMNS[:3]
    layers: str = "1-7"
    target_layer: str = "same"
    amplifiers: str = in_words(MLP_GRID)
    target_prompt: str = MARKED
    max_new_tokens: int = 10
    threshold: float = THRESHOLD

    def plan(self, card) -> Plan:
        """The plan, checked on a model.

        Raises:
            InputError: names the setting, what was given and what is allowed.
        """
        for name in LONGEST:
            check_length(name, getattr(self, name))
        if not self.prompt.strip():
            raise InputError("prompt", self.prompt, "type a prompt first")
        if not -1 <= self.threshold <= 1:  # also of nan
            raise InputError("threshold", self.threshold, "expected a cosine, from -1 to 1")
        if not self.tokens:
            raise InputError("tokens", [], "choose at least one token of the prompt")
        if not self.components or set(self.components) - set(COLUMNS):
            raise InputError("components", list(self.components), f"choose at least one of {', '.join(COLUMNS)}")
        target = self.target_layer.strip()
        if target != "same" and not re.fullmatch(r"\d{1,6}", target):
            raise InputError("target_layer", self.target_layer, 'expected "same" or a layer, counted from 0')
        plan = make_plan(
            [self.prompt],
            tuple(name for name in COLUMNS if name in self.components),
            self.layers,
            self.amplifiers,
            token=list(dict.fromkeys(self.tokens)),
            target_layer=target if target == "same" else int(target),
            target_prompt=unmark(self.target_prompt, card),
            max_new_tokens=self.max_new_tokens,
        )
        layers = parse_layers(plan.layers, card.num_layers)
        rows = len(plan.tokens) * len(plan.components) * len(layers) * len(plan.amplifiers)
        most = min(MOST_ROWS, MOST_TEXT // len(self.prompt))
        if rows > most:
            raise InputError("readings", f"{rows:,}", f"at most {most:,} at once here; ./runme.sh has no limit")
        return plan

    def link(self) -> str:
        """The settings as the query of a link; what is usual is left out."""
        usual = Settings(self.prompt)
        given = {"prompt": self.prompt, "model": self.model}  # which model is usual depends on the server
        for field in fields(self):
            value = getattr(self, field.name)
            if value != getattr(usual, field.name):
                given[field.name] = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        return "?" + urlencode(given)

    @classmethod
    def of_link(cls, query: Mapping[str, str], **usual) -> "Settings":
        """The settings of a link's query; names that are none of ours are passed over.

        Raises:
            InputError: a value that can't be read.
        """
        settings = cls(**{"prompt": ""} | usual)
        for field in fields(cls):
            if field.name not in query:
                continue
            text, kind = query[field.name], type(getattr(settings, field.name))
            try:
                if kind is tuple:
                    value = tuple(part for part in text.split(",") if part)
                    value = tuple(map(int, value)) if field.name == "tokens" else value
                else:
                    value = kind(text)
            except ValueError:
                raise InputError(field.name, text, "a link that this page did not make") from None
            settings = replace(settings, **{field.name: value})
        return settings

    def python(self, card, dtype: str) -> str:
        """The lines that give the same rows with `helpers`."""
        plan = self.plan(card)
        target = ""
        if plan.target_prompt.name != "paper":
            one = plan.target_prompt
            target = f"\n    target_prompt=TargetPrompt({one.text!r}, placeholder={one.placeholder!r}),"
        imports = "from helpers.plans import TargetPrompt\n" if target else ""
        layers = list(plan.layers) if isinstance(plan.layers, tuple) else plan.layers
        return f"""from helpers.models import load_model
{imports}from helpers.superscopes import sweep

lm = load_model({self.model!r}, dtype={dtype!r})
rows = sweep(
    lm,
    {self.prompt!r},
    components={list(plan.components)!r},
    layers={layers!r},
    amplifiers={[int(a) if a.is_integer() else a for a in plan.amplifiers]!r},
    token={list(plan.tokens)!r},
    target_layer={plan.target_layers[0]!r},{target}
    max_new_tokens={plan.max_new_tokens},
)
"""


def unmark(text: str, card) -> TargetPrompt:
    """A target prompt of a text that marks its placeholder, one token, with braces: "…, {x}".

    Raises:
        InputError: no mark, several, or a mark on more than a token.
    """
    marks = re.findall(r"\{([^{}]*)\}", text)
    if len(marks) != 1 or text.count("{") != 1 or text.count("}") != 1 or not marks[0].strip():
        raise InputError("target_prompt", text[-40:], "mark its placeholder, one word, with braces, like {x}")
    before, _, after = re.split(r"[{}]", text)
    plain = f"{before}{marks[0]}{after}"
    tokens = card.decoded_tokens(plain)
    position = len(card.token_ids(before + marks[0].rstrip())) - 1
    if not 0 <= position < len(tokens) or tokens[position].strip() != marks[0].strip():
        raise InputError(
            "target_prompt", f"{{{marks[0]}}}", f"mark one whole token; they are {' '.join(map(repr, tokens[-12:]))}"
        )
    return TargetPrompt(plain, position - len(tokens) if position == len(tokens) - 1 else position)


def check_length(name: str, text: str) -> None:
    """Raises InputError for a text that nobody typed."""
    if len(text) > LONGEST[name]:
        raise InputError(name, f"{text[:20]}…", f"{len(text):,} characters; at most {LONGEST[name]:,}")


def same_tokens(prompt: str, tokens: tuple[int, ...], card, other) -> tuple[int, ...]:
    """Positions in another model's tokens of the same pieces of a prompt.

    Raises:
        InputError: the other model cuts the prompt elsewhere.
    """
    ends, others = _ends(prompt, card), _ends(prompt, other)
    found = []
    for position in tokens:
        end = ends[position]
        if end not in others:
            listing = " ".join(map(repr, other.decoded_tokens(prompt)))
            raise InputError("tokens", list(tokens), f"{other.name} cuts the prompt elsewhere: {listing}"[:400])
        found.append(len(others) - 1 - others[::-1].index(end))
    return tuple(found)


def _ends(prompt: str, card) -> list[int]:
    """Where each token ends, in letters of the prompt without spaces; a special token has none."""
    special, end, ends = set(card.tokenizer.all_special_ids), 0, []
    for id, text in zip(card.token_ids(prompt), card.decoded_tokens(prompt), strict=True):
        end += 0 if id in special else len("".join(text.split()))
        ends.append(end)
    return ends
