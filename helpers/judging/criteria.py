"""Which of several readings of a vector to believe, chosen blind: without the prompt, a description or a score.

A criterion gives each reading a number; of the readings of one vector the highest is believed. It sees what was
written and of which token, layer, component and amplifier. Prompts only tell tokens apart: with other names the choice
is the same.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from .. import InputError
from ..words.prompts import LEAST_REFERENCES
from .judge import Judge
from .more_evidence import MORE_EVIDENCE
from .score import first_items

DECIMALS = 6  # readings that say the same are equals, however a processor rounds
NEIGHBOURS = 20  # readings that an agreement is the mean of, the nearest ones
CELL = (  # tells vectors apart, and where they are put; published rows have less
    "source prompt", "position", "component", "layer", "target layer", "target component",
)  # fmt: skip
TOKEN = CELL[:2]


class Readings(NamedTuple):
    """What a criterion sees of some rows: (n,) each.

    Attributes:
        embeddings: (n, d) unit sentence embeddings of the first items.
        token, cell: numbers that tell the inspected tokens, and the vectors, apart.
        layer: source layers.
        ok: whether there is a reading.
        told: column -> what the model told of each reading (`evidence.EVIDENCE`, `more_evidence.MORE_EVIDENCE`, and
            `confidence`), where it is known.
    """

    embeddings: np.ndarray
    token: np.ndarray
    cell: np.ndarray
    layer: np.ndarray
    ok: np.ndarray
    told: Mapping[str, np.ndarray]


class Criterion(NamedTuple):
    """A way to choose one reading of a vector, blind.

    Attributes:
        name: in tables and settings.
        meaning: of its number, in a sentence.
        value: of each reading, (n,); NaN where it is not defined.
        needs: columns that the rows must have for it.
    """

    name: str
    meaning: str
    value: Callable[[Readings], np.ndarray]
    needs: tuple[str, ...] = ()


def _over_amplifiers(readings: Readings) -> np.ndarray:
    """Return the mean cosine of each reading with the others of its vector."""
    found = np.full(len(readings.ok), np.nan)
    for cell in np.unique(readings.cell):
        rows = np.flatnonzero((readings.cell == cell) & readings.ok)
        if len(rows) > 1:
            cosines = readings.embeddings[rows] @ readings.embeddings[rows].T
            found[rows] = (cosines.sum(1) - 1) / (len(rows) - 1)
    return found


def _with_each_token(readings: Readings) -> np.ndarray:
    """Return, for each reading and token, the mean cosine with the token's nearest readings in other layers.

    Returns:
        (n, tokens); NaN where a token has none.
    """
    tokens = np.unique(readings.token)
    found = np.full((len(readings.ok), len(tokens)), np.nan)
    for number, token in enumerate(tokens):
        rows = np.flatnonzero((readings.token == token) & readings.ok)
        cosines = readings.embeddings @ readings.embeddings[rows].T
        cosines[readings.layer[:, None] == readings.layer[rows]] = -np.inf
        count = min(NEIGHBOURS, len(rows))
        nearest = -np.partition(-cosines, count - 1, axis=1)[:, :count] if count else cosines
        there = np.isfinite(nearest)
        total, many = np.where(there, nearest, 0).sum(1), there.sum(1)
        found[:, number] = np.where(many > 0, total / np.maximum(many, 1), np.nan)
    return found


def _agreement(readings: Readings) -> np.ndarray:
    """Return how much each reading agrees with those of its token in other layers."""
    own = np.searchsorted(np.unique(readings.token), readings.token)
    return _with_each_token(readings)[np.arange(len(own)), own]


def _contrast(readings: Readings) -> np.ndarray:
    """Return `_agreement` less the mean agreement with each other token's readings: what fits every token is no sign."""
    tokens = np.unique(readings.token)
    if len(tokens) <= LEAST_REFERENCES:
        why = f"agreement_contrast needs readings of at least {LEAST_REFERENCES} other tokens to compare with"
        raise InputError("rows", f"{len(tokens)} tokens", why)
    each, own = _with_each_token(readings), np.searchsorted(tokens, readings.token)
    rows = np.arange(len(own))
    real = each[rows, own]
    each[rows, own] = np.nan
    there = np.isfinite(each)
    return real - np.where(there, each, 0).sum(1) / np.maximum(there.sum(1), 1)


def _told(column: str, sign: int = 1) -> Callable[[Readings], np.ndarray]:
    """Return what the model told of each reading, or less of it."""
    return lambda readings: sign * readings.told[column]


def _mean_rank(ranked: Mapping[str, int]) -> Callable[[Readings], np.ndarray]:
    """Return the mean of a reading's ranks among those of its vector, from 0 to 1, over some of what the model told.

    Args:
        ranked: column -> which way is better.
    """

    def values(readings: Readings) -> np.ndarray:
        told = pd.DataFrame({name: sign * readings.told[name] for name, sign in ranked.items()})
        ranks = told[readings.ok].groupby(readings.cell[readings.ok]).rank(pct=True)
        return ranks.mean(axis=1).reindex(told.index).to_numpy()

    return values


RANKED = {"entropy": -1, "pmi": 1, "round_trip": 1}  # and which way is better
ALL_RANKED = RANKED | dict.fromkeys(MORE_EVIDENCE, 1)

