"""The page: what happens on a click. The desk does everything that computes."""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path

import gradio as gr

from .. import InputError
from ..words.components import COMPONENTS, into
from ..words.methods import BLIND, CHOICES
from . import view
from .answers import answer
from .api import add_api
from .chips import chip
from .desk import Desk
from .guard import visitor
from .inputs import Inputs
from .jobs import Job, Request
from .kept import first_view
from .panel import GONE, QUIET, Panel
from .settings import Beyond, PageSettings, same_tokens
from .vector_tab import VectorTab

REFRESH = 0.05  # seconds between two looks at a request
MOST_REMEMBERED = 50  # requests in a visit's history
LONG = QUIET | {"concurrency_limit": None, "trigger_mode": "multiple"}  # for what lasts as long as a request
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
        self._followed: dict[tuple, str] = {}  # (visitor, panel) -> the request that it shows
        with gr.Blocks(
            title="Superscopes", analytics_enabled=False, fill_width=True, delete_cache=(600, 3600)
        ) as self.blocks:
            gr.HTML(HEADER, apply_default_css=False)
            with gr.Tabs(elem_id="kinds") as kinds, gr.Tab("A prompt", id="prompt"), gr.Row(elem_classes="page"):
                with gr.Column(scale=1, min_width=320, elem_classes="ask"):
                    self.inputs = Inputs(desk)
                with gr.Column(scale=3, min_width=320, elem_classes="answers"):
                    with gr.Row(elem_classes="panels"):
                        with gr.Column(min_width=320):
                            self.a = Panel(desk, exports, "a")
                        with gr.Column(min_width=320, visible=False) as self.beside:
                            self.b = Panel(desk, exports, "b")
            with kinds, gr.Tab("A vector", id="vector", elem_id="vector-tab"):
                self.vectors = VectorTab(desk, exports)
            self.visit = gr.State([])
            self._connect()
            add_api(desk, exports.parent)

    def _connect(self) -> None:
        a, b, inputs = self.a, self.b, self.inputs
        history = [self.visit, inputs.history]
        gr.on(
            [inputs.go.click, inputs.fields["prompt"].submit], self.ask,
            [*inputs.all_fields, inputs.compare, *inputs.compared.values(), a.job_id, b.job_id, self.visit],
            [inputs.problem, inputs.expected, *a.new, *b.new, self.beside, *history], **LONG,
        ).then(inputs.expect, inputs.all_fields, inputs.expected, **QUIET)  # fmt: skip
        gr.on([inputs.go.click, inputs.fields["prompt"].submit], None, js=SHOW_ANSWERS)
        inputs.stop.click(self.stop_reading, [a.job_id, b.job_id, a.asked, b.asked], queue=False, **QUIET)
        arrived = [inputs.problem, *inputs.filled, *a.new, a.choice, a.show, *history]
        self.blocks.load(self.arrive, None, arrived, **LONG)
        inputs.history.input(self.show_again, history[::-1], [*inputs.filled, *a.new], **LONG)
        for panel in (a, b):
            gr.on(
                [panel.ask.click, panel.labels.submit], self.asker(panel),
                [panel.job_id, panel.cell, panel.alpha, panel.labels, panel.asked], [panel.asked, panel.answer], **LONG,
            )  # fmt: skip
            panel.rest.click(
                self.rest_asker(panel), [panel.job_id, self.visit], [inputs.problem, *panel.new, *history], **LONG
            )
        self.blocks.unload(self.leave)

    async def ask(self, request: gr.Request, *values) -> AsyncIterator[dict]:
        """Ask for what the inputs say, and follow it; a wrong setting is reported, and nothing else changes."""
        number = len(self.inputs.all_fields)
        fields, compare, (*others, job_a, job_b, visit) = values[:number], values[number], values[number + 1 :]
        jobs = {}
        try:
            wanted = [await asyncio.to_thread(self.inputs.read, fields)]
            if compare:
                changes = dict(zip(self.inputs.compared, others, strict=True))
                wanted.append(await asyncio.to_thread(self._settings_beside, wanted[0], changes))
            of_this_visit = {id for _, id in visit}  # what another visitor's link shows is not this one's to stop
            self.stop_reading(*of_this_visit & {job_a, job_b})
            for panel, settings in zip((self.a, self.b), wanted, strict=False):
                jobs[panel] = await asyncio.to_thread(self.desk.submit, settings, visitor(request))
        except InputError as error:
            self.stop_reading(*(job.id for job in jobs.values()))
            where = self.inputs.expected if isinstance(error, Beyond) else self.inputs.problem
            yield {self.inputs.problem: "", where: view.error(str(error))}
            return
        first = {self.inputs.problem: "", self.beside: gr.update(visible=compare)}
        async for changes in self.follow(request, jobs, first | self._remember(visit, jobs.values())):
            yield changes

    def _settings_beside(self, settings: PageSettings, changes: dict) -> PageSettings:
        """Return the settings of the second panel: the same pieces of the prompt, in its model's tokens.

        Raises:
            InputError: a wrong setting, or the models split the prompt differently.
        """
        other = settings.replace(**changes)
        if other.model != settings.model:
            card, other_card = self.desk.card(settings.model), self.desk.card(other.model)
            settings.plan(card).items(card)  # the errors of the first panel come first
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

    async def follow(self, request: gr.Request, jobs: dict[Panel, Job], first: dict) -> AsyncIterator[dict]:
        """Yield what changes on the page while requests are served.

        Args:
            jobs: panel -> the request that it shows from now on.
            first: what else changes at once.
        """
        keys = {panel: (request.session_hash, panel.name) for panel in jobs}
        for panel, job in jobs.items():
            self._followed[keys[panel]] = job.id
            first |= {
                panel.job_id: job.id,
                panel.query: f"{job.settings.link()}&run={job.id}",
                panel.position: gr.update(
                    choices=[(chip(job.tokens[position]), position) for position in job.positions],
                    value=job.positions[-1],
                    visible=len(job.positions) > 1,
                ),
                panel.cell: "",
                panel.ladder: "",
                panel.asking: gr.update(visible=False),
                panel.answer: "",
            }
        seen = {}
        while jobs:
            jobs = {panel: job for panel, job in jobs.items() if self._followed.get(keys[panel]) == job.id}
            over = [panel for panel, job in jobs.items() if job.is_over]  # noted before the last look at them
            now = {}
            for panel, job in jobs.items():
                now |= {panel.status: view.status(self.desk, job), panel.pulse: _pulse(job)}
            changed = first | {component: value for component, value in now.items() if seen.get(component) != value}
            if changed:
                yield changed
            seen, first = seen | now, {}
            jobs = {panel: job for panel, job in jobs.items() if panel not in over}
            await asyncio.sleep(REFRESH)

    def leave(self, request: gr.Request) -> None:
        """Forget a page that was closed. Its requests go on, and their links find them."""
        self.vectors.leave(request)
        for panel in (self.a, self.b):
            self._followed.pop((request.session_hash, panel.name), None)
            self._followed.pop((request.session_hash, panel.name, "question"), None)

    def asker(self, panel: Panel) -> Callable:
        """Return a function that asks which of some labels a panel's open vector is, and follows the answer."""

        async def ask(
            id: str, cell: str, alpha: str, labels: str, before: str, request: gr.Request
        ) -> AsyncIterator[dict]:
            self.stop_reading(before)
            try:
                question = await asyncio.to_thread(panel.ask_about, id, cell, alpha, labels, visitor(request))
            except InputError as error:
                yield {panel.answer: view.error(str(error))}
                return
            if not question:
                yield {panel.answer: GONE}
                return
            key, first = (request.session_hash, panel.name, "question"), {panel.asked: question.id}
            self._followed[key], seen, over = question.id, None, False
            while not over and self._followed.get(key) == question.id:
                over = question.is_over  # noted before the last look at it
                if (now := answer(self.desk, question)) != seen:
                    yield first | {panel.answer: now}
                    first, seen = {}, now
                await asyncio.sleep(REFRESH)

        return ask

    def rest_asker(self, panel: Panel) -> Callable:
        """Return a function that asks for all tokens and layers of a panel's request, and follows it."""

        async def ask(id: str, visit: list, request: gr.Request) -> AsyncIterator[dict]:
            if not (job := self.desk.find(id)):
                return
            try:
                job = await asyncio.to_thread(self.desk.submit, panel.rest_of(job), visitor(request))
            except InputError as error:
                yield {self.inputs.problem: view.error(str(error))}
                return
            async for changes in self.follow(request, {panel: job}, self._remember(visit, [job])):
                yield changes

        return ask

    async def arrive(self, request: gr.Request) -> AsyncIterator[dict]:
        """Show what a link asks for: what was read of it, or else it is read now. Without a link, show the paper's first
        example; then what the desk does, until it is ready.
        """
        query, job, filled = dict(request.query_params), None, {}
        yield {self.a.status: view.status(self.desk, None)}
        try:
            settings = await asyncio.to_thread(self._settings_of, query)
            filled = await asyncio.to_thread(self.inputs.fill, settings) | self.a.choose(_choice_of(query))
            while not self.desk.is_laid_out:
                await asyncio.sleep(REFRESH)
            id = query.get("run", "")
            job = None if PageSettings.asks(query) else self.desk.find(id)
            job = job or await asyncio.to_thread(self.desk.recall, settings, id)
            if not job and PageSettings.asks(query):
                job = await asyncio.to_thread(self.desk.submit, settings, visitor(request))
                filled |= self._remember([], [job])
        except InputError as error:
            if not filled:
                filled = await asyncio.to_thread(self.inputs.fill, PageSettings.of({"model": self.desk.model}))
            filled |= {self.inputs.problem: view.error(str(error))}
        if job:
            async for changes in self.follow(request, {self.a: job}, filled):
                yield changes
        else:
            yield filled
        key, shown, is_ready = (request.session_hash, self.a.name), job and job.id, False
        while self._followed.get(key) == shown and not is_ready:
            is_ready = self.desk.is_ready  # noted before the last look at it
            yield {self.a.status: view.status(self.desk, job)}
            await asyncio.sleep(REFRESH)

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
            async for changes in self.follow(request, {self.a: job}, filled):
                yield changes


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
