"""The ledger: what has been read of some plans, on disk batch by batch, so that nothing finished is lost."""

import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from .. import ROOT, InputError
from ..words.files import shown, write_atomically
from ..words.plans import METHOD_VERSION, Plan
from ..words.rows import MAY_LACK, READING_COLUMNS, TRIED_AGAIN, Identity, Item, Reading
from .locks import locked
from .stopping import Terminated, no_room

if TYPE_CHECKING:
    from ..engine.interpret import Batch

WORK = ROOT / "runs" / "work"
STATE = "state.json"  # of a command, beside what its notebooks wrote
COMPLETE, FAILED, UNFINISHED = "complete", "complete, with failed rows", "unfinished"  # what it says
STAGING = "staging-"  # a command's folder within a run folder begins so
LINE_COLUMNS = {  # what a line has a list of; a status and its message are only noted for rows that failed
    name: field for name, field in READING_COLUMNS.items() if field not in ("status", "message")
}


# The folders of runs


def run_folder(results: Path) -> Path:
    """Return where the working state of a folder of results is kept: runs/work/<model>/ of data/<model>/."""
    results = results.resolve()
    if is_staging(results):
        return results.parent
    if results.parent == ROOT / "data":
        return WORK / results.name
    return WORK / f"{results.name}-{hashlib.sha256(str(results).encode()).hexdigest()[:8]}"


def is_staging(folder: Path) -> bool:
    """Tell whether a folder is the one that a command writes to before it publishes."""
    folder = folder.resolve()
    return folder.name.startswith(STAGING) and folder.parent.parent == WORK.resolve()


def states(run: Path) -> list[dict]:
    """Return what the commands of a run folder have written down about themselves."""
    return [json.loads(file.read_text(encoding="utf-8")) for file in run.glob(f"{STAGING}*/{STATE}")]


def results_of(folder: Path) -> str:
    """Return where the results written to a folder will be published, as a user of the repository writes it."""
    state = folder / STATE
    return json.loads(state.read_text(encoding="utf-8"))["results"] if state.is_file() else shown(folder)


# What the rows of a ledger depend on


def header(plans: Sequence[Plan], items: Sequence[Sequence[Item]], identity: Identity) -> dict:
    """Return what the rows of some plans depend on, as a ledger's plan.json says it.

    Args:
        items: of each plan, with ids.
        identity: of the model.
    """
    head = {
        "model": identity._asdict(),
        "method_version": METHOD_VERSION,
        "versions": versions(),
        "plans": [plan.describe() | {"prompts": list(plan.prompts)} for plan in plans],
        "rows": [len(some) for some in items],
        "ids": digest_of(item.id for some in items for item in some),
    }
    return json.loads(json.dumps(head))


def versions() -> dict[str, str]:
    """Return the versions of the libraries that a text could depend on."""
    return {name: version(name) for name in ("torch", "transformers")}


def digest_of(ids: Iterable[str]) -> str:
    """Return a digest of the ids of all rows, in order."""
    return hashlib.sha256("".join(ids).encode()).hexdigest()[:20]


def differences(earlier: dict, now: dict) -> list[str]:
    """Return how two headers differ, setting by setting, in words; [] if their rows are the same."""
    if all(earlier[key] == now[key] for key in ("ids", "rows", "versions")):
        return []
    found = {}
    for old, new in zip(earlier["plans"], now["plans"], strict=False):
        for key in (key for key in new if old.get(key) != new[key]):
            found.setdefault(key, f"{key} ({_both(key, old.get(key), new[key])})")
    if len(earlier["plans"]) != len(now["plans"]):
        found["plans"] = f"plans ({len(earlier['plans'])} then, {len(now['plans'])} now)"
    for part in ("model", "versions"):
        for key in (key for key in now[part] if earlier[part].get(key) != now[part][key]):
            found[part + key] = f"{part} {key} ({earlier[part].get(key)} then, {now[part][key]} now)"
    if earlier["method_version"] != now["method_version"]:
        found["method"] = f"version of the method ({earlier['method_version']} then, {now['method_version']} now)"
    return list(found.values()) or ["the rows themselves"]


def _both(key: str, earlier: object, now: object) -> str:
    if key == "prompts":
        return f"{len(earlier)} then, {len(now)} now" if len(earlier) != len(now) else "others"
    texts = (json.dumps(value, ensure_ascii=False) for value in (earlier, now))
    return "{} then, {} now".format(*(text if len(text) <= 60 else f"{text[:57]}…" for text in texts))


# Ledgers on disk


