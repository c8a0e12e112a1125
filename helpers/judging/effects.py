"""How large an effect is: successes beside the same readings judged by other prompts, with intervals and tests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.special import comb
from scipy.stats import bootstrap
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from .. import InputError
from ..words.components import GRIDS
from ..words.methods import METHODS, Method
from .chance import RESAMPLES, band, by_chance, drawn_means, others, permuted_means, rotation_means
from .judge import THRESHOLD, Judge, is_echo
from .score import first_items

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
        truths: (n,) what each prompt's readings should say: its description, or the prompt.
        threshold: a higher cosine is a success.
        categories: (n,) each prompt's; empty where they aren't known.
    """

    prompts: tuple[str, ...]
    layers: tuple[int, ...]
    tries: pd.DataFrame
    cosines: np.ndarray
    chosen: Mapping[str, np.ndarray]
    truths: tuple[str, ...]
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

    def others(self, null: str = "any") -> np.ndarray:
        """Return whom each prompt's chance comes from, (n, n) bool, for a null of `chance.NULLS`."""
        return others(self.truths, self.categories, null)

    @property
    def nulls(self) -> tuple[str, ...]:
        """The nulls that each effect is told by: any other prompt, and others of its category where they are known."""
        return ("any", "same") if self.categories and self.others("same").any() else ("any",)

    @property
    def groups(self) -> list[np.ndarray]:
        """Indices of the prompts of each category."""
        names = np.array(self.categories)
        return [np.flatnonzero(names == name) for name in dict.fromkeys(self.categories)]


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
        categories: source prompt -> category; if all have one, effects are compared with others of the category, too.

    Raises:
        InputError: several components; fewer than two prompts; a reading that is missing, or there twice.
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
    kinds = tuple((categories or {}).get(prompt, "") for prompt in prompts)
    kinds = kinds if all(kinds) else ()

    items = first_items(rows)
    truths = [by_gold[prompt] for prompt in prompts] if by_gold else list(prompts)
    if len(set(truths)) < 2:
        raise InputError("gold", truths[0], "chance needs at least two different descriptions")
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
    return Judged(prompts, layers, tries, judged, chosen, tuple(truths), judge.threshold, kinds)


def effect(judged: Judged, successes: np.ndarray, readers: np.ndarray | None = None) -> dict[str, float]:
    """Compare a success rate over (prompt, layer) pairs with chance: the same readings, judged by other prompts.

    Args:
        successes: (n, layers, n), of `judged`; each prompt by its own truth on the diagonal. Or any other number per
            pair, as its mean.
        readers: (n,) bool, the prompts whose readings count; all if left out. All of them judge.

    Returns:
        `beside_chance` by any other prompt; where categories are known, the same by others of the category, under
        names that end in " same".
    """
    table = successes.mean(1)
    numbers = beside_chance(table, judged.others(), readers=readers)
    if "same" in judged.nulls:
        within = beside_chance(table, judged.others("same"), judged.groups, readers)
        numbers |= {f"{name} same": value for name, value in within.items()}
    return numbers


def beside_chance(
    table: np.ndarray,
    allowed: np.ndarray,
    groups: Sequence[np.ndarray] | None = None,
    readers: np.ndarray | None = None,
    truths_repeat: bool = False,
) -> dict[str, float]:
    """Compare the mean of a table's diagonal with chance: the mean of the other prompts' judgements.

    Args:
        table: (n, n) what prompt i's readings give when prompt j judges them.
        allowed: (n, n) bool, whom a prompt's chance comes from (`chance.others`).
        groups: indices of prompts that may judge each other; of all if left out.
        readers: (n,) bool, the prompts whose readings count; all that have others if left out.
        truths_repeat: whether many prompts have the same truth (`chance.drawn_means`).

    Returns:
        All empty (NaN) where no reader has others. rate, null: real and by chance; null_low, null_high: 95 % of all
        rotations of the prompts, or of random pairings within groups, or where truths repeat of random others; effect =
        rate − null, with its 95 % interval (low, high; bootstrap over prompts, so that a prompt's layers count together,
        and it counts as a judge, too); p_value that it makes no difference whose prompt judges a reading (permutations);
        prompts, the number of readers.
    """
    readers = allowed.any(1) if readers is None else readers & allowed.any(1)
    if not readers.any():
        names = "rate", "null", "null_low", "null_high", "effect", "low", "high", "p_value"
        return dict.fromkeys(names, np.nan) | {"prompts": 0}
    counted, rate = allowed & readers[:, None], table.diagonal()[readers].mean()
    share = shares_in_effect(table, allowed, readers)
    low, high = _interval(share)
    whole = groups is None or len(groups) == 1
    if truths_repeat:
        by_pairing = drawn_means(table, counted)
    else:
        by_pairing = rotation_means(table, counted) if whole else permuted_means(table, counted, groups)
    null_low, null_high = band(by_pairing)
    exchanged = permuted_means(table, np.broadcast_to(readers[:, None], table.shape), groups)
    numbers = {
        "rate": rate, "null": rate - share.mean(), "null_low": null_low, "null_high": null_high,
        "effect": share.mean(), "low": low, "high": high,
        "p_value": (1 + (exchanged >= rate - 1e-12).sum()) / (1 + len(exchanged)),
    }  # fmt: skip
    return {name: round(float(value), 4) for name, value in numbers.items()} | {"prompts": int(readers.sum())}


