"""The results of a request, or of two with different settings, on the page: status, readings, map, what can be kept."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import gradio as gr

from .. import InputError
from ..words.methods import BLIND, CHOICES
from . import view
from .cells import Cell, blind_of, cells_of, similar_of
from .chips import OneChip, chip
from .desk import Desk
from .files import Files
from .jobs import Job, Question
from .parts import SIDES, which
from .settings import PageSettings
from .table import same_position

CLICKS, PLACES = (files(__package__).joinpath(name).read_text(encoding="utf-8") for name in ("clicks.js", "places.js"))
GONE = '<p class="caption">These readings are no longer kept; Interpret reads them again.</p>'
# Past Gradio's queue, which loses a click that is made while the stream of its answers closes.
QUIET = {"show_progress": "hidden", "api_visibility": "private", "queue": False}
LONG = QUIET | {"queue": True, "concurrency_limit": None, "trigger_mode": "multiple"}  # for what lasts as long as a request
REFRESH = 0.05  # seconds between two looks at a request
CHOICE = f"(choice === '{BLIND.adjective}' ? '' : '&choice=' + choice)"  # of a link; the usual one is left out
ADDRESS = (
    "(query, choice) => query && window.location.origin + window.location.pathname + "
    f"query.replace(/&run=[^&]*$/, '') + {CHOICE}"
)
KEEP_ADDRESS = (
    "(query, choice) => { if (query) window.history.replaceState(null, '', window.location.pathname + "
    f"query.replace(/(?=&run=[^&]*$)/, {CHOICE})); }}"
)
SHOW_LADDER = """() => setTimeout(() => {
  const row = document.querySelector('.ladder-beside tr.opened')?.previousElementSibling;
  (row || document.querySelector('.opened-box .ladder')?.closest('.opened-box'))?.scrollIntoView({block: 'nearest'});
}, 150)"""


class Panel:
    """The results of a request, or of two side by side, both in each cell of one table.

    Attributes:
        job_id, beside_id: of the request that it shows, and of the second one; "" if there is none.
        cell, side: the cell whose ladder is open, "" if none; and of which request it is.
        asked: id of the question about that cell; "" if none.
        pulse: changes when there is something new to draw.
        query: of the link to the request.
        statuses: of the one and of the other.
        new: what changes when other requests are shown.
    """

    def __init__(self, desk: Desk, exports: Path):
        self.desk = desk
        self.job_id, self.beside_id, self.cell, self.side, self.asked = (gr.State("") for _ in range(5))
        self.pulse = gr.Textbox("", visible="hidden", show_label=False)
        self.heading = gr.HTML("", apply_default_css=False, elem_id="heading-a")
        self.statuses = [
            gr.HTML("", apply_default_css=False, elem_id=f"status-{side}", visible=side == SIDES[0]) for side in SIDES
        ]
        with gr.Tabs(elem_id="tabs-a") as self.tabs:
            with gr.Tab("Readings", id="readings"):
                with gr.Row(elem_classes="choices"):
                    self.position = OneChip([], label="Token", elem_classes="chips", container=False, visible=False)
                    self.choice = gr.Radio(
                        [(words, choice) for choice, (_, words) in CHOICES.items()], value=BLIND.adjective, label="Which",
                        elem_classes="chips", container=False, elem_id="choice-a",
                    )  # fmt: skip
                    self.show = gr.Radio(
                        [("best amplified", "best"), ("all amplified", "all")], value="best", label="Show",
                        elem_classes="chips", container=False, visible=False, elem_id="show-a",
                    )  # fmt: skip
                with gr.Column(elem_classes="frame"):
                    self.table = gr.HTML("", apply_default_css=False, js_on_load=CLICKS + PLACES, elem_id="table-a")
                    with gr.Column(elem_classes="opened-box"):
                        self.ladder = gr.HTML("", apply_default_css=False, elem_id="ladder-a")
                        self._add_question()
            with gr.Tab("Map", id="map") as self.map_tab:
                self.map = gr.HTML("", apply_default_css=False, js_on_load=CLICKS, elem_id="map-a")
                self.rest = gr.Button(
                    "Compute the rest", visible=False, elem_id="rest-a", elem_classes="rest", size="md"
                )
            with gr.Tab("Export", id="export"):
                self.files = [Files(desk, exports, SIDES[0])]
                with gr.Column(visible=False) as self.files_beside:
                    gr.HTML(f'<p class="asked">{which(SIDES[1])}</p>', apply_default_css=False)
                    self.files.append(Files(desk, exports, SIDES[1]))
                self.query = gr.Textbox("", visible="hidden", show_label=False)
                self.link = gr.Textbox(
                    label="Link that opens these results", interactive=False, buttons=["copy"], max_lines=3,
                    elem_id="link-a",
                )  # fmt: skip
        self.new = [
            self.job_id, self.beside_id, *self.statuses, self.files_beside, self.pulse, self.query, self.position,
            self.cell, self.ladder, self.asking, self.answer,
        ]  # fmt: skip
        self._connect()

    def _add_question(self) -> None:
        """Add what asks which of a few things the open vector is."""
        with gr.Column(visible=False, elem_classes="asking") as self.asking:
            with gr.Row(elem_classes="is-it"):
                self.labels = gr.Textbox(
                    label="Is it…", placeholder="band, person, country, food", max_lines=1, scale=4, min_width=160,
                    elem_id="labels-a",
                )  # fmt: skip
                self.alpha = gr.Dropdown(
                    [], label="α", allow_custom_value=True, scale=1, min_width=72, elem_id="alpha-a"
                )
                self.ask = gr.Button("Ask", scale=0, min_width=72, elem_id="ask-a")
            self.answer = gr.HTML("", apply_default_css=False, elem_id="answer-a")

    def _connect(self) -> None:
        jobs = [self.job_id, self.beside_id]
        looks = [*jobs, self.position, self.choice, self.show, self.cell, self.side]
        drawn, mapped = [self.heading, self.table, self.ladder], [self.map, self.rest]
        last = {"trigger_mode": "always_last"} | QUIET
        kept = [component for files in self.files for component in files.all]
        # One event draws the table, whatever asks for it: of two, what was asked first could arrive last.
        asks = [self.pulse.change, self.position.input, self.choice.input, self.show.input]
        gr.on(asks, self.draw_table, looks, drawn, **last)
        self.pulse.change(self.draw_rest, [*jobs, self.choice], [*mapped, *kept, *self.statuses], **last)
        self.choice.input(
            lambda choice: gr.update(visible=choice != BLIND.adjective), self.choice, self.show, **QUIET
        )
        self.map_tab.select(self.draw_map, [*jobs, self.choice], mapped, **QUIET)
        for clickable in (self.table, self.map):
            opened = [self.cell, self.side, *drawn, self.position, self.tabs, self.asking, self.alpha, self.answer]
            clickable.click(self.open_cell, [*jobs, self.choice, self.show, self.asked], opened, **QUIET).then(
                None, js=SHOW_LADDER
            )
        address = ([self.query.change, self.choice.change], None, [self.query, self.choice])
        gr.on(*address, self.link, js=ADDRESS)
        gr.on(*address, None, js=KEEP_ADDRESS)

    def choose(self, choice: str) -> dict:
        """Return what changes so that readings are shown that are chosen so; one of `words.methods.CHOICES`."""
        return {self.choice: choice, self.show: gr.update(visible=choice != BLIND.adjective)}

    def begin(self, jobs: Sequence[Job], query: str) -> dict:
        """Return what changes when other requests are shown: one, or two side by side.

        Args:
            query: of the link to them.
        """
        job, *others = jobs
        chips = [(chip(job.tokens[position]), position) for position in job.positions]
        return {
            self.job_id: job.id, self.beside_id: others[0].id if others else "", self.query: query,
            self.statuses[1]: gr.update(visible=bool(others)), self.files_beside: gr.update(visible=bool(others)),
            self.position: gr.update(choices=chips, value=job.positions[-1], visible=len(chips) > 1),
            self.cell: "", self.ladder: "", self.asking: gr.update(visible=False), self.answer: "",
        }  # fmt: skip

    def _find(self, id: str, beside: str) -> list[Job]:
        """Return the requests that are shown, as far as they are kept."""
        return [job for job in (self.desk.find(id), self.desk.find(beside)) if job]

    def draw_rest(self, id: str, beside: str, choice: str) -> dict:
        """Draw, when the requests are over, the map, and offer the files: what takes longer than the table."""
        jobs = self._find(id, beside)
        if not jobs or not all(job.is_over for job in jobs):
            return {self.map: gr.skip()}
        drawn = self.draw_map(id, beside, choice)
        for job, offered, status in zip(jobs, self.files, self.statuses, strict=False):
            try:
                drawn |= offered.offer(job)
            except OSError as error:  # such as a full disk; what was read is still shown
                drawn[status] = view.error(f"The files can't be written: {error.strerror}.", job)
        return drawn

    def draw_table(
        self, id: str, beside: str, position: int | None, choice: str, show: str, cell: str, side: str
    ) -> dict:
        """Draw the table, and the ladder that is open.

        Args:
            id, beside: of the request, and of the second one.
            position: of the token that is shown; the last one if the request doesn't have it.
            choice: by what one reading of each vector is chosen (`words.methods.CHOICES`).
            show: "best" or "all"; of those chosen by similarity.
            cell, side: name of the cell whose ladder is open, and of which request it is.
        """
        job, *others = self._find(id, beside) or [None]
        if not job:
            return {self.table: GONE if id else "", self.ladder: ""}
        opened, of = Cell.parse(cell), (job, *others)[side == SIDES[1] and bool(others)]
        position = position if position in job.positions else job.positions[-1]
        names = SIDES if others else ("",)
        open_side = names[(job, *others).index(of)]
        ladder = view.ladder(of, opened, side=open_side) if opened else ""
        return {
            self.heading: "".join(view.heading(one, name) for one, name in zip((job, *others), names, strict=True)),
            self.table: view.table(
                job, position, choice, show == "all", beside=others[0] if others else None,
                opened=opened if ladder else None,
            ),
            self.ladder: ladder,
        }  # fmt: skip

    def draw_map(self, id: str, beside: str, choice: str) -> dict:
        """Draw the map, in the colours of the table, and the button that computes what it lacks."""
        jobs = self._find(id, beside)
        if not jobs:
            return {self.map: GONE if id else ""}
        try:
            missing, seconds = 0, 0.0
            for job in jobs:
                rest = self.rest_of(job)
                card = self.desk.card(rest.model)
                missing += (rows := len(rest.plan(card).items(card)) - len(job.readings))
                takes = self.desk.seconds_for(rows, rest)
                seconds = None if takes is None or seconds is None else seconds + takes
            words, possible = f"Compute the rest: {view.amount(missing, seconds)}", True
        except InputError as error:
            words, missing, possible = f"The rest can't be computed here: {error}"[:200], 1, False
        button = gr.update(value=words, visible=missing > 0, interactive=possible and all(job.is_over for job in jobs))
        names = SIDES if len(jobs) > 1 else ("",)
        maps = (view.heat_map(job, choice, name) for job, name in zip(jobs, names, strict=True))
        return {self.map: "".join(maps), self.rest: button}

    @staticmethod
    def rest_of(job: Job) -> PageSettings:
        """Return the same settings for all tokens and all layers."""
        return job.settings.replace(tokens=range(len(job.tokens)), layers="all")

    def open_cell(self, id: str, beside: str, choice: str, show: str, asked: str, event: gr.EventData) -> dict:
        """Open the ladder of the cell that was clicked; from the map, also its token's table.

        Args:
            asked: id of a question about the cell that was open before; it is stopped.
        """
        if question := self.desk.find(asked, Question):
            self.desk.stop(question)
        jobs, name, side = self._find(id, beside), event._data.get("cell"), event._data.get("side")
        cell, side = Cell.parse(name), side if side in SIDES[: len(jobs)] else SIDES[0]
        drawn = {}
        if jobs and cell:
            job = jobs[SIDES.index(side)]
            position = same_position(job, cell.position, jobs[0])
            drawn = self.draw_table(id, beside, position, choice, show, name, side)
        if not drawn.get(self.ladder):
            return {self.cell: "", self.asking: gr.update(visible=False)}
        tries = cells_of(job, cell.position)[cell]
        best = (blind_of if choice == BLIND.adjective else similar_of)(tries).amplifier
        choices = [f"{one.amplifier:.12g}" for one in tries]
        return drawn | {
            self.cell: name, self.side: side, self.position: position, self.tabs: gr.Tabs(selected="readings"),
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
