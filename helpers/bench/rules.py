"""When a text says a word: the mechanical rules of the published evaluations. Each text is judged alone."""

import re
from collections.abc import Sequence
from functools import lru_cache

SPACE = r"[\s-]+"  # between the words of a name
NUMBER = re.compile(r"[-−]?\d[\d,]*(?:\.\d+)?")
NO_SPACES = re.compile("[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]")  # scripts that set no spaces between words
OPERATIONS = frozenset({"addition", "subtraction", "multiplication", "division", "sum", "difference", "product", "quotient"})
BEFORE_NUMBER = (
    r"(?:^|(?:=|->|→|\bequals\b|\b(?:answer|result|value|total|sum|product|quotient)\b(?:\s+is\b)?\s*:?)\s*)"
)


def contains(text: str, answer: str) -> bool:
    """Tell whether an answer stands in a text, letter for letter: the rule of Patchscopes' attribute tasks."""
    return answer in text


def names(text: str, word: str) -> bool:
    """Tell whether a text names a word, whatever its case.

    A word counts between word boundaries ("led" isn't in "called"), with hyphens as spaces; a number as a whole, and
    only where an answer stands: at the start, or after "=", "equals", "answer is" and the like; what is written without
    spaces, anywhere.

    Source: workspace-bench, baseline_evals/single_token. A reading begins after the colon that lists have.
    """
    return bool(_pattern(word).search(_folded(text).lstrip(" :\n")))


@lru_cache(maxsize=1 << 14)
def _pattern(word: str) -> re.Pattern:
    word = _folded(word).strip()
    if NUMBER.fullmatch(word):
        return re.compile(rf"{BEFORE_NUMBER}{re.escape(word)}(?![\d\w]|[.,]\d)")
    if NO_SPACES.search(word) or not re.search(r"\w", word):
        return re.compile(re.escape(word))
    parts = [re.escape(part) for part in re.split(SPACE, word) if part]
    return re.compile(rf"(?<!\w){SPACE.join(parts)}(?!\w)")


def _folded(text: str) -> str:
    return text.replace("’", "'").replace("‘", "'").lower()


def exact(words: Sequence[str]) -> list[str]:
    """Return the words that count: each once, none that is a part of a longer one ("moon" of "full moon"), and no name
    of an operation beside a number.
    """
    distinct = list({_folded(word).strip(): word for word in words}.values())
    split = {word: re.split(SPACE, _folded(word).strip()) for word in distinct}
    whole = [word for word in distinct if not any(_is_part(split[word], split[other]) for other in distinct)]
    has_number = any(NUMBER.fullmatch(word.strip()) for word in whole)
    return [word for word in whole if not (has_number and _folded(word) in OPERATIONS)]


def _is_part(part: Sequence[str], whole: Sequence[str]) -> bool:
    size = len(part)
    return size < len(whole) and any(whole[at : at + size] == part for at in range(len(whole) - size + 1))
