"""The lens columns of a table of rows: what the logit lens says of each row's vector."""

import json
from itertools import groupby

import pandas as pd
import torch

from ..engine.activations import CapturedPrompts
from ..engine.vectors import vector_of
from ..models.load import LanguageModel
from ..words.components import COMPONENTS, COMPOSED, Component, parse_component
from ..words.rows import ITEM_COLUMNS, Item
from .logit import vocabulary

COLUMN, TOKENS = "logit lens", 5


def with_lens(lm: LanguageModel, rows: pd.DataFrame, k: int = TOKENS) -> pd.DataFrame:
    """Return rows with the column `logit lens`: the likeliest tokens of each vector, as a JSON list.

    A vector is read as its component was, before it was amplified or centred: each is read once for all of its
    amplifiers. Controls, which have no vector of the prompt, stay empty.

    Args:
        rows: in the row schema, of this model.
        k: tokens of each list.
    """
    rows = rows.assign(**{COLUMN: pd.array([""] * len(rows), "str")})
    read: dict[Item, list] = {}
    for index, row in zip(rows.index, rows.to_dict("records"), strict=True):
        item = Item(**{field: row[name] for name, field in ITEM_COLUMNS.items()})
        if item := _read_as(item, parse_component(item.component)):
            read.setdefault(item, []).append(index)
    order = list(dict.fromkeys(item.source_prompt for item in read))
    items = sorted(read, key=lambda item: order.index(item.source_prompt))
    if not items:
        return rows
    sources, nothing = CapturedPrompts(lm, order), torch.zeros(lm.width)
    vectors = [
        vector_of(item, sources[prompt], nothing)
        for prompt, of in groupby(items, lambda item: item.source_prompt)  # one prompt's activations at a time
        for item in of
    ]
    for item, told in zip(items, vocabulary(lm, torch.stack(vectors), k), strict=True):
        said = json.dumps([token for token, _ in told], ensure_ascii=False) if told else ""
        rows.loc[read[item], COLUMN] = said
    return rows


def _read_as(item: Item, component: Component) -> Item | None:
    """Return what tells an item's vector, before any amplifier; None for a control."""
    if component.kind in COMPOSED:
        component = Component(component.of)
    if component.kind not in (*COMPONENTS, "guidance", "mlp_sum"):
        return None
    name = component.kind if component.kind in COMPONENTS else item.component
    weight = item.amplifier if component.kind == "guidance" else 1.0  # which is another vector for each w
    return item._replace(component=name, amplifier=weight, target_layer=0, target_prompt="", seed=None, id="")
