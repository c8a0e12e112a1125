"""What stands in each cell of the page: the readings of one vector, the best of each method, and chance beside it."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from ..judging.chance import range_of_best
from ..judging.judge import is_echo
from ..runs.sweep import rows_of
from ..words.chats import plain_text
from ..words.methods import AMPLIFIED, BLIND, METHODS, Method
from ..words.rows import DIGITS, Item, Reading
from .jobs import Job
from .scores import Scored
from .weighing import UNWEIGHED, Weighed

MARKS = {
    "hit": "similar, and above chance",
    "lucky": "similar, but within chance",
    "echo": "similar, but its first item says nothing that is not in the prompt",
    "": "not similar",
}


class Cell(NamedTuple):
    """One vector, read with several amplifiers: of a component, at a layer and at a token's position."""

    component: str
    layer: int
    position: int

    def __str__(self) -> str:
        return "|".join(map(str, self))

    @classmethod
    def of(cls, item: Item) -> "Cell":
        """Return the cell that an item is read in."""
        return cls(item.component, item.layer, item.position)

    @classmethod
    def parse(cls, name: object) -> "Cell | None":
        """Parse what `str` makes; return None for anything else that a page might send."""
        found = re.fullmatch(r"([a-z_]{1,40})\|(\d{1,6})\|(\d{1,6})", name) if isinstance(name, str) else None
        return cls(found[1], int(found[2]), int(found[3])) if found else None


class Try(NamedTuple):
    """A reading of a cell.

    Attributes:
        methods: names of the methods that choose among readings like this one.
        id: of its row.
        weighed: what it is worth; None while that is not known.
    """

    amplifier: float
    scored: Scored
    methods: tuple[str, ...]
    id: str = ""
    weighed: Weighed | None = None


Cells = dict[Cell, list[Try]]


def cells_of(job: Job, position: int | None = None) -> Cells:
    """Return what has been read so far, in the plan's order; of one token, or of all."""
    readings, cells = job.readings, {}
    items = [item for item in job.items if item.id in readings and position in (None, item.position)]
    methods = _methods_of(items, [readings[item.id].reading for item in items])
    for item, chosen_by in zip(items, methods, strict=True):
        one = Try(item.amplifier, readings[item.id], chosen_by, item.id, job.weighed.get(item.id))
        cells.setdefault(Cell.of(item), []).append(one)
    return cells


def blind_of(tries: Sequence[Try]) -> Try:
    """Return the reading of a vector that is chosen blind; while that isn't known, the one that began most surely."""
    chosen = [one for one in tries if one.weighed and one.weighed.chosen]
    return (chosen or sorted(tries, key=lambda one: np.nan_to_num(one.scored.reading.entropy, nan=np.inf)))[0]


def similar_of(tries: Sequence[Try]) -> Try:
    """Return the reading of a vector that is chosen by similarity to the prompt, as in the paper: of the amplified ones."""
    return max(chosen_by(AMPLIFIED, tries) or tries, key=_score)


def choices_of(job: Job) -> dict[str, str]:
    """Return the readings that are chosen, and by what: id -> names of `words.methods.CHOICES`."""
    found: dict[str, list[str]] = {}
    for tries in cells_of(job).values():
        if job.weighed:
            found.setdefault(blind_of(tries).id, []).append("blind")
        found.setdefault(similar_of(tries).id, []).append("similarity")
    return {id: ", ".join(names) for id, names in found.items()}


def with_worth(rows: pd.DataFrame, job: Job) -> pd.DataFrame:
    """Return rows of a request, scored, with the columns that say what each is worth and what is chosen."""
    chosen, worth = choices_of(job), [job.weighed.get(id, UNWEIGHED) for id in rows["id"]]
    return rows.assign(
        mean_rank=pd.Series([one.mean_rank for one in worth], dtype=float).round(DIGITS["mean_rank"]),
        confidence=pd.Series([one.confidence for one in worth], dtype=float).round(DIGITS["confidence"]),
        verdict=[one.verdict for one in worth],
        chosen=[chosen.get(id, "") for id in rows["id"]],
    )


def _score(one: Try) -> float:
    return np.nan_to_num(one.scored.score, nan=-2.0)


def tries_per_method(job: Job) -> list[tuple[Method, int]]:
    """Return the methods that a request has readings for, read or not, and how many readings of each vector."""
    first = Cell.of(job.items[0])
    items = [item for item in job.items if Cell.of(item) == first]
    chosen = [name for names in _methods_of(items, [Reading("")] * len(items)) for name in names]
    return [(method, chosen.count(method.name)) for method in METHODS.values() if method.name in chosen]


def readings_per_vector(job: Job) -> int:
    """Return how many readings each vector of a request has, when all are read."""
    return len(job.items) // len({*map(Cell.of, job.items)})


def chosen_by(method: Method, tries: Sequence[Try]) -> list[Try]:
    """Return the tries among which a method chooses."""
    return [one for one in tries if method.name in one.methods]


def _methods_of(items: Sequence[Item], readings: Sequence[Reading]) -> list[tuple[str, ...]]:
    """Return, for each reading, the names of the methods that choose among readings like it."""
    rows = rows_of(items, readings)
    masks = {method.name: method.choose(rows).to_numpy(bool) for method in METHODS.values()}
    return [tuple(name for name, mask in masks.items() if mask[row]) for row in range(len(items))]


class Best:
    """The best of some readings of a vector, and what chance gives with as many tries.

    Attributes:
        amplifier, scored: of the reading that is most similar to the prompt.
        tries: how many readings there were.
        chance: (low, high), the 95 % range of the best of as many against other prompts.
        mark: "hit", "lucky", "echo" or ""; `in_words` says it.
    """

    def __init__(self, job: Job, tries: Sequence[Try]):
        best = max(tries, key=_score)
        self.amplifier, self.scored = best.amplifier, best.scored
        self.tries = len(tries)
        self.chance = range_of_best(np.stack([one.scored.chance for one in tries]))
        if not self.scored.score > job.settings.threshold:  # also of nan
            self.mark = ""
        elif (first := job.first_item(self.scored).strip()) and is_echo(first, plain_text(job.settings.prompt)):  # empty, it repeats nothing
            self.mark = "echo"
        else:
            self.mark = "hit" if self.scored.score > self.chance[1] else "lucky"
        self.in_words = MARKS[self.mark]


class Count(NamedTuple):
    """In how many cells the best reading is similar to the prompt.

    Attributes:
        cells: with a reading that the method chooses among.
        similar: how many of them have one above the threshold.
        by_chance: (other prompts,) the same count for each of them.
    """

    method: Method
    cells: int
    similar: int
    by_chance: np.ndarray


def count_similar(job: Job, cells: Cells) -> list[Count]:
    """Count for each method the cells with a reading above the threshold, beside the same counts by chance."""
    among = {
        method: [some for every in cells.values() if (some := chosen_by(method, every))] for method in METHODS.values()
    }
    return [_count(job, method, tries) for method, tries in among.items() if tries]


def count_blind(job: Job, cells: Cells) -> Count:
    """Count the cells whose blind reading is above the threshold; it has one try, and so has chance."""
    return _count(job, BLIND, [[blind_of(tries)] for tries in cells.values()])


def _count(job: Job, method: Method, tries: Sequence[Sequence[Try]]) -> Count:
    threshold = job.settings.threshold
    similar = sum(any(one.scored.score > threshold for one in some) for some in tries)
    best = np.stack([np.max([one.scored.chance for one in some], axis=0) for some in tries])
    return Count(method, len(tries), similar, (best > threshold).sum(0))
