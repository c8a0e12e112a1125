"""Tokens to choose from, which change while a visitor types."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import gradio as gr
from gradio import component_meta

from ..models.pieces import Piece


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
    text = token.strip() or {"\n": "⏎"}.get(token, "␣")
    letter, space, part = text.partition(" ")
    return text if any(map(str.isprintable, letter)) else f"U+{ord(letter[0]):04X}{space}{part}"


def with_bytes(pieces: Sequence[Piece]) -> str:
    """Return what `CHIPS` looks up: of each chip that is a part of a letter, its bytes."""
    return f"<span hidden data-bytes='{json.dumps([piece.in_hex if piece.parts > 1 else '' for piece in pieces])}'></span>"


CHIPS = """
let last = null, shift = false;
const labels = () => [...document.querySelectorAll('#tokens label')];
document.addEventListener('mouseover', event => {
  const label = event.target.closest?.('#tokens label');
  if (!label) return;
  const bytes = JSON.parse(element.querySelector('[data-bytes]')?.dataset.bytes || '[]')[labels().indexOf(label)];
  label.title = bytes ? `bytes ${bytes}` : '';
});
document.addEventListener('click', event => {
  const box = event.target.closest?.('#tokens label')?.querySelector('input');
  if (!box) return;
  if (event.target !== box) { shift = event.shiftKey; return; }  // a click on the text becomes one on the box
  const range = shift || event.shiftKey;
  shift = false;
  const boxes = labels().map(label => label.querySelector('input')), at = boxes.indexOf(box), from = last;
  last = at;
  if (!range || from === null || from >= boxes.length) return;
  const wanted = box.checked;
  setTimeout(() => boxes.slice(Math.min(from, at), Math.max(from, at) + 1)
    .filter(one => one.checked !== wanted).forEach(one => one.click()));
});
"""
