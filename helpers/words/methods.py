"""How a reading is chosen among several of one vector, and how each such method looks in every figure."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import pandas as pd


class Method(NamedTuple):
    """A way to choose among the readings of one vector.

    Attributes:
        name: in tables and sentences.
        label: in legends.
        adjective: of a reading of it, in a sentence: "plain", "amplified".
        colour, marker: in figures; colours are told apart in every common colour blindness.
        choose: (rows) -> bool per row, the readings among which the best counts. It sees columns of the row schema,
            never a score.
    """

    name: str
    label: str
    adjective: str
    colour: str
    marker: str
    choose: Callable[[pd.DataFrame], pd.Series]


METHODS = {
    method.name: method
    for method in (
        Method("Patchscopes", "Patchscopes (α = 1)", "plain", "#D55E00", "s", lambda rows: rows["amplification value"] == 1),
        Method(
            "Superscopes", "Superscopes (best of the amplified)", "amplified", "#0072B2", "o",
            lambda rows: rows["amplification value"] != 1,
        ),
    )
}  # fmt: skip
PLAIN, AMPLIFIED = METHODS["Patchscopes"], METHODS["Superscopes"]
CHOSEN_BLIND = "chosen blind"  # a column of rows in memory: whether a reading is the one of its vector
BLIND = Method(  # whose rows say what was chosen; the others' say what there is to choose from
    "Chosen blind", "Superscopes (one reading, chosen blind)", "blind", "#009E73", "D",
    lambda rows: rows[CHOSEN_BLIND].astype(bool),
)  # fmt: skip
CHOICES = {  # by what a reading of a vector is chosen -> the method, in words
    "blind": (BLIND, "chosen without the prompt"),
    "similarity": (AMPLIFIED, "chosen by similarity to the prompt"),
}
