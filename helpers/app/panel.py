"""One request's results on the page: status, readings, map, and what can be kept."""

import re
from dataclasses import replace
from pathlib import Path

import gradio as gr

from .. import InputError
from ..results import save_results, slug, write_atomically
from . import view
from .chips import OneChip
from .desk import Desk, Job
from .settings import Settings

CLICKS = """
element.addEventListener('click', event => {
  const button = event.target.closest('[data-cell]');
  if (button) trigger('click', {cell: button.dataset.cell});
});
element.addEventListener('keydown', event => {
  const step = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key];
  const place = event.target.closest('td');
  if (!step || !place) return;
  let column = place.cellIndex + step[0], row = place.parentElement.rowIndex + step[1];
  const rows = place.closest('table').rows;
  for (; rows[row]?.cells[column]; column += step[0], row += step[1]) {
    const button = rows[row].cells[column].querySelector('button');
    if (button) { button.focus(); event.preventDefault(); return; }
  }
});
let focused = '';
element.addEventListener('focusin', event => { focused = event.target.dataset?.focus || ''; });
element.addEventListener('focusout', event => { if (event.relatedTarget) focused = ''; });
watch('value', () => {
  if (focused && document.activeElement === document.body)
    [...element.querySelectorAll('[data-focus]')].find(one => one.dataset.focus === focused)?.focus();
});
"""
GONE = '<p class="caption">These readings are no longer kept; Interpret reads them again.</p>'
QUIET = {"show_progress": "hidden", "api_visibility": "private"}
ADDRESS = "query => window.location.origin + window.location.pathname + query.replace(/&run=[^&]*$/, '')"
KEEP_ADDRESS = "query => { window.history.replaceState(null, '', window.location.pathname + query); }"
SHOW_LADDER = "() => setTimeout(() => document.querySelector('.ladder')?.scrollIntoView({block: 'nearest'}), 150)"


