"""Read given vectors: the plans that a request means, beside what chance would give, and the table of what to believe."""

import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from .. import InputError
from ..judging.criteria import DECIMALS, choose
from ..judging.judge import Judge
from ..models.load import LanguageModel
from ..models.vector_files import VectorFile
from ..words.components import GENTLE_GRID, GIVEN, WAYS, into
from ..words.files import slug
from ..words.target import TargetPrompt
from ..words.vectors import (
    MOST_ROWS,
    NOTHING,
    Vector,
    VectorPlan,
    VectorSettings,
    make_vector_plan,
    of_expressions,
    random_like,
)
from .results import FIRST_ITEM
from .sweep import sweep

CRITERION = "agreement_amplifiers"
OF_VECTOR = ["source prompt", "layer"]
SHOWN = [*OF_VECTOR, "target layer", "token", "amplification value", "result", FIRST_ITEM, "status"]
WORD = r"\w\w"  # what a reading that says something has at least
LONGEST_NAME = 40  # letters of a file's name that is made from an expression


class Request:
    """What a request for vectors means: the vectors, looked up and checked, and the plans that read them.

    Attributes:
        vectors: in order.
        plans: of the vectors; of the random directions beside them, if any; and of nothing patched.

    Args:
        most: how many vectors there may be.

    Raises:
        InputError: names the parameter, what was given and what is allowed.
    """

    def __init__(self, asked: VectorSettings, most: int = MOST_ROWS):
        self.asked, self.width = asked, 0
        self.vectors = self._looked_up()
        if len(self.vectors) > most:
            raise InputError("vectors", f"{len(self.vectors):,}", f"at most {most:,} here")
        shared = {
            "layers": asked.layers, "target_prompt": TargetPrompt.of_text(asked.target_prompt),
            "max_new_tokens": asked.max_new_tokens, "stop_at_item": asked.stop_at_item,
        }  # fmt: skip
        component = GIVEN if asked.way == "plain" else f"{asked.way}[{GIVEN}]"
        amplifiers = asked.amplifiers or WAYS[asked.way].grid or GENTLE_GRID

        def plan(vectors: Sequence[Vector], component: str = component, target=asked.target_layer, width: int = 0) -> VectorPlan:
            return make_vector_plan(vectors, component, amplifiers=amplifiers, target_layer=target, width=width, **shared)

        self.plans = [plan(self.vectors, width=self.width)]
        if asked.random:
            self.plans.append(plan(random_like(self.vectors if self.are_alike else [None], asked.random, asked.seed)))
        self.plans.append(plan([NOTHING], "none", 0))

    @property
    def are_alike(self) -> bool:
        """Tell whether each vector needs random directions of its own: as long as it, or for the layer that it is of.

        In the other ways a vector's length plays no part, and the same directions are chance for all.
        """
        return self.asked.way == "plain" or "same" in self.asked.target_layer

    @property
    def name(self) -> str:
        """Return what the CSV is called, without its ending."""
        if self.asked.name:
            return slug(self.asked.name)
        if self.asked.is_file:
            return slug(self.asked.file.stem)
        short = "-".join(re.findall(r"[a-z0-9]+", self.asked.vectors.lower()))[:LONGEST_NAME].strip("-")
        return f"{short}-{hashlib.sha256(self.asked.vectors.encode()).hexdigest()[:4]}"

    def _looked_up(self) -> list[Vector]:
        asked = self.asked
        asked.check()
        if not asked.is_file:
            return of_expressions(asked.vectors, asked.component, asked.may_read_files)
        file = VectorFile(asked.file)
        self.width = file.width
        return file.vectors(asked.rows, asked.names, asked.layer)


def read(
    lm: LanguageModel,
    vectors: str | Path | Sequence[str],
    progress: Callable[[int, int], None] | None = None,
    judge: Judge | None = None,
    **settings,
) -> pd.DataFrame:
    """Read given vectors, random directions beside them, and what the model writes when nothing is patched.

    Args:
        vectors: a file of vectors, or an expression or several; see `words.expressions` and docs/any-vector.md.
        progress: called after each batch with (rows done, rows in all).
        judge: the paper's if left out.
        settings: names, rows, tensor, layer, component, layers, way ("norm"), amplifiers, target_layer (0), random (20),
            …: see `words.vectors.VectorSettings`.

    Returns:
        A row per reading in the row schema; `source prompt` is a vector's name. `believed` makes a table of them, a row
        per vector. `.attrs` says what made it.

    Raises:
        InputError: names the parameter, what was given and what is allowed.
    """
    asked = VectorSettings.of({"model": lm.name, **settings, "vectors": vectors})
    rows = sweep(lm, Request(asked).plans, batch_size=asked.batch_size or None, progress=progress, judge=judge)
    rows.attrs["settings"] = asked.shown()
    return rows


