"""How large an effect is: successes beside the same readings judged by other prompts, with intervals and tests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
from scipy.special import comb
from scipy.stats import bootstrap
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from .. import InputError
from ..words.components import GRIDS
from ..words.methods import METHODS, Method
from .chance import band, permutations, rotated, rotations
from .judge import THRESHOLD, Judge, is_echo
from .score import first_items

RESAMPLES = 9999  # of an interval or a test
SPLITS = 200  # halvings of the prompts, to choose on one half and judge on the other
TRY = ["amplification value", "target prompt", "seed"]  # what tells the tries at one (prompt, layer) apart
Which = Method | str | Sequence[bool] | np.ndarray  # a method, its name, or a mask


@dataclass(frozen=True)
class Judged:
    """Readings of one component, judged by every prompt.

    Attributes:
        prompts: (n,) in order of first appearance.
        layers: source layers.
        tries: one row a try, the same at every (prompt, layer): amplification value, target prompt, seed.
        cosines: (n, layers, tries, n) float32; of prompt i's reading with what prompt j's readings should say. −1
            where a reading failed.
        chosen: method -> (n, layers, tries) bool, the readings that it chooses among.
        threshold: a higher cosine is a success.
        categories: (n,) each prompt's, where there are any.
    """

    prompts: tuple[str, ...]
    layers: tuple[int, ...]
    tries: pd.DataFrame
    cosines: np.ndarray
    chosen: Mapping[str, np.ndarray]
    threshold: float = THRESHOLD
    categories: tuple[str, ...] = ()

    def mask(self, which: Which | None = None) -> np.ndarray:
        """Return the tries that count, (n, layers, tries) bool.

        Args:
            which: a method or its name, a mask of tries, (tries,) or (n, layers, tries), or None for all.
        """
        if isinstance(which, Method | str):
            return self.chosen[getattr(which, "name", which)]
        mask = np.ones(len(self.tries), dtype=bool) if which is None else np.asarray(which)
        return np.broadcast_to(mask, self.cosines.shape[:3])

    def successes(self, which: Which | None = None) -> np.ndarray:
        """Return whether any of some tries is above the threshold, (n, layers, n) bool (paper §4.1)."""
        return ((self.cosines > self.threshold) & self.mask(which)[..., None]).any(2)

    def best_of(self, k: int, which: Which) -> np.ndarray:
        """Return the chance that any of k tries, drawn from some tries at random, is a success: (n, layers, n).

        Raises:
            InputError: k isn't 1 to `number_of_tries`.
        """
        mask, most = self.mask(which)[..., None], self.number_of_tries(which)
        if not 1 <= k <= most:
            raise InputError("k", k, f"expected 1 to {most} tries")
        tries, hits = mask.sum(2), ((self.cosines > self.threshold) & mask).sum(2)
        return 1 - comb(tries - hits, k) / comb(tries, k)

    def number_of_tries(self, which: Which) -> int:
        """Count the tries among which a method or a mask chooses, at the (prompt, layer) that has the fewest."""
        return int(self.mask(which).sum(2).min())

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods that have readings to choose among."""
        return tuple(name for name, mask in self.chosen.items() if mask.any())

    def at_layers(self, layers: Sequence[int]) -> "Judged":
        """Return the part of some layers."""
        keep = [self.layers.index(layer) for layer in layers]
        chosen = {name: mask[:, keep] for name, mask in self.chosen.items()}
        return replace(self, layers=tuple(layers), cosines=self.cosines[:, keep], chosen=chosen)

    def of_prompts(self, keep: Sequence[int]) -> "Judged":
        """Return the part of some prompts, by their indices, judged by each other."""
        return replace(
            self,
            prompts=tuple(self.prompts[i] for i in keep),
            cosines=self.cosines[keep][..., keep],
            chosen={name: mask[keep] for name, mask in self.chosen.items()},
            categories=tuple(self.categories[i] for i in keep) if self.categories else (),
        )

    @cached_property
    def related(self) -> np.ndarray:
        """(n, n) bool: whom each prompt's chance comes from: the others; with categories, the others of its own."""
        others = ~np.eye(len(self.prompts), dtype=bool)
        if not self.categories:
            return others
        categories = np.array(self.categories)
        return others & (categories[:, None] == categories)

    @property
    def groups(self) -> list[np.ndarray]:
        """Indices of the prompts of each category; of all where there are none."""
        names = np.array(self.categories or [""] * len(self.prompts))
        return [np.flatnonzero(names == name) for name in dict.fromkeys(names.tolist())]


