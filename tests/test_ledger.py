"""Long runs: what was read stays read, resumed bytes are the same bytes, and others' runs are left alone."""

import errno
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from helpers import ROOT, InputError, ledger, runs, status
from helpers.batches import SAME_FAILURES
from helpers.ledger import Ledger
from helpers.models import load_model
from helpers.plans import make_plan
from helpers.progress import LOG, Bar
from helpers.readings import Readings
from helpers.results import save_results
from helpers.stopping import Stopped, Terminated
from helpers.superscopes import sweep

PROMPTS = ["Titanic", "Star Wars", "Diana, Princess of Wales"]
GRID = {"components": ("hidden_state", "mlp_output"), "layers": "all", "amplifiers": (1, 2, 5), "max_new_tokens": 4}
PLANS = [make_plan(PROMPTS, **GRID), make_plan(PROMPTS[:2], layers=1, amplifiers=(1, 3), max_new_tokens=3)]
ROWS = 3 * 2 * 3 * 3 + 2 * 2


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A folder for the ledgers of this test."""
    monkeypatch.setattr(ledger, "WORK", tmp_path / "work")
    monkeypatch.setattr(status, "WORK", tmp_path / "work")
    return tmp_path


@pytest.fixture
def readings(work, tiny_folder):
    """Of the small model, eight rows at a time."""

    def make(**others):
        return Readings(str(tiny_folder), **{"out_dir": work / "results", "batch_size": 8} | others)

    return make


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    """The bytes of a plain sweep of the same plans."""
    file = tmp_path_factory.mktemp("whole") / "mlp.csv"
    save_results(sweep(tiny, PLANS, batch_size=8), file)
    return file.read_bytes()


def kept(work):
    return next((work / "work").glob("results-*")) / "mlp"


def kept_anywhere(work):
    return list((work / "work").glob("*/*"))


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


def test_the_bytes_are_those_of_a_plain_sweep(readings, work, whole, capsys):
    rows = readings(bar=Bar).of("mlp.csv", PLANS)
    assert (work / "results" / "mlp.csv").read_bytes() == whole and len(rows) == ROWS
    about = json.loads((work / "results" / "mlp.json").read_text())
    assert about["same_bytes_again"] and about["batch_size"] == 8 and about["status"] == {"ok": ROWS}
    assert f"mlp: {ROWS} of {ROWS} rows" in capsys.readouterr().err


def test_nothing_left_to_do_needs_no_weights(readings, work, whole, monkeypatch):
    readings().of("mlp.csv", PLANS)
    (work / "results" / "mlp.csv").unlink()
    monkeypatch.setattr("helpers.readings.load_model", lambda *_, **__: pytest.fail("the weights were loaded"))
    readings().of("mlp.csv", PLANS)
    assert (work / "results" / "mlp.csv").read_bytes() == whole


@pytest.mark.parametrize(("signum", "kind"), [(signal.SIGINT, Stopped), (signal.SIGTERM, Terminated)])
def test_a_signal_ends_after_the_batch_and_the_rest_is_read_later(readings, work, whole, signum, kind, capsys):
    before = signal.getsignal(signum)
    with pytest.raises(kind, match=f"16 of {ROWS} rows are kept in") as stopped:
        readings(bar=after(9, lambda: os.kill(os.getpid(), signum))).of("mlp.csv", PLANS)
    assert stopped.value.code == {signal.SIGINT: 130, signal.SIGTERM: 143}[signum]
    assert signal.getsignal(signum) is before, "the handlers are as they were"
    assert "Stopping after the batch in hand; once more stops now." in capsys.readouterr().err
    assert not (work / "results" / "mlp.csv").exists() and not ledger.is_complete(kept(work))
    lines = (kept(work) / "rows.jsonl").read_bytes()
    readings().of("mlp.csv", PLANS)
    assert (work / "results" / "mlp.csv").read_bytes() == whole
    assert (kept(work) / "rows.jsonl").read_bytes().startswith(lines), "what was read is not read again"


def test_a_second_signal_ends_at_once(readings, work, whole, monkeypatch):
    """The second one comes in the middle of a batch."""
    monkeypatch.setattr("helpers.stopping.SAME_SIGNAL", 0)

    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Stopped, match="in the middle of a batch"):
        readings(bar=after(1, twice)).of("mlp.csv", PLANS)
    readings().of("mlp.csv", PLANS)
    assert (work / "results" / "mlp.csv").read_bytes() == whole


def stopped_at(readings, rows, **others):
    with pytest.raises(Stopped):
        readings(bar=after(rows, lambda: os.kill(os.getpid(), signal.SIGINT)), **others).of("mlp.csv", PLANS)


def test_a_torn_last_line_is_dropped_and_redone(readings, work, whole, capsys):
    for cut in (1, 7, 200):
        stopped_at(readings, 20)
        file = kept(work) / "rows.jsonl"
        file.write_bytes(file.read_bytes()[:-cut])
        head = ledger.header_of(kept(work))
        torn = file.read_bytes()
        with Ledger(kept(work), head) as there:
            assert there.torn == 1 and there.done == 16
        assert file.read_bytes().endswith(b"\n") and ledger.rows_in(kept(work)) == 16
        file.write_bytes(torn)
        readings().of("mlp.csv", PLANS)
        assert "mlp: 1 torn line(s) dropped; their rows are read again" in capsys.readouterr().err
        assert (work / "results" / "mlp.csv").read_bytes() == whole
        for path in kept(work).iterdir():
            path.unlink()


def test_garbage_in_the_middle_costs_its_batch_alone(readings, work, whole):
    stopped_at(readings, 30)
    file = kept(work) / "rows.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([lines[0], b"\0" * 50 + b"\n", *lines[2:]]))  # as after a power cut
    assert ledger.rows_in(kept(work)) == 24
    readings().of("mlp.csv", PLANS)
    assert (work / "results" / "mlp.csv").read_bytes() == whole


@pytest.mark.parametrize("size", [3, 64])
def test_it_goes_on_with_another_batch_size(readings, work, whole, size):
    stopped_at(readings, 20)
    rows = readings(batch_size=size).of("mlp.csv", PLANS)
    assert (work / "results" / "mlp.csv").read_bytes() == whole and rows.attrs["same_bytes_again"]


def test_in_lower_precision_a_resumed_run_is_the_same_bytes_too(readings, work, tiny_folder):
    """Batches are cut from the plan, not from what is left."""
    plain = sweep(load_model(str(tiny_folder), "bfloat16"), PLANS, batch_size=8)
    save_results(plain, work / "plain.csv")
    stopped_at(readings, 20, dtype="bfloat16")
    rows = readings(dtype="bfloat16").of("mlp.csv", PLANS)
    assert (work / "results" / "mlp.csv").read_bytes() == (work / "plain.csv").read_bytes()
    assert rows.attrs["same_bytes_again"]
    assert not readings(dtype="bfloat16", batch_size=None, new=True).of("mlp.csv", PLANS).attrs["same_bytes_again"]


def test_the_size_that_was_found_is_kept(readings, work, whole, monkeypatch):
    monkeypatch.setattr("helpers.superscopes.find_size", lambda prompt, rows: 5)
    stopped_at(readings, 20, batch_size=None)
    monkeypatch.setattr("helpers.superscopes.find_size", lambda prompt, rows: 7)
    rows = readings(batch_size=None).of("mlp.csv", PLANS)
    made = [json.loads(line)["made"]["batch_size"] for line in (kept(work) / "rows.jsonl").open()]
    assert set(made[:-1]) == {5} and rows.attrs["batch_size"] == 5
    assert (work / "results" / "mlp.csv").read_bytes() == whole


def test_unfinished_rows_of_other_settings_are_not_mixed_in(readings, work, whole):
    stopped_at(readings, 20)
    others = [make_plan(PROMPTS[:2], **GRID | {"amplifiers": (1, 2)}), PLANS[1]]
    with pytest.raises(InputError) as refused:
        readings().of("mlp.csv", others)
    assert "24 of 58 rows of other settings: prompts (3 there, 2 here); amplifiers ([1.0, 2.0, 5.0] there, [1.0, 2.0] " \
        "here). The same settings go on with it, --new (new = True) starts beside it, ./runme.sh clean" in str(refused.value)  # fmt: skip
    with pytest.raises(InputError, match=r"model dtype \(float32 there, bfloat16 here\)"):
        readings(dtype="bfloat16").of("mlp.csv", PLANS)
    assert len(readings(new=True).of("mlp.csv", others)) == 2 * 2 * 3 * 2 + 4
    assert kept(work).with_name("mlp-2").is_dir()
    readings().of("mlp.csv", PLANS)  # goes on where it was, in the first one
    assert (work / "results" / "mlp.csv").read_bytes() == whole
    assert not kept(work).with_name("mlp-3").exists()


def test_a_new_run_beside_a_finished_one_goes_on_when_it_was_stopped(readings, work, whole):
    readings().of("mlp.csv", PLANS)
    stopped_at(readings, 20, new=True)
    assert ledger.rows_in(kept(work).with_name("mlp-2")) == 24
    readings().of("mlp.csv", PLANS)
    assert ledger.is_complete(kept(work).with_name("mlp-2")) and (work / "results" / "mlp.csv").read_bytes() == whole


def test_new_ledgers_have_new_numbers(readings, work, whole):
    """Also where an older one is gone."""
    readings().of("mlp.csv", PLANS)
    readings(new=True).of("mlp.csv", PLANS)
    shutil.rmtree(kept(work))
    readings().of("mlp.csv", PLANS[1:])
    assert {path.parent.name for path in (work / "work").glob("*/*/plan.json")} == {"mlp-2", "mlp-3"}


def test_rows_that_are_gone_are_read_again(readings, work, whole):
    """A manifest that says complete is not believed without its rows."""
    readings().of("mlp.csv", PLANS)
    file = kept(work) / "rows.jsonl"
    for lines in ([], file.read_bytes().splitlines(keepends=True)[:2]):
        file.write_bytes(b"".join(lines))
        readings().of("mlp.csv", PLANS)
        assert (work / "results" / "mlp.csv").read_bytes() == whole


def test_another_model_of_the_same_name_is_not_mixed_in(readings, work, tiny_folder, tmp_path):
    """The weights changed under the run: named by their fingerprint."""
    mine = tmp_path / tiny_folder.name
    shutil.copytree(tiny_folder, mine)
    stopped_at(lambda **others: Readings(str(mine), out_dir=work / "results", batch_size=8, **others), 20)
    weights = bytearray((mine / "model.safetensors").read_bytes())
    weights[-2] ^= 1
    (mine / "model.safetensors").write_bytes(weights)
    with pytest.raises(InputError, match=r"other settings: model fingerprint \("):
        Readings(str(mine), out_dir=work / "results", batch_size=8).of("mlp.csv", PLANS)


def test_finished_settings_stay_finished_beside_each_other(readings, work, monkeypatch):
    """Playing with settings in a notebook is never refused, and going back costs nothing."""
    first = readings().of("mlp.csv", PLANS)
    second = readings().of("mlp.csv", PLANS[1:])
    assert len(second) == 4
    monkeypatch.setattr("helpers.readings.load_model", lambda *_, **__: pytest.fail("the weights were loaded"))
    assert readings().of("mlp.csv", PLANS).to_csv() == first.to_csv()
    assert readings().of("mlp.csv", PLANS[1:]).to_csv() == second.to_csv()


def test_two_runs_in_one_folder(readings, work, whole):
    """The second names the first's host and process; a lock of a process that is gone is none."""
    told = []

    def meanwhile():
        def second():
            try:
                readings().of("mlp.csv", PLANS)
            except InputError as error:
                told.append(str(error))

        thread = threading.Thread(target=second)
        thread.start()
        thread.join()

    readings(bar=after(9, meanwhile)).of("mlp.csv", PLANS)
    assert f"is in use by process {os.getpid()} on {socket.gethostname()} since " in told[0]
    (kept(work) / "owner.json").write_text('{"host": "gone", "process": 1, "since": "long ago"}')
    assert ledger.in_use(kept(work)) == ""
    readings().of("mlp.csv", PLANS)
    assert (work / "results" / "mlp.csv").read_bytes() == whole


