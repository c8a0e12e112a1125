"""What most experiments ask a model for, and judge by."""

from ..words.plans import Plan
from ..words.prompts import read_gold
from ..words.settings import Record


def ask_for_nothing(settings: Record) -> list[Plan]:
    """Ask a model for no new readings: those that are stored are judged."""
    return []


def described(settings: Record) -> dict[str, str]:
    """Return the prompts' descriptions, where they are known."""
    return read_gold(settings.prompts, getattr(settings, "num_prompts", 0))
