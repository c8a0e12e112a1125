"""How many of torch's threads work on a batch: all, or fewer where the machine does other work too.

Threads wait for each other at the end of every operation. Where others have their cores, all wait for the one that is
not running, and fewer threads can be faster (benchmarks/neighbor.py).
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

BUSY = 0.7  # of a batch's time, the share in which each thread ran, below which fewer threads are tried
AGAIN = 20  # batches after which they are tried again


class Pace:
    """Chooses the number of threads from batch to batch, by what the batches before have taken.

    It begins with all that torch has. When these ran for less than BUSY of a batch's time, somebody else may have the
    cores: the next batches try fewer, and the count that was fastest is kept for AGAIN batches.
    """

    def __init__(self):
        self._begin(0, "")

    @contextmanager
    def batch(self, work: int, kind: str = "") -> Iterator[None]:
        """Give a batch the number of threads that is best now; torch has its own again afterwards.

        Args:
            work: rows times tokens, to which the time is proportional.
            kind: of work; batches of another kind don't compare.
        """
        all_ = torch.get_num_threads()
        if (all_, kind) != (self._all, self._kind):
            self._begin(all_, kind)
        count, started, ran = self.count, time.perf_counter(), time.process_time()
        torch.set_num_threads(count)
        try:
            yield
        finally:
            torch.set_num_threads(all_)
        seconds = time.perf_counter() - started
        self.note(count, seconds / work, (time.process_time() - ran) / (seconds * count))

    @property
    def count(self) -> int:
        """Return how many threads the next batch gets."""
        return self._trying[0] if self._trying else min(self._costs, key=self._costs.get)

    def note(self, count: int, cost: float, share: float) -> None:
        """Note what a batch took.

        Args:
            count: threads that it had.
            cost: seconds, for so much work.
            share: of its time in which a thread ran, the mean over its threads.
        """
        self._costs[count] = cost
        self._trying = self._trying[1:]
        self._left -= 1
        if count == self._all and share >= BUSY:  # the cores are its own
            self._costs, self._left = {count: cost}, 0
        elif count == self._all and self._left <= 0:
            self._trying, self._left = self._fewer, AGAIN
        if not self._trying and (self._left <= 0 or len(self._costs) == 1):
            self._trying = [self._all]

    def _begin(self, all_: int, kind: str) -> None:
        self._all, self._kind, self._left = all_, kind, 0
        self._fewer = [] if all_ < 2 else sorted({1, all_ // 2})
        self._costs: dict[int, float] = {}
        self._trying = [all_]


PACE = Pace()  # of this process, as torch's threads are
