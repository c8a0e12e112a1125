"""How large an effect is: successes beside the same readings judged by other prompts, with intervals and tests."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
from scipy.special import comb
from scipy.stats import bootstrap
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from . import InputError
from .plans import TargetPrompt
from .scoring import THRESHOLD, embed, is_echo

RESAMPLES = 9999  # of an interval or a test
_known: dict[str, np.ndarray] = {}  # text -> its embedding


@dataclass(frozen=True)
class Judged:
    """Readings of one component, judged by every prompt.

    Attributes:
        prompts: (n,) in order of first appearance.
        layers: source layers.
        tries: one row a try, the same at every (prompt, layer): amplification value, target prompt, seed.
        cosines: (n, layers, tries, n) float32; of prompt i's reading with what prompt j's readings should say. −1
            where there is no reading.
        categories: (n,) each prompt's own, where there are any.
    """

    prompts: tuple[str, ...]
    layers: tuple[int, ...]
    tries: pd.DataFrame
    cosines: np.ndarray
    categories: tuple[str, ...] = ()

    def successes(self, which: Sequence[bool] | None = None, threshold: float = THRESHOLD) -> np.ndarray:
        """(n, layers, n) bool: whether any of some tries is above the threshold (paper §4.1)."""
        which = np.ones(len(self.tries), dtype=bool) if which is None else np.asarray(which)
        return (self.cosines[:, :, which] > threshold).any(2)

    def best_of(self, k: int, which: Sequence[bool], threshold: float = THRESHOLD) -> np.ndarray:
        """(n, layers, n): the chance that any of k tries is above the threshold, drawn from some tries at random."""
        hits = (self.cosines[:, :, np.asarray(which)] > threshold).sum(2)
        tries = int(np.asarray(which).sum())
        if not 1 <= k <= tries:
            raise InputError("k", k, f"expected 1 to {tries} tries")
        return 1 - comb(tries - hits, k) / comb(tries, k)

    def at_layers(self, layers: Sequence[int]) -> "Judged":
        """The part of some layers."""
        keep = [self.layers.index(layer) for layer in layers]
        return replace(self, layers=tuple(layers), cosines=self.cosines[:, keep])

    def of_prompts(self, keep: Sequence[int]) -> "Judged":
        """The part of some prompts, by their indices, judged by each other."""
        return replace(
            self,
            prompts=tuple(self.prompts[i] for i in keep),
            cosines=self.cosines[keep][..., keep],
            categories=tuple(self.categories[i] for i in keep) if self.categories else (),
        )

    @property
    def plain(self) -> np.ndarray:
        """(tries,) whether a try is Patchscopes'."""
        return (self.tries["amplification value"] == 1).to_numpy()

    @cached_property
    def related(self) -> np.ndarray:
        """(n, n) bool: what each prompt's chance is made of: the others; the others of its category if it has one."""
        others = ~np.eye(len(self.prompts), dtype=bool)
        if not self.categories:
            return others
        categories = np.array(self.categories)
        return others & (categories[:, None] == categories)


