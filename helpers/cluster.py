"""Past one process: the same plan on Dask workers, whose rows come back to this process's ledger."""

import secrets
import signal
import threading
import time
from collections import deque
from collections.abc import Collection, Iterator
from contextlib import ExitStack, suppress
from types import SimpleNamespace

import dask
import distributed
import pandas as pd

from . import InputError
from .ledger import versions
from .models import LanguageModel, load_model
from .plans import Plan
from .results import describe
from .runs import cores
from .stopping import Terminated
from .superscopes import READING_COLUMNS, Reader

AHEAD = 3  # chunks per worker that are handed out: one in hand, the next ones there when it is done
CHUNK = 10  # seconds that a chunk takes, about: what a stop waits for, and a death costs
DEATHS = 10  # of workers at the same chunk, before it is given up
PATIENCE = 10  # seconds for an answer of the scheduler
WAIT = 600  # seconds for the first worker: a job may wait in a queue
LOOK = 5  # seconds between looks at how many workers there are
SETTINGS = {
    "distributed.scheduler.allowed-failures": DEATHS,
    "distributed.nanny.pre-spawn-environ": {},  # its settings of malloc and OpenMP cost a quarter of the speed
}


class InWorker:
    """What a worker's process holds: one model and one plan on it, loaded when first asked for and kept for later runs."""

    def __init__(self):
        self.alone = threading.RLock()  # a worker with many threads has one model all the same
        self._load, self._lm, self._plan, self._reader = None, None, None, None

    def lm(self, load: dict, threads: int) -> LanguageModel:
        """The model, after another one was let go."""
        import torch

        torch.set_num_threads(threads)
        if self._load != load:
            self._load, self._lm, self._plan, self._reader = None, None, None, None
            self._lm, self._load = load_model(**load), load
        return self._lm

    def reader(self, lm: LanguageModel, plan: Plan, batch_size: int | None) -> Reader:
        """The plan on the model; kept until another one is asked for."""
        if self._reader is None or self._plan != (plan, batch_size):
            self._reader = None  # freed before the next one is made
            self._reader, self._plan = Reader(lm, plan, batch_size, fused=False), (plan, batch_size)
        return self._reader


HELD = InWorker()


class ForRun(distributed.WorkerPlugin):
    """What a run's tasks need in each worker, sent once; Dask gives it to workers that come later, too.

    Args:
        load: arguments of `models.load_model`.
        threads: of torch; 0 is as many as the worker was given.
    """

    def __init__(self, name: str, load: dict, threads: int, plan: Plan | None = None):
        self.name, self.load, self.threads, self.plan = name, load, threads, plan

    def setup(self, worker: distributed.Worker) -> None:
        """Called by Dask where the worker is."""
        if not self.threads:  # of a cluster: it obeys who started it
            self.threads = worker.state.nthreads
            return
        with suppress(ValueError):  # not the main thread
            signal.signal(
                signal.SIGINT, signal.SIG_IGN
            )  # Ctrl-C comes to all of a terminal's processes; the driver obeys


def _run(name: str) -> ForRun:
    return distributed.get_worker().plugins[name]


def _made_by(name: str) -> tuple[str, str, str]:
    with HELD.alone:
        lm = HELD.lm(_run(name).load, _run(name).threads)
        return lm.fingerprint, lm.dtype, lm.attention


def _describe(name: str, plans: tuple[Plan, ...]) -> dict:
    with HELD.alone:
        return describe(HELD.lm(_run(name).load, _run(name).threads), *plans)


def _size(name: str) -> int:
    with HELD.alone:
        return HELD.reader(HELD.lm(_run(name).load, _run(name).threads), _run(name).plan, None).size


def _read(name: str, batch_size: int, starts: list[int]) -> tuple[dict, float, list[tuple[dict, dict]]]:
    """The batches that begin there: library versions, seconds for each batch, and of each, columns and how it was made."""
    with HELD.alone:
        reader = HELD.reader(HELD.lm(_run(name).load, _run(name).threads), _run(name).plan, batch_size)
        started = time.monotonic()
        batches = [reader.read(start) for start in starts]
        seconds = (time.monotonic() - started) / len(starts)
    columns = ["id", *READING_COLUMNS]
    return versions(), seconds, [(rows[columns].to_dict("list"), rows.attrs) for rows in batches]


