"""Long runs: what was read stays read, resumed rows are the same rows, and others' runs are left alone."""

import errno
import json
import math
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from functools import cache

import pytest
from tables import GRID, PLANS, PROMPTS, ROWS, QuickJudge, assert_same_but_for_rounding, make_readings

from helpers import ROOT, InputError
from helpers.engine.batches import SAME_FAILURES
from helpers.engine.interpret import Batch
from helpers.runs import ledger, loop
from helpers.runs.ledger import Ledger
from helpers.runs.progress import LOG, Bar
from helpers.runs.results import save_results
from helpers.runs.session import Session
from helpers.runs.stopping import Stopped, Terminated
from helpers.runs.sweep import sweep
from helpers.words.plans import make_plan
from helpers.words.rows import Identity, Item, Reading
from helpers.words.settings import ModelSettings


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A folder for the ledgers and results of this test."""
    monkeypatch.setattr(ledger, "WORK", tmp_path / "work")
    return tmp_path


@pytest.fixture(scope="module")
def sessions(tiny_folder):
    """The small model in each dtype, loaded once for all tests, with a judge that takes no time."""

    @cache
    def session(dtype):
        return Session(ModelSettings.of({"model": str(tiny_folder), "dtype": dtype}), QuickJudge())

    return session


@pytest.fixture
def readings(work, tiny_folder, sessions):
    """Make readings of the small model, eight rows at a time."""

    def make(bar=None, fresh=False, **others):
        given = {"batch_size": 8} | others
        shared = sessions(given.get("dtype", "float32"))
        session = Session(shared.settings, QuickJudge()) if fresh else shared
        return make_readings(tiny_folder, work / "results", bar, session, **given)

    return make


@pytest.fixture(scope="module")
def whole(sessions, tmp_path_factory):
    """The bytes of a plain sweep of the same plans."""
    file = tmp_path_factory.mktemp("whole") / "mlp.csv"
    save_results(sweep(sessions("float32").lm, PLANS, batch_size=8, judge=QuickJudge()), file)
    return file.read_bytes()


def kept(work):
    return next((work / "work").glob("results-*")) / "mlp"


class After(Bar):
    """A bar that does something when so many rows are there."""

    rows, act = 0, staticmethod(lambda: None)

    def update(self, n=1):
        super().update(n)
        if self.n >= type(self).rows:
            type(self).rows = 1 << 30
            type(self).act()


def after(rows, act):
    return type("Once", (After,), {"rows": rows, "act": staticmethod(act)})


def stopping_at(rows, signum=signal.SIGINT):
    return after(rows, lambda: os.kill(os.getpid(), signum))


def stopped_at(readings, rows, **others):
    with pytest.raises(Stopped):
        readings(bar=stopping_at(rows), **others).of("mlp.csv", PLANS)


def remove_results(work):
    shutil.rmtree(work / "results")


def test_the_bytes_are_those_of_a_plain_sweep(readings, work, whole, capsys):
    rows = readings(bar=Bar).of("mlp.csv", PLANS)
    assert (work / "results" / "mlp.csv").read_bytes() == whole and len(rows) == ROWS
    about = json.loads((work / "results" / "mlp.json").read_text())
    assert about["same_bytes_again"] and about["batch_size"] == 8 and about["status"] == {"ok": ROWS}
    assert f"mlp: {ROWS} of {ROWS} rows" in capsys.readouterr().err


def test_nothing_left_to_do_needs_no_weights(readings, work, whole, monkeypatch):
    """The rows are all in the ledger; the results are gone."""
    readings().of("mlp.csv", PLANS)
    remove_results(work)
    monkeypatch.setattr("helpers.models.load.load_model", lambda *_, **__: pytest.fail("the weights were loaded"))
    readings(fresh=True).of("mlp.csv", PLANS)
    assert (work / "results" / "mlp.csv").read_bytes() == whole


@pytest.mark.parametrize(("signum", "kind"), [(signal.SIGINT, Stopped), (signal.SIGTERM, Terminated)])
def test_a_signal_ends_after_the_batch_and_the_rest_is_read_later(readings, work, whole, signum, kind, capsys):
    before = signal.getsignal(signum)
    with pytest.raises(kind, match=f"16 of {ROWS} rows are kept in") as stopped:
        readings(bar=stopping_at(9, signum)).of("mlp.csv", PLANS)
    assert stopped.value.code == {signal.SIGINT: 130, signal.SIGTERM: 143}[signum]
    assert signal.getsignal(signum) is before, "the handlers are as they were"
    assert "Stopping after the batch in hand; once more stops now." in capsys.readouterr().err
    assert not (work / "results" / "mlp.csv").exists() and not ledger.is_complete(kept(work))
    lines = (kept(work) / "rows.jsonl").read_bytes()
    readings().of("mlp.csv", PLANS)
    assert_same_but_for_rounding((work / "results" / "mlp.csv").read_bytes(), whole)
    assert (kept(work) / "rows.jsonl").read_bytes().startswith(lines), "what was read is not read again"


def test_a_second_signal_ends_at_once(readings, work, whole, monkeypatch):
    """The second one comes in the middle of a batch."""
    monkeypatch.setattr("helpers.runs.stopping.SAME_SIGNAL", 0)

    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Stopped, match="in the middle of a batch"):
        readings(bar=after(1, twice)).of("mlp.csv", PLANS)
    readings().of("mlp.csv", PLANS)
    assert_same_but_for_rounding((work / "results" / "mlp.csv").read_bytes(), whole)


def test_a_torn_last_line_is_dropped_and_redone(readings, work, whole, capsys):
    for cut in (1, 7, 200):
        stopped_at(readings, 20)
        file = kept(work) / "rows.jsonl"
        file.write_bytes(file.read_bytes()[:-cut])
        head = ledger.header_of(kept(work))
        torn = file.read_bytes()
        with Ledger(kept(work), head) as opened:
            assert opened.torn == 1 and opened.done == 16
        assert file.read_bytes().endswith(b"\n") and ledger.rows_in(kept(work)) == 16
        file.write_bytes(torn)
        readings().of("mlp.csv", PLANS)
        assert "mlp: 1 torn line(s) dropped; their rows are read again" in capsys.readouterr().err
        assert_same_but_for_rounding((work / "results" / "mlp.csv").read_bytes(), whole)
        shutil.rmtree(kept(work))
        remove_results(work)


def test_garbage_in_the_middle_costs_its_batch_alone(readings, work, whole):
    stopped_at(readings, 30)
    file = kept(work) / "rows.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([lines[0], b"\0" * 50 + b"\n", *lines[2:]]))  # as after a power cut
    assert ledger.rows_in(kept(work)) == 24
    readings().of("mlp.csv", PLANS)
    assert_same_but_for_rounding((work / "results" / "mlp.csv").read_bytes(), whole)


@pytest.mark.parametrize("size", [3, 64])
def test_it_goes_on_with_another_batch_size(readings, work, whole, size):
    stopped_at(readings, 20)
    rows = readings(batch_size=size).of("mlp.csv", PLANS)
    assert_same_but_for_rounding((work / "results" / "mlp.csv").read_bytes(), whole)
    assert rows.attrs["same_bytes_again"]


def test_in_lower_precision_a_resumed_run_is_the_same_bytes_too(readings, work, sessions):
    """Batches are cut from the plan, not from what is left."""
    plain = sweep(sessions("bfloat16").lm, PLANS, batch_size=8, judge=QuickJudge())
    save_results(plain, work / "plain.csv")
    stopped_at(readings, 20, dtype="bfloat16")
    rows = readings(dtype="bfloat16").of("mlp.csv", PLANS)
    assert_same_but_for_rounding((work / "results" / "mlp.csv").read_bytes(), (work / "plain.csv").read_bytes())
    assert rows.attrs["same_bytes_again"]
    assert not readings(dtype="bfloat16", batch_size=0, new=True).of("mlp.csv", PLANS).attrs["same_bytes_again"]


def test_the_size_that_was_found_is_kept(readings, work, whole, monkeypatch):
    monkeypatch.setattr("helpers.engine.interpret.find_size", lambda prompt, rows: 5)
    stopped_at(readings, 20, batch_size=0)
    monkeypatch.setattr("helpers.engine.interpret.find_size", lambda prompt, rows: 7)
    rows = readings(batch_size=0).of("mlp.csv", PLANS)
    made = [json.loads(line)["made"]["batch_size"] for line in (kept(work) / "rows.jsonl").open()]
    assert set(made[:-1]) == {5} and rows.attrs["batch_size"] == 5
    assert_same_but_for_rounding((work / "results" / "mlp.csv").read_bytes(), whole)


def test_unfinished_rows_of_other_settings_are_not_mixed_in(readings, work, whole):
    stopped_at(readings, 20)
    others = [make_plan(PROMPTS[:2], **GRID | {"amplifiers": (1, 2)}), PLANS[1]]
    with pytest.raises(InputError) as refused:
        readings().of("mlp.csv", others)
    differ = "prompts (3 then, 2 now); amplifiers ([1.0, 2.0, 5.0] then, [1.0, 2.0] now)"
    how = "The same settings continue it, --new (new = True) starts beside it, ./runme.sh clean"
    assert f"24 of 58 rows of other settings: {differ}. {how}" in str(refused.value)
    with pytest.raises(InputError, match=r"model dtype \(float32 then, bfloat16 now\)"):
        readings(dtype="bfloat16").of("mlp.csv", PLANS)
    assert len(readings(new=True).of("mlp.csv", others)) == 2 * 2 * 3 * 2 + 4
    assert kept(work).with_name("mlp-2").is_dir()
    readings().of("mlp.csv", PLANS)  # continues where it was, in the first one
    assert_same_but_for_rounding((work / "results" / "mlp.csv").read_bytes(), whole)
    assert not kept(work).with_name("mlp-3").exists()


def test_a_new_run_beside_a_finished_one_goes_on_when_it_was_stopped(readings, work, whole):
    """Although the finished one's results are there."""
    readings().of("mlp.csv", PLANS)
    stopped_at(readings, 20, new=True)
    assert ledger.rows_in(kept(work).with_name("mlp-2")) == 24
    readings().of("mlp.csv", PLANS)
    assert ledger.is_complete(kept(work).with_name("mlp-2"))
    assert_same_but_for_rounding((work / "results" / "mlp.csv").read_bytes(), whole)


