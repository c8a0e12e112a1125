"""Prompts interpreted per source layer, beside chance (paper §4.1, Figure 3)."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from .. import InputError
from ..words.methods import METHODS
from .chance import band, rotated
from .judge import Judge, other_prompts


def success_counts(
    rows: pd.DataFrame,
    judge: Judge | None = None,
    gold: Mapping[str, str] | None = None,
    others: Sequence[str] = (),
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Count the prompts of which a reading is above the judge's threshold, per component, method and layer.

    Chance: the same readings scored against other prompts, over all rotations.

    Args:
        rows: in the row schema; scores aren't needed. A failed row is a try that didn't succeed.
        gold: prompt -> the description that its readings are judged by, instead of by the prompt.
        others: what the readings of a single prompt are scored against instead of rotations.

    Returns:
        per layer: component, target (what is patched), method, layer, prompts, tries (the most readings of one
            prompt), interpreted, low, high (95 % Wilson interval), null_mean, null_low, null_high (2.5 and 97.5 %
            points over the rotations).
        overall: the same sums over all layers, without tries and interval, with p_value, the share of rotations
            (the real pairing included) that do at least as well.

    Raises:
        InputError: a single prompt without others; several target layers or target prompts of a component.
    """
    judge = judge or Judge()
    prompts = rows["source prompt"].unique()
    truths = list(prompts) if gold is None else [gold[prompt] for prompt in prompts]
    if len(prompts) == 1:
        truths += other_prompts(prompts[0], others)
    if len(truths) < 2:
        raise InputError("source prompts", list(prompts), "a rotation null needs at least two")
    cosines = judge.embed(rows["result"].tolist()) @ judge.embed(truths).T  # (rows, truths)
    failed = rows.get("status", pd.Series("ok", rows.index)) != "ok"
    cosines[failed.to_numpy()] = -1.0
    prompt_of = pd.Categorical(rows["source prompt"], categories=prompts).codes
    n = len(prompts)

    per_layer, overall = [], []
    for component in rows["component"].unique():
        for method in METHODS.values():
            chosen = (method.choose(rows) & (rows["component"] == component)).to_numpy()
            if not chosen.any():
                continue
            target, total = _target(component, rows[chosen]), np.zeros(len(truths), dtype=int)
            layers = np.unique(rows["layer"][chosen])
            for layer in layers:
                part = chosen & (rows["layer"] == layer).to_numpy()
                best = np.full((prompt_of[part].max() + 1, len(truths)), -1.0)  # (prompt that was read, judge)
                np.maximum.at(best, prompt_of[part], cosines[part])
                counts = (rotated(best) > judge.threshold).sum(1)
                total += counts
                interval = binomtest(int(counts[0]), n).proportion_ci(method="wilson")
                per_layer.append(
                    {
                        "component": component,
                        "target": target,
                        "method": method.name,
                        "layer": layer,
                        "prompts": n,
                        "tries": np.bincount(prompt_of[part]).max(),
                        "interpreted": counts[0],
                        "low": round(n * interval.low, 2),
                        "high": round(n * interval.high, 2),
                        **_null(counts[1:]),
                    }
                )
            overall.append(
                {
                    "component": component,
                    "method": method.name,
                    "pairs": n * len(layers),
                    "interpreted": int(total[0]),
                    **_null(total[1:]),
                    "p_value": round(float((total >= total[0]).mean()), 4),
                }
            )
    return pd.DataFrame(per_layer), pd.DataFrame(overall)


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


def _null(counts: np.ndarray) -> dict[str, float]:
    low, high = band(counts)
    return {"null_mean": round(float(counts.mean()), 2), "null_low": int(low), "null_high": int(high)}