def test_a_failed_row_is_a_row(readings, work):
    """An amplifier out of float32's range, and an exception out of the model for single vectors alone."""
    plan = make_plan(PROMPTS, layers=1, amplifiers=(1, 3e38, 50), max_new_tokens=3)
    here, norms = readings(), []

    def fails(module, args, output):
        norm = output[:, -1].norm(dim=-1)
        norms.extend(norm[norm.isfinite()].tolist())
        if (norm.isfinite() & (norm > limit)).any():
            raise ValueError("too long a vector")

    limit = 1e30
    handle = here.lm.blocks[2].register_forward_hook(fails)
    try:
        sweep(here.lm, plan, batch_size=1)
        limit = max(norms) * 0.9  # the longest of the three prompts' vectors, α = 50
        rows = here.of("mlp.csv", [plan])
    finally:
        handle.remove()
    by_amplifier = rows.groupby("amplification value")["status"].agg(set)
    assert by_amplifier[1] == {"ok"} and "error" in by_amplifier[50] and "nonfinite" in by_amplifier[3e38]
    failed = rows[rows["status"] == "error"]
    assert set(failed["message"]) == {"ValueError: too long a vector"} and set(failed["result"]) == {""}
    assert (rows["score"].isna() == (rows["status"] != "ok")).all()
    status = json.loads((work / "results" / "mlp.json").read_text())["status"]
    assert sum(status.values()) == 9 and status["error"] == len(failed)
    again = readings().of("mlp.csv", [plan])  # the model is mended
    assert set(again["status"]) == {"ok", "nonfinite"} and (again["status"] == "nonfinite").sum() == 3
    assert again[again["amplification value"] == 1].to_csv() == rows[rows["amplification value"] == 1].to_csv()


