"""What `can_it_speak` asks a model beside its readings: texts, norms, speed; and how texts are judged.

Heavy imports stand on top: this file is imported when there is something to measure, never with the experiments.
"""

import math
import resource
import sys
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch

from ..engine.activations import capture, capture_batch
from ..engine.interpret import interpret
from ..engine.plain import in_plain_text, write_after
from ..engine.prompt import PatchedPrompt
from ..judging.chance import band, others, rotation_means
from ..judging.counts import success_counts
from ..judging.judge import Judge, is_echo
from ..models.load import LanguageModel
from ..words.components import EVALUATED, MLP_GRID
from ..words.target import TargetPrompt

DRAWS = 3  # random vectors


# Texts


def describe_named(
    lm: LanguageModel, entities: Sequence[str], target_prompt: TargetPrompt, max_new_tokens: int
) -> list[str]:
    """Return what the model writes when each entity stands in the target prompt as plain text, as the placeholder.

    Readings of the entities' vectors can be compared with it.

    Raises:
        InputError: the target prompt doesn't end in its placeholder.
    """
    return write_after(lm, in_plain_text(lm, entities, target_prompt), max_new_tokens)


def null_readings(
    lm: LanguageModel, norm: float, target_prompt: TargetPrompt, max_new_tokens: int
) -> list[tuple[str, str]]:
    """Return what the model writes with nothing, zeros and random vectors in place of the placeholder, at layer 0.

    Args:
        norm: of the random vectors: that of the vectors which they stand for.

    Returns:
        (component, text): `none` and `zero` once, `random` for seeds 0, 1, …
    """
    unpatched = capture(lm, target_prompt.text)["hidden_state"][0, -1].float().cpu()
    vectors = [unpatched, torch.zeros(lm.width)]
    for seed in range(DRAWS):
        drawn = torch.randn(lm.width, generator=torch.Generator().manual_seed(seed))
        vectors.append(norm * drawn / drawn.norm())
    texts = interpret(lm, torch.stack(vectors), 0, target_prompt, max_new_tokens)
    return list(zip(["none", "zero", *["random"] * DRAWS], texts, strict=True))


# Judged


def judge_named(
    entities: Mapping[str, str],
    texts: Sequence[str],
    target_prompt: TargetPrompt,
    judge: Judge,
    followed: Sequence[str] = (),
) -> pd.DataFrame:
    """Judge what the model writes of entities without a vector.

    Args:
        entities: name -> its true description.
        texts: what it writes of each in plain text at the placeholder's place (text only).
        followed: what it writes after each name by itself (continuation only), where that is known.

    Returns:
        Columns entity, gold, text (first item), similarity to the gold description, described (above the threshold,
        and not an echo); and of what follows, `continuation` and `continuation described`. `.attrs["by_chance"]`: how
        many would be described if each text were judged by another entity's gold description, one that says something
        else, the mean and the 97.5 % point over all rotations; `.attrs["continuation_by_chance"]` likewise.
    """
    table = pd.DataFrame({"entity": list(entities), "gold": list(entities.values())})
    items = [target_prompt.first_item(text) for text in texts]
    cosines, described, table.attrs["by_chance"] = _described(entities, items, judge)
    table["text"], table["similarity"], table["described"] = items, cosines, described
    if followed:
        items = [target_prompt.first_item(text) for text in followed]
        _, described, table.attrs["continuation_by_chance"] = _described(entities, items, judge)
        table["continuation"], table["continuation described"] = items, described
    return table


def _described(entities: Mapping[str, str], items: Sequence[str], judge: Judge) -> tuple[list, np.ndarray, dict]:
    """Return each item's similarity to its entity's description, whether that describes it, and chance."""
    echoes = np.array([is_echo(item, entity) for item, entity in zip(items, entities, strict=True)])
    truths = list(entities.values())
    cosines = judge.embed(items) @ judge.embed(truths).T  # (entities, descriptions)
    described = (cosines > judge.threshold) & ~echoes[:, None]
    by_chance = len(truths) * rotation_means(described, others(truths))
    chance = {"mean": round(float(by_chance.mean()), 2), "high": math.ceil(band(by_chance)[1] - 1e-9)}
    return [round(float(cosine), 3) for cosine in cosines.diagonal()], described.diagonal(), chance


def judge_readings(rows: pd.DataFrame, entities: Mapping[str, str], judge: Judge) -> pd.DataFrame:
    """Count the entities read per layer: the first item is similar to the gold description, and not an echo."""
    echoes = [is_echo(item, prompt) for item, prompt in zip(rows["first item"], rows["source prompt"], strict=True)]
    judged = rows.assign(result=rows["first item"], status=rows["status"].mask(echoes, "echo"))
    return success_counts(judged, judge, gold=entities)[0]


# Measured


def norms_by_layer(lm: LanguageModel, prompts: Sequence[str], target_prompt: TargetPrompt) -> pd.DataFrame:
    """Return the norms that amplifiers are chosen by.

    Returns:
        Columns layer, hidden_state and mlp_output (medians over the prompts' last tokens), and placeholder (of the
        placeholder's own hidden state, which a vector replaces).
    """
    captured, columns = capture_batch(lm, prompts), {}
    for component in ("hidden_state", "mlp_output"):
        norms = [activations[component][:, -1].float().norm(dim=-1).cpu() for activations in captured]
        columns[component] = torch.stack(norms).median(0).values.tolist()
    columns["placeholder"] = PatchedPrompt(lm, target_prompt, 1).placeholder_norms.tolist()
    return pd.DataFrame({"layer": range(lm.num_layers)} | columns)


def rho_by_layer(norms: pd.DataFrame, amplifiers: Sequence[float] = MLP_GRID) -> pd.DataFrame:
    """Return ρ = ‖α·v‖ / ‖the placeholder's own hidden state‖ of typical vectors, for the paper's amplifiers (§4.1).

    Returns:
        Columns component, target (MLP outputs into the same layer, hidden states into layer 0), layer, amplifier, rho.
    """
    replaced = norms["placeholder"]
    parts = [
        pd.DataFrame(
            {
                "component": component,
                "target": str(target),
                "layer": norms["layer"],
                "amplifier": amplifier,
                "rho": amplifier * norms[component] / (replaced if target == "same" else replaced.iloc[target]),
            }
        )
        for component, target in EVALUATED.items()
        for amplifier in amplifiers
    ]
    return pd.concat(parts, ignore_index=True)


def cost(lm: LanguageModel, rows: int, seconds: float) -> dict[str, float]:
    """Return the speed of reading so many rows in so many seconds, and the memory used so far, at most."""
    if lm.device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(lm.device)
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"rows per second": rows / max(seconds, 0.01), "GiB at most": peak / 2**30}
