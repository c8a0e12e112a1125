"""The page: what happens on a click. The desk does everything that computes."""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from urllib.parse import urlencode

import gradio as gr

from .. import InputError
from ..words.components import COMPONENTS, into
from ..words.methods import BLIND, CHOICES
from . import view
from .answers import answer
from .api import add_api
from .desk import Desk
from .guard import visitor
from .inputs import Inputs
from .jobs import Job, Request
from .kept import first_view
from .panel import GONE, LONG, QUIET, REFRESH, Panel
from .parts import SIDES
from .settings import Beyond, PageSettings, same_tokens
from .vector_tab import VectorTab

BESIDE = "beside_"  # before the names of the second request's settings, in a link
MOST_REMEMBERED = 50  # requests in a visit's history
SHOW_ANSWERS = """() => { if (window.innerWidth <= 700)
  document.querySelector('#status-a').scrollIntoView({block: 'center', behavior: 'smooth'}); }"""
HEADER = (
    '<header class="top"><h1>Superscopes</h1><p>Take a vector from inside a model, amplify it, and read, '
    "in words, what it means.</p></header>"
)


class Page:
    """The page over a desk.

    Attributes:
        blocks: Gradio's.

    Args:
        exports: folder that downloads are written to; files are served from nowhere else.
    """

    def __init__(self, desk: Desk, exports: Path):
        self.desk = desk
        desk.forget = lambda id: shutil.rmtree(exports / id, ignore_errors=True)
        self._followed: dict[tuple, tuple[str, ...] | str] = {}  # (visitor,) -> the requests that its page shows
        with gr.Blocks(
            title="Superscopes", analytics_enabled=False, fill_width=True, delete_cache=(600, 3600)
        ) as self.blocks:
            gr.HTML(HEADER, apply_default_css=False)
            with gr.Tabs(elem_id="kinds") as kinds, gr.Tab("A prompt", id="prompt"), gr.Row(elem_classes="page"):
                with gr.Column(scale=1, min_width=320, elem_classes="ask"):
                    self.inputs = Inputs(desk)
                with gr.Column(scale=3, min_width=320, elem_classes="answers"):
                    self.panel = Panel(desk, exports)
            with kinds, gr.Tab("A vector", id="vector", elem_id="vector-tab"):
                self.vectors = VectorTab(desk, exports)
            self.visit = gr.State([])
            self._connect()
            add_api(desk, exports.parent)

    def _connect(self) -> None:
        panel, inputs = self.panel, self.inputs
        history = [self.visit, inputs.history]
        beside = [inputs.compare, *inputs.compared.values()]
        gr.on(
            [inputs.go.click, inputs.fields["prompt"].submit], self.ask,
            [*inputs.all_fields, *beside, panel.job_id, panel.beside_id, self.visit],
            [inputs.problem, inputs.expected, *panel.new, *history], **LONG,
        ).then(inputs.expect, inputs.all_fields, inputs.expected, **QUIET)  # fmt: skip
        gr.on([inputs.go.click, inputs.fields["prompt"].submit], None, js=SHOW_ANSWERS)
        inputs.stop.click(self.stop_reading, [panel.job_id, panel.beside_id, panel.asked], **QUIET)
        arrived = [inputs.problem, *inputs.filled, *beside, *panel.new, panel.choice, panel.show, *history]
        self.blocks.load(self.arrive, None, arrived, **LONG)
        inputs.history.input(self.show_again, history[::-1], [*inputs.filled, *panel.new], **LONG)
        gr.on(
            [panel.ask.click, panel.labels.submit], self.ask_what_it_is,
            [panel.job_id, panel.beside_id, panel.side, panel.cell, panel.alpha, panel.labels, panel.asked],
            [panel.asked, panel.answer], **LONG,
        )  # fmt: skip
        panel.rest.click(
            self.ask_for_the_rest, [panel.job_id, panel.beside_id, self.visit],
            [inputs.problem, *panel.new, *history], **LONG,
        )  # fmt: skip
        self.blocks.unload(self.leave)

    async def ask(self, request: gr.Request, *values) -> AsyncIterator[dict]:
        """Ask for what the inputs say, and follow it; a wrong setting is reported, and nothing else changes."""
        number = len(self.inputs.all_fields)
        fields, compare, (*others, job_a, job_b, visit) = values[:number], values[number], values[number + 1 :]
        jobs = []
        try:
            wanted = [await asyncio.to_thread(self.inputs.read, fields)]
            if compare:
                changes = dict(zip(self.inputs.compared, others, strict=True))
                wanted.append(await asyncio.to_thread(self._settings_beside, wanted[0], changes))
            prepared = [await asyncio.to_thread(self.desk.prepare, settings) for settings in wanted]
            of_this_visit = {id for _, id in visit}  # what another visitor's link shows is not this one's to stop
            self.stop_reading(*of_this_visit & {job_a, job_b})
            for job in prepared:
                jobs.append(await asyncio.to_thread(self.desk.queue_up, job, visitor(request)))
        except InputError as error:
            self.stop_reading(*(job.id for job in jobs))
            where = self.inputs.expected if isinstance(error, Beyond) else self.inputs.problem
            yield {self.inputs.problem: "", where: view.error(str(error))}
            return
        async for changes in self.follow(request, jobs, {self.inputs.problem: ""} | self._remember(visit, jobs)):
            yield changes

    def _settings_beside(self, settings: PageSettings, changes: dict) -> PageSettings:
        """Return the settings that stand beside the others: the same pieces of the prompt, in its model's tokens.

        Raises:
            InputError: a wrong setting, or the models split the prompt differently.
        """
        other = settings.replace(**changes)
        if other.model != settings.model:
            card, other_card = self.desk.card(settings.model), self.desk.card(other.model)
            settings.plan(card).items(card)  # the errors of the first come first
            other = other.replace(tokens=same_tokens(settings.prompt, settings.tokens, card, other_card))
        return other

    def _remember(self, visit: list, jobs: Iterable[Job]) -> dict:
        """Return what changes when requests join the history of a visit."""
        visit = [*visit, *((_label(job), job.id) for job in jobs)][-MOST_REMEMBERED:]
        return {self.visit: visit, self.inputs.history: gr.update(choices=visit, value=None)}

    def stop_reading(self, *ids: str) -> None:
        """Stop requests after the current batch; what was read is kept."""
        for id in ids:
            if job := self.desk.find(id, Request):
                self.desk.stop(job)

    async def follow(self, request: gr.Request, jobs: Sequence[Job], first: dict) -> AsyncIterator[dict]:
        """Yield what changes on the page while requests are served.

        Args:
            jobs: the request that it shows from now on, or two that stand side by side.
            first: what else changes at once.
        """
        key, ids = (request.session_hash,), tuple(job.id for job in jobs)
        self._followed[key], is_over, seen = ids, False, {}
        first |= self.panel.begin(jobs, _link(jobs, self.inputs.compared))
        while not is_over and self._followed.get(key) == ids:
            is_over = all(job.is_over for job in jobs)  # noted before the last look at them
            now = {self.panel.pulse: " ".join(map(_pulse, jobs))}
            for status, job in zip(self.panel.statuses, jobs, strict=False):
                now[status] = gr.update(value=view.status(self.desk, job), visible=True)
            changed = first | {component: value for component, value in now.items() if seen.get(component) != value}
            if changed:
                yield changed
            seen, first = seen | now, {}
            await asyncio.sleep(REFRESH)

    def leave(self, request: gr.Request) -> None:
        """Forget a page that was closed. Its requests go on, and their links find them."""
        self.vectors.leave(request)
        self._followed.pop((request.session_hash,), None)
        self._followed.pop((request.session_hash, "question"), None)

    async def ask_what_it_is(
        self, id: str, beside: str, side: str, cell: str, alpha: str, labels: str, before: str, request: gr.Request
    ) -> AsyncIterator[dict]:
        """Ask which of some labels the open vector is, and follow the answer."""
        panel = self.panel
        self.stop_reading(before)
        of = beside if side == SIDES[1] else id
        try:
            question = await asyncio.to_thread(panel.ask_about, of, cell, alpha, labels, visitor(request))
        except InputError as error:
            yield {panel.answer: view.error(str(error))}
            return
        if not question:
            yield {panel.answer: GONE}
            return
        key, first = (request.session_hash, "question"), {panel.asked: question.id}
        self._followed[key], seen, over = question.id, None, False
        while not over and self._followed.get(key) == question.id:
            over = question.is_over  # noted before the last look at it
            if (now := answer(self.desk, question)) != seen:
                yield first | {panel.answer: now}
                first, seen = {}, now
            await asyncio.sleep(REFRESH)

    async def ask_for_the_rest(self, id: str, beside: str, visit: list, request: gr.Request) -> AsyncIterator[dict]:
        """Ask for all tokens and layers of what is shown, and follow it."""
        shown, jobs = [job for job in (self.desk.find(id), self.desk.find(beside)) if job], []
        try:
            for job in shown:
                jobs.append(await asyncio.to_thread(self.desk.submit, self.panel.rest_of(job), visitor(request)))
        except InputError as error:
            self.stop_reading(*(job.id for job in jobs))
            yield {self.inputs.problem: view.error(str(error))}
            return
        if jobs:
            async for changes in self.follow(request, jobs, self._remember(visit, jobs)):
                yield changes

    async def arrive(self, request: gr.Request) -> AsyncIterator[dict]:
        """Show what a link asks for: what was read of it, or else it is read now. Without a link, show the paper's first
        example; then what the desk does, until it is ready.
        """
        query, jobs, filled, status = dict(request.query_params), [], {}, self.panel.statuses[0]
        yield {status: view.status(self.desk, None)}
        try:
            settings = await asyncio.to_thread(self._settings_of, query)
            wanted = [settings]
            filled = await asyncio.to_thread(self.inputs.fill, settings) | self.panel.choose(_choice_of(query))
            if changes := _beside_of(query, self.inputs.compared):
                wanted.append(await asyncio.to_thread(self._settings_beside, settings, changes))
                filled |= {field: getattr(wanted[1], name) for name, field in self.inputs.compared.items()}
                filled |= {self.inputs.compare: True}
            while not self.desk.is_laid_out:
                await asyncio.sleep(REFRESH)
            jobs, new = await asyncio.to_thread(self._recall, wanted, query, visitor(request))
            filled |= self._remember([], new) if new else {}
        except InputError as error:
            if not filled:
                filled = await asyncio.to_thread(self.inputs.fill, PageSettings.of({"model": self.desk.model}))
            filled |= {self.inputs.problem: view.error(str(error))}
        is_ready = self.desk.is_ready  # noted before the last look at it
        if jobs:
            async for changes in self.follow(request, jobs, filled):
                yield changes
        else:
            yield filled | {status: view.status(self.desk, None)}
        # Nothing is said once the desk is ready: it could arrive after what a request says that was asked meanwhile.
        key, shown = (request.session_hash,), tuple(job.id for job in jobs) or None
        while not is_ready and self._followed.get(key) == shown:
            is_ready = self.desk.is_ready
            yield {status: view.status(self.desk, jobs[0] if jobs else None)}
            await asyncio.sleep(REFRESH)

    def _recall(self, wanted: Sequence[PageSettings], query: dict[str, str], visitor: str) -> tuple[list[Job], list[Job]]:
        """Return the requests that a link shows, and which of them are new; none if it asks for nothing that was read.

        Raises:
            InputError: a setting that a model can't carry out, or a queue that is full.
        """
        id, asks = query.get("run", ""), PageSettings.asks(query)
        if not asks and (job := self.desk.find(id)):
            return [job], []
        found = [self.desk.recall(settings, id) for settings in wanted]
        if not asks:
            return [job for job in found if job], []
        new, jobs = [], []
        try:
            for settings, job in zip(wanted, found, strict=True):
                if not job:
                    new.append(job := self.desk.submit(settings, visitor))
                jobs.append(job)
        except InputError:
            self.stop_reading(*(job.id for job in new))
            raise
        return jobs, new

    def _settings_of(self, query: dict[str, str]) -> PageSettings:
        """Return what a link's query asks for.

        Raises:
            InputError: names the setting, what was given and what is allowed.
        """
        given = PageSettings.of_link(query, model=self.desk.model)
        return first_view(self.desk.card(given.model), **given.changed)

    async def show_again(self, id: str, visit: list, request: gr.Request) -> AsyncIterator[dict]:
        """Show an earlier request of this visit: its settings, and what was read."""
        job = self.desk.find(id) if id in [known for _, known in visit] else None
        if job:
            filled = await asyncio.to_thread(self.inputs.fill, job.settings)
            async for changes in self.follow(request, [job], filled):
                yield changes


