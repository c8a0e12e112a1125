"""Past one process: the same plan on Dask workers, whose rows come back to this process's ledger."""

import os
import signal
import threading
from collections.abc import Collection, Iterator
from contextlib import ExitStack, suppress
from functools import cached_property
from itertools import islice
from types import SimpleNamespace

import pandas as pd

from . import InputError

try:
    import distributed
except ImportError:
    raise InputError("workers", "Dask", "isn't installed: pip install -r requirements-cluster.txt") from None

from .ledger import Terminated
from .models import LanguageModel, load_model
from .plans import Plan
from .results import describe
from .superscopes import READING_COLUMNS, Reader

AHEAD = 3  # chunks per worker that are handed out: one in hand, the next ones there when it is done
ROWS = 512  # of a chunk, at least; whole batches
DEATHS = 10  # of workers at the same chunk, before it is given up
PATIENCE = 10  # seconds for an answer of the scheduler
WAIT = 600  # seconds for the first worker: a job may wait in a queue
SETTINGS = {
    "distributed.scheduler.allowed-failures": DEATHS,
    "distributed.nanny.pre-spawn-environ": {},  # its settings of malloc and OpenMP cost a third of the speed (benchmarks/)
}


class ModelOnWorker(distributed.WorkerPlugin):
    """The model in a worker: loaded once, when it is first needed, and never twice.

    Dask gives the plugin to workers that come later, too, as in place of one that died.

    Args:
        load: arguments of `models.load_model`.
        threads: of torch; None is as many cores as the worker was given.
    """

    name = "superscopes-model"

    def __init__(self, load: dict, threads: int | None):
        self._load, self._threads = load, threads

    def setup(self, worker: distributed.Worker) -> None:
        """Called by Dask where the worker is."""
        self.alone = threading.RLock()  # a worker with many threads has one model all the same
        self._threads = self._threads or worker.state.nthreads
        self._reader, self._of = None, None
        with suppress(ValueError):  # not the main thread
            signal.signal(
                signal.SIGINT, signal.SIG_IGN
            )  # Ctrl-C comes to all of a terminal's processes; the driver obeys

    @cached_property
    def lm(self) -> LanguageModel:
        """Loaded in a task's thread, so that the worker answers its scheduler meanwhile."""
        import torch

        torch.set_num_threads(self._threads)
        return load_model(**self._load)

    def reader(self, plan: Plan, batch_size: int | None) -> Reader:
        """The plan on the model; kept until another one is asked for."""
        if self._of != (plan, batch_size):
            self._reader = None  # freed before the next one is made
            self._reader, self._of = Reader(self.lm, plan, batch_size, fused=False), (plan, batch_size)
        return self._reader


class PlanOnWorker(distributed.WorkerPlugin):
    """The plan in a worker, sent once and not with every chunk."""

    name = "superscopes-plan"

    def __init__(self, plan: Plan):
        self.plan = plan


def _here() -> tuple[ModelOnWorker, Plan | None]:
    plugins = distributed.get_worker().plugins
    plan = plugins.get(PlanOnWorker.name)
    return plugins[ModelOnWorker.name], plan and plan.plan


def _made_by() -> tuple[str, str, str]:
    model, _ = _here()
    with model.alone:
        return model.lm.fingerprint, model.lm.dtype, model.lm.attention


def _describe(plans: tuple[Plan, ...]) -> dict:
    model, _ = _here()
    with model.alone:
        return describe(model.lm, *plans)


def _size() -> int:
    model, plan = _here()
    with model.alone:
        return model.reader(plan, None).size