def judge(
    rows: pd.DataFrame,
    gold: Mapping[str, str] | None = None,
    first_item: bool = False,
    echoes: bool = True,
    categories: Mapping[str, str] | None = None,
) -> Judged:
    """Judge the rows of one component by the prompts themselves, or by gold descriptions.

    Args:
        rows: in the row schema; one component and target layer setting. Repeated grid points are not for this table.
        gold: source prompt -> description that its readings are judged by, instead of by the prompt.
        first_item: judge the first list item only, not the whole continuation.
        echoes: let a reading that says nothing beyond its prompt count.
        categories: source prompt -> category; chance is then that of others of the same category.

    Raises:
        InputError: several components; fewer than two prompts, of a category too; a reading that is missing, or there
            twice.
    """
    if rows["component"].nunique() != 1:
        raise InputError("rows", sorted(rows["component"].unique()), "expected one component")
    prompts = tuple(rows["source prompt"].unique())
    if len(prompts) < 2:
        raise InputError("rows", list(prompts), "chance needs at least two prompts")
    layers = tuple(sorted(rows["layer"].unique().tolist()))
    by = ["amplification value", "target prompt", "seed"]
    tries = rows[by].drop_duplicates(ignore_index=True)
    number = {key: i for i, key in enumerate(tries.fillna({"seed": -1}).itertuples(index=False, name=None))}
    of_try = [number[key] for key in rows[by].fillna({"seed": -1}).itertuples(index=False, name=None)]

    readings = pd.Series(of_try, rows.index).groupby([rows["source prompt"], rows["layer"]]).agg(["size", "nunique"])
    if len(readings) < len(prompts) * len(layers) or (readings != len(tries)).any(axis=None):
        given = f"{len(rows)} rows of {rows['component'].iloc[0]}"
        why = f"expected each of {len(tries)} tries once at each of {len(prompts)} prompts × {len(layers)} layers"
        raise InputError("rows", given, why)
    kinds = tuple(categories[prompt] for prompt in prompts) if categories else ()
    if kinds and pd.Series(kinds).value_counts().min() < 2:
        raise InputError(
            "categories", sorted(set(kinds)), "chance within a category needs at least two prompts of each"
        )

    items = [TargetPrompt().first_item(text) for text in rows["result"]]
    texts = items if first_item else rows["result"].tolist()
    cosines = _embedded(texts) @ _embedded([gold[one] for one in prompts] if gold else list(prompts)).T
    cosines[(rows["status"] != "ok").to_numpy()] = -1
    if not echoes:  # of the prompt that was read, or of the one that judges
        own = [is_echo(item, prompt) for item, prompt in zip(items, rows["source prompt"], strict=True)]
        cosines[np.array(own)] = -1
        cosines[np.array([[is_echo(item, prompt) for prompt in prompts] for item in items])] = -1
    judged = np.full((len(prompts), len(layers), len(tries), len(prompts)), -1, dtype=np.float32)
    place = pd.Categorical(rows["source prompt"], prompts).codes, pd.Categorical(rows["layer"], layers).codes, of_try
    judged[place] = cosines
    return Judged(prompts, layers, tries, judged, kinds)


def effect(judged: Judged, successes: np.ndarray) -> dict[str, float]:
    """A success rate over (prompt, layer) pairs beside chance: the same readings, judged by other prompts.

    Args:
        successes: (n, layers, n), of `judged`; own ones on the diagonal. Or any other number per pair, as its mean.

    Returns:
        rate, null: shares of pairs, own and by chance; null_low, null_high: 95 % of all rotations of the prompts;
        effect = rate − null, with its 95 % interval (low, high; bootstrap over prompts, so that a prompt's layers
        count together); p_value that it makes no difference whose prompt judges a reading (permutations). With
        categories, prompts are rotated and permuted within them.
    """
    table = successes.mean(1)  # (n, n)
    difference = over_chance(judged, successes)
    low, high = _interval(difference)
    own, rate = np.arange(len(table)), table.diagonal().mean()
    rotated = [table[own, order].mean() for order in _rotations(judged)]
    null_low, null_high = np.quantile(rotated, [0.025, 0.975], method="inverted_cdf")
    permuted = table[own, _permutations(judged)].mean(1)
    numbers = {
        "rate": rate, "null": rate - difference.mean(), "null_low": null_low, "null_high": null_high,
        "effect": difference.mean(), "low": low, "high": high,
        "p_value": (1 + (permuted >= rate - 1e-12).sum()) / (1 + len(permuted)),
    }  # fmt: skip
    return {name: round(float(value), 4) for name, value in numbers.items()}


def over_chance(judged: Judged, successes: np.ndarray) -> np.ndarray:
    """(n,) each prompt's share in the effect: its mean is the success rate less chance.

    A prompt counts as one that is read and as one that judges: own − row mean − column mean + mean of all, the means
    without own readings (and within the category), so that an interval over prompts covers both.
    """
    table, related = successes.mean(1), judged.related
    others = np.where(related, table, 0)
    rows, columns = (others.sum(axis) / related.sum(axis) for axis in (1, 0))
    alike = related | np.eye(len(table), dtype=bool)
    return table.diagonal() - rows - columns + alike @ rows / alike.sum(1)


def gain(judged: Judged, more: np.ndarray, less: np.ndarray, against: Judged | None = None) -> dict[str, float]:
    """How much more over chance one way reads than another, on the same prompts, with a 95 % interval.

    Args:
        more, less: (n, layers, n) successes of the two ways; `less` of `against`, if that is another table.
    """
    difference = over_chance(judged, more) - over_chance(against or judged, less)
    low, high = _interval(difference)
    return {"gain": round(float(difference.mean()), 4), "low": round(low, 4), "high": round(high, 4)}


