"""Tokens to choose from, which change while a visitor types."""

from collections.abc import Iterator
from contextlib import contextmanager

import gradio as gr
from gradio import component_meta


@contextmanager
def _without_stub_files() -> Iterator[None]:
    """Keep Gradio from writing a .pyi beside the source of each new component."""
    write = component_meta.create_or_modify_pyi
    component_meta.create_or_modify_pyi = lambda *_: None
    try:
        yield
    finally:
        component_meta.create_or_modify_pyi = write


with _without_stub_files():

    class Chips(gr.CheckboxGroup):
        """Several positions of tokens.

        Gradio would refuse a chip that was chosen but has changed by now, with an error of its own, and the click would
        be lost. Positions pass through here as they are; the settings check them, in a sentence.
        """

        is_template = True

        def preprocess(self, payload: object) -> list[int]:
            return [position for position in payload if isinstance(position, int)] if isinstance(payload, list) else []

    class OneChip(gr.Radio):
        """A single position, likewise."""

        is_template = True

        def preprocess(self, payload: object) -> int | None:
            return payload if isinstance(payload, int) else None


def chip(token: str) -> str:
    """Return a token as the label of a chip."""
    return token.strip() or {"\n": "⏎"}.get(token, "␣")
