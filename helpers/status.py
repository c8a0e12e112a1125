"""What runs have left in runs/: `./runme.sh status` lists it, `./runme.sh clean` removes what can be made again."""

import argparse
import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from . import ROOT
from .ledger import STAGING, STATE, WORK, header_of, in_use, is_complete, rows_in, shown

COPIES = ROOT / "runs" / "models"  # of GGUF files, that load in a second (helpers/dequantised.py)


@dataclass(frozen=True)
class Left:
    """One thing that a run has left.

    Attributes:
        state: complete, unfinished, or in use (by whom).
        words: what it is, and how far it is.
    """

    path: Path
    state: str
    words: str

    @property
    def can_go(self) -> bool:
        """Whether nothing is lost with it: its results are elsewhere, or it is made again in seconds."""
        return self.state == "complete"

    @property
    def size(self) -> int:
        """In bytes."""
        return sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())


def everything() -> dict[Path, list[Left]]:
    """Per run folder what is in it: ledgers, and the commands that were given."""
    runs = sorted(folder for folder in WORK.iterdir() if folder.is_dir()) if WORK.is_dir() else []
    return {run: [one for path in sorted(run.iterdir()) if (one := _left(run, path))] for run in runs}


def _left(run: Path, path: Path) -> Left | None:
    if (path / "plan.json").is_file():
        head, rows = header_of(path), rows_in(path)
        user, wanted = in_use(path), sum(head["rows"])
        state = f"in use by {user}" if user else "complete" if is_complete(path) else "unfinished"
        how_far = f"{rows:,} rows" if rows == wanted else f"{rows:,} of {wanted:,} rows, {rows / wanted:.0%}"
        return Left(path, state, f"{path.name}: {how_far}, {head['model']['dtype']}")
    if path.name.startswith(STAGING) and (path / STATE).is_file():
        state = json.loads((path / STATE).read_text(encoding="utf-8"))
        user = in_use(run) if state["state"] != "complete" else ""
        through = len(list((path / "notebooks").glob("*.ipynb")))
        words = f"{state['command']}: {through} notebooks through"
        return Left(path, f"in use by {user}" if user else state["state"], words)
    return None


def _results(run: Path) -> str:
    """Where its results go."""
    states = [json.loads(file.read_text(encoding="utf-8")) for file in run.glob(f"{STAGING}*/{STATE}")]
    return next(
        (one["results"] for one in [*states, *(header_of(file.parent) for file in run.glob("*/plan.json"))]), ""
    )


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


def clean(yes: bool) -> int:
    """Remove what can be made again, after asking; what is unfinished or in use stays."""
    lefts = [one for some in everything().values() for one in some]
    going = [one for one in lefts if one.can_go]
    if COPIES.is_dir():
        going += [Left(path, "complete", "copy that loads fast") for path in sorted(COPIES.iterdir()) if path.is_dir()]
    for one in lefts:
        if not one.can_go:
            print(f"stays: {shown(one.path)} ({one.state})")
    for one in going:
        print(f"goes:  {shown(one.path)} ({one.size / 2**20:,.1f} MiB; {one.words})")
    if not going:
        print("Nothing to remove.")
        return 0
    try:
        if not yes and input(f"Remove these {len(going)}? Results in data/ stay. [y/N] ").strip().lower() not in (
            "y",
            "yes",
        ):
            print("Nothing was removed.")
            return 0
    except EOFError:
        print("\nNothing was removed (--yes answers for you).")
        return 0
    for one in going:
        shutil.rmtree(one.path)
    for run in WORK.glob("*"):
        if {path.name for path in run.iterdir()} <= {"lock"} and not in_use(run):
            shutil.rmtree(run)
    print(f"Removed {len(going)}.")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """The command line: status, or clean."""
    parser = argparse.ArgumentParser("runme.sh", description=__doc__, allow_abbrev=False)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("status", help="list runs with their state")
    verbs.add_parser("clean", help="remove what can be made again").add_argument("--yes", action="store_true")
    options = parser.parse_args(arguments)
    return status() if options.verb == "status" else clean(options.yes)


if __name__ == "__main__":
    sys.exit(main())
