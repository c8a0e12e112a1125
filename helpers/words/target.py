"""The target prompt T: the few-shot prompt that asks the model to describe its placeholder."""

import hashlib
import re
from dataclasses import dataclass, replace

from .. import InputError
from .grammar import check_text, is_whole

PAPER_TARGET_PROMPT = (
    "Syria: Country in the Middle East, Leonardo DiCaprio: American actor, Samsung: South Korean multinational "
    "major appliance and consumer electronics corporation, x"
)


@dataclass(frozen=True)
class TargetPrompt:
    """The few-shot prompt T that asks the model to describe its placeholder.

    Attributes:
        text: the default is the paper's, letter for letter.
        placeholder: index of the token that is overwritten (negative from the end), or its text if it occurs once. A
            tuple of them is several placeholders: each gets the vector; a text stands for every token that reads so.
        stop: the list separator; the first item of a continuation ends there. Around a "…", what it stands between,
            as in "<a>…</a>": from the first of the one to the last of the other, where they are written.
        name: a short name for the rows; made from the text if left out.
        mark: where each placeholder's word starts and ends in the text, if braces marked it (`of_text`); `located`
            turns them into indexes for one model.
        span: of several placeholders, each gets a vector of its own: as many neighbouring tokens of the source prompt,
            the last of them the inspected one.
    """

    text: str = PAPER_TARGET_PROMPT
    placeholder: int | str | tuple[int | str, ...] = -1
    stop: str = ", "
    name: str = ""
    mark: tuple[tuple[int, int], ...] | None = None
    span: bool = False

    def __post_init__(self):
        check_text("target_prompt", self.text)
        if isinstance(self.placeholder, list):
            object.__setattr__(self, "placeholder", tuple(self.placeholder))
        for one in self.placeholder if isinstance(self.placeholder, tuple) else (self.placeholder,):
            if not is_whole(one) and not (isinstance(one, str) and one):
                raise InputError("placeholder", one, "expected the index of a token (negative from the end), or its text")
        if self.placeholder == ():
            raise InputError("placeholder", self.placeholder, "expected at least one")
        if not isinstance(self.stop, str) or not self.stop:
            raise InputError("stop", self.stop, "expected the text that ends an item, like ', '")
        if self.span and not (isinstance(self.placeholder, tuple) or self.mark):
            raise InputError("span", self.span, "only several placeholders, a tuple, get a vector each")
        if not self.name:
            object.__setattr__(self, "name", self._made_name)

    @property
    def _made_name(self) -> str:
        if self.text == PAPER_TARGET_PROMPT and self.placeholder == -1:
            return "paper"
        what = f"{self.text}|{self.placeholder}{'|span' if self.span else ''}"
        return f"custom-{hashlib.sha256(what.encode()).hexdigest()[:6]}"

    @classmethod
    def of_text(cls, text: str) -> "TargetPrompt":
        """Read a target prompt as a person writes it: braces mark its placeholder, as in "…, {x}", or each of several;
        without braces it is the last token; an empty text is the paper's, and "selfie" is SelfIE's (NAMED).

        Raises:
            InputError: a mark around nothing, or braces that aren't in pairs.
        """
        if not text:
            return cls()
        if text in NAMED:
            return NAMED[text]
        if not ("{" in text or "}" in text):
            return cls(text)
        words = re.findall(r"\{([^{}]*)\}", text)
        if len(words) != text.count("{") or len(words) != text.count("}") or not all(map(str.strip, words)):
            raise InputError("target_prompt", text[-40:], "mark its placeholder, one word, with braces, like {x}")
        plain, marks = "", []
        for number, part in enumerate(re.split(r"[{}]", text)):
            if number % 2:  # between braces
                start = len(plain) + len(part) - len(part.lstrip())
                marks.append((start, start + len(part.strip())))
            plain += part
        return cls(plain, mark=tuple(marks))

    def located(self, card) -> "TargetPrompt":
        """Return this prompt with placeholders that are marked, or several, turned into indexes of the model's tokens.

        Raises:
            InputError: a mark is around more than one token of this model, or less; one of several placeholders isn't
                there.
        """
        if self.mark is None and not isinstance(self.placeholder, tuple):
            return self
        tokens = card.decoded_tokens(self.text)
        if self.mark:
            found = {self._marked(start, end, tokens, card) for start, end in self.mark}
        else:
            found = {position for one in self.placeholder for position in self._all_of(one, tokens)}
        if len(found) == 1 and self.mark:
            [position] = found
            index = -1 if position == len(tokens) - 1 else position
            return replace(self, placeholder=index, mark=None, name="")
        name = "" if self.name == self._made_name else self.name  # one that was made is made anew, of the indexes
        return replace(self, placeholder=tuple(sorted(found)), mark=None, name=name)

    def _marked(self, start: int, end: int, tokens: list[str], card) -> int:
        word, position = self.text[start:end], len(card.token_ids(self.text[:end])) - 1
        if not 0 <= position < len(tokens) or tokens[position].strip() != word:
            shown = " ".join(map(repr, tokens[-12:]))
            raise InputError("target_prompt", f"{{{word}}}", f"mark one whole token; they are {shown}")
        return position

    def _all_of(self, placeholder: int | str, tokens: list[str]) -> list[int]:
        if isinstance(placeholder, str):
            found = [i for i, token in enumerate(tokens) if token.strip() == placeholder.strip()]
        else:
            found = [placeholder % len(tokens)] if -len(tokens) <= placeholder < len(tokens) else []
        if not found:
            listing = " ".join(f"{i}:{token!r}" for i, token in enumerate(tokens))
            raise InputError("placeholder", placeholder, f"is not in {self.text!r}; its tokens are {listing}")
        return found

    def first_item(self, continuation: str) -> str:
        """Return the continuation up to `stop`, without a leading colon and space; or what stands between two marks."""
        opening, between, closing = self.stop.partition("…")
        if between:
            inside = continuation.split(opening, 1)[-1] if opening else continuation
            return (inside.rsplit(closing, 1)[0] if closing else inside).strip()
        return self.up_to_stop(continuation).lstrip().removeprefix(":").lstrip()

    def up_to_stop(self, continuation: str) -> str:
        """Return the continuation up to `stop`."""
        return continuation.split(self.stop, 1)[0]


NAMED = {  # target prompts by name
    "selfie": TargetPrompt(  # SelfIE's: five placeholders, and the beginning of an answer; any chat model reads it
        "[INST] _ _ _ _ _ [/INST] Sure, I'll summarize your message:", placeholder=("_",), stop="\n", name="selfie"
    ),
}


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