def _link(jobs: Sequence[Job], compared: Iterable[str]) -> str:
    """Return the query of a link to requests.

    Args:
        compared: names of settings in which a second one may differ from the first.
    """
    job, *others = jobs
    beside = {f"{BESIDE}{name}": getattr(other.settings, name) for other in others for name in compared}
    return f"{job.settings.link()}{'&' * bool(beside)}{urlencode(beside)}&run={job.id}"


def _beside_of(query: dict[str, str], compared: Iterable[str]) -> dict[str, str]:
    """Return in what the second request of a link differs from the first; {} if there is no second one."""
    return {name: query[f"{BESIDE}{name}"] for name in compared if f"{BESIDE}{name}" in query}


def _choice_of(query: dict[str, str]) -> str:
    """Return by what the readings that a link shows are chosen.

    Raises:
        InputError: not one of `words.methods.CHOICES`.
    """
    choice = query.get("choice", BLIND.adjective)
    if choice not in CHOICES:
        raise InputError("choice", choice[:40], f"expected one of {', '.join(CHOICES)}")
    return choice


def _pulse(job: Job) -> str:
    """Return a text that changes when there is something new to draw."""
    return f"{job.id} {job.state} {len(job.readings)} {len(job.weighed)}"


def _label(job: Job) -> str:
    """Return what a request is called in the history of a visit."""
    asked = job.settings
    vectors = "+".join(COMPONENTS[name].symbol.split()[0] for name in asked.components)
    what = f"{asked.prompt[:40]} · {vectors} · α {asked.amplifiers[:30]} · layers {asked.layers} {into(asked.target_layer)}"
    return f"{what} · {asked.model} · {time.strftime('%H:%M:%S')}"
