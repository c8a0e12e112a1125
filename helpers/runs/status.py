"""What runs have left in runs/: list it, and remove what can be made again."""

import csv
import gzip
import json
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from .. import ROOT, InputError
from ..words.files import shown
from . import ledger
from .ledger import (
    COMPLETE,
    STAGING,
    STATE,
    UNFINISHED,
    digest_of,
    header_of,
    is_complete,
    rows_in,
    states,
)
from .locks import in_use, locked

COPIES = ROOT / "runs" / "models"  # of GGUF files, that load in a second (helpers/models/gguf.py)


@dataclass(frozen=True)
class Left:
    """Something that a run has left.

    Attributes:
        state: complete (with failed rows), unfinished, or in use (by whom).
        words: what it is, and how far it got.
        can_go: whether nothing is lost with it: what it holds is among the results, or is made again in seconds.
    """

    path: Path
    state: str
    words: str
    can_go: bool

    @property
    def size(self) -> int:
        """Add up its files, in bytes."""
        return sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())


def everything() -> dict[Path, list[Left]]:
    """Return what is in each run folder: ledgers, and the commands that were given."""
    work = ledger.WORK
    runs = sorted(folder for folder in work.iterdir() if folder.is_dir()) if work.is_dir() else []
    return {run: [left for path in sorted(run.iterdir()) if (left := look(path))] for run in runs}


def look(path: Path, ours: bool = False) -> Left | None:
    """Return what a folder is now; None if it is neither a ledger nor a command's.

    Args:
        ours: this process has locked its run.
    """
    run = path.parent
    if (path / "plan.json").is_file():
        head, rows = header_of(path), rows_in(path)
        user, wanted = in_use(path), sum(head["rows"])
        state = f"in use by {user}" if user else COMPLETE if is_complete(path) else UNFINISHED
        how_far = f"{rows:,} rows" if rows == wanted else f"{rows:,} of {wanted:,} rows, {rows / wanted:.0%}"
        is_continued = any(state["state"] == UNFINISHED for state in states(run))
        can_go = state == COMPLETE and not is_continued and _is_published(path, head)
        return Left(path, state, f"{path.name}: {how_far}, {head['model']['dtype']}", can_go)
    if path.name.startswith(STAGING) and (path / STATE).is_file():
        state = json.loads((path / STATE).read_text(encoding="utf-8"))
        user = in_use(run) if state["state"] == UNFINISHED and not ours else ""
        through = len(list((path / "notebooks").glob("*.ipynb")))
        words = f"{state['command']}: {through} notebooks through"
        return Left(path, f"in use by {user}" if user else state["state"], words, state["state"] != UNFINISHED)
    return None


def _is_published(path: Path, head: dict) -> bool:
    """Tell whether a ledger's rows are in the folder of results, all of them."""
    results = ROOT / head["results"]
    name = re.sub(r"-\d+$", "", path.name)
    file = next((file for file in (results / f"{name}.csv", results / f"{name}.csv.gz") if file.is_file()), None)
    try:
        return file is not None and digest_of(_ids_in(file)) == head["ids"]
    except (OSError, ValueError, EOFError, KeyError, TypeError, csv.Error):  # no table of ours
        return False


def _ids_in(file: Path) -> list[str]:
    """Read the column `id` of a CSV."""
    csv.field_size_limit(sys.maxsize)
    opened = gzip.open if file.suffix == ".gz" else open
    with opened(file, "rt", encoding="utf-8", newline="") as lines:
        return [row["id"] for row in csv.DictReader(lines)]


def _results(run: Path) -> str:
    """Return where the results of a run go."""
    heads = (header_of(file.parent) for file in run.glob("*/plan.json"))
    return next((said["results"] for said in (*states(run), *heads)), "")


def status() -> int:
    """Print what runs have left, run by run; return the exit code."""
    found = everything()
    for run, some in found.items():
        print(f"{shown(run)}/ → {_results(run)}/")
        for left in some:
            print(f"  {left.state:<11} {left.words}")
    if not found:
        print("No run has left anything: runs/work/ is empty.")
    return 0


def clean(yes: bool = False, unfinished: bool = False) -> int:
    """Remove what can be made again, after asking; what is in use stays. Return the exit code.

    Args:
        yes: don't ask.
        unfinished: remove also what is not among the results yet: readings that would have to be made again.
    """
    lefts = [left for some in everything().values() for left in some]
    going = [left for left in lefts if left.can_go or (unfinished and not left.state.startswith("in use"))]
    copies = sorted(COPIES.iterdir()) if COPIES.is_dir() else []
    copies = [Left(path, COMPLETE, "copy that loads fast", True) for path in copies if "making" not in path.name]
    for left in lefts:
        if left not in going:
            print(f"stays: {shown(left.path)} ({left.state}{'' if left.can_go else ', not among the results'})")
    for left in (*going, *copies):
        print(f"goes:  {shown(left.path)} ({left.size / 2**20:,.1f} MiB; {left.words})")
    if not going and not copies:
        print("Nothing to remove.")
        return 0
    if not (yes or _agrees(len(going) + len(copies))):
        print("Nothing was removed.")
        return 0
    removed = sum(_remove(left, unfinished) for left in going)
    for copy in copies:
        shutil.rmtree(copy.path, ignore_errors=True)
        removed += 1
    for run in ledger.WORK.glob("*"):
        if run.is_dir() and {path.name for path in run.iterdir()} <= {"lock"} and not in_use(run):
            shutil.rmtree(run)
    print(f"Removed {removed}.")
    return 0


def _agrees(count: int) -> bool:
    """Ask the user whether so many things may be removed."""
    try:
        return input(f"Remove these {count}? Results stay. [y/N] ").strip().lower() in ("y", "yes")
    except (EOFError, KeyboardInterrupt):
        print("\n(--yes answers for you)")
        return False


def _remove(left: Left, unfinished: bool) -> bool:
    """Remove it unless its state changed while the user was answering; return whether it was removed."""
    try:
        with locked(left.path.parent):
            now = look(left.path, ours=True)
            if now is None or now.state.startswith("in use") or not (now.can_go or unfinished):
                print(f"stays: {shown(left.path)} (it has changed)")
                return False
            aside = left.path.with_name(f".going-{left.path.name}")
            left.path.rename(aside)  # at once, so that there is never half of it under its name
            shutil.rmtree(aside)
            return True
    except (InputError, OSError) as error:
        print(f"stays: {shown(left.path)} ({error})")
        return False
