"""The loop over plans with a ledger, so that a long run can be stopped, killed and resumed."""

import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Protocol

from ..words.plans import Plan
from ..words.rows import Identity, Item
from .ledger import Ledger
from .stopping import Stopped, deferring_signals

if TYPE_CHECKING:
    from ..engine.interpret import Batch

SLOW = 600  # seconds: a batch that takes longer is mentioned


class Source(Protocol):
    """Who reads: this process (`session.Session`), or Dask workers (`cluster.Workers`)."""

    identity: Identity  # of its model

    def batches(
        self, plan: Plan, items: list[Item], batch_size: int | None, done: Collection[str]
    ) -> Iterator[list["Batch"]]:
        """Read a plan's batches, but not those whose ids are all in `done`; yield them as they get ready."""

    def describe(self, *plans: Plan) -> dict:
        """Return what makes the results, as `sweep.describe` does."""


def finish(
    source: Source,
    plans: Sequence[Plan],
    items: Sequence[list[Item]],
    ledger: Ledger,
    batch_size: int | None = None,
    bar: Callable | None = None,
) -> None:
    """Read what a ledger lacks of its plans, batch by batch.

    Args:
        items: of each plan, with ids.
        batch_size: rows at a time; if left out, what the plan was started with.
        bar: `progress.Bar`, or None.

    Raises:
        Stopped, Terminated: by Ctrl-C or SIGTERM, after the batch in hand; by a second one, at once; by a full disk.
    """
    if ledger.torn:
        _say(f"{ledger.folder.name}: {ledger.torn} torn line(s) dropped; their rows are read again")
    with stops() as stopped_by, _drawn(bar, ledger) as advance:
        for number, plan in enumerate(plans):
            size, done = batch_size or ledger.batch_size(number), ledger.settled(number)
            if len(done) == ledger.rows[number]:
                continue
            started = time.monotonic()
            for ready in _watched(source.batches(plan, items[number], size, done), ledger):
                seconds = (time.monotonic() - started) / len(ready)
                for batch in ready:  # all of them, before a stop is obeyed: they are finished
                    before = ledger.done
                    ledger.append(number, batch, seconds)
                    advance(ledger.done - before)
                started = time.monotonic()
                if (kind := stopped_by()) and not ledger.is_settled:
                    raise kind(ledger.how_far)


@contextmanager
def stops() -> Iterator[Callable[[], type[Stopped] | None]]:
    """Note Ctrl-C and SIGTERM, to be obeyed after the batch in hand; a second one is obeyed at once.

    Yields:
        A function that returns the kind of end that was asked for; None if there was no signal.
    """
    if threading.current_thread() is not threading.main_thread():  # signals come to the main thread only
        yield lambda: None
        return

    def note(signum: int) -> bool:
        with suppress(RuntimeError):  # the signal came while another line was being printed
            _say("\nStopping after the batch in hand; once more stops now.")
        return True

    with deferring_signals(note, "stopped in the middle of a batch; the batches before it are kept") as stopped_by:
        yield stopped_by


@contextmanager
def _drawn(bar: Callable | None, ledger: Ledger) -> Iterator[Callable[[int], object]]:
    """Draw a bar; yield what advances it by so many rows."""
    if not bar:
        yield lambda rows: None
        return
    with bar(sum(ledger.rows), ledger.folder.name, ledger.done) as drawn:
        yield drawn.update


def _watched(batches: Iterator, ledger: Ledger) -> Iterator:
    """Yield the batches; say so when the next one takes long, so that one can see where a run hangs."""
    while True:
        after = f"after {ledger.done:,} of {sum(ledger.rows):,} rows"
        watch = threading.Timer(SLOW, _say, [f"{ledger.folder.name}: no batch for {SLOW:,} seconds, {after}"])
        watch.daemon = True
        watch.start()
        try:
            ready = next(batches)
        except StopIteration:
            return
        finally:
            watch.cancel()
        yield ready


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)
