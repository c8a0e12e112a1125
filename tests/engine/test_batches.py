"""How many rows at a time: found once; a batch that fails is bisected, so that only bad rows fail."""

import math
import subprocess
import sys
import weakref

import pytest
import torch

from helpers import ROOT, InputError
from helpers.engine.batches import (
    LARGEST,
    SAME_FAILURES,
    USUAL,
    Failures,
    check_batch_size,
    find_batch_size,
    run_with_bisection,
)

CPU = torch.device("cpu")


def find(rows, fastest, row_bytes=1):
    """Return the size found when a row is cheapest in batches of `fastest`, and the sizes that were tried."""
    tried = []

    def seconds(size):
        tried.append(size)
        return size * (1 + abs(math.log2(size / fastest)))

    return find_batch_size(rows, row_bytes, CPU, seconds), tried


def test_a_short_plan_is_not_worth_a_measurement():
    assert find(rows=2688, fastest=1024) == (USUAL, [])


def test_a_long_plan_takes_the_fastest_size():
    assert find(rows=1 << 20, fastest=1024) == (1024, [512, 1024, 2048])
    assert find(rows=1 << 20, fastest=8)[0] == USUAL
    assert find(rows=1 << 20, fastest=1 << 20)[0] == LARGEST


def test_a_plan_keeps_several_batches():
    assert find(rows=16 * 1024, fastest=1 << 20)[0] == 1024


def test_memory_bounds_the_size():
    assert find(rows=1 << 20, fastest=1024, row_bytes=1 << 60) == (1, [])


@pytest.mark.parametrize("most", [300, 512, 1024])
def test_a_size_that_runs_out_of_memory_is_not_taken(most):
    def seconds(size):
        if size > most:
            raise torch.OutOfMemoryError("too much")
        return 1.0

    assert find_batch_size(1 << 20, 1, CPU, seconds) == (256 if most == 300 else most)


def test_only_bad_rows_fail():
    def work(part):
        if part.start <= 2 < part.stop or part.start <= 9 < part.stop:
            raise ValueError(f"row {part.start} to {part.stop}")
        return list(range(part.start, part.stop))

    rows = []
    for _, result, error in run_with_bisection(work, 11, CPU, Failures()):
        rows += [str(error)] if error else result
    assert rows == [0, 1, "row 2 to 3", 3, 4, 5, 6, 7, 8, "row 9 to 10", 10]


def test_many_equal_errors_in_a_row_end_it():
    def fails(part):
        raise KeyError("a bug")

    failures, rows = Failures(), []
    with pytest.raises(RuntimeError, match="20 rows in a row ended with the same error: KeyError: 'a bug'") as raised:
        for _ in range(2):  # counted from batch to batch
            rows += run_with_bisection(fails, SAME_FAILURES - 5, CPU, failures)
    assert len(rows) == SAME_FAILURES - 1
    assert "in fails" in raised.value.__cause__.__notes__[0], "the traceback is kept as a text"


def test_bad_input_is_not_a_rows_failure():
    def refuses(part):
        raise InputError("layers", 99, "no such layer")

    with pytest.raises(InputError):
        list(run_with_bisection(refuses, 4, CPU, Failures()))


def test_halves_until_they_fit_in_order():
    asked = []

    def work(part):
        asked.append((part.start, part.stop))
        if part.stop - part.start > 3 or part.start <= 5 < part.stop:  # row 5 never fits
            raise MemoryError
        return list(range(part.start, part.stop))

    rows = []
    for part, result, _ in run_with_bisection(work, 11, CPU, Failures()):
        rows += [None] * (part.stop - part.start) if result is None else result
    assert rows == [0, 1, 2, 3, 4, None, 6, 7, 8, 9, 10]
    assert asked[:3] == [(0, 11), (0, 5), (0, 2)]


def test_a_failed_attempt_is_freed_before_the_next():
    held = []

    def work(part):
        assert not held or held[-1]() is None, "the failed attempt's tensors still live"
        mine = torch.zeros(1000)
        held.append(weakref.ref(mine))
        if part.stop - part.start > 1:
            raise torch.OutOfMemoryError("too much")
        return 1

    assert [result for _, result, _ in run_with_bisection(work, 4, CPU, Failures())] == [1] * 4


STARVED = """
import resource, sys
from helpers.engine.interpret import run
from helpers.models.load import load_model
from helpers.words.plans import make_plan
lm = load_model(sys.argv[1])
grid = dict(components=["hidden_state", "mlp_output"], layers="all", amplifiers=range(1, 120), max_new_tokens=2)
plan = make_plan(["Titanic"], **grid)
plenty = list(run(lm, plan, batch_size=64))
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (130 << 20),) * 2)
little, = run(lm, plan, batch_size=4096)
assert little.made["parts"] > 1 and {batch.made["parts"] for batch in plenty} == {1}
assert {reading.status for reading in little.readings} == {"ok"}
assert little.readings == [reading for batch in plenty for reading in batch.readings]
print(len(little.items), "rows")
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the test limits its own address space, which needs Linux")
def test_a_batch_that_does_not_fit_is_halved(tiny_folder):
    """714 rows at once need 140 MB for their logits alone; the process is given 130 MB."""
    run = subprocess.run([sys.executable, "-c", STARVED, tiny_folder], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0 and run.stdout == "714 rows\n", run.stderr[-2000:]


@pytest.mark.parametrize("batch_size", [0, -1, 2.5])
def test_batch_size_is_a_whole_number(batch_size):
    with pytest.raises(InputError, match="batch_size="):
        check_batch_size(batch_size)
