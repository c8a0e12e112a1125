"""The page's second tab: given vectors, those of no prompt's token; a file or an expression."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import gradio as gr

from .. import InputError
from ..runs.results import save_results
from ..words.components import COMPONENTS, WAYS
from ..words.vectors import WAYS as USUAL_WAYS
from . import given_view, view
from .desk import Desk
from .guard import visitor
from .jobs import VectorJob
from .panel import LONG, QUIET, REFRESH
from .settings import PageSettings
from .vector_settings import MOST_BYTES, SUFFIXES, AskedVectors

ABOUT = (
    '<p class="caption">A row of an SAE, a steering vector, a probe, arithmetic with prompts: each vector is read at several '
    "lengths, beside random directions that go through the same choice.</p>"
)


class VectorTab:
    """The inputs and the results of given vectors.

    Attributes:
        job_id: of the request that it shows.
        fields: setting of `AskedVectors` -> its input.
    """

    def __init__(self, desk: Desk, exports: Path):
        self.desk, self.exports = desk, exports
        self._followed: dict[str, str] = {}  # visitor -> the request that it shows
        self.job_id = gr.State("")
        usual = AskedVectors()
        with gr.Row(elem_classes="page"):
            with gr.Column(scale=1, min_width=320, elem_classes="ask"):
                gr.HTML(ABOUT, apply_default_css=False, padding=False)
                vectors = gr.Textbox(
                    usual.vectors, label="Expression", lines=2, max_lines=6, elem_id="expression",
                    info='prompts in quotes, + − * /, numbers, mean(…), unit(…), mlp.down[layer, neuron], head[" cat"]',
                )  # fmt: skip
                upload = gr.File(
                    label=f"or a file: {', '.join(SUFFIXES)}, up to {MOST_BYTES // 1_000_000} MB", type="filepath",
                    file_types=list(SUFFIXES), elem_id="upload", height=140,
                )  # fmt: skip
                with gr.Row():
                    component = gr.Dropdown(
                        [(kind.symbol, name) for name, kind in COMPONENTS.items()], value=usual.component, label="Prompts' vectors",
                        elem_id="vector-component", min_width=120,
                    )  # fmt: skip
                    layers = gr.Textbox(usual.layers, label="at layers", elem_id="vector-layers", min_width=100)
                with gr.Row():
                    way = gr.Dropdown(
                        list(USUAL_WAYS), value=usual.way, label="Put in place as", info=f"norm: {WAYS['norm'].formula}",
                        elem_id="vector-way", min_width=120,
                    )  # fmt: skip
                    amplifiers = gr.Textbox(
                        "", label="Amplifiers", info="ρ, c or α", placeholder="a grid that fits", elem_id="vector-amplifiers", min_width=100
                    )
                with gr.Row(elem_classes="go"):
                    self.go = gr.Button("Read", variant="primary", elem_id="read", min_width=0)
                    self.stop = gr.Button("Stop", elem_id="stop-vectors", min_width=0)
                    self.problem = gr.HTML("", apply_default_css=False, elem_id="vector-problem", padding=False)
                with gr.Accordion("More", open=False):
                    with gr.Row():
                        target_layer = gr.Textbox("0", label="Target layer", elem_id="vector-target", min_width=100)
                        random = gr.Number(usual.random, label="Random directions", precision=0, elem_id="vector-random", min_width=100)
                        max_new_tokens = gr.Number(
                            usual.max_new_tokens, label="New tokens", precision=0, elem_id="vector-tokens", min_width=100
                        )
                    with gr.Row():
                        rows = gr.Textbox("", label="Rows of a file", placeholder="0-99", elem_id="vector-rows", min_width=100)
                        tensor = gr.Textbox("", label="Tensor, or column", elem_id="vector-tensor", min_width=100)
                        layer = gr.Textbox("", label="Layer of a file", placeholder="none", elem_id="vector-layer", min_width=100)
                    model = gr.Dropdown(desk.models, value=desk.model, label="Model", elem_id="vector-model")
                    target_prompt = gr.Textbox(
                        PageSettings().target_prompt, label="Target prompt", info="{braces} mark the placeholder", lines=3,
                        elem_id="vector-prompt",
                    )  # fmt: skip
            with gr.Column(scale=3, min_width=320, elem_classes="answers"):
                self.status = gr.HTML("", apply_default_css=False, elem_id="status-vectors")
                self.table = gr.HTML("", apply_default_css=False, elem_id="table-vectors")
                with gr.Row(elem_classes="small"):
                    self.files = [
                        gr.DownloadButton(label, interactive=False, size="sm", elem_id=f"{name}-vectors")
                        for name, label in (("believed", "CSV: this table"), ("csv", "CSV: all readings"), ("json", "JSON: what made it"))
                    ]
        self.fields = {
            "vectors": vectors, "upload": upload, "component": component, "layers": layers, "way": way, "amplifiers": amplifiers,
            "target_layer": target_layer, "random": random, "max_new_tokens": max_new_tokens, "rows": rows, "tensor": tensor,
            "layer": layer, "model": model, "target_prompt": target_prompt,
        }  # fmt: skip
        gr.on(
            [self.go.click, vectors.submit], self.ask, [*self.fields.values(), self.job_id],
            [self.job_id, self.problem, self.status, self.table, *self.files],
            **LONG,
        )  # fmt: skip
        self.stop.click(self.stop_reading, self.job_id, **QUIET)

    def read(self, values: list) -> AskedVectors:
        """Read the inputs.

        Raises:
            InputError: names the setting, what was given and what is allowed.
        """
        given = dict(zip(self.fields, values, strict=True))
        for name in ("target_layer", "layer"):  # typed as text, lists and numbers among them
            given[name] = AskedVectors.read(name, (given[name] or "").strip())
        return AskedVectors.of_visitor(given | {"upload": given["upload"] or ""})

    def stop_reading(self, id: str) -> None:
        """Stop a request at the next token; what was read is kept."""
        if job := self.desk.find(id, VectorJob):
            self.desk.stop(job)

    async def ask(self, request: gr.Request, *values) -> AsyncIterator[dict]:
        """Ask for what the inputs say, and follow it; a wrong setting is reported, and nothing else changes."""
        *values, before = values
        try:
            job = await asyncio.to_thread(self.desk.prepare, self.read(values))
            self.stop_reading(before)
            await asyncio.to_thread(self.desk.queue_up, job, visitor(request))
        except InputError as error:
            yield {self.problem: view.error(str(error))}
            return
        first = {self.job_id: job.id, self.problem: "", self.table: ""}
        first |= {button: gr.update(interactive=False) for button in self.files}
        key, seen, over = request.session_hash, None, False
        self._followed[key] = job.id
        while not over and self._followed.get(key) == job.id:
            over = job.is_over  # noted before the last look at it
            if (now := given_view.status(self.desk, job)) != seen:
                yield first | {self.status: now}
                first, seen = {}, now
            await asyncio.sleep(REFRESH)
        if over and self._followed.get(key) == job.id:
            yield {self.table: given_view.table(job)} | await asyncio.to_thread(self._offer, job)

    def leave(self, request: gr.Request) -> None:
        """Forget a page that was closed."""
        self._followed.pop(request.session_hash, None)

    def _offer(self, job: VectorJob) -> dict:
        """Write the files of a request that is over, named as the command line names them, and offer them."""
        if job.table is None:
            return {}
        folder, name = self.exports / job.id, job.request.name
        paths = [folder / f"{name}-believed.csv", folder / f"{name}.csv"]
        try:
            for path, rows in zip(paths, (job.table, job.rows), strict=True):
                save_results(rows, path)
        except OSError as error:  # such as a full disk; what was read is still shown
            return {self.problem: view.error(f"The files can't be written: {error.strerror}.")}
        paths.append(paths[1].with_suffix(".json"))
        return {
            button: gr.update(value=str(path), interactive=True) for button, path in zip(self.files, paths, strict=True)
        }
