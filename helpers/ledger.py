"""The ledger: what has been read of some plans, on disk batch by batch, so that nothing finished is lost."""

import hashlib
import json
import math
import os
import re
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
from filelock import FileLock, Timeout

from . import ROOT, InputError
from .plans import METHOD_VERSION, Plan
from .results import write_atomically
from .stopping import NO_ROOM, Terminated

WORK = ROOT / "runs" / "work"
STATE = "state.json"  # of a command, beside what its notebooks wrote
COMPLETE, FAILED, UNFINISHED = "complete", "complete, with failed rows", "unfinished"  # what it says
STAGING = "staging-"  # folders whose names begin so are parts of a run; see `run_folder`
AGAIN = ("error", "oom")  # statuses of rows that a resumed run reads once more: what failed may have passed
MOMENT = 3  # seconds: the kernel of a command that was killed lives about so long


def run_folder(results: Path) -> Path:
    """Where the working state of a folder of results is kept: runs/work/<model>/ of data/<model>/."""
    results = results.resolve()
    if results.name.startswith(STAGING) and results.parent.parent == WORK.resolve():
        return results.parent
    if results.parent == ROOT / "data":
        return WORK / results.name
    return WORK / f"{results.name}-{hashlib.sha256(str(results).encode()).hexdigest()[:8]}"


def states(run: Path) -> list[dict]:
    """What the commands of a run folder have written down of themselves."""
    return [json.loads(file.read_text(encoding="utf-8")) for file in run.glob(f"{STAGING}*/{STATE}")]


def results_of(folder: Path) -> str:
    """Where the results of a notebook that writes to this folder go in the end, as a user of this folder writes it."""
    state = folder / STATE
    return json.loads(state.read_text(encoding="utf-8"))["results"] if state.is_file() else shown(folder)


def header(plans: Sequence[Plan], card, fingerprint: str, dtype: str, attention: str) -> dict:
    """What the rows of some plans depend on, as a ledger's plan.json tells it.

    Args:
        card: the model (`ModelCard`); its weights are not needed, if these are known: `fingerprint`, `dtype` and
            `attention`, which are part of its rows' ids.
    """
    model = {"name": card.slug, "fingerprint": fingerprint, "dtype": dtype, "attention": attention}
    ids = [plan.ids(plan.items(card), SimpleNamespace(**model)) for plan in plans]
    head = {
        "model": model,
        "method_version": METHOD_VERSION,
        "versions": versions(),
        "plans": [plan.describe() | {"prompts": list(plan.prompts)} for plan in plans],
        "rows": [len(some) for some in ids],
        "ids": digest_of(id for some in ids for id in some),
    }
    return json.loads(json.dumps(head))


def versions() -> dict[str, str]:
    """Of the libraries that a text could hang on."""
    return {name: version(name) for name in ("torch", "transformers")}


def digest_of(ids: Iterable[str]) -> str:
    """Of the ids of all rows, in order."""
    return hashlib.sha256("".join(ids).encode()).hexdigest()[:20]


def differences(there: dict, here: dict) -> list[str]:
    """In what two headers differ, setting by setting, as sentences' parts; [] if their rows are the same."""
    if all(there[key] == here[key] for key in ("ids", "rows", "versions")):
        return []
    found = {}
    for old, new in zip(there["plans"], here["plans"], strict=False):
        for key in (key for key in new if old.get(key) != new[key]):
            found.setdefault(key, f"{key} ({_told(key, old.get(key), new[key])})")
    if len(there["plans"]) != len(here["plans"]):
        found["plans"] = f"plans ({len(there['plans'])} there, {len(here['plans'])} here)"
    for part in ("model", "versions"):
        for key in (key for key in here[part] if there[part].get(key) != here[part][key]):
            found[part + key] = f"{part} {key} ({there[part].get(key)} there, {here[part][key]} here)"
    if there["method_version"] != here["method_version"]:
        found["method"] = f"version of the method ({there['method_version']} there, {here['method_version']} here)"
    return list(found.values()) or ["the rows themselves"]


def _told(key: str, there: object, here: object) -> str:
    if key == "prompts":
        return f"{len(there)} there, {len(here)} here" if len(there) != len(here) else "others"
    texts = (json.dumps(value, ensure_ascii=False) for value in (there, here))
    return "{} there, {} here".format(*(text if len(text) <= 60 else f"{text[:57]}…" for text in texts))


def find(place: Path, head: dict, new: bool = False) -> Path:
    """The ledger of a header: the one that holds just its rows, or a new one beside those that hold others.

    Args:
        place: <run folder>/<name>; further ones beside it are <name>-2, <name>-3, …
        new: begin a new one in any case.

    Raises:
        InputError: an unfinished one holds other rows, which a new one would leave behind; names what differs.
    """
    beside = ledgers(place)
    if not new:
        for folder in beside:
            if not differences(header_of(folder), head):
                return folder
        for folder in beside:
            if not is_complete(folder) and (rows := rows_in(folder)):
                other = header_of(folder)
                why = f"holds {rows:,} of {sum(other['rows']):,} rows of other settings: "
                why += f"{'; '.join(differences(other, head))}. The same settings go on with it"
                why += ", --new (new = True) starts beside it, ./runme.sh clean --unfinished removes it"
                raise InputError("run", shown(folder), why)
    if empty := [folder for folder in beside if not rows_in(folder)]:
        return empty[0]
    return place.with_name(f"{place.name}-{_number(place, beside[0]) + 1}") if beside else place


