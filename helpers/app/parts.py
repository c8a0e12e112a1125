"""Parts of what the page shows: readings, tokens, numbers, what a reading is worth, as HTML. Texts are always escaped."""

import re
from functools import lru_cache
from html import escape

import numpy as np

from ..judging.judge import SMALL_WORDS
from ..runs.evidence import NOTHING, SURE, UNCALIBRATED
from ..words.chats import plain_text
from ..words.components import COMPONENTS
from .jobs import Job
from .scores import Scored
from .weighing import Weighed

FULL_COLOUR = 0.8  # the score from which on a cell has its full shade
KINDS = {SURE: "believed", NOTHING: "nothing", UNCALIBRATED: "uncalibrated"}  # verdict -> class of a cell
SIDES = ("a", "b")  # of two requests that are shown side by side


def text(job: Job, scored: Scored, whole: bool = False) -> str:
    """Return a reading: its first item, the rest lighter; words of the prompt are marked.

    Args:
        whole: with what stands before the first item, too.
    """
    reading = scored.reading
    if reading.status != "ok":
        return f'<i class="failed">{escape(reading.message)}</i>'
    if not reading.result.strip():
        return "<i>nothing</i>"
    first = job.first_item(scored)
    start = reading.result.find(first) if first else 0
    before, rest = reading.result[:start], reading.result[start + len(first) :]
    before = f'<span class="tail">{_marked(job, before)}</span>' if whole else ""
    return f'{before}<span class="item">{_marked(job, first)}</span><span class="tail">{_marked(job, rest)}</span>'


def _marked(job: Job, words: str) -> str:
    """Return a text with the words that repeat the prompt marked."""
    repeated = _words(job.settings.prompt)
    return "".join(
        f'<mark title="repeats the prompt">{shown(part)}</mark>' if part.lower() in repeated else shown(part)
        for part in re.split(r"(\w+)", words)
    )


@lru_cache(maxsize=64)
def _words(prompt: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", plain_text(prompt).lower())) - SMALL_WORDS


def worth(weighed: Weighed | None, among: int) -> tuple[str, str]:
    """Return the class of the blind reading of a vector, and what it is worth, in words; "" while that isn't known.

    Args:
        among: how many readings the vector has.
    """
    if weighed is None or not weighed.chosen:
        return "waiting", ""
    sure = "" if np.isnan(weighed.confidence) else percent(weighed.confidence)
    if weighed.verdict == SURE:
        words = sure
    elif weighed.verdict == NOTHING:
        words = f"{NOTHING}{f' · {sure}' if sure else ''}"
    else:
        words = UNCALIBRATED + ("" if among == 1 or np.isnan(weighed.mean_rank) else f" · rank {weighed.mean_rank:.2f}")
    return KINDS[weighed.verdict], words


def percent(share: float) -> str:
    """Say a probability; not more surely than its two digits."""
    return f"{min(max(round(100 * share), 1), 99)} %"


def score(scored: Scored) -> str:
    """Say how similar a reading is to the prompt."""
    return "–" if np.isnan(scored.score) else f"{scored.score:.2f}"


def shade(scored: Scored) -> str:
    """Return how strongly a reading is coloured by its score, from 0 to 1."""
    return f"{min(max(np.nan_to_num(scored.score, nan=0.0), 0.0) / FULL_COLOUR, 1.0):.2f}"


def which(side: str) -> str:
    """Return the mark of one of two requests that are shown side by side; "" of the only one."""
    return f'<b class="which {side}">{side.upper()}</b> ' if side else ""


def symbol(component: str) -> str:
    """Return what heads a component's column."""
    return escape(COMPONENTS[component].symbol).replace("h_PreMLP", "h<sub>PreMLP</sub>")


def quoted(token: str) -> str:
    """Return a token in quotation marks."""
    return f"“{shown(token.strip() or token)}”"


def shown(words: str) -> str:
    """Return a text as markup; line breaks are visible."""
    return escape(words).replace("\n", "⏎")
