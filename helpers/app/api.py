"""The same, for programs: named endpoints of Gradio's client. Their docstrings are what its API page shows."""

import asyncio
import json
from html import escape

import gradio as gr

from .. import InputError
from .desk import Desk
from .settings import COLUMNS, MARKED, Settings, check_length


def add_api(desk: Desk) -> None:
    """Add the endpoints to the page that is being built."""

    def models() -> list[str]:
        """Models that can be asked."""
        return desk.models

    def tokens(prompt: str, model: str = desk.model) -> list[str]:
        """The prompt's tokens, by position."""
        with _errors():
            check_length("prompt", prompt)
            return desk.card(model).decoded_tokens(prompt)

    async def interpret(
        prompt: str,
        tokens: list[int] = [-1],  # noqa: B006  Gradio reads defaults from the signature
        components: list[str] = list(COLUMNS[:3]),  # noqa: B006
        layers: str = "1-7",
        target_layer: str = "same",
        amplifiers: str = "1, 3, 6, 9, 12, 15",
        target_prompt: str = MARKED,
        max_new_tokens: int = 10,
        model: str = desk.model,
    ) -> list[dict]:
        """Read vectors of a prompt, as the page does; a row per reading, in the columns of the CSV."""
        with _errors():
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


class _errors:
    """Bad input as an error that the client is told of."""

    def __enter__(self):
        pass

    def __exit__(self, kind, error, trace):
        if isinstance(error, InputError):
            raise gr.Error(escape(str(error), quote=False)) from None
        if isinstance(error, TypeError | ValueError | AttributeError):
            raise gr.Error("a parameter is of another kind than the API page says") from None