class Workers:
    """Dask workers with the model of some readings: processes of this machine, or those of a scheduler's cluster.

    A context manager. Batches are cut from the plan as in one process, so that in float32 the rows are the same
    bytes. A worker may die, its chunks go to others; of this process or the scheduler, what had come back is in the
    ledger. A script that starts processes of this machine needs `if __name__ == "__main__":`, as all that Python
    starts anew.

    Attributes:
        made_by: fingerprint, dtype and attention of the workers' model.

    Args:
        readings: `readings.Readings`; its `workers` is a number of processes to start here, or a scheduler's address.

    Raises:
        InputError: no scheduler there, or a model that its workers can't load.
        Terminated: no worker came, the scheduler is gone, or workers died again and again.
    """

    def __init__(self, readings):
        self._own, self._stack = readings, ExitStack()

    def __enter__(self) -> "Workers":
        with ExitStack() as stack:
            self._connect(stack)
            self.made_by = self._ask(_made_by)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error) -> None:
        self._stack.__exit__(*error)

    def _connect(self, stack: ExitStack) -> None:
        own = self._own
        stack.enter_context(dask.config.set(SETTINGS))
        if isinstance(own.workers, int):
            self._threads = max(1, cores() // own.workers)
            options = {"dashboard_address": None, "host": "127.0.0.1", "memory_limit": 0, "silence_logs": "CRITICAL"}
            cluster = distributed.LocalCluster(
                n_workers=own.workers, threads_per_worker=1, processes=True, security=True, **options
            )  # `security`: keys of its own, so that other users of the machine can't connect
            self._client = stack.enter_context(distributed.Client(stack.enter_context(cluster)))
        else:
            self._threads = 0
            try:
                self._client = stack.enter_context(distributed.Client(own.workers, timeout=PATIENCE))
            except (OSError, ValueError) as error:
                raise InputError("workers", own.workers, f"no Dask scheduler answers there ({error})") from None
        try:
            self._client.wait_for_workers(1, timeout=WAIT)
        except TimeoutError:
            raise Terminated(f"no worker came to {own.workers} in {WAIT // 60} minutes") from None
        self._name = f"superscopes-{secrets.token_hex(8)}"  # a scheduler may serve several runs
        stack.callback(self._forget)
        self._give()

    def _give(self, plan: Plan | None = None) -> None:
        load = {"name": str(self._own.model), "dtype": self._own.dtype, "device": self._own.device}
        self._client.register_plugin(ForRun(self._name, load | dict(self._own.source_options), self._threads, plan))

    def _forget(self) -> None:
        with suppress(Exception):  # of whatever kind: the scheduler may be gone
            self._client.unregister_worker_plugin(self._name)

    def _ask(self, task, *arguments):
        """What a task on some worker says."""
        try:
            return self._client.submit(task, self._name, *arguments, pure=False).result()
        except (distributed.KilledWorker, distributed.CancelledError, OSError) as error:
            raise _ended(error) from error

    @property
    def _count(self) -> int:
        return len(self._client.scheduler_info(n_workers=-1)["workers"])

    def describe(self, *plans: Plan) -> dict:
        """What makes the results, as `results.describe` tells it on a worker."""
        about = self._ask(_describe, plans)
        about["machine"]["workers"] = self._count
        return about

    def batches(
        self, number: int, plan: Plan, batch_size: int | None, there: Collection[str]
    ) -> Iterator[pd.DataFrame]:
        """Batches of a plan as they are ready, in any order; those whose ids are there are passed over.

        Raises:
            InputError: a worker with another model, code or version of a library.
            Terminated: the scheduler is gone, or workers died at the same chunk again and again.
        """
        fingerprint, dtype, attention = self.made_by
        made_by = SimpleNamespace(fingerprint=fingerprint, dtype=dtype, attention=attention)
        ids = plan.ids(plan.items(self._own.card), made_by)
        self._give(plan)
        size = batch_size or self._ask(_size)
        begins = range(0, len(ids), size)
        starts = deque(start for start in begins if not all(id in there for id in ids[start : start + size]))
        at_once = 1  # batches of a chunk
        looked = workers = 0
        try:
            ready = distributed.as_completed([])
            while True:
                if time.monotonic() - looked > LOOK:
                    looked, workers = time.monotonic(), max(1, self._count)
                while ready.count() < AHEAD * workers and starts:
                    several = min(at_once, max(1, len(starts) // (2 * workers)))  # small ones in the end: none waits
                    chunk = [starts.popleft() for _ in range(several)]
                    future = self._client.submit(_read, self._name, size, chunk, pure=False)
                    future.starts = chunk
                    ready.add(future)
                if ready.is_empty():
                    return
                future = next(ready)
                theirs, seconds, batches = future.result()
                at_once = max(1, min(64, round(CHUNK / max(seconds, 1e-3))))
                if theirs != versions():
                    raise InputError("workers", self._own.workers, f"a worker has {theirs}, this process {versions()}")
                for waiting, start, (columns, made) in zip(
                    range(len(batches))[::-1], future.starts, batches, strict=True
                ):
                    if columns["id"] != ids[start : start + size]:
                        why = "a worker reads other rows than it was asked for: another model or version of this code"
                        raise InputError("workers", self._own.workers, why)
                    rows = pd.DataFrame(columns)
                    rows.attrs = made | {"waiting": waiting}
                    yield rows
                future.release()
        except (distributed.KilledWorker, distributed.CancelledError, OSError) as error:
            raise _ended(error) from error


def _ended(error: Exception) -> Terminated:
    if isinstance(error, distributed.KilledWorker):
        return Terminated(f"workers died at the same rows again and again: {error}")
    return Terminated(f"the Dask scheduler is gone ({type(error).__name__})")
