"""Tokens to choose from, which come and go while a visitor types."""

from collections.abc import Iterator
from contextlib import contextmanager

import gradio as gr
from gradio import component_meta


@contextmanager
def _no_file_beside_this_one() -> Iterator[None]:
    """Gradio writes a .pyi beside the source of each new component; not here."""
    own = component_meta.create_or_modify_pyi
    component_meta.create_or_modify_pyi = lambda *_: None
    try:
        yield
    finally:
        component_meta.create_or_modify_pyi = own


with _no_file_beside_this_one():

    class Chips(gr.CheckboxGroup):
        """Positions, as they come: what was chosen of chips that are gone by now is the plan's to check, in a sentence.

        Gradio's own check would refuse it with an error of its own, and the click would be lost.
        """

        is_template = True

        def preprocess(self, payload: object) -> list[int]:
            return [position for position in payload if isinstance(position, int)] if isinstance(payload, list) else []

    class OneChip(gr.Radio):
        """One position, likewise."""

        is_template = True

        def preprocess(self, payload: object) -> int | None:
            return payload if isinstance(payload, int) else None


def chip(token: str) -> str:
    """A token as the label of a chip."""
    return token.strip() or {"\n": "⏎"}.get(token, "␣")
