"""What runs have left in runs/: `./runme.sh status` lists it, `./runme.sh clean` removes what can be made again."""

import argparse
import json
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from . import ROOT, InputError
from .ledger import (
    COMPLETE,
    STAGING,
    STATE,
    UNFINISHED,
    WORK,
    digest_of,
    header_of,
    in_use,
    is_complete,
    locked,
    rows_in,
    shown,
    states,
)

COPIES = ROOT / "runs" / "models"  # of GGUF files, that load in a second (helpers/dequantised.py)


@dataclass(frozen=True)
class Left:
    """One thing that a run has left.

    Attributes:
        state: complete (with failed rows), unfinished, or in use (by whom).
        words: what it is, and how far it is.
        can_go: whether nothing is lost with it: what it holds is among the results, or is made again in seconds.
    """

    path: Path
    state: str
    words: str
    can_go: bool

    @property
    def size(self) -> int:
        """In bytes."""
        return sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())


def everything() -> dict[Path, list[Left]]:
    """Per run folder what is in it: ledgers, and the commands that were given."""
    runs = sorted(folder for folder in WORK.iterdir() if folder.is_dir()) if WORK.is_dir() else []
    return {run: [one for path in sorted(run.iterdir()) if (one := look(path))] for run in runs}


def look(path: Path, ours: bool = False) -> Left | None:
    """What a folder is, now; None if it is neither a ledger nor a command's.

    Args:
        ours: this process has locked its run.
    """
    run = path.parent
    if (path / "plan.json").is_file():
        head, rows = header_of(path), rows_in(path)
        user, wanted = in_use(path), sum(head["rows"])
        state = f"in use by {user}" if user else COMPLETE if is_complete(path) else UNFINISHED
        how_far = f"{rows:,} rows" if rows == wanted else f"{rows:,} of {wanted:,} rows, {rows / wanted:.0%}"
        going_on = any(state["state"] == UNFINISHED for state in states(run))
        can_go = state == COMPLETE and not going_on and _is_published(path, head)
        return Left(path, state, f"{path.name}: {how_far}, {head['model']['dtype']}", can_go)
    if path.name.startswith(STAGING) and (path / STATE).is_file():
        state = json.loads((path / STATE).read_text(encoding="utf-8"))
        user = in_use(run) if state["state"] == UNFINISHED and not ours else ""
        through = len(list((path / "notebooks").glob("*.ipynb")))
        words = f"{state['command']}: {through} notebooks through"
        return Left(path, f"in use by {user}" if user else state["state"], words, state["state"] != UNFINISHED)
    return None


def _is_published(path: Path, head: dict) -> bool:
    """Whether a ledger's rows are in the folder of results, all of them."""
    results = ROOT / head["results"]
    name = re.sub(r"-\d+$", "", path.name)
    file = next((one for one in (results / f"{name}.csv", results / f"{name}.csv.gz") if one.is_file()), None)
    try:
        return file is not None and digest_of(pd.read_csv(file, usecols=["id"], dtype=str)["id"]) == head["ids"]
    except (OSError, ValueError, EOFError):  # no table of ours
        return False


def _results(run: Path) -> str:
    """Where its results go."""
    heads = (header_of(file.parent) for file in run.glob("*/plan.json"))
    return next((one["results"] for one in (*states(run), *heads)), "")


def status() -> int:
    """Print what runs have left, run by run."""
    found = everything()
    for run, lefts in found.items():
        print(f"{shown(run)}/ → {_results(run)}/")
        for one in lefts:
            print(f"  {one.state:<11} {one.words}")
    if not found:
        print("No run has left anything: runs/work/ is empty.")
    return 0


def clean(yes: bool = False, unfinished: bool = False) -> int:
    """Remove what can be made again, after asking; what is in use stays.

    Args:
        yes: don't ask.
        unfinished: remove also what no results have yet: readings that would have to be made again.
    """
    lefts = [one for some in everything().values() for one in some]
    going = [one for one in lefts if one.can_go or (unfinished and not one.state.startswith("in use"))]
    copies = sorted(COPIES.iterdir()) if COPIES.is_dir() else []
    copies = [Left(path, COMPLETE, "copy that loads fast", True) for path in copies if "making" not in path.name]
    for one in lefts:
        if one not in going:
            print(f"stays: {shown(one.path)} ({one.state}{'' if one.can_go else ', not among the results'})")
    for one in (*going, *copies):
        print(f"goes:  {shown(one.path)} ({one.size / 2**20:,.1f} MiB; {one.words})")
    if not going and not copies:
        print("Nothing to remove.")
        return 0
    try:
        asked = f"Remove these {len(going) + len(copies)}? Results stay. [y/N] "
        agreed = yes or input(asked).strip().lower() in ("y", "yes")
    except (EOFError, KeyboardInterrupt):
        print("\n(--yes answers for you)")
        agreed = False
    if not agreed:
        print("Nothing was removed.")
        return 0
    removed = sum(_remove(one, unfinished) for one in going)
    for one in copies:
        shutil.rmtree(one.path, ignore_errors=True)
        removed += 1
    for run in WORK.glob("*"):
        if run.is_dir() and {path.name for path in run.iterdir()} <= {"lock"} and not in_use(run):
            shutil.rmtree(run)
    print(f"Removed {removed}.")
    return 0


def _remove(left: Left, unfinished: bool) -> bool:
    """Whether it could go: nobody has begun with it while the question stood there."""
    try:
        with locked(left.path.parent):
            now = look(left.path, ours=True)
            if now is None or now.state.startswith("in use") or not (now.can_go or unfinished):
                print(f"stays: {shown(left.path)} (it has changed)")
                return False
            aside = left.path.with_name(f".going-{left.path.name}")
            left.path.rename(aside)  # at once, so that nothing is ever half there under its name
            shutil.rmtree(aside)
            return True
    except (InputError, OSError) as error:
        print(f"stays: {shown(left.path)} ({error})")
        return False


def main(arguments: list[str] | None = None) -> int:
    """The command line: status, or clean."""
    parser = argparse.ArgumentParser("runme.sh", description=__doc__, allow_abbrev=False)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("status", help="list runs with their state")
    cleaning = verbs.add_parser("clean", help="remove what can be made again")
    cleaning.add_argument("--yes", action="store_true", help="don't ask")
    cleaning.add_argument("--unfinished", action="store_true", help="remove unfinished runs, too")
    options = parser.parse_args(arguments)
    return status() if options.verb == "status" else clean(options.yes, options.unfinished)


if __name__ == "__main__":
    sys.exit(main())
