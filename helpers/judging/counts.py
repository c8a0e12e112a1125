"""Prompts interpreted per source layer, beside chance (paper §4.1, Figure 3)."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from .. import InputError
from ..words.methods import METHODS, Method
from ..words.prompts import other_prompts
from . import chance
from .judge import Judge
from .rules import rules_for


def success_counts(
    rows: pd.DataFrame,
    judge: Judge | None = None,
    gold: Mapping[str, str] | None = None,
    others: Sequence[str] = (),
    categories: Mapping[str, str] | None = None,
    methods: Iterable[Method] = tuple(METHODS.values()),
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Count the prompts of which a reading is above the judge's threshold, per component, method and layer.

    Chance: the same readings judged by other prompts, those with the same description left out.

    Args:
        rows: in the row schema; scores aren't needed. A failed row is a try that didn't succeed.
        gold: prompt -> the description that its readings are judged by, instead of by the prompt.
        others: what the readings of a single prompt are scored against instead of by other prompts.
        categories: source prompt -> category, for chance of others of the category.
        methods: that choose among the readings of a vector; each has the columns in `rows` that it looks at.

    Returns:
        per layer: component, target (what is patched), method, layer, prompts, tries (the most readings of one
            prompt), interpreted, low, high (95 % Wilson interval), null_mean, null_low, null_high (2.5 and 97.5 %
            points over the rotations), with categories same_mean (of the prompts that have others in their category,
            scaled to all prompts).
        overall: the same sums over all layers, without tries and interval, with p_value, the share of rotations
            (the real pairing included) that do at least as well.

    Raises:
        InputError: a single prompt without others, or all with the same description; several target layers or target
            prompts of a component.
    """
    judge = judge or Judge()
    prompts = rows["source prompt"].unique()
    truths = list(prompts) if gold is None else [gold[prompt] for prompt in prompts]
    if len(prompts) == 1:
        truths += other_prompts(prompts[0], others)
    if len(set(truths)) < 2:
        raise InputError("source prompts", list(prompts), "chance needs at least two, with different descriptions")
    cosines = judge.embedded(rows["result"].tolist()) @ judge.embedded(truths).T  # (rows, truths)
    failed = rows.get("status", pd.Series("ok", rows.index)) != "ok"
    cosines[failed.to_numpy()] = -1.0
    prompt_of = pd.Categorical(rows["source prompt"], categories=prompts).codes
    n = len(prompts)
    allowed = {"any": chance.others(truths)[:n]}
    if categories and len(truths) == n and all(prompt in categories for prompt in prompts):
        allowed["same"] = chance.others(truths, [categories[prompt] for prompt in prompts], "same")

    per_layer, overall = [], []
    for component in rows["component"].unique():
        for method in methods:
            chosen = (method.choose(rows) & (rows["component"] == component)).to_numpy()
            if not chosen.any():
                continue
            target, total = _target(component, rows[chosen]), np.zeros((n, len(truths)), dtype=int)
            layers = np.unique(rows["layer"][chosen])
            for layer in layers:
                part = chosen & (rows["layer"] == layer).to_numpy()
                best = np.full((n, len(truths)), -1.0)  # (prompt that was read, judge)
                np.maximum.at(best, prompt_of[part], cosines[part])
                table = best > judge.threshold
                total += table
                count = int(table.diagonal().sum())
                interval = binomtest(count, n).proportion_ci(method="wilson")
                per_layer.append(
                    {
                        "component": component,
                        "target": target,
                        "method": method.name,
                        "layer": layer,
                        "prompts": n,
                        "tries": np.bincount(prompt_of[part]).max(),
                        "interpreted": count,
                        "low": round(n * interval.low, 2),
                        "high": round(n * interval.high, 2),
                        **_nulls(table, allowed),
                    }
                )
            count, rotations = int(total.diagonal().sum()), n * chance.rotation_means(total, allowed["any"])
            overall.append(
                {
                    "component": component,
                    "method": method.name,
                    "pairs": n * len(layers),
                    "interpreted": count,
                    **_nulls(total, allowed),
                    "p_value": round(float((1 + (rotations >= count - 1e-9).sum()) / (1 + len(rotations))), 4),
                }
            )
    return pd.DataFrame(per_layer), pd.DataFrame(overall)


def counts_by_rule(
    rows: pd.DataFrame,
    judge: Judge | None = None,
    descriptions: Mapping[str, str] | None = None,
    others: Sequence[str] = (),
    categories: Mapping[str, str] | None = None,
    methods: Iterable[Method] = tuple(METHODS.values()),
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return `success_counts` under each rule that holds (`rules.rules_for`), with a column `judged by`."""
    rules = rules_for(rows["source prompt"].unique(), descriptions or {})
    counted = [
        [
            table.assign(**{"judged by": rule})[["judged by", *table]]
            for table in success_counts(rows, judge, truths, others, categories, methods)
        ]
        for rule, truths in rules.items()
    ]
    per_layer, overall = (pd.concat(tables, ignore_index=True) for tables in zip(*counted, strict=True))
    return per_layer, overall


def _target(component: str, rows: pd.DataFrame) -> str:
    """Return where the rows were patched: "same", a layer, or "" if a published file doesn't say."""
    if "target layer" not in rows or rows["target layer"].isna().any():
        return ""
    if (rows["target layer"] == rows["layer"]).all():
        return "same"
    targets = rows["target layer"].unique()
    if len(targets) > 1 or rows["target prompt"].nunique() > 1:
        raise InputError(f"target layer of {component}", targets.tolist(), "counts need one target layer and prompt")
    return str(targets[0])


def _nulls(table: np.ndarray, allowed: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Return the counts that chance gives, as if all prompts had been judged by their others."""
    n = len(table)
    low, high = chance.band(n * chance.rotation_means(table, allowed["any"]))
    numbers = {"null_mean": n * chance.by_chance(table, allowed["any"]).mean(), "null_low": low, "null_high": high}
    if "same" in allowed and (readers := allowed["same"].any(1)).any():
        numbers["same_mean"] = n * chance.by_chance(table, allowed["same"])[readers].mean()
    return {name: round(float(value), 2) for name, value in numbers.items()}