def test_new_ledgers_have_new_numbers(readings, work, whole):
    """Also where an older one is gone."""
    readings().of("mlp.csv", PLANS)
    readings(new=True).of("mlp.csv", PLANS)
    shutil.rmtree(kept(work))
    readings().of("mlp.csv", PLANS[1:])
    assert {path.parent.name for path in (work / "work").glob("*/*/plan.json")} == {"mlp-2", "mlp-3"}


def test_rows_that_are_gone_are_read_again(readings, work, whole):
    """A ledger that says complete is not believed without its rows."""
    readings().of("mlp.csv", PLANS)
    file = kept(work) / "rows.jsonl"
    for lines in ([], file.read_bytes().splitlines(keepends=True)[:2]):
        file.write_bytes(b"".join(lines))
        remove_results(work)
        readings().of("mlp.csv", PLANS)
        assert_same_but_for_rounding((work / "results" / "mlp.csv").read_bytes(), whole)


def test_another_model_of_the_same_name_is_not_mixed_in(work, tiny_folder, tmp_path):
    """The weights changed under the run; the message says so."""
    mine = tmp_path / tiny_folder.name
    shutil.copytree(tiny_folder, mine)

    def of_mine(bar=None, **others):
        session = Session(ModelSettings.of({"model": str(mine)}), QuickJudge())
        return make_readings(mine, work / "results", bar, session, batch_size=8, **others)

    stopped_at(of_mine, 20)
    weights = bytearray((mine / "model.safetensors").read_bytes())
    weights[-2] ^= 1
    (mine / "model.safetensors").write_bytes(weights)
    with pytest.raises(InputError, match=r"other settings: model fingerprint \("):
        of_mine().of("mlp.csv", PLANS)


