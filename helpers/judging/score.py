"""The score columns: similarity of a reading to its prompt, of its first item, and to the gold description."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from ..words.chats import plain_text
from ..words.components import GIVEN
from ..words.rows import DIGITS
from ..words.target import TargetPrompt
from ..words.vectors import NOTHING
from .judge import Judge


def first_items(rows: pd.DataFrame) -> list[str]:
    """Return the first list item of each reading: the in-memory column `first item`, which knows where each row's
    target prompt ends an item; or what ends at the paper's separator, in rows without that column.
    """
    if "first item" in rows:
        return rows["first item"].tolist()
    return [TargetPrompt().first_item(text) for text in rows["result"]]


def _prompts(rows: pd.DataFrame) -> list[str | None]:
    """Return each row's source prompt, of a chat what is said in it; None where it is but the name of a given vector."""
    prompts = [plain_text(prompt) for prompt in rows["source prompt"]]
    kinds = rows["component"].tolist() if "component" in rows else [""] * len(rows)
    return [
        None if GIVEN in kind or prompt == NOTHING.name else prompt for prompt, kind in zip(prompts, kinds, strict=True)
    ]


def score(rows: pd.DataFrame, judge: Judge | None = None, gold: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Return rows with their scores: of the whole result, of its first item, and by gold where there is one.

    Args:
        rows: in the row schema; complete, since scores are computed over all distinct texts at once and then rounded.
        judge: the paper's if left out.
        gold: source prompt -> a true short description.

    Returns:
        A copy with `score`, `score first item` and `score gold`; empty where status isn't ok, and where there is no
        prompt to compare with, but the name of a given vector.
    """
    results, items, prompts = rows["result"].tolist(), first_items(rows), _prompts(rows)
    golds = [(gold or {}).get(prompt) for prompt in rows["source prompt"]]
    truths = {text for text in (*prompts, *golds) if text is not None}
    texts = sorted({*results, *items, *truths}) if truths else []
    vectors = dict(zip(texts, (judge or Judge()).embed(texts), strict=True)) if texts else {}
    ok = (rows["status"] == "ok").tolist()

    def cosines(column: str, texts: list[str], truths: list[str | None]) -> list[float]:
        return [
            round(float(vectors[text] @ vectors[truth]), DIGITS[column]) if good and truth is not None else np.nan
            for text, truth, good in zip(texts, truths, ok, strict=True)
        ]

    pairs = {"score": (results, prompts), "score first item": (items, prompts), "score gold": (results, golds)}
    return rows.assign(**{column: cosines(column, *pair) for column, pair in pairs.items()})
