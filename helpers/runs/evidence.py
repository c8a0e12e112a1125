"""The evidence of stored readings: gathered once a model, kept beside them, taken from there the next time."""

import json
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from .. import InputError
from ..judging.confidence import BELIEVED, Confidence
from ..judging.confidence import FILE as CONFIDENCE
from ..judging.criteria import best_of, criterion_values
from ..judging.evidence import EVIDENCE, Witness
from ..judging.more_evidence import MORE_EVIDENCE, MoreWitness
from ..models.load import LanguageModel
from ..words.files import in_repository, results_folder
from ..words.methods import CHOSEN_BLIND
from ..words.prompts import OUR_PROMPTS, read_prompts
from ..words.rows import Identity
from . import ledger
from .loop import stops
from .progress import Bar
from .readings import Readings
from .results import read_about, save_results
from .sweep import VERSIONS


class Kind(NamedTuple):
    """A kind of evidence, in a file of its own.

    Attributes:
        name: of its file, in a folder of results: a row's id, and `columns`.
        method: raised when a number could change.
        columns: what it is made of -> what that is.
        witness: (model, references, tokens of a reading) -> who tells it.
        at_a_time: rows whose evidence is gathered, and kept, together.
        grows: whether the file keeps what was gathered before of other readings.
    """

    name: str
    method: int
    columns: Mapping[str, str]
    witness: Callable[[LanguageModel, Sequence[str], int], Witness]
    at_a_time: int
    grows: bool = False

    @property
    def file(self) -> str:
        return f"{self.name}.csv.gz"


USUAL = Kind("evidence", 1, EVIDENCE, lambda lm, others, _: Witness(lm, others), 1000)
MORE = Kind(
    "more_evidence", 1, MORE_EVIDENCE, lambda lm, others, tokens: MoreWitness(lm, others, max_new_tokens=tokens), 48,
    grows=True,
)  # fmt: skip
FILE = USUAL.file
VERDICTS = SURE, NOTHING, UNCALIBRATED = "believed", "no reading to believe", "uncalibrated"


def evidence_for(
    readings: Readings,
    rows: pd.DataFrame,
    references: Sequence[str],
    bar: Callable | None = Bar,
    kind: Kind = USUAL,
) -> pd.DataFrame:
    """Return the evidence of some readings of a model; afterwards it is in the folder of results, in its kind's file.

    It is taken from there, or from `settings.reuse`, where it is; the model loads only if some is missing. What a run
    that was stopped has gathered is not gathered again.

    Args:
        readings: whose model and folder.
        rows: in the row schema, of this model, with ids; of the paper's target prompt.
        references: other prompts, whose vectors a reading's is compared with.

    Returns:
        Columns id and those of the kind, in the rows' order.

    Raises:
        InputError: too few references, or rows of another target prompt; the model's files changed meanwhile.
        Stopped, Terminated: as `loop.finish`.
    """
    wanted = rows["id"].tolist()
    head = _head(readings, references, kind)
    settings = readings.settings
    beside = [in_repository(file).parent for file in getattr(settings, "results", ())]
    folders = {readings.folder, *beside, *([in_repository(settings.reuse)] if settings.reuse else [])}
    work = ledger.run_folder(readings.folder) / f"{kind.name}.jsonl"
    found = {} if settings.new else _kept(work, head, kind)
    for folder in () if settings.new else folders:
        found |= _stored(folder / kind.file, head)
    missing = rows[~rows["id"].isin(found.keys())].sort_values("source prompt", kind="stable")
    if len(missing):
        found |= _gathered(readings, missing, references, work, head, bar, kind)
    kept = sorted(found) if kind.grows else dict.fromkeys(wanted)
    table = pd.DataFrame([(id, *found[id]) for id in kept], columns=["id", *kind.columns])
    table.attrs = head
    save_results(table, readings.folder / kind.file)
    work.unlink(missing_ok=True)
    return table.set_index("id").loc[wanted].reset_index()


def with_evidence(rows: pd.DataFrame, folder: Path, kind: Kind = USUAL) -> pd.DataFrame:
    """Return rows with the columns of a kind, from its file in a folder of results; NaN where it has none.

    Args:
        rows: in the row schema; without ids, as others publish them, they have no evidence.
    """
    kept = rows.drop(columns=list(kind.columns), errors="ignore")
    if "id" not in rows or not (folder / kind.file).is_file():
        return kept.assign(**dict.fromkeys(kind.columns, float("nan")))
    table = pd.read_csv(folder / kind.file, dtype={"id": "str"}).set_index("id")
    found = kept.join(table, on="id")
    found.attrs = rows.attrs
    return found


def believe(lm: LanguageModel, rows: pd.DataFrame, references: Sequence[str] = ()) -> pd.DataFrame:
    """Return one reading per vector, chosen without its prompt, a description or a score, and how sure one can be of it.

    The probability that it is right is known for models that `how_sure` was run on: what it fitted is in data/<model>/.
    For others, for components and target layers that it didn't fit, and for what was not written greedily, or put
    elsewhere than at a block's output, the reading with the best mean rank is chosen, "uncalibrated".

    Args:
        rows: of `sweep`, of this model and the paper's target prompt.
        references: other prompts, with whose vectors a reading's is compared; the paper's if left out.

    Returns:
        The chosen rows, with the columns of EVIDENCE, `confidence` (NaN without a fit), `mean_rank` (among the readings
        of the vector, 1 is the best) and `verdict`: one of VERDICTS.

    Raises:
        InputError: too few references, or rows of another target prompt or model.
    """
    made_by = rows.attrs.get("model", {}).get("fingerprint", lm.fingerprint)
    if made_by != lm.fingerprint:
        raise InputError("rows", rows.attrs["model"]["name"], f"readings of another model than {lm.name}")
    plans = rows.attrs.get("plans") or [rows.attrs.get("plan", {})]
    is_greedy = all(plan.get("decoding", "greedy") == "greedy" for plan in plans)  # a contrast is no column of the rows
    told = Witness(lm, references or read_prompts(OUR_PROMPTS)).of(rows)
    rows = rows.drop(columns=list(EVIDENCE), errors="ignore").assign(**told)
    weighed = weigh(rows, confidence_for(lm) if is_greedy else None)
    chosen = weighed.pop(CHOSEN_BLIND)
    return rows[chosen].assign(**weighed[chosen])


