"""Ask the application's desk in the tests, and wait for its answer."""

import time

import pandas as pd

from helpers.app import view
from helpers.app.desk import Desk
from helpers.app.jobs import Job, Request
from helpers.app.settings import PageSettings
from helpers.words.rows import WEIGHED_COLUMNS

PROMPT = "Diana, Princess of Wales"


def usual_settings(folder) -> PageSettings:
    """Return settings that a model of three blocks can carry out."""
    return PageSettings.of({"prompt": PROMPT, "model": str(folder), "layers": "0-2", "amplifiers": "1, 3, 9"})


def served(desk: Desk, settings: PageSettings) -> Job:
    """Submit a request, and return it when it is over."""
    return over(desk, desk.submit(settings))


def as_read(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a request's rows without what weighing has added: those of a sweep."""
    return rows.drop(columns=list(WEIGHED_COLUMNS))


def over(desk: Desk, job: Request) -> Request:
    """Return a request when it is over."""
    deadline = time.monotonic() + 120
    while not job.is_over:
        assert time.monotonic() < deadline, f"{job.state}: {view.status(desk, None)}"
        time.sleep(0.005)
    return job
