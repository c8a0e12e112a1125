"""Requests, from the queue to their rows: readings, and questions about what a vector is."""

import secrets
import threading
from dataclasses import dataclass, field

import pandas as pd

from ..judging.confidence import Confidence
from ..runs.vectors import Request as VectorRequest
from ..words.plans import Plan
from ..words.rows import Item, Reading
from .lens import Told
from .scores import Scored
from .settings import PageSettings
from .vector_settings import AskedVectors
from .weighing import Weighed

OVER = ("done", "stopped", "failed")


@dataclass(eq=False, kw_only=True)
class Request:
    """What a visitor asks for. The desk's thread alone writes into it; pages read what it has so far.

    Attributes:
        state: waiting, loading, reading, weighing, done, stopped or failed.
        message: why it failed.
        rows: when it is over, what was found, as a table.
        stop: set to end it at the next token.
        visitor: who asks.
        is_kept: whether it is the first view, as it was read earlier.
    """

    id: str = field(default_factory=lambda: secrets.token_urlsafe(9))
    state: str = "waiting"
    message: str = ""
    rows: pd.DataFrame | None = None
    stop: threading.Event = field(default_factory=threading.Event)
    visitor: str = ""
    is_kept: bool = False

    @property
    def is_over(self) -> bool:
        return self.state in OVER


@dataclass(eq=False)
class Question(Request):
    """Which of a few labels vectors are.

    Attributes:
        items: the vectors; the page asks for one, programs for several.
        labels: as `words.labels.check_labels` returns them.
        tokens: the prompt's, each decoded alone.
    """

    settings: PageSettings
    plan: Plan
    items: list[Item]
    labels: tuple[str, ...]
    tokens: list[str]
    readings: dict[str, Scored] = field(default_factory=dict)  # none of its own


@dataclass(eq=False)
class VectorJob(Request):
    """Readings of given vectors.

    Attributes:
        request: the vectors, and the plans that read them.
        items: the plans', in their order; without ids until the model is loaded.
        readings: id -> reading; as of `Job`.
        rows: when it is over, the rows in the row schema; `.attrs` is the JSON beside the CSV.
        table: when it is over, one reading of each vector; see `runs.vectors.believed`.
        known, read, started, seconds: as of `Job`.
    """

    settings: AskedVectors
    request: VectorRequest
    items: list[Item]
    readings: dict[str, Reading] = field(default_factory=dict)
    table: pd.DataFrame | None = None
    known: int = 0
    read: int = 0
    started: float = 0.0
    seconds: float = 0.0

    @property
    def rows_per_second(self) -> float:
        """Return the speed up to the last batch; 0 before the first."""
        return self.read / self.seconds if self.seconds else 0.0


@dataclass(eq=False)
class Job(Request):
    """Readings of vectors.

    Attributes:
        tokens: the prompt's, each decoded alone.
        num_layers: the model's.
        items: the plan's, in its order; without ids until the model is loaded.
        readings: id -> reading. Replaced by a larger dictionary after each batch, never changed.
        rows: when it is over, the rows in the row schema, scored; `.attrs` is the JSON beside the CSV.
        evidence: id -> what the model tells of a reading (`evidence.EVIDENCE`), gathered when all are read.
        weighed: id -> what a reading is worth; {} until all are weighed.
        calibration: what probabilities were fitted with; None if nothing was for this model and target prompt.
        unweighed: why the readings could not be weighed.
        told: (component, layer, position) -> what the lenses say of that vector.
        known: how many of the readings were in memory when it began.
        read: how many were computed for it.
        started, seconds: when reading began (`time.monotonic`), and how long it took, up to the last batch.
        weighing_seconds: how long weighing took after that.
    """

    settings: PageSettings
    plan: Plan
    items: list[Item]
    tokens: list[str]
    num_layers: int
    readings: dict[str, Scored] = field(default_factory=dict)
    evidence: dict[str, tuple[float, ...]] = field(default_factory=dict)
    weighed: dict[str, Weighed] = field(default_factory=dict)
    calibration: Confidence | None = None
    unweighed: str = ""
    told: dict[tuple[str, int, int], Told] = field(default_factory=dict)
    known: int = 0
    read: int = 0
    started: float = 0.0
    seconds: float = 0.0
    weighing_seconds: float = 0.0

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