CRITERIA = {
    criterion.name: criterion
    for criterion in (
        Criterion(
            "agreement_contrast",
            "mean cosine with the 20 nearest readings of the same token in other layers, of any component and amplifier, "
            "less the same with the readings of each other token",
            _contrast,
        ),
        Criterion("agreement", "the same, without the second term", _agreement),
        Criterion(
            "agreement_amplifiers", "mean cosine with the readings of the same vector at other amplifiers", _over_amplifiers
        ),
        Criterion("entropy", "less entropy of what the model would write first", _told("entropy", -1), ("entropy",)),
        Criterion(
            "log_prob", "mean log-probability of the first item's tokens", _told("item_log_prob"), ("item_log_prob",)
        ),
        Criterion("pmi", "the same, less what it is when nothing is patched", _told("pmi"), ("pmi",)),
        Criterion(
            "round_trip",
            "how much more the first item, read as a source prompt, is like the vector than like those of other prompts",
            _told("round_trip"),
            ("round_trip",),
        ),
        Criterion(
            "mean_rank", "mean rank among the readings of the vector by entropy, pmi and round trip", _mean_rank(RANKED),
            tuple(RANKED),
        ),
        *(Criterion(name, meaning, _told(name), (name,)) for name, meaning in MORE_EVIDENCE.items()),
        Criterion(
            "mean_rank_all", "mean rank by these three and by entropy, pmi and round trip", _mean_rank(ALL_RANKED),
            tuple(ALL_RANKED),
        ),
        Criterion(
            "confidence", "the probability that it is right, fitted on other entities", _told("confidence"), ("confidence",)
        ),
    )
}
BLIND = CRITERIA["agreement_contrast"]  # the usual choice


def criteria_of(rows: pd.DataFrame) -> tuple[str, ...]:
    """Name the criteria that have something to compare these rows with."""
    good = rows[rows["status"] == "ok"]
    layers, tokens = good["layer"].nunique() > 1, len({*_numbers(good, TOKEN)}) > LEAST_REFERENCES
    known = {
        "agreement_contrast": layers and tokens,
        "agreement": layers,
        "agreement_amplifiers": good["amplification value"].nunique() > 1,
    }
    told = {name for name in rows if rows[name].notna().any()}
    return tuple(name for name, one in CRITERIA.items() if known.get(name, told.issuperset(one.needs)))


def criterion_values(rows: pd.DataFrame, criterion: str = BLIND.name, judge: Judge | None = None) -> pd.Series:
    """Return a criterion's number for each row: higher is better; NaN where there is no reading or nothing to compare.

    Args:
        rows: in the row schema, of as many layers, components and prompts as there are: what a reading agrees with.
        criterion: one of CRITERIA.
        judge: whose sentence model compares texts; the paper's if left out.

    Raises:
        InputError: an unknown criterion; too few other tokens; a single layer, where other layers are needed; rows
            without the evidence that it needs.
    """
    if criterion not in CRITERIA:
        raise InputError("criterion", criterion, f"expected one of {', '.join(CRITERIA)}")
    if lacking := [name for name in CRITERIA[criterion].needs if name not in rows or rows[name].isna().all()]:
        by = "which_amplifier with witnesses=" if {*lacking} <= MORE_EVIDENCE.keys() else "how_sure"
        raise InputError("rows", lacking, f"{criterion} needs these columns: run {by} for this model first")
    ok = (rows["status"] == "ok").to_numpy()
    needs_texts = not CRITERIA[criterion].needs
    readings = Readings(
        (judge or Judge()).embedded(first_items(rows)) if needs_texts else np.empty((len(rows), 0)),
        _numbers(rows, TOKEN),
        _numbers(rows, CELL),
        rows["layer"].to_numpy(),
        ok,
        {name: rows[name].to_numpy(float) for name in CRITERIA[criterion].needs},
    )
    values = np.where(ok, CRITERIA[criterion].value(readings), np.nan).round(DECIMALS)
    if ok.any() and np.isnan(values).all():
        raise InputError("rows", f"{len(rows)} rows", f"{criterion} has nothing to compare them with: {_needs(criterion)}")
    return pd.Series(values, rows.index)


def _numbers(rows: pd.DataFrame, columns: Sequence[str]) -> np.ndarray:
    """Number the groups of rows that have the same values in those of some columns that they have: (n,)."""
    return rows.groupby([name for name in columns if name in rows], dropna=False, sort=False).ngroup().to_numpy()


def _needs(criterion: str) -> str:
    return "a single amplifier" if criterion == "agreement_amplifiers" else "a single layer"


def choose(rows: pd.DataFrame, criterion: str = BLIND.name, judge: Judge | None = None) -> pd.DataFrame:
    """Return one row per vector, the reading to believe by a criterion; of equals the first.

    Args:
        rows, criterion, judge: as in `criterion_values`.

    Returns:
        The chosen rows, in the rows' order, with the criterion's number as a column of its name. A vector without a
        reading keeps its first row.
    """
    values = criterion_values(rows, criterion, judge)
    return rows.assign(**{criterion: values}).loc[best_of(rows, values)]


def best_of(rows: pd.DataFrame, values: pd.Series) -> list:
    """Return the index of the row of each vector whose value is highest; of equals the first."""
    return sorted(values.fillna(-np.inf).groupby(_numbers(rows, CELL)).idxmax())
