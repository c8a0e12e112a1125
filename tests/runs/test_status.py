"""What runs have left: it is listed, and only what can be made again is removed."""

import gzip
import json
import os
import shutil
import socket
import subprocess
import sys

import pytest

from helpers import ROOT
from helpers.engine.interpret import Batch
from helpers.runs import ledger, status
from helpers.runs.ledger import Ledger
from helpers.runs.locks import locked
from helpers.words.plans import make_plan
from helpers.words.rows import Identity, Item, Reading

MADE = {"parts": 1, "batch_size": 8, "shares_prefix": True, "fused": False, "device": "cpu"}


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A run folder, and a folder of results."""
    monkeypatch.setattr(ledger, "WORK", tmp_path / "work")
    monkeypatch.setattr(status, "COPIES", tmp_path / "none")
    monkeypatch.setattr("helpers.runs.locks.PATIENCE", 0.1)
    (tmp_path / "results").mkdir()
    return tmp_path


def leave(work, name, rows, done):
    """Leave a ledger of so many rows, of which some are done; if all are, they are among the results."""
    ids = [f"{name} {number}" for number in range(rows)]
    items = [Item("Titanic", "ic", 1, 1.0, "mlp_output", 3, 1, "paper", None, id) for id in ids]
    head = ledger.header([make_plan("Titanic")], [items], Identity("tiny", "0123", "float32", "sdpa"))
    folder = ledger.run_folder(work / "results") / name
    with Ledger(folder, head | {"results": str(work / "results")}) as kept:
        kept.append(0, Batch(items[:done], [Reading("a, b")] * done, MADE), 1.0)
        if rows == done:
            kept.complete({})
            text = "result,id\n" + "".join(f'"a, b\n",{id}\n' for id in ids)
            (work / "results" / f"{name}.csv.gz").write_bytes(gzip.compress(text.encode()))
    return folder


def test_nothing_is_there(work, capsys):
    assert status.status() == 0 and "No run has left anything" in capsys.readouterr().out
    assert status.clean() == 0 and "Nothing to remove." in capsys.readouterr().out


def test_runs_are_listed_with_their_state(work, capsys):
    begun = leave(work, "mlp", 58, 24)
    leave(work, "other", 4, 4)
    assert status.status() == 0
    said = capsys.readouterr().out
    assert f"→ {work}/results/" in said
    assert "unfinished  mlp: 24 of 58 rows, 41%, float32" in said and "complete    other: 4 rows, float32" in said
    with locked(begun):
        status.status()
    assert f"in use by process {os.getpid()} on {socket.gethostname()}" in capsys.readouterr().out


def test_what_is_among_the_results_can_go(work, capsys, monkeypatch):
    begun, done = leave(work, "mlp", 58, 24), leave(work, "other", 4, 4)
    published = work / "results" / "other.csv.gz"
    monkeypatch.setattr("builtins.input", lambda asked: "n")
    assert status.clean() == 0 and "Nothing was removed." in capsys.readouterr().out
    assert done.is_dir()
    table = published.read_bytes()
    published.unlink()
    assert status.clean(yes=True) == 0 and "Nothing to remove." in capsys.readouterr().out
    assert done.is_dir(), "the only copy stays"
    for other in (gzip.compress(b"five,columns\n1,2\n"), table[:40], gzip.compress(b"result,id\na,other 0\n")):
        published.write_bytes(other)  # of somebody else, cut off, or of fewer rows
        assert status.clean(yes=True) == 0 and done.is_dir()
    published.write_bytes(table)
    with locked(done.parent):  # somebody begins while the user is answering
        assert status.clean(yes=True) == 0 and "Removed 0." in capsys.readouterr().out
    assert status.clean(yes=True) == 0
    said = capsys.readouterr().out
    assert f"stays: {begun} (unfinished, not among the results)" in said and "Removed 1." in said
    assert begun.is_dir() and not done.exists() and published.is_file(), "results stay"


def test_all_can_go_if_that_is_asked_for(work, capsys):
    begun = leave(work, "mlp", 58, 24)
    staging = begun.with_name("staging-00000000")
    staging.mkdir()
    state = {"command": "./runme.sh reproduce", "results": str(work / "results"), "state": "unfinished"}
    (staging / "state.json").write_text(json.dumps(state))
    assert status.status() == 0 and "./runme.sh reproduce: 0 notebooks through" in capsys.readouterr().out
    assert status.clean(yes=True, unfinished=True) == 0
    assert not list((work / "work").glob("*/*"))


def test_what_a_command_continues_stays(work):
    """A finished ledger, too, while the command that asked for it is not through."""
    done = leave(work, "other", 4, 4)
    staging = done.with_name("staging-00000000")
    staging.mkdir()
    state = {"command": "./runme.sh reproduce", "results": str(work / "results"), "state": "unfinished"}
    (staging / "state.json").write_text(json.dumps(state))
    assert status.clean(yes=True) == 0 and done.is_dir()
    shutil.rmtree(staging)
    assert status.clean(yes=True) == 0 and not done.exists()


def test_it_imports_nothing_heavy():
    """So that it answers at once."""
    script = "import sys, helpers.runs.status; print({'torch', 'transformers', 'pandas', 'numpy'} & {*sys.modules})"
    said = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert said.strip() == "set()"