def judge_rows(
    rows: pd.DataFrame,
    judge: Judge | None = None,
    by_gold: Mapping[str, str] | None = None,
    first_item: bool = False,
    echoes: bool = True,
    categories: Mapping[str, str] | None = None,
) -> Judged:
    """Judge the rows of one component by the prompts themselves, or by gold descriptions.

    Args:
        rows: in the row schema; one component and target layer setting. Repeated grid points are not for this table.
        judge: the paper's if left out.
        by_gold: source prompt -> description that its readings are judged by, instead of by the prompt.
        first_item: judge the first list item only, not the whole continuation.
        echoes: let a reading that says nothing beyond its prompt count.
        categories: source prompt -> category; chance is then that of others of the same category.

    Raises:
        InputError: several components; fewer than two prompts, of a category too; a reading that is missing, or there
            twice.
    """
    judge = judge or Judge()
    if rows["component"].nunique() != 1:
        raise InputError("rows", sorted(rows["component"].unique()), "expected one component")
    prompts = tuple(rows["source prompt"].unique())
    if len(prompts) < 2:
        raise InputError("rows", list(prompts), "chance needs at least two prompts")
    layers = tuple(sorted(rows["layer"].unique().tolist()))
    tries = rows[TRY].drop_duplicates(ignore_index=True)
    number = {key: i for i, key in enumerate(tries.fillna({"seed": -1}).itertuples(index=False, name=None))}
    of_try = [number[key] for key in rows[TRY].fillna({"seed": -1}).itertuples(index=False, name=None)]

    readings = pd.Series(of_try, rows.index).groupby([rows["source prompt"], rows["layer"]]).agg(["size", "nunique"])
    if len(readings) < len(prompts) * len(layers) or (readings != len(tries)).any(axis=None):
        given = f"{len(rows)} rows of {rows['component'].iloc[0]}"
        why = f"expected each of {len(tries)} tries once at each of {len(prompts)} prompts × {len(layers)} layers"
        raise InputError("rows", given, why)
    kinds = tuple(categories[prompt] for prompt in prompts) if categories else ()
    if kinds and pd.Series(kinds).value_counts().min() < 2:
        why = "chance within a category needs at least two prompts of each"
        raise InputError("categories", sorted(set(kinds)), why)

    items = first_items(rows)
    truths = [by_gold[prompt] for prompt in prompts] if by_gold else list(prompts)
    cosines = judge.embedded(items if first_item else rows["result"].tolist()) @ judge.embedded(truths).T
    cosines[(rows["status"] != "ok").to_numpy()] = -1
    if not echoes:  # of the prompt that was read, or of the one that judges
        echoed = [is_echo(item, prompt) for item, prompt in zip(items, rows["source prompt"], strict=True)]
        cosines[np.array(echoed)] = -1
        cosines[np.array([[is_echo(item, prompt) for prompt in prompts] for item in items])] = -1
    place = pd.Categorical(rows["source prompt"], prompts).codes, pd.Categorical(rows["layer"], layers).codes, of_try
    shape = (len(prompts), len(layers), len(tries))
    judged = np.full((*shape, len(prompts)), -1, dtype=np.float32)
    judged[place] = cosines
    chosen = {name: np.zeros(shape, dtype=bool) for name in METHODS}
    for name, method in METHODS.items():
        chosen[name][place] = method.choose(rows).to_numpy()
    return Judged(prompts, layers, tries, judged, chosen, judge.threshold, kinds)


