"""Long runs: the loop over plans with a ledger, so that it can be stopped, killed and resumed."""

import os
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress

import pandas as pd

from . import InputError
from .ledger import Ledger
from .models import LanguageModel
from .plans import Plan
from .stopping import Stopped, hearing
from .superscopes import run

SLOW = 600  # seconds: a batch that takes longer is named


def finish(
    batches: Callable[[int, Plan, int | None, Collection[str]], Iterator[pd.DataFrame]],
    plans: Sequence[Plan],
    ledger: Ledger,
    batch_size: int | None = None,
    bar=None,
) -> None:
    """Read what a ledger lacks of its plans, batch by batch.

    Args:
        batches: (number of the plan, plan, rows at a time, ids that are there) -> batches of rows, in any order;
            `here(lm)`, or `cluster.Workers.batches`.
        batch_size: rows at a time; if left out, what the plan was begun with.
        bar: `progress.Bar`, or None.

    Raises:
        Stopped, Terminated: by Ctrl-C or SIGTERM, after the batch in hand; by a second one, at once; by a full disk.
    """
    if ledger.torn:
        _tell(f"{ledger.folder.name}: {ledger.torn} torn line(s) dropped; their rows are read again")
    with stops() as stopped_by, _drawn(bar, ledger) as told:
        for number, plan in enumerate(plans):
            size, there = batch_size or ledger.batch_size(number), ledger.settled(number)
            if len(there) == ledger.rows[number]:
                continue
            started = time.monotonic()
            for rows in _watched(batches(number, plan, size, there), ledger):
                before = ledger.done
                ledger.append(number, rows, time.monotonic() - started)
                told(ledger.done - before)
                started = time.monotonic()
                waiting = rows.attrs.get("waiting", 0)  # batches that have come already: kept before it ends
                if (kind := stopped_by()) and not waiting and not ledger.is_settled:
                    raise kind(ledger.told)


def cores() -> int:
    """How many of this machine's cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_workers(workers: int | str) -> None:
    """Raises InputError unless it is 0, as many processes as this machine has cores or fewer, or an address."""
    if isinstance(workers, str):
        fits = "://" in workers
    else:
        fits = isinstance(workers, int) and not isinstance(workers, bool) and 0 <= workers <= cores()
    if not fits:
        why = f"expected 0 to {cores()}, processes of this machine with a model each, or a scheduler's address, tcp://…"
        raise InputError("workers", workers, why)


def here(lm: LanguageModel) -> Callable[[int, Plan, int | None, Collection[str]], Iterator[pd.DataFrame]]:
    """Batches that this process reads."""
    return lambda number, plan, size, there: run(lm, plan, size, done=there)


@contextmanager
def stops() -> Iterator[Callable[[], type[Stopped] | None]]:
    """Ctrl-C and SIGTERM are noted, to be obeyed after the batch in hand; a second one is obeyed at once.

    Yields:
        What tells which kind of end the one that came asks for; None if none came.
    """
    if threading.current_thread() is not threading.main_thread():  # signals come to the main thread alone
        yield lambda: None
        return

    def tell(signum: int) -> bool:
        with suppress(RuntimeError):  # in the middle of another line
            _tell("\nStopping after the batch in hand; once more stops now.")
        return True

    with hearing(tell, "stopped in the middle of a batch; the batches before it are kept") as came:
        yield came


@contextmanager
def _drawn(bar, ledger: Ledger) -> Iterator[Callable[[int], None]]:
    if not bar:
        yield lambda rows: None
        return
    with bar(sum(ledger.rows), ledger.folder.name, ledger.done) as drawn:
        yield lambda rows: drawn.update(rows)


def _watched(batches: Iterator[pd.DataFrame], ledger: Ledger) -> Iterator[pd.DataFrame]:
    """The batches; one that doesn't come for long is told of, so that a hang has a place."""
    batches = iter(batches)
    while True:
        after = f"after {ledger.done:,} of {sum(ledger.rows):,} rows"
        watch = threading.Timer(SLOW, _tell, [f"{ledger.folder.name}: no batch for {SLOW:,} seconds, {after}"])
        watch.daemon = True
        watch.start()
        try:
            rows = next(batches)
        except StopIteration:
            return
        finally:
            watch.cancel()
        yield rows


def _tell(words: str) -> None:
    print(words, file=sys.stderr, flush=True)
