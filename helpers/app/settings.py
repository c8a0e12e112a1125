"""What a visitor asked for: as a plan, as a link, as Python."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from urllib.parse import urlencode

from .. import InputError
from ..catalogue import DEFAULT_MODEL
from ..plans import PAPER_TARGET_PROMPT, Plan, TargetPrompt, make_plan
from ..scoring import THRESHOLD

COLUMNS = ("pre_mlp_residual", "mlp_output", "hidden_state", "attention_output")  # the paper's order, and one more
MARKED = re.sub(r"x$", "{x}", PAPER_TARGET_PROMPT)  # braces mark the placeholder
LONGEST_TEXT = 20_000  # characters of a prompt
MOST_ROWS = 20_000  # readings of one request; a longer sweep is a command's


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
    amplifiers: str = "1, 3, 6, 9, 12, 15"
    target_prompt: str = MARKED
    max_new_tokens: int = 10
    threshold: float = THRESHOLD

    def plan(self, card) -> Plan:
        """The plan, checked on a model.

        Raises:
            InputError: names the setting, what was given and what is allowed.
        """
        for name in ("prompt", "target_prompt"):
            if len(text := getattr(self, name)) > LONGEST_TEXT:
                raise InputError(name, f"{text[:20]}…", f"{len(text):,} characters; at most {LONGEST_TEXT:,}")
        if not self.prompt.strip():
            raise InputError("prompt", self.prompt, "type a prompt first")
        if not -1 <= self.threshold <= 1:  # also of nan
            raise InputError("threshold", self.threshold, "expected a cosine, from -1 to 1")
        if not self.tokens:
            raise InputError("tokens", [], "choose at least one token of the prompt")
        if not self.components:
            raise InputError("components", [], "choose at least one")
        target = self.target_layer.strip()
        if target != "same" and not re.fullmatch(r"\d{1,6}", target):
            raise InputError("target_layer", self.target_layer, 'expected "same" or a layer, counted from 0')
        plan = make_plan(
            [self.prompt],
            tuple(name for name in COLUMNS if name in self.components) or self.components,
            self.layers,
            self.amplifiers,
            token=list(dict.fromkeys(self.tokens)),
            target_layer=target if target == "same" else int(target),
            target_prompt=unmark(self.target_prompt, card),
            max_new_tokens=self.max_new_tokens,
        )
        sizes = (len(plan.tokens), len(plan.components), len(plan.amplifiers))
        if sizes[0] * sizes[1] * sizes[2] > MOST_ROWS or (rows := len(plan.items(card))) > MOST_ROWS:
            rows = (
                f"at least {sizes[0] * sizes[1] * sizes[2]:,}"
                if sizes[0] * sizes[1] * sizes[2] > MOST_ROWS
                else f"{rows:,}"
            )
            raise InputError("readings", rows, f"at most {MOST_ROWS:,} at once here; ./runme.sh has no limit")
        return plan

    def link(self) -> str:
        """The settings as the query of a link; what is usual is left out."""
        usual = Settings(self.prompt)
        given = {"prompt": self.prompt}
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
