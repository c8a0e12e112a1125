"""The desk: one model in memory, and one thread that serves the requests of all visitors, a batch of each in turn."""

import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace

import pandas as pd

from .. import InputError
from ..engine.interpret import Batch, run
from ..engine.labels import LabelScorer
from ..judging.judge import Judge
from ..judging.score import score
from ..models.catalogue import CATALOGUE, is_here
from ..models.load import LanguageModel, ModelCard, check_hardware, read_model
from ..models.sources import find_source
from ..runs.labels import rows_of_labels, score_in_steps
from ..runs.ledger import readings_of
from ..runs.session import Session
from ..runs.sweep import rows_of
from ..words.labels import check_labels, continuations, references
from ..words.machine import give_memory_back, is_out_of_memory
from ..words.plans import make_plan
from ..words.prompts import read_prompts
from ..words.rows import TRIED_AGAIN, Item, Reading
from ..words.settings import ModelSettings, SourceOptions
from . import lens
from .cells import with_worth
from .given import serve
from .jobs import Job, Question, ReadRequest, Request, VectorJob, described
from .kept import kept
from .scores import Scorer
from .settings import MOST_ROWS, PageSettings, check_length
from .vector_settings import AskedVectors
from .weighing import Weigher

SMALLEST_BATCH, BATCH = 16, 48  # rows, a third of a request: others wait for a batch (benchmarks/results/app.csv)
LARGER_BATCH, LONG = 64, 1024  # for requests of so many rows
TOKENS = 640  # of all rows of a batch: fewer rows of longer readings
PARAMETERS = 300_000_000  # of a model; a batch of a larger one, on a CPU, has fewer rows
MOST_WAITING, SHARE = 100, 5  # requests that aren't over: of all visitors, of one
MOST_KEPT, MOST_JOBS = 50_000, 200  # readings, 2 KB each, and requests that are kept; the oldest go first
LARGE = 64 << 20  # bytes of one target prompt's keys and values, above which it isn't kept for the next request
OTHERS = "data/prompts.csv"  # the prompts that chance is made of


