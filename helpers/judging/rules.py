"""By what a reading is judged: the entity's true description, where it is known; and the prompt, as in the paper.

Similarity to the description tells a right reading far better, as graded readings show (`right_readings`), so it leads.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple


class Rule(NamedTuple):
    """What a reading is compared with.

    Attributes:
        name: in tables, column `judged by`.
        label: in figures.
        similar: in sentences: what must be above the threshold.
        others: in sentences: who else judges, for chance.
    """

    name: str
    label: str
    similar: str
    others: str


RULES = {
    rule.name: rule
    for rule in (
        Rule("description", "by the description", "similarity to the entity's description", "other prompts' descriptions"),
        Rule("prompt", "by the prompt (the paper's rule)", "similarity to the prompt", "other prompts"),
    )
}
DESCRIPTION, PROMPT = RULES.values()


def rules_for(prompts: Iterable[str], descriptions: Mapping[str, str]) -> dict[str, Mapping[str, str] | None]:
    """Return what readings of some prompts can be judged by, the leading rule first.

    Args:
        descriptions: prompt -> description. The rule holds where all prompts have one, and not all the same.

    Returns:
        Rule's name -> prompt -> its description, or None to judge by the prompt itself.
    """
    known = {prompt: descriptions.get(prompt) for prompt in prompts}
    led = {DESCRIPTION.name: known} if None not in known.values() and len(set(known.values())) > 1 else {}
    return led | {PROMPT.name: None}