def test_a_stop_is_obeyed_while_failed_rows_are_read_again(readings, work):
    plan = make_plan(PROMPTS, layers=1, amplifiers=(1, 2, 300, 400), max_new_tokens=3)
    here, norms = readings(batch_size=2), []

    def fails(module, args, output):
        norms.append(output[:, -1].norm(dim=-1).max().item())
        if norms[-1] > limit:
            raise ValueError("too long a vector")

    limit = float("inf")
    handle = here.lm.blocks[2].register_forward_hook(fails)
    try:
        sweep(here.lm, make_plan(PROMPTS, layers=1, amplifiers=(1, 2), max_new_tokens=3))
        limit = 2 * max(norms)
        rows = here.of("mlp.csv", [plan])
    finally:
        handle.remove()
    assert (rows["status"] == "error").sum() == 6
    with pytest.raises(Stopped):
        readings(batch_size=2, bar=after(0, lambda: os.kill(os.getpid(), signal.SIGINT))).of("mlp.csv", [plan])
    with Ledger(kept(work), ledger.header_of(kept(work))) as there:
        assert there.done == 12 and len(there.settled(0)) == 8, "one batch was read again, then it stopped"
    assert set(readings(batch_size=2).of("mlp.csv", [plan])["status"]) == {"ok"}


