"""An experiment's rows: taken where they are finished, read where they are not, and kept in a folder of results."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import pandas as pd

from .. import InputError
from ..judging.judge import Judge
from ..judging.score import score
from ..models.load import LanguageModel, ModelCard
from ..words.files import check_writable, in_repository, results_folder
from ..words.plans import Plan
from ..words.rows import ROW_COLUMNS, TRIED_AGAIN, Identity, Item
from ..words.settings import ReadSettings
from . import ledger, loop
from .ledger import Ledger
from .locks import in_use, in_use_error
from .progress import Bar
from .results import FIRST_ITEM, Table, read_about, read_table, save_results
from .session import Session
from .sweep import VERSIONS, assemble, describe_judge, rows_of

COLUMNS = [*ROW_COLUMNS, FIRST_ITEM]


class _Request:
    """The plans of one file, and their items, expanded and hashed once.

    Attributes:
        name: of the file.
        plans: in the order of its rows.
        gold: source prompt -> its true description.

    Raises:
        InputError: a plan that doesn't fit the model.
    """

    def __init__(self, name: str, plans: Sequence[Plan], gold: Mapping[str, str] | None, card: ModelCard):
        self.name, self.plans, self.gold, self._card = name, plans, gold, card
        self._items, self._identity = [plan.items(card) for plan in plans], None

    def items(self, identity: Identity) -> list[list[Item]]:
        """Return the items of each plan, with the ids that they have on a model."""
        if self._identity != identity:
            pairs = zip(self.plans, self._items, strict=True)
            self._items = [plan.with_ids(items, self._card, identity) for plan, items in pairs]
            self._identity = identity
        return self._items

    def header(self, identity: Identity) -> dict:
        """Return what a ledger of these rows depends on."""
        return ledger.header(self.plans, self.items(identity), identity)


class Readings:
    """The readings of one model, in its folder of results.

    Args:
        settings: of an experiment; which model, where results go, who reads.
        session: the model and the judge, if other experiments share them; a new one is made if left out.
        bar: how progress is drawn; None draws nothing.

    Raises:
        ValueError: the session has another model or judge.
    """

    def __init__(self, settings: ReadSettings, session: Session | None = None, bar: Callable | None = Bar):
        self.settings, self.session, self.bar = settings, session or Session(settings), bar
        self.folder = results_folder(settings.model, settings.out_dir, **settings.source_options.changed)
        for name in ("model", "source_options", "dtype", "device", "judge"):
            wanted, has = getattr(settings, name), getattr(self.session.settings, name, "")
            if wanted != has and not (name == "judge" and self.session.has_judge):
                raise ValueError(f"the session has another {name}: {has!r}, not {wanted!r}")

    @property
    def card(self) -> ModelCard:
        return self.session.card

    @property
    def lm(self) -> LanguageModel:
        return self.session.lm

    @property
    def judge(self) -> Judge:
        return self.session.judge

    def read(self, experiment) -> pd.DataFrame:
        """Return the rows that an experiment asks for with these settings; see `of`.

        An experiment that asks for nothing reads files that are there.
        """
        if not (plans := experiment.plans(self.settings)):
            return experiment.read(self.settings)
        return self.of(experiment.TABLE, plans, experiment.gold(self.settings))

    def of(self, name: str, plans: Sequence[Plan], gold: Mapping[str, str] | None = None) -> pd.DataFrame:
        """Return the rows of some plans, in order, scored; they are in `folder`/`name` afterwards.

        They are taken from that file if it is as it would be written now. If not, they are taken from the file of this
        name in `settings.reuse` if that has exactly these rows; their ids tell. If not, they are read, batch by batch,
        into a ledger in runs/work/. A run that was stopped or killed continues there, and one that has nothing left to
        read doesn't load the model.

        Args:
            name: <experiment>.csv, or .csv.gz.
            gold: source prompt -> its true description, for the column `score gold`.

        Raises:
            InputError: the ledger is in use by another process, or has unfinished rows of other settings.
            Stopped: see `loop.finish`.
        """
        _ = self.judge  # a folder that is none is refused before anything is read
        request = _Request(name, plans, gold, self.card)
        rows = self._finished(request)
        if rows is None:
            for folder in (self.folder, ledger.run_folder(self.folder)):  # before the weights load
                check_writable(folder)
            rows = self._reused(request) if self.settings.reuse else None
            rows = self._read(request) if rows is None else rows
            save_results(rows, self.folder / name)
        return rows

    # Files

    def _finished(self, request: _Request) -> pd.DataFrame | None:
        """Take the rows of the file in the folder of results if there is nothing to read, score or write."""
        table = None if self.settings.new else self._stored(self.folder / request.name, request)
        if table is None or table.about.get("csv") != table.digest or not self._is_scored(table, request):
            return None
        failed = set(table.about["status"]) & set(TRIED_AGAIN)
        if failed and not ledger.is_staging(self.folder):  # a command has tried them a moment ago
            return None
        identity = self.session.expected_identity(table.about["model"]["attention"])
        begun = ledger.find_same(self._ledger(request), request.header(identity))
        if begun and not ledger.is_complete(begun) and ledger.rows_in(begun):
            return None  # begun anew, and stopped
        table.rows.attrs = table.attrs
        return table.rows

    def _reused(self, request: _Request) -> pd.DataFrame | None:
        """Take the rows of a file of earlier results if it has exactly those that the plans ask for."""
        table = self._stored(in_repository(self.settings.reuse) / request.name, request)
        if table is None or set(table.about["status"]) != {"ok"}:
            return None
        scored = self._is_scored(table, request)
        rows = table.rows if scored else score(table.rows, self.judge, request.gold)
        rows.attrs = table.attrs | {"judge": self._judged_by(request, rows), "settings": self.settings.shown()}
        return rows

    def _stored(self, file: Path, request: _Request) -> Table | None:
        """Read a file if it has exactly the rows that the plans ask for."""
        if not (file.is_file() and _holds_readings(file)):
            return None
        model = read_about(file)["model"]
        identity = self.session.expected_identity(model["attention"])
        if (model["dtype"], model["fingerprint"]) != (identity.dtype, identity.fingerprint):
            return None
        table = None
        with suppress(InputError):  # a file that is broken is made again
            table = read_table(file)
        if table is None or "id" not in table.rows:
            return None
        table = table._replace(rows=table.rows.reindex(columns=COLUMNS))
        ids = [item.id for items in request.items(identity) for item in items]
        return table if table.rows["id"].tolist() == ids else None

    def _is_scored(self, table: Table, request: _Request) -> bool:
        """Tell whether a file has the scores that would be computed now: judge, descriptions, separators, libraries."""
        about = table.about
        plans = about.get("plans") or [about["plan"]]
        stops = [plan.target_prompt.stop for plan in request.plans]
        return (
            about["judge"] == self._judged_by(request, table.rows)
            and [plan["target_prompt"]["stop"] for plan in plans] == stops
            and all(about["versions"].get(name) == version(name) for name in VERSIONS)
        )

    def _judged_by(self, request: _Request, rows: pd.DataFrame) -> dict:
        return describe_judge(self.judge, request.gold, rows["source prompt"])

    # Ledgers

    def _ledger(self, request: _Request) -> Path:
        """Return the path that names the ledgers of a file; see `ledger.find`."""
        return ledger.run_folder(self.folder) / request.name.partition(".")[0]

    def _read(self, request: _Request) -> pd.DataFrame:
        """Take the rows of a ledger, after what it lacks was read."""
        rows = self._complete(request)
        if rows is not None:
            return rows
        with self.session.source(self.settings.workers) as source:
            head = self._head(request, source.identity)
            with Ledger(ledger.find(self._ledger(request), head, self.settings.new), head) as kept:
                items = request.items(source.identity)
                loop.finish(source, request.plans, items, kept, self.settings.batch_size or None, self.bar)
                kept.complete(source.describe(*request.plans))
                return self._assembled(request, items, kept)

    def _complete(self, request: _Request) -> pd.DataFrame | None:
        """Take the rows of a ledger that has them all, before the weights load.

        Raises:
            InputError: there is one that can't be continued.
        """
        path = self._ledger(request)
        existing = [] if self.settings.new else ledger.ledgers(path)
        if not existing:
            return None
        identity = self.session.expected_identity(ledger.header_of(existing[0])["model"]["attention"])
        head = self._head(request, identity)
        folder = ledger.find(path, head)
        if user := in_use(folder):
            raise in_use_error(folder, user)
        if not ledger.is_complete(folder):
            return None
        with Ledger(folder, head) as kept:
            return self._assembled(request, request.items(identity), kept) if kept.is_settled else None

    def _head(self, request: _Request, identity: Identity) -> dict:
        return request.header(identity) | {"results": ledger.results_of(self.folder)}

    def _assembled(self, request: _Request, items: Sequence[Sequence[Item]], kept: Ledger) -> pd.DataFrame:
        """Return a complete ledger's rows in the order of the plans, scored."""
        tables = [
            rows_of(some, [readings[item.id] for item in some], plan.target_prompt)
            for plan, some, readings in zip(request.plans, items, kept.readings, strict=True)
        ]
        seconds = sum(made["seconds"] for made in kept.made)
        return assemble(
            pd.concat(tables, ignore_index=True), kept.about, kept.made, seconds, bool(self.settings.batch_size),
            self.judge, request.gold, self.settings,
        )  # fmt: skip


