"""The same, for programs: named endpoints of Gradio's client. Their docstrings are what its API page shows."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape

import gradio as gr

from .. import InputError
from .desk import Desk
from .settings import Settings, check_length


def add_api(desk: Desk) -> None:
    """Add the endpoints to the page that is being built."""

    def models() -> list[str]:
        """Models that can be asked."""
        return desk.models

    def tokens(prompt: str, model: str = desk.model) -> list[str]:
        """The prompt's tokens, by position."""
        with _told():
            check_length("prompt", prompt)
            return desk.card(model).decoded_tokens(prompt)

    async def interpret(
        prompt: str,
        tokens: list[int] = [-1],  # noqa: B006  Gradio reads defaults from the signature
        components: list[str] = list(Settings.components),  # noqa: B006
        layers: str = Settings.layers,
        target_layer: str = Settings.target_layer,
        amplifiers: str = Settings.amplifiers,
        target_prompt: str = Settings.target_prompt,
        max_new_tokens: int = Settings.max_new_tokens,
        model: str = desk.model,
    ) -> list[dict]:
        """Read vectors of a prompt, as the page does; a row per reading, in the columns of the CSV."""
        with _told():
            settings = Settings(
                prompt, model, tuple(tokens), tuple(components), layers, str(target_layer), amplifiers, target_prompt,
                max_new_tokens,
            )  # fmt: skip
            job = await asyncio.to_thread(desk.submit, settings)
        try:
            while not job.is_over:
                await asyncio.sleep(0.05)
        finally:
            desk.stop(job)  # nobody waits for it any more
        if job.state != "done":
            raise gr.Error(escape(job.message or "stopped before it was done", quote=False))
        return json.loads(job.rows.to_json(orient="records")) if job.rows is not None else []

    gr.api(models, api_name="models")
    gr.api(tokens, api_name="tokens")
    gr.api(interpret, api_name="interpret", concurrency_limit=None)


@contextmanager
def _told() -> Iterator[None]:
    """Bad input as an error that the client is told of."""
    try:
        yield
    except InputError as error:
        raise gr.Error(escape(str(error), quote=False)) from None
    except (TypeError, ValueError, AttributeError):
        raise gr.Error("a parameter is of another kind than the API page says") from None