def test_many_equal_failures_stop_a_run_early(readings, work):
    here, passes = readings(), []

    def breaks(*_):
        passes.append(1)
        if len(passes) > 20:
            raise ValueError("a broken kernel")

    plan = make_plan(PROMPTS, layers="all", amplifiers=(1, 2, 3, 4, 5, 6), max_new_tokens=3)
    handle = here.lm.blocks[1].register_forward_hook(breaks)
    try:
        with pytest.raises(
            RuntimeError, match=f"{SAME_FAILURES} rows in a row ended with the same error: ValueError: a b"
        ):
            here.of("mlp.csv", [plan])
    finally:
        handle.remove()
    assert len(passes) < 100
    assert 0 < ledger.rows_in(kept(work)) < 54, "what was read before is kept"
    rows = readings(new=True).of("mlp.csv", [plan])
    assert len(rows) == 54 and set(rows["status"]) == {"ok"}


def limited(size):
    """Files of this process may not grow beyond a size: what a full disk is to it."""
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
    assert (work / "results" / "mlp.csv").read_bytes() == whole


def test_a_hang_is_told_of(readings, monkeypatch, capsys):
    monkeypatch.setattr(runs, "SLOW", 0.2)
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


def test_status_and_clean(readings, work, capsys, monkeypatch):
    assert status.main(["status"]) == 0 and "No run has left anything" in capsys.readouterr().out
    monkeypatch.setattr(status, "COPIES", work / "none")
    stopped_at(readings, 20)
    readings().of("other.csv", PLANS[1:])
    capsys.readouterr()
    assert status.main(["status"]) == 0
    said = capsys.readouterr().out
    assert f"→ {work}/results/" in said
    assert "unfinished  mlp: 24 of 58 rows, 41%, float32" in said and "complete    other: 4 rows, float32" in said
    with ledger.locked(kept(work)):
        status.main(["status"])
    assert f"in use by process {os.getpid()} on {socket.gethostname()}" in capsys.readouterr().out

    monkeypatch.setattr("builtins.input", lambda asked: "n")
    assert status.main(["clean"]) == 0 and "Nothing was removed." in capsys.readouterr().out
    assert kept(work).with_name("other").is_dir()
    published = (work / "results" / "other.csv").read_bytes()
    (work / "results" / "other.csv").unlink()
    assert status.main(["clean", "--yes"]) == 0 and "Nothing to remove." in capsys.readouterr().out
    assert kept(work).with_name("other").is_dir(), "the only copy stays"
    (work / "results" / "other.csv").write_bytes(published)
    with ledger.locked(kept(work).parent):  # somebody begins while the question stands there
        assert status.main(["clean", "--yes"]) == 0 and "Removed 0." in capsys.readouterr().out
    assert status.main(["clean", "--yes"]) == 0
    said = capsys.readouterr().out
    assert f"stays: {kept(work)} (unfinished, not among the results)" in said and "Removed 1." in said
    assert kept(work).is_dir() and not kept(work).with_name("other").exists()
    assert (work / "results" / "other.csv").is_file(), "results stay"
    (work / "results" / "mlp.csv").write_text("five,columns\n1,2\n")  # of somebody else
    assert status.main(["status"]) == 0
    staging = kept(work).with_name("staging-00000000")
    staging.mkdir()
    state = {"command": "./runme.sh reproduce", "results": str(work / "results"), "state": "unfinished"}
    (staging / "state.json").write_text(json.dumps(state))
    assert status.main(["clean", "--yes", "--unfinished"]) == 0 and not kept_anywhere(work)


