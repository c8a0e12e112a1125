"""How many rows at a time: a size found once; a batch that fails is bisected."""

import gc
import time
import traceback
from collections.abc import Callable, Iterator

import torch

from .. import InputError
from ..words.machine import free_memory_bytes, is_out_of_memory

USUAL = 512  # rows that keep two CPU cores busy (benchmarks/); a plan of few batches looks no further
LARGEST = 4096
SHARE_OF_MEMORY = 1 / 4  # of what is free, for a batch
LEAST_BATCHES = 16  # a larger size is tried only if the plan still has this many batches of it
SAME_FAILURES = 20  # this many equal failures in a row stop a run
WORTHWHILE = 0.95  # a larger size must need at most this share of the time per row


def check_batch_size(batch_size: int | None) -> None:
    """Check a batch size.

    Raises:
        InputError: neither a whole number from 1 nor None.
    """
    if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
        raise InputError("batch_size", batch_size, "expected a whole number, at least 1, or None to find one")


def find_batch_size(rows: int, row_bytes: int, device: torch.device, seconds: Callable[[int], float]) -> int:
    """Find a good batch size for this many rows, in the same way on every device.

    It is the usual size, or what fits in the free memory if that is less. A plan of many batches is worth a short
    measurement: the size is doubled while a row gets cheaper and memory allows.

    Args:
        row_bytes: memory that a row needs at most.
        seconds: (batch size) -> seconds that a short piece of the work takes for such a batch.
    """
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_memory_bytes()
    fitting = max(1, int(SHARE_OF_MEMORY * free) // row_bytes)
    size = min(USUAL, fitting)
    limit = min(LARGEST, fitting, rows // LEAST_BATCHES)
    if size < USUAL or 2 * size > limit:
        return size
    costs = {}
    while size <= limit:
        try:
            costs[size] = seconds(size) / size
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        if size not in costs or costs[size] > WORTHWHILE * costs.get(size // 2, torch.inf):
            free_memory(device)
            return max(1, size // 2)
        size *= 2
    return size // 2


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Return the seconds that `work` takes, up to its last kernel, after a first call that pays for warming up."""
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


class StopAsked(BaseException):
    """Somebody asked to stop within a batch. No error, so its rows are not tried again."""


class SameFailures(RuntimeError):
    """So many rows in a row failed in the same way that the rows can't be the reason."""


class Failures:
    """Counts equal errors of neighbouring rows, from batch to batch."""

    def __init__(self):
        self._last, self._times = "", 0

    def note(self, error: Exception | None) -> None:
        """Note how a single row ended, or that several went well.

        Raises:
            SameFailures: from the error, when it has come SAME_FAILURES times in a row.
        """
        message = one_line(error) if error else ""
        self._times = self._times + 1 if message and message == self._last else 1
        self._last = message
        if message and self._times >= SAME_FAILURES:
            raise SameFailures(f"{self._times} rows in a row ended with the same error: {message}") from error


def run_with_bisection(
    work: Callable[[slice], object], rows: int, device: torch.device, failures: Failures
) -> Iterator[tuple[slice, object | None, Exception | None]]:
    """Do `work` on all rows at once; do a part that fails again in two halves, so that only bad rows fail.

    Yields:
        (part, result, None) in the order of the rows; (part, None, error) of a single row that fails.

    Raises:
        SameFailures: many rows in a row failed in the same way.
    """
    parts = [slice(0, rows)]
    while parts:
        part = parts.pop(0)
        result, failed = None, None
        try:
            result = work(part)
        except InputError:
            raise
        except Exception as error:
            failed = _without_frames(error)
        if failed:
            if is_out_of_memory(failed):
                free_memory(device)
            middle = (part.start + part.stop) // 2
            if middle > part.start:
                parts = [slice(part.start, middle), slice(middle, part.stop), *parts]
                continue
        failures.note(failed)
        yield part, result, failed


def _without_frames(error: Exception) -> Exception:
    """Return the error with its traceback as a text: the frames hold the tensors of the failed attempt."""
    if not getattr(error, "__notes__", None):
        error.add_note("".join(traceback.format_tb(error.__traceback__, limit=-6)))
    error.__context__ = error.__cause__ = None
    return error.with_traceback(None)


def one_line(error: Exception) -> str:
    """Describe an error in one line: its type and its message."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def free_memory(device: torch.device) -> None:
    """Give back what a failed attempt held."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
