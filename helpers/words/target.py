"""The target prompt T: the few-shot prompt that asks the model to describe its placeholder."""

import hashlib
import re
from dataclasses import dataclass, replace

from .. import InputError
from .grammar import check_text

PAPER_TARGET_PROMPT = (
    "Syria: Country in the Middle East, Leonardo DiCaprio: American actor, Samsung: South Korean multinational "
    "major appliance and consumer electronics corporation, x"
)


@dataclass(frozen=True)
class TargetPrompt:
    """The few-shot prompt T that asks the model to describe its placeholder.

    Attributes:
        text: the default is the paper's, letter for letter.
        placeholder: index of the token that is overwritten (negative from the end), or its text if it occurs once.
        stop: the list separator; the first item of a continuation ends there.
        name: a short name for the rows; made from the text if left out.
        mark: where the placeholder's word starts and ends in the text, if braces marked it (`of_text`); `located`
            turns it into an index for one model.
    """

    text: str = PAPER_TARGET_PROMPT
    placeholder: int | str = -1
    stop: str = ", "
    name: str = ""
    mark: tuple[int, int] | None = None

    def __post_init__(self):
        check_text("target_prompt", self.text)
        if not self.name:
            paper = self.text == PAPER_TARGET_PROMPT and self.placeholder == -1
            digest = hashlib.sha256(f"{self.text}|{self.placeholder}".encode()).hexdigest()
            object.__setattr__(self, "name", "paper" if paper else f"custom-{digest[:6]}")

    @classmethod
    def of_text(cls, text: str) -> "TargetPrompt":
        """Read a target prompt as a person writes it: braces mark its placeholder, as in "…, {x}"; without braces it
        is the last token; an empty text is the paper's.

        Raises:
            InputError: several marks, or a mark around nothing.
        """
        if not text:
            return cls()
        if not ("{" in text or "}" in text):
            return cls(text)
        marks = re.findall(r"\{([^{}]*)\}", text)
        if len(marks) != 1 or text.count("{") != 1 or text.count("}") != 1 or not marks[0].strip():
            raise InputError("target_prompt", text[-40:], "mark its placeholder, one word, with braces, like {x}")
        before, word, after = re.split(r"[{}]", text)
        start = len(before) + len(word) - len(word.lstrip())
        return cls(f"{before}{word}{after}", mark=(start, start + len(word.strip())))

    def located(self, card) -> "TargetPrompt":
        """Return this prompt with a marked placeholder turned into the index of one of the model's tokens.

        Raises:
            InputError: the mark is around more than one token of this model, or less.
        """
        if self.mark is None:
            return self
        (start, end), tokens = self.mark, card.decoded_tokens(self.text)
        word, position = self.text[start:end], len(card.token_ids(self.text[:end])) - 1
        if not 0 <= position < len(tokens) or tokens[position].strip() != word:
            shown = " ".join(map(repr, tokens[-12:]))
            raise InputError("target_prompt", f"{{{word}}}", f"mark one whole token; they are {shown}")
        index = -1 if position == len(tokens) - 1 else position
        return replace(self, placeholder=index, mark=None, name="")

    def first_item(self, continuation: str) -> str:
        """Return the continuation up to `stop`, without a leading colon and space."""
        return continuation.split(self.stop, 1)[0].lstrip().removeprefix(":").lstrip()


def _similar(name: str, text: str) -> TargetPrompt:
    return TargetPrompt(text, name=name)


TARGET_PROMPTS = (  # the paper's, and four in the same form
    TargetPrompt(),
    _similar(
        "france",
        "France: Country in Western Europe, Meryl Streep: American actress, Toyota: Japanese multinational car "
        "manufacturer, x",
    ),
    _similar(
        "brazil",
        "Brazil: Country in South America, Rembrandt: Dutch painter, Nestlé: Swiss multinational food and drink "
        "company, x",
    ),
    _similar(
        "kenya",
        "Kenya: Country in East Africa, Usain Bolt: Jamaican sprinter, Microsoft: American multinational software "
        "company, x",
    ),
    _similar(
        "oslo",
        "Oslo: Capital of Norway, Casablanca: American romantic drama film, Intel: American multinational "
        "semiconductor company, x",
    ),
)
