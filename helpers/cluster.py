"""Past one process: the same plan on Dask workers, whose rows come back to this process's ledger."""

import os
import signal
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from itertools import islice

import pandas as pd

from . import InputError
from .ledger import Terminated
from .plans import Plan

AHEAD = 3  # chunks per worker that are handed out: one in hand, the next ones there when it is done
ROWS = 512  # of a chunk, at least; whole batches
ATTEMPTS = 10  # of a chunk whose worker died, before it is given up
WAIT = 600  # seconds for a first worker: a job may wait in a queue


class ModelOnWorker:
    """A worker's plugin: it loads the model when the worker starts, once, and reads any batch of any plan with it."""

    name = "superscopes"

    def __init__(self, load: dict, threads: int | None):
        self._load, self._threads = load, threads

    def setup(self, worker) -> None:
        """Called by Dask where the worker is."""
        import torch

        from .models import load_model

        try:  # Ctrl-C in a terminal comes to every process of it; the driver alone obeys
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        except ValueError:  # not the main thread
            pass
        if self._threads:
            torch.set_num_threads(self._threads)
        self.lm, self._reader, self._of = load_model(**self._load), None, None

    def reader(self, plan: Plan, batch_size: int | None):
        """The plan on this worker's model; kept until another one is asked for."""
        from .superscopes import Reader

        if self._of != (plan, batch_size):
            self._reader = None  # freed before the next one is made
            self._reader, self._of = Reader(self.lm, plan, batch_size, fused=False), (plan, batch_size)
        return self._reader


def _on_worker() -> ModelOnWorker:
    from distributed import get_worker

    return get_worker().plugins[ModelOnWorker.name]


def _made_by() -> tuple[str, str, str]:
    lm = _on_worker().lm
    return lm.fingerprint, lm.dtype, lm.attention


def _describe(plans: tuple[Plan, ...]) -> dict:
    from .results import describe

    return describe(_on_worker().lm, *plans)


def _size(plan: Plan) -> int:
    return _on_worker().reader(plan, None).size


def _read(plan: Plan, batch_size: int, starts: list[int]) -> list[tuple[dict, dict]]:
    """The batches that begin there: their readings as columns, and how they were made."""
    reader = _on_worker().reader(plan, batch_size)
    batches = [reader.read(start) for start in starts]
    return [(rows[["id", "result", "rho", "status", "message"]].to_dict("list"), rows.attrs) for rows in batches]


class Workers:
    """Dask workers with the model of some readings: of this machine, or of a scheduler's cluster.

    A context manager. Batches are cut from the plan as in one process, so that in float32 the rows are the same
    bytes. Scheduler, workers and this process may die: what has come back is in the ledger.

    Args:
        readings: whose `workers` is a number of processes to start here, or a scheduler's address.

    Raises:
        InputError: Dask isn't installed, no scheduler there, or workers that hold different models.
    """

    def __init__(self, readings):
        self._readings = readings

    def __enter__(self) -> "Workers":
        try:
            import distributed
        except ImportError:
            why = "needs Dask: pip install -r requirements-cluster.txt"
            raise InputError("workers", self._readings.workers, why) from None
        with ExitStack() as stack:
            self._client = self._connect(distributed, stack)
            self._stack = stack.pop_all()
        return self

    def _connect(self, distributed, stack: ExitStack):
        own = self._readings
        load = {"name": str(own.model), "dtype": own.dtype, "device": own.device, **own.source_options}
        distributed.config.set({"distributed.scheduler.allowed-failures": ATTEMPTS, "distributed.logging": {}})
        if isinstance(own.workers, int):
            if own.workers < 1:
                raise InputError("workers", own.workers, "expected a number of processes, or a scheduler's address")
            threads = max(1, (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1) // own.workers)
            cluster = stack.enter_context(
                distributed.LocalCluster(
                    n_workers=own.workers, threads_per_worker=1, processes=True, dashboard_address=None,
                    host="127.0.0.1", security=True, silence_logs="ERROR", memory_limit=0,
                )  # fmt: skip
            )  # with keys: other users of a shared machine can't connect
            client = stack.enter_context(distributed.Client(cluster))
        else:
            threads = None
            try:
                client = stack.enter_context(distributed.Client(own.workers, timeout=10))
            except (OSError, ValueError, TimeoutError) as error:
                raise InputError("scheduler", own.workers, f"no Dask scheduler answers there ({error})") from None
        try:
            client.wait_for_workers(1, timeout=WAIT)
        except TimeoutError:
            raise InputError("scheduler", own.workers, f"has no workers after {WAIT} seconds") from None
        client.register_plugin(_plugin(distributed, load, threads))
        found = client.run(_made_by)
        if len(set(found.values())) > 1:
            raise InputError("scheduler", own.workers, f"its workers hold different models: {found}")
        self.made_by = next(iter(found.values()))
        return client

    def __exit__(self, *error) -> None:
        self._stack.__exit__(*error)

    def describe(self, *plans: Plan) -> dict:
        """What makes the results, as `results.describe` tells it on a worker."""
        about = self._client.submit(_describe, plans, pure=False).result()
        about["machine"]["workers"] = len(self._client.scheduler_info(n_workers=-1)["workers"])
        return about

    def batches(
        self, number: int, plan: Plan, batch_size: int | None, there: Collection[str]
    ) -> Iterator[pd.DataFrame]:
        """Batches of a plan as they are ready, in any order; those whose ids are there are passed over.

        Raises:
            Terminated: the scheduler is gone, or a chunk's workers died again and again.
        """
        from distributed import as_completed

        ids = plan.ids(plan.items(self._readings.card), _Made(*self.made_by))
        held = self._client.scatter(plan, broadcast=True)
        size = batch_size or self._client.submit(_size, held).result()
        starts = [start for start in range(0, len(ids), size) if not all(id in there for id in ids[start : start + size])]
        several = max(1, ROWS // size)
        chunks = iter([starts[i : i + several] for i in range(0, len(starts), several)])

        def hand_out(some: int) -> list:
            return [
                self._client.submit(_read, held, size, chunk, pure=False, retries=ATTEMPTS)
                for chunk in islice(chunks, some)
            ]

        workers = len(self._client.scheduler_info(n_workers=-1)["workers"])
        ready = as_completed(hand_out(AHEAD * max(1, workers)))
        for future in ready:
            for columns, made in self._result(future):
                rows = pd.DataFrame(columns)
                rows.attrs = made
                yield rows
            future.release()
            ready.update(hand_out(1))

    def _result(self, future) -> list:
        from distributed import CancelledError, KilledWorker

        try:
            return future.result()
        except (CancelledError, OSError) as error:
            raise Terminated(f"the scheduler is gone ({type(error).__name__}); what had come back is kept") from error
        except KilledWorker as error:
            raise Terminated(f"workers died at the same rows again and again ({error})") from error


class _Made:
    """What an id takes of a model."""

    def __init__(self, fingerprint: str, dtype: str, attention: str):
        self.fingerprint, self.dtype, self.attention = fingerprint, dtype, attention


def _plugin(distributed, load: dict, threads: int | None):
    class Plugin(ModelOnWorker, distributed.WorkerPlugin):
        pass

    return Plugin(load, threads)