def chosen_on_half(
    judged: Judged, which: Sequence[bool], threshold: float = THRESHOLD, splits: int = 200
) -> tuple[np.ndarray, pd.Series]:
    """One try instead of the best of many: the one with the largest effect on half of the prompts, on the other half.

    Returns:
        (n, layers, n) successes of each prompt while it was in the other half, averaged over seeded halvings; the
        share of halvings that each amplifier was chosen in.
    """
    which = np.flatnonzero(which)
    by_layer = judged.cosines[:, :, which] > threshold  # (n, layers, tries, n)
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
    """McNemar's exact test per layer of two ways on the same prompts, with Holm's correction over the layers.

    Args:
        more, less: (n, layers, n) bool.

    Returns:
        Columns layer, only_more, only_less (prompts that one way reads and the other doesn't), p_value, p_holm.
    """
    first, second = (np.einsum("ili->il", one) for one in (more, less))
    table = pd.DataFrame(
        {"layer": layers, "only_more": (first & ~second).sum(0), "only_less": (~first & second).sum(0)}
    )
    both, neither = (first & second).sum(0), (~first & ~second).sum(0)
    cells = zip(both, table["only_more"], table["only_less"], neither, strict=True)
    table["p_value"] = [mcnemar([[a, b], [c, d]], exact=True).pvalue for a, b, c, d in cells]
    table["p_holm"] = multipletests(table["p_value"], method="holm")[1]
    return table.round({"p_value": 6, "p_holm": 6})


def by_threshold(
    judged: Judged, which: Sequence[bool], thresholds: Sequence[float] = tuple(np.arange(0, 0.92, 0.02).round(2))
) -> pd.DataFrame:
    """Success and chance as functions of the threshold; `.attrs["area"]` is the area between them, per unit of cosine.

    Returns:
        Columns threshold, rate, null, null_low, null_high (95 % of all rotations).
    """
    best = judged.cosines[:, :, np.asarray(which)].max(2)  # (n, layers, n)
    n, lines = len(best), []
    i = np.arange(n)
    for threshold in thresholds:
        table = (best > threshold).mean(1)
        rotated = np.array([table[i, (i + k) % n].mean() for k in range(n)])
        low, high = np.quantile(rotated[1:], [0.025, 0.975], method="inverted_cdf")
        lines.append((threshold, rotated[0], rotated[1:].mean(), low, high))
    table = pd.DataFrame(lines, columns=["threshold", "rate", "null", "null_low", "null_high"])
    table.attrs["area"] = round(float(np.trapezoid(table["rate"] - table["null"], table["threshold"])), 4)
    return table


def _groups(judged: Judged) -> list[np.ndarray]:
    """Indices of the prompts of each category; of all where there are none."""
    names = np.array(judged.categories or [""] * len(judged.prompts))
    return [np.flatnonzero(names == name) for name in dict.fromkeys(names.tolist())]


def _rotations(judged: Judged) -> Iterator[np.ndarray]:
    """(n,) orders in which each prompt's readings are judged by the k-th next one of its group, for every k ≠ 0."""
    groups = _groups(judged)
    for k in range(1, min(map(len, groups))):
        order = np.arange(len(judged.prompts))
        for group in groups:
            order[group] = np.roll(group, -k)
        yield order


def _permutations(judged: Judged) -> np.ndarray:
    """(RESAMPLES, n) random orders of the prompts, within their groups; the same ones for every table of a size."""
    rng, orders = np.random.default_rng(0), np.empty((RESAMPLES, len(judged.prompts)), dtype=int)
    for group in _groups(judged):
        orders[:, group] = rng.permuted(np.tile(group, (RESAMPLES, 1)), axis=1)
    return orders


def _embedded(texts: Sequence[str]) -> np.ndarray:
    """(n, 384) sentence embeddings; a text is embedded once a process, since a table is judged in many ways."""
    if new := sorted({*texts} - _known.keys()):
        _known.update(zip(new, embed(new), strict=True))
    return np.stack([_known[text] for text in texts])


def _interval(values: np.ndarray) -> tuple[float, float]:
    """95 % interval of a mean over prompts."""
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    found = bootstrap((values,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(0))
    return float(found.confidence_interval.low), float(found.confidence_interval.high)