def find(path: Path, head: dict, new: bool = False) -> Path:
    """Return the folder of a header's ledger: the one with exactly its rows, or a new one beside those with others.

    Args:
        path: <run folder>/<name>; the next ledgers of this name are <name>-2, <name>-3, …
        new: start a new one in any case.

    Raises:
        InputError: an unfinished one has other rows, which a new one would leave behind; says how they differ.
    """
    existing = ledgers(path)
    if not new:
        if same := find_same(path, head):
            return same
        for folder in existing:
            if not is_complete(folder) and (rows := rows_in(folder)):
                other = header_of(folder)
                why = f"holds {rows:,} of {sum(other['rows']):,} rows of other settings: "
                why += f"{'; '.join(differences(other, head))}. The same settings continue it"
                why += ", --new (new = True) starts beside it, ./runme.sh clean --unfinished removes it"
                raise InputError("run", shown(folder), why)
    if empty := [folder for folder in existing if not rows_in(folder)]:
        return empty[0]
    return path.with_name(f"{path.name}-{_number(path, existing[0]) + 1}") if existing else path


def find_same(path: Path, head: dict) -> Path | None:
    """Return the newest ledger with exactly a header's rows, if there is one; `path` is as in `find`."""
    return next((folder for folder in ledgers(path) if not differences(header_of(folder), head)), None)


def ledgers(path: Path) -> list[Path]:
    """Return the ledgers of a name, the newest first; `path` is as in `find`."""
    folders = path.parent.iterdir() if path.parent.is_dir() else ()
    found = [folder for folder in folders if _number(path, folder) and (folder / "plan.json").is_file()]
    return sorted(found, key=lambda folder: _number(path, folder), reverse=True)


def _number(path: Path, folder: Path) -> int:
    """Return 1 for the first ledger of a name, 2 for <name>-2; 0 for a ledger of another name."""
    match = re.fullmatch(rf"{re.escape(path.name)}(?:-(\d+))?", folder.name)
    return int(match[1] or 1) if match else 0


def header_of(folder: Path) -> dict:
    """Read the header that a ledger was started with."""
    return json.loads((folder / "plan.json").read_text(encoding="utf-8"))


def is_complete(folder: Path) -> bool:
    """Tell whether a ledger has all its rows; nothing else counts as success."""
    return (folder / "complete.json").is_file()


def rows_in(folder: Path) -> int:
    """Count the rows of a ledger."""
    return len({(line["plan"], id) for line in lines_of(folder / "rows.jsonl") for id in line["id"]})


def lines_of(file: Path) -> Iterator[dict]:
    """Read a file of a JSON object a line; a line that was torn is passed over."""
    if not file.is_file():
        return
    with open(file, "rb") as lines:
        yield from filter(None, map(_parse, lines))


def _parse(line: bytes) -> dict | None:
    """Parse a line; return None if it was torn."""
    try:
        batch = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return batch if isinstance(batch, dict) else None


def _line_of(plan: int, batch: "Batch", seconds: float) -> bytes:
    rows = list(zip(batch.items, batch.readings, strict=True))
    line = {"plan": plan, "id": [item.id for item, _ in rows]}
    for name, field in LINE_COLUMNS.items():
        values = [getattr(reading, field) for reading in batch.readings]
        if name in MAY_LACK and not any(values):
            continue
        line[name] = [None if isinstance(value, float) and math.isnan(value) else value for value in values]
    line["made"] = batch.made | {"seconds": round(seconds, 3)}
    if failed := {item.id: (reading.status, reading.message) for item, reading in rows if reading.status != "ok"}:
        line["failed"] = failed
    return json.dumps(line, ensure_ascii=False).encode() + b"\n"


def _readings(line: dict) -> Iterator[tuple[str, Reading]]:
    """Iterate over a line's rows as (id, reading); a column that an older line lacks has its default."""
    ids, failed = line["id"], line.get("failed", {})
    columns = {field: [default] * len(ids) for field, default in Reading._field_defaults.items()}
    for name, field in LINE_COLUMNS.items():
        if name in line:
            columns[field] = [math.nan if value is None else value for value in line[name]]
    if failed:
        columns["status"], columns["message"] = zip(*(failed.get(id, ("ok", "")) for id in ids), strict=True)
    readings = map(Reading, *(columns[field] for field in Reading._fields))
    return zip(ids, readings, strict=True)


