"""A command's staging folder: what it wrote so far, published when all is complete, and the state that says so."""

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from .. import ROOT
from ..runs.ledger import COMPLETE, FAILED, STAGING, STATE, UNFINISHED, ledgers, states, versions
from ..words.files import write_atomically
from ..words.rows import TRIED_AGAIN

CODE = ("helpers/**/*.py", "notebooks/*.ipynb", "data/*.csv", "requirements.txt")  # what any figure depends on


class Staging:
    """The folder into which one command writes, inside the run folder; the run folder is locked by this process.

    Args:
        run: the run folder.
        asked: what the command asks for; the same question finds the same folder.
        about: what its state holds: command, results, new.

    Attributes:
        folder: where readings, figures and executed notebooks go.
        state: what state.json holds.
    """

    def __init__(self, run: Path, asked: object, about: dict):
        digest = hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()[:8]
        self.folder = run / f"{STAGING}{digest}"
        self.state = about | {"code": code_digest(asked), "before": {}, "state": UNFINISHED}

    def open(self, anew: bool) -> None:
        """Continue with what an earlier start of the command has left, if it is of use.

        What other code left, or what holds failed rows, is thrown away. Readings are not: they are in the ledgers.
        """
        file = self.folder / STATE
        earlier = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        if not anew and earlier.get("code") == self.state["code"] and earlier["state"] != FAILED:
            self.state = earlier
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(exist_ok=True)
        self.save()

    @property
    def is_complete(self) -> bool:
        return self.state["state"] == COMPLETE

    def is_through(self, name: str) -> bool:
        """Tell whether a notebook was run to its end."""
        return (self.folder / "notebooks" / f"{name}.ipynb").is_file()

    def begins_anew(self, name: str, table: str) -> bool:
        """Tell whether to begin a new ledger: the command was given --new, and has not begun this one yet."""
        before = [folder.name for folder in ledgers(self.folder.parent / table.partition(".")[0])]
        first = self.state["before"].setdefault(name, before) == before
        self.save()
        return self.state["new"] and first

    def publish(self, results: Path) -> tuple[list[Path], Counter]:
        """Copy every file to the folder of results, each whole or not at all, then say that the command is complete.

        Returns:
            The files, relative to the folder; and status -> how many rows have it, of those that aren't ok.
        """
        files = [path.relative_to(self.folder) for path in sorted(self.folder.rglob("*")) if path.is_file()]
        written = [path for path in files if path.name != STATE and not path.name.startswith(".")]  # not half ones
        failed = sum((_failed_rows(self.folder / path) for path in written), Counter())
        for path in written:
            (results / path).parent.mkdir(parents=True, exist_ok=True)
            with write_atomically(results / path, "wb") as file:
                file.write((self.folder / path).read_bytes())
        self.state["state"] = FAILED if any(failed[status] for status in TRIED_AGAIN) else COMPLETE
        self.save()
        return written, failed

    def save(self) -> None:
        with write_atomically(self.folder / STATE) as file:
            json.dump(self.state, file, indent=1)


def was_new(run: Path, command: str) -> bool:
    """Tell whether this command was begun with --new, and stopped."""
    return any(state["new"] and state["command"] == command and state["state"] == UNFINISHED for state in states(run))


def code_digest(asked: object) -> str:
    """Digest what a figure depends on beside its settings: the code, and the files that settings name."""
    digest = hashlib.sha256(json.dumps([versions(), version("sentence-transformers")]).encode())
    ours = {path for pattern in CODE for path in ROOT.glob(pattern)}
    named = {Path(file) for text in _texts(asked) if os.path.isfile(file := ROOT / os.path.expanduser(text))}
    for path in sorted(ours | named):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _texts(asked: object) -> Iterator[str]:
    """Yield all texts in some settings: any could name a file."""
    if isinstance(asked, str):
        yield asked
    elif isinstance(asked, dict | list | tuple):
        for part in asked.values() if isinstance(asked, dict) else asked:
            yield from _texts(part)


def _failed_rows(path: Path) -> Counter:
    """Count the rows that aren't ok, by status, as the JSON beside a table tells."""
    if path.suffix != ".json":
        return Counter()
    status = json.loads(path.read_text(encoding="utf-8")).get("status", {})
    return Counter({kind: count for kind, count in status.items() if kind != "ok"})
