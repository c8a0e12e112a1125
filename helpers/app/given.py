"""Read given vectors for a visitor: batch by batch, beside random directions, up to the table of what to believe."""

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait

import pandas as pd

from ..engine.interpret import run
from ..judging.judge import BATCH, Judge
from ..judging.score import score
from ..runs.results import FIRST_ITEM
from ..runs.session import Session
from ..runs.sweep import rows_of
from ..runs.vectors import believed
from ..words.rows import Reading
from .jobs import VectorJob, described

LOOK = 0.02  # seconds between two looks at whether the table is made


def serve(job: VectorJob, session: Session, judge: Judge, size: int, known: Mapping[str, Reading]) -> Iterator[None]:
    """Read what a request asks for; yield after each batch. What was read before a stop is kept, and so is the table of it.

    Args:
        size: rows of a batch.
        known: id -> reading, of earlier requests.
    """
    lm, made, failure = session.lm, {}, None
    of_plans = [plan.items(lm, lm.identity) for plan in job.request.plans]
    job.items = [item for items in of_plans for item in items]
    job.readings = {item.id: known[item.id] for item in job.items if item.id in known}
    job.known, job.started, job.state = len(job.readings), time.monotonic(), "reading"
    stop = job.stop.is_set
    try:
        for plan, items in zip(job.request.plans, of_plans, strict=True):
            if stop():
                break
            shared, done = session.shared_by(plan), job.readings.keys()
            for batch in run(lm, plan, size, done=done, items=items, stop=stop, **shared):
                made = made or batch.made
                new = {item.id: reading for item, reading in zip(batch.items, batch.readings, strict=True)}
                job.readings = new | job.readings  # a new dictionary, since pages read the old one at the same time
                job.note_batch(len(batch.items))
                yield
                if stop():
                    break
    except Exception as error:  # what was read before it is kept
        failure = error
    tables = []
    for plan, items in zip(job.request.plans, of_plans, strict=True):
        found = [item for item in items if item.id in job.readings]
        tables.append(rows_of(found, [job.readings[item.id] for item in found], plan.target_prompt))
    rows = score(pd.concat(tables, ignore_index=True), judge)  # no scores: there is no prompt
    rows.attrs = described(job, lm, judge, job.request.plans, made, rows)
    if len(rows):
        job.rows = rows
    if len(tables[0]):
        job.state = "weighing"
        with ThreadPoolExecutor(1) as beside:  # sentences of thousands of readings: others take their turns meanwhile
            table = beside.submit(_believed, rows, judge.apart())
            while not table.done():
                wait([table], LOOK)
                yield
        job.table = table.result()
    if failure:
        raise failure
    job.state = "done" if rows.attrs["whole"] else "stopped"


def _believed(rows: pd.DataFrame, judge: Judge) -> pd.DataFrame:
    """Make the table; texts are embedded a few at a time, since other requests need the judge, too."""
    texts = sorted({*rows[FIRST_ITEM]})
    for start in range(0, len(texts), BATCH):
        judge.embedded(texts[start : start + BATCH])
    return believed(rows, judge)
