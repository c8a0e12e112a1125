"""The one model in memory, and the one thread that uses it: requests of all visitors, in turn."""

import secrets
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pandas as pd

from .. import InputError
from ..batches import is_out_of_memory
from ..catalogue import CATALOGUE, is_here
from ..engine import PatchedPrompt
from ..ledger import AGAIN, readings_of
from ..models import ModelCard, check_hardware, load_model, read_model
from ..plans import TargetPrompt
from ..results import describe, read_prompts
from ..scoring import embed, other_prompts, score
from ..sources import SourceOptions, find_source
from ..superscopes import run, with_readings
from .settings import Settings

SMALLEST_BATCH, BATCH = 16, 48  # rows at a time, a third of a request: what Stop waits for (benchmarks/results/app.csv)
LARGER_BATCH, LONG = 64, 1024  # for requests of so many rows
MOST_WAITING = 20  # requests in the queue
MOST_KEPT, MOST_JOBS = 200_000, 500  # readings, and requests, that are kept; the oldest go first
OTHERS = "data/prompts.csv"  # the prompts that chance is made of


class Reading(NamedTuple):
    """What one vector said.

    Attributes:
        score: similarity to the prompt.
        chance: (other prompts,) float32, similarity to each of them.
    """

    result: str
    rho: float
    status: str
    message: str
    score: float
    chance: np.ndarray


@dataclass(eq=False)
class Job:
    """A request, from the queue to its rows; readers take what is there, the desk's thread alone writes.

    Attributes:
        state: waiting, loading, reading, done, stopped or failed.
        items: the plan's rows without their readings, in its order.
        readings: id -> what was read.
        rows: when it ended, the rows in the row schema, scored; `.attrs` is the JSON beside the CSV.
        known: how many of the readings were in memory when it began.
        read: how many it computed itself.
    """

    settings: Settings
    plan: object
    items: pd.DataFrame
    tokens: list[str]
    num_layers: int
    id: str = field(default_factory=lambda: secrets.token_urlsafe(9))
    state: str = "waiting"
    message: str = ""
    readings: dict[str, Reading] = field(default_factory=dict)
    rows: pd.DataFrame | None = None
    known: int = 0
    read: int = 0
    started: float = 0.0
    seconds: float = 0.0
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def is_over(self) -> bool:
        return self.state in ("done", "stopped", "failed")

    @property
    def rows_per_second(self) -> float:
        """Up to the last batch."""
        return self.read / self.seconds if self.seconds else 0.0