def effect(judged: Judged, successes: np.ndarray) -> dict[str, float]:
    """Compare a success rate over (prompt, layer) pairs with chance: the same readings, judged by other prompts.

    Args:
        successes: (n, layers, n), of `judged`; each prompt by its own judge on the diagonal. Or any other number per
            pair, as its mean.

    Returns:
        rate, null: shares of pairs, real and by chance; null_low, null_high: 95 % of all rotations of the prompts;
        effect = rate − null, with its 95 % interval (low, high; bootstrap over prompts, so that a prompt's layers
        count together); p_value that it makes no difference whose prompt judges a reading (permutations). With
        categories, prompts are rotated and permuted within them.
    """
    table = successes.mean(1)  # (n, n)
    difference = over_chance(judged, successes)
    low, high = _interval(difference)
    readers, rate = np.arange(len(table)), table.diagonal().mean()
    null_low, null_high = band([table[readers, judges].mean() for judges in rotations(len(table), judged.groups)])
    permuted = table[readers, permutations(len(table), RESAMPLES, judged.groups)].mean(1)
    numbers = {
        "rate": rate, "null": rate - difference.mean(), "null_low": null_low, "null_high": null_high,
        "effect": difference.mean(), "low": low, "high": high,
        "p_value": (1 + (permuted >= rate - 1e-12).sum()) / (1 + len(permuted)),
    }  # fmt: skip
    return {name: round(float(value), 4) for name, value in numbers.items()}


def over_chance(judged: Judged, successes: np.ndarray) -> np.ndarray:
    """Return each prompt's share in the effect, (n,): its mean is the success rate less chance.

    A prompt counts as one that is read and as one that judges: own − row mean − column mean + mean of all, the means
    without own readings (and within the category), so that an interval over prompts covers both.
    """
    table, related = successes.mean(1), judged.related
    others = np.where(related, table, 0)
    rows, columns = (others.sum(axis) / related.sum(axis) for axis in (1, 0))
    alike = related | np.eye(len(table), dtype=bool)
    return table.diagonal() - rows - columns + alike @ rows / alike.sum(1)


def gain(judged: Judged, more: np.ndarray, less: np.ndarray, against: Judged | None = None) -> dict[str, float]:
    """Compare how much two ways read over chance, on the same prompts, with a 95 % interval.

    Args:
        more, less: (n, layers, n) successes of the two ways; `less` of `against`, if that is another table.
    """
    difference = over_chance(judged, more) - over_chance(against or judged, less)
    low, high = _interval(difference)
    return {"gain": round(float(difference.mean()), 4), "low": round(low, 4), "high": round(high, 4)}


def by_method(judged: Judged) -> dict[str, dict[str, float]]:
    """Return the `effect` of each method that has readings."""
    return {method: effect(judged, judged.successes(method)) for method in judged.methods}