class Panel:
    """One request's results: status, readings, map, and what can be kept. Two of them stand side by side."""

    def __init__(self, desk: Desk, exports: Path, name: str):
        self.desk, self.exports, self.name = desk, exports, name
        self.job_id, self.cell = gr.State(""), gr.State("")
        self.pulse = gr.Textbox("", visible="hidden", show_label=False)  # changes when there is something new to draw
        self.heading = gr.HTML("", apply_default_css=False, elem_id=f"heading-{name}")
        self.status = gr.HTML("", apply_default_css=False, elem_id=f"status-{name}")
        with gr.Tabs(elem_id=f"tabs-{name}") as self.tabs:
            with gr.Tab("Readings", id="readings"):
                with gr.Row(elem_classes="choices"):
                    self.position = OneChip([], label="Token", elem_classes="chips", container=False, visible=False)
                    self.show = gr.Radio(
                        [("best amplified", "best"), ("all amplified", "all")], value="best", label="Show",
                        elem_classes="chips", container=False, elem_id=f"show-{name}",
                    )  # fmt: skip
                self.table = gr.HTML("", apply_default_css=False, js_on_load=CLICKS, elem_id=f"table-{name}")
                self.ladder = gr.HTML("", apply_default_css=False, elem_id=f"ladder-{name}")
            with gr.Tab("Map", id="map") as self.map_tab:
                self.map = gr.HTML("", apply_default_css=False, js_on_load=CLICKS, elem_id=f"map-{name}")
                self.rest = gr.Button(
                    "Compute the rest", visible=False, elem_id=f"rest-{name}", elem_classes="rest", size="md"
                )
            with gr.Tab("Keep", id="keep"):
                with gr.Row():
                    self.csv = gr.DownloadButton("CSV", interactive=False, elem_id=f"csv-{name}")
                    self.json = gr.DownloadButton("JSON: what made it", interactive=False, elem_id=f"json-{name}")
                    self.report = gr.DownloadButton("Report, HTML", interactive=False, elem_id=f"report-{name}")
                self.query = gr.Textbox("", visible="hidden", show_label=False)
                self.link = gr.Textbox(
                    label="Link that restores these settings",
                    interactive=False,
                    buttons=["copy"],
                    max_lines=3,
                    elem_id=f"link-{name}",
                )
                self.python = gr.Code(
                    label="The same in Python", language="python", interactive=False, elem_id=f"python-{name}"
                )
        self.new = [self.job_id, self.status, self.pulse, self.query, self.position, self.cell, self.ladder]
        self._connect()

    def _connect(self) -> None:
        looks = [self.job_id, self.position, self.show, self.cell]
        drawn = [self.heading, self.table, self.ladder]
        last = {"trigger_mode": "always_last"} | QUIET
        self.pulse.change(
            self.draw,
            looks,
            [*drawn, self.map, self.rest, self.csv, self.json, self.report, self.python, self.status],
            **last,
        )
        gr.on([self.position.input, self.show.input], self.draw_table, looks, drawn, **last)
        self.map_tab.select(self.draw_map, self.job_id, [self.map, self.rest], **QUIET)
        for clickable in (self.table, self.map):
            clickable.click(
                self.open_cell, [self.job_id, self.show],
                [self.cell, *drawn, self.position, self.tabs], **QUIET,
            ).then(None, js=SHOW_LADDER)  # fmt: skip
        self.query.change(None, self.query, self.link, js=ADDRESS)
        if self.name == "a":
            self.query.change(None, self.query, None, js=KEEP_ADDRESS)

    def draw(self, id: str, position: int | None, show: str, cell: str) -> dict:
        """The table so far; when a request is over, also the map and what can be kept."""
        drawn = self.draw_table(id, position, show, cell)
        job = self.desk.find(id)
        if job and job.is_over:
            drawn |= self.draw_map(id) | self._keep(job)
        return drawn

    def draw_table(self, id: str, position: int | None, show: str, cell: str) -> dict:
        """The table, and the ladder that is open."""
        job = self.desk.find(id)
        if not job:
            return {self.table: GONE if id else "", self.ladder: ""}
        positions = job.items["position"].unique().tolist()
        key = view.parse_cell(cell)
        return {
            self.heading: view.heading(job),
            self.table: view.table(job, position if position in positions else positions[-1], show == "all"),
            self.ladder: view.ladder(job, key) if key else "",
        }

    def draw_map(self, id: str) -> dict:
        """The map, and how much it lacks."""
        job = self.desk.find(id)
        if not job:
            return {self.map: GONE if id else ""}
        try:
            rest = self.rest_of(job)
            card = self.desk.card(rest.model)
            missing = len(rest.plan(card).items(card)) - len(job.readings)
            seconds = f", about {missing / speed:.0f} s" if (speed := self.desk.speeds.get(rest.model)) else ""
            words, possible = f"Compute the rest: {missing:,} readings{seconds}", True
        except InputError as error:
            words, missing, possible = f"The rest can't be computed here: {error}"[:200], 1, False
        button = gr.update(value=words, visible=missing > 0, interactive=possible and job.is_over)
        return {self.map: view.heat_map(job), self.rest: button}

    @staticmethod
    def rest_of(job: Job) -> Settings:
        """The same settings on all tokens and all layers."""
        return replace(job.settings, tokens=tuple(range(len(job.tokens))), layers="all")

    def open_cell(self, id: str, show: str, event: gr.EventData) -> dict:
        """The ladder of the cell or square that was clicked; from the map, also its token's table."""
        job, cell = self.desk.find(id), event._data.get("cell")
        key = view.parse_cell(cell)
        drawn = self.draw_table(id, key[2], show, cell) if job and key else {}
        if not drawn.get(self.ladder):
            return {self.cell: ""}
        return drawn | {self.cell: cell, self.position: key[2], self.tabs: gr.Tabs(selected="readings")}

    def _keep(self, job: Job) -> dict:
        """The files of a request that is over, and its Python lines."""
        python = job.settings.python(self.desk.card(job.settings.model), self.desk.dtype)
        paths, problem = (None,) * 3, {}
        try:
            if job.rows is not None:
                csv, report = self.write(job, python)
                paths = (str(csv), str(csv.with_suffix(".json")), str(report))
        except OSError as error:  # a full disk, say; what was read is still shown
            problem = {self.status: view.error(f"The files to keep can't be written: {error.strerror}.", job)}
        buttons = (self.csv, self.json, self.report)
        kept = {
            button: gr.update(value=path, interactive=bool(path)) for button, path in zip(buttons, paths, strict=True)
        }
        return kept | problem | {self.python: python}

    def write(self, job: Job, python: str) -> tuple[Path, Path]:
        """The CSV (with its JSON) and the report of a request that is over."""
        words = re.sub(r"[^a-z0-9]+", "-", job.settings.prompt.lower())[:40].strip("-") or "prompt"
        csv = self.exports / job.id / f"{slug(job.settings.model)}_{words}.csv"
        report = csv.with_suffix(".html")
        if not report.is_file():
            save_results(job.rows, csv)
            with write_atomically(report) as file:
                file.write(view.report(job, python))
        return csv, report