def believed(rows: pd.DataFrame, judge: Judge | None = None) -> pd.DataFrame:
    """Return one reading per vector, source layer and target layer, chosen blind, beside what chance would give.

    Of a vector's readings the one that agrees most with those at its other amplifiers is believed. How much it does so,
    less how much it agrees with the readings of random directions, is its `contrast`: words that a model writes of
    anything have none. The random directions go through the same choice.

    Args:
        rows: of `read`.

    Returns:
        The chosen rows' `source prompt`, `layer`, `target layer`, `token`, `amplification value`, `result`, and `reading`, its
        first item;
        `agreement`, the mean cosine with the vector's other readings;
        `contrast`, the same less the mean cosine with the readings of random directions;
        `random as high`, of how many random directions the contrast is at least as high, of `random`;
        `highest random`, the highest contrast of them; `chance`, (`random as high` + 1) / (`random` + 1);
        `like the others`, the mean cosine with the readings believed of the other vectors;
        `like nothing`, the cosine with what the model writes when nothing is patched.
        `status`, blank where no reading has a word. Numbers are empty where there is nothing to compare with: a single amplifier, no random directions, a single vector.
    """
    judge = judge or Judge()
    nothing, rows = rows[rows["component"] == "none"], rows[rows["component"] != "none"]
    is_blank = (rows["status"] == "ok") & ~rows[FIRST_ITEM].str.contains(WORD)
    rows = rows.assign(status=rows["status"].mask(is_blank, "blank"))  # it says nothing: agreeing in that is no sign
    if rows.groupby([*OF_VECTOR, "target layer"])["amplification value"].nunique().max() > 1:
        words_first = rows.sort_values("status", key=lambda status: status != "ok", kind="stable")  # where none agrees
        chosen = choose(words_first, CRITERION, judge)
    else:
        chosen = rows.assign(**{CRITERION: np.nan})
    texts = sorted({*rows[FIRST_ITEM], *nothing[FIRST_ITEM]})
    embedded = dict(zip(texts, judge.embedded(texts), strict=True))
    own, chance, found = chosen[chosen["token"] != "random"], {}, []
    for _, row in own.iterrows():
        pool, rivals = _random_beside(rows, row), _random_beside(chosen, row)
        pool = pool[pool["status"] == "ok"]
        key = tuple(rivals.index)
        if key not in chance:  # it is the same for many vectors
            chance[key] = np.array([_contrast(rival, pool, embedded) for _, rival in rivals.iterrows()])
        contrast = _contrast(row, pool, embedded)
        compared = 0 if np.isnan(contrast) else int((~np.isnan(chance[key])).sum())
        as_high = int((chance[key] >= contrast).sum())
        others = own[(own["source prompt"] != row["source prompt"]) & (own["status"] == "ok")]
        is_ok = row["status"] == "ok"
        found.append({
            "agreement": row[CRITERION], "contrast": contrast, "random as high": as_high if compared else pd.NA,
            "random": compared, "highest random": np.nanmax(chance[key]) if compared else np.nan,
            "chance": (as_high + 1) / (compared + 1) if compared else np.nan,
            "like the others": _mean_cosine(row, others, embedded) if is_ok else np.nan,
            "like nothing": _mean_cosine(row, nothing, embedded) if is_ok else np.nan,
        })  # fmt: skip
    numbers = pd.DataFrame(found, index=own.index).astype({"random as high": "Int64"}).round(DECIMALS)
    table = own[SHOWN].rename(columns={FIRST_ITEM: "reading"}).join(numbers).reset_index(drop=True)
    table.attrs = rows.attrs
    return table


def explained(asked: VectorSettings, table: pd.DataFrame, rows: pd.DataFrame) -> list[str]:
    """Return what the columns of `believed` mean, and what the model writes of nothing, in lines."""
    target = " and ".join(into(layer) for layer in asked.target_layer)
    lines = [
        f"Put at the placeholder, {target}: {WAYS[asked.way].formula}. Of each vector the reading that agrees most with "
        "those at its other amplifiers.",
    ]
    if asked.random and table["random"].any():
        lines.append(
            "contrast: how much it agrees with them, less how much with the readings of random directions; random: how "
            "many of those have a contrast as high, chosen in the same way."
        )
    for nothing in rows.loc[rows["component"] == "none", FIRST_ITEM]:
        lines.append(f"nothing: how much it is like what the model writes when nothing is patched, “{nothing}”.")
    return lines


def _random_beside(rows: pd.DataFrame, vector: pd.Series) -> pd.DataFrame:
    """Return the rows of the random directions that a vector is compared with: its own, or those that are for all."""
    rows = rows[(rows["token"] == "random") & (rows["target layer"] == vector["target layer"])]
    own = rows["source prompt"].str.endswith(f" like {vector['source prompt']}") & (rows["layer"] == vector["layer"])
    return rows[own | rows["source prompt"].str.fullmatch(r"random \d+")]


def _contrast(row: pd.Series, pool: pd.DataFrame, embedded: dict[str, np.ndarray]) -> float:
    """Return how much more a reading agrees with its vector's than with those of other vectors of a pool."""
    if row["status"] != "ok":
        return np.nan
    others = pool[pool["source prompt"] != row["source prompt"]]
    return round(row[CRITERION] - _mean_cosine(row, others, embedded), DECIMALS)


def _mean_cosine(row: pd.Series, others: pd.DataFrame, embedded: dict[str, np.ndarray]) -> float:
    text = embedded[row[FIRST_ITEM]]
    return float(np.mean([text @ embedded[other] for other in others[FIRST_ITEM]])) if len(others) else np.nan