def chosen_on_half(judged: Judged, which: Which, splits: int = SPLITS) -> tuple[np.ndarray, pd.Series]:
    """Choose one try instead of the best of many: the one with the largest effect on half of the prompts, judged on
    the other half.

    Args:
        which: the tries to choose among: a method, or a mask, (tries,); the same at every (prompt, layer).
        splits: how many halvings.

    Returns:
        (n, layers, n) successes of each prompt while it was in the other half, averaged over seeded halvings; the
        share of halvings that each amplifier was chosen in.
    """
    which = np.flatnonzero(judged.mask(which).any((0, 1)))
    by_layer = judged.cosines[:, :, which] > judged.threshold  # (n, layers, tries, n)
    hits = by_layer.mean(1)
    n, rng = len(judged.prompts), np.random.default_rng(0)
    total, seen, chosen = np.zeros((n, len(judged.layers), n)), np.zeros(n), np.zeros(len(which))
    for _ in range(splits):
        order = rng.permutation(n)
        for half, other in ((order[: n // 2], order[n // 2 :]), (order[n // 2 :], order[: n // 2])):
            table = hits[np.ix_(half, range(len(which)), half)]  # (half, tries, half)
            own = table[range(len(half)), :, range(len(half))]
            effects = (own - (table.sum(2) - own) / (len(half) - 1)).mean(0)
            best = int(effects.argmax())
            chosen[best] += 1
            total[other] += by_layer[other, :, best]
            seen[other] += 1
    shares = pd.Series(chosen / chosen.sum(), judged.tries["amplification value"].to_numpy()[which])
    return total / seen[:, None, None], shares


def tests_by_layer(layers: Sequence[int], more: np.ndarray, less: np.ndarray) -> pd.DataFrame:
    """Test two ways on the same prompts, layer by layer: McNemar's exact test with Holm's correction over the layers.

    Args:
        more, less: (n, layers, n) bool.

    Returns:
        Columns layer, only_more, only_less (prompts that one way reads and the other doesn't), p_value, p_holm.
    """
    first, second = (np.einsum("ili->il", successes) for successes in (more, less))
    table = pd.DataFrame(
        {"layer": layers, "only_more": (first & ~second).sum(0), "only_less": (~first & second).sum(0)}
    )
    both, neither = (first & second).sum(0), (~first & ~second).sum(0)
    cells = zip(both, table["only_more"], table["only_less"], neither, strict=True)
    table["p_value"] = [mcnemar([[a, b], [c, d]], exact=True).pvalue for a, b, c, d in cells]
    table["p_holm"] = multipletests(table["p_value"], method="holm")[1]
    return table.round({"p_value": 6, "p_holm": 6})


def by_threshold(
    judged: Judged, which: Which, thresholds: Sequence[float] = tuple(np.arange(0, 0.92, 0.02).round(2))
) -> pd.DataFrame:
    """Return success and chance as functions of the threshold; `.attrs["area"]` is the area between them.

    Returns:
        Columns threshold, rate, null, null_low, null_high (95 % of all rotations).
    """
    best = np.where(judged.mask(which)[..., None], judged.cosines, -1).max(2)  # (n, layers, n)
    lines = []
    for threshold in thresholds:
        rates = rotated((best > threshold).mean(1)).mean(1)
        lines.append((threshold, rates[0], rates[1:].mean(), *band(rates[1:])))
    table = pd.DataFrame(lines, columns=["threshold", "rate", "null", "null_low", "null_high"])
    table.attrs["area"] = round(float(np.trapezoid(table["rate"] - table["null"], table["threshold"])), 4)
    return table


def on_grid(rows: pd.DataFrame, component: str, layers: Sequence[int] | None = None) -> pd.DataFrame:
    """Return the rows of a component on the grid on which methods are compared (`words.components.GRIDS`).

    Raises:
        InputError: an amplifier of the grid wasn't read.
    """
    own = rows[(rows["component"] == component) & (rows["layer"].isin(layers) if layers is not None else True)]
    if missing := set(GRIDS[component]) - set(own["amplification value"]):
        why = f"the readings of {component} lack {sorted(missing)}; methods are compared on {GRIDS[component]}"
        raise InputError("amplifiers", sorted(set(own["amplification value"])), why)
    return own[own["amplification value"].isin(GRIDS[component])]


def is_legible(rows: pd.DataFrame, judge: Judge | None = None) -> pd.Series:
    """Tell which readings are similar to the entity's gold description and no echo of its name: (rows,) bool.

    Args:
        rows: scored (column `score gold`).
        judge: whose threshold counts; the sentence model isn't needed.
    """
    threshold = judge.threshold if judge else THRESHOLD
    echoes = [is_echo(item, prompt) for item, prompt in zip(first_items(rows), rows["source prompt"], strict=True)]
    return (rows["score gold"] > threshold) & (rows["status"] == "ok") & ~np.array(echoes, dtype=bool)


def _interval(values: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval of a mean over prompts."""
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    found = bootstrap((values,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(0))
    return float(found.confidence_interval.low), float(found.confidence_interval.high)