def confidence_for(lm: LanguageModel) -> Confidence | None:
    """Return what `how_sure` has fitted for a model; None if it wasn't run on this very one.

    Raises:
        InputError: as `Confidence.load`.
    """
    return confidence_of(lm.identity)


def confidence_of(identity: Identity) -> Confidence | None:
    """Return the same for a model that isn't loaded."""
    known = Confidence.load(results_folder(identity.name) / CONFIDENCE)
    return known if known and known.model["fingerprint"] == identity.fingerprint else None


def weigh(rows: pd.DataFrame, known: Confidence | None) -> pd.DataFrame:
    """Tell from the evidence of readings how likely each is right, and which one of each vector is chosen.

    Args:
        rows: in the row schema, with the columns of EVIDENCE.
        known: what was fitted for their model and target prompt; None if nothing was.

    Returns:
        With the rows' index: `confidence` (NaN without a fit), `mean_rank` (among the readings of the vector, 1 is the
        best), CHOSEN_BLIND, and `verdict`, one of VERDICTS for those that are chosen, "" for the others. The most
        likely one is chosen; without a fit for how it was read, the one with the best mean rank.
    """
    sure = known.of(rows) if known else pd.Series(np.nan, rows.index)
    has_evidence = rows[list(EVIDENCE)].notna().any(axis=None)
    ranks = criterion_values(rows, "mean_rank") if has_evidence else pd.Series(np.nan, rows.index)
    uncalibrated = ~known.knows(rows) if known else pd.Series(True, rows.index)
    chosen = rows.index.isin(best_of(rows, sure.mask(uncalibrated, ranks)))
    verdict = np.where(uncalibrated, UNCALIBRATED, np.where(sure >= BELIEVED, SURE, NOTHING))
    found = {"confidence": sure, "mean_rank": ranks.round(3), CHOSEN_BLIND: chosen, "verdict": np.where(chosen, verdict, "")}
    return pd.DataFrame(found, rows.index)


def _head(readings: Readings, references: Sequence[str], kind: Kind = USUAL) -> dict:
    """Return what evidence depends on, beside the readings themselves."""
    card = readings.card
    card.source.fetch_weights()
    return {
        kind.name: kind.method,
        "model": {"name": card.slug, "fingerprint": card.source.fingerprint(), "dtype": readings.settings.dtype},
        "references": {"prompts": len(references), "digest": ledger.digest_of(references)},
        "versions": {name: version(name) for name in VERSIONS},
    }


def _stored(file: Path, head: dict) -> dict[str, tuple[float, ...]]:
    """Return what a file of results has: id -> numbers; {} if it was made with anything else."""
    about = read_about(file)
    if not file.is_file() or any(about.get(key) != value for key, value in head.items()):
        return {}
    table = pd.read_csv(file, dtype={"id": "str"})
    return {id: tuple(numbers) for id, *numbers in table.itertuples(index=False, name=None)}


def _kept(work: Path, head: dict, kind: Kind) -> dict[str, tuple[float, ...]]:
    """Return what runs that were stopped have gathered."""
    found = {}
    for line in ledger.lines_of(work):
        if line["head"] == head:
            columns = ([float("nan") if one is None else one for one in line[name]] for name in kind.columns)
            found |= dict(zip(line["id"], zip(*columns, strict=True), strict=True))
    return found


def _gathered(
    readings: Readings,
    rows: pd.DataFrame,
    references: Sequence[str],
    work: Path,
    head: dict,
    bar: Callable | None,
    kind: Kind,
) -> dict[str, tuple[float, ...]]:
    """Gather the evidence of some rows, a part at a time, each kept in a line of a file."""
    lm = readings.lm
    if lm.fingerprint != head["model"]["fingerprint"]:
        raise InputError("model", lm.name, "its files changed while they were read")
    witness = kind.witness(lm, references, readings.settings.max_new_tokens)
    work.parent.mkdir(parents=True, exist_ok=True)
    drawn = bar(len(rows), kind.name.replace("_", " "), 0) if bar else None
    with stops() as stopped_by, open(work, "a", encoding="utf-8") as file:
        file.write("\n" if file.tell() else "")  # after a line that was torn
        for start in range(0, len(rows), kind.at_a_time):
            part = rows[start : start + kind.at_a_time]
            found = witness.of(part)
            columns = {name: [None if one != one else one for one in found[name].tolist()] for name in kind.columns}
            file.write(json.dumps({"head": head, "id": part["id"].tolist(), **columns}) + "\n")
            file.flush()
            if drawn is not None:
                drawn.update(len(part))
            if (by := stopped_by()) and start + kind.at_a_time < len(rows):
                raise by(f"the evidence of {start + len(part):,} of {len(rows):,} rows is kept")
    if drawn is not None:
        drawn.close()
    return _kept(work, head, kind)
