"""The Jacobian lens' evaluations: single words that are on the model's mind at a prompt's last token."""

from pathlib import Path

from ..words.target import TargetPrompt
from .rules import exact, names
from .tasks import Case, Repository, Task, read_items


def _mean(shares) -> float:
    shares = list(shares)
    return sum(shares) / len(shares)


NAME, RULE, COMBINE = "lens", names, _mean
BY_LENS = True  # every word is a single token
REPOSITORY = Repository("anthropics/jacobian-lens", "", "lens-eval-*.json", "the lens' evaluations")
QUESTION = "is the word found that is on the model's mind and isn't the next one?"


def tasks(folder: Path, settings, card) -> list[Task]:
    """Read a task per file.

    Words that this model has no single token for are left out, since no lens can say them; and those that stand in the
    prompt.

    Raises:
        InputError: no files, or as `tasks.read_items`.
    """
    asks = TargetPrompt.of_text(settings.target_prompt).located(card)
    return [_read(file, asks, card) for file in REPOSITORY.files(NAME, folder)]


def _read(file: Path, asks: TargetPrompt, card) -> Task:
    cases, left_out = [], {"words of several tokens": 0, "words that the prompt says": 0}
    for item in read_items(NAME, file):
        words = exact(item["intermediates"])
        short = [word for word in words if is_single(card, word)]
        new = [word for word in short if not names(item["prompt"], word)]
        left_out["words of several tokens"] += len(words) - len(short)
        left_out["words that the prompt says"] += len(short) - len(new)
        if new:
            cases.append(Case(item["prompt"], item["prompt"], item["prompt"], tuple(new)))
    kept = {reason: count for reason, count in left_out.items() if count}
    return Task(file.stem.removeprefix("lens-eval-"), tuple(dict.fromkeys(cases)), asks, kept)


def tokens_of(card, word: str) -> int:
    """Return how many tokens a word has after a space."""
    return len(card.tokenizer(f" {word.strip()}", add_special_tokens=False).input_ids)


def is_single(card, word: str) -> bool:
    """Tell whether a word is a single token of this model, after a space."""
    return tokens_of(card, word) == 1