def ledgers(place: Path) -> list[Path]:
    """A ledger and those beside it, the newest first."""
    folders = place.parent.iterdir() if place.parent.is_dir() else ()
    there = [folder for folder in folders if _number(place, folder) and (folder / "plan.json").is_file()]
    return sorted(there, key=lambda folder: _number(place, folder), reverse=True)


def _number(place: Path, folder: Path) -> int:
    """1 of the first ledger of its name, 2 of <name>-2; 0 of another name's."""
    match = re.fullmatch(rf"{re.escape(place.name)}(?:-(\d+))?", folder.name)
    return int(match[1] or 1) if match else 0


def header_of(folder: Path) -> dict:
    """The header that a ledger was begun with."""
    return json.loads((folder / "plan.json").read_text(encoding="utf-8"))


def is_complete(folder: Path) -> bool:
    """Whether all its rows are there; nothing else counts as success."""
    return (folder / "complete.json").is_file()


def rows_in(folder: Path) -> int:
    """How many rows a ledger holds."""
    file = folder / "rows.jsonl"
    return len({(batch["plan"], id) for batch in _batches(file) for id in batch["id"]})


def _batches(file: Path) -> Iterator[dict]:
    if not file.is_file():
        return
    with open(file, "rb") as lines:
        yield from filter(None, map(_parsed, lines))


def _readings(batch: dict) -> Iterator[tuple[str, tuple]]:
    """(id, (result, rho, status, message)) of a batch's rows."""
    failed = batch.get("failed", {})
    for id, result, rho in zip(batch["id"], batch["result"], batch["rho"], strict=True):
        yield id, (result, math.nan if rho is None else rho, *failed.get(id, ("ok", "")))


def _parsed(line: bytes) -> dict | None:
    """A line's batch; None if it was torn."""
    try:
        batch = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return batch if isinstance(batch, dict) else None


class Ledger:
    """The rows of some plans on some model, in a folder of their own.

        plan.json      what they depend on; written first
        rows.jsonl     a line per batch, appended and flushed to the disk
        complete.json  how they were made; written last, when all are there

    A context manager: within it, the folder is this process's alone.

    Attributes:
        readings: per plan, id -> (result, rho, status, message).
        made: of each batch, how: batch_size, parts, shares_prefix, fused, seconds, and plan.
        torn: how many unfinished lines were dropped when it was opened.

    Args:
        head: of `header`.
    """

    def __init__(self, folder: Path, head: dict):
        self.folder, self.head = folder, head
        self.rows = head["rows"]
        self.readings: list[dict[str, tuple]] = [{} for _ in self.rows]
        self.made: list[dict] = []
        self.torn = 0

    def __enter__(self) -> "Ledger":
        self._locked = locked(self.folder)
        self._locked.__enter__()
        try:
            self._open()
        except BaseException as error:
            self._locked.__exit__(type(error), error, None)
            raise
        return self

    def __exit__(self, *error) -> None:
        with suppress(OSError):  # of what a full disk didn't take
            self._file.close()
        self._locked.__exit__(*error)

    def _open(self) -> None:
        file = self.folder / "rows.jsonl"
        if not rows_in(self.folder):
            file.unlink(missing_ok=True)
            (self.folder / "complete.json").unlink(missing_ok=True)  # first, or it could outlive its rows
        if not file.is_file():
            with write_atomically(self.folder / "plan.json") as plan:
                json.dump(self.head, plan, ensure_ascii=False, indent=1)
            file.touch()
        elif differs := differences(header_of(self.folder), self.head):  # begun since it was chosen
            raise InputError("run", shown(self.folder), f"was begun with other settings: {'; '.join(differs)}")
        self._file = open(file, "r+b")  # noqa: SIM115, closed in __exit__
        self._end = 0
        for line in self._file:
            if batch := _parsed(line):
                self._take(batch)
                self._end = self._file.tell()
            else:
                self.torn += 1
        self._file.truncate(self._end)
        self._file.seek(self._end)
        if self.done < sum(self.rows):
            (self.folder / "complete.json").unlink(missing_ok=True)

    def _take(self, batch: dict) -> None:
        own = self.readings[batch["plan"]]
        own |= {id: reading for id, reading in _readings(batch) if id not in own or own[id][2] in AGAIN}
        self.made.append(batch["made"] | {"plan": batch["plan"]})

    @property
    def done(self) -> int:
        """How many rows are there."""
        return sum(len(some) for some in self.readings)

    def settled(self, plan: int) -> set[str]:
        """Ids of one plan's rows that need not be read again."""
        return {id for id, (_, _, status, _) in self.readings[plan].items() if status not in AGAIN}

    @property
    def is_settled(self) -> bool:
        """Whether no row need be read, or read again."""
        return all(len(self.settled(plan)) == rows for plan, rows in enumerate(self.rows))

    def batch_size(self, plan: int) -> int | None:
        """Rows at a time that a plan was begun with; None if it was not."""
        return next((made["batch_size"] for made in self.made if made["plan"] == plan), None)

    def append(self, plan: int, rows: pd.DataFrame, seconds: float) -> None:
        """Put a batch on the disk; when this returns, it is there.

        Raises:
            Terminated: the disk takes no more; what was there before is whole.
        """
        failed = rows[rows["status"] != "ok"]
        batch = {
            "plan": plan,
            "id": rows["id"].tolist(),
            "result": rows["result"].tolist(),
            "rho": [None if math.isnan(rho) else rho for rho in rows["rho"]],
            "made": {key: value for key, value in rows.attrs.items() if key != "waiting"}
            | {"seconds": round(seconds, 3)},
        }
        if len(failed):
            batch["failed"] = dict(
                zip(failed["id"], zip(failed["status"], failed["message"], strict=True), strict=True)
            )
        line = json.dumps(batch, ensure_ascii=False).encode() + b"\n"
        try:
            self._file.write(line)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            with suppress(OSError):
                os.truncate(self.folder / "rows.jsonl", self._end)
            raise Terminated(f"{no_room(error, self.folder)}; {self.told}") from error
        self._end += len(line)
        self._take(json.loads(line))

    def complete(self, about: dict) -> None:
        """Write down that all rows are there, and what made them."""
        assert self.done == sum(self.rows), self.told
        with write_atomically(self.folder / "complete.json") as file:
            json.dump(about, file, ensure_ascii=False, indent=1)

    @property
    def about(self) -> dict:
        """What was written down when it was complete."""
        return json.loads((self.folder / "complete.json").read_text(encoding="utf-8"))

    @property
    def told(self) -> str:
        """How much is there, in words."""
        return f"{self.done:,} of {sum(self.rows):,} rows are kept in {shown(self.folder)}"