class Desk:
    """Loads models, one at a time, and serves requests in the order in which they came.

    Attributes:
        model: the name of the model that it starts with.
        state: what it is doing, or why the first model could not be loaded.
        is_ready: whether it has tried to.
    """

    def __init__(self, model: str, dtype: str = "float32", device: str = "auto", **source_options):
        self.model, self.dtype, self.device = model, dtype, device
        self._options = {model: source_options}
        self.others = read_prompts(OTHERS)
        self.speeds: dict[str, float] = {}  # model -> readings per second of the last request that read some
        self.forget: Callable[[str], None] = lambda id: None  # called for a request that is no longer kept
        self.state, self.is_ready = f"loading {model}", False
        self._lm, self._lm_name, self._prompt, self._kept = None, "", None, {}
        self._cards, self._reading_cards = {}, threading.Lock()
        self._jobs: dict[str, Job] = {}
        self._queue: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="desk", daemon=True)

    def check(self) -> None:
        """Raises InputError for a model that isn't there, a dtype or a device; nothing is loaded."""
        check_hardware(self.dtype, self.device)
        find_source(self.model, SourceOptions.of(self._options[self.model]))

    def open(self) -> "Desk":
        """Start the thread; it loads the model and the judge before the first request."""
        self._thread.start()
        return self

    def close(self) -> None:
        """Stop after the batch in hand, and let the model go."""
        with self._changed:
            self._closed = True
            self._queue.clear()
            for job in self._jobs.values():
                job.stop.set()
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()
        self._lm, self._prompt, self._cards = None, None, {}

    @property
    def models(self) -> list[str]:
        """What can be chosen: the model it started with, and those of the catalogue that are here."""
        return list(dict.fromkeys([self.model, *(alias for alias in CATALOGUE if is_here(alias))]))

    @property
    def loaded(self) -> str:
        """The model in memory, if there is one."""
        return self._lm_name

    def card(self, model: str):
        """Config and tokenizer of a model that can be chosen.

        Raises:
            InputError: none of those, or its files can't be read.
        """
        if model not in self.models:
            raise InputError("model", model, f"expected one of {', '.join(self.models)}; ./runme.sh models lists more")
        with self._reading_cards:
            if model not in self._cards:
                self._cards[model] = read_model(model, **self._options.get(model, {}))
            return self._cards[model]

    def submit(self, settings: Settings) -> Job:
        """Put a request into the queue.

        Raises:
            InputError: a setting that this model can't carry out, or a queue that is full.
        """
        card = self.card(settings.model)
        plan = settings.plan(card)
        job = Job(settings, plan, plan.items(card), card.decoded_tokens(settings.prompt), card.num_layers)
        with self._changed:
            if len(self._queue) >= MOST_WAITING:
                raise InputError("queue", f"{len(self._queue)} requests wait", "try again in a while")
            self._tidy()
            self._jobs[job.id] = job
            self._queue.append(job)
            self._changed.notify_all()
        return job

    def stop(self, job: Job) -> None:
        """End a request: at once if it waits, or after the batch in hand; what was read is kept."""
        with self._changed:
            job.stop.set()
            if job in self._queue:
                self._queue.remove(job)
                job.state = "stopped"

    def find(self, id: str) -> Job | None:
        """A request by its id; None if it is none, or is long over."""
        return self._jobs.get(id)

    def place(self, job: Job) -> int:
        """How many requests are served before this one ends its waiting."""
        with self._changed:
            waiting = list(self._queue)
            busy = any(one.state in ("loading", "reading") for one in self._jobs.values())
        return waiting.index(job) + busy if job in waiting else 0

    def _tidy(self) -> None:
        kept = sum(len(job.items) for job in self._jobs.values())
        for job in list(self._jobs.values()):
            if job.is_over and (kept > MOST_KEPT or len(self._jobs) > MOST_JOBS):
                kept -= len(job.items)
                del self._jobs[job.id]
                self.forget(job.id)

    def _get_ready(self) -> None:
        """Load the model and the judge, and read the target prompt that most will ask with."""
        lm = self._load(self.model)
        self.state = "loading the judge"
        _ = self._embedded
        self._prompt = PatchedPrompt(lm, TargetPrompt(), Settings.max_new_tokens)
        self.state = ""

    def _work(self) -> None:
        try:
            self._get_ready()
        except Exception as error:
            self.state = _in_words(error)
        self.is_ready = True
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closed)
                if self._closed:
                    return
                job = self._queue.popleft()
                job.state = "loading"
            try:
                self._serve(job)
            except Exception as error:  # of whatever kind: the next request must be served
                job.message = _in_words(error)
                job.state = "failed"

    def _serve(self, job: Job) -> None:
        lm = self._load(job.settings.model)
        own, others = self._judged_by(job.settings.prompt)
        items, known = job.items.assign(id=job.plan.ids(job.items, lm)), {}
        for earlier in list(self._jobs.values()):
            known |= {id: earlier.readings[id] for id in items["id"] if id in earlier.readings}
        known = {
            id: reading for id, reading in known.items() if reading.status not in AGAIN
        }  # those are worth another try
        job.items, job.readings = items, known
        job.started, job.state = time.monotonic(), "reading"
        kept = items[[id in self._kept and id not in known for id in items["id"]]]
        if len(kept):  # by a notebook's run
            self._add(job, with_readings(kept, [self._kept[id] for id in kept["id"]]), own, others)
        job.known = len(job.readings)
        about, failure = {}, None
        try:
            for rows in self._run(lm, job):
                about = about or {name: rows.attrs[name] for name in ("batch_size", "shares_prefix", "fused")}
                self._take(job, rows, own, others)
        except Exception as error:  # what was read before it is kept
            failure = error
        found = items[items["id"].isin(job.readings.keys())]
        whole = len(found) == len(items)
        if len(found):
            rows = score(with_readings(found, [job.readings[id][:4] for id in found["id"]]), job.plan.target_prompt)
            fixed = lm.dtype == "float32" and not set(rows["status"]) & set(AGAIN)
            rows.attrs = {**describe(lm, job.plan), **about, "same_bytes_again": fixed, "whole": whole}
            job.rows = rows
        job.seconds = time.monotonic() - job.started
        if failure:
            raise failure
        job.state = "done" if whole else "stopped"

    def _run(self, lm, job: Job) -> Iterator[pd.DataFrame]:
        """Batches of rows, until they end or the visitor stops them."""
        if job.stop.is_set():  # while its model was loaded
            return
        size = min(max(-(-len(job.items) // 3), SMALLEST_BATCH), BATCH if len(job.items) < LONG else LARGER_BATCH)
        self._prompt = self._prompt_of(lm, job.plan)
        for rows in run(lm, job.plan, size, done=job.readings.keys(), prompt=self._prompt):
            yield rows
            if job.stop.is_set():
                return

    def _take(self, job: Job, rows: pd.DataFrame, own: np.ndarray, others: np.ndarray) -> None:
        """Add a batch that was read now."""
        self._add(job, rows, own, others)
        job.read += len(rows)
        job.seconds = time.monotonic() - job.started
        self.speeds[job.settings.model] = job.rows_per_second

    def _add(self, job: Job, rows: pd.DataFrame, own: np.ndarray, others: np.ndarray) -> None:
        """Add readings to those of the request; one that was known stays as it is."""
        vectors, ok = embed(rows["result"].tolist()), (rows["status"] == "ok").to_numpy()
        scores = np.where(ok, vectors @ own, np.nan).tolist()
        chance = np.where(ok[:, None], vectors @ others.T, -1.0)  # a failed reading is no try
        columns = (rows[name] for name in ("id", "result", "rho", "status", "message"))
        new = {id: Reading(*reading) for id, *reading in zip(*columns, scores, chance, strict=True)}
        job.readings = new | job.readings  # a new dictionary, since the page reads the old one meanwhile

    def _prompt_of(self, lm, plan) -> PatchedPrompt:
        """The plan's target prompt, read once for the requests that share it."""
        if self._prompt and self._prompt.is_of(lm, plan.target_prompt, plan.max_new_tokens):
            return self._prompt
        self._prompt = None  # freed before the next one is read
        return PatchedPrompt(lm, plan.target_prompt, plan.max_new_tokens)

    @cached_property
    def _embedded(self) -> np.ndarray:
        """(others, 384) embeddings of the prompts that chance is made of."""
        return embed(self.others)

    def _judged_by(self, prompt: str) -> tuple[np.ndarray, np.ndarray]:
        """(384,) the prompt's own embedding, and (others, 384) those of the prompts that chance is made of."""
        others = set(other_prompts(prompt, self.others))
        return embed([prompt])[0], self._embedded[[other in others for other in self.others]]

    def _load(self, model: str):
        """The model, after the one before it was let go."""
        if self._lm_name != model:
            self.state = f"loading {model}"
            self._lm, self._lm_name, self._prompt, self._kept = None, "", None, {}
            try:
                self._lm = load_model(model, self.dtype, self.device, **self._options.get(model, {}))
            finally:
                self.state = ""
            self._lm_name = model
            self._kept = readings_of(self._lm.fingerprint, self._lm.dtype, self._lm.attention, MOST_KEPT)
            with self._reading_cards:  # the card alone, or the weights would stay with it
                self._cards[model] = ModelCard(self._lm.source, self._lm.config, self._lm.tokenizer)
        return self._lm


def _in_words(error: Exception) -> str:
    """An error as a sentence for the page; one that is a bug of ours also in full for the terminal."""
    if isinstance(error, InputError):
        return str(error)
    if is_out_of_memory(error):
        return "not enough memory for this model on this machine"
    traceback.print_exception(error, file=sys.stderr)
    return f"a bug of ours, {type(error).__name__}: {' '.join(str(error).split())[:200]}"
