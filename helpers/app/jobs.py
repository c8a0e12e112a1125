"""A request, from the queue to its rows."""

import secrets
import threading
from dataclasses import dataclass, field

import pandas as pd

from ..words.plans import Plan
from ..words.rows import Item
from .scores import Scored
from .settings import PageSettings

OVER = ("done", "stopped", "failed")


@dataclass(eq=False)
class Job:
    """A request. The desk's thread alone writes into it; pages read what it has so far.

    Attributes:
        tokens: the prompt's, each decoded alone.
        num_layers: the model's.
        items: the plan's, in its order; without ids until the model is loaded.
        state: waiting, loading, reading, done, stopped or failed.
        message: why it failed.
        readings: id -> reading. Replaced by a larger dictionary after each batch, never changed.
        rows: when it is over, the rows in the row schema, scored; `.attrs` is the JSON beside the CSV.
        known: how many of the readings were in memory when it began.
        read: how many were computed for it.
        started, seconds: when reading began (`time.monotonic`), and how long it took, up to the last batch.
        stop: set to end it after the current batch.
    """

    settings: PageSettings
    plan: Plan
    items: list[Item]
    tokens: list[str]
    num_layers: int
    id: str = field(default_factory=lambda: secrets.token_urlsafe(9))
    state: str = "waiting"
    message: str = ""
    readings: dict[str, Scored] = field(default_factory=dict)
    rows: pd.DataFrame | None = None
    known: int = 0
    read: int = 0
    started: float = 0.0
    seconds: float = 0.0
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def is_over(self) -> bool:
        return self.state in OVER

    @property
    def rows_per_second(self) -> float:
        """Return the speed up to the last batch; 0 before the first."""
        return self.read / self.seconds if self.seconds else 0.0

    @property
    def positions(self) -> list[int]:
        """Return the positions of the inspected tokens, in the plan's order."""
        return list(dict.fromkeys(item.position for item in self.items))

    def first_item(self, scored: Scored) -> str:
        """Return the first list item of a reading."""
        return self.plan.target_prompt.first_item(scored.reading.result)
