"""The page's first view, the paper's example, as it was read earlier: it stands there before the model is loaded.

`./runme.sh app --keep` reads it anew, with any model.
"""

import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from .. import ROOT
from ..models.load import ModelCard
from ..runs.evidence import confidence_of
from ..runs.results import read_table, save_results
from ..words.files import shown
from ..words.rows import READING_COLUMNS, ROW_COLUMNS, WEIGHED_COLUMNS, Identity, Reading
from .cells import with_worth
from .jobs import Job
from .scores import Scored
from .settings import PageSettings
from .weighing import weighed_by

FOLDER = ROOT / "data" / "app"
FEW_LAYERS = 7  # a model with no more of them is read at all layers
EVIDENCE, CHANCE = "evidence", "chance"  # columns of the file, behind the rows': numbers in one text
DECIMALS = 4


def first_view(card: ModelCard, **given) -> PageSettings:
    """Return what the page reads of a model if nothing else is asked for, or with some settings given."""
    settings = PageSettings.of({"model": card.name} | given)
    return settings if "layers" in given or card.num_layers > FEW_LAYERS else settings.replace(layers="all")


def file_of(card: ModelCard) -> Path:
    """Return where a model's first view is kept."""
    return FOLDER / f"{card.slug}.csv.gz"


def kept(card: ModelCard, dtype: str) -> Job | None:
    """Return a model's first view as a request that is done; None if it isn't kept, or was made with anything else.

    Raises:
        InputError: a file that can't be read.
    """
    file = file_of(card)
    if not file.is_file():
        return None
    table = read_table(file)
    rows, made_with = table.rows, table.about["model"]
    identity = Identity(*(made_with[name] for name in ("name", "fingerprint", "dtype", "attention")))
    settings = first_view(card)
    plan = settings.plan(card)
    items = plan.items(card, identity)
    if identity.dtype != dtype or [item.id for item in items] != rows["id"].tolist():
        return None
    if card.source.fingerprint() != identity.fingerprint:
        return None
    fields = rows[list(READING_COLUMNS)].rename(columns=READING_COLUMNS).to_dict("records")
    scored = zip(fields, rows["score"].tolist(), map(_unpacked, rows[CHANCE]), strict=True)
    readings = [Scored(Reading(**one), score, np.array(chance, np.float32)) for one, score, chance in scored]
    job = Job(settings, plan, items, card.decoded_tokens(settings.prompt), card.num_layers, state="done", is_kept=True)
    job.readings = dict(zip(rows["id"], readings, strict=True))
    job.evidence = dict(zip(rows["id"], map(_unpacked, rows[EVIDENCE]), strict=True))
    job.calibration = confidence_of(identity)
    rows = rows.drop(columns=[EVIDENCE, CHANCE, *WEIGHED_COLUMNS])
    job.weighed = weighed_by(job.calibration, rows, job.evidence)
    job.rows = with_worth(rows, job)
    job.rows.attrs = table.attrs
    return job


def keep(job: Job, card: ModelCard) -> Path:
    """Keep a request that was read and weighed as its model's first view; return the file."""
    rows = job.rows[[*ROW_COLUMNS, *WEIGHED_COLUMNS]].assign(
        **{
            EVIDENCE: [_packed(job.evidence[id]) for id in job.rows["id"]],
            CHANCE: [_packed(job.readings[id].chance) for id in job.rows["id"]],
        }
    )
    rows.attrs = job.rows.attrs
    save_results(rows, file := file_of(card))
    return file


def read_first_view(model: str, dtype: str, device: str) -> Path:
    """Read a model's first view anew, whatever is kept, and keep it; the command `app --keep`.

    Raises:
        InputError: as `Desk.check`; or it could not be read.
    """
    from .desk import Desk

    desk = Desk(model, dtype, device, shows_kept=False)
    desk.check()
    desk.open()
    try:
        job = desk.submit(first_view(card := desk.card(model)))
        while not job.is_over:
            time.sleep(0.1)
        if job.state != "done" or job.unweighed:
            raise RuntimeError(job.message or job.unweighed)
        return keep(job, card)
    finally:
        desk.close()


def command(model: str, dtype: str, device: str) -> int:
    """Do what `app --keep` does, and say where the readings are."""
    print(f"Kept in {shown(read_first_view(model, dtype, device))}: the page opens with it.")
    return 0


def _packed(numbers: Iterable[float]) -> str:
    return " ".join(f"{number:.{DECIMALS}f}" for number in numbers)


def _unpacked(text: str) -> tuple[float, ...]:
    return tuple(map(float, text.split()))
