"""The page: what a visitor sees and can do, and what happens then. Everything that computes is the desk's."""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import replace
from html import escape
from pathlib import Path

import gradio as gr

from .. import InputError
from ..experiments import FINE_GRID, MLP_GRID
from . import view
from .api import add_api
from .chips import Chips, chip
from .desk import Desk, Job
from .panel import QUIET, Panel
from .settings import COLUMNS, Settings, check_length, in_words, same_tokens

REFRESH = 0.05  # seconds between two looks at a request
MOST_CHIPS = 512  # tokens that are shown to choose from; the last ones
EXAMPLES = (  # the paper's walkthroughs (Figure 1, Tables 1-3), and their settings
    *((prompt, COLUMNS[:3], "same", MLP_GRID, "1-7")
      for prompt in ("Diana, Princess of Wales", "Saturday Night Live", "Back to the Future")),
    *((prompt, ("hidden_state",), "0", FINE_GRID, "0-7")
      for prompt in ("Alexander the Great", "Red Hot Chili Peppers", "Florence and the Machine")),
)  # fmt: skip
SHOW_ANSWERS = """() => { if (window.innerWidth <= 700)
  document.querySelector('#status-a').scrollIntoView({block: 'center', behavior: 'smooth'}); }"""
MOST_REMEMBERED = 50  # requests in a visit's history
LONG = QUIET | {"concurrency_limit": None, "trigger_mode": "multiple"}  # lasts as long as a request