def test_finished_settings_stay_finished_beside_each_other(readings, monkeypatch):
    """Playing with settings in a notebook is never refused, and going back costs nothing."""
    first = readings().of("mlp.csv", PLANS)
    second = readings().of("mlp.csv", PLANS[1:])
    assert len(second) == 4
    monkeypatch.setattr("helpers.models.load.load_model", lambda *_, **__: pytest.fail("the weights were loaded"))
    assert readings(fresh=True).of("mlp.csv", PLANS).to_csv() == first.to_csv()
    assert readings(fresh=True).of("mlp.csv", PLANS[1:]).to_csv() == second.to_csv()


def test_two_runs_in_one_folder(readings, work, whole):
    """The second names the first's host and process; the lock of a process that is gone doesn't count."""
    said = []

    def meanwhile():
        def second():
            try:
                readings().of("mlp.csv", PLANS)
            except InputError as error:
                said.append(str(error))

        thread = threading.Thread(target=second)
        thread.start()
        thread.join()

    readings(bar=after(9, meanwhile)).of("mlp.csv", PLANS)
    assert f"is in use by process {os.getpid()} on {socket.gethostname()} since " in said[0]
    (kept(work) / "owner.json").write_text('{"host": "gone", "process": 1, "since": "long ago"}')
    remove_results(work)
    readings().of("mlp.csv", PLANS)
    assert_same_but_for_rounding((work / "results" / "mlp.csv").read_bytes(), whole)