def score_folder(
    folder: Path,
    judge: Judge,
    out: Path,
    gold_of: Callable[[str, Mapping], Mapping[str, str]] = lambda name, settings: {},
) -> Iterator[Path]:
    """Score all stored readings of a folder with a judge; nothing is read from a language model.

    Args:
        out: where the scored tables go; may be the same folder.
        gold_of: (name of a file, the settings in its JSON) -> source prompt -> its true description.

    Yields:
        Each file, after it was written.

    Raises:
        InputError: the folder holds no readings.
    """
    files = [file for file in sorted((*folder.glob("*.csv"), *folder.glob("*.csv.gz"))) if _holds_readings(file)]
    if not files:
        raise InputError("folder", str(folder), "holds no readings: CSVs with the JSON of what made them")
    check_writable(out, "out")
    for file in files:
        table = read_table(file)
        gold = gold_of(file.name, table.about.get("settings", {}))
        rows = score(table.rows.reindex(columns=COLUMNS), judge, gold)
        rows.attrs = table.attrs | {"judge": describe_judge(judge, gold, rows["source prompt"])}
        save_results(rows, out / file.name)
        yield out / file.name


def _holds_readings(file: Path) -> bool:
    about = read_about(file)
    return "model" in about and ("plan" in about or "plans" in about)
