"""How sure one can be of a reading: the probability that it describes its vector, from evidence that never sees the answer.

A logistic regression per component and place that it is put in (`places_of`), fitted on entities that are never judged:
first on all their readings, which ranks them; then again on the one reading of each vector that ranks highest, since the
best of many promises too much.
"""

import hashlib
import json
from collections.abc import Container, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.optimize import brentq
from scipy.stats import mannwhitneyu

from .. import InputError
from ..words.files import write_atomically
from .criteria import best_of
from .evidence import EVIDENCE

FILE = "confidence.json"  # in a folder of results
BELIEVED = 0.5  # a lower probability: no reading to believe
BINS = 15  # of a calibration error, with as many readings each
LEAST_ROWS = 50  # readings of a place to fit on, and of both kinds


class Fitted(NamedTuple):
    """A logistic regression on evidence x: the log-odds that a reading is right are w·z + u·z² + b, z = (x − mean)/scale.

    The squares are there since a number can be too good: what is written after every vector is written very surely.

    Attributes:
        mean, scale, weights, of_squares: of each of EVIDENCE.
        intercept: b.
    """

    mean: list[float]
    scale: list[float]
    weights: list[float]
    of_squares: list[float]
    intercept: float

    def log_odds(self, rows: pd.DataFrame) -> np.ndarray:
        """Return the logarithm of the odds of each reading, (n,); NaN where evidence is missing."""
        standard = (rows[list(EVIDENCE)].to_numpy(float) - self.mean) / self.scale
        return standard @ np.array(self.weights) + standard**2 @ np.array(self.of_squares) + self.intercept


class Confidence(NamedTuple):
    """What the readings of one model are worth.

    Attributes:
        model: its name, fingerprint and dtype, and whatever else it was fitted with.
        fitted: place (`places_of`) -> its regression.
        about: on what it was fitted and how it did on what it was not fitted on.
    """

    model: dict
    fitted: dict[str, Fitted]
    about: dict

    def of(self, rows: pd.DataFrame) -> pd.Series:
        """Return the probability that each reading is right; NaN where evidence is missing, and for what was read in
        another way (`knows`).

        Args:
            rows: in the row schema, with the columns of EVIDENCE.
        """
        found = pd.Series(np.nan, rows.index, name="confidence")
        for place, part in rows[self.knows(rows)].groupby(places_of(rows, self.fitted), sort=False):
            found[part.index] = probability(self.fitted[place].log_odds(part))
        return found

    def knows(self, rows: pd.DataFrame) -> pd.Series:
        """Tell which rows are read in a way that was fitted: of a component, into a place, as `as_fitted`."""
        return as_fitted(rows) & places_of(rows, self.fitted).isin(self.fitted)

    def place(self, component: str, layer: int, target_layer: int) -> str:
        """Return the place of `fitted` that a vector is read into; "" if nothing was fitted for it."""
        named = _place(component, layer, target_layer, self.fitted)
        return named if named in self.fitted else ""

    def save(self, file: Path) -> None:
        """Write it as JSON."""
        fitted = {place: one._asdict() for place, one in self.fitted.items()}
        with write_atomically(file) as out:
            json.dump(self._replace(fitted=fitted)._asdict(), out, indent=1, ensure_ascii=False)
            out.write("\n")

    @classmethod
    def load(cls, file: Path) -> "Confidence | None":
        """Read it; None if there is no such file.

        Raises:
            InputError: not such a file, or one of other evidence than this code gathers, or without places.
        """
        if not file.is_file():
            return None
        try:
            held = json.loads(file.read_text(encoding="utf-8"))
            fitted = {place: Fitted(**one) for place, one in held["fitted"].items()}
            found = cls(held["model"], fitted, held["about"])
        except (ValueError, KeyError, TypeError) as error:
            raise InputError("confidence", str(file), f"not a file of a fitted confidence ({error})") from error
        if found.about.get("evidence") != list(EVIDENCE) or not all(" into " in place for place in fitted):
            why = f"fitted on other evidence, or without places; run how_sure again for {list(EVIDENCE)}"
            raise InputError("confidence", str(file), why)
        return found


def places_of(rows: pd.DataFrame, known: Container[str] | None = None) -> pd.Series:
    """Name the component of each row and where it was put: "mlp_output into same", "hidden_state into 0".

    A vector that is put into its own layer counts as put into that number if others of its component are.

    Args:
        known: fitted places; taken from the rows that are put into another layer if left out.
    """
    if "target layer" not in rows or rows["target layer"].isna().any():  # as others publish theirs
        return pd.Series("", rows.index)
    columns = rows["component"], rows["layer"].astype(int), rows["target layer"].astype(int)
    if known is None:
        known = {f"{component} into {target}" for component, layer, target in zip(*columns, strict=True) if target != layer}
    return pd.Series([_place(*row, known) for row in zip(*columns, strict=True)], rows.index, dtype="str")


def _place(component: str, layer: int, target_layer: int, known: Container[str]) -> str:
    named = f"{component} into {target_layer}"
    return named if layer != target_layer or named in known else f"{component} into same"


