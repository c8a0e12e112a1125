"""The results of one request on the page: status, readings, map, and the files to download."""

import re
from pathlib import Path

import gradio as gr

from .. import InputError
from ..runs.results import save_results
from ..words.files import slug, write_atomically
from ..words.methods import BLIND, CHOICES
from . import view
from .cells import Cell, blind_of, cells_of, similar_of
from .chips import OneChip
from .desk import Desk
from .jobs import Job, Question
from .report import report
from .settings import PageSettings

CLICKS = """
element.addEventListener('click', event => {
  const button = event.target.closest('[data-cell]');
  if (button) trigger('click', {cell: button.dataset.cell});
});
element.addEventListener('keydown', event => {
  const step = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key];
  const start = event.target.closest('td');
  if (!step || !start) return;
  let column = start.cellIndex + step[0], row = start.parentElement.rowIndex + step[1];
  const rows = start.closest('table').rows;
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
    [...element.querySelectorAll('[data-focus]')].find(button => button.dataset.focus === focused)?.focus();
});
"""
GONE = '<p class="caption">These readings are no longer kept; Interpret reads them again.</p>'
QUIET = {"show_progress": "hidden", "api_visibility": "private"}
CHOICE = f"(choice === '{BLIND.adjective}' ? '' : '&choice=' + choice)"  # of a link; the usual one is left out
ADDRESS = (
    "(query, choice) => query && window.location.origin + window.location.pathname + "
    f"query.replace(/&run=[^&]*$/, '') + {CHOICE}"
)
KEEP_ADDRESS = (
    "(query, choice) => { if (query) window.history.replaceState(null, '', window.location.pathname + "
    f"query.replace(/(?=&run=[^&]*$)/, {CHOICE})); }}"
)
SHOW_LADDER = "() => setTimeout(() => document.querySelector('.ladder')?.scrollIntoView({block: 'nearest'}), 150)"