def test_a_ledger_that_was_started_meanwhile_is_named(work):
    """Between choosing a folder and locking it, another process may have put other rows there."""
    item = Item("Titanic", "ic", 1, 1.0, "mlp_output", 3, 1, "paper", None, "an id")
    identity = Identity("tiny", "0123", "float32", "sdpa")
    heads = [ledger.header([plan], [[item]], identity) for plan in PLANS]
    made = {"parts": 1, "batch_size": 1, "shares_prefix": True, "fused": False, "device": "cpu"}
    with Ledger(work / "mlp", heads[0]) as started:
        started.append(0, Batch([item], [Reading("an actor", 0.5)], made), 1.0)
    other = heads[1] | {"ids": "others"}
    with pytest.raises(InputError, match="another process started a ledger here after we picked the folder: prompts"):
        Ledger(work / "mlp", other).__enter__()


def test_a_ledger_keeps_readings_as_they_are(work):
    """The format on disk: a run that older code began goes on, and a line says only what it must."""
    items = [Item("NA", "\n", 1, 1.0, "mlp_output", 3, 1, "paper", None, id) for id in ("a", "b", "c")]
    readings = [
        Reading('"quoted", 🎸', 0.25, 1.5, -0.75),
        Reading("", status="oom", message="out of memory, also alone"),
        Reading("", 3.0, status="nonfinite", message="not finite"),
    ]
    made = {"parts": 3, "batch_size": 3, "shares_prefix": False, "fused": True, "device": "cpu"}
    head = ledger.header(PLANS[1:], [items], Identity("tiny", "0123", "float32", "sdpa"))
    with Ledger(work / "mlp", head) as opened:
        opened.append(0, Batch(items, readings, made), 1.2344)
    line = (work / "mlp" / "rows.jsonl").read_text()
    assert json.loads(line) == {
        "plan": 0, "id": ["a", "b", "c"], "result": ['"quoted", 🎸', "", ""], "rho": [0.25, None, 3.0],
        "entropy": [1.5, None, None], "log_prob": [-0.75, None, None], "made": made | {"seconds": 1.234},
        "failed": {"b": ["oom", "out of memory, also alone"], "c": ["nonfinite", "not finite"]},
    }  # fmt: skip
    with Ledger(work / "mlp", head) as again:
        assert str(again.readings[0]) == str(dict(zip("abc", readings, strict=True)))  # nan isn't equal to itself
        assert again.settled(0) == {"a", "c"} and again.done == 3 and again.batch_size(0) == 3
    assert sorted(head) == ["ids", "method_version", "model", "plans", "rows", "versions"]
    older = json.loads(line)
    del older["entropy"], older["log_prob"]
    (work / "mlp" / "rows.jsonl").write_text(json.dumps(older) + "\n")
    with Ledger(work / "mlp", head) as again:
        [reading, *_] = again.readings[0].values()
        assert reading.rho == 0.25 and math.isnan(reading.entropy) and math.isnan(reading.log_prob)