def as_fitted(rows: pd.DataFrame) -> pd.Series:
    """Tell which rows are read in the way that a confidence is fitted on: greedily, at the output of a block."""
    usual = pd.Series(True, rows.index)
    if "seed" in rows:
        usual &= rows["seed"].isna()
    if "target component" in rows:
        usual &= rows["target component"].fillna("") == ""
    return usual


def probability(log_odds: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + exp(−x))."""
    return 1 / (1 + np.exp(-np.clip(log_odds, -50, 50)))


def fit(rows: pd.DataFrame, right: Sequence[bool]) -> dict[str, Fitted]:
    """Fit one regression per place (`places_of`): place -> regression, where there are readings enough of both kinds.

    Args:
        rows: in the row schema, with the columns of EVIDENCE.
        right: (n,) whether each reading describes what its vector stands for.
    """
    fitted = {}
    known = rows[list(EVIDENCE)].notna().all(axis=1) & (rows["status"] == "ok") & as_fitted(rows)
    rows = rows.assign(right=np.asarray(right, dtype=bool))[known]
    for place, part in rows.groupby(places_of(rows), sort=False):
        if not place or min(part["right"].sum(), (~part["right"]).sum()) < LEAST_ROWS:
            continue
        ranked = _regression(part[list(EVIDENCE)].to_numpy(float), part["right"])
        best = part.loc[best_of(part, pd.Series(ranked.log_odds(part), part.index))]
        fitted[place] = _calibrated(ranked, best)
    return fitted


def _regression(values: np.ndarray, right: pd.Series) -> Fitted:
    from sklearn.linear_model import LogisticRegression

    mean, scale = values.mean(0), values.std(0)
    scale[scale == 0] = 1.0
    standard = (values - mean) / scale
    model = LogisticRegression(max_iter=1000).fit(np.hstack([standard, standard**2]), right)
    weights, of_squares = np.split(model.coef_[0], 2)
    return Fitted(mean.tolist(), scale.tolist(), weights.tolist(), of_squares.tolist(), float(model.intercept_[0]))


def _calibrated(ranked: Fitted, best: pd.DataFrame) -> Fitted:
    """Return a regression with the same order, whose probabilities are those of the best reading of a vector."""
    from sklearn.linear_model import LogisticRegression

    if best["right"].nunique() < 2:
        return ranked
    odds, share = ranked.log_odds(best), best["right"].mean()
    again = LogisticRegression().fit(odds[:, None], best["right"])
    slope = float(np.clip(again.coef_[0, 0], 1e-3, 1))  # the order stays, and nothing gets surer
    shift = brentq(lambda by: probability(slope * odds + by).mean() - share, -60, 60)
    return ranked._replace(
        weights=[slope * weight for weight in ranked.weights],
        of_squares=[slope * weight for weight in ranked.of_squares],
        intercept=slope * ranked.intercept + shift,
    )


def out_of_category(rows: pd.DataFrame, right: Sequence[bool], categories: Sequence[str]) -> pd.Series:
    """Return each reading's probability by regressions that were fitted on the entities of all other categories, (n,)."""
    right, kinds = np.asarray(right, dtype=bool), np.asarray(categories)
    found = pd.Series(np.nan, rows.index, name="confidence")
    for kind in np.unique(kinds):
        inside = kinds == kind
        confidence = Confidence({}, fit(rows[~inside], right[~inside]), {})
        found[rows.index[inside]] = confidence.of(rows[inside])
    return found


# How good it is


def reliability(confidence: Sequence[float], right: Sequence[bool], bins: int = BINS) -> pd.DataFrame:
    """Return the reliability diagram: bins with as many readings each, from the least sure to the surest.

    Returns:
        Columns readings, confidence (its mean), right (the share that is).
    """
    table = pd.DataFrame({"confidence": confidence, "right": np.asarray(right, dtype=float)}).dropna()
    table = table.sort_values("confidence", kind="stable", ignore_index=True)
    table["bin"] = np.arange(len(table)) * bins // max(len(table), 1)
    grouped = table.groupby("bin")
    return grouped[["confidence", "right"]].mean().assign(readings=grouped.size()).reset_index(drop=True)


def calibration_error(confidence: Sequence[float], right: Sequence[bool], bins: int = BINS) -> float:
    """Return the expected calibration error: how far, on average, promised and true share of a bin are apart."""
    table = reliability(confidence, right, bins)
    return float(np.average((table["confidence"] - table["right"]).abs(), weights=table["readings"]))


def auroc(confidence: Sequence[float], right: Sequence[bool]) -> float:
    """Return the chance that a right reading has a higher confidence than a wrong one; NaN with only one kind."""
    right = np.asarray(right, dtype=bool)
    pairs = right.sum() * (~right).sum()
    if not pairs:
        return float("nan")
    sure = np.asarray(confidence, dtype=float)
    return float(mannwhitneyu(sure[right], sure[~right], method="asymptotic").statistic / pairs)


def digest_of(rows: pd.DataFrame, right: Sequence[bool]) -> str:
    """Return a digest of what a confidence was fitted on: the readings' ids, and which were right."""
    told = "".join(f"{id}{int(one)}" for id, one in zip(rows["id"], right, strict=True))
    return hashlib.sha256(told.encode()).hexdigest()[:16]