class Ledger:
    """The rows of some plans on one model, in a folder:

        plan.json      what they depend on; written first
        rows.jsonl     a line per batch, appended and flushed to the disk
        complete.json  how they were made; written last, when all are there

    A context manager; within it, no other process can change the folder.

    Attributes:
        readings: of each plan, id -> Reading.
        made: of each batch, how: batch_size, parts, shares_prefix, fused, device, seconds, and plan.
        torn: how many unfinished lines were dropped when it was opened.

    Args:
        head: of `header`.
    """

    def __init__(self, folder: Path, head: dict):
        self.folder, self.head = folder, head
        self.rows = head["rows"]
        self.readings: list[dict[str, Reading]] = [{} for _ in self.rows]
        self.made: list[dict] = []
        self.torn = 0

    def __enter__(self) -> "Ledger":
        self._lock = locked(self.folder)
        self._lock.__enter__()
        try:
            self._open()
        except BaseException as error:
            self._lock.__exit__(type(error), error, None)
            raise
        return self

    def __exit__(self, *error) -> None:
        with suppress(OSError):  # what a full disk didn't take
            self._file.close()
        self._lock.__exit__(*error)

    def _open(self) -> None:
        file = self.folder / "rows.jsonl"
        if not any(lines_of(file)):
            file.unlink(missing_ok=True)
            (self.folder / "complete.json").unlink(missing_ok=True)  # first, or it could outlive its rows
        if not file.is_file():
            with write_atomically(self.folder / "plan.json") as plan:
                json.dump(self.head, plan, ensure_ascii=False, indent=1)
            file.touch()
        elif differs := differences(header_of(self.folder), self.head):
            why = f"another process started a ledger here after we picked the folder: {'; '.join(differs)}"
            raise InputError("run", shown(self.folder), why)
        self._file = open(file, "r+b")  # noqa: SIM115, closed in __exit__
        self._end = 0
        for line in self._file:
            if batch := _parse(line):
                self._take(batch)
                self._end = self._file.tell()
            else:
                self.torn += 1
        self._file.truncate(self._end)
        self._file.seek(self._end)
        if self.done < sum(self.rows):
            (self.folder / "complete.json").unlink(missing_ok=True)

    def _take(self, line: dict) -> None:
        known = self.readings[line["plan"]]
        known |= {id: new for id, new in _readings(line) if id not in known or known[id].status in TRIED_AGAIN}
        self.made.append(line["made"] | {"plan": line["plan"]})

    @property
    def done(self) -> int:
        """Count the rows that are there."""
        return sum(len(some) for some in self.readings)

    def settled(self, plan: int) -> set[str]:
        """Return the ids of a plan's rows that need not be read again."""
        return {id for id, reading in self.readings[plan].items() if reading.status not in TRIED_AGAIN}

    @property
    def is_settled(self) -> bool:
        """Tell whether no row needs to be read, or read again."""
        return all(len(self.settled(plan)) == rows for plan, rows in enumerate(self.rows))

    def batch_size(self, plan: int) -> int | None:
        """Return the rows at a time that a plan was started with; None if it wasn't started."""
        return next((made["batch_size"] for made in self.made if made["plan"] == plan), None)

    def append(self, plan: int, batch: "Batch", seconds: float) -> None:
        """Put a batch of a plan on the disk; when this returns, it is there.

        Raises:
            Terminated: the disk takes no more; what was there before is whole.
        """
        line = _line_of(plan, batch, seconds)
        try:
            self._file.write(line)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            with suppress(OSError):
                os.truncate(self.folder / "rows.jsonl", self._end)
            raise Terminated(f"{no_room(error, self.folder)}; {self.how_far}") from error
        self._end += len(line)
        self._take(json.loads(line))

    def complete(self, about: dict) -> None:
        """Write down that all rows are there, and what made them."""
        assert self.done == sum(self.rows), self.how_far
        with write_atomically(self.folder / "complete.json") as file:
            json.dump(about, file, ensure_ascii=False, indent=1)

    @property
    def about(self) -> dict:
        """Return what was written down when it was complete."""
        return json.loads((self.folder / "complete.json").read_text(encoding="utf-8"))

    @property
    def how_far(self) -> str:
        """Say how many rows are there."""
        return f"{self.done:,} of {sum(self.rows):,} rows are kept in {shown(self.folder)}"


def readings_of(identity: Identity, most: int) -> dict[str, Reading]:
    """Return what all ledgers have of a model, the newest first: id -> reading; `most` rows or a few more."""
    found: dict[str, Reading] = {}
    wanted = {name: value for name, value in identity._asdict().items() if name != "name"}
    for file in sorted(WORK.glob("*/*/plan.json"), key=lambda file: file.stat().st_mtime, reverse=True):
        head = header_of(file.parent)
        if not wanted.items() <= head["model"].items() or head["versions"] != versions():
            continue
        for line in lines_of(file.with_name("rows.jsonl")):
            for id, reading in _readings(line):
                if reading.status not in TRIED_AGAIN:
                    found.setdefault(id, reading)
            if len(found) >= most:
                return found
    return found