def failing(readings, plan, limit_of, batch_size=8):
    """Read a plan with a model whose third block fails for vectors that are too long; return the rows.

    Args:
        limit_of: the norms of all vectors at α = 1 and 2 -> the longest that doesn't fail.
    """
    here, norms, limit = readings(batch_size=batch_size), [], float("inf")

    def fails(module, args, output):
        norm = output[:, -1].norm(dim=-1)
        norms.extend(norm[norm.isfinite()].tolist())
        if (norm.isfinite() & (norm > limit)).any():
            raise ValueError("too long a vector")

    handle = here.lm.blocks[2].register_forward_hook(fails)
    try:
        sweep(here.lm, make_plan(PROMPTS, layers=1, amplifiers=(1, 2), max_new_tokens=3), batch_size=1)
        limit = limit_of(norms)
        return here.of("mlp.csv", [plan])
    finally:
        handle.remove()


def test_a_failed_row_is_a_row(readings, work):
    """An amplifier out of float32's range, and an exception from inside the model for single vectors."""
    plan = make_plan(PROMPTS, layers=1, amplifiers=(1, 3e38, 400), max_new_tokens=3)
    rows = failing(readings, plan, lambda norms: 2 * max(norms))
    by_amplifier = rows.groupby("amplification value")["status"].agg(set)
    assert by_amplifier[1] == {"ok"} and "error" in by_amplifier[400] and "nonfinite" in by_amplifier[3e38]
    failed = rows[rows["status"] == "error"]
    assert set(failed["message"]) == {"ValueError: too long a vector"} and set(failed["result"]) == {""}
    assert (rows["score"].isna() == (rows["status"] != "ok")).all()
    statuses = json.loads((work / "results" / "mlp.json").read_text())["status"]
    assert sum(statuses.values()) == 9 and statuses["error"] == len(failed)
    again = readings().of("mlp.csv", [plan])  # the model is mended
    assert set(again["status"]) == {"ok", "nonfinite"} and (again["status"] == "nonfinite").sum() == 3
    plain = (table[table["amplification value"] == 1].drop(columns=["entropy", "log_prob"]) for table in (again, rows))
    assert next(plain).to_csv() == next(plain).to_csv(), "read in other parts, so that these may differ in a last digit"


def test_a_stop_is_obeyed_while_failed_rows_are_read_again(readings, work):
    plan = make_plan(PROMPTS, layers=1, amplifiers=(1, 2, 300, 400), max_new_tokens=3)
    rows = failing(readings, plan, lambda norms: 2 * max(norms), batch_size=2)
    assert (rows["status"] == "error").sum() == 6
    with pytest.raises(Stopped):
        readings(batch_size=2, bar=stopping_at(0)).of("mlp.csv", [plan])
    with Ledger(kept(work), ledger.header_of(kept(work))) as opened:
        assert opened.done == 12 and len(opened.settled(0)) == 8, "one batch was read again, then it stopped"
    assert set(readings(batch_size=2).of("mlp.csv", [plan])["status"]) == {"ok"}