def shares_in_effect(table: np.ndarray, allowed: np.ndarray, readers: np.ndarray | None = None) -> np.ndarray:
    """Return each prompt's share in the effect, (n,): their mean is the mean of the diagonal less chance.

    A prompt counts as a reader, by how much better its own truth judges its readings than the others' do; and as a
    judge, by how much more it finds in others' readings than their other judges do. So an interval over the shares
    covers both.

    Args:
        table, allowed, readers: as of `beside_chance`.
    """
    readers = allowed.any(1) if readers is None else readers & allowed.any(1)
    chance, counted = by_chance(table, allowed), allowed & readers[:, None]
    reads = np.where(readers, table.diagonal() - chance, 0)
    judges = (counted * (table - chance[:, None]) / np.maximum(allowed.sum(1), 1)[:, None]).sum(0)
    mean = reads.sum() / readers.sum()
    return mean + (np.where(readers, reads - mean, 0) - judges) * len(table) / readers.sum()


def gain(judged: Judged, more: np.ndarray, less: np.ndarray, against: Judged | None = None) -> dict[str, float]:
    """Compare how much two ways read over chance, on the same prompts, with a 95 % interval.

    Args:
        more, less: (n, layers, n) successes of the two ways; `less` of `against`, if that is another table.

    Returns:
        gain, low, high; where categories are known, the same over chance of the category ("gain same", …).

    Raises:
        InputError: the tables are of other prompts, or of the same in another order.
    """
    if against and against.prompts != judged.prompts:
        why = "expected the same prompts in the same order in both tables"
        raise InputError("rows", f"{len(judged.prompts)} and {len(against.prompts)} prompts", why)
    numbers = {}
    for null in judged.nulls:
        allowed, theirs = judged.others(null), (against or judged).others(null)
        end = "" if null == "any" else f" {null}"
        compared = gain_of_tables(more.mean(1), less.mean(1), allowed, theirs)
        numbers |= {name + end: value for name, value in compared.items()}
    return numbers


def gain_of_tables(
    more: np.ndarray, less: np.ndarray, allowed: np.ndarray, theirs: np.ndarray | None = None
) -> dict[str, float]:
    """Compare the means of two tables' diagonals over chance: gain, and its 95 % interval low, high.

    Args:
        more, less: (n, n) as of `beside_chance`, of the same prompts.
        allowed: (n, n) bool, whom chance comes from; of `less`, `theirs` if they are others.
    """
    difference = shares_in_effect(more, allowed) - shares_in_effect(less, allowed if theirs is None else theirs)
    values = zip(("gain", "low", "high"), (difference.mean(), *_interval(difference)), strict=True)
    return {name: round(float(value), 4) for name, value in values}


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
    hits, allowed = by_layer.mean(1), judged.others()
    n, rng = len(judged.prompts), np.random.default_rng(0)
    total, seen, chosen = np.zeros((n, len(judged.layers), n)), np.zeros(n), np.zeros(len(which))
    for _ in range(splits):
        order = rng.permutation(n)
        for half, other in ((order[: n // 2], order[n // 2 :]), (order[n // 2 :], order[: n // 2])):
            among = allowed[np.ix_(half, half)]
            effects = [
                (table.diagonal() - by_chance(table, among)).mean()
                for table in (hits[half, number][:, half] for number in range(len(which)))
            ]
            best = int(np.argmax(effects))
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
    allowed, lines = judged.others(), []
    for threshold in thresholds:
        table = (best > threshold).mean(1)
        null = by_chance(table, allowed).mean()
        lines.append((threshold, table.diagonal().mean(), null, *band(rotation_means(table, allowed))))
    table = pd.DataFrame(lines, columns=["threshold", "rate", "null", "null_low", "null_high"])
    table.attrs["area"] = round(float(np.trapezoid(table["rate"] - table["null"], table["threshold"])), 4)
    return table


def on_grid(rows: pd.DataFrame, component: str, layers: Sequence[int] | None = None) -> pd.DataFrame:
    """Return the rows of a component on the grid on which methods are compared (`words.components.GRIDS`).

    Raises:
        InputError: an amplifier of the grid wasn't read.
    """
    read = rows[(rows["component"] == component) & (rows["layer"].isin(layers) if layers is not None else True)]
    if missing := set(GRIDS[component]) - set(read["amplification value"]):
        why = f"the readings of {component} lack {sorted(missing)}; methods are compared on {GRIDS[component]}"
        raise InputError("amplifiers", sorted(set(read["amplification value"])), why)
    return read[read["amplification value"].isin(GRIDS[component])]


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
