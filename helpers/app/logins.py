"""Slow down whoever guesses the password: a delay that grows with the failures of an address, and of all."""

import asyncio
import time
from collections import defaultdict
from contextlib import asynccontextmanager

FREE, FIRST, LONGEST = 3, 0.5, 60.0  # failures without a delay; seconds after the next one, doubled each time; at most
FREE_OF_ALL, FIRST_OF_ALL, LONGEST_OF_ALL = 20, 0.1, 5.0  # the same for all addresses together, so for many at once
FORGOTTEN = 900.0  # seconds after which failures don't count any more
MOST_WAITING, MOST_WAITING_OF_ALL = 3, 20  # attempts; more are refused at once
MOST_KEPT = 10_000  # addresses that are remembered


class TooMany(Exception):
    """Too many attempts wait already."""


class Logins:
    """What is known of failed logins. An address's attempts are tried one after the other."""

    def __init__(self, now=time.monotonic, sleep=asyncio.sleep):
        self._now, self._sleep = now, sleep
        self._failures: dict[str, list[float]] = {}
        self._waiting: dict[str, int] = defaultdict(int)
        self._turns: dict[str, asyncio.Lock] = {}

    def delay(self, address: str) -> float:
        """Return how many seconds the next attempt of an address waits."""
        since = self._now() - FORGOTTEN
        recent = {who: [when for when in times if when > since] for who, times in self._failures.items()}
        self._failures = {who: times for who, times in recent.items() if times}
        own, all_of_them = len(self._failures.get(address, ())), sum(map(len, self._failures.values()))
        return max(
            _grown(own - FREE, FIRST, LONGEST), _grown((all_of_them - FREE_OF_ALL) // 5, FIRST_OF_ALL, LONGEST_OF_ALL)
        )

    def note(self, address: str, failed: bool) -> None:
        """Remember how an attempt ended; a right password ends an address's delays."""
        if not failed:
            self._failures.pop(address, None)
            return
        if address not in self._failures and len(self._failures) >= MOST_KEPT:
            self._failures.pop(next(iter(self._failures)))
        self._failures.setdefault(address, []).append(self._now())

    @asynccontextmanager
    async def turn(self, address: str):
        """Wait for an address's turn and its delay.

        Raises:
            TooMany: at once.
        """
        if self._waiting.get(address, 0) >= MOST_WAITING or sum(self._waiting.values()) >= MOST_WAITING_OF_ALL:
            raise TooMany
        self._waiting[address] += 1
        try:
            async with self._turns.setdefault(address, asyncio.Lock()):
                await self._sleep(self.delay(address))
                yield
        finally:
            self._waiting[address] -= 1
            if not self._waiting[address]:
                del self._waiting[address], self._turns[address]


def _grown(failures: int, first: float, longest: float) -> float:
    return 0.0 if failures < 0 else min(first * 2.0 ** min(failures, 60), longest)