def test_many_equal_failures_stop_a_run_early(readings, work):
    here, passes = readings(), []

    def breaks(*_):
        passes.append(1)
        if len(passes) > 10:
            raise ValueError("a broken kernel")

    plan = make_plan(PROMPTS, layers="all", amplifiers=(1, 2, 3, 4, 5, 6), max_new_tokens=3)
    handle = here.lm.blocks[1].register_forward_hook(breaks)
    words = f"{SAME_FAILURES} rows in a row ended with the same error: ValueError: a b"
    try:
        with pytest.raises(RuntimeError, match=words):
            here.of("mlp.csv", [plan])
    finally:
        handle.remove()
    assert len(passes) < 100
    assert 0 < ledger.rows_in(kept(work)) < 54, "what was read before is kept"
    rows = readings(new=True).of("mlp.csv", [plan])
    assert len(rows) == 54 and set(rows["status"]) == {"ok"}


def limited(size):
    """Let files of this process not grow beyond a size: what a full disk is to it."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def test_a_full_disk_leaves_what_was_there_whole(readings, work, whole):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        limited(2000)
        with pytest.raises(Terminated) as full:
            readings().of("mlp.csv", PLANS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.strerror(errno.EFBIG) in str(full.value) and "MiB free" in str(full.value)
    rows = ledger.rows_in(kept(work))
    assert 0 < rows < ROWS and rows % 8 == 0
    assert (kept(work) / "rows.jsonl").read_bytes().endswith(b"\n"), "nothing torn is left"
    readings().of("mlp.csv", PLANS)
    assert_same_but_for_rounding((work / "results" / "mlp.csv").read_bytes(), whole)


def test_a_hang_is_mentioned(readings, monkeypatch, capsys):
    monkeypatch.setattr(loop, "SLOW", 0.2)
    here = readings()
    handle = here.lm.blocks[0].register_forward_hook(lambda *_: time.sleep(0.1))
    try:
        here.of("mlp.csv", PLANS[1:])
    finally:
        handle.remove()
    assert "mlp: no batch for 0.2 seconds, after 0 of 4 rows" in capsys.readouterr().err


def test_in_a_log_progress_is_lines(monkeypatch, capsys):
    monkeypatch.setenv(LOG, "1")
    with Bar(100, "mlp", 20) as bar:
        for _ in range(8):
            bar.update(10)
    said = capsys.readouterr().err
    assert "\r" not in said and said.splitlines()[0].startswith("mlp: 20 of 100 rows")
    assert said.strip().splitlines()[-1].startswith("mlp: 100 of 100 rows") and len(said.splitlines()) < 6


def test_where_working_state_is():
    assert ledger.run_folder(ROOT / "data" / "smollm2-135m") == ledger.WORK / "smollm2-135m"
    assert ledger.run_folder(ledger.WORK / "x" / "staging-0123abcd") == ledger.WORK / "x"
    one, other = (ledger.run_folder(ROOT / "runs" / parent / "all-layers") for parent in ("a", "b"))
    assert one != other and one.parent == ledger.WORK


KILLED = """
import os, signal, sys
from pathlib import Path
from helpers.runs import ledger
from helpers.runs.progress import Bar
from helpers.runs.session import Session
from helpers.words.settings import ModelSettings
from tables import PLANS, QuickJudge, make_readings
ledger.WORK = Path(sys.argv[2])
class Dies(Bar):
    def update(self, n=1):
        super().update(n)
        if self.n >= 20:
            os.kill(os.getpid(), signal.SIGKILL)
session = Session(ModelSettings.of({"model": sys.argv[1]}), QuickJudge())
make_readings(sys.argv[1], sys.argv[3], Dies, session, batch_size=8).of("mlp.csv", PLANS)
"""


@pytest.mark.slow
def test_a_killed_process_loses_at_most_the_batch_in_hand(readings, work, tiny_folder, whole):
    arguments = [sys.executable, "-c", KILLED, tiny_folder, work / "work", work / "results"]
    env = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'runs'}"}
    run = subprocess.run(arguments, cwd=ROOT, env=env, capture_output=True, text=True)
    assert run.returncode == -signal.SIGKILL, run.stderr[-2000:]
    assert ledger.rows_in(kept(work)) == 24
    readings().of("mlp.csv", PLANS)
    assert_same_but_for_rounding((work / "results" / "mlp.csv").read_bytes(), whole)
