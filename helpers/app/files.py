"""The files to download of one request, and the lines that give the same in Python."""

import re
from pathlib import Path

import gradio as gr

from ..runs.results import save_results
from ..words.files import slug, write_atomically
from .desk import Desk
from .jobs import Job
from .report import report


class Files:
    """Buttons that download the files of a request, and its lines of Python.

    Args:
        exports: folder that downloads are written to.
        name: ends the buttons' ids.
    """

    def __init__(self, desk: Desk, exports: Path, name: str):
        self.desk, self.exports = desk, exports
        with gr.Row():
            self.csv = gr.DownloadButton("CSV", interactive=False, elem_id=f"csv-{name}")
            self.json = gr.DownloadButton("JSON: what made it", interactive=False, elem_id=f"json-{name}")
            self.report = gr.DownloadButton("Report, HTML", interactive=False, elem_id=f"report-{name}")
        self.python = gr.Code(
            label="The same in Python", language="python", interactive=False, elem_id=f"python-{name}"
        )

    @property
    def all(self) -> list:
        """Return what `offer` changes."""
        return [self.csv, self.json, self.report, self.python]

    def offer(self, job: Job) -> dict:
        """Write the files of a request that is over, and return what changes so that they can be downloaded.

        Raises:
            OSError: they can't be written.
        """
        python = job.settings.python(self.desk.card(job.settings.model), self.desk.dtype)
        paths = (None,) * 3
        if job.rows is not None:
            csv, page = self.write(job, python)
            paths = (str(csv), str(csv.with_suffix(".json")), str(page))
        buttons = zip((self.csv, self.json, self.report), paths, strict=True)
        return {button: gr.update(value=path, interactive=bool(path)) for button, path in buttons} | {self.python: python}

    def write(self, job: Job, python: str) -> tuple[Path, Path]:
        """Write the CSV (with its JSON) and the report of a request that is over, and return their paths."""
        words = re.sub(r"[^a-z0-9]+", "-", job.settings.prompt.lower())[:40].strip("-") or "prompt"
        csv = self.exports / job.id / f"{slug(job.settings.model)}_{words}.csv"
        page = csv.with_suffix(".html")
        if not page.is_file():
            save_results(job.rows, csv)
            with write_atomically(page) as file:
                file.write(report(job, python))
        return csv, page