class Panel:
    """The results of one request. Two panels can stand side by side.

    Attributes:
        job_id: of the request that it shows.
        cell: the cell whose ladder is open; "" if none.
        asked: id of the question about that cell; "" if none.
        pulse: changes when there is something new to draw.
        query: of the link to the request.
        new: what changes when another request is shown.
    """

    def __init__(self, desk: Desk, exports: Path, name: str):
        self.desk, self.exports, self.name = desk, exports, name
        self.job_id, self.cell, self.asked = gr.State(""), gr.State(""), gr.State("")
        self.pulse = gr.Textbox("", visible="hidden", show_label=False)
        self.heading = gr.HTML("", apply_default_css=False, elem_id=f"heading-{name}")
        self.status = gr.HTML("", apply_default_css=False, elem_id=f"status-{name}")
        with gr.Tabs(elem_id=f"tabs-{name}") as self.tabs:
            with gr.Tab("Readings", id="readings"):
                with gr.Row(elem_classes="choices"):
                    self.position = OneChip([], label="Token", elem_classes="chips", container=False, visible=False)
                    self.choice = gr.Radio(
                        [(words, choice) for choice, (_, words) in CHOICES.items()], value=BLIND.adjective, label="Which",
                        elem_classes="chips", container=False, elem_id=f"choice-{name}",
                    )  # fmt: skip
                    self.show = gr.Radio(
                        [("best amplified", "best"), ("all amplified", "all")], value="best", label="Show",
                        elem_classes="chips", container=False, visible=False, elem_id=f"show-{name}",
                    )  # fmt: skip
                self.table = gr.HTML("", apply_default_css=False, js_on_load=CLICKS, elem_id=f"table-{name}")
                self.ladder = gr.HTML("", apply_default_css=False, elem_id=f"ladder-{name}")
                with gr.Column(visible=False, elem_classes="asking") as self.asking:
                    with gr.Row(elem_classes="is-it"):
                        self.labels = gr.Textbox(
                            label="Is it…", placeholder="band, person, country, food", max_lines=1, scale=4,
                            min_width=160, elem_id=f"labels-{name}",
                        )  # fmt: skip
                        self.alpha = gr.Dropdown(
                            [], label="α", allow_custom_value=True, scale=1, min_width=72, elem_id=f"alpha-{name}"
                        )
                        self.ask = gr.Button("Ask", scale=0, min_width=72, elem_id=f"ask-{name}")
                    self.answer = gr.HTML("", apply_default_css=False, elem_id=f"answer-{name}")
            with gr.Tab("Map", id="map") as self.map_tab:
                self.map = gr.HTML("", apply_default_css=False, js_on_load=CLICKS, elem_id=f"map-{name}")
                self.rest = gr.Button(
                    "Compute the rest", visible=False, elem_id=f"rest-{name}", elem_classes="rest", size="md"
                )
            with gr.Tab("Export", id="export"):
                with gr.Row():
                    self.csv = gr.DownloadButton("CSV", interactive=False, elem_id=f"csv-{name}")
                    self.json = gr.DownloadButton("JSON: what made it", interactive=False, elem_id=f"json-{name}")
                    self.report = gr.DownloadButton("Report, HTML", interactive=False, elem_id=f"report-{name}")
                self.query = gr.Textbox("", visible="hidden", show_label=False)
                self.link = gr.Textbox(
                    label="Link that restores these settings", interactive=False, buttons=["copy"], max_lines=3,
                    elem_id=f"link-{name}",
                )  # fmt: skip
                self.python = gr.Code(
                    label="The same in Python", language="python", interactive=False, elem_id=f"python-{name}"
                )
        self.new = [
            self.job_id, self.status, self.pulse, self.query, self.position, self.cell, self.ladder, self.asking,
            self.answer,
        ]  # fmt: skip
        self._connect()

    def _connect(self) -> None:
        looks = [self.job_id, self.position, self.choice, self.show, self.cell]
        drawn, files = [self.heading, self.table, self.ladder], [self.csv, self.json, self.report]
        last = {"trigger_mode": "always_last"} | QUIET
        everything = [*drawn, self.map, self.rest, *files, self.python, self.status]
        self.pulse.change(self.draw, looks, everything, **last)
        gr.on([self.position.input, self.choice.input, self.show.input], self.draw_table, looks, drawn, **last)
        self.choice.input(
            lambda choice: gr.update(visible=choice != BLIND.adjective), self.choice, self.show, queue=False, **QUIET
        )
        self.map_tab.select(self.draw_map, self.job_id, [self.map, self.rest], **QUIET)
        for clickable in (self.table, self.map):
            opened = [self.cell, *drawn, self.position, self.tabs, self.asking, self.alpha, self.answer]
            clickable.click(self.open_cell, [self.job_id, self.choice, self.show, self.asked], opened, **QUIET).then(
                None, js=SHOW_LADDER
            )
        address = ([self.query.change, self.choice.change], None, [self.query, self.choice])
        gr.on(*address, self.link, js=ADDRESS)
        if self.name == "a":
            gr.on(*address, None, js=KEEP_ADDRESS)

    def choose(self, choice: str) -> dict:
        """Return what changes so that readings are shown that are chosen so; one of `words.methods.CHOICES`."""
        return {self.choice: choice, self.show: gr.update(visible=choice != BLIND.adjective)}

    def draw(self, id: str, position: int | None, choice: str, show: str, cell: str) -> dict:
        """Draw the table so far; when the request is over, also the map and the files."""
        drawn = self.draw_table(id, position, choice, show, cell)
        job = self.desk.find(id)
        if job and job.is_over:
            drawn |= self.draw_map(id) | self._offer_files(job)
        return drawn

    def draw_table(self, id: str, position: int | None, choice: str, show: str, cell: str) -> dict:
        """Draw the table, and the ladder that is open.

        Args:
            position: of the token that is shown; the last one if the request doesn't have it.
            choice: by what one reading of each vector is chosen (`words.methods.CHOICES`).
            show: "best" or "all"; of those chosen by similarity.
            cell: name of the cell whose ladder is open.
        """
        job = self.desk.find(id)
        if not job:
            return {self.table: GONE if id else "", self.ladder: ""}
        opened = Cell.parse(cell)
        return {
            self.heading: view.heading(job),
            self.table: view.table(
                job, position if position in job.positions else job.positions[-1], choice, show == "all"
            ),
            self.ladder: view.ladder(job, opened) if opened else "",
        }

    def draw_map(self, id: str) -> dict:
        """Draw the map, and the button that computes what it lacks."""
        job = self.desk.find(id)
        if not job:
            return {self.map: GONE if id else ""}
        try:
            rest = self.rest_of(job)
            card = self.desk.card(rest.model)
            missing = len(rest.plan(card).items(card)) - len(job.readings)
            words, possible = f"Compute the rest: {view.amount(missing, self.desk.seconds_for(missing, rest))}", True
        except InputError as error:
            words, missing, possible = f"The rest can't be computed here: {error}"[:200], 1, False
        button = gr.update(value=words, visible=missing > 0, interactive=possible and job.is_over)
        return {self.map: view.heat_map(job), self.rest: button}

    @staticmethod
    def rest_of(job: Job) -> PageSettings:
        """Return the same settings for all tokens and all layers."""
        return job.settings.replace(tokens=range(len(job.tokens)), layers="all")

    def open_cell(self, id: str, choice: str, show: str, asked: str, event: gr.EventData) -> dict:
        """Open the ladder of the cell that was clicked; from the map, also its token's table.

        Args:
            asked: id of a question about the cell that was open before; it is stopped.
        """
        if question := self.desk.find(asked, Question):
            self.desk.stop(question)
        job, name = self.desk.find(id), event._data.get("cell")
        cell = Cell.parse(name)
        drawn = self.draw_table(id, cell.position, choice, show, name) if job and cell else {}
        if not drawn.get(self.ladder):
            return {self.cell: "", self.asking: gr.update(visible=False)}
        tries = cells_of(job, cell.position)[cell]
        best = (blind_of if choice == BLIND.adjective else similar_of)(tries).amplifier
        choices = [f"{one.amplifier:.12g}" for one in tries]
        return drawn | {
            self.cell: name, self.position: cell.position, self.tabs: gr.Tabs(selected="readings"),
            self.asking: gr.update(visible=True), self.alpha: gr.update(choices=choices, value=f"{best:.12g}"),
            self.answer: "",
        }  # fmt: skip

    def ask_about(self, id: str, cell: str, alpha: object, labels: str, visitor: str) -> Question | None:
        """Ask which of some labels the open vector is, at an amplifier; None if its request is no longer kept.

        Raises:
            InputError: names what was wrong.
        """
        job, opened = self.desk.find(id), Cell.parse(cell)
        if not (job and opened):
            return None
        one = {"tokens": (opened.position,), "components": (opened.component,), "layers": str(opened.layer)}
        try:
            settings = job.settings.replace(**one, amplifiers=str(alpha))
        except InputError:
            settings = None
        if not settings or len(settings.plan(self.desk.card(settings.model)).amplifiers) > 1:
            raise InputError("α", alpha, "expected one number")
        return self.desk.ask(settings, labels or "", visitor)

    def _offer_files(self, job: Job) -> dict:
        """Write the files of a request that is over, and offer them; likewise its Python lines."""
        python = job.settings.python(self.desk.card(job.settings.model), self.desk.dtype)
        paths, problem = (None,) * 3, {}
        try:
            if job.rows is not None:
                csv, page = self.write(job, python)
                paths = (str(csv), str(csv.with_suffix(".json")), str(page))
        except OSError as error:  # such as a full disk; what was read is still shown
            problem = {self.status: view.error(f"The files can't be written: {error.strerror}.", job)}
        buttons = (self.csv, self.json, self.report)
        offered = {
            button: gr.update(value=path, interactive=bool(path)) for button, path in zip(buttons, paths, strict=True)
        }
        return offered | problem | {self.python: python}

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
