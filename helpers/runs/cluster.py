"""The same plans on Dask workers, of this machine or of a cluster; rows come back to this process's ledger."""

import secrets
import signal
import threading
import time
from collections import deque
from collections.abc import Collection, Iterator
from contextlib import ExitStack, suppress

import dask
import distributed

from .. import InputError
from ..engine.interpret import Batch, Reader
from ..models.load import ModelCard
from ..words.machine import cores
from ..words.plans import Plan
from ..words.rows import Identity, Item, Reading
from ..words.settings import ModelSettings
from .ledger import versions
from .session import Session
from .stopping import Terminated

AHEAD = 3  # chunks per worker that are handed out: one in hand, the next ones there when it is done
CHUNK = 10  # seconds that a chunk takes, about: what a stop waits for, and what a death costs
DEATHS = 10  # of workers at the same chunk, before it is given up
PATIENCE = 10  # seconds for an answer of the scheduler
WAIT = 600  # seconds for the first worker: a job may wait in a queue
LOOK = 5  # seconds between counts of the workers
SETTINGS = {
    "distributed.scheduler.allowed-failures": DEATHS,
    "distributed.nanny.pre-spawn-environ": {},  # its settings of malloc and OpenMP cost a quarter of the speed
}


# In a worker


class Held:
    """What a worker's process keeps for later tasks and runs: one model, and one plan on it."""

    def __init__(self):
        self.alone = threading.RLock()  # a worker with many threads has a single model all the same
        self._session: Session | None = None
        self._plan, self._reader = None, None

    def session(self, settings: ModelSettings) -> Session:
        """Return a session with the model; one that was held before is let go first."""
        if self._session is None or self._session.settings != settings:
            self._session, self._plan, self._reader = None, None, None
            self._session = Session(settings)
        return self._session

    def reader(self, session: Session, plan: Plan, batch_size: int | None) -> Reader:
        """Return the plan on the model, expanded once; it is kept until another one is asked for."""
        if self._reader is None or self._plan != plan or batch_size not in (None, self._reader.size):
            items = self._reader.items if self._reader and self._plan == plan else None
            self._reader = None  # freed before the next one is made
            shared = {"fused": False, "items": items} | session.shared_by(plan)
            self._reader, self._plan = Reader(session.lm, plan, batch_size, **shared), plan
        return self._reader


HELD = Held()


class RunPlugin(distributed.WorkerPlugin):
    """What a run's tasks need in each worker, sent once; Dask gives it to workers that come later, too.

    Args:
        settings: which model.
        threads: of torch; 0 is as many as the worker was given.
    """

    def __init__(self, name: str, settings: ModelSettings, threads: int, plan: Plan | None = None):
        self.name, self.settings, self.threads, self.plan = name, settings, threads, plan

    def setup(self, worker: distributed.Worker) -> None:
        """Prepare the worker; Dask calls this in its process."""
        if not self.threads:  # of a cluster: it obeys who started it
            self.threads = worker.state.nthreads
            return
        with suppress(ValueError):  # not in the main thread
            # Ctrl-C goes to all of a terminal's processes; only the driver obeys.
            signal.signal(signal.SIGINT, signal.SIG_IGN)


def _run(name: str) -> tuple[Session, Plan | None]:
    """Return the model of a run, in this worker, and the plan that is read."""
    import torch

    plugin = distributed.get_worker().plugins[name]
    torch.set_num_threads(plugin.threads)
    return HELD.session(plugin.settings), plugin.plan


def _identity(name: str) -> Identity:
    with HELD.alone:
        return _run(name)[0].identity


def _describe(name: str, plans: tuple[Plan, ...]) -> dict:
    with HELD.alone:
        return _run(name)[0].describe(*plans)


def _size(name: str) -> int:
    with HELD.alone:
        return HELD.reader(*_run(name), None).size


def _read(name: str, batch_size: int, starts: list[int]) -> tuple[dict, float, list[tuple]]:
    """Read the batches that begin at some indexes.

    Returns:
        Versions of the libraries, seconds for each batch, and of each batch: ids, columns of readings, how it was made.
    """
    with HELD.alone:
        reader = HELD.reader(*_run(name), batch_size)
        started = time.monotonic()
        batches = [reader.read(start) for start in starts]
        seconds = (time.monotonic() - started) / len(starts)
    return versions(), seconds, [
        ([item.id for item in batch.items], list(zip(*batch.readings, strict=True)), batch.made) for batch in batches
    ]  # fmt: skip


# In the driver


