"""A model's readings: made now and kept, or taken from earlier results where they would come out the same."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from types import SimpleNamespace

import pandas as pd

from . import ROOT, InputError, ledger, runs
from .ledger import Ledger, header
from .models import LanguageModel, ModelCard, load_model, read_model
from .plans import Plan
from .results import check_writable, describe, json_of, read_results, results_folder, save_results
from .scoring import judge_fingerprint, score
from .superscopes import assemble, with_readings


@dataclass(frozen=True)
class Readings:
    """One model and its folder of results; the model's weights are loaded when a reading is missing.

    Attributes:
        model, dtype, device, source_options: of `models.load_model`.
        out_dir: where results go; empty is data/<model>/.
        reuse: a folder of earlier results to take readings from; empty makes all.
        batch_size: rows at a time; None finds a good number.
        bar: `progress.Bar`, or None.
        new: begin anew, beside what earlier runs have left.
        workers: who reads: 0 is this process; a number, so many processes of this machine; or a Dask scheduler's
            address (helpers/cluster.py).
    """

    model: str
    dtype: str = "float32"
    device: str = "auto"
    out_dir: str | Path = ""
    reuse: str | Path = ""
    batch_size: int | None = None
    bar: Callable | None = None
    source_options: Mapping[str, object] = field(default_factory=dict)
    new: bool = False
    workers: int | str = 0

    @cached_property
    def folder(self) -> Path:
        return results_folder(self.model, self.out_dir, **self.source_options)

    @cached_property
    def card(self) -> ModelCard:
        return read_model(self.model, **self.source_options)

    @cached_property
    def lm(self) -> LanguageModel:
        return load_model(self.model, self.dtype, self.device, **self.source_options)

    def of(self, name: str, plans: Sequence[Plan], gold: Mapping[str, str] | None = None) -> pd.DataFrame:
        """The rows of some plans, in order, scored; they are in `folder`/`name` afterwards.

        A file in `reuse` is taken if its ids are those of the plans on this model and dtype: whatever could change a
        text is in an id, apart from the libraries' versions, which its JSON keeps. Scores are computed anew.
        Otherwise they are read batch by batch into a ledger in runs/work/; a run that was stopped or killed goes on
        from there, and one that has nothing left to read doesn't load the model.

        Args:
            name: of the file: <experiment>.csv, or .csv.gz.

        Raises:
            InputError: the ledger is another process's, or has unfinished rows of other settings.
            Stopped: see `runs.finish`.
        """
        file = self.folder / name
        runs.check_workers(self.workers)  # and the folders, before the weights load
        for folder in (self.folder, ledger.run_folder(self.folder)):
            check_writable(folder)
        rows = self._the_same(ROOT / Path(self.reuse).expanduser() / name, plans, gold) if self.reuse else None
        if rows is None:
            rows = self._kept(name.partition(".")[0], plans, gold)
        save_results(rows, file)
        return rows

    def _kept(self, name: str, plans: Sequence[Plan], gold: Mapping[str, str] | None) -> pd.DataFrame:
        """The rows of a ledger, after what it lacks was read."""
        place = ledger.run_folder(self.folder) / name
        finished = self._look(place, plans)
        if finished:
            with Ledger(*finished) as kept:
                return self._assembled(plans, kept, gold)
        with self._reader() as (batches, about, made_by):
            head = self._head(plans, made_by)
            with Ledger(ledger.find(place, head, self.new), head) as kept:
                runs.finish(batches, plans, kept, self.batch_size, self.bar)
                kept.complete(about(*plans))
                return self._assembled(plans, kept, gold)

    def _head(self, plans: Sequence[Plan], made_by: tuple[str, str, str]) -> dict:
        return header(plans, self.card, *made_by) | {"results": ledger.results_of(self.folder)}

    def _look(self, place: Path, plans: Sequence[Plan]) -> tuple[Path, dict] | None:
        """Before the weights load: the ledger (and its header) that has all rows of these plans, where there is one.

        Raises:
            InputError: what is there can't be gone on with.
        """
        there = [] if self.new else ledger.ledgers(place)
        if not there:
            return None
        self.card.source.fetch_weights()
        attention = ledger.header_of(there[0])["model"]["attention"]  # known for sure once they are loaded
        head = self._head(plans, (self.card.source.fingerprint(), self.dtype, attention))
        folder = ledger.find(place, head)
        if user := ledger.in_use(folder):
            raise InputError("run", ledger.shown(folder), f"is in use by {user}; wait for it or stop it")
        if not ledger.is_complete(folder):
            return None
        with Ledger(folder, head) as kept:
            return (folder, head) if kept.is_settled else None

    def _assembled(self, plans: Sequence[Plan], kept: Ledger, gold: Mapping[str, str] | None) -> pd.DataFrame:
        """A complete ledger's rows in plan order, scored."""
        model = kept.head["model"]
        made_by = SimpleNamespace(**model)
        parts = []
        for plan, readings in zip(plans, kept.readings, strict=True):
            items = plan.items(self.card)
            items["id"] = plan.ids(items, made_by)
            parts.append(with_readings(items, [readings[id] for id in items["id"]]))
        seconds = sum(made["seconds"] for made in kept.made)
        about = kept.about | {"judge": kept.about["judge"] | {"fingerprint": judge_fingerprint()}}
        rows = pd.concat(parts, ignore_index=True)
        return assemble(rows, plans, about, kept.made, seconds, self.batch_size is not None, gold)

    @contextmanager
    def _reader(self) -> Iterator[tuple[Callable, Callable, tuple[str, str, str]]]:
        """Who reads: what gives batches, what describes them, and what an id takes of the model."""
        if not self.workers:
            lm = self.lm
            yield runs.here(lm), partial(describe, lm), (lm.fingerprint, lm.dtype, lm.attention)
            return
        try:
            from .cluster import Workers
        except ImportError:
            raise InputError("workers", self.workers, "needs Dask: pip install -r requirements-cluster.txt") from None
        with Workers(self) as workers:
            yield workers.batches, workers.describe, workers.made_by

    def _the_same(self, file: Path, plans: Sequence[Plan], gold: Mapping[str, str] | None) -> pd.DataFrame | None:
        """The rows of a file, scored again, if they are those that the plans would give."""
        if not (file.is_file() and json_of(file).is_file()):
            return None
        about = json.loads(json_of(file).read_text(encoding="utf-8"))
        if about["model"]["dtype"] != self.dtype or set(about["status"]) != {"ok"}:
            return None
        self.card.source.fetch_weights()
        made_by = SimpleNamespace(
            fingerprint=self.card.source.fingerprint(), dtype=self.dtype, attention=about["model"]["attention"]
        )
        rows = read_results(file)
        if rows["id"].tolist() != [one for plan in plans for one in plan.ids(plan.items(self.card), made_by)]:
            return None
        rows = score(rows.assign(seed=rows["seed"].astype("Int64")), plans[0].target_prompt, gold)
        rows.attrs = {key: value for key, value in about.items() if key not in ("rows", "status")}
        rows.attrs["judge"]["fingerprint"] = judge_fingerprint()
        return rows
