"""Requests, from the queue to their rows: readings, and questions about what a vector is."""

import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from ..judging.confidence import Confidence
from ..judging.judge import Judge
from ..models.load import LanguageModel
from ..runs.sweep import describe, describe_judge
from ..runs.vectors import Request as VectorRequest
from ..words.plans import Plan
from ..words.rows import TRIED_AGAIN, Item, Reading
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


@dataclass(eq=False, kw_only=True)
class ReadRequest(Request):
    """A request whose vectors are read, batch by batch: those of a prompt, or given ones.

    Attributes:
        readings: id -> reading, in a `Job` with its scores. Replaced by a larger dictionary after each batch, never changed.
        known: how many of the readings were in memory when it began.
        read: how many were computed for it.
        started, seconds: when reading began (`time.monotonic`), and how long it took, up to the last batch.
    """

    readings: dict[str, Reading | Scored] = field(default_factory=dict)
    known: int = 0
    read: int = 0
    started: float = 0.0
    seconds: float = 0.0

    @property
    def rows_per_second(self) -> float:
        """Return the speed up to the last batch; 0 before the first."""
        return self.read / self.seconds if self.seconds else 0.0

    def note_batch(self, rows: int) -> None:
        """Note that so many more rows were computed for it."""
        self.read += rows
        self.seconds = time.monotonic() - self.started


@dataclass(eq=False)
class VectorJob(ReadRequest):
    """Readings of given vectors.

    Attributes:
        request: the vectors, and the plans that read them.
        items: the plans', in their order; without ids until the model is loaded.
        rows: when it is over, the rows in the row schema; `.attrs` is the JSON beside the CSV.
        table: when it is over, one reading of each vector; see `runs.vectors.believed`.
    """

    settings: AskedVectors
    request: VectorRequest
    items: list[Item]
    table: pd.DataFrame | None = None


@dataclass(eq=False)
class Job(ReadRequest):
    """Readings of vectors.

    Attributes:
        tokens: the prompt's, each decoded alone.
        num_layers: the model's.
        items: the plan's, in its order; without ids until the model is loaded.
        rows: when it is over, the rows in the row schema, scored; `.attrs` is the JSON beside the CSV.
        evidence: id -> what the model tells of a reading (`evidence.EVIDENCE`), gathered when all are read.
        weighed: id -> what a reading is worth; {} until all are weighed.
        calibration: what probabilities were fitted with; None if nothing was for this model and target prompt.
        unweighed: why the readings could not be weighed.
        told: (component, layer, position) -> what the lenses say of that vector.
        weighing_seconds: how long weighing took after reading.
    """

    settings: PageSettings
    plan: Plan
    items: list[Item]
    tokens: list[str]
    num_layers: int
    evidence: dict[str, tuple[float, ...]] = field(default_factory=dict)
    weighed: dict[str, Weighed] = field(default_factory=dict)
    calibration: Confidence | None = None
    unweighed: str = ""
    told: dict[tuple[str, int, int], Told] = field(default_factory=dict)
    weighing_seconds: float = 0.0

    @property
    def positions(self) -> list[int]:
        """Return the positions of the inspected tokens, in the plan's order."""
        return list(dict.fromkeys(item.position for item in self.items))

    def first_item(self, scored: Scored) -> str:
        """Return the first list item of a reading."""
        return self.plan.target_prompt.first_item(scored.reading.result)


def described(
    job: ReadRequest, lm: LanguageModel, judge: Judge, plans: Sequence[Plan], made: Mapping, rows: pd.DataFrame
) -> dict:
    """Return the JSON that goes beside a request's CSV.

    Args:
        plans: of its readings.
        made: how the first batch was computed; {} if everything was known.
        rows: what was read.
    """
    return {
        **describe(lm, *plans),
        "judge": describe_judge(judge),
        "settings": job.settings.shown(),
        **{name: made[name] for name in ("batch_size", "shares_prefix", "fused") if name in made},
        "same_bytes_again": lm.dtype == "float32" and not set(rows["status"]) & set(TRIED_AGAIN),
        "whole": len(rows) == len(job.items),
    }