def readings_of(fingerprint: str, dtype: str, attention: str, most: int) -> dict[str, tuple]:
    """What all ledgers have of one model, the newest first, `most` rows or a few more: id -> reading."""
    found: dict[str, tuple] = {}
    for file in sorted(WORK.glob("*/*/plan.json"), key=lambda file: file.stat().st_mtime, reverse=True):
        made_by = header_of(file.parent)["model"]
        same = (made_by["fingerprint"], made_by["dtype"], made_by["attention"]) == (fingerprint, dtype, attention)
        if not same or header_of(file.parent)["versions"] != versions():
            continue
        for batch in _batches(file.with_name("rows.jsonl")):
            found |= {id: reading for id, reading in _readings(batch) if reading[2] not in AGAIN and id not in found}
            if len(found) >= most:
                return found
    return found


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """A folder that no other process changes; the system lets it go when this one ends, however it ends.

    Raises:
        InputError: another process has it (named), or it can't be written.
    """
    lock, owner = FileLock(folder / "lock"), folder / "owner.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=MOMENT)
        with write_atomically(owner) as file:
            since = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
            json.dump({"host": socket.gethostname(), "process": os.getpid(), "since": since}, file)
    except Timeout:
        raise InputError("run", shown(folder), f"is in use by {_owner(owner)}; wait for it or stop it") from None
    except OSError as error:
        lock.release()
        if error.errno in NO_ROOM:
            raise Terminated(no_room(error, folder)) from error
        raise InputError("run", shown(folder), f"can't be written ({error.strerror})") from error
    try:
        yield
    finally:
        with suppress(OSError):
            owner.unlink()
        lock.release()


def in_use(folder: Path) -> str:
    """Which process has a folder; "" if none has."""
    if not (folder / "lock").is_file():
        return ""
    try:
        with FileLock(folder / "lock").acquire(timeout=0):
            return ""
    except Timeout:
        return _owner(folder / "owner.json")
    except OSError:  # a folder that can't be written, which no one uses
        return ""


def _owner(file: Path) -> str:
    try:
        owner = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "another process"
    return f"process {owner['process']} on {owner['host']} since {owner['since']}"


def no_room(error: OSError, path: Path = WORK) -> str:
    """Why something could not be written, with the room that is left."""
    path = Path(error.filename or path)
    disk = os.statvfs(next(one for one in (path, *path.parents) if one.exists()))
    return f"{shown(path)} can't be written: {error.strerror} ({disk.f_bavail * disk.f_frsize / 2**20:,.1f} MiB free)"


def shown(path: Path) -> str:
    """A path as a user of this folder writes it."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