class Desk:
    """Loads models, one at a time, and serves requests: those of the model in memory in turn, a batch of each, up to the
    first request of another model, which the ones behind it don't overtake.

    Attributes:
        model: name of the model that it starts with.
        state: what it is doing apart from reading, or why the first model could not be loaded; "" if nothing.
        is_ready: whether it has tried to load the first model.
        is_laid_out: whether what is kept of the first view, if anything is, can be recalled; before the model is loaded.
        speeds: model -> tokens written per second, of its last request that computed some.
        forget: called with the id of a request that is no longer kept.

    Args:
        shows_kept: whether the first view need not be read where it is kept.
        source_options: of the first model; see `settings.SourceOptions`.
    """

    def __init__(
        self, model: str, dtype: str = "float32", device: str = "auto", shows_kept: bool = True, **source_options
    ):
        self.model, self.dtype, self.device = model, dtype, device
        self.state, self.is_ready, self.is_laid_out = f"loading {model}", False, not shows_kept
        self.speeds: dict[str, float] = {}
        self.forget: Callable[[str], None] = lambda id: None
        self._options = {model: SourceOptions.of(source_options)}
        self._judge, self._prompts = Judge(), read_prompts(OTHERS)
        self._session: Session | None = None
        self._of_runs: dict[str, Reading] = {}  # what runs of notebooks have read with this model
        self._cards: dict[str, ModelCard] = {}
        self._reading_cards = threading.Lock()
        self._weigher: Weigher | None = None  # of this model; it has the other prompts' vectors, for questions, too
        self._lenses: lens.Lenses | None = None  # of this model
        self._jobs: dict[str, Request] = {}
        self._queue: deque[Request] = deque()
        self._turns: deque[tuple[Request, Iterator[None]]] = deque()  # of the desk's thread
        self._changed = threading.Condition()  # guards the queue
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="desk", daemon=True)

    def check(self) -> None:
        """Check what can be checked without loading anything.

        Raises:
            InputError: a model that isn't there, or a dtype or device that can't be used.
        """
        check_hardware(self.dtype, self.device)
        find_source(self.model, self._options[self.model])

    def open(self) -> "Desk":
        """Start the thread; it loads the model and the judge before the first request."""
        self._thread.start()
        return self

    def close(self) -> None:
        """Stop at the next token, and free the model."""
        with self._changed:
            self._closed = True
            self._queue.clear()
            for job in self._jobs.values():
                job.stop.set()
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()
        self._session, self._of_runs, self._weigher, self._lenses, self._cards = None, {}, None, None, {}

    @property
    def models(self) -> list[str]:
        """Return the models to choose from: the one it started with, and those of the catalogue on this machine."""
        return list(dict.fromkeys([self.model, *(alias for alias in CATALOGUE if is_here(alias))]))

    @property
    def loaded(self) -> str:
        """Return the name of the model in memory; "" if there is none."""
        return self._session.settings.model if self._session else ""

    def card(self, model: str) -> ModelCard:
        """Return the config and tokenizer of one of `models`.

        Raises:
            InputError: not one of them, or its files can't be read.
        """
        if model not in self.models:
            raise InputError("model", model, f"expected one of {', '.join(self.models)}; ./runme.sh models lists more")
        with self._reading_cards:
            if model not in self._cards:
                self._cards[model] = read_model(model, **self._options_of(model).changed)
            return self._cards[model]

    def seconds_for(self, readings: int, settings: PageSettings) -> float | None:
        """Return about how long readings take, by the speed of the last request; None before there was one."""
        speed = self.speeds.get(settings.model)
        return readings * settings.max_new_tokens / speed if speed else None

    def prepare(self, settings: PageSettings | AskedVectors) -> Job | VectorJob:
        """Make a request of settings, which are checked; it isn't in the queue yet.

        Raises:
            InputError: a setting or a file that this model can't carry out.
        """
        card = self.card(settings.model)
        if isinstance(settings, AskedVectors):
            request = settings.request(card)
            return VectorJob(settings, request, [item for plan in request.plans for item in plan.items(card)])
        plan = settings.plan(card)
        return Job(settings, plan, plan.items(card), card.decoded_tokens(settings.prompt), card.num_layers)

    def submit(self, settings: PageSettings | AskedVectors, visitor: str = "") -> Job | VectorJob:
        """Put a request into the queue.

        Args:
            visitor: as in `queue_up`.

        Raises:
            InputError: as of `prepare` and `queue_up`.
        """
        return self.queue_up(self.prepare(settings), visitor)

    def ask(self, settings: PageSettings, labels: object, visitor: str = "") -> Question:
        """Put a question into the queue: which of some labels the vectors are that these settings read.

        Args:
            labels: as a visitor types them, or a list.
            visitor: as in `queue_up`.

        Raises:
            InputError: a setting or a label that this model can't carry out, or a queue that is full.
        """
        card = self.card(settings.model)
        plan = settings.plan(card)
        labels = check_labels("labels", check_length("labels", labels) if isinstance(labels, str) else labels)
        continuations(card, plan.target_prompt, labels)
        rows = len(items := plan.items(card)) * (len(references(settings.prompt, self._prompts)) + 1)
        if rows > MOST_ROWS:
            why = f"at most {MOST_ROWS:,} at once here, those of chance among them; ./runme.sh label has no limit"
            raise InputError("vectors", f"{rows:,}", why)
        question = Question(settings, plan, items, labels, card.decoded_tokens(settings.prompt))
        return self.queue_up(question, visitor)

    def queue_up(self, job: Request, visitor: str = "") -> Request:
        """Put a request into the queue, and return it.

        Args:
            visitor: who asks; each has a share of the queue. "" has no limit of its own.

        Raises:
            InputError: a queue that is full.
        """
        job.visitor = visitor
        with self._changed:
            waiting = [other for other in self._jobs.values() if not other.is_over and not other.stop.is_set()]
            if len(waiting) >= MOST_WAITING:
                raise InputError("queue", f"{len(waiting)} requests wait", "try again in a while")
            if visitor and sum(other.visitor == visitor for other in waiting) >= SHARE:
                raise InputError("queue", f"{SHARE} requests of yours wait", "let one of them end, or stop it")
            self._tidy()
            self._jobs[job.id] = job
            self._queue.append(job)
            self._changed.notify_all()
        return job

    def stop(self, job: Request) -> None:
        """End a request: at once if it waits, or at the next token. What was read is kept."""
        with self._changed:
            job.stop.set()
            if job in self._queue:
                self._queue.remove(job)
                job.state = "stopped"

    def find(self, id: str, kind: type[Request] = Job) -> Request | None:
        """Return a request by its id; None if it is unknown, of another kind, or no longer kept."""
        job = self._jobs.get(id)
        return job if isinstance(job, kind) else None

    def recall(self, settings: PageSettings, id: str = "") -> Job | None:
        """Return a request of the same vectors in the same way that was read and weighed to its end, if one is kept.

        Args:
            id: of one that is preferred, though it be stopped or not over yet.

        Raises:
            InputError: a setting that this model can't carry out.
        """
        card = self.card(settings.model)
        items = settings.plan(card).items(card)
        alike = ("model", "target_prompt", "max_new_tokens", "threshold")
        same = [
            job
            for job in list(self._jobs.values())
            if isinstance(job, Job) and len(job.items) == len(items)
            and all(getattr(job.settings, name) == getattr(settings, name) for name in alike)
            and [item._replace(id="") for item in job.items] == items
        ]  # fmt: skip
        preferred = [job for job in same if job.id == id]
        return next(iter(preferred or [job for job in reversed(same) if job.state == "done" and job.weighed]), None)

    def count_ahead(self, job: Request) -> int:
        """Count the requests that are served before a waiting one: of those in turns all, if they or one before it need
        another model; else the one whose batch is read.
        """
        with self._changed:
            waiting = list(self._queue)
            busy = [other for other in self._jobs.values() if other.state in ("loading", "reading", "weighing")]
        if job not in waiting:
            return 0
        place = waiting.index(job)
        models = {other.settings.model for other in (*busy, *waiting[: place + 1])}
        return place + (len(busy) if len(models) > 1 else bool(busy))

    def _tidy(self) -> None:
        """Drop the oldest requests that are over, if too many are kept."""
        kept = sum(len(job.items) for job in self._jobs.values())
        for job in list(self._jobs.values()):
            if job.is_over and not job.is_kept and (kept > MOST_KEPT or len(self._jobs) > MOST_JOBS):
                kept -= len(job.items)
                del self._jobs[job.id]
                self.forget(job.id)

    # What the thread does

    def _work(self) -> None:
        for prepare in (self._lay_out, self._get_ready):  # the model is loaded even if what is kept can't be read
            try:
                prepare()
            except Exception as error:
                self.state = _in_words(error)
        self.is_ready = True
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._turns or self._closed)
                if self._closed:
                    return
                job, steps = self._next()
            try:
                next(steps)
                self._turns.append((job, steps))
                continue
            except StopIteration:
                pass
            except Exception as error:  # whatever it is, the next request must be served
                job.message = _in_words(error)
                job.state = "failed"
            del steps  # and what it holds
            self._clear_away()

    def _next(self) -> tuple[Request, Iterator[None]]:
        """Choose whose turn it is: a newcomer, unless it needs another model than those who take turns; else the next."""
        if self._queue and all(job.settings.model == self._queue[0].settings.model for job, _ in self._turns):
            job = self._queue.popleft()
            job.state = "loading"
            steps = {Question: self._answer, VectorJob: self._serve_vectors}.get(type(job), self._serve)
            return job, steps(job)
        return self._turns.popleft()

    def _lay_out(self) -> None:
        """Lay out the first view, if it is kept."""
        try:
            if not self.is_laid_out and (job := kept(self.card(self.model), self.dtype)):
                with self._changed:
                    self._jobs[job.id] = job
        finally:
            self.is_laid_out = True

    def _clear_away(self) -> None:
        """Give back the memory that a request took, now that it is over."""
        if self._session:
            self._session.forget_large(LARGE)
        if self._weigher:
            self._weigher.forget_large(LARGE)
        give_memory_back()

    def _get_ready(self) -> None:
        """Load the model and the judge, and read the usual target prompt."""
        self._load(self.model)
        self.state = "loading the judge"
        self._judge.embedded(self._prompts)
        usual = PageSettings()
        self._session.prompt_for(make_plan(usual.prompt, max_new_tokens=usual.max_new_tokens))
        self.state = "reading the paper's prompts"
        try:
            self._weigher_of(self._session.lm)
        except InputError:  # each request says so beside what it has read
            pass
        self.state = ""

    def _serve(self, job: Job) -> Iterator[None]:
        """Read what a request asks for; yield after each batch."""
        lm = self._load(job.settings.model)
        scorer = Scorer(self._judge, job.settings.prompt, self._prompts)
        job.items = job.plan.items(lm, lm.identity)
        job.started, job.state = time.monotonic(), "reading"
        self._recall(job, scorer)
        made, failure = {}, None
        try:
            for batch in self._read(lm, job):
                made = made or batch.made
                self._take(job, batch, scorer)
                yield
        except Exception as error:  # what was read before it is kept
            failure = error
        found = [item for item in job.items if item.id in job.readings]
        job.seconds = time.monotonic() - job.started
        whole = not failure and len(found) == len(job.items)
        is_weighed = (yield from self._weigh(lm, job)) if whole else False
        yield from self._ask_lenses(lm, job)
        if found:
            job.rows = self._rows(lm, job, found, made)
        if failure:
            raise failure
        job.state = "done" if is_weighed or job.unweighed else "stopped"

    def _serve_vectors(self, job: VectorJob) -> Iterator[None]:
        """Read given vectors; yield after each batch."""
        lm = self._load(job.settings.model)
        known: dict[str, Reading] = {}
        for earlier in [one for one in list(self._jobs.values()) if isinstance(one, VectorJob)]:
            known |= {id: one for id, one in earlier.readings.items() if one.status not in TRIED_AGAIN}
        try:
            for _ in serve(job, self._session, self._judge, self._batch_size(lm, job), known):
                self._note_speed(job)
                yield
        except InputError as error:
            raise InputError.saying(job.settings.without_path(str(error))) from error

    def _note_speed(self, job: ReadRequest) -> None:
        if job.read:  # one whose readings were all known says nothing
            self.speeds[job.settings.model] = job.rows_per_second * job.settings.max_new_tokens

    def _weigh(self, lm: LanguageModel, job: Job) -> Generator[None, None, bool]:
        """Weigh a request's readings, and return whether that was done; yield after each part, as a stop is obeyed."""
        job.state, started = "weighing", time.monotonic()
        try:
            weigher, target_prompt = self._weigher_of(lm), job.plan.target_prompt
            rows = rows_of(job.items, [job.readings[item.id].reading for item in job.items], target_prompt)
            for earlier in [one for one in list(self._jobs.values()) if isinstance(one, Job)]:
                job.evidence |= {id: earlier.evidence[id] for id in rows["id"] if id in earlier.evidence}
            missing = rows[~rows["id"].isin(job.evidence.keys())]
            for part in weigher.evidence(missing, target_prompt, self._session.sources_for(job.plan)):
                job.evidence = job.evidence | part  # a new dictionary, as of the readings
                if job.stop.is_set():
                    break
                yield
            if len(job.evidence) < len(set(rows["id"])):
                return False
            job.calibration = weigher.calibration(target_prompt)
            job.weighed = weigher.weigh(rows, job.evidence, target_prompt)
        except Exception as error:  # what was read is kept, and shown as it is
            job.unweighed = _in_words(error)
        job.weighing_seconds = time.monotonic() - started
        return not job.unweighed

    def _ask_lenses(self, lm: LanguageModel, job: Job) -> Iterator[None]:
        """Ask the lenses about a request's vectors; yield after each part. Readings stand without them."""
        vectors = list(dict.fromkeys((one.component, one.layer, one.position) for one in job.items if one.id in job.readings))
        try:
            self._lenses = self._lenses or lens.Lenses(lm)
            for start in range(0, min(len(vectors), lens.MOST), lens.PART):
                if job.stop.is_set():
                    return
                activations = self._session.sources_for(job.plan)[job.settings.prompt]
                job.told = job.told | self._lenses.of(vectors[start : start + lens.PART], activations)
                yield
        except Exception as error:
            _in_words(error)  # in the terminal

    def _answer(self, question: Question) -> Iterator[None]:
        """Score a question's labels; yield after each vector. A stop is obeyed after a pass."""
        lm = self._load(question.settings.model)
        question.state = "reading"
        last = self._weigher_of(lm).references.last
        longest = max(len(one.tokens) for one in continuations(lm, question.plan.target_prompt, question.labels))
        wanted = replace(question.plan, max_new_tokens=max(question.plan.max_new_tokens, longest))
        scorer = LabelScorer(lm, question.labels, wanted.target_prompt, self._session.prompt_for(wanted))
        sources, others = self._session.sources_for(question.plan), references(question.settings.prompt, self._prompts)
        beside = {other: last[other] for other in others}
        scores = []
        for item in question.items:
            for found in score_in_steps(scorer, item, sources, beside):
                if question.stop.is_set():
                    question.state = "stopped"
                    return
                scores += [found] if found else []
            yield
        question.rows = rows_of_labels(question.items, scores)
        question.rows.attrs = {"references": len(others)}
        question.state = "done"

    def _recall(self, job: Job, scorer: Scorer) -> None:
        """Give a request the readings that are known: of earlier requests, and of notebooks' runs."""
        known = {}
        for earlier in [one for one in list(self._jobs.values()) if isinstance(one, Job)]:
            readings = earlier.readings
            known |= {item.id: readings[item.id] for item in job.items if item.id in readings}
        job.readings = {id: scored for id, scored in known.items() if scored.reading.status not in TRIED_AGAIN}
        of_runs = [item for item in job.items if item.id in self._of_runs and item.id not in job.readings]
        if of_runs:
            self._add(job, of_runs, [self._of_runs[item.id] for item in of_runs], scorer)
        job.known = len(job.readings)

    def _read(self, lm: LanguageModel, job: Job) -> Iterator[Batch]:
        """Read what a request lacks, batch by batch, until it is complete or the visitor stops it."""
        if job.stop.is_set():  # while its model was loaded
            return
        size, stop, shared = self._batch_size(lm, job), job.stop.is_set, self._session.shared_by(job.plan)
        for batch in run(lm, job.plan, size, done=job.readings.keys(), items=job.items, stop=stop, **shared):
            yield batch
            if stop():
                return

    @staticmethod
    def _batch_size(lm: LanguageModel, job: Job | VectorJob) -> int:
        """Choose the rows of a batch, for whose end others wait."""
        size = min(max(-(-len(job.items) // 3), SMALLEST_BATCH), BATCH if len(job.items) < LONG else LARGER_BATCH)
        size = min(size, TOKENS // job.settings.max_new_tokens)
        if lm.device.type == "cpu":
            size = min(size, BATCH * PARAMETERS // max(1, lm.model.num_parameters()))
        return max(1, size)

    def _take(self, job: Job, batch: Batch, scorer: Scorer) -> None:
        """Add a batch to the readings of a request."""
        self._add(job, batch.items, batch.readings, scorer)
        job.note_batch(len(batch.items))
        self._note_speed(job)

    @staticmethod
    def _add(job: Job, items: list[Item], readings: list[Reading], scorer: Scorer) -> None:
        """Score readings and add them; those that were known stay as they are."""
        new = {item.id: scored for item, scored in zip(items, scorer.score(readings), strict=True)}
        job.readings = new | job.readings  # a new dictionary, since pages read the old one at the same time

    def _rows(self, lm: LanguageModel, job: Job, items: list[Item], made: dict) -> pd.DataFrame:
        """Make the rows of what was read, and the JSON that goes beside their CSV.

        Args:
            made: how the first batch was computed; {} if everything was known.
        """
        rows = rows_of(items, [job.readings[item.id].reading for item in items], job.plan.target_prompt)
        rows = with_worth(score(rows, self._judge), job)
        rows.attrs = {
            **described(job, lm, self._judge, [job.plan], made, rows),
            "weighed": {"references": OTHERS, "calibration": job.calibration.about if job.calibration else None}
            if job.weighed else None,
        }
        return rows

    def _load(self, model: str) -> LanguageModel:
        """Return a model; the one before it is freed first."""
        if self.loaded != model:
            self.state = f"loading {model}"
            self._session, self._of_runs, self._weigher, self._lenses = None, {}, None, None
            options = {"dtype": self.dtype, "device": self.device, "source_options": self._options_of(model)}
            session = Session(ModelSettings.of({"model": model, **options}), self._judge)
            try:
                lm = session.lm
            finally:
                self.state = ""
            self._session, self._of_runs = session, readings_of(lm.identity, MOST_KEPT)
            with self._reading_cards:  # a card alone: a LanguageModel would keep the weights in memory
                self._cards[model] = ModelCard(lm.source, lm.config, lm.tokenizer)
        return self._session.lm

    def _weigher_of(self, lm: LanguageModel) -> Weigher:
        """Return what weighs this model's readings; the other prompts are read once."""
        self._weigher = self._weigher or Weigher(lm, self._prompts)
        return self._weigher

    def _options_of(self, model: str) -> SourceOptions:
        return self._options.get(model, SourceOptions())


def _in_words(error: Exception) -> str:
    """Say an error in a sentence for the page; print an unexpected one in full in the terminal."""
    if isinstance(error, InputError):
        return str(error)
    if is_out_of_memory(error):
        return "not enough memory for this model on this machine"
    traceback.print_exception(error, file=sys.stderr)
    return f"an error in this program, {type(error).__name__}: {' '.join(str(error).split())[:200]}"