def _read(batch_size: int, starts: list[int]) -> list[tuple[dict, dict]]:
    """The batches that begin there: ids and readings as columns, and how they were made."""
    model, plan = _here()
    with model.alone:
        batches = [model.reader(plan, batch_size).read(start) for start in starts]
    return [(rows[["id", *READING_COLUMNS]].to_dict("list"), rows.attrs) for rows in batches]


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
        InputError: no such number, no scheduler or no workers there, or workers with different models.
    """

    def __init__(self, readings):
        self._own, self._stack = readings, ExitStack()

    def __enter__(self) -> "Workers":
        with ExitStack() as stack:
            self._client = self._connect(stack)
            self.made_by = self._same_everywhere()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error) -> None:
        self._stack.__exit__(*error)

    def _connect(self, stack: ExitStack) -> distributed.Client:
        own, threads = self._own, None
        import dask

        dask.config.set(SETTINGS)
        if isinstance(own.workers, int):
            if own.workers < 1:
                raise InputError("workers", own.workers, "expected a number of processes, or a scheduler's address")
            threads = max(1, _cores() // own.workers)
            options = {"dashboard_address": None, "host": "127.0.0.1", "memory_limit": 0, "silence_logs": "CRITICAL"}
            cluster = distributed.LocalCluster(
                n_workers=own.workers, threads_per_worker=1, processes=True, security=True, **options
            )  # `security`: keys of its own, so that other users of the machine can't connect
            client = stack.enter_context(distributed.Client(stack.enter_context(cluster)))
        else:
            try:
                client = stack.enter_context(distributed.Client(own.workers, timeout=PATIENCE))
            except (OSError, ValueError) as error:
                raise InputError("scheduler", own.workers, f"no Dask scheduler answers there ({error})") from None
        try:
            client.wait_for_workers(1, timeout=WAIT)
        except TimeoutError:
            raise InputError("scheduler", own.workers, f"has no workers after {WAIT} seconds") from None
        load = {"name": str(own.model), "dtype": own.dtype, "device": own.device, **own.source_options}
        client.register_plugin(ModelOnWorker(load, threads))
        return client

    def _same_everywhere(self) -> tuple[str, str, str]:
        asked = {one: self._client.submit(_made_by, workers=[one], pure=False) for one in self._addresses}
        told = {one: future.result() for one, future in asked.items()}
        if len(set(told.values())) > 1:
            raise InputError("scheduler", self._own.workers, f"its workers hold different models: {told}")
        return next(iter(told.values()))

    @property
    def _addresses(self) -> list[str]:
        return list(self._client.scheduler_info(n_workers=-1)["workers"])

    def describe(self, *plans: Plan) -> dict:
        """What makes the results, as `results.describe` tells it on a worker."""
        about = self._client.submit(_describe, plans, pure=False).result()
        about["machine"]["workers"] = len(self._addresses)
        return about

    def batches(
        self, number: int, plan: Plan, batch_size: int | None, there: Collection[str]
    ) -> Iterator[pd.DataFrame]:
        """Batches of a plan as they are ready, in any order; those whose ids are there are passed over.

        Raises:
            Terminated: the scheduler is gone, or workers died at the same chunk again and again.
        """
        fingerprint, dtype, attention = self.made_by
        made_by = SimpleNamespace(fingerprint=fingerprint, dtype=dtype, attention=attention)
        ids = plan.ids(plan.items(self._own.card), made_by)
        try:
            self._client.register_plugin(PlanOnWorker(plan))
            size = batch_size or self._client.submit(_size, pure=False).result()
            begins = range(0, len(ids), size)
            starts = [start for start in begins if not all(id in there for id in ids[start : start + size])]
            several = max(1, ROWS // size)
            chunks = (starts[i : i + several] for i in range(0, len(starts), several))

            def hand_out(some: int) -> list[distributed.Future]:
                return [self._client.submit(_read, size, chunk, pure=False) for chunk in islice(chunks, some)]

            ready = distributed.as_completed(hand_out(AHEAD * max(1, len(self._addresses))))
            for future in ready:
                for columns, made in future.result():
                    rows = pd.DataFrame(columns)
                    if stranger := set(rows["id"]) - set(ids):
                        why = f"a worker reads other rows than asked for ({len(stranger)}): another version of the code"
                        raise InputError("scheduler", self._own.workers, why)
                    rows.attrs = made
                    yield rows
                future.release()
                ready.update(hand_out(1))
        except distributed.KilledWorker as error:
            raise Terminated(f"workers died at the same rows again and again: {error}") from error
        except (distributed.CancelledError, OSError) as error:
            raise Terminated(f"the Dask scheduler is gone ({type(error).__name__})") from error


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