class Page:
    """The page over a desk; `blocks` is Gradio's.

    Args:
        exports: folder that downloads are written to, the only one that files are served from.
    """

    def __init__(self, desk: Desk, exports: Path):
        self.desk = desk
        desk.forget = lambda id: shutil.rmtree(exports / id, ignore_errors=True)
        self._followed: dict[tuple, str] = {}  # (visitor, panel) -> the request it shows
        usual = Settings("", desk.model)
        with gr.Blocks(
            title="Superscopes", analytics_enabled=False, fill_width=True, delete_cache=(3600, 86400)
        ) as self.blocks:
            gr.HTML(
                '<header class="top"><h1>Superscopes</h1><p>Take a vector from inside a model, amplify it, and read, '
                "in words, what it means.</p></header>",
                apply_default_css=False,
            )
            with gr.Row(elem_classes="page"):
                with gr.Column(scale=1, min_width=320, elem_classes="ask"):
                    self._build_inputs(usual)
                with gr.Column(scale=3, min_width=320, elem_classes="answers"):
                    with gr.Row(elem_classes="panels"):
                        with gr.Column(min_width=320):
                            self.a = Panel(desk, exports, "a")
                        with gr.Column(min_width=320, visible=False) as self.beside:
                            self.b = Panel(desk, exports, "b")
            self.visit = gr.State([])
            self._connect()
            add_api(desk)

    # What is on the page

    def _build_inputs(self, usual: Settings) -> None:
        self.prompt = gr.Textbox(
            label="Prompt", lines=1, max_lines=6, autofocus=True, placeholder="What is the vector taken from?",
            elem_id="prompt",
        )  # fmt: skip
        self.examples = gr.Dataset(
            components=[self.prompt], samples=[[one[0]] for one in EXAMPLES], type="index", label="From the paper"
        )
        self.tokens = Chips([], label="Tokens", elem_classes="chips", elem_id="tokens")
        self.tokens_of = gr.State(("", "", []))  # the model, the prompt and the positions that the chips are of
        with gr.Row(elem_classes="small"):
            self.last, self.all = gr.Button("last token", size="sm"), gr.Button("all tokens", size="sm")
        self.components = gr.CheckboxGroup(
            [(view.TITLES[name], name) for name in COLUMNS], label="Vectors", value=list(usual.components),
            elem_classes="chips", elem_id="components",
        )  # fmt: skip
        with gr.Row():
            self.layers = gr.Textbox(usual.layers, label="Layers", elem_id="layers", min_width=120)
            self.target_layer = gr.Dropdown(
                ["same", "0"], value=usual.target_layer, allow_custom_value=True, label="Target layer",
                elem_id="target-layer", min_width=120,
            )  # fmt: skip
        self.amplifiers = gr.Textbox(
            usual.amplifiers, label="Amplifiers", info="1 is plain Patchscopes; 1:6:0.5 is a range",
            elem_id="amplifiers",
        )  # fmt: skip
        with gr.Row(elem_classes="go"):
            self.go = gr.Button("Interpret", variant="primary", elem_id="interpret", scale=2, min_width=0)
            self.stop = gr.Button("Stop", elem_id="stop", scale=1, min_width=0)
        self.problem = gr.HTML("", apply_default_css=False, elem_id="problem")
        with gr.Accordion("More", open=False):
            self.model = gr.Dropdown(self.desk.models, value=usual.model, label="Model", elem_id="model")
            self.target_prompt = gr.Textbox(
                usual.target_prompt, label="Target prompt", info="{braces} mark the placeholder", lines=3,
                elem_id="target-prompt",
            )  # fmt: skip
            with gr.Row():
                self.max_new_tokens = gr.Number(
                    usual.max_new_tokens, label="New tokens", precision=0, min_width=120,
                    elem_id="new-tokens",
                )  # fmt: skip
                self.threshold = gr.Number(
                    usual.threshold, label="Threshold", step=0.05, min_width=120,
                    elem_id="threshold",
                )  # fmt: skip
        with gr.Accordion("Side by side", open=False):
            self.compare = gr.Checkbox(label="Read a second time, with:", elem_id="compare")
            self.other_amplifiers = gr.Textbox("1", label="Amplifiers", elem_id="other-amplifiers")
            self.other_target_layer = gr.Dropdown(
                ["same", "0"], value=usual.target_layer, allow_custom_value=True, label="Target layer",
                elem_id="other-target-layer",
            )  # fmt: skip
            self.other_model = gr.Dropdown(self.desk.models, value=usual.model, label="Model", elem_id="other-model")
        with gr.Accordion("This visit", open=False):
            self.history = gr.Dropdown([], label="Earlier requests", elem_id="history")

    @property
    def _settings(self) -> list:
        """The inputs, in the order of Settings' fields."""
        return [
            self.prompt, self.model, self.tokens, self.components, self.layers, self.target_layer, self.amplifiers,
            self.target_prompt, self.max_new_tokens, self.threshold,
        ]  # fmt: skip

    def _connect(self) -> None:
        a, b, filled = self.a, self.b, [*self._settings, self.tokens_of]
        new = [self.problem, *a.new, *b.new, self.beside, self.visit, self.history]
        compared = [self.compare, self.other_model, self.other_target_layer, self.other_amplifiers]
        gr.on(
            [self.go.click, self.prompt.submit], self.ask, [*filled, *compared, a.job_id, b.job_id, self.visit], new,
            **LONG,
        )  # fmt: skip
        gr.on([self.go.click, self.prompt.submit], None, js=SHOW_ANSWERS)
        self.stop.click(self.stop_reading, [a.job_id, b.job_id], queue=False, **QUIET)
        self.blocks.load(self.arrive, None, [self.problem, *filled, *a.new], **LONG)
        self.history.input(self.again, [self.history, self.visit], [*filled, *a.new], **LONG)
        for panel in (a, b):
            asked_for_rest = self.ask_for_rest(panel)
            panel.rest.click(
                asked_for_rest, [panel.job_id, self.visit], [self.problem, *panel.new, self.visit, self.history], **LONG
            )

        gr.on(
            [self.prompt.change, self.model.change], self.renew_chips, [self.prompt, self.model, self.tokens_of],
            [self.tokens, self.layers, self.tokens_of], trigger_mode="always_last", **QUIET,
        )  # fmt: skip
        self.last.click(lambda of: of[2][-1:], self.tokens_of, self.tokens, queue=False, **QUIET)
        self.all.click(lambda of: of[2], self.tokens_of, self.tokens, queue=False, **QUIET)
        self.examples.click(self.example, [self.examples, self.model], filled, **QUIET)
        self.blocks.unload(self.leave)

    # What happens

    async def ask(self, request: gr.Request, *values) -> AsyncIterator[dict]:
        """Make the requests of the inputs as they are, and follow them; one that can't be is said, no more."""
        *inputs, tokens_of, compare, other_model, other_target_layer, other_amplifiers, job_a, job_b, visit = values
        jobs = {}
        try:
            every = [self._read(inputs, tokens_of)]
            if compare:
                other = {"model": other_model, "target_layer": other_target_layer, "amplifiers": other_amplifiers}
                every.append(await asyncio.to_thread(self._beside, every[0], other))
            own = {id for _, id in visit}  # a request that another visitor's link shows is not ours to stop
            self.stop_reading(*own & {job_a, job_b})
            for panel, one in zip((self.a, self.b), every, strict=False):
                jobs[panel] = await asyncio.to_thread(self.desk.submit, one)
        except InputError as error:
            self.stop_reading(*(job.id for job in jobs.values()))
            yield {self.problem: view.error(str(error))}
            return
        first = {self.problem: "", self.beside: gr.update(visible=compare)} | self._remember(visit, jobs.values())
        async for changes in self.follow(request, jobs, first):
            yield changes

    def _beside(self, settings: Settings, changes: dict) -> Settings:
        """The settings of the second panel: the same pieces of the prompt, in its model's own tokens."""
        other = replace(settings, **changes)
        if other.model != settings.model:
            card, other_card = self.desk.card(settings.model), self.desk.card(other.model)
            settings.plan(card).items(card)  # its errors first
            other = replace(other, tokens=same_tokens(settings.prompt, settings.tokens, card, other_card))
        return other

    def _read(self, inputs: list, tokens_of: tuple) -> Settings:
        """The inputs as settings; tokens chosen of another prompt are not these tokens.

        Raises:
            InputError: a number that is none.
        """
        prompt, model, tokens, components, layers, target_layer, amplifiers, target_prompt, new_tokens, threshold = (
            inputs
        )
        if (model, prompt) != tuple(tokens_of[:2]):
            tokens = [-1]
        for name, value in (("max_new_tokens", new_tokens), ("threshold", threshold)):
            if value is None:
                raise InputError(name, value, "expected a number")
        return Settings(
            prompt, model, tuple(tokens or ()), tuple(components or ()), layers.strip(), str(target_layer or "").strip(),
            amplifiers, target_prompt, int(new_tokens), float(threshold),
        )  # fmt: skip

    def _remember(self, visit: list, jobs: Iterable[Job]) -> dict:
        """What changes when requests join the history of a visit."""
        visit = [*visit, *((_label(job), job.id) for job in jobs)][-MOST_REMEMBERED:]
        return {self.visit: visit, self.history: gr.update(choices=visit, value=None)}

    def stop_reading(self, *ids: str) -> None:
        """Stop these requests after the batch in hand; what was read is kept."""
        for id in ids:
            if job := self.desk.find(id):
                self.desk.stop(job)

    async def follow(self, request: gr.Request, jobs: dict[Panel, Job], first: dict) -> AsyncIterator[dict]:
        """What changes on the page while requests are served, beginning with `first`."""
        mine = {panel: (request.session_hash, panel.name) for panel in jobs}
        for panel, job in jobs.items():
            self._followed[mine[panel]] = job.id
            positions = job.items["position"].unique().tolist()
            first |= {
                panel.job_id: job.id,
                panel.query: f"{job.settings.link()}&run={job.id}",
                panel.position: gr.update(
                    choices=[(chip(job.tokens[at]), at) for at in positions], value=positions[-1],
                    visible=len(positions) > 1,
                ),
                panel.cell: "",
                panel.ladder: "",
            }  # fmt: skip
        shown = {}
        while jobs:
            jobs = {panel: job for panel, job in jobs.items() if self._followed.get(mine[panel]) == job.id}
            over = [panel for panel, job in jobs.items() if job.is_over]  # before it is looked at for the last time
            now = {}
            for panel, job in jobs.items():
                now |= {panel.status: view.status(self.desk, job), panel.pulse: _pulse(job)}
            changed = first | {component: value for component, value in now.items() if shown.get(component) != value}
            if changed:
                yield changed
            shown, first = shown | now, {}
            jobs = {panel: job for panel, job in jobs.items() if panel not in over}
            await asyncio.sleep(REFRESH)

    def leave(self, request: gr.Request) -> None:
        """Forget a page that was closed; its requests go on, and are found by their links."""
        for panel in (self.a, self.b):
            self._followed.pop((request.session_hash, panel.name), None)

    def ask_for_rest(self, panel: Panel) -> Callable:
        """Ask for all tokens and layers of a panel's request, and follow it; what was read stays as it is."""

        async def ask(id: str, visit: list, request: gr.Request) -> AsyncIterator[dict]:
            if not (job := self.desk.find(id)):
                return
            try:
                job = await asyncio.to_thread(self.desk.submit, panel.rest_of(job))
            except InputError as error:
                yield {self.problem: view.error(str(error))}
                return
            async for changes in self.follow(request, {panel: job}, self._remember(visit, [job])):
                yield changes

        return ask

    def renew_chips(self, prompt: str, model: str, tokens_of: tuple) -> dict:
        """The chips of what was typed; those that came with a link or an example stay as they are."""
        return {self.tokens: gr.skip()} if (model, prompt) == tuple(tokens_of[:2]) else self.chips(prompt, model)

    def chips(self, prompt: str, model: str, chosen: tuple[int, ...] = (-1,)) -> dict:
        """A prompt's tokens to choose from, the last one chosen; the layers that the model has."""
        try:
            card = self.desk.card(model)
            check_length("prompt", prompt)
            tokens = card.decoded_tokens(prompt) if prompt.strip() else []
        except InputError as error:
            return {
                self.tokens: gr.update(choices=[], value=[], info=escape(str(error))),
                self.tokens_of: (model, prompt, []),
            }
        positions = list(range(len(tokens)))[-MOST_CHIPS:]
        value = list(dict.fromkeys(at % len(tokens) for at in chosen if -len(tokens) <= at < len(tokens)))
        left_out = len(tokens) - len(positions)
        return {
            self.tokens: gr.update(
                choices=[(chip(tokens[at]), at) for at in positions],
                value=[at for at in value if at in positions],
                info=f"the last {len(positions)} of {len(tokens):,}" if left_out else "",
            ),
            self.layers: gr.update(label=f"Layers, of 0–{card.num_layers - 1}"),
            self.tokens_of: (model, prompt, positions),
        }

    def fill(self, settings: Settings) -> dict:
        """All inputs, as these settings have them."""
        chips = self.chips(settings.prompt, settings.model, settings.tokens)
        values = dict(zip(self._settings, vars(settings).values(), strict=True)) | chips
        values[self.layers] = chips.get(self.layers, gr.update()) | {"value": settings.layers}
        values[self.components] = [name for name in settings.components if name in COLUMNS]
        if settings.model not in self.desk.models:
            del values[self.model]
        return values

    async def arrive(self, request: gr.Request) -> AsyncIterator[dict]:
        """What a link asks for; without one, the paper's first example. Then what the desk does, until it is ready."""
        query = dict(request.query_params)
        usual = {"model": self.desk.model, "prompt": EXAMPLES[0][0]}
        yield {self.a.status: view.status(self.desk, None)}
        try:
            settings = Settings.of_link(query, **usual)
            card = await asyncio.to_thread(self.desk.card, settings.model)
            if "layers" not in query and card.num_layers <= 7:  # too few for the paper's
                settings = replace(settings, layers="all")
        except InputError as error:
            settings = Settings(**usual)
            yield {self.problem: view.error(str(error))}
        filled = await asyncio.to_thread(self.fill, settings)
        if job := self.desk.find(query.get("run", "")):
            async for changes in self.follow(request, {self.a: job}, filled):
                yield changes
            return
        yield filled
        key = (request.session_hash, self.a.name)
        while key not in self._followed and not self.desk.is_ready:
            await asyncio.sleep(REFRESH)
            yield {self.a.status: view.status(self.desk, None)}
        if key not in self._followed:
            yield {self.a.status: view.status(self.desk, None)}

    async def again(self, id: str, visit: list, request: gr.Request) -> AsyncIterator[dict]:
        """An earlier request of this visit: its settings, and what was read."""
        job = self.desk.find(id) if id in [one for _, one in visit] else None
        if job:
            filled = await asyncio.to_thread(self.fill, job.settings)
            async for changes in self.follow(request, {self.a: job}, filled):
                yield changes

    def example(self, number: int, model: str) -> dict:
        """An example of the paper."""
        prompt, components, target_layer, amplifiers, layers = EXAMPLES[number]
        return self.fill(Settings(prompt, model, (-1,), components, layers, target_layer, in_words(amplifiers)))


def _pulse(job: Job) -> str:
    return f"{job.id} {job.state} {len(job.readings)}"


def _label(job: Job) -> str:
    one = job.settings
    vectors = "+".join(view.TITLES[name].split()[0] for name in one.components)
    what = f"{one.prompt[:40]} · {vectors} · α {one.amplifiers[:30]} · layers {one.layers} into {one.target_layer}"
    return f"{what} · {one.model} · {time.strftime('%H:%M:%S')}"
