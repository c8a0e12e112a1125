"""From texts to rates: how often the answers are found with and without a vector, beside chance with the same tries."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from ..judging.effects import beside_chance, gain_of_tables, shares_in_effect
from .tasks import Case

TEXT_ONLY, CONTINUATION = "text only", "continuation only"
PLAIN, BLIND = "plain", "amplified, chosen blind"
MEAN, ANY = "mean", "any"  # of the source layers
NO_LAYER = ""  # of what has no vector
Rule = Callable[[str, str], bool]


class Cases:
    """The cases of a task, judged by each other's answers.

    Attributes:
        cases: those that are read.
        units: distinct, in order; chance is made of other units' answers.
        words: all words wanted.
        allowed: (units, units) bool, whose answers are chance for whom: those that share no word.
    """

    def __init__(self, cases: Sequence[Case], rule: Rule, combine: Callable[[Iterable[float]], float]):
        self.cases, self._rule, self._combine = list(cases), rule, combine
        wanted = {case.unit: case.wanted for case in cases}
        self.units = list(wanted)
        self.words = list(dict.fromkeys(word for words in wanted.values() for word in words))
        number = {word: at for at, word in enumerate(self.words)}
        self._wanted = [[number[word] for word in words] for words in wanted.values()]
        folded = [{word.lower() for word in words} for words in wanted.values()]
        self.allowed = np.array([[not (one & other) for other in folded] for one in folded])
        of = {unit: at for at, unit in enumerate(self.units)}
        self._unit_of = np.array([of[case.unit] for case in cases])
        self._said: dict[str, np.ndarray] = {}

    def said(self, texts: Sequence[str]) -> np.ndarray:
        """Tell which of all words each text says, (n, words) bool; each text alone."""
        for text in {*texts} - self._said.keys():
            self._said[text] = np.array([self._rule(text, word) for word in self.words])
        return np.stack([self._said[text] for text in texts])

    def table(self, found: np.ndarray) -> np.ndarray:
        """Return how well each unit's cases are answered when each unit's answers judge them, (units, units).

        Args:
            found: (cases, words) or (cases, layers, words) bool, which words were found; over layers, the mean counts.
        """
        by_layer = found if found.ndim == 3 else found[:, None]
        judged = np.stack(
            [self._combined(by_layer[..., wanted]).mean(1) for wanted in self._wanted], axis=1
        )  # (cases, units)
        return np.stack([judged[self._unit_of == unit].mean(0) for unit in range(len(self.units))])

    def _combined(self, found: np.ndarray) -> np.ndarray:
        """Combine what was found of one unit's words: any of them, or the share; (cases, layers)."""
        return found.any(-1) if self._combine is any else found.mean(-1)

    def line(self, method: str, layer: object, tries: int, found: np.ndarray) -> dict:
        """Return a line of the table: a method's rate, and chance."""
        numbers = beside_chance(self.table(found), self.allowed, truths_repeat=True)
        units = numbers.pop("prompts")
        return {"rows": len(self.cases), "units": units, "method": method, "layer": layer, "tries": tries} | numbers

    def gain(self, more: np.ndarray, less: np.ndarray) -> dict[str, float]:
        """Compare two ways on the same units, each over its own chance.

        Returns:
            gain; low, high, its 95 % interval; p_value, that units' signs are as good as tossed: of five units it is
            never below .06, however clear they are.
        """
        from scipy.stats import permutation_test

        more, less = self.table(more), self.table(less)
        apart = shares_in_effect(more, self.allowed) - shares_in_effect(less, self.allowed)
        p_value = permutation_test((apart,), np.mean, permutation_type="samples", rng=0).pvalue
        return gain_of_tables(more, less, self.allowed) | {"p_value": round(float(p_value), 4)}


def surely(gains: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """Tell where one way surely finds more than the other, and where less: the interval and the test say so; bool each."""
    is_sure = gains["p_value"] < 0.05
    return is_sure & (gains["low"] > 0), is_sure & (gains["high"] < 0)


def by_source_layer(cases: Cases, method: str, found: np.ndarray, layers: Sequence[int], tries: int) -> list[dict]:
    """Return lines of a method: for each source layer, for their mean, and for any of them.

    Args:
        found: (cases, layers, words) bool, within the tries of a layer.
        tries: at each layer.
    """
    lines = [cases.line(method, layer, tries, found[:, at]) for at, layer in enumerate(layers)]
    return [*lines, cases.line(method, MEAN, tries, found), cases.line(method, ANY, tries * len(layers), found.any(1))]


def reading_methods(targets: Sequence[int | str]) -> dict[str, tuple[str, int]]:
    """Return the methods of reading: name -> (plain or blind, how many of the target layers)."""
    first = f"into layer {targets[0]}" if targets[0] != "same" else "into the same layer"
    methods = {f"{PLAIN}, {first}": (PLAIN, 1), f"{BLIND}, {first}": (BLIND, 1)}
    if len(targets) > 1:
        end = f"any of {len(targets)} target layers"
        methods |= {f"{PLAIN}, {end}": (PLAIN, len(targets)), f"{BLIND}, {end}": (BLIND, len(targets))}
    return methods


class Texts:
    """Readings by where they come from.

    Args:
        rows: in the row schema.
    """

    KEY = ["target prompt", "source prompt", "layer", "target layer"]

    def __init__(self, rows: pd.DataFrame, blind: pd.DataFrame):
        plain = rows[rows["amplification value"] == 1]
        self._texts = {PLAIN: self._keyed(plain), BLIND: self._keyed(blind)}

    @classmethod
    def _keyed(cls, rows: pd.DataFrame) -> Mapping[tuple, str]:
        return dict(zip(rows[cls.KEY].itertuples(index=False, name=None), rows["result"], strict=True))

    def found(
        self, cases: Cases, name: str, way: str, layers: Sequence[int], targets: Sequence[int | str]
    ) -> np.ndarray:
        """Tell which words are said, (cases, layers, words) bool, in any of the target layers."""
        texts = self._texts[way]
        found = np.zeros((len(cases.cases), len(layers), len(cases.words)), dtype=bool)
        for at, layer in enumerate(layers):
            for target in targets:
                into = layer if target == "same" else target
                found[:, at] |= cases.said([texts[name, case.source, layer, into] for case in cases.cases])
        return found
