"""The page for programs: named endpoints of Gradio's client. Its API page shows their docstrings."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory

import gradio as gr
import numpy as np

from .. import InputError
from ..words.rows import ROW_COLUMNS, WEIGHED_COLUMNS
from .desk import Desk
from .guard import visitor
from .jobs import Request
from .panel import REFRESH
from .settings import PageSettings, check_length
from .vector_settings import MOST_BYTES, AskedVectors

USUAL = PageSettings()


def add_api(desk: Desk, folder: Path) -> None:
    """Add the endpoints to the page that is being built.

    Args:
        folder: where numbers that a client sends are kept while they are read.
    """

    def models() -> list[str]:
        """Models that can be asked."""
        return desk.models

    def tokens(prompt: str, model: str = desk.model) -> list[str]:
        """The prompt's tokens, by position."""
        with _bad_input_as_answer():
            check_length("prompt", prompt)
            return desk.card(model).decoded_tokens(prompt)

    async def interpret(
        prompt: str,
        tokens: list[int] = list(USUAL.tokens),  # noqa: B006  Gradio reads defaults from the signature
        components: list[str] = list(USUAL.components),  # noqa: B006
        layers: str = USUAL.layers,
        target_layer: str = USUAL.target_layer,
        amplifiers: str = USUAL.amplifiers,
        target_prompt: str = USUAL.target_prompt,
        max_new_tokens: int = USUAL.max_new_tokens,
        model: str = desk.model,
        request: gr.Request = None,
    ) -> list[dict]:
        """Read vectors of a prompt, as the page does; a row per reading, in the columns of the CSV: also how likely it is
        right (confidence), and whether it is the one of its vector (chosen: blind, similarity, or both).
        """
        given = {
            "prompt": prompt, "model": model, "tokens": tokens, "components": components, "layers": layers,
            "target_layer": target_layer, "amplifiers": amplifiers, "target_prompt": target_prompt,
            "max_new_tokens": max_new_tokens,
        }  # fmt: skip
        with _bad_input_as_answer():
            job = await asyncio.to_thread(lambda: desk.submit(PageSettings.of(given), visitor(request)))
        await over(job)
        if job.rows is None:
            return []
        return json.loads(job.rows[[*ROW_COLUMNS, *WEIGHED_COLUMNS]].to_json(orient="records"))

    async def label(
        prompt: str,
        labels: str,
        tokens: list[int] = list(USUAL.tokens),  # noqa: B006
        components: list[str] = ["hidden_state"],  # noqa: B006
        layers: str = USUAL.layers,
        target_layer: str = "0",
        amplifiers: str = "1, 2",
        target_prompt: str = USUAL.target_prompt,
        model: str = desk.model,
        request: gr.Request = None,
    ) -> list[dict]:
        """Ask which of a few labels ("band, person, country") vectors of a prompt are, as the page's "Is it…" does; a
        row per vector and label, with its probability, and by chance.
        """
        given = {
            "prompt": prompt, "model": model, "tokens": tokens, "components": components, "layers": layers,
            "target_layer": target_layer, "amplifiers": amplifiers, "target_prompt": target_prompt,
        }  # fmt: skip
        with _bad_input_as_answer():
            question = await asyncio.to_thread(lambda: desk.ask(PageSettings.of(given), labels, visitor(request)))
        await over(question)
        return json.loads(question.rows.to_json(orient="records", double_precision=6))

    async def read(
        vectors: str = "",
        numbers: list[list[float]] = [],  # noqa: B006
        component: str = "hidden_state",
        layers: str = "1-7",
        way: str = "norm",
        amplifiers: str = "",
        target_layer: str = "0",
        target_prompt: str = USUAL.target_prompt,
        random: int = 20,
        max_new_tokens: int = USUAL.max_new_tokens,
        model: str = desk.model,
        request: gr.Request = None,
    ) -> list[dict]:
        """Read given vectors, as the page's second tab does: an expression, like '"King" - "Man" + "Woman"', or numbers, a
        list per vector; a row per vector, with the reading to believe and what chance would give.
        """
        given = {
            "vectors": vectors, "component": component, "layers": layers, "way": way, "amplifiers": amplifiers,
            "target_layer": target_layer, "target_prompt": target_prompt, "random": random, "max_new_tokens": max_new_tokens,
            "model": model,
        }  # fmt: skip
        with TemporaryDirectory(dir=folder) as kept:
            with _bad_input_as_answer():
                given["target_layer"] = AskedVectors.read("target_layer", target_layer)
                if numbers:
                    given["upload"] = str(Path(kept) / "numbers.npy")
                    np.save(given["upload"], _table(numbers))
                job = await asyncio.to_thread(
                    lambda: desk.submit(AskedVectors.of_visitor(given), visitor(request))
                )
            await over(job)
        return json.loads(job.table.to_json(orient="records", double_precision=6))

    async def over(job: Request) -> None:
        """Wait for a request, and answer the client with why it failed, if it did."""
        try:
            while not job.is_over:
                await asyncio.sleep(REFRESH)
        finally:
            desk.stop(job)  # the client is gone, or has its answer
        if job.state != "done":
            raise gr.Error(escape(job.message or "stopped before it was done", quote=False))

    gr.api(models, api_name="models")
    gr.api(tokens, api_name="tokens")
    gr.api(interpret, api_name="interpret", concurrency_limit=None)
    gr.api(label, api_name="label", concurrency_limit=None)
    gr.api(read, api_name="read", concurrency_limit=None)


def _table(numbers: object) -> np.ndarray:
    """Return numbers that a client sent: (vectors, width) float32.

    Raises:
        InputError: too many, or no list of lists of the same length.
    """
    most = MOST_BYTES // 4
    if sum(len(row) for row in numbers) > most:
        raise InputError("numbers", f"{len(numbers):,} lists", f"at most {most:,} numbers here")
    table = np.asarray(numbers, dtype=np.float32)
    if table.ndim != 2:
        raise InputError("numbers", f"{len(numbers):,} lists", "expected a list of numbers per vector")
    return table


@contextmanager
def _bad_input_as_answer() -> Iterator[None]:
    """Answer the client with what is wrong with its input."""
    try:
        yield
    except InputError as error:
        raise gr.Error(escape(str(error), quote=False)) from None
    except (TypeError, ValueError, AttributeError):
        raise gr.Error("a parameter is of another kind than the API page says") from None
