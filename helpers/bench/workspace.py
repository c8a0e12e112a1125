"""Workspace-bench's multi-token banks: concepts that no single token says, at a prompt's last token."""

import re
from pathlib import Path

from ..words.target import TargetPrompt
from .lens import tokens_of
from .rules import exact, names
from .tasks import Case, Repository, Task, read_items

NAME, RULE, COMBINE = "workspace", names, any
BY_LENS = False
REPOSITORY = Repository(
    "camilablank/workspace-bench", "baseline_evals/multi_token", "lens-eval-*-mt.json", "the multi-token banks"
)
QUESTION = "is a concept of several tokens named?"
GATES = {"typo-mt": 'The correct spelling of "{last}" is "'}  # where the prompt itself doesn't ask for the answer


def tasks(folder: Path, settings, card) -> list[Task]:
    """Read a task per file.

    What counts: the headline unit's words, or the intermediates, with the target; of those the ones that have several
    tokens in this model and are no part of a longer one. Items for chat models are left out.

    Raises:
        InputError: no files, or as `tasks.read_items`.
    """
    asks = TargetPrompt.of_text(settings.target_prompt).located(card)
    return [_read(file, asks, card) for file in REPOSITORY.files(NAME, folder)]


def _read(file: Path, asks: TargetPrompt, card) -> Task:
    name = file.stem.removeprefix("lens-eval-")
    cases, left_out = [], {"for chat models": 0, "no answer of several tokens": 0}
    for item in read_items(NAME, file, ("name", "prompt", "intermediates", "target")):
        if item.get("eval_render", "plain") != "plain":
            left_out["for chat models"] += 1
            continue
        units = [word for unit in item.get("units", []) if unit.get("headline") for word in unit["match"]]
        target = [] if name.startswith("multilingual") else [item["target"]]  # there it is the next word
        wanted = exact([word for word in [*(units or item["intermediates"]), *target] if tokens_of(card, word) > 1])
        if not wanted:
            left_out["no answer of several tokens"] += 1
            continue
        prompt = item["prompt"]
        question = GATES[name].format(last=re.split(r"\s", prompt.strip())[-1]) if name in GATES else prompt
        accepted = (item["target"], *item.get("target_alts", ()))
        cases.append(Case(prompt, prompt, prompt, tuple(wanted), question, accepted))
    kept = {reason: count for reason, count in left_out.items() if count}
    return Task(name, tuple(dict.fromkeys(cases)), asks, kept)