class Workers:
    """Dask workers with a model: processes of this machine, or those of a scheduler's cluster. A `loop.Source`.

    A context manager. Batches are cut from the plan as in one process, so that in float32 the rows are the same
    bytes. A worker may die: its chunks go to others. If this process or the scheduler dies, what had come back is in
    the ledger. A script that starts processes of this machine needs `if __name__ == "__main__":`, like anything that
    Python starts in new processes.

    Attributes:
        identity: of the workers' model.

    Args:
        settings: which model.
        card: of the model, here.
        workers: a number of processes to start here, or a scheduler's address.

    Raises:
        InputError: no scheduler there, or a model that its workers can't load.
        Terminated: no worker came, the scheduler is gone, or workers died again and again.
    """

    def __init__(self, settings: ModelSettings, card: ModelCard, workers: int | str):
        self._settings, self._card, self._workers, self._stack = settings, card, workers, ExitStack()

    def __enter__(self) -> "Workers":
        with ExitStack() as stack:
            self._connect(stack)
            self.identity = self._ask(_identity)._replace(name=self._card.slug)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error) -> None:
        self._stack.__exit__(*error)

    def _connect(self, stack: ExitStack) -> None:
        stack.enter_context(dask.config.set(SETTINGS))
        if isinstance(self._workers, int):
            self._threads = max(1, cores() // self._workers)
            options = {"dashboard_address": None, "host": "127.0.0.1", "memory_limit": 0, "silence_logs": "CRITICAL"}
            # `security`: with its own keys, so that other users of the machine can't connect
            cluster = distributed.LocalCluster(
                n_workers=self._workers, threads_per_worker=1, processes=True, security=True, **options
            )
            self._client = stack.enter_context(distributed.Client(stack.enter_context(cluster)))
        else:
            self._threads = 0
            try:
                self._client = stack.enter_context(distributed.Client(self._workers, timeout=PATIENCE))
            except (OSError, ValueError) as error:
                raise InputError("workers", self._workers, f"no Dask scheduler answers there ({error})") from None
        try:
            self._client.wait_for_workers(1, timeout=WAIT)
        except TimeoutError:
            raise Terminated(f"no worker came to {self._workers} in {WAIT // 60} minutes") from None
        self._name = f"superscopes-{secrets.token_hex(8)}"  # a scheduler may serve several runs
        stack.callback(self._forget)
        self._send()

    def _send(self, plan: Plan | None = None) -> None:
        """Send every worker what its tasks need."""
        which = ModelSettings.of({name: getattr(self._settings, name) for name in ModelSettings.model_fields})
        self._client.register_plugin(RunPlugin(self._name, which, self._threads, plan))

    def _forget(self) -> None:
        with suppress(Exception):  # of whatever kind: the scheduler may be gone
            self._client.unregister_worker_plugin(self._name)

    def _ask(self, task, *arguments):
        """Run a task on some worker, and return its result."""
        try:
            return self._client.submit(task, self._name, *arguments, pure=False).result()
        except (distributed.KilledWorker, distributed.CancelledError, OSError) as error:
            raise _ended(error) from error

    @property
    def _count(self) -> int:
        return len(self._client.scheduler_info(n_workers=-1)["workers"])

    def describe(self, *plans: Plan) -> dict:
        """Return what makes the results, as a worker says it."""
        about = self._ask(_describe, plans)
        about["machine"]["workers"] = self._count
        return about

    def batches(
        self, plan: Plan, items: list[Item], batch_size: int | None, done: Collection[str]
    ) -> Iterator[list[Batch]]:
        """Read a plan's batches, but not those whose ids are all in `done`; yield chunks as they get ready.

        Raises:
            InputError: a worker with another model, code or version of a library.
            Terminated: the scheduler is gone, or workers died at the same chunk again and again.
        """
        self._send(plan)
        size = batch_size or self._ask(_size)
        begins = range(0, len(items), size)
        starts = deque(start for start in begins if not all(item.id in done for item in items[start : start + size]))
        at_once = 1  # batches of a chunk
        looked = workers = 0
        try:
            ready = distributed.as_completed([])
            while True:
                if time.monotonic() - looked > LOOK:
                    looked, workers = time.monotonic(), max(1, self._count)
                while ready.count() < AHEAD * workers and starts:
                    several = min(at_once, max(1, len(starts) // (2 * workers)))  # small at the end: no worker waits
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
                    raise InputError("workers", self._workers, f"a worker has {theirs}, this process {versions()}")
                asked = [items[start : start + size] for start in future.starts]
                yield [self._batch(some, *read) for some, read in zip(asked, batches, strict=True)]
                future.release()
        except (distributed.KilledWorker, distributed.CancelledError, OSError) as error:
            raise _ended(error) from error

    def _batch(self, items: list[Item], ids: list[str], columns: list[tuple], made: dict) -> Batch:
        if ids != [item.id for item in items]:
            why = "a worker reads other rows than it was asked for: another model or version of this code"
            raise InputError("workers", self._workers, why)
        return Batch(items, list(map(Reading, *columns)), made)


def _ended(error: Exception) -> Terminated:
    if isinstance(error, distributed.KilledWorker):
        return Terminated(f"workers died at the same rows again and again: {error}")
    return Terminated(f"the Dask scheduler is gone ({type(error).__name__})")