def test_where_working_state_is():
    assert ledger.run_folder(ROOT / "data" / "smollm2-135m") == ledger.WORK / "smollm2-135m"
    assert ledger.run_folder(ledger.WORK / "x" / "staging-0123abcd") == ledger.WORK / "x"
    one, other = (ledger.run_folder(ROOT / "runs" / parent / "all-layers") for parent in ("a", "b"))
    assert one != other and one.parent == ledger.WORK


KILLED = """
import os, signal, sys
from pathlib import Path
from helpers import ledger
from helpers.models import load_model
from helpers.plans import make_plan
from helpers.progress import Bar
from helpers.readings import Readings
ledger.WORK = Path(sys.argv[2])
class Dies(Bar):
    def update(self, n=1):
        super().update(n)
        if self.n >= 20:
            os.kill(os.getpid(), signal.SIGKILL)
plans = [make_plan({prompts!r}, **{grid!r}), make_plan({prompts!r}[:2], layers=1, amplifiers=(1, 3), max_new_tokens=3)]
Readings(sys.argv[1], out_dir=sys.argv[3], batch_size=8, bar=Dies).of("mlp.csv", plans)
"""


def test_a_killed_process_loses_at_most_the_batch_in_hand(readings, work, tiny_folder, whole):
    script = KILLED.format(prompts=PROMPTS, grid=GRID)
    arguments = [sys.executable, "-c", script, tiny_folder, work / "work", work / "results"]
    run = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == -signal.SIGKILL, run.stderr[-2000:]
    assert ledger.rows_in(kept(work)) == 24
    readings().of("mlp.csv", PLANS)
    assert (work / "results" / "mlp.csv").read_bytes() == whole
